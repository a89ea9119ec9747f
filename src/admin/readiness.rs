//! `/livez` and `/readyz`: for what restarts us, and for what sends traffic to us.

use http::StatusCode;

use super::answer::{self, Answer};
use crate::control::status::Status;

pub use crate::control::status::Readiness;

/// The process runs and answers. Nothing else: what is missing may come, and a restart would not bring it sooner.
pub(super) fn live() -> Answer {
    answer::text(StatusCode::OK, "ok\n")
}

/// Whether traffic may be sent to us, and if not, what is missing.
pub(super) fn ready(status: &Status) -> Answer {
    let readiness = status.readiness();
    let code = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer::json(code, &readiness)
}
