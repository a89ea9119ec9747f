//! From the bytes of a string's value back to the bytes it was written as: through quotes and escapes of TOML and JSON.

use std::ops::Range;

/// Where `value`, a range of the decoded string, was written inside `token`, the string with its quotes.
///
/// A range that ends inside an escape covers all of it. An empty range at the end of the value is at the closing quote.
#[must_use]
pub(super) fn locate(token: &str, value: Range<usize>) -> Range<usize> {
    let (body, delimiter) = opening(token);
    let is_basic = token.starts_with('"');
    let end = token.len() - delimiter.min(token.len() - body);
    let (mut written, mut decoded) = (body, 0);
    let mut start = None;
    while let Some(rest) = token.get(written..end).filter(|rest| !rest.is_empty()) {
        let piece = if is_basic { piece(rest) } else { plain(rest) };
        if decoded >= value.start && start.is_none() && piece.decoded > 0 {
            start = Some(written);
        }
        if decoded >= value.end {
            break;
        }
        written += piece.written;
        decoded += piece.decoded;
    }
    let start = start.unwrap_or(end);
    start..written.clamp(start, end.max(start))
}

/// Where the content starts, and how long the closing delimiter is.
fn opening(token: &str) -> (usize, usize) {
    let delimiter = ["\"\"\"", "'''"].iter().any(|quotes| token.starts_with(quotes) && token.len() >= 6);
    let delimiter = if delimiter { 3 } else { 1 };
    let content = token.get(delimiter..).unwrap_or_default();
    // A line break right after the opening quotes of a multi-line string is not part of it.
    let line_break = match delimiter {
        3 if content.starts_with("\r\n") => 2,
        3 if content.starts_with('\n') => 1,
        _ => 0,
    };
    ((delimiter + line_break).min(token.len()), delimiter)
}

/// The smallest part of a token that cannot be taken apart: how long it is as written, and as decoded, in bytes.
struct Piece {
    written: usize,
    decoded: usize,
}

fn plain(rest: &str) -> Piece {
    let bytes = rest.chars().next().map_or(1, char::len_utf8);
    Piece { written: bytes, decoded: bytes }
}

fn piece(rest: &str) -> Piece {
    let Some(escape) = rest.strip_prefix('\\') else { return plain(rest) };
    match escape.chars().next() {
        Some('u') if surrogate(escape) => Piece { written: 12, decoded: 4 },
        Some('u') => code_point(escape, 4),
        Some('U') => code_point(escape, 8),
        Some('x') => code_point(escape, 2),
        // A line-ending backslash swallows all white space up to the next text.
        Some(c) if c.is_ascii_whitespace() => Piece { written: 1 + escape.len() - escape.trim_start().len(), decoded: 0 },
        Some(c) => Piece { written: 1 + c.len_utf8(), decoded: 1 },
        None => Piece { written: 1, decoded: 1 },
    }
}

/// The first half of a pair that JSON writes a character beyond U+FFFF as.
fn surrogate(escape: &str) -> bool {
    hex(escape, 4).is_some_and(|code| (0xD800..0xDC00).contains(&code))
}

fn code_point(escape: &str, digits: usize) -> Piece {
    let decoded = hex(escape, digits).and_then(char::from_u32).map_or(1, char::len_utf8);
    Piece { written: 2 + digits, decoded }
}

fn hex(escape: &str, digits: usize) -> Option<u32> {
    escape.get(1..=digits).and_then(|text| u32::from_str_radix(text, 16).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `part` of the decoded value is found at `written` in the token.
    fn check(token: &str, part: &str, written: &str) {
        let document: toml::Table = toml::from_str(&format!("value = {token}")).unwrap();
        let start = document["value"].as_str().unwrap().find(part).unwrap();
        assert_eq!(&token[locate(token, start..start + part.len())], written, "{token}");
    }

    #[test]
    fn literal_strings_are_exact() {
        check(r#"'Host("a") && Pth("/")'"#, "Pth", "Pth");
        check(r#"'Hüst("a") && Pth("/")'"#, "Pth", "Pth");
        check(r"'back\slash x'", "x", "x");
        check("'''\nHost(\"a\") &&\n Pth'''", "Pth", "Pth");
    }

    #[test]
    fn escapes_of_basic_strings_are_followed() {
        check(r#""Host(\"a\") && Pth(\"/\")""#, "Pth", "Pth");
        check(r#""Host(\"a\") && Pth(\"/\")""#, "\"/\"", r#"\"/\""#);
        check(r#""\u00fc\U0001F600\t Pth""#, "Pth", "Pth");
        check("\"\"\"Host(\"a\") && \\\n    Pth(\"/\")\"\"\"", "Pth", "Pth");
    }

    #[test]
    fn json_pairs_are_one_character() {
        assert_eq!(locate(r#""\ud83d\ude00x""#, 4..5), 13..14);
    }

    #[test]
    fn ends_and_beyond_stay_inside() {
        assert_eq!(locate("'abc'", 3..3), 4..4);
        assert_eq!(locate("'abc'", 7..9), 4..4);
        assert_eq!(locate("''", 0..0), 1..1);
        assert_eq!(locate("", 0..1), 0..0);
        assert_eq!(locate("\"\\", 0..1), 1..1);
    }
}
