//! Middlewares: steps on the requests and responses of a route. One file per middleware: its configuration and what it does.
//!
//! A [`Middleware`] is what is wanted, as configured. [`Middleware::build`] makes a [`Step`] of it, once per table in which it is new.
//! Steps work on heads, at once; the one that must wait returns [`Flow::Wait`].
//!
//! | file | does |
//! |---|---|
//! | [`headers`] | sets, adds and removes header fields |
//! | [`strip_prefix`], [`add_prefix`], [`rewrite_path`] | change the path |
//! | [`redirect`], [`redirect_https`] | send the client elsewhere |
//! | [`ip_allow`], [`ip_deny`] | choose clients by their address |
//! | [`rate_limit`] | bounds the rate of requests |
//! | [`body_limit`] | bounds the size of request bodies |
//!
//! They share `answer` (short answers), `path`, `host`, `networks` and `rate_cells`.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response};
use serde::{Deserialize, Serialize};

pub mod add_prefix;
mod answer;
pub mod body_limit;
pub mod headers;
mod host;
pub mod ip_allow;
pub mod ip_deny;
pub mod networks;
mod path;
mod rate_cells;
pub mod rate_limit;
pub mod redirect;
pub mod redirect_https;
pub mod rewrite_path;
pub mod strip_prefix;

pub use add_prefix::AddPrefix;
pub use body_limit::BodyLimit;
pub use headers::{HeaderChanges, Headers};
pub use ip_allow::IpAllow;
pub use ip_deny::IpDeny;
pub use networks::Networks;
pub use rate_limit::{RateKey, RateLimit};
pub use redirect::Redirect;
pub use redirect_https::RedirectHttps;
pub use rewrite_path::RewritePath;
pub use strip_prefix::StripPrefix;

/// A middleware as it is configured: a table of one key, whose name says which one it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Middleware {
    /// Sets, adds and removes header fields: `headers = { request = { set = { X-A = "1" } } }`.
    Headers(Headers),
    /// Takes a prefix off the path: `strip_prefix = "/v1"`.
    StripPrefix(StripPrefix),
    /// Puts a prefix in front of the path: `add_prefix = "/api"`.
    AddPrefix(AddPrefix),
    /// Rewrites the path: `rewrite_path = { regex = "^/u/(.*)$", replacement = "/users/$1" }`.
    RewritePath(RewritePath),
    /// Answers every request by another address: `redirect = { host = "www.example.com" }`.
    Redirect(Redirect),
    /// Sends clients that came without TLS to the same address with it: `redirect_https = true`.
    RedirectHttps(RedirectHttps),
    /// Lets only these clients through: `ip_allow = ["10.0.0.0/8"]`.
    IpAllow(IpAllow),
    /// Keeps these clients out: `ip_deny = ["192.0.2.7"]`.
    IpDeny(IpDeny),
    /// Bounds the rate of requests: `rate_limit = { rate = 100, per = "1s", burst = 50 }`.
    RateLimit(RateLimit),
    /// Bounds the size of request bodies: `body_limit = "10MiB"`.
    BodyLimit(BodyLimit),
    /// A step written by the program that embeds us.
    #[serde(skip)]
    Custom(Custom),
}

/// A step written by the program that embeds us.
#[derive(Debug, Clone)]
pub struct Custom(pub Arc<dyn Step>);

/// Two custom steps are equal when they are the same one.
impl PartialEq for Custom {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// The head of a request on its way to the endpoint. Its path is normalised.
pub type RequestHead = http::request::Parts;
/// The head of a response on its way to the client.
pub type ResponseHead = http::response::Parts;

/// What a step does with requests and responses.
///
/// Steps are shared by all workers, and live as long as their configuration does not change: their state survives all other changes.
pub trait Step: Send + Sync + fmt::Debug {
    /// Looks at, and may change, the head of a request. Called in the order of the route's list.
    fn request(&self, head: &mut RequestHead, exchange: &mut Exchange) -> Flow {
        let _ = (head, exchange);
        Flow::Continue
    }

    /// Looks at, and may change, the head of a response: the endpoint's, or that of a later step. Called in the reverse order.
    fn response(&self, head: &mut ResponseHead, exchange: &Exchange) {
        let _ = (head, exchange);
    }

    /// Whether every request is answered here, so that its route needs no upstream.
    fn always_responds(&self) -> bool {
        false
    }
}

/// What steps may know, and say, of the exchange that a head belongs to.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// The client's address: the peer, or what a trusted proxy said it is.
    pub client_ip: IpAddr,
    /// Whether the client came by TLS, or a trusted proxy said that it did.
    pub is_https: bool,
    /// The most bytes that the request's body may have. Set by steps; the smallest wins.
    pub body_bytes_max: Option<u64>,
}

impl Exchange {
    /// Bounds the request's body, unless a tighter bound is set already.
    pub fn limit_body(&mut self, bytes_max: u64) {
        self.body_bytes_max = Some(self.body_bytes_max.map_or(bytes_max, |set| set.min(bytes_max)));
    }
}

/// Where a request goes after a step.
pub enum Flow {
    /// On to the next step.
    Continue,
    /// Back to the client with this answer.
    Respond(Box<Response<Bytes>>),
    /// Nowhere until the future says where.
    Wait(Pin<Box<dyn Future<Output = Verdict> + Send>>),
}

/// What a step that had to wait decided.
pub enum Verdict {
    /// On to the next step, with these header fields set on the request.
    Continue(HeaderMap),
    /// Back to the client with this answer.
    Respond(Box<Response<Bytes>>),
}

/// Why a middleware cannot be built. Its routes answer 503 until it can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BuildError(pub String);

impl Middleware {
    /// Makes the step.
    ///
    /// # Errors
    /// [`BuildError`] says which value cannot work and why.
    pub fn build(&self) -> Result<Arc<dyn Step>, BuildError> {
        Ok(match self {
            Self::Headers(config) => Arc::new(config.build()?),
            Self::StripPrefix(config) => Arc::new(config.build()?),
            Self::AddPrefix(config) => Arc::new(config.build()?),
            Self::RewritePath(config) => Arc::new(config.build()?),
            Self::Redirect(config) => Arc::new(config.build()?),
            Self::RedirectHttps(config) => Arc::new(config.build()?),
            Self::IpAllow(config) => Arc::new(config.build()?),
            Self::IpDeny(config) => Arc::new(config.build()?),
            Self::RateLimit(config) => Arc::new(config.build()?),
            Self::BodyLimit(config) => Arc::new(config.build()?),
            Self::Custom(custom) => custom.0.clone(),
        })
    }
}

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests {
    use super::testing::{exchange, request};
    use super::*;

    #[test]
    fn is_a_table_of_one_key() {
        let check = |text: &str| toml::from_str::<Middleware>(text).map_err(|error| error.to_string());
        assert_eq!(check("add_prefix = '/a'").unwrap(), Middleware::AddPrefix(AddPrefix("/a".into())));
        assert_eq!(check("redirect_https = true").unwrap(), Middleware::RedirectHttps(RedirectHttps::default()));
        assert!(check("strip_prefixx = '/a'").unwrap_err().contains("unknown variant `strip_prefixx`"));
        assert!(check("rate_limit = { rate = 1, brst = 2 }").unwrap_err().contains("unknown field `brst`"));
    }

    /// What is written reads back the same: the admin API shows configuration that can be used again.
    #[test]
    fn every_middleware_reads_back() {
        for json in [
            r#"{"headers":{"request":{"set":{"X-A":"1"}}}}"#,
            r#"{"strip_prefix":["/a","/b"]}"#,
            r#"{"add_prefix":"/a"}"#,
            r#"{"rewrite_path":{"regex":"^/a","replacement":"/b"}}"#,
            r#"{"redirect":{"host":"b.com","status":301}}"#,
            r#"{"redirect_https":{"port":443,"status":308}}"#,
            r#"{"ip_allow":["10.0.0.0/8"]}"#,
            r#"{"ip_deny":["10.0.0.1/32"]}"#,
            r#"{"rate_limit":{"rate":1,"per":"1s","burst":5,"key":{"header":"X-Key"}}}"#,
            r#"{"body_limit":1000}"#,
        ] {
            let middleware: Middleware = serde_json::from_str(json).unwrap();
            assert!(middleware.build().is_ok());
            assert_eq!(serde_json::to_string(&middleware).unwrap(), json);
        }
    }

    /// Asks elsewhere who the client is, as a program's own authentication would.
    #[derive(Debug)]
    struct Authenticate(tokio::sync::mpsc::Sender<(String, tokio::sync::oneshot::Sender<Option<String>>)>);

    impl Step for Authenticate {
        fn request(&self, head: &mut RequestHead, _: &mut Exchange) -> Flow {
            let (asked, path) = (self.0.clone(), head.uri.path().to_owned());
            Flow::Wait(Box::pin(async move {
                let (answer, answered) = tokio::sync::oneshot::channel();
                let _ = asked.send((path, answer)).await;
                match answered.await.ok().flatten().and_then(|user| user.parse().ok()) {
                    Some(user) => Verdict::Continue(HeaderMap::from_iter([(http::HeaderName::from_static("x-user"), user)])),
                    None => Verdict::Respond(answer::text(http::StatusCode::UNAUTHORIZED, "Who are you?\n")),
                }
            }))
        }
    }

    #[tokio::test]
    async fn a_program_can_write_a_step_that_waits() {
        let (ask, mut asked) = tokio::sync::mpsc::channel(1);
        let step = Middleware::Custom(Custom(Arc::new(Authenticate(ask)))).build().unwrap();
        let users = tokio::spawn(async move {
            while let Some((path, answer)) = asked.recv().await {
                answer.send((path == "/alice").then(|| "alice".into())).unwrap();
            }
        });
        for (uri, user) in [("/alice", Some("alice")), ("/mallory", None)] {
            let Flow::Wait(wait) = step.request(&mut request(uri, &[]), &mut exchange()) else { panic!("it does not wait") };
            match wait.await {
                Verdict::Continue(set) => assert_eq!(set["x-user"], user.unwrap()),
                Verdict::Respond(answer) => assert_eq!((answer.status().as_u16(), user), (401, None)),
            }
        }
        drop(step);
        users.await.unwrap();
    }
}
