//! The v2 API of a real etcd, as the one who writes it sees it.

use std::net::SocketAddr;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::etcd::Etcd;
use super::http1::{Connection, Message};

/// An etcd that answers by its v2 API as well.
pub async fn start() -> Etcd {
    let mut etcd = stopped();
    etcd.run().await;
    etcd
}

/// The same, not started yet.
pub fn stopped() -> Etcd {
    Etcd::stopped().argument("--enable-v2")
}

/// Writes keys of the v2 API, independently of the provider that reads them.
#[derive(Debug, Clone)]
pub struct Etcd2Writer(SocketAddr);

impl Etcd2Writer {
    /// A writer to the etcd at `address`.
    pub fn new(address: SocketAddr) -> Self {
        Self(address)
    }

    /// Writes a key.
    pub async fn put(&self, key: &str, value: &str) {
        self.put_with(key, &format!("value={}", utf8_percent_encode(value, NON_ALPHANUMERIC))).await;
    }

    /// Writes a key or directory with the fields of a form: `ttl=5&refresh=true&prevExist=true`.
    pub async fn put_with(&self, key: &str, form: &str) {
        let done = self.request("PUT", &format!("/v2/keys{key}"), "application/x-www-form-urlencoded", form).await;
        assert!(matches!(done.status(), 200 | 201), "PUT {key}: {}\n{}", done.head, done.body);
    }

    /// Deletes a key, or a directory with all that is in it.
    pub async fn delete(&self, key: &str) {
        let done = self.request("DELETE", &format!("/v2/keys{key}?recursive=true"), "text/plain", "").await;
        assert_eq!(done.status(), 200, "DELETE {key}: {}", done.body);
    }

    /// The same of a key that may not be there.
    pub async fn remove(&self, key: &str) {
        let done = self.request("DELETE", &format!("/v2/keys{key}"), "text/plain", "").await;
        assert!(matches!(done.status(), 200 | 404), "DELETE {key}: {}", done.body);
    }

    /// Sends JSON, such as the auth API takes.
    pub async fn put_json(&self, path: &str, json: &str) {
        let done = self.request("PUT", path, "application/json", json).await;
        assert!(matches!(done.status(), 200 | 201), "PUT {path}: {}\n{}", done.head, done.body);
    }

    /// Asks for a path.
    pub async fn get(&self, path: &str) -> Message {
        self.request("GET", path, "text/plain", "").await
    }

    async fn request(&self, method: &str, path: &str, content: &str, body: &str) -> Message {
        let length = body.len();
        // As root, who may do everything once there are users.
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: etcd\r\nAuthorization: Basic cm9vdDpyb290\r\nContent-Type: {content}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let mut connection = Connection::open(self.0).await.expect("etcd listens");
        connection.exchange(&request).await.expect("etcd answers")
    }
}
