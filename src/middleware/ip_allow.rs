//! Lets only clients from listed networks through. The others are answered 403.

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::networks::{NetworkSet, Networks};
use super::{BuildError, Exchange, Flow, RequestHead, Step, answer};

/// The networks and addresses that clients may come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpAllow(pub Networks);

impl IpAllow {
    pub(super) fn build(&self) -> Result<impl Step + use<>, BuildError> {
        self.0.build("ip_allow").map(Allow)
    }
}

#[derive(Debug)]
struct Allow(NetworkSet);

impl Step for Allow {
    fn request(&self, _: &mut RequestHead, exchange: &mut Exchange) -> Flow {
        if self.0.contains(exchange.client_ip) { Flow::Continue } else { Flow::Respond(forbidden()) }
    }
}

/// The answer to a client that may not come from where it comes from.
pub(super) fn forbidden() -> Box<http::Response<bytes::Bytes>> {
    answer::text(StatusCode::FORBIDDEN, "Requests from this address are not allowed.\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::testing::{exchange, request};

    #[test]
    fn lets_listed_clients_through() {
        let step = serde_json::from_str::<IpAllow>(r#"["10.0.0.0/8", "192.0.2.7"]"#).unwrap().build().unwrap();
        let check = |ip: &str| {
            let mut exchange = Exchange { client_ip: ip.parse().unwrap(), ..exchange() };
            matches!(step.request(&mut request("/", &[]), &mut exchange), Flow::Continue)
        };
        assert!(check("10.1.2.3") && check("192.0.2.7") && check("::ffff:10.1.2.3"));
        assert!(!check("192.0.2.8") && !check("::1"));
        assert!(IpAllow(Networks(Vec::new())).build().is_err());
    }
}
