//! `/metrics`: counters and gauges as Prometheus text.

use http::StatusCode;

use super::answer::{self, Answer};
use crate::metrics::Registry;

/// The media type of the exposition format.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All living series.
pub(super) fn metrics(registry: Option<&Registry>) -> Answer {
    match registry {
        Some(registry) => answer::answer(StatusCode::OK, CONTENT_TYPE, registry.render().into()),
        None => answer::error(StatusCode::NOT_FOUND, "metrics go to a recorder of the program that runs this server"),
    }
}
