//! Masks secrets in text that is about to be shown: snippets end in terminals, logs and the admin API.
//!
//! Works on the text, not on parsed values, because what cannot be parsed is shown as well.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};

/// `text` with each byte of a secret replaced by `*`. Line breaks stay, so that every other byte keeps its place.
///
/// Secrets are the bodies of PEM private keys, what is set to `password`, `token`, `sticky_key`, or (if it is long) `key`, and passwords in URLs.
#[must_use]
pub(super) fn mask(text: &str) -> Cow<'_, str> {
    let masked = replace(&PRIVATE_KEY, Cow::Borrowed(text));
    let masked = replace(&SETTING, masked);
    replace(&URL_PASSWORD, masked)
}

/// A PEM block, up to its end, or the end of the string that holds it.
static PRIVATE_KEY: LazyLock<Regex> =
    LazyLock::new(|| regex(r#"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----(?<secret>(?s:.*?))(?:-----END|["']|\z)"#));

/// A setting that is secret, in TOML and JSON.
static SETTING: LazyLock<Regex> = LazyLock::new(|| {
    regex(concat!(
        r#"\b(?<name>password|token|sticky_key|key)["']?\s*[=:]\s*"#,
        r#"(?<secret>"""(?s:.*?)"""|'''(?s:.*?)'''|"(?:[^"\\\n]|\\.)*"?|'[^'\n]*'?|[^\s"',}#]+)"#
    ))
});

/// The password of `scheme://user:password@host`.
static URL_PASSWORD: LazyLock<Regex> = LazyLock::new(|| regex(r#"://[^\s/@:"']*:(?<secret>[^\s/@"']+)@"#));

/// A `key` that is shorter may be a path, which helps who reads it.
const PATH_BYTES_MAX: usize = 128;

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a pattern of the program's text is valid")
}

fn replace<'t>(pattern: &Regex, text: Cow<'t, str>) -> Cow<'t, str> {
    match pattern.replace_all(&text, mask_match) {
        Cow::Borrowed(_) => text,
        Cow::Owned(masked) => Cow::Owned(masked),
    }
}

fn mask_match(captures: &Captures<'_>) -> String {
    let whole = captures.get(0).map_or("", |whole| whole.as_str()).to_string();
    let secret = captures.name("secret").map_or("", |secret| secret.as_str());
    if captures.name("name").is_some_and(|name| name.as_str() == "key") && secret.len() <= PATH_BYTES_MAX {
        return whole;
    }
    let before = captures.name("secret").zip(captures.get(0)).map_or(0, |(secret, whole)| secret.start() - whole.start());
    let after = before + secret.len();
    [whole.get(..before).unwrap_or_default(), &stars(secret), whole.get(after..).unwrap_or_default()].concat()
}

fn stars(secret: &str) -> String {
    secret.bytes().map(|byte| if matches!(byte, b'\n' | b'\r' | b'"' | b'\'') { char::from(byte) } else { '*' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let masked = mask(text);
        assert_eq!(masked, expected);
        assert_eq!(masked.len(), text.len());
    }

    #[test]
    fn private_keys_are_masked_and_certificates_are_not() {
        check(
            "key = '''\n-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n'''",
            "key = '''\n-----BEGIN PRIVATE KEY-----\n****\n-----END PRIVATE KEY-----\n'''",
        );
        check(
            r#"{"key":"-----BEGIN EC PRIVATE KEY-----\nMIIE", "cert":"-----BEGIN CERTIFICATE-----\nMIIC"}"#,
            r#"{"key":"-----BEGIN EC PRIVATE KEY-----******", "cert":"-----BEGIN CERTIFICATE-----\nMIIC"}"#,
        );
        let body = "M".repeat(200);
        check(&format!("key = \"{body}\""), &format!("key = \"{}\"", "*".repeat(200)));
        check("key = \"/etc/site.key\"", "key = \"/etc/site.key\"");
    }

    #[test]
    fn passwords_are_masked() {
        check("password = \"geheim ü\\\" x\" # y", "password = \"**********\"**\" # y");
        check(r#"{"password": 12345, "user": "a"}"#, r#"{"password": *****, "user": "a"}"#);
        check("password = 'x\nuser = 1", "password = '*\nuser = 1");
        check("etcd://root:geheim@10.0.0.1", "etcd://root:******@10.0.0.1");
        check("token = 'ab'", "token = '**'");
        check("sticky_key = 'ab'", "sticky_key = '**'");
    }
}
