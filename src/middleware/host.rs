//! The host that a request is for.

use http::header::HOST;
use http::uri::Authority;

use super::RequestHead;

/// Host and port as the client named them: of the target (HTTP/2's `:authority`), else of the `Host` field. None when there is none, or
/// when it is not valid: an answer must not repeat it then.
pub(super) fn of(head: &RequestHead) -> Option<Authority> {
    let authority = match head.uri.authority() {
        Some(authority) => authority.clone(),
        None => Authority::try_from(head.headers.get(HOST)?.as_bytes()).ok()?,
    };
    // User information would make `https://a.com@evil.com/` of a redirect.
    (!authority.as_str().contains('@') && !authority.host().is_empty()).then_some(authority)
}
