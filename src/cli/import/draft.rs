//! A configuration of ours in the making: tables with where they came from, and what could not be carried over.
//!
//! Only what differs from our defaults is written. The text is made by hand, not by serde: it is for people, who go on with it.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use nuncio::config::providers::clean_name;
use nuncio::rule::Rule;
use toml::{Table, Value};

/// A line of an imported file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At {
    pub(super) file: Rc<str>,
    /// From 1 on.
    pub(super) line: usize,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// How much is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// It does not behave as it did.
    Behaviour,
    /// It does, but who reads the result should know something.
    Nothing,
}

/// Something that is not in the result, or not as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) at: At,
    pub(super) loss: Loss,
    /// The text of it.
    pub(super) what: String,
    /// Why, and what to do.
    pub(super) why: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.loss == Loss::Behaviour { "not carried over" } else { "note" };
        let shorten = |text: &str| text.chars().filter(|c| !c.is_control()).take(SHOWN_CHARS_MAX).collect::<String>();
        write!(f, "{}: {kind}: {}: {}", self.at, shorten(&self.what), self.why)
    }
}

/// How much of a text is quoted.
const SHOWN_CHARS_MAX: usize = 120;

/// The kinds of objects, in the order in which they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Section {
    Providers,
    Listeners,
    Certificates,
    Routes,
    TcpRoutes,
    Middlewares,
    Upstreams,
}

impl Section {
    fn title(self) -> &'static str {
        match self {
            Self::Providers => "providers",
            Self::Listeners => "listeners",
            Self::Certificates => "certificates",
            Self::Routes => "routes",
            Self::TcpRoutes => "tcp_routes",
            Self::Middlewares => "middlewares",
            Self::Upstreams => "upstreams",
        }
    }
}

#[derive(Debug, Clone)]
struct Object {
    name: String,
    from: String,
    table: Table,
}

/// What an import makes.
#[derive(Debug, Clone, Default)]
pub(super) struct Draft {
    objects: BTreeMap<Section, Vec<Object>>,
    findings: Vec<Finding>,
    /// The files that are imported.
    pub(super) files: Vec<Rc<str>>,
}

impl Draft {
    /// Notes what is lost.
    pub(super) fn lose(&mut self, at: &At, what: impl Into<String>, why: impl Into<String>) {
        self.find(at, Loss::Behaviour, what.into(), why.into());
    }

    /// Notes what one should know.
    pub(super) fn note(&mut self, at: &At, what: impl Into<String>, why: impl Into<String>) {
        self.find(at, Loss::Nothing, what.into(), why.into());
    }

    fn find(&mut self, at: &At, loss: Loss, what: String, why: String) {
        let finding = Finding { at: at.clone(), loss, what, why };
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// Whether nothing at all was made, and nothing found.
    pub(super) fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.findings.is_empty()
    }

    /// What was found, in the order of the text.
    pub(super) fn findings(&self) -> Vec<&Finding> {
        let mut findings: Vec<_> = self.findings.iter().collect();
        findings.sort_by(|a, b| a.at.cmp(&b.at));
        findings
    }

    /// Whether everything behaves as it did.
    pub(super) fn is_complete(&self) -> bool {
        self.findings.iter().all(|finding| finding.loss == Loss::Nothing)
    }

    /// Adds an object under this name, or if it is taken `name-2` and so on. Gives the name that it got.
    pub(super) fn add(&mut self, section: Section, name: &str, at: &At, what: &str, table: Table) -> String {
        let name = self.free_name(section, name);
        let from = format!("{at}: {what}");
        self.objects.entry(section).or_default().push(Object { name: name.clone(), from, table });
        name
    }

    /// A name of ours that no object of the section has: `name`, or `name-2` and so on.
    pub(super) fn free_name(&self, section: Section, name: &str) -> String {
        let clean: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect();
        let clean = clean_name(clean.trim_matches('_')).map_or_else(|_| "unnamed".to_owned(), |name| name.to_string());
        let numbered = (2..).map(|number| format!("{clean}-{number}"));
        let is_free = |name: &String| !self.has(section, name);
        std::iter::once(clean.clone()).chain(numbered).find(is_free).unwrap_or(clean)
    }

    /// Whether there is an object of this name.
    pub(super) fn has(&self, section: Section, name: &str) -> bool {
        self.objects.get(&section).is_some_and(|objects| objects.iter().any(|object| object.name == name))
    }

    /// The table of an object.
    pub(super) fn table(&mut self, section: Section, name: &str) -> Option<&mut Table> {
        self.objects.get_mut(&section)?.iter_mut().find(|object| object.name == name).map(|object| &mut object.table)
    }

    /// Takes an object away.
    pub(super) fn remove(&mut self, section: Section, name: &str) -> Option<Table> {
        let objects = self.objects.get_mut(&section)?;
        let index = objects.iter().position(|object| object.name == name)?;
        Some(objects.remove(index).table)
    }

    /// Writes `new` where objects of the section have `old` under `key`.
    pub(super) fn replace(&mut self, section: Section, key: &str, old: &str, new: &str) {
        for object in self.objects.get_mut(&section).into_iter().flatten() {
            if let Some(value) = object.table.get_mut(key).filter(|value| value.as_str() == Some(old)) {
                *value = new.into();
            }
        }
    }

    /// The names of a section.
    pub(super) fn names(&self, section: Section) -> Vec<String> {
        self.objects.get(&section).into_iter().flatten().map(|object| object.name.clone()).collect()
    }

    /// The rule, if it is one. Else the loss of what it was made of is noted.
    pub(super) fn rule(&mut self, at: &At, what: &str, rule: &str) -> Option<Value> {
        match Rule::parse(rule) {
            Ok(_) => Some(rule.into()),
            Err(error) => {
                self.lose(at, what, format!("`{rule}` is no rule of ours: {}; write the route by hand", error.message));
                None
            }
        }
    }

    /// The text of the result.
    pub(super) fn render(&self, from: &str) -> String {
        let mut text = format!("# Imported from {from}. `nuncio check` says whether all files that it names are there.\n");
        for (section, objects) in &self.objects {
            for Object { name, from, table } in objects {
                let key = Value::from(name.as_str()).to_string();
                let is_bare = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
                let key = if is_bare { name } else { &key };
                let from: String = from.chars().filter(|c| !c.is_control()).collect();
                text.push_str(&format!("\n# {from}\n[{}.{key}]\n", section.title()));
                for (key, value) in table {
                    text.push_str(&format!("{key} = {}\n", value_text(value)));
                }
            }
        }
        text
    }
}

/// A value on one line; a longer array with one element on each.
fn value_text(value: &Value) -> String {
    match value {
        Value::Array(elements) if elements.len() > 2 => {
            let lines: Vec<String> = elements.iter().map(|element| format!("    {element},\n")).collect();
            format!("[\n{}]", lines.concat())
        }
        value => value.to_string(),
    }
}

/// A table of these fields.
pub(super) fn table<const N: usize>(fields: [(&str, Value); N]) -> Table {
    fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The same as a value.
pub(super) fn inline<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Table(table(fields))
}

/// An endpoint, as just its address if that says all.
pub(super) fn endpoint_value(address: &str, weight: i64, is_backup: bool) -> Value {
    let mut fields = table([("address", address.into())]);
    if weight != 1 {
        fields.insert("weight".into(), weight.into());
    }
    if is_backup {
        fields.insert("backup".into(), true.into());
    }
    if fields.len() == 1 { address.into() } else { Value::Table(fields) }
}

/// A string in a rule.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// `Host("a", "b")`.
pub(super) fn predicate<'a>(name: &str, arguments: impl IntoIterator<Item = &'a str>) -> String {
    let arguments: Vec<String> = arguments.into_iter().map(quoted).collect();
    format!("{name}({})", arguments.join(", "))
}

/// All of these rules at once.
pub(super) fn all_of<'a>(rules: impl IntoIterator<Item = &'a str>) -> String {
    let rules: Vec<&str> = rules.into_iter().collect();
    let wrap = |rule: &&str| if rules.len() > 1 && has_alternatives(rule) { format!("({rule})") } else { (*rule).to_owned() };
    rules.iter().map(wrap).collect::<Vec<_>>().join(" && ")
}

/// Whether a rule has `||` outside of parentheses and strings.
fn has_alternatives(rule: &str) -> bool {
    let (mut depth, mut is_quoted, mut is_escaped) = (0, false, false);
    for (at, c) in rule.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            _ if is_quoted => {}
            '(' => depth += 1,
            ')' => depth -= 1,
            '|' if depth == 0 && rule.get(at..).is_some_and(|rest| rest.starts_with("||")) => return true,
            _ => {}
        }
    }
    false
}

/// A regular expression that looks anywhere in a text, as one of ours, which matches the whole of it.
pub(super) fn anywhere(regex: &str) -> String {
    if regex.contains('|') {
        return format!(".*(?:{regex}).*");
    }
    let start = if regex.starts_with('^') { "" } else { ".*" };
    let is_end = regex.ends_with('$') && !regex.ends_with("\\$");
    let end = if is_end { "" } else { ".*" };
    let regex = regex.strip_prefix('^').unwrap_or(regex);
    let regex = if is_end { regex.strip_suffix('$').unwrap_or(regex) } else { regex };
    format!("{start}{regex}{end}")
}

/// A duration as our configuration writes it.
pub(super) fn duration(duration: std::time::Duration) -> Value {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let text = if millis % 1_000 == 0 { format!("{}s", millis / 1_000) } else { format!("{millis}ms") };
    text.into()
}

/// An address to listen on, of the forms that proxies write: `80`, `*:80`, `:80`, `0.0.0.0:80`, `[::]:80`, `:::80`, `localhost:80`.
pub(super) fn listen_address(text: &str) -> Option<String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port),
        None => ("", text),
    };
    port.parse::<u16>().ok()?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address = match host {
        "" | "*" => format!("0.0.0.0:{port}"),
        "::" => format!("[::]:{port}"),
        "localhost" => format!("127.0.0.1:{port}"),
        host => match host.parse::<std::net::IpAddr>().ok()? {
            std::net::IpAddr::V4(ip) => format!("{ip}:{port}"),
            std::net::IpAddr::V6(ip) => format!("[{ip}]:{port}"),
        },
    };
    Some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_every_form() {
        for (text, expected) in [
            ("80", Some("0.0.0.0:80")),
            ("*:80", Some("0.0.0.0:80")),
            (":80", Some("0.0.0.0:80")),
            ("127.0.0.1:80", Some("127.0.0.1:80")),
            ("[::]:80", Some("[::]:80")),
            (":::80", Some("[::]:80")),
            ("[fd00::1]:80", Some("[fd00::1]:80")),
            ("localhost:80", Some("127.0.0.1:80")),
            ("*:80-90", None),
            ("/run/x.sock", None),
            ("web:80", None),
        ] {
            assert_eq!(listen_address(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_regular_expression_that_looks_anywhere() {
        for (regex, expected) in
            [("^/a", "/a.*"), ("\\.php$", ".*\\.php"), ("^/a$", "/a"), ("b", ".*b.*"), ("^/a|/b$", ".*(?:^/a|/b$).*"), ("a\\$", ".*a\\$.*")]
        {
            assert_eq!(anywhere(regex), expected);
        }
    }

    #[test]
    fn alternatives_are_put_in_parentheses_among_others() {
        assert_eq!(all_of(["A(\"x\") || B()"]), "A(\"x\") || B()");
        assert_eq!(all_of(["A(\") || \\\"\")", "!(B() || C())", "(B() || C())"]), "A(\") || \\\"\") && !(B() || C()) && (B() || C())");
        assert_eq!(all_of(["A() || B()", "C()"]), "(A() || B()) && C()");
    }

    #[test]
    fn names_are_ours_and_given_once() {
        let mut draft = Draft::default();
        let at = At { file: "f".into(), line: 1 };
        let mut add = |name: &str| draft.add(Section::Routes, name, &at, "x", Table::new());
        assert_eq!([add("a b"), add("a/b"), add("é"), add("")], ["a_b", "a_b-2", "unnamed", "unnamed-2"]);
    }
}
