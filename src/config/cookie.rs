//! What may stand in a cookie that we set (RFC 6265 section 4.1.1).

use super::upstream::{SameSite, Sticky};

impl Sticky {
    /// Checks the name and path of the cookie.
    ///
    /// # Errors
    /// A sentence that names the value and what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        check_name(&self.cookie)?;
        check_path(&self.path)?;
        if self.cookie.starts_with("__Host-") && self.path != "/" {
            return Err(format!("browsers refuse the cookie `{}` unless its path is `/`, and this one is `{}`", self.cookie, self.path));
        }
        Ok(())
    }

    /// Whether browsers refuse the cookie unless it says `Secure`, also over plain HTTP (RFC 6265bis sections 4.1.3 and 5.7).
    #[must_use]
    pub fn needs_secure(&self) -> bool {
        self.same_site == SameSite::None || self.cookie.starts_with("__Secure-") || self.cookie.starts_with("__Host-")
    }
}

/// The longest name of a cookie, in bytes.
const NAME_BYTES_MAX: usize = 256;

fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(format!("a cookie's name has 1 to {NAME_BYTES_MAX} bytes, this one has {}", name.len()));
    }
    match name.chars().find(|c| !is_token(*c)) {
        Some(character) => Err(format!("the cookie name `{name}` must not contain {character:?}")),
        None => Ok(()),
    }
}

/// `tchar` of RFC 9110 section 5.6.2.
fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

fn check_path(path: &str) -> Result<(), String> {
    if path.starts_with('/') && path.bytes().all(|byte| matches!(byte, 0x20..=0x7e) && byte != b';') {
        Ok(())
    } else {
        Err(format!("the cookie path {path:?} must start with `/`, and hold neither `;` nor control characters nor anything beyond ASCII"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_name_and_path() {
        let check =
            |cookie: &str, path: &str| Sticky { cookie: cookie.into(), max_age: None, path: path.into(), same_site: SameSite::Lax }.check();
        assert_eq!(check("api_session", "/"), Ok(()));
        assert_eq!(check("__Host-s", "/"), Ok(()));
        assert!(check("__Host-s", "/api").unwrap_err().contains("unless its path is `/`"));
        assert!(check("", "/").is_err());
        assert!(check("a=b", "/").unwrap_err().contains("must not contain '='"));
        assert!(check("a b", "/").is_err());
        assert!(check("s", "api").is_err());
        assert!(check("s", "/; Domain=evil").is_err());
    }
}
