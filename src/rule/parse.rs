//! Text → [`Expr`], by recursive descent.
//!
//! ```text
//! rule      = and *( "||" and )
//! and       = unary *( "&&" unary )
//! unary     = "!" unary | "(" rule ")" | predicate
//! predicate = name "(" string *( "," string ) ")"
//! string    = DQUOTE *( character | "\\" DQUOTE | "\\\\" ) DQUOTE      ; with escapes
//!           | "`" *character "`"                                       ; as it is: good for regular expressions, and inside TOML and JSON
//! ```
//!
//! Its work is bounded by [`RULE_BYTES_MAX`] and [`DEPTH_MAX`]; there is no backtracking.

use std::ops::Range;

use super::RuleError;
use super::expr::Expr;
use super::predicate::{Argument, PREDICATES, Syntax};
use crate::suggest;

/// The longest rule, in bytes: room for a thousand names in one `Host`.
pub(crate) const RULE_BYTES_MAX: usize = 64 * 1024;
/// How deep parentheses and `!` may nest.
pub(crate) const DEPTH_MAX: usize = 64;

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A request.
    Request,
    /// A connection, whatever is spoken on it.
    Connection,
}

/// Parses a whole rule.
pub(crate) fn parse(text: &str, subject: Subject) -> Result<Expr, RuleError> {
    if text.len() > RULE_BYTES_MAX {
        let message = format!("a rule has at most {RULE_BYTES_MAX} bytes, this one has {}", text.len());
        return Err(RuleError { message, span: 0..text.len(), help: Some("split it into several routes".into()) });
    }
    let mut parser = Parser { text, subject, position: 0, depth: 0 };
    let rule = parser.or()?;
    if parser.rest().is_empty() { Ok(rule) } else { Err(parser.expected("`&&`, `||` or the end of the rule")) }
}

struct Parser<'a> {
    text: &'a str,
    subject: Subject,
    /// Invariant: at a character boundary of `text`.
    position: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn or(&mut self) -> Result<Expr, RuleError> {
        let mut terms = vec![self.and()?];
        while self.eat_operator("||")? {
            terms.push(self.and()?);
        }
        Ok(Expr::or(terms))
    }

    fn and(&mut self) -> Result<Expr, RuleError> {
        let mut terms = vec![self.unary()?];
        while self.eat_operator("&&")? {
            terms.push(self.unary()?);
        }
        Ok(Expr::and(terms))
    }

    fn unary(&mut self) -> Result<Expr, RuleError> {
        self.skip_space();
        let start = self.position;
        if self.eat("!") {
            let term = self.nested(start, Self::unary)?;
            return Ok(Expr::Not(Box::new(term)));
        }
        if self.eat("(") {
            let inner = self.nested(start, Self::or)?;
            self.close(start..start + 1, "`&&`, `||` or `)`")?;
            return Ok(inner);
        }
        self.predicate()
    }

    fn nested(&mut self, start: usize, parse: fn(&mut Self) -> Result<Expr, RuleError>) -> Result<Expr, RuleError> {
        if self.depth == DEPTH_MAX {
            return Err(error(format!("nested deeper than {DEPTH_MAX} levels"), start..start + 1));
        }
        self.depth += 1;
        let expr = parse(self);
        self.depth -= 1;
        expr
    }

    fn predicate(&mut self) -> Result<Expr, RuleError> {
        let start = self.position;
        let name = self.word();
        if name.is_empty() || matches!(name.to_ascii_lowercase().as_str(), "and" | "or" | "not") {
            return Err(self.expected("a predicate such as `Host(\"a.com\")`"));
        }
        let name_span = start..start + name.len();
        let is_meant = |syntax: &&Syntax| syntax.name == name && syntax.about.contains(&self.subject);
        let syntax = PREDICATES.iter().find(is_meant).ok_or_else(|| unknown_predicate(name, self.subject, name_span.clone()))?;
        self.position = name_span.end;
        self.skip_space();
        if !self.eat("(") {
            return Err(self.expected(&format!("`(` after `{name}`")));
        }
        let arguments = self.arguments(self.position - 1)?;
        if !syntax.arity.contains(&arguments.len()) {
            return Err(wrong_arity(syntax, arguments.len(), start..self.position));
        }
        (syntax.build)(&arguments)
    }

    /// The arguments and the `)` after them; the `(` is at `open`.
    fn arguments(&mut self, open: usize) -> Result<Vec<Argument>, RuleError> {
        let mut arguments = Vec::new();
        self.skip_space();
        if self.eat(")") {
            return Ok(arguments);
        }
        loop {
            arguments.push(self.string()?);
            self.skip_space();
            if !self.eat(",") {
                self.close(open..open + 1, "`,` or `)`")?;
                return Ok(arguments);
            }
        }
    }

    fn string(&mut self) -> Result<Argument, RuleError> {
        self.skip_space();
        let start = self.position;
        let text = if self.eat("\"") {
            self.escaped_until_quote()
        } else if self.eat("`") {
            self.raw_until_backquote()
        } else {
            let help = self.rest().starts_with('\'').then(|| "strings stand in double quotes or backquotes".to_string());
            return Err(RuleError { help, ..self.expected("a string in double quotes or backquotes") });
        }?;
        match text {
            Some(text) => Ok(Argument { text, span: start..self.position }),
            None => Err(error("the string is not closed", start..start + 1)),
        }
    }

    /// None: there is no closing quote.
    fn escaped_until_quote(&mut self) -> Result<Option<String>, RuleError> {
        let mut text = String::new();
        while let Some(character) = self.next() {
            match character {
                '"' => return Ok(Some(text)),
                '\\' => match self.next() {
                    Some(escaped @ ('"' | '\\')) => text.push(escaped),
                    Some(other) => return Err(self.unknown_escape(other)),
                    None => return Ok(None),
                },
                other => text.push(other),
            }
        }
        Ok(None)
    }

    fn raw_until_backquote(&mut self) -> Result<Option<String>, RuleError> {
        let Some((text, _)) = self.rest().split_once('`') else { return Ok(None) };
        self.position += text.len() + 1;
        Ok(Some(text.to_string()))
    }

    /// `\` and `character` were just read.
    fn unknown_escape(&self, character: char) -> RuleError {
        let span = self.position - character.len_utf8() - 1..self.position;
        let help = "between backquotes a backslash is itself; in double quotes write `\\\\`".to_string();
        RuleError { help: Some(help), ..error("only `\\\"` and `\\\\` are escapes", span) }
    }

    /// Reads the `)` of the `(` at `open`.
    fn close(&mut self, open: Range<usize>, expected: &str) -> Result<(), RuleError> {
        self.skip_space();
        if self.eat(")") {
            Ok(())
        } else if self.rest().is_empty() {
            Err(error("`(` is not closed", open))
        } else {
            Err(self.expected(expected))
        }
    }

    /// Reads `&&` or `||`, if it stands here.
    fn eat_operator(&mut self, operator: &str) -> Result<bool, RuleError> {
        self.skip_space();
        if self.eat(operator) {
            return Ok(true);
        }
        let half = operator.split_at(1).0;
        if self.rest().starts_with(half) {
            let message = format!("`{half}` is not an operator");
            let help = Some(format!("did you mean `{operator}`?"));
            return Err(RuleError { help, ..error(message, self.position..self.position + 1) });
        }
        Ok(false)
    }

    fn eat(&mut self, token: &str) -> bool {
        let is_here = self.rest().starts_with(token);
        if is_here {
            self.position += token.len();
        }
        is_here
    }

    fn next(&mut self) -> Option<char> {
        let character = self.rest().chars().next()?;
        self.position += character.len_utf8();
        Some(character)
    }

    fn skip_space(&mut self) {
        self.position = self.text.len() - self.rest().trim_start().len();
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.position..).unwrap_or_default()
    }

    /// The letters and digits that stand here, possibly none.
    fn word(&self) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        rest.split_at(end).0
    }

    /// That something else stands here than `what`.
    fn expected(&self, what: &str) -> RuleError {
        let found = match (self.word(), self.rest().chars().next()) {
            (_, None) => return error(format!("expected {what}, found the end of the rule"), self.text.len()..self.text.len()),
            ("", Some(character)) => character.to_string(),
            (word, _) => word.to_string(),
        };
        let help = match found.to_ascii_lowercase().as_str() {
            "and" => Some("did you mean `&&`?".to_string()),
            "or" => Some("did you mean `||`?".to_string()),
            "not" => Some("did you mean `!`?".to_string()),
            _ => None,
        };
        let span = self.position..self.position + found.len();
        RuleError { help, ..error(format!("expected {what}, found `{found}`"), span) }
    }
}

fn error(message: impl Into<String>, span: Range<usize>) -> RuleError {
    RuleError { message: message.into(), span, help: None }
}

fn unknown_predicate(name: &str, subject: Subject, span: Range<usize>) -> RuleError {
    let names = || PREDICATES.iter().filter(|syntax| syntax.about.contains(&subject)).map(|syntax| syntax.name);
    let all = || format!("there are {}", names().collect::<Vec<_>>().join(", "));
    let is_of_others = PREDICATES.iter().any(|syntax| syntax.name == name);
    let (message, help) = match (subject, is_of_others) {
        (Subject::Request, true) => (format!("`{name}` asks about a connection, and this rule is about requests"), all()),
        (Subject::Connection, true) if name.starts_with("Host") => {
            let help = "of a connection the host in its TLS handshake is known: `Sni`".into();
            (format!("`{name}` asks about a request, and this rule is about connections"), help)
        }
        (Subject::Connection, true) => (format!("`{name}` asks about a request, and this rule is about connections"), all()),
        (_, false) => {
            let near = suggest::nearest(name, names()).map(|near| format!("did you mean `{near}`?"));
            (format!("unknown predicate `{name}`"), near.unwrap_or_else(all))
        }
    };
    RuleError { help: Some(help), ..error(message, span) }
}

fn wrong_arity(syntax: &Syntax, found: usize, span: Range<usize>) -> RuleError {
    let takes = match (*syntax.arity.start(), *syntax.arity.end()) {
        (1, 1) => "one argument".to_string(),
        (min, usize::MAX) => format!("at least {min} argument"),
        (min, max) if min == max => format!("{min} arguments"),
        (min, max) => format!("{min} or {max} arguments"),
    };
    error(format!("`{}` takes {takes}, found {found}", syntax.name), span)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Expr, RuleError> {
        super::parse(text, Subject::Request)
    }

    /// `offending` is the text under the caret.
    fn check_error(rule: &str, offending: &str, message: &str, help: Option<&str>) {
        let error = parse(rule).expect_err(rule);
        assert_eq!(rule.get(error.span.clone()), Some(offending), "{rule}: {error:?}");
        assert!(error.message.contains(message), "{rule}: {error:?}");
        assert_eq!(error.help.as_deref(), help, "{rule}");
    }

    #[test]
    fn accepts_the_whole_language() {
        for rule in [
            r#"Host("a.com") && PathPrefix("/v1") && !Header("X-Debug", "1") || Method("PUT")"#,
            "Host(`a.com`,`b.com`)",
            "  ! ( Host ( `a.com` ) )  ",
            "Host(`a.com`)\n  && (Path(`/a`) || Query(`k`))",
            r#"Query("k", "a \"quoted\" \\ value")"#,
            r"HeaderRegexp(`X-A`, `\d+`)",
            "!!!Method(`GET`)",
            "ClientIp(`10.0.0.0/8`, `::1`) && HostRegexp(`.*`) && PathRegexp(`/\\d+`) && Header(`X`)",
        ] {
            assert!(parse(rule).is_ok(), "{rule}: {:?}", parse(rule));
        }
    }

    #[test]
    fn and_binds_tighter_than_or() {
        let Ok(Expr::Or(terms)) = parse("Path(`/a`) && Path(`/b`) || Path(`/c`)") else { panic!("not an or") };
        assert!(matches!(terms.as_slice(), [Expr::And(_), Expr::Predicate(_)]));
        let Ok(Expr::And(terms)) = parse("Path(`/a`) && (Path(`/b`) || Path(`/c`))") else { panic!("not an and") };
        assert!(matches!(terms.as_slice(), [Expr::Predicate(_), Expr::Or(_)]));
    }

    #[test]
    fn points_at_what_is_missing() {
        check_error("", "", "expected a predicate such as `Host(\"a.com\")`, found the end", None);
        check_error("Host(`a`) &&", "", "expected a predicate", None);
        check_error("(Host(`a`)", "(", "`(` is not closed", None);
        check_error("Host(`a`", "(", "`(` is not closed", None);
        check_error("Host", "", "expected `(` after `Host`", None);
        check_error("Host(\"a)", "\"", "the string is not closed", None);
        check_error("Host(\"a\\", "\"", "the string is not closed", None);
        check_error("Host(`a)", "`", "the string is not closed", None);
    }

    #[test]
    fn points_at_what_is_too_much() {
        check_error("Host(`a`))", ")", "expected `&&`, `||` or the end", None);
        check_error("Host(`a`) Path(`/`)", "Path", "expected `&&`, `||` or the end", None);
        check_error("Host(`a` `b`)", "`", "expected `,` or `)`", None);
        check_error("Host(`a`,)", ")", "expected a string", None);
        check_error("(Host(`a`) é", "é", "expected `&&`, `||` or `)`", None);
    }

    #[test]
    fn knows_what_other_languages_write() {
        check_error("Host(`a`) & Path(`/`)", "&", "`&` is not an operator", Some("did you mean `&&`?"));
        check_error("Host(`a`) | Path(`/`)", "|", "`|` is not an operator", Some("did you mean `||`?"));
        check_error("Host(`a`) and Path(`/`)", "and", "found `and`", Some("did you mean `&&`?"));
        check_error("not Host(`a`)", "not", "found `not`", Some("did you mean `!`?"));
        check_error("Host('a')", "'", "expected a string", Some("strings stand in double quotes or backquotes"));
        check_error(
            "PathRegexp(\"\\d\")",
            "\\d",
            "escapes",
            Some("between backquotes a backslash is itself; in double quotes write `\\\\`"),
        );
    }

    #[test]
    fn names_the_predicate_that_was_meant() {
        check_error("PathPrefx(`/`)", "PathPrefx", "unknown predicate `PathPrefx`", Some("did you mean `PathPrefix`?"));
        check_error("ClientIP(`::1`)", "ClientIP", "unknown predicate", Some("did you mean `ClientIp`?"));
        check_error("host(`a`)", "host", "unknown predicate", Some("did you mean `Host`?"));
        let all = "there are Host, HostRegexp, Path, PathPrefix, PathRegexp, Method, Header, HeaderRegexp, Query, ClientIp, ClientCert";
        check_error("Cookie(`a`)", "Cookie", "unknown predicate", Some(all));
    }

    #[test]
    fn counts_arguments() {
        check_error("!Host()", "Host()", "`Host` takes at least 1 argument, found 0", None);
        check_error("Header(`a`,`b`,`c`)", "Header(`a`,`b`,`c`)", "`Header` takes 1 or 2 arguments, found 3", None);
        check_error("HeaderRegexp(`a`)", "HeaderRegexp(`a`)", "`HeaderRegexp` takes 2 arguments, found 1", None);
        check_error("PathRegexp(`a`,`b`)", "PathRegexp(`a`,`b`)", "`PathRegexp` takes one argument, found 2", None);
    }

    #[test]
    fn points_at_the_argument_that_is_wrong() {
        check_error("Host(`a`, `b:80`)", "`b:80`", "no port", Some("`listeners = [...]` of the route says which ports it is served on"));
        check_error("Path(`/`) && PathRegexp(`a(`)", "`a(`", "not a regular expression: unclosed group", None);
        check_error(
            "ClientIp(`10.0.0.0/33`)",
            "`10.0.0.0/33`",
            "not an address",
            Some("write `10.0.0.0/8`, `192.0.2.1` or `2001:db8::/32`"),
        );
        check_error("PathPrefix(\"v1\")", "\"v1\"", "starts with `/`", Some("did you mean `/v1`?"));
    }

    #[test]
    fn is_bounded() {
        let nested = |depth: usize| format!("{}Host(`a`){}", "(".repeat(depth), ")".repeat(depth));
        assert!(parse(&nested(DEPTH_MAX)).is_ok());
        assert!(parse(&nested(DEPTH_MAX + 1)).is_err());
        assert!(parse(&format!("{}Host(`a`)", "!".repeat(DEPTH_MAX + 1))).is_err());
        assert!(parse(&"(".repeat(RULE_BYTES_MAX)).is_err());
        assert!(parse(&" ".repeat(RULE_BYTES_MAX + 1)).is_err());
    }

    proptest! {
        #[test]
        fn every_error_points_into_the_text(rule in "([()!&|,`\"'\\\\ é]|Host|Path|Header|`a`|\"/x\"|or|\\PC){0,16}") {
            if let Err(error) = parse(&rule) {
                prop_assert!(rule.get(error.span).is_some());
            }
        }
    }
}
