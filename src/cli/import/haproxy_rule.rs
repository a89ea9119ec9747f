//! ACLs and conditions of HAProxy → rules of ours.
//!
//! ```text
//! acl api path_beg /v1      use_backend a if api !internal || { hdr(host) -i a.test }
//!         └─ Criterion ─┘                    └──────────────── Condition ──────────────┘
//! ```

use std::collections::BTreeMap;

use super::draft::{all_of, anywhere, predicate, quoted};

/// What is said of a request, as a rule of ours; or why it cannot be said.
pub(super) type Said = Result<String, String>;

/// The named ACLs of a section. Of several with one name any is enough.
#[derive(Debug, Clone, Default)]
pub(super) struct Acls {
    named: BTreeMap<String, Vec<Said>>,
}

/// What is asked with a condition, beside the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    /// All requests.
    Always,
    /// Those that came without TLS.
    WithoutTls,
    /// These.
    Rule(String),
}

/// Stands for `{ ssl_fc }` among the rules: none of ours can say it.
const TLS: &str = "%tls";

impl Acls {
    /// Takes over `acl NAME CRITERION [FLAGS] VALUES`, without its first word.
    ///
    /// One that cannot be said is no loss until it is used.
    pub(super) fn define(&mut self, words: &[String]) {
        if let [name, criterion @ ..] = words {
            self.named.entry(name.clone()).or_default().push(criterion_of(criterion));
        }
    }

    /// Reads `if …` or `unless …`. No words: always.
    pub(super) fn condition(&self, words: &[String]) -> Result<Condition, String> {
        let (is_negated, words) = match words.first().map(String::as_str) {
            None => return Ok(Condition::Always),
            Some("if") => (false, words.get(1..).unwrap_or_default()),
            Some("unless") => (true, words.get(1..).unwrap_or_default()),
            Some(other) => return Err(format!("`{other}` is neither `if` nor `unless`")),
        };
        let mut alternatives = Vec::new();
        let mut terms = Vec::new();
        let mut words = words.iter().peekable();
        while let Some(word) = words.next() {
            if matches!(word.as_str(), "||" | "or" | "OR") {
                alternatives.push(std::mem::take(&mut terms));
                continue;
            }
            let (is_not, name) = match word.strip_prefix('!') {
                Some("") => (true, words.next().map(String::as_str).unwrap_or_default()),
                Some(name) => (true, name),
                None => (false, word.as_str()),
            };
            let said = if name == "{" {
                let inner: Vec<String> = words.by_ref().take_while(|word| *word != "}").cloned().collect();
                criterion_of(&inner)?
            } else {
                self.named(name)?
            };
            terms.push(if is_not { negate(&said) } else { said });
        }
        alternatives.push(terms);
        if alternatives.iter().any(Vec::is_empty) {
            return Err("a condition is missing".into());
        }
        let any: Vec<String> = alternatives.iter().map(|terms| all_of(terms.iter().map(String::as_str))).collect();
        let said = any_of(&any);
        let said = if is_negated { negate(&said) } else { said };
        match said.as_str() {
            "PathPrefix(\"/\")" => Ok(Condition::Always),
            said if said == negate(TLS) => Ok(Condition::WithoutTls),
            said if said.contains(TLS) => {
                Err("whether a request came by TLS is no part of rules: give the route to the `listeners` it is for".into())
            }
            said => Ok(Condition::Rule(said.to_owned())),
        }
    }

    fn named(&self, name: &str) -> Said {
        if let Some(known) = builtin(name) {
            return Ok(known);
        }
        let alternatives = self.named.get(name).ok_or_else(|| format!("there is no ACL `{name}`"))?;
        let alternatives: Vec<String> = alternatives.iter().cloned().collect::<Result<_, _>>()?;
        Ok(any_of(&alternatives))
    }
}

fn builtin(name: &str) -> Option<String> {
    Some(match name {
        "TRUE" | "HTTP" => "PathPrefix(\"/\")".into(),
        "METH_GET" => predicate("Method", ["GET", "HEAD"]),
        "METH_CONNECT" | "METH_DELETE" | "METH_HEAD" | "METH_OPTIONS" | "METH_POST" | "METH_PUT" | "METH_TRACE" => {
            predicate("Method", [name.trim_start_matches("METH_")])
        }
        "LOCALHOST" => predicate("ClientIp", ["127.0.0.0/8", "::1/128"]),
        _ => return None,
    })
}

fn negate(said: &str) -> String {
    match said.strip_prefix('!') {
        Some(plain) if !plain.contains(" && ") && !plain.contains(" || ") => plain.to_owned(),
        _ if said.contains(" && ") || said.contains(" || ") => format!("!({said})"),
        _ => format!("!{said}"),
    }
}

fn any_of(terms: &[String]) -> String {
    terms.join(" || ")
}

/// How a value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Match {
    Exact,
    Begin,
    End,
    Regex,
    /// Between dots.
    Domain,
    /// Between slashes.
    Folder,
    Anywhere,
}

impl Match {
    fn of_suffix(suffix: &str) -> Option<Self> {
        Some(match suffix {
            "str" => Self::Exact,
            "beg" => Self::Begin,
            "end" => Self::End,
            "reg" => Self::Regex,
            "dom" => Self::Domain,
            "dir" => Self::Folder,
            "sub" => Self::Anywhere,
            _ => return None,
        })
    }

    /// As a regular expression that matches the whole text. `ignores_case` is for what tells cases apart.
    fn regex(self, value: &str, ignores_case: bool) -> String {
        let plain = regex_literal(value);
        let regex = match self {
            Self::Exact => plain,
            Self::Begin => format!("{plain}.*"),
            Self::End => format!(".*{plain}"),
            Self::Regex => anywhere(value),
            Self::Domain => format!("(?:.*[.])?{plain}(?:[.:].*)?"),
            Self::Folder => format!("(?:.*/)?{plain}(?:/.*)?"),
            Self::Anywhere => format!(".*{plain}.*"),
        };
        if ignores_case { format!("(?i){regex}") } else { regex }
    }
}

/// A text that means itself in a regular expression.
fn regex_literal(text: &str) -> String {
    let mut literal = String::with_capacity(text.len());
    for c in text.chars() {
        if "\\.+*?()|[]{}^$#&-~".contains(c) {
            literal.push('\\');
        }
        literal.push(c);
    }
    literal
}

/// `hdr_dom(host) -i example.com` → a rule.
fn criterion_of(words: &[String]) -> Said {
    let [fetch, rest @ ..] = words else { return Err("it asks for nothing".into()) };
    let fetch = fetch.split(',').next().unwrap_or_default();
    let (name, argument) = match fetch.split_once('(') {
        Some((name, rest)) => (name, rest.trim_end_matches(')')),
        None => (fetch, ""),
    };
    let (name, suffix) = match name.rsplit_once('_') {
        Some((base, suffix)) if Match::of_suffix(suffix).is_some() => (base, Match::of_suffix(suffix)),
        _ => (name, None),
    };
    let mut compare = suffix.unwrap_or(Match::Exact);
    let mut ignores_case = false;
    let mut values: Vec<&str> = Vec::new();
    let mut rest = rest.iter().map(String::as_str);
    while let Some(word) = rest.next() {
        match word {
            "-i" => ignores_case = true,
            "--" => values.extend(rest.by_ref()),
            "-m" => match rest.next() {
                Some("found") => values.clear(),
                Some(how) => compare = Match::of_suffix(how).ok_or_else(|| format!("`-m {how}` is not known"))?,
                None => return Err("`-m` says nothing".into()),
            },
            "-f" | "-M" | "-n" | "-u" => return Err(format!("`{word}` is not read: write the values into the rule")),
            value => values.push(value),
        }
    }
    match (name, argument.to_ascii_lowercase().as_str()) {
        ("always_true", _) => Ok("PathPrefix(\"/\")".into()),
        ("ssl_fc", _) => Ok(TLS.into()),
        ("hdr" | "req.hdr" | "req.fhdr", "host" | "host,1" | "host,-1") => host(compare, &values),
        ("hdr" | "req.hdr" | "req.fhdr", _) => header(argument.split(',').next().unwrap_or_default(), compare, ignores_case, &values),
        ("path" | "capture.req.uri" | "url", _) => path(compare, ignores_case, &values),
        ("method", _) => Ok(predicate("Method", values.iter().copied())),
        ("src", _) => Ok(predicate("ClientIp", values.iter().copied())),
        ("url_param" | "urlp", _) if compare == Match::Exact => {
            let key = argument.split(',').next().unwrap_or_default();
            let all: Vec<String> = values.iter().map(|value| format!("Query({}, {})", quoted(key), quoted(value))).collect();
            Ok(if all.is_empty() { predicate("Query", [key]) } else { any_of(&all) })
        }
        (name, _) => Err(format!("rules of ours know nothing of `{name}`")),
    }
}

fn host(compare: Match, values: &[&str]) -> Said {
    let all: Vec<String> = match compare {
        Match::Exact => {
            // A port in the value would be that of the listener: ours compare without.
            let hosts = values.iter().map(|value| value.split(':').next().unwrap_or_default());
            return Ok(predicate("Host", hosts));
        }
        Match::End => values
            .iter()
            .map(|value| match value.strip_prefix('.') {
                Some(domain) => predicate("Host", [format!("*.{domain}").as_str()]),
                None => predicate("HostRegexp", [compare.regex(value, false).as_str()]),
            })
            .collect(),
        _ => values.iter().map(|value| predicate("HostRegexp", [compare.regex(value, false).as_str()])).collect(),
    };
    Ok(any_of(&all))
}

fn header(name: &str, compare: Match, ignores_case: bool, values: &[&str]) -> Said {
    if values.is_empty() {
        return Ok(predicate("Header", [name]));
    }
    let all = values.iter().map(|value| {
        if compare == Match::Exact && !ignores_case {
            predicate("Header", [name, value])
        } else {
            predicate("HeaderRegexp", [name, compare.regex(value, ignores_case).as_str()])
        }
    });
    Ok(any_of(&all.collect::<Vec<_>>()))
}

fn path(compare: Match, ignores_case: bool, values: &[&str]) -> Said {
    let is_plain = !ignores_case || values.iter().all(|value| !value.contains(|c: char| c.is_alphabetic()));
    match compare {
        Match::Exact if is_plain => Ok(predicate("Path", values.iter().copied())),
        // `/` alone, or whole segments: the same as ours.
        Match::Begin if is_plain && values.iter().all(|value| *value == "/") => Ok("PathPrefix(\"/\")".into()),
        _ => {
            let all = values.iter().map(|value| predicate("PathRegexp", [compare.regex(value, ignores_case).as_str()]));
            Ok(any_of(&all.collect::<Vec<_>>()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_ascii_whitespace().map(str::to_owned).collect()
    }

    #[track_caller]
    fn check(acls: &[&str], condition: &str, expected: &str) {
        let mut all = Acls::default();
        for acl in acls {
            all.define(&words(acl));
        }
        let rule = match all.condition(&words(condition)) {
            Ok(Condition::Rule(rule)) => {
                assert!(nuncio::rule::Rule::parse(&rule).is_ok(), "{rule}");
                rule
            }
            other => format!("{other:?}"),
        };
        assert_eq!(rule, expected, "{condition}");
    }

    #[test]
    fn criteria() {
        check(&["a hdr(host) -i a.test b.test:8080"], "if a", r#"Host("a.test", "b.test")"#);
        check(&["a hdr_end(host) .a.test"], "if a", r#"Host("*.a.test")"#);
        check(&["a hdr_dom(host) -i a.test"], "if a", r#"HostRegexp("(?:.*[.])?a\\.test(?:[.:].*)?")"#);
        check(&["a hdr(host) -m beg www."], "if a", r#"HostRegexp("www\\..*")"#);
        check(&["a path /x /y"], "if a", r#"Path("/x", "/y")"#);
        check(&["a path_beg /v1"], "if a", r#"PathRegexp("/v1.*")"#);
        check(&["a path_end -i .php"], "if a", r#"PathRegexp("(?i).*\\.php")"#);
        check(&["a path_reg ^/v[0-9]+/"], "if a", r#"PathRegexp("/v[0-9]+/.*")"#);
        check(&["a method POST PUT"], "if a", r#"Method("POST", "PUT")"#);
        check(&["a src 10.0.0.0/8 192.0.2.7"], "if a", r#"ClientIp("10.0.0.0/8", "192.0.2.7")"#);
        check(&["a req.hdr(X-Debug) 1"], "if a", r#"Header("X-Debug", "1")"#);
        check(&["a hdr(X-Debug) -m found"], "if a", r#"Header("X-Debug")"#);
        check(&["a hdr(Upgrade) -i websocket"], "if a", r#"HeaderRegexp("Upgrade", "(?i)websocket")"#);
        check(&["a url_param(v) 2"], "if a", r#"Query("v", "2")"#);
    }

    #[test]
    fn conditions() {
        let acls = ["a path /a", "b path /b", "b path /c"];
        check(&acls, "if a b", r#"Path("/a") && (Path("/b") || Path("/c"))"#);
        check(&acls, "if a || !b", r#"Path("/a") || !(Path("/b") || Path("/c"))"#);
        check(&acls, "unless a", r#"!Path("/a")"#);
        check(&acls, "if ! a or { method GET }", r#"!Path("/a") || Method("GET")"#);
        check(&acls, "if METH_POST a", r#"Method("POST") && Path("/a")"#);
        check(&[], "if TRUE", "Ok(Always)");
        check(&[], "", "Ok(Always)");
        check(&[], "if !{ ssl_fc }", "Ok(WithoutTls)");
        check(&[], "unless { ssl_fc }", "Ok(WithoutTls)");
        check(&["s ssl_fc"], "if !s", "Ok(WithoutTls)");
    }

    #[test]
    fn what_cannot_be_said_says_why() {
        for (condition, expected) in [
            ("if x", "there is no ACL `x`"),
            ("if", "a condition is missing"),
            ("if { be_conn(a) gt 3 }", "know nothing of `be_conn`"),
            ("if { path -f /etc/paths }", "`-f` is not read"),
            ("if { ssl_fc } { path /a }", "by TLS"),
            ("when x", "neither"),
        ] {
            let error = Acls::default().condition(&words(condition)).unwrap_err();
            assert!(error.contains(expected), "{condition}: {error}");
        }
    }
}
