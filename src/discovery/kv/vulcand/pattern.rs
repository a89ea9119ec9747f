//! Patterns of vulcand's matchers: text in which `<name>` stands for anything up to the next separator.
//!
//! | pattern | stands for |
//! |---|---|
//! | `<name>`, `<string:name>` | bytes up to the separator or the end, perhaps none |
//! | `<int:name>` | digits, perhaps none. Also at the end, where vulcand never takes one |
//! | `<path:name>` | all that follows |
//!
//! A `<` without a `>` is itself.

use std::fmt::Write;

/// What a pattern says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    /// This text.
    Literal(String),
    /// A regular expression for the whole.
    Regexp(String),
}

/// Reads a pattern for a subject with this separator.
///
/// # Errors
/// A sentence that says what is wrong.
pub(super) fn parse(pattern: &str, separator: char) -> Result<Pattern, String> {
    let mut regexp = String::new();
    let mut rest = pattern;
    let mut is_literal = true;
    while let Some((before, inside, behind)) = next_variable(rest) {
        is_literal = false;
        regexp.push_str(&regex::escape(before));
        let kind = match inside.split(':').collect::<Vec<_>>().as_slice() {
            [_] | ["string", _] => 's',
            ["int", _] => 'i',
            ["path", _] if behind.is_empty() => 'p',
            ["path", _] => return Err(format!("`<{inside}>` takes all that follows: nothing can stand behind it")),
            _ => return Err(format!("`<{inside}>` is none of <name>, <string:name>, <int:name>, <path:name>")),
        };
        match kind {
            'i' => regexp.push_str("[0-9]*"),
            'p' => regexp.push_str("(?s:.*)"),
            _ => drop(write!(regexp, "[^{}]*", regex::escape(separator.encode_utf8(&mut [0; 4])))),
        }
        rest = behind;
    }
    if is_literal {
        return Ok(Pattern::Literal(pattern.to_owned()));
    }
    regexp.push_str(&regex::escape(rest));
    Ok(Pattern::Regexp(regexp))
}

/// What stands before the next variable, inside of it, and behind.
fn next_variable(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once('<')?;
    let (inside, behind) = rest.split_once('>')?;
    Some((before, inside, behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_become_regular_expressions() {
        let check = |pattern: &str, separator, expected: &str| {
            assert_eq!(parse(pattern, separator), Ok(Pattern::Regexp(expected.into())), "{pattern}");
        };
        check("/a/<x>", '/', "/a/[^/]*");
        check("/v<int:version>/domains/<string:name>", '/', "/v[0-9]*/domains/[^/]*");
        check("/s/<path:p>", '/', "/s/(?s:.*)");
        check("<sub>.<x>.localhost", '.', r"[^\.]*\.[^\.]*\.localhost");
        check("a.b<x>", '/', r"a\.b[^/]*");
        for literal in ["/a", "/a<b", "/a>b"] {
            assert_eq!(parse(literal, '/'), Ok(Pattern::Literal(literal.into())));
        }
        for invalid in ["/<uint8:x>", "/<string:a:b>", "/<path:x>/y"] {
            assert!(parse(invalid, '/').is_err(), "{invalid}");
        }
    }
}
