//! The path of a request, and its replacement. What the middlewares that change paths share.

use std::borrow::Cow;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Response, StatusCode, Uri};

use super::{Flow, RequestHead, answer};

/// Replaces the path of a request and keeps its query, or answers 400 when that cannot be done.
///
/// It fails closed: a path that would not be forwarded as the rules saw it is not forwarded at all.
pub(super) fn replace(head: &mut RequestHead, path: &str) -> Flow {
    if !is_normalised(path) {
        return Flow::Respond(bad_path());
    }
    match with_path(&head.uri, path) {
        Some(uri) => {
            head.uri = uri;
            Flow::Continue
        }
        None => Flow::Respond(bad_path()),
    }
}

fn with_path(uri: &Uri, path: &str) -> Option<Uri> {
    let text: Cow<'_, str> = match uri.query() {
        Some(query) => [path, "?", query].concat().into(),
        None => path.into(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::from_maybe_shared(Bytes::from(text.into_owned())).ok()?);
    Uri::from_parts(parts).ok()
}

fn bad_path() -> Box<Response<Bytes>> {
    answer::text(StatusCode::BAD_REQUEST, "The path of the request cannot be mapped.\n")
}

/// Whether a path starts with `/`, has no query, and no dot segments, plain or escaped (RFC 3986 section 5.2.4).
pub(super) fn is_normalised(path: &str) -> bool {
    path.starts_with('/') && !path.contains(['?', '#', '\\']) && !path.split('/').any(is_dot_segment)
}

fn is_dot_segment(segment: &str) -> bool {
    // At most two dots, each escaped or not.
    segment.len() <= 6 && matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..")
}

/// Checks a prefix of paths as it is configured, and removes the slash at its end.
///
/// # Errors
/// A sentence that names the text and what is wrong with it.
pub(super) fn parse_prefix(text: &str) -> Result<&str, String> {
    let prefix = text.trim_end_matches('/');
    if prefix.is_empty() {
        return Err(format!("the prefix {text:?} is empty: it would change nothing"));
    }
    if !is_normalised(prefix) || PathAndQuery::try_from(prefix).is_err() {
        return Err(format!("the prefix {text:?} is not a path such as \"/v1\": it starts with `/`, and has no dot segments and no query"));
    }
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_dot_segments() {
        for path in ["/", "/a/b", "/a//b/", "/.well-known", "/a...", "/..a", "/%2ea"] {
            assert!(is_normalised(path), "{path}");
        }
        for path in ["", "a", "*", "/.", "/a/../b", "/%2e%2E/b", "/.%2e", "/a\\b", "/a?b"] {
            assert!(!is_normalised(path), "{path}");
        }
    }

    #[test]
    fn prefixes_start_with_a_slash() {
        assert_eq!(parse_prefix("/v1"), Ok("/v1"));
        assert_eq!(parse_prefix("/v1/"), Ok("/v1"));
        for text in ["", "/", "v1", "/a b", "/a/../b", "/a?b"] {
            assert!(parse_prefix(text).is_err(), "{text}");
        }
    }

    #[test]
    fn replaces_the_path_of_every_form() {
        let check = |uri: &'static str, path: &str| with_path(&Uri::from_static(uri), path).map(|uri| uri.to_string());
        assert_eq!(check("/a?q=1", "/b").as_deref(), Some("/b?q=1"));
        assert_eq!(check("https://h:1/a", "/b").as_deref(), Some("https://h:1/b"));
        assert_eq!(check("/a", "/b c"), None);
        assert_eq!(check("/a?q", &format!("/{}", "x".repeat(70_000))), None);
    }
}
