//! Answers clients from listed networks 403, and lets the others through.

use serde::{Deserialize, Serialize};

use super::ip_allow::forbidden;
use super::networks::{NetworkSet, Networks};
use super::{BuildError, Exchange, Flow, RequestHead, Step};

/// The networks and addresses that clients may not come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpDeny(pub Networks);

impl IpDeny {
    pub(super) fn build(&self) -> Result<impl Step + use<>, BuildError> {
        self.0.build("ip_deny").map(Deny)
    }
}

#[derive(Debug)]
struct Deny(NetworkSet);

impl Step for Deny {
    fn request(&self, _: &mut RequestHead, exchange: &mut Exchange) -> Flow {
        if self.0.contains(exchange.client_ip) { Flow::Respond(forbidden()) } else { Flow::Continue }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::testing::{exchange, request};

    #[test]
    fn keeps_listed_clients_out() {
        let step = serde_json::from_str::<IpDeny>(r#"["10.0.0.0/8"]"#).unwrap().build().unwrap();
        let check = |ip: &str| {
            let mut exchange = Exchange { client_ip: ip.parse().unwrap(), ..exchange() };
            match step.request(&mut request("/", &[]), &mut exchange) {
                Flow::Respond(answer) => Some(answer.status().as_u16()),
                _ => None,
            }
        };
        assert_eq!(check("10.1.2.3"), Some(403));
        assert_eq!(check("::ffff:10.1.2.3"), Some(403));
        assert_eq!(check("192.0.2.8"), None);
    }
}
