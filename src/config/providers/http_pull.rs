//! A configuration document that an HTTP server has.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::credentials;
use super::tls::ClientTls;
use super::url::{Url, has_usable_port};
use crate::config::{Secret, duration};

/// A whole configuration as in a file, which is asked for again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// Where the document is: `"https://config.example.com/edge.toml"`. It is TOML or JSON, as its content type or else its name says. Redirects
    /// are not followed. What is secret does not belong here, because the URL is shown, but for its query.
    pub url: String,
    /// The user of HTTP basic authentication. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The password that goes with `username`.
    #[serde(default, skip_serializing)]
    pub password: Option<Secret>,
    /// Sent as `Authorization: Bearer …`, instead of a user. Default: none.
    #[serde(default, skip_serializing)]
    pub token: Option<Secret>,
    /// TLS towards an `https` URL. Default: it is verified against the system's roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
    /// How often it is asked for. 100 ms to 1 h. Default 5 s.
    #[serde(default = "poll_default", with = "duration")]
    pub poll: Duration,
    /// Lets the server hold its answer for so long while nothing changes (`Prefer: wait=30`, RFC 7240). 1 s to 10 min. A server that does not
    /// know that is asked at intervals of `poll`. Default: none.
    #[serde(default, with = "duration::optional", skip_serializing_if = "Option::is_none")]
    pub wait: Option<Duration>,
}

fn poll_default() -> Duration {
    Duration::from_secs(5)
}

impl HttpConfig {
    /// What `poll` may be.
    const POLL_RANGE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

    /// What `wait` may be.
    const WAIT_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);

    /// The document at `url`, everything else at its default.
    #[must_use]
    pub fn of_url(url: &str) -> Self {
        Self { url: url.to_owned(), username: None, password: None, token: None, tls: None, poll: poll_default(), wait: None }
    }

    /// The server, without a path, and the path with its query.
    #[must_use]
    pub fn parts(&self) -> (&str, &str) {
        let authority = self.url.find("://").map_or(0, |at| at + 3);
        let rest = self.url.get(authority..).unwrap_or_default();
        match rest.find('/') {
            Some(at) => self.url.split_at(authority + at),
            None => (&self.url, "/"),
        }
    }

    /// The URL as it is shown: a query may be a signature.
    #[must_use]
    pub fn shown(&self) -> String {
        without_query(&self.url)
    }

    /// Whether the settings go together.
    ///
    /// # Errors
    /// A sentence that names the first that does not.
    pub(super) fn check(&self) -> Result<(), String> {
        let uri: Option<http::Uri> = self.url.parse().ok().filter(|_| !self.url.contains('#'));
        let authority = uri.as_ref().and_then(http::Uri::authority).filter(|authority| !authority.host().is_empty());
        let is_http = uri.as_ref().is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
        match authority {
            Some(authority) if authority.as_str().contains('@') => {
                return Err("`url` has no user in it: say `username` and `password`, which are not shown".into());
            }
            Some(authority) if is_http && has_usable_port(authority) => (),
            _ => {
                let shown = self.url.rsplit_once('@').map_or(self.url.as_str(), |(_, host)| host);
                let shown = without_query(shown);
                return Err(format!("`{shown}` is not the URL of a document, such as \"https://config.example.com/edge.toml\""));
            }
        }
        if self.parts().0.contains('?') {
            return Err("`url` needs a `/` before its query".into());
        }
        if self.tls.is_some() && !self.url.starts_with("https://") {
            return Err("`tls` needs an https:// `url`".into());
        }
        credentials::check(self.username.as_deref(), self.password.as_ref(), self.token.as_ref())?;
        if !Self::POLL_RANGE.contains(&self.poll) {
            return Err("`poll` is from 100ms to 1h".into());
        }
        if self.wait.is_some_and(|wait| !Self::WAIT_RANGE.contains(&wait)) {
            return Err("`wait` is from 1s to 10min".into());
        }
        self.tls.as_ref().map_or(Ok(()), ClientTls::check)
    }

    /// Reads a URL of `scheme`, `http` or `https`, with `rest` behind `://`. A user without a password is a token.
    pub(super) fn parse_url(scheme: &str, rest: &str) -> Result<Self, String> {
        let Url { user, password, .. } = Url::parse(rest)?;
        let path = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(path);
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let (username, token) = if password.is_some() { (user, None) } else { (None, user.map(Secret::from)) };
        let config = Self { username, password, token, ..Self::of_url(&format!("{scheme}://{host}{path}")) };
        config.check().map(|()| config)
    }
}

fn without_query(url: &str) -> String {
    url.split_once('?').map_or(url.to_owned(), |(before, _)| format!("{before}?…"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_may_name_who_asks() {
        let config = HttpConfig::parse_url("https", "me:geheim@host:99/a/edge.toml?x=1").unwrap();
        assert_eq!(config.parts(), ("https://host:99", "/a/edge.toml?x=1"));
        assert_eq!(config.shown(), "https://host:99/a/edge.toml?…");
        assert_eq!((config.username.as_deref(), config.password.as_deref()), (Some("me"), Some("geheim")));
        assert!(!format!("{config:?}{}", serde_json::to_string(&config).unwrap()).contains("geheim"));
        let config = HttpConfig::parse_url("http", "geheim@host").unwrap();
        assert_eq!((config.parts(), config.token.as_deref()), (("http://host", "/"), Some("geheim")));
        assert!(!format!("{config:?}{}", serde_json::to_string(&config).unwrap()).contains("geheim"));
    }

    #[test]
    fn settings_go_together() {
        let check = |text: &str| toml::from_str::<HttpConfig>(text).unwrap().check();
        assert_eq!(check("url = 'http://a/b'\nwait = '30s'"), Ok(()));
        for (text, expected) in [
            ("url = 'a/b'", "is not the URL of a document"),
            ("url = 'ftp://a/b'", "is not the URL of a document"),
            ("url = 'http://me:geheim@a/b'", "no user in it"),
            ("url = 'http://a:99999/b'", "is not the URL of a document"),
            ("url = 'http://a:99999/b?sig=geheim'", "is not the URL of a document"),
            ("url = 'http://a:/b'", "is not the URL of a document"),
            ("url = 'http://me:geheim@'", "is not the URL of a document"),
            ("url = 'http://a?b=/c'", "needs a `/`"),
            ("url = 'http://a/b'\ntls = {}", "needs an https://"),
            ("url = 'http://a/b'\nusername = 'a'", "go together"),
            ("url = 'http://a/b'\nusername = 'a'\npassword = 'b'\ntoken = 'c'", "exclude each other"),
            ("url = 'http://a/b'\npoll = '50ms'", "100ms to 1h"),
            ("url = 'http://a/b'\nwait = '20min'", "1s to 10min"),
        ] {
            let error = check(text).unwrap_err();
            assert!(error.contains(expected) && !error.contains("geheim"), "{text}: {error}");
        }
    }
}
