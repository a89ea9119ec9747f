//! A listener of vulcand → ours.

use super::super::json::Fields;
use crate::config::listen_address::ListenAddress;
use crate::config::listener::ListenerTls;
use crate::config::{Listener, Problem};

/// Reads a listener. One that we cannot open as it is meant is a problem, and is not opened another way.
///
/// Of `Settings.TLS` nothing is carried over: it is about versions and suites older than TLS 1.2 with ephemeral keys, which are not spoken.
pub(in super::super) fn decode(value: &[u8]) -> Result<Listener, Problem> {
    let value = super::object(value)?;
    let listener = Fields(&value);
    let address = super::section(&listener, "Address")?;
    let network = super::text(&address, "Network")?;
    if !network.eq_ignore_ascii_case("tcp") {
        return Err(Problem::error(format!("`Network` is {network:?}: only \"tcp\" is carried over")));
    }
    if !super::text(&listener, "Scope")?.is_empty() {
        return Err(Problem::error("`Scope` is not carried over").help("write the scope into the routes of the frontends"));
    }
    if !matches!(super::text(&listener, "ProxyProtocol")?.to_ascii_uppercase().as_str(), "" | "NONE") {
        return Err(Problem::error("`ProxyProtocol` is not carried over").help("clients would be taken for the proxy in front"));
    }
    let tls = match super::text(&listener, "Protocol")?.to_ascii_lowercase().as_str() {
        "http" => None,
        "https" => Some(ListenerTls::default()),
        other => return Err(Problem::error(format!("`Protocol` is {other:?}, and must be \"http\" or \"https\""))),
    };
    let address = super::text(&address, "Address")?.parse::<ListenAddress>().map_err(Problem::error)?;
    Ok(Listener { tls, ..Listener::http(address) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_carried_over_or_say_why_not() {
        let https =
            decode(br#"{"Id":"l1","Protocol":"HTTPS","Address":{"Network":"tcp","Address":"0.0.0.0:443"},"Scope":"","ProxyProtocol":""}"#);
        let https = https.unwrap();
        assert_eq!((https.address.to_string().as_str(), https.tls), ("0.0.0.0:443", Some(ListenerTls::default())));
        assert!(decode(br#"{"Protocol":"http","Address":{"Network":"tcp","Address":":80"}}"#).unwrap().tls.is_none());
        for (value, message) in [
            (r#"{"Protocol":"http","Address":{"Network":"unix","Address":"/x"}}"#, "`Network`"),
            (r#"{"Protocol":"http","Address":{"Network":"tcp","Address":":80"},"Scope":"Host(`a`)"}"#, "`Scope`"),
            (r#"{"Protocol":"http","Address":{"Network":"tcp","Address":":80"},"ProxyProtocol":"proxy_v1"}"#, "`ProxyProtocol`"),
            (r#"{"Protocol":"tcp","Address":{"Network":"tcp","Address":":80"}}"#, "`Protocol`"),
            (r#"{"Protocol":"http","Address":{"Network":"tcp","Address":"localhost:80"}}"#, "not an address"),
            (r#"{"Protocol":"http","Address":"x"}"#, "`Address` is not an object"),
        ] {
            let problem = decode(value.as_bytes()).unwrap_err();
            assert!(problem.message.contains(message), "{value}: {}", problem.message);
        }
    }
}
