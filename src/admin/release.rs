//! `POST /api/v1/providers/NAME/release`: lets go of what is held of a provider's update.
//!
//! The only thing that the admin API changes, and it changes nothing that time would not: what is held is let go by itself a little later.

use http::{Method, Request, StatusCode, header};
use serde::{Deserialize, Serialize};

use super::answer::{self, Answer};
use crate::control::status::Status;
use crate::names::Name;

/// The path, for people.
pub(super) const PATH: &str = "/api/v1/providers/NAME/release";

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseView {
    /// The provider.
    pub provider: Name,
    /// Whether anything was held.
    pub released: bool,
}

/// The provider that `path` names, if it is one of these paths.
pub(super) fn provider_of(path: &str) -> Option<&str> {
    path.strip_prefix("/api/v1/providers/")?.strip_suffix("/release")
}

/// A request with an `Origin` comes from a web page. Pages have no business here, and a browser sends their requests without asking.
pub(super) fn answer<B>(request: &Request<B>, provider: &str, status: &Status) -> Answer {
    if request.method() != Method::POST {
        return answer::wrong_method("POST");
    }
    if request.headers().contains_key(header::ORIGIN) {
        return answer::error(StatusCode::FORBIDDEN, "this request comes from a web page, which may not change anything here");
    }
    let provider = percent_encoding::percent_decode_str(provider).decode_utf8_lossy();
    let Some(feed) = status.feeds().iter().find(|feed| feed.name().as_str() == provider) else {
        let known: Vec<&str> = status.feeds().iter().map(|feed| feed.name().as_str()).collect();
        return answer::error(StatusCode::NOT_FOUND, &format!("there is no provider `{provider}`; there is {}", known.join(", ")));
    };
    answer::json(StatusCode::OK, &ReleaseView { provider: feed.name().clone(), released: feed.release() })
}
