//! Keys of an etcd v2 API, each with a time to live that is renewed. Renewing wakes nobody who watches.

use std::time::Duration;

use http::{Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::http::{Server, put};
use super::store::Put;
use crate::config::providers::EtcdConfig;
use crate::discovery::ProviderError;
use crate::discovery::http_client::{Aside, Credentials};

/// What is escaped in the path of a key.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b':');

const FORM: &str = "application/x-www-form-urlencoded";

/// A member, and how long keys last.
pub(super) struct Keys {
    server: Server,
    ttl_seconds: u64,
}

/// What became of a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// It is there, and ours.
    Ours,
    /// It is another one's, who wrote it since.
    Foreign,
    /// It is not there.
    Gone,
}

impl Keys {
    pub(super) fn new(server: &str, config: &EtcdConfig, ttl: Duration) -> Self {
        let user = config.username.as_deref();
        let credentials =
            user.map_or_else(Credentials::default, |user| Credentials::basic(user, config.password.as_deref().unwrap_or_default()));
        let aside = Aside::new(server, config.tls.as_ref(), credentials);
        Self { server: Server { name: format!("etcd2 {server}"), aside }, ttl_seconds: ttl.as_secs() }
    }

    /// Writes a key, whoever wrote it before.
    pub(super) async fn put(&mut self, key: &str, value: &str) -> Result<Put, ProviderError> {
        let form = format!("value={}&ttl={}", escape(value), self.ttl_seconds);
        // A key that is a folder, or below one that is none; and one that is not allowed.
        let refusals = [StatusCode::BAD_REQUEST, StatusCode::FORBIDDEN, StatusCode::UNAUTHORIZED];
        self.server.send(Method::PUT, &path(key), FORM, form, &refusals).await.map(put)
    }

    /// Lets a key last for another time to live, if it is still ours.
    pub(super) async fn renew(&mut self, key: &str, value: &str) -> Result<Held, ProviderError> {
        let form = format!("ttl={}&refresh=true&prevExist=true&prevValue={}", self.ttl_seconds, escape(value));
        let answer = self.server.send(Method::PUT, &path(key), FORM, form, &HELD).await?;
        Ok(held(answer.status))
    }

    /// Deletes a key, if it is still ours.
    pub(super) async fn delete(&mut self, key: &str, value: &str) -> Result<(), ProviderError> {
        let path = format!("{}?prevValue={}", path(key), escape(value));
        self.server.send(Method::DELETE, &path, FORM, String::new(), &HELD).await.map(drop)
    }
}

/// The statuses that say that a key is not ours, or not there.
const HELD: [StatusCode; 2] = [StatusCode::PRECONDITION_FAILED, StatusCode::NOT_FOUND];

fn held(status: StatusCode) -> Held {
    match status {
        StatusCode::PRECONDITION_FAILED => Held::Foreign,
        StatusCode::NOT_FOUND => Held::Gone,
        _ => Held::Ours,
    }
}

fn path(key: &str) -> String {
    format!("/v2/keys{}", utf8_percent_encode(key, IN_PATH))
}

fn escape(value: &str) -> String {
    utf8_percent_encode(value, NON_ALPHANUMERIC).to_string()
}
