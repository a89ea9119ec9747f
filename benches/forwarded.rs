//! What it costs to know a request's client and to tell the endpoint: behind nothing, and behind a trusted proxy.

#![allow(missing_docs, reason = "criterion_group! makes a public function")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use nuncio::config::listener::Forwarded;
use nuncio::proxy::forwarded::{Client, PeerHeaders};

/// What a browser sends.
const FIELDS: [&str; 8] = ["host", "user-agent", "accept", "accept-language", "accept-encoding", "cookie", "referer", "sec-fetch-mode"];

fn headers(extra: &[(&'static str, &'static str)]) -> HeaderMap {
    let field = |(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    FIELDS.map(|name| (name, "some value")).into_iter().chain(extra.iter().copied()).map(field).collect()
}

fn forwarded(criterion: &mut Criterion) {
    let trusted: Vec<IpNet> = ["10.0.0.0/8", "172.16.0.0/12"].iter().filter_map(|text| text.parse().ok()).collect();
    let host = HeaderValue::from_static("www.example.com");
    let told = [("x-forwarded-for", "198.51.100.7, 10.0.0.9"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "www.example.com")];
    for (from, ip, extra) in [("a client", [192, 0, 2, 1], &told[..0]), ("a proxy", [10, 0, 0, 1], &told[..])] {
        for mode in [Forwarded::XForwarded, Forwarded::Rfc7239] {
            let peer = PeerHeaders::new(Client { ip: ip.into(), is_https: true }, 443, &trusted, mode);
            criterion.bench_function(&format!("{mode:?} from {from}"), |bencher| {
                let tell = |headers: &mut HeaderMap| {
                    let client = peer.client(headers, &trusted);
                    peer.apply(headers, client, Some(&host));
                    client
                };
                bencher.iter_batched_ref(|| headers(extra), |headers| black_box(tell(headers)), BatchSize::SmallInput);
            });
        }
    }
}

criterion_group!(benches, forwarded);
criterion_main!(benches);
