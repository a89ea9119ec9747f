//! The match language. The first line is a rule; then method, host, path, query, client, and header fields of a request.

#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;
use nuncio::names::Name;
use nuncio::routing::index::{Entry, Index};
use nuncio::rule::{RequestView, Rule, normalize_host, path};

fuzz_target!(|text: &str| {
    let (rule, request) = text.split_once('\n').unwrap_or((text, ""));
    match Rule::parse(rule) {
        Ok(rule) => valid(&rule, request),
        Err(error) => {
            assert!(rule.get(error.span.clone()).is_some(), "the offending bytes {:?} are in {rule:?}", error.span);
            assert!(!error.message.is_empty());
        }
    }
});

fn valid(rule: &Rule, request: &str) {
    let text = rule.text();
    assert_eq!(&Rule::parse(text).expect("a rule's text is a rule"), rule);
    let json = serde_json::to_string(rule).expect("a rule is text");
    assert_eq!(&serde_json::from_str::<Rule>(&json).expect("a rule's JSON is a rule"), rule);
    with_request(request, |request| {
        let takes = rule.matches(request);
        let check = |rule: String, expected: bool| {
            // Written longer it may be too long, too deep, or have too many alternatives.
            if let Ok(rule) = Rule::parse(&rule) {
                assert_eq!(rule.matches(request), expected, "{rule}");
                assert_eq!(is_found(&rule, request), expected, "the index and {rule}");
            }
        };
        assert_eq!(is_found(rule, request), takes, "the index and {rule}");
        check(format!("!({text})"), !takes);
        check(format!("!!({text})"), takes);
        check(format!("({text}) && ({text})"), takes);
        check(format!("({text}) || ({text})"), takes);
        check(format!("({text}) || Path(`/a`)"), takes || request.path == "/a");
        check(format!("!({text}) && Path(`/a`)"), !takes && request.path == "/a");
    });
}

/// Whether the index, of this rule alone, finds it.
fn is_found(rule: &Rule, request: &RequestView<'_>) -> bool {
    let name = Name::literal("a");
    let (index, _) = Index::build([Entry { slot: 7, name: &name, rule, priority: 0, listeners: &[] }]);
    let found = index.find(request, &name);
    assert!(matches!(found, None | Some(7)));
    found.is_some()
}

/// What does not parse is left at a default, so that most mutations of an input remain useful.
fn with_request(text: &str, check: impl Fn(&RequestView<'_>)) {
    let mut lines = text.lines();
    let mut next = || lines.next().unwrap_or_default();
    let method = Method::from_bytes(next().as_bytes()).unwrap_or(Method::GET);
    let host = normalize_host(next()).unwrap_or("a.com".into());
    let path = path::normalize(next()).unwrap_or("/".into());
    let query = Some(next()).filter(|query| !query.is_empty());
    let client_ip = next().parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let mut headers = HeaderMap::new();
    for (name, value) in lines.take(64).filter_map(|line| line.split_once(": ")) {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            headers.append(name, value);
        }
    }
    check(&RequestView { host: &host, path: &path, query, method: &method, headers: &headers, client_ip, alpn: &[], identities: &[] });
}
