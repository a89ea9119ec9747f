//! Requests for the tests of middlewares.

use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use http::{Request, Response};

use super::{Exchange, Flow, RequestHead, Step};

pub(super) fn request(uri: &str, headers: &[(&str, &str)]) -> RequestHead {
    let request = Request::get(uri);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(()).unwrap().into_parts().0
}

pub(super) fn exchange() -> Exchange {
    Exchange { client_ip: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), is_https: false, body_bytes_max: None }
}

/// The answer, if the step gives one at once.
pub(super) fn run(step: &impl Step, head: &mut RequestHead) -> Option<Response<Bytes>> {
    match step.request(head, &mut exchange()) {
        Flow::Continue => None,
        Flow::Respond(answer) => Some(*answer),
        Flow::Wait(_) => panic!("a step that waits"),
    }
}
