//! The one spelling of a request's path: what rules match is what is forwarded, so that no second spelling slips past a rule.
//!
//! Called once per request by the data plane, and for the paths that rules are written with. `*` (of `OPTIONS *`) is not a path;
//! the caller deals with it.
//!
//! | in the path | becomes | source |
//! |---|---|---|
//! | escape of an unreserved character: `%7e` | the character: `~` | RFC 3986 section 6.2.2.2 |
//! | any other escape: `%c3` | upper-case hex: `%C3` | RFC 3986 section 6.2.2.1 |
//! | `.` and `..` segments, also as `%2e` | removed | RFC 3986 sections 5.2.4 and 6.2.2.3 |
//! | empty segments: `//` | merged, before `..` counts them | as nginx's `merge_slashes` |
//! | a character that a path cannot hold: `é`, `{`, a space | its escape | RFC 3986 section 3.3 |
//! | empty path | `/` | RFC 9110 section 4.2.3 |
//! | encoded slash: `%2f` | `%2F`: data, it never separates segments | RFC 3986 section 2.2 |
//!
//! What could mean two things to us and to an endpoint is refused: see [`PathError`]. What remains: `/admin%2Fx` is one segment
//! here, not below `PathPrefix("/admin")`. Before an endpoint that takes `%2F` for a slash, a rule has to ask for it:
//! ``PathRegexp(`/admin(/.*|%2F.*)?`)``.

use std::borrow::Cow;

use super::bytes::of_every_byte;

/// Why a path is refused. All of them are the client's fault: 400, RFC 9110 section 15.5.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not start with `/`.
    #[error("a path starts with `/`")]
    NotAbsolute,
    /// A `%` without two hex digits after it. RFC 3986 section 2.1.
    #[error("`%` is not followed by two hex digits")]
    Escape,
    /// A control character, raw or escaped: `%00` would end the path early in an endpoint written in C.
    #[error("the path holds a control character")]
    Control,
    /// A backslash, raw or as `%5C`: some endpoints take it for a slash.
    #[error("the path holds a backslash")]
    Backslash,
    /// An encoded slash that makes a dot segment for whoever decodes it: `..%2F`.
    #[error("the path holds a dot segment behind an encoded slash")]
    EncodedDotSegment,
    /// More `..` than there are segments before them.
    #[error("the path climbs above its root")]
    AboveRoot,
    /// `?` or `#`: a query or a fragment is not part of the path.
    #[error("the path holds a raw `?` or `#`")]
    Delimiter,
}

/// Brings `path` into its one spelling. Nothing is allocated when it is in it already.
///
/// The result starts with `/`, holds no empty segment but a last one, no dot segment (not even to someone who decodes its
/// `%2F`), and only characters that RFC 3986 section 3.3 allows in a path. Normalising it again changes nothing.
///
/// # Errors
/// [`PathError`], if the path is malformed or ambiguous.
pub fn normalize(path: &str) -> Result<Cow<'_, str>, PathError> {
    if is_normal(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    if path.is_empty() {
        return Ok(Cow::Borrowed("/"));
    }
    rewrite(path).map(Cow::Owned)
}

/// Whether there is nothing to do. May say no to a normal path that holds an encoded slash: those need a closer look.
fn is_normal(path: &[u8]) -> bool {
    if path.first() != Some(&b'/') {
        return false;
    }
    let mut rest = path;
    while let Some((special, tail)) = after_plain(rest) {
        let is_fine = match CLASS[usize::from(special)] {
            Class::Plain => true,
            Class::Slash => !starts_removable_segment(tail),
            Class::Percent => starts_normal_escape(tail),
            Class::Encode | Class::Refuse(_) => false,
        };
        if !is_fine {
            return false;
        }
        rest = tail;
    }
    true
}

/// The first byte that is not plain, and what follows it.
fn after_plain(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let mut bytes = bytes.iter();
    let special = bytes.find(|byte| !matches!(CLASS[usize::from(**byte)], Class::Plain))?;
    Some((*special, bytes.as_slice()))
}

/// Whether an empty segment (not the last) or a dot segment starts here.
fn starts_removable_segment(rest: &[u8]) -> bool {
    matches!(rest, [b'/', ..] | [b'.'] | [b'.', b'/', ..] | [b'.', b'.'] | [b'.', b'.', b'/', ..])
}

/// Whether what follows a `%` is an escape that stays as it is.
fn starts_normal_escape(rest: &[u8]) -> bool {
    let [high, low, ..] = rest else { return false };
    if high.is_ascii_lowercase() || low.is_ascii_lowercase() {
        return false;
    }
    let Some(byte) = unescape(*high, *low) else { return false };
    !is_unreserved(byte) && byte != b'/' && !matches!(CLASS[usize::from(byte)], Class::Refuse(PathError::Control | PathError::Backslash))
}

/// The normal form of a path that is not empty and likely not normal.
fn rewrite(path: &str) -> Result<String, PathError> {
    let segments = path.strip_prefix('/').ok_or(PathError::NotAbsolute)?;
    let mut out = String::with_capacity(path.len() + 16);
    let mut segments = segments.split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        let start = out.len();
        out.push('/');
        push_segment(&mut out, segment)?;
        let is_removed = match out.get(start + 1..).unwrap_or_default() {
            "" => !is_last,
            "." => true,
            ".." => {
                out.truncate(start);
                let parent = out.rfind('/').ok_or(PathError::AboveRoot)?;
                out.truncate(parent);
                if is_last {
                    out.push('/');
                }
                continue;
            }
            segment if hides_dot_segment(segment) => return Err(PathError::EncodedDotSegment),
            _ => false,
        };
        if is_removed {
            out.truncate(if is_last { start + 1 } else { start });
        }
    }
    Ok(out)
}

/// Appends one segment, its escapes and characters in their one spelling.
fn push_segment(out: &mut String, segment: &str) -> Result<(), PathError> {
    let mut rest = segment.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match CLASS[usize::from(*first)] {
            Class::Plain => out.push(char::from(*first)),
            Class::Percent => {
                let [high, low, tail @ ..] = rest else { return Err(PathError::Escape) };
                push_byte(out, unescape(*high, *low).ok_or(PathError::Escape)?)?;
                rest = tail;
            }
            Class::Encode | Class::Slash => push_escape(out, *first),
            Class::Refuse(error) => return Err(error),
        }
    }
    Ok(())
}

/// Appends a byte that was escaped: decoded if it is unreserved, else escaped again.
fn push_byte(out: &mut String, byte: u8) -> Result<(), PathError> {
    match CLASS[usize::from(byte)] {
        Class::Refuse(error @ (PathError::Control | PathError::Backslash)) => return Err(error),
        _ if is_unreserved(byte) => out.push(char::from(byte)),
        _ => push_escape(out, byte),
    }
    Ok(())
}

fn push_escape(out: &mut String, byte: u8) {
    const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    out.extend(['%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
}

/// Whether decoding the encoded slashes of this normal segment would make a dot segment.
fn hides_dot_segment(segment: &str) -> bool {
    segment.split("%2F").any(|part| part == "." || part == "..")
}

fn unescape(high: u8, low: u8) -> Option<u8> {
    let digit = |c: u8| char::from(c).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// RFC 3986 section 2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 section 2.2.
const fn is_sub_delimiter(byte: u8) -> bool {
    matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=')
}

/// What a raw byte of a path is.
#[derive(Clone, Copy)]
enum Class {
    /// `pchar` of RFC 3986 section 3.3, without escapes.
    Plain,
    Slash,
    Percent,
    /// Not allowed in a path, but harmless: a space, `{`, bytes of UTF-8.
    Encode,
    Refuse(PathError),
}

const fn class(byte: u8) -> Class {
    match byte {
        b'/' => Class::Slash,
        b'%' => Class::Percent,
        b'?' | b'#' => Class::Refuse(PathError::Delimiter),
        b'\\' => Class::Refuse(PathError::Backslash),
        0..=0x1f | 0x7f => Class::Refuse(PathError::Control),
        b':' | b'@' => Class::Plain,
        _ if is_unreserved(byte) || is_sub_delimiter(byte) => Class::Plain,
        _ => Class::Encode,
    }
}

/// [`class`] of every byte.
static CLASS: [Class; 256] = of_every_byte!(class);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(path: &str, expected: Result<&str, PathError>) {
        assert_eq!(normalize(path).as_deref(), expected.as_ref().map(|path| *path), "{path:?}");
    }

    #[test]
    fn leaves_normal_paths_alone() {
        for path in ["/", "/a", "/a/", "/a/b.c", "/.well-known/x", "/..a/.b./...", "/a:b@c;d=1,2", "/caf%C3%A9", "/%25", "/~me"] {
            assert!(matches!(normalize(path), Ok(Cow::Borrowed(same)) if same == path), "{path:?}");
        }
        check("/a%2Fb", Ok("/a%2Fb"));
    }

    #[test]
    fn gives_every_path_one_spelling() {
        check("", Ok("/"));
        check("/%7euser/%41", Ok("/~user/A"));
        check("/caf%c3%a9", Ok("/caf%C3%A9"));
        check("/café/{x}|a b", Ok("/caf%C3%A9/%7Bx%7D%7Ca%20b"));
        check("/a%2fb", Ok("/a%2Fb"));
        check("/%252e%252e%252f", Ok("/%252e%252e%252f"));
        check("/a%2Bb+c", Ok("/a%2Bb+c"));
        check("/http:%2F%2Fb", Ok("/http:%2F%2Fb"));
    }

    #[test]
    fn removes_empty_and_dot_segments() {
        check("//", Ok("/"));
        check("//a///b//", Ok("/a/b/"));
        check("/a/./b/.", Ok("/a/b/"));
        check("/a/b/..", Ok("/a/"));
        check("/a/b/../c", Ok("/a/c"));
        check("/a//../b", Ok("/b"));
        check("/a/%2E%2e/b/%2e", Ok("/b/"));
        check("/a/..", Ok("/"));
        check("/.", Ok("/"));
    }

    #[test]
    fn refuses_what_could_mean_two_things() {
        check("a", Err(PathError::NotAbsolute));
        check("*", Err(PathError::NotAbsolute));
        check("/%", Err(PathError::Escape));
        check("/%4", Err(PathError::Escape));
        check("/%4/a", Err(PathError::Escape));
        check("/%+1", Err(PathError::Escape));
        check("/%zz", Err(PathError::Escape));
        check("/a%00", Err(PathError::Control));
        check("/a%0d%0ab", Err(PathError::Control));
        check("/a\u{7f}", Err(PathError::Control));
        check("/a\\b", Err(PathError::Backslash));
        check("/a%5cb", Err(PathError::Backslash));
        check("/a?b", Err(PathError::Delimiter));
        check("/..", Err(PathError::AboveRoot));
        check("/a/../../b", Err(PathError::AboveRoot));
        check("/%2e%2e/b", Err(PathError::AboveRoot));
        check("/a/..%2fb", Err(PathError::EncodedDotSegment));
        check("/a/x%2F%2e%2e", Err(PathError::EncodedDotSegment));
        check("/%2F./a", Err(PathError::EncodedDotSegment));
    }

    proptest! {
        #[test]
        fn is_idempotent_and_unambiguous(path in "(/|a|\\.|%2e|%2F|%2f|%7e|%c3|é|%41|;|\\{|%25|%|2){0,12}") {
            let path = format!("/{path}");
            if let Ok(normal) = normalize(&path) {
                prop_assert_eq!(normalize(&normal), Ok(normal.clone()));
                prop_assert!(normal.starts_with('/'));
                prop_assert!(!normal.contains("//"));
                prop_assert!(normal.is_ascii());
                let decoded = normal.replace("%2F", "/");
                prop_assert!(!decoded.split('/').any(|segment| segment == "." || segment == ".."));
            }
        }

        #[test]
        fn never_panics(path in "\\PC{0,40}|[\\x00-\\xff]{0,40}") {
            let _ = normalize(&path);
        }

        #[test]
        fn the_fast_path_agrees_with_the_slow_one(path in "/(/|a|\\.|%2E|%2F|%7E|%C3|%41|;|%25|%5C|%0A){0,8}") {
            if is_normal(path.as_bytes()) {
                prop_assert_eq!(rewrite(&path), Ok(path));
            }
        }
    }
}
