//! Responses of the admin API.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;

/// A response with all of its body.
pub(super) type Answer = Response<Full<Bytes>>;

/// `value` as JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_vec_pretty(value) {
        Ok(mut text) => {
            text.push(b'\n');
            answer(status, "application/json", text.into())
        }
        Err(error) => {
            tracing::error!("admin API: cannot write an answer: {error}");
            text(StatusCode::INTERNAL_SERVER_ERROR, "the answer cannot be written as JSON\n")
        }
    }
}

/// Why there is no answer, as JSON.
pub(super) fn error(status: StatusCode, message: &str) -> Answer {
    json(status, &serde_json::json!({ "error": message }))
}

/// Why a request by this method is not answered.
pub(super) fn wrong_method(allowed: &'static str) -> Answer {
    let mut refused = error(StatusCode::METHOD_NOT_ALLOWED, &format!("this path answers {allowed}"));
    refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    refused
}

/// Plain text.
pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    answer(status, "text/plain; charset=utf-8", text.into())
}

/// A body of this type. It is of this moment, and is not to be taken for anything else than it says.
pub(super) fn answer(status: StatusCode, content_type: &'static str, body: Bytes) -> Answer {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let fields: [(HeaderName, &'static str); 3] =
        [(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-store"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    response.headers_mut().extend(fields.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}
