//! Whose requests are answered: those that name us by an IP address, as `localhost`, or by a name that the settings allow.
//!
//! A web page can make a browser send requests here. It cannot read the answers, unless its own name leads to our address as well
//! (DNS rebinding): for the browser both are one site then. Such a request carries the page's name, so names are refused that
//! nobody has listed as ours. A request without any comes from no browser.

use std::net::IpAddr;

use http::uri::Authority;
use http::{Request, header};

use crate::config::AdminHost;

/// Looks at every place where a request may name its host.
///
/// # Errors
/// The name that is not ours.
pub(super) fn check<B>(request: &Request<B>, allowed: &[AdminHost]) -> Result<(), String> {
    if let Some(authority) = request.uri().authority().filter(|authority| !is_ours(authority, allowed)) {
        return Err(authority.to_string());
    }
    for value in request.headers().get_all(header::HOST) {
        let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
        if !text.parse().is_ok_and(|authority| is_ours(&authority, allowed)) {
            return Err(text);
        }
    }
    Ok(())
}

/// What is said to the others.
pub(super) fn refusal(host: &str) -> String {
    format!(
        "this request is for the host `{host}`. The admin API answers only when it is asked for by IP address, as localhost, or by a name \
         that is listed, so that no web page can read it through a name of its own. If the name is yours, add it to `admin_hosts` of \
         `[server]`, or start with `--admin-host NAME`; or ask for the address instead"
    )
}

fn is_ours(authority: &Authority, allowed: &[AdminHost]) -> bool {
    let host = authority.host();
    let ip = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || ip.parse::<IpAddr>().is_ok() || allowed.iter().any(|name| name.matches(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(uri: &str, hosts: &[&str]) -> bool {
        let allowed = ["nuncio.internal", "*.example.com"].map(|name| AdminHost::parse(name).unwrap());
        let request = hosts.iter().fold(Request::get(uri), |request, host| request.header("host", *host));
        check(&request.body(()).unwrap(), &allowed).is_ok()
    }

    #[test]
    fn only_addresses_localhost_and_listed_names_are_ours() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:8182",
            "[::1]:8182",
            "[::1]",
            "localhost",
            "LocalHost:8182",
            "10.0.0.5:80",
            "nuncio.internal",
            "Nuncio.Internal:8182",
            "a.example.com",
        ] {
            assert!(accepts("/", &[host]), "{host}");
        }
        for host in
            ["evil.test", "evil.test:8182", "127.0.0.1.evil.test", "localhost.evil.test", "", "a b", "127.0.0.1@evil.test", "example.com"]
        {
            assert!(!accepts("/", &[host]), "{host}");
        }
        assert!(accepts("/", &[]));
        assert!(!accepts("/", &["localhost", "evil.test"]));
        assert!(!accepts("http://evil.test/", &["localhost"]));
        assert!(!accepts("/", &["nuncio.internal", "evil.test"]));
    }
}
