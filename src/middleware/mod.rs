//! Middlewares: steps on the requests and responses of a route. One file per middleware: its configuration and what it does.
//!
//! A [`Middleware`] is what is wanted, as configured. [`Middleware::build`] makes a [`Step`] of it, once per table in which it is new.
//! Steps work on heads, at once; the one that must wait returns [`Flow::Wait`].

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response};
use serde::{Deserialize, Serialize};

/// A middleware as it is configured: a table of one key, whose name says which one it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Middleware {
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
        match self {
            Self::Custom(custom) => Ok(custom.0.clone()),
        }
    }
}
