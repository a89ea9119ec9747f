//! Provider URLs: `scheme://user:password@host:port,host2:port/path`.

use percent_encoding::percent_decode_str;

/// What follows `scheme://`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Url<'a> {
    /// Who we say we are.
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    /// The hosts, each perhaps with a port. At least one, which may be empty.
    pub(super) hosts: Vec<&'a str>,
    /// What follows the first `/`, with it; empty if there is none.
    pub(super) path: &'a str,
}

impl<'a> Url<'a> {
    /// Reads what follows `scheme://`.
    ///
    /// # Errors
    /// A sentence that says what is wrong. It never quotes a password.
    pub(super) fn parse(rest: &'a str) -> Result<Self, String> {
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, hosts) = authority.rsplit_once('@').map_or((None, authority), |(user, hosts)| (Some(user), hosts));
        let (user, password) = match user.map(|user| user.split_once(':').map_or((user, None), |(user, password)| (user, Some(password)))) {
            Some((user, password)) => (Some(decode(user)?), password.map(decode).transpose()?),
            None => (None, None),
        };
        Ok(Self { user, password, hosts: hosts.split(',').collect(), path })
    }
}

/// `host` with a port: its own, or `port`.
pub(super) fn with_port(host: &str, port: u16) -> String {
    if has_port(host) { host.to_owned() } else { format!("{host}:{port}") }
}

/// Whether it is the URL of a server, with nothing behind host and port.
pub(super) fn is_server(url: &str) -> bool {
    let uri: Option<http::Uri> = url.parse().ok();
    uri.is_some_and(|uri| {
        let is_host = uri.authority().is_some_and(|authority| !authority.host().is_empty() && !authority.as_str().contains('@'));
        is_host && matches!(uri.scheme_str(), Some("http" | "https")) && matches!(uri.path(), "" | "/") && uri.query().is_none()
    })
}

fn has_port(host: &str) -> bool {
    host.rsplit_once(':').is_some_and(|(before, _)| !before.starts_with('[') || before.ends_with(']'))
}

/// Undoes the escapes that a user name or a password needs inside a URL.
fn decode(text: &str) -> Result<String, String> {
    let text = percent_decode_str(text).decode_utf8();
    text.map(Into::into).map_err(|_| "the user or password in the URL is not UTF-8 once it is decoded".to_string())
}
