//! Route expressions of vulcand → our rules.
//!
//! ```text
//! expression = term *( "&&" term )
//! term       = "(" expression ")" | name "(" string *( "," string ) [ "," ] ")"
//! ```
//!
//! | vulcand | ours |
//! |---|---|
//! | `Host("a")`, `Path("/a")`, `Method("GET")`, `Header("X", "a")` | the same |
//! | the same with `<name>` in it | `HostRegexp`, `PathRegexp`, `HeaderRegexp` |
//! | `HostRegexp`, `PathRegexp`, `HeaderRegexp`, which match anywhere in the subject | the same, with `.*` around it |
//! | `MethodRegexp`, `Method` with `<name>` | nothing: a problem |
//!
//! A header that is absent is empty in vulcand, so a pattern that takes the empty text takes requests without the header.
//!
//! Differs on purpose: a host's regular expression ignores case, and is not itself brought into lower case, which turns `\S` into `\s`;
//! paths are compared normalised, as they are forwarded; a header matches by any of its lines, not by the first.

use super::go_string;
use super::pattern::{self, Pattern};
use crate::config::Problem;
use crate::rule::Rule;

/// The longest expression, in bytes.
pub(super) const EXPRESSION_BYTES_MAX: usize = 16 * 1024;

/// How deep parentheses may nest.
const DEPTH_MAX: usize = 32;

/// The functions, in the order in which vulcand prefers expressions that start with them, the last one first.
const FUNCTIONS: [(&str, i32); 8] = [
    ("Header", 1),
    ("HeaderRegexp", 2),
    ("Host", 3),
    ("HostRegexp", 4),
    ("Method", 5),
    ("MethodRegexp", 6),
    ("Path", 7),
    ("PathRegexp", 8),
];

/// An expression in our language.
#[derive(Debug)]
pub(super) struct Translated {
    pub(super) rule: Rule,
    /// By the function that the expression starts with.
    pub(super) priority: i32,
}

/// Translates an expression.
///
/// # Errors
/// A problem that says what cannot be read, or not be translated.
pub(super) fn translate(expression: &str) -> Result<Translated, Problem> {
    if expression.len() > EXPRESSION_BYTES_MAX {
        let message = format!("a route expression has at most {EXPRESSION_BYTES_MAX} bytes, this one has {}", expression.len());
        return Err(Problem::error(message));
    }
    let mut parser = Parser { rest: expression, depth: 0, terms: Vec::new() };
    let parsed = parser.expression().and_then(|()| parser.end());
    parsed.map_err(|message| {
        let at = expression.len() - parser.rest.len();
        Problem::error(format!("the route expression cannot be carried over, at byte {at}: {message}"))
    })?;
    let rule = Rule::parse(&parser.terms.join(" && ")).map_err(|error| {
        let problem = Problem::error(format!("the route expression cannot be carried over: {}", error.message));
        error.help.into_iter().fold(problem, Problem::help)
    })?;
    let name = expression.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
    let priority = FUNCTIONS.iter().find(|(function, _)| *function == name).map_or(0, |(_, priority)| *priority);
    Ok(Translated { rule, priority })
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
    /// What was read, in our language.
    terms: Vec<String>,
}

impl Parser<'_> {
    fn expression(&mut self) -> Result<(), String> {
        self.term()?;
        loop {
            // In Go a line ends a statement: `&&` stands at the end of a line, not at the start of the next one.
            self.skip(false)?;
            if !self.eat("&&") {
                return Ok(());
            }
            self.term()?;
        }
    }

    fn end(&mut self) -> Result<(), String> {
        self.skip(true)?;
        match self.rest.chars().next() {
            None => Ok(()),
            Some('|') if self.rest.starts_with("||") => Err("`||` is not supported by vulcand".into()),
            Some(character) => Err(format!("expected `&&` or the end, found {character:?}")),
        }
    }

    fn term(&mut self) -> Result<(), String> {
        self.skip(true)?;
        if !self.eat("(") {
            return self.call();
        }
        if self.depth == DEPTH_MAX {
            return Err(format!("nested deeper than {DEPTH_MAX} levels"));
        }
        self.depth += 1;
        self.expression()?;
        self.depth -= 1;
        self.skip(false)?;
        if self.eat(")") { Ok(()) } else { Err("expected `&&` or `)`".into()) }
    }

    fn call(&mut self) -> Result<(), String> {
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        if !FUNCTIONS.iter().any(|(function, _)| *function == name) {
            let known = FUNCTIONS.map(|(function, _)| function).join(", ");
            return Err(format!("expected one of {known}"));
        }
        self.rest = rest;
        self.skip(false)?;
        if !self.eat("(") {
            return Err(format!("expected `(` after `{name}`"));
        }
        let arguments = self.arguments()?;
        self.terms.push(predicate(name, &arguments)?);
        Ok(())
    }

    /// The arguments and the `)` after them.
    fn arguments(&mut self) -> Result<Vec<String>, String> {
        let mut arguments = Vec::new();
        loop {
            self.skip(true)?;
            if self.eat(")") {
                return Ok(arguments);
            }
            let (argument, rest) = go_string::take(self.rest).ok_or_else(|| {
                "expected a string as Go writes it: between backquotes, or in double quotes with `\\\\` for a backslash".to_string()
            })?;
            self.rest = rest;
            arguments.push(argument);
            self.skip(false)?;
            if !self.eat(",") {
                return if self.eat(")") { Ok(arguments) } else { Err("expected `,` or `)`".into()) };
            }
        }
    }

    fn eat(&mut self, token: &str) -> bool {
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Skips space and comments; ends of lines only where `over_lines` says so.
    fn skip(&mut self, over_lines: bool) -> Result<(), String> {
        loop {
            self.rest = self.rest.trim_start_matches(|c| matches!(c, ' ' | '\t' | '\r') || (over_lines && c == '\n'));
            if self.rest.starts_with("//") {
                self.rest = self.rest.find('\n').and_then(|end| self.rest.get(end..)).unwrap_or_default();
            } else if let Some(comment) = self.rest.strip_prefix("/*") {
                self.rest = comment.split_once("*/").ok_or("the comment is not closed")?.1;
            } else {
                return Ok(());
            }
        }
    }
}

/// One call, in our language.
fn predicate(name: &str, arguments: &[String]) -> Result<String, String> {
    if arguments.iter().any(String::is_empty) {
        return Err(format!("`{name}` with an empty text"));
    }
    let field = name.trim_end_matches("Regexp");
    let (header, subject) = match (field, arguments) {
        ("Header", [header, subject]) => (format!("{}, ", quoted(header)), subject),
        ("Header", _) => return Err(format!("`{name}` takes two arguments, found {}", arguments.len())),
        (_, [subject]) => (String::new(), subject),
        _ => return Err(format!("`{name}` takes one argument, found {}", arguments.len())),
    };
    let separator = match field {
        "Host" => '.',
        "Method" => ' ',
        _ => '/',
    };
    let pattern = match name.ends_with("Regexp") {
        true => Pattern::Regexp(format!("(?s:.*)(?:{subject})(?s:.*)")),
        false => pattern::parse(subject, separator)?,
    };
    match pattern {
        Pattern::Regexp(_) if field == "Method" => Err("methods are taken one by one, not by a pattern".into()),
        Pattern::Literal(text) => Ok(format!("{field}({header}{})", quoted(&text))),
        Pattern::Regexp(regexp) => {
            // Alone first: `a)|(b` would be a regular expression between the parentheses around it.
            if name.ends_with("Regexp") && regex::Regex::new(subject).is_err() {
                return Err(format!("`{subject}` is not a regular expression"));
            }
            let term = format!("{field}Regexp({header}{})", quoted(&regexp));
            let takes_absent = field == "Header" && regex::Regex::new(&format!(r"\A(?:{regexp})\z")).is_ok_and(|regex| regex.is_match(""));
            Ok(if takes_absent { format!("(!Header({}) || {term})", header.trim_end_matches(", ")) } else { term })
        }
    }
}

/// A string of our language.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use proptest::strategy::Strategy as _;

    use super::*;

    fn check(expression: &str, rule: &str, priority: i32) {
        let translated = translate(expression).unwrap_or_else(|problem| panic!("{expression}: {problem}"));
        assert_eq!((translated.rule.text(), translated.priority), (rule, priority), "{expression}");
    }

    #[test]
    fn expressions_are_translated() {
        check(r#"Path("/a")"#, r#"Path("/a")"#, 7);
        check("Host(`LOCALHOST`) && PathRegexp(`/x/.*`)", r#"Host("LOCALHOST") && PathRegexp("(?s:.*)(?:/x/.*)(?s:.*)")"#, 3);
        check(r#"Method("GET") && Path("/a/<x>")"#, r#"Method("GET") && PathRegexp("/a/[^/]*")"#, 5);
        check("((Host(`a`)) &&\n Path(`/`,) )// x", r#"Host("a") && Path("/")"#, 0);
        check("Host(`a`) /* b */ && Path(`/`)\n", r#"Host("a") && Path("/")"#, 3);
        check(r#"PathRegexp("/a\\.b")"#, r#"PathRegexp("(?s:.*)(?:/a\\.b)(?s:.*)")"#, 8);
        check(r#"Host("<sub>.localhost")"#, r#"HostRegexp("[^\\.]*\\.localhost")"#, 3);
        check(r#"Header("Content-Type","application/<string>")"#, r#"HeaderRegexp("Content-Type", "application/[^/]*")"#, 1);
        check(r#"Header("X","<any>")"#, r#"(!Header("X") || HeaderRegexp("X", "[^/]*"))"#, 1);
        check(r#"HeaderRegexp("X","^v1$")"#, r#"HeaderRegexp("X", "(?s:.*)(?:^v1$)(?s:.*)")"#, 2);
        check(r#"Header("X","v1")"#, r#"Header("X", "v1")"#, 1);
    }

    #[test]
    fn what_vulcand_refuses_is_refused() {
        for expression in [
            "",
            "bad",
            r#"Path("/p") || Path("/p2")"#,
            "1 && 2",
            "\"literal\"",
            r#"UnknownFunction("hi")"#,
            "Path(1)",
            "Path()",
            "PathRegexp()",
            r#"Path(Path("x"))"#,
            r#"Path("")"#,
            r#"PathRegexp("[[[[")"#,
            r#"PathRegexp("a)|(b")"#,
            r#"Path("\.")"#,
            "Path(`/a`)\n&& Path(`/a`)",
            "Path(`/a`) Path(`/b`)",
            "!Path(`/a`)",
            "(Path(`/a`)",
            "Path(`/a`, `/b`)",
            "Header(`X`)",
            "Path(`/<uint8:x>`)",
        ] {
            assert!(translate(expression).is_err(), "{expression}");
        }
        let deep = format!("{}Path(`/`){}", "(".repeat(40), ")".repeat(40));
        assert!(translate(&deep).unwrap_err().message.contains("nested deeper"));
    }

    #[test]
    fn what_cannot_be_translated_says_so() {
        for expression in ["MethodRegexp(`GET|POST`)", "Method(`<x>`)", "Path(`no-slash`)", "Path(`/..`)", "Host(`a:80`)"] {
            let problem = translate(expression).unwrap_err();
            assert!(problem.message.contains("cannot be carried over"), "{}", problem.message);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_an_expression_or_a_problem(text in "[A-Za-z()&|<>\"`\\\\,./: \n*]{0,60}") {
            let _ = translate(&text);
        }

        /// A literal that vulcand takes means the same text here. One that leads above the root is asked for by no request that is let in.
        #[test]
        fn literals_keep_their_text(path in "/[a-zA-Z0-9._~-]{1,20}".prop_filter("leads above the root", |path| path != "/..")) {
            let translated = translate(&format!("Path(`{path}`)")).unwrap();
            proptest::prop_assert_eq!(translated.rule.text(), format!("Path(\"{path}\")"));
        }
    }
}
