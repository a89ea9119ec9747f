//! Rules of Traefik → rules of ours. They are near: other names of some predicates, and other regular expressions.

use super::draft::{anywhere, predicate, quoted};

/// A rule of ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Translated {
    pub(super) rule: String,
    /// Whether it has a prefix, which Traefik compares letter by letter.
    pub(super) has_prefix: bool,
}

/// Rewrites a rule, of version 2 or 3 of their language.
///
/// # Errors
/// A sentence that names what has no counterpart.
pub(super) fn translate(rule: &str) -> Result<Translated, String> {
    let mut ours = Translated { rule: String::new(), has_prefix: false };
    let mut rest = rule.trim();
    if rest.is_empty() {
        return Err("it has no rule".into());
    }
    while let Some(c) = rest.chars().next() {
        if !c.is_ascii_alphabetic() {
            ours.rule.push(c);
            rest = rest.get(c.len_utf8()..).unwrap_or_default();
            continue;
        }
        let open = rest.find('(').ok_or_else(|| format!("`{rest}` has no arguments"))?;
        let (name, after) = rest.split_at_checked(open).unwrap_or_default();
        let (arguments, after) = arguments(after.get(1..).unwrap_or_default())?;
        let call = call(name.trim(), &arguments)?;
        ours.has_prefix |= name.trim() == "PathPrefix" && arguments.iter().any(|prefix| prefix.len() > 1 && !prefix.ends_with('/'));
        ours.rule.push_str(&call);
        rest = after;
    }
    Ok(ours)
}

/// The strings up to the closing parenthesis, and what follows it.
fn arguments(mut rest: &str) -> Result<(Vec<String>, &str), String> {
    let mut arguments = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', ',', '\t']);
        let mut chars = rest.chars();
        match chars.next() {
            Some(')') => return Ok((arguments, chars.as_str())),
            Some('`') => {
                let (text, after) = chars.as_str().split_once('`').ok_or("a string is not closed")?;
                arguments.push(text.to_owned());
                rest = after;
            }
            Some('"') => {
                let mut text = String::new();
                loop {
                    match chars.next().ok_or("a string is not closed")? {
                        '"' => break,
                        '\\' => text.extend(chars.next()),
                        c => text.push(c),
                    }
                }
                arguments.push(text);
                rest = chars.as_str();
            }
            _ => return Err("the arguments of a matcher are not strings".into()),
        }
    }
}

fn call(name: &str, arguments: &[String]) -> Result<String, String> {
    let all = || arguments.iter().map(String::as_str);
    let has_variables = arguments.iter().any(|argument| argument.contains('{'));
    match (name, arguments) {
        ("Host" | "Path" | "PathPrefix" | "Method", _) if !has_variables => Ok(predicate(name, all())),
        ("ClientIP", _) => Ok(predicate("ClientIp", all())),
        ("HostRegexp" | "PathRegexp", [regex]) if !is_template(regex) => Ok(predicate(name, [anywhere(regex).as_str()])),
        ("HostHeader", _) => Ok(predicate("Host", all())),
        ("Header" | "Headers", [key, value]) => Ok(format!("Header({}, {})", quoted(key), quoted(value))),
        ("HeaderRegexp" | "HeadersRegexp", [key, regex]) => Ok(format!("HeaderRegexp({}, {})", quoted(key), quoted(&anywhere(regex)))),
        ("Query", [pair]) if pair.contains('=') => {
            let (key, value) = pair.split_once('=').unwrap_or_default();
            Ok(format!("Query({}, {})", quoted(key), quoted(value)))
        }
        ("Query", [_] | [_, _]) => Ok(predicate("Query", all())),
        ("Host" | "Path" | "PathPrefix" | "HostRegexp" | "PathRegexp", _) => {
            Err(format!("`{{name:regex}}` in `{name}` is of version 2: write a HostRegexp or PathRegexp"))
        }
        _ => Err(format!("`{name}` has no counterpart among our predicates")),
    }
}

/// `{sub:[a-z]+}.a.test`, which is no regular expression.
fn is_template(regex: &str) -> bool {
    regex.match_indices('{').any(|(at, _)| regex.get(at + 1..).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphabetic())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        for (theirs, ours) in [
            ("Host(`a.test`) && (PathPrefix(`/v1/`) || Path(`/x`))", r#"Host("a.test") && (PathPrefix("/v1/") || Path("/x"))"#),
            ("Host(`a.test`,`b.test`)", r#"Host("a.test", "b.test")"#),
            ("!Header(`X-A`, `1`)", r#"!Header("X-A", "1")"#),
            ("HostRegexp(`^.+\\.a\\.test$`)", r#"HostRegexp(".+\\.a\\.test")"#),
            ("Query(`v=1`) && Method(\"GET\")", r#"Query("v", "1") && Method("GET")"#),
            ("ClientIP(`10.0.0.0/8`)", r#"ClientIp("10.0.0.0/8")"#),
        ] {
            let translated = translate(theirs).unwrap();
            assert_eq!(translated.rule, ours);
            assert!(nuncio::rule::Rule::parse(&translated.rule).is_ok(), "{ours}");
        }
        assert!(translate("PathPrefix(`/v1`)").unwrap().has_prefix && !translate("PathPrefix(`/`)").unwrap().has_prefix);
    }

    #[test]
    fn what_has_no_counterpart_says_so() {
        for (rule, expected) in [
            ("", "no rule"),
            ("Foo(`x`)", "`Foo`"),
            ("Host(a)", "not strings"),
            ("Host(`a", "not closed"),
            ("HostRegexp(`{sub:[a-z]+}.a.test`)", "version 2"),
            ("Host", "no arguments"),
        ] {
            let error = translate(rule).unwrap_err();
            assert!(error.contains(expected), "{rule}: {error}");
        }
    }
}
