//! Provider URLs: `scheme://user:password@host:port,host2:port/path`.

use std::borrow::Cow;

use http::uri::Authority;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Deserializer};

use super::tls::ClientTls;
use crate::config::Secret;
use crate::suggest;

/// What follows `scheme://`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Url<'a> {
    /// Who we say we are.
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
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
            Some((user, password)) => (Some(decode(user)?), password.map(|password| decode(password).map(Secret::from)).transpose()?),
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
        let is_host = |authority: &Authority| !authority.host().is_empty() && !authority.as_str().contains('@');
        let is_host = uri.authority().is_some_and(|authority| is_host(authority) && has_usable_port(authority));
        is_host && matches!(uri.scheme_str(), Some("http" | "https")) && matches!(uri.path(), "" | "/") && uri.query().is_none()
    })
}

/// The port of a URL's host, or `default` if there is none. None: what stands in its place is no port, and must not become the default.
pub(crate) fn port_of(authority: &Authority, default: u16) -> Option<u16> {
    let host = authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, host)| host);
    if host == authority.host() { Some(default) } else { authority.port_u16() }
}

/// Whether there is no port, or one that can be connected to.
pub(super) fn has_usable_port(authority: &Authority) -> bool {
    port_of(authority, 80).is_some_and(|port| port > 0)
}

/// Reads `endpoints`: at least one of `what`, each of which `check` takes.
pub(super) fn list_of<'de, D: Deserializer<'de>>(
    deserializer: D,
    what: &str,
    check: impl Fn(&str) -> Result<(), String>,
) -> Result<Vec<String>, D::Error> {
    let servers = Vec::<String>::deserialize(deserializer)?;
    if servers.is_empty() {
        return Err(serde::de::Error::custom(format!("`endpoints` needs at least one {what}")));
    }
    servers.iter().try_for_each(|server| check(server)).map_err(serde::de::Error::custom)?;
    Ok(servers)
}

/// Whether all URLs among `endpoints` say what `tls` says: that TLS is spoken, or that it is not.
pub(super) fn check_schemes(endpoints: &[String], tls: Option<&ClientTls>) -> Result<(), String> {
    let (scheme, reason) = if tls.is_some() { ("https://", "with `tls`") } else { ("http://", "without `tls`") };
    let Some(other) = endpoints.iter().find(|endpoint| !endpoint.starts_with(scheme)) else { return Ok(()) };
    let other = other.split("://").next().unwrap_or_default();
    Err(format!("`endpoints` must start with {scheme} {reason}, not with {other}://"))
}

/// The settings in a URL's query, `key=value&key`, without their escapes.
pub(super) fn settings(query: &str) -> impl Iterator<Item = Result<(&str, Cow<'_, str>), String>> {
    query.split('&').filter(|setting| !setting.is_empty()).map(|setting| {
        let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
        let value = percent_decode_str(value).decode_utf8();
        Ok((key, value.map_err(|_| format!("`{key}` in the URL is not UTF-8 once it is decoded"))?))
    })
}

/// Reads a setting that is true or false. Without a value it is true.
pub(super) fn truth(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("`{key}` in the URL is `true` or `false`, not `{value}`")),
    }
}

/// What to say of a setting that is none of those `known`.
pub(super) fn unknown_setting(key: &str, known: &[&str]) -> String {
    let near = suggest::nearest(key, known.iter().copied()).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    let known = if let [only] = known { format!("the known one is {only}") } else { format!("the known ones are {}", known.join(", ")) };
    format!("unknown setting `{key}` in the URL: {known}{near}")
}

fn has_port(host: &str) -> bool {
    host.rsplit_once(':').is_some_and(|(before, _)| !before.starts_with('[') || before.ends_with(']'))
}

/// Undoes the escapes that a user name or a password needs inside a URL.
fn decode(text: &str) -> Result<String, String> {
    let text = percent_decode_str(text).decode_utf8();
    text.map(Into::into).map_err(|_| "the user or password in the URL is not UTF-8 once it is decoded".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_port_is_not_the_default_one() {
        let port = |authority: &'static str| port_of(&Authority::from_static(authority), 7);
        assert_eq!(
            [port("a"), port("me:x@a"), port("[::1]"), port("a:8"), port("me:9@[::1]:8")],
            [Some(7), Some(7), Some(7), Some(8), Some(8)]
        );
        assert_eq!([port("a:99999"), port("a:"), port("8:x8"), port("a:a")], [None; 4]);
        assert!(is_server("http://a") && is_server("https://a:1/"));
        for url in ["http://a:99999", "http://a:23x79", "http://a:", "http://a:0", "http://a:a", "http://a:1/x", "http://me@a:1", "a:1"] {
            assert!(!is_server(url), "{url}");
        }
    }
}
