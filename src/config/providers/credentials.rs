//! Who we say we are to the systems that we learn from.

use crate::config::Secret;

/// Whether these go together, and can be sent in a header field: a user with a password, or a token, or nothing.
///
/// # Errors
/// A sentence that says what does not. It quotes nothing.
pub(super) fn check(username: Option<&str>, password: Option<&Secret>, token: Option<&Secret>) -> Result<(), String> {
    if username.is_some() != password.is_some() {
        return Err("`username` and `password` go together".into());
    }
    if token.is_some() && username.is_some() {
        return Err("`token` and `username` exclude each other".into());
    }
    if token.is_some_and(|token| http::HeaderValue::try_from(&**token).is_err()) {
        return Err("`token` has characters that no token has".into());
    }
    Ok(())
}
