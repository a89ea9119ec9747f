//! The short answers that middlewares give themselves.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Response, StatusCode};

/// A plain text answer.
pub(super) fn text(status: StatusCode, body: &'static str) -> Box<Response<Bytes>> {
    let mut response = Response::new(Bytes::from_static(body.as_bytes()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Box::new(response)
}

/// "Look there", with no body: clients follow the field.
pub(super) fn redirect(status: StatusCode, location: HeaderValue) -> Box<Response<Bytes>> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response.headers_mut().insert(LOCATION, location);
    Box::new(response)
}
