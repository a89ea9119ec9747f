//! A route with everything it refers to, ready to serve.

use std::sync::Arc;
use std::time::Duration;

use super::upstream::Upstream;
use crate::metrics::{RouteMetrics, TcpRouteMetrics};
use crate::middleware::Step;
use crate::names::Name;

/// One HTTP route of one table. A request keeps it to its end.
#[derive(Debug)]
pub struct Route {
    /// Its name.
    pub name: Name,
    /// Its middlewares, in order.
    pub steps: Vec<Arc<dyn Step>>,
    /// Where its requests go.
    pub target: Target,
    /// For a request as a whole.
    pub timeout: Option<Duration>,
    /// Whether its rule looks at the client's certificate.
    pub(super) reads_client_cert: bool,
    /// What it counts. Carried over from table to table.
    pub metrics: Arc<RouteMetrics>,
}

/// Where the requests of a route go.
#[derive(Debug, Clone)]
pub enum Target {
    /// To an endpoint of this upstream.
    Upstream(Arc<Upstream>),
    /// Nowhere: a middleware answers them all.
    Answered,
    /// Nowhere: something the route needs is missing. It keeps its place and answers 503, because without it its requests would
    /// fall through to a route that lacks its middlewares.
    Closed(Arc<str>),
}

/// One TCP route of one table. A connection keeps it to its end.
#[derive(Debug)]
pub struct TcpRoute {
    /// Its name.
    pub name: Name,
    /// Where its connections go.
    pub target: Target,
    /// Leaves TLS to the endpoint.
    pub passthrough: bool,
    /// How long a connection waits for an endpoint while there is none.
    pub wait: Option<Duration>,
    /// Closes a connection on which no byte moved for this long.
    pub idle_timeout: Duration,
    /// Closes a connection that is this old.
    pub max_lifetime: Option<Duration>,
    /// What it counts. Carried over from table to table.
    pub metrics: Arc<TcpRouteMetrics>,
}

impl TcpRoute {
    /// Whether its endpoints are told whose connections they get.
    #[must_use]
    pub fn tells_origin(&self) -> bool {
        // One that waits may find another upstream.
        self.wait.is_some() || matches!(&self.target, Target::Upstream(upstream) if upstream.transport.proxy_protocol.is_some())
    }
}
