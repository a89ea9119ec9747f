//! Rules and requests over alphabets so small that they often meet: for property tests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::{HeaderMap, HeaderValue, Method};
use proptest::prelude::*;
use proptest::sample::select;

use super::{RequestView, Rule};

const PREDICATES: &[&str] = &[
    "Host(`a.com`)",
    "Host(`b.a.com`)",
    "Host(`*.a.com`)",
    "Host(`*.com`, `x.org`, `c.b.a.com`, `*.b.a.com`, `localhost`)",
    "Host(`*.b.a.com`)",
    "HostRegexp(`[ab]\\..*`)",
    "HostRegexp(`.*\\.org`)",
    "Path(`/`)",
    "Path(`/v1`)",
    "Path(`/v1/x`, `/v1/x/`)",
    "PathPrefix(`/`)",
    "PathPrefix(`/v1`)",
    "PathPrefix(`/v1/x/`)",
    "PathPrefix(`/v2`, `/v1/x/y`)",
    "PathRegexp(`/v\\d+`)",
    "PathRegexp(`/v1/.*`)",
    "Method(`GET`)",
    "Method(`PUT`, `GET`)",
    "Header(`X-A`)",
    "Header(`X-A`, `1`)",
    "HeaderRegexp(`X-A`, `[12]`)",
    "Query(`k`)",
    "Query(`k`, `v`)",
    "ClientIp(`10.0.0.0/8`, `::1`)",
    "ClientCert(`spiffe://a.com/*`)",
];

/// Any rule: predicates under up to three levels of `&&`, `||` and `!`. Often one that asks for a host and a path.
pub(crate) fn rule() -> impl Strategy<Value = Rule> {
    let predicate = select(PREDICATES).prop_map(str::to_string);
    let usual = (select(&PREDICATES[..7]), select(&PREDICATES[7..16])).prop_map(|(host, path)| format!("{host} && {path}"));
    let any = predicate.clone().prop_recursive(3, 8, 3, |inner| {
        let joined = |operator| move |terms: Vec<String>| format!("({})", terms.join(operator));
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..=3).prop_map(joined(" && ")),
            prop::collection::vec(inner.clone(), 2..=3).prop_map(joined(" || ")),
            inner.prop_map(|term| format!("!{term}")),
        ]
    });
    prop_oneof![2 => usual, 1 => predicate, 2 => any].prop_filter_map("never matches", |text| Rule::parse(&text).ok())
}

/// What a [`RequestView`] borrows from.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    host: &'static str,
    path: &'static str,
    query: Option<&'static str>,
    method: Method,
    headers: HeaderMap,
    client_ip: IpAddr,
    identities: Vec<Box<str>>,
}

impl Request {
    pub(crate) fn view(&self) -> RequestView<'_> {
        RequestView {
            host: self.host,
            path: self.path,
            query: self.query,
            method: &self.method,
            headers: &self.headers,
            client_ip: self.client_ip,
            alpn: &[],
            identities: &self.identities,
        }
    }
}

/// Any request.
pub(crate) fn request() -> impl Strategy<Value = Request> {
    let hosts = select(&["a.com", "b.a.com", "c.b.a.com", "x.org", "com", "", ".com", "localhost"][..]);
    let paths = select(&["/", "/v1", "/v1/", "/v10", "/v1/x", "/v1/x/", "/v1/x/y/z", "/v2/x", "//", "*", ""][..]);
    let queries = select(&[None, Some(""), Some("k=v"), Some("k=x&a")][..]);
    let headers = select(&[None, Some("1"), Some("2"), Some("3")][..]);
    let methods = select(vec![Method::GET, Method::PUT, Method::POST]);
    let clients = select(vec![IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    let identities = select(&[None, Some("spiffe://a.com/web"), Some("spiffe://b.com/web")][..]);
    (hosts, paths, queries, methods, headers, clients, identities).prop_map(|(host, path, query, method, header, client_ip, identity)| {
        let headers = header.map(|value| (http::HeaderName::from_static("x-a"), HeaderValue::from_static(value)));
        Request {
            host,
            path,
            query,
            method,
            headers: headers.into_iter().collect(),
            client_ip,
            identities: identity.map(Into::into).into_iter().collect(),
        }
    })
}
