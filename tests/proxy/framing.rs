//! Input on which two parsers could disagree. Each is refused, and the connection closed; or forwarded in the one way that RFC 9112
//! allows. Whatever follows it on the connection never reaches an endpoint as a request of its own.

use crate::support::*;

/// What would be a request if the one before it ended early.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";
/// What every case is followed by.
const LAST: &str = "GET /last HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";

/// What becomes of a case.
enum Expect {
    /// One answer of this status, and the end. No endpoint sees a request.
    Refused(u16),
    /// These requests are seen (method, target, body), and then the last one.
    Served(&'static [(&'static str, &'static str, &'static str)]),
    /// These requests are seen, and then the connection ends: what follows is not trusted.
    ServedAndClosed(&'static [(&'static str, &'static str, &'static str)]),
}
use Expect::{Refused, Served, ServedAndClosed};

async fn check(cases: Vec<(&str, String, Expect)>) {
    let endpoint = Endpoint::replying(|request| response(200, &echo(request))).await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let mut failed = Vec::new();
    for (name, bytes, expect) in cases {
        let before = endpoint.requests().len();
        let mut client = proxy.connect().await;
        // A refusal may come, with the end of the connection, before all of it is sent.
        let _ = client.try_send(bytes.as_bytes()).await;
        let _ = client.try_send(LAST).await;
        let mut statuses = Vec::new();
        let mut echoes = Vec::new();
        let end = loop {
            match client.try_response().await {
                Ok(response) if response.status() == 200 => echoes.push(response.text().to_owned()),
                Ok(response) => statuses.push(response.status()),
                Err(end) => break end,
            }
        };
        let seen: Vec<String> = endpoint.requests()[before..].iter().map(echo).collect();
        let wanted = |list: &[(&str, &str, &str)]| list.iter().map(|(m, t, b)| format!("{m} {t} {b:?}")).collect::<Vec<_>>();
        let last = "GET /last \"\"".to_owned();
        let (want_statuses, want_seen) = match expect {
            Refused(status) => (vec![status], vec![]),
            Served(list) => (vec![], [wanted(list), vec![last]].concat()),
            ServedAndClosed(list) => (vec![], wanted(list)),
        };
        if (&statuses, &seen, &echoes, &end) != (&want_statuses, &want_seen, &want_seen, &Unread::Ended) {
            failed.push(format!("{name}: answered {statuses:?}, echoed {echoes:?}, seen {seen:?}, {end:?}"));
        }
    }
    endpoint.assert_clean();
    assert!(failed.is_empty(), "{failed:#?}");
}

fn echo(request: &Message) -> String {
    format!("{} {} {:?}", request.method(), request.target(), String::from_utf8_lossy(&request.body))
}

fn post(fields: &str, body: &str) -> String {
    format!("POST /first HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n{body}")
}

fn get(fields: &str) -> String {
    format!("GET /first HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n{SMUGGLED}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_has_one_length() {
    let chunked = |encoding: &str| post(&format!("{encoding}\r\n"), &format!("0\r\n\r\n{SMUGGLED}"));
    let sized = |length: &str| post(&format!("Content-Length:{length}\r\n"), &format!("hello{SMUGGLED}"));
    const FIRST: Expect = Served(&[("POST", "/first", "hello")]);
    check(vec![
        // RFC 9112 section 6.3: chunked wins, and the connection ends.
        (
            "CL, TE",
            post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", &format!("0\r\n\r\n{SMUGGLED}")),
            ServedAndClosed(&[("POST", "/first", "")]),
        ),
        (
            "TE, CL",
            post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", &format!("0\r\n\r\n{SMUGGLED}")),
            ServedAndClosed(&[("POST", "/first", "")]),
        ),
        ("cow, chunked", chunked("Transfer-Encoding: cow, chunked"), Refused(400)),
        ("chunked, chunked", chunked("Transfer-Encoding: chunked, chunked"), Refused(400)),
        ("chunked twice", chunked("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), Refused(400)),
        ("chunked, then cow", chunked("Transfer-Encoding: chunked\r\nTransfer-Encoding: cow"), Refused(400)),
        ("cow, then chunked", chunked("Transfer-Encoding: cow\r\nTransfer-Encoding: chunked"), Refused(400)),
        ("chunked not last", chunked("Transfer-Encoding: chunked, cow"), Refused(400)),
        ("gzip", chunked("Transfer-Encoding: gzip"), Refused(400)),
        ("identity", chunked("Transfer-Encoding: identity"), Refused(400)),
        ("xchunked", chunked("Transfer-Encoding: xchunked"), Refused(400)),
        ("chunkedx", chunked("Transfer-Encoding: chunkedx"), Refused(400)),
        ("quoted", chunked("Transfer-Encoding: \"chunked\""), Refused(400)),
        ("parameter", chunked("Transfer-Encoding: chunked;q=1"), Refused(400)),
        ("empty TE", chunked("Transfer-Encoding:"), Refused(400)),
        ("VT before chunked", chunked("Transfer-Encoding:\x0bchunked"), Refused(400)),
        ("space before the colon", chunked("Transfer-Encoding : chunked"), Refused(400)),
        ("tab before the colon", chunked("Content-Length\t: 5"), Refused(400)),
        ("folded TE", chunked("Transfer-Encoding:\r\n chunked"), Refused(400)),
        ("TE on HTTP/1.0", chunked("Transfer-Encoding: chunked").replace("HTTP/1.1", "HTTP/1.0"), Refused(400)),
        ("CHUNKED", post("Transfer-Encoding: CHUNKED\r\n", "5\r\nhello\r\n0\r\n\r\n"), FIRST),
        ("CL", post("Content-Length: 5\r\n", "hello"), FIRST),
        ("equal CLs", post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"), FIRST),
        ("different CLs", sized(" 5\r\nContent-Length: 6"), Refused(400)),
        ("CL list", sized(" 5, 5"), Refused(400)),
        ("+5", sized(" +5"), Refused(400)),
        ("-1", sized(" -1"), Refused(400)),
        ("0x5", sized(" 0x5"), Refused(400)),
        ("5.0", sized(" 5.0"), Refused(400)),
        ("5 5", sized(" 5 5"), Refused(400)),
        ("empty CL", sized(""), Refused(400)),
        ("blank CL", sized("  "), Refused(400)),
        ("Arabic digit", sized(" \u{665}"), Refused(400)),
        ("too great for 64 bits", sized(" 18446744073709551621"), Refused(400)),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_have_one_reading() {
    let body = |chunks: &str| post("Transfer-Encoding: chunked\r\n", &format!("{chunks}{SMUGGLED}"));
    let whole = |chunks: &str| post("Transfer-Encoding: chunked\r\n", chunks);
    const FIRST: Expect = Served(&[("POST", "/first", "hello")]);
    check(vec![
        ("plain", whole("5\r\nhello\r\n0\r\n\r\n"), FIRST),
        ("leading zeros", whole("005\r\nhello\r\n000\r\n\r\n"), FIRST),
        ("extension", whole("5;name=value\r\nhello\r\n0;end\r\n\r\n"), FIRST),
        ("too great for 64 bits", body("10000000000000005\r\nhello\r\n0\r\n\r\n"), Refused(400)),
        ("negative", body("-5\r\nhello\r\n0\r\n\r\n"), Refused(400)),
        ("sign", body("+5\r\nhello\r\n0\r\n\r\n"), Refused(400)),
        ("prefix", body("0x5\r\nhello\r\n0\r\n\r\n"), Refused(400)),
        ("no size", body("\r\nhello\r\n0\r\n\r\n"), Refused(400)),
        ("only an extension", body(";a\r\nhello\r\n0\r\n\r\n"), Refused(400)),
        ("letters", body("five\r\nhello\r\n0\r\n\r\n"), Refused(400)),
        ("underscore", body("0_5\r\nhello\r\n0\r\n\r\n"), Refused(400)),
        ("size ends with LF", body("5\nhello\r\n0\r\n\r\n"), Refused(400)),
        ("extension ends with LF", body("5;a\nhello\r\n0\r\n\r\n"), Refused(400)),
        ("CR in an extension", body("5;a\rb\r\nhello\r\n0\r\n\r\n"), Refused(400)),
        ("chunk ends with LF", body("5\r\nhello\n0\r\n\r\n"), Refused(400)),
        ("chunk ends with junk", body("5\r\nhelloXX0\r\n\r\n"), Refused(400)),
        ("chunk is longer than it says", body("4\r\nhello\r\n0\r\n\r\n"), Refused(400)),
        ("last chunk ends with LF", body("0\n\r\n"), Refused(400)),
        ("no end of the trailers", body("0\r\nX-A: b\rc\r\n\r\n"), Refused(400)),
        ("long extension", body(&format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(20_000))), Refused(400)),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_has_one_reading() {
    const FIRST: Expect = Served(&[("GET", "/first", "")]);
    let plain = "GET /first HTTP/1.1\r\nHost: a.test\r\n";
    check(vec![
        ("plain", format!("{plain}\r\n"), FIRST),
        ("empty line first", format!("\r\n{plain}\r\n"), FIRST),
        ("empty line after a body", format!("{}\r\n", post("Content-Length: 5\r\n", "hello")), Served(&[("POST", "/first", "hello")])),
        // RFC 9112 section 2.2: a recipient may take a lone LF for the end of a line.
        ("lone LF", "GET /first HTTP/1.1\nHost: a.test\n\n".into(), FIRST),
        ("fold", get("X-A: b\r\n c\r\n"), Refused(400)),
        ("fold by a tab", get("X-A: b\r\n\tc\r\n"), Refused(400)),
        ("fold of the first line", format!("GET /first HTTP/1.1\r\n Host: a.test\r\n\r\n{SMUGGLED}"), Refused(400)),
        ("CR in a value", get("X-A: b\rc\r\n"), Refused(400)),
        ("CR ends a line", get("X-A: b\rX-B: c\r\n"), Refused(400)),
        ("NUL in a value", get("X-A: b\0c\r\n"), Refused(400)),
        ("NUL in a name", get("X\0A: b\r\n"), Refused(400)),
        ("DEL in a value", get("X-A: b\x7fc\r\n"), Refused(400)),
        ("ESC in a value", get("X-A: \x1b[0m\r\n"), Refused(400)),
        ("no colon", get("X-A\r\n"), Refused(400)),
        ("no name", get(": b\r\n"), Refused(400)),
        ("space before the colon", get("X-A : b\r\n"), Refused(400)),
        ("space in a name", get("X A: b\r\n"), Refused(400)),
        ("brackets in a name", get("X(A): b\r\n"), Refused(400)),
        ("a name beyond ASCII", get("X-\u{e4}: b\r\n"), Refused(400)),
        ("method with a bracket", format!("G(T /first HTTP/1.1\r\nHost: a.test\r\n\r\n{SMUGGLED}"), Refused(400)),
        ("no method", format!(" /first HTTP/1.1\r\nHost: a.test\r\n\r\n{SMUGGLED}"), Refused(400)),
        ("no version", format!("GET /first\r\nHost: a.test\r\n\r\n{SMUGGLED}"), Refused(400)),
        ("version 1.2", format!("GET /first HTTP/1.2\r\nHost: a.test\r\n\r\n{SMUGGLED}"), Refused(400)),
        ("version 2.0", format!("GET /first HTTP/2.0\r\nHost: a.test\r\n\r\n{SMUGGLED}"), Refused(400)),
        ("version 0.9", format!("GET /first HTTP/0.9\r\nHost: a.test\r\n\r\n{SMUGGLED}"), Refused(400)),
        ("small http", format!("GET /first http/1.1\r\nHost: a.test\r\n\r\n{SMUGGLED}"), Refused(400)),
        ("two versions", format!("GET /first HTTP/1.1 HTTP/1.1\r\nHost: a.test\r\n\r\n{SMUGGLED}"), Refused(400)),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_names_one_host() {
    let host = |host: &str| format!("GET /first HTTP/1.1\r\nHost: {host}\r\n\r\n{SMUGGLED}");
    let target = |target: &str, host: &str| format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    const FIRST: Expect = Served(&[("GET", "/first", "")]);
    check(vec![
        ("none", format!("GET /first HTTP/1.1\r\nX-A: b\r\n\r\n{SMUGGLED}"), Refused(400)),
        ("two", get("Host: b.test\r\n"), Refused(400)),
        ("the same twice", get("Host: a.test\r\n"), Refused(400)),
        ("empty", host(""), Refused(400)),
        ("list", host("a.test, b.test"), Refused(400)),
        ("space", host("a test"), Refused(400)),
        ("tab", host("a\ttest"), Refused(400)),
        ("user", host("user@a.test"), Refused(400)),
        ("path", host("a.test/first"), Refused(400)),
        ("query", host("a.test?first"), Refused(400)),
        ("fragment", host("a.test#first"), Refused(400)),
        ("backslash", host("a.test\\first"), Refused(400)),
        ("port too great", host("a.test:65536"), Refused(400)),
        ("port of letters", host("a.test:http"), Refused(400)),
        ("port with a sign", host("a.test:+80"), Refused(400)),
        ("two ports", host("a.test:80:80"), Refused(400)),
        ("open bracket", host("[::1"), Refused(400)),
        ("beyond ASCII", host("\u{e4}.test"), Refused(400)),
        ("IPv6", target("/first", "[::1]:80"), FIRST),
        ("absolute form", target("http://a.test/first", "a.test"), FIRST),
        ("absolute form, case", target("http://A.test/first", "a.TEST"), FIRST),
        ("absolute form of another host", format!("{}{SMUGGLED}", target("http://a.test/first", "b.test")), Refused(400)),
        ("absolute form with a user", format!("{}{SMUGGLED}", target("http://user@a.test/first", "user@a.test")), Refused(400)),
        ("absolute form without a path", target("http://a.test", "a.test"), Served(&[("GET", "/", "")])),
        ("CONNECT", format!("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n{SMUGGLED}"), Refused(501)),
        (
            "CONNECT with a length",
            format!("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\nContent-Length: 3\r\n\r\nabc{SMUGGLED}"),
            Refused(501),
        ),
        ("authority form", format!("{}{SMUGGLED}", target("a.test:443", "a.test:443")), Refused(400)),
        ("asterisk", "OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n".into(), Served(&[("OPTIONS", "*", "")])),
        ("asterisk of another method", format!("{}{SMUGGLED}", target("*", "a.test")), Refused(400)),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_has_one_spelling() {
    let path = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let bad = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n{SMUGGLED}");
    const FIRST: Expect = Served(&[("GET", "/first", "")]);
    check(vec![
        ("dots", path("/x/../first"), FIRST),
        ("encoded dots", path("/x/%2e%2E/first"), FIRST),
        ("above the root", bad("/../../first"), Refused(400)),
        ("encoded letter", path("/f%69rst"), FIRST),
        ("encoded slash", bad("/x%2Ffirst"), Refused(400)),
        ("encoded slash, small", bad("/x%2ffirst"), Refused(400)),
        ("encoded slash in the query", path("/first?x=%2F"), Served(&[("GET", "/first?x=%2F", "")])),
        ("encoded NUL", bad("/first%00"), Refused(400)),
        ("half an escape", bad("/first%2"), Refused(400)),
        ("no escape", bad("/first%zz"), Refused(400)),
        ("relative", bad("first"), Refused(400)),
        ("space", bad("/fi rst"), Refused(400)),
        ("NUL", bad("/fi\0rst"), Refused(400)),
        ("backslash", bad("/x\\..\\first"), Refused(400)),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn encoded_slashes_are_kept_where_the_listener_says_so() {
    let endpoint = Endpoint::answering("").await;
    let config = to(&[endpoint.address], "").replace("[routes.web]", "encoded_slashes = \"keep\"\n[routes.web]");
    let proxy = Proxy::start(&config).await;
    assert_eq!(proxy.get("/a%2fb").await.status(), 200);
    assert_eq!(endpoint.request().target(), "/a%2Fb");
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_bounded() {
    let many = |count: usize| get(&"X-A: b\r\n".repeat(count));
    let long = |bytes: usize| get(&format!("X-A: {}\r\n", "a".repeat(bytes)));
    let target = |bytes: usize| format!("GET /{} HTTP/1.1\r\nHost: a.test\r\n\r\n{SMUGGLED}", "a".repeat(bytes));
    check(vec![
        ("101 fields", many(100), Refused(431)),
        ("a long field", long(70_000), Refused(431)),
        ("a very long field", long(3_000_000), Refused(431)),
        ("a long target", target(16_384), Refused(414)),
        ("a target longer than the head may be", target(80_000), Refused(431)),
    ])
    .await;
}

/// Requests that are well formed, cut into segments anywhere, are answered one for one, in order.
#[tokio::test(flavor = "multi_thread")]
async fn requests_are_seen_as_they_were_sent() {
    let endpoint = Endpoint::replying(|request| response(200, &echo(request))).await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let mut random = Random(7);
    for _ in 0..20 {
        let (bytes, wanted): (Vec<String>, Vec<String>) = (0..10).map(|_| random.request()).unzip();
        let bytes = bytes.concat().into_bytes();
        let mut client = proxy.connect().await;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (segment, after) = rest.split_at(random.below(rest.len().min(200)) + 1);
            client.send(segment).await;
            rest = after;
        }
        for wanted in wanted {
            assert_eq!(client.response().await.text(), wanted);
        }
    }
    endpoint.assert_clean();
    assert_eq!(endpoint.requests().len(), 200);
}

/// The same with some bytes changed: whatever the proxy makes of it, the endpoint has seen exactly what was answered for it.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_requests_are_answered_one_for_one() {
    let endpoint = Endpoint::replying(|request| response(200, &echo(request))).await;
    let config = to(&[endpoint.address], "").replace(
        "[routes.web]",
        "timeouts = { client_header = \"1s\", client_idle = \"1s\" }\nlimits = { connections = 1000 }\n[routes.web]",
    );
    let proxy = Proxy::start(&config).await;
    let mut clients = tokio::task::JoinSet::new();
    for seed in 0..400 {
        let mut client = proxy.connect().await;
        clients.spawn(async move {
            let mut random = Random(seed);
            let mut bytes: Vec<u8> = (0..4).flat_map(|_| random.request().0.into_bytes()).collect();
            for _ in 0..=random.below(2) {
                let at = random.below(bytes.len());
                match random.below(4) {
                    0 => bytes[at] = b"\r\n\0 :;,\t0123456789aZ\x80"[random.below(21)],
                    1 => drop(bytes.remove(at)),
                    2 => bytes.insert(at, b"\r\n\0 :;,\t0123456789aZ\x80"[random.below(21)]),
                    _ => {
                        let next = (at + 1).min(bytes.len() - 1);
                        bytes.swap(at, next);
                    }
                }
            }
            let _ = client.try_send(&bytes).await;
            let mut echoes = Vec::new();
            while let Ok(response) = client.try_response().await {
                if response.status() == 200 {
                    echoes.push(response.text().to_owned());
                }
            }
            echoes
        });
    }
    let answered = tally(clients.join_all().await.concat());
    let seen = tally(endpoint.requests().iter().map(echo));
    endpoint.assert_clean();
    assert_eq!(answered, seen);
    assert!(seen.values().sum::<usize>() > 400);
}

/// SplitMix64: the same requests in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    /// A request, and what an endpoint that reads it right says.
    fn request(&mut self) -> (String, String) {
        let target = format!("/{}", self.below(1_000_000));
        let body = "abc".repeat(self.below(100));
        let (framing, sent, method) = match self.below(3) {
            0 => (String::new(), String::new(), "GET"),
            1 => (format!("Content-Length: {}\r\n", body.len()), body.clone(), "POST"),
            _ => {
                let mut chunks = String::new();
                let mut rest = body.as_str();
                while !rest.is_empty() {
                    let (chunk, after) = rest.split_at(self.below(rest.len().min(90)) + 1);
                    chunks += &format!("{:x}\r\n{chunk}\r\n", chunk.len());
                    rest = after;
                }
                ("Transfer-Encoding: chunked\r\n".into(), format!("{chunks}0\r\n\r\n"), "PUT")
            }
        };
        let body = if method == "GET" { "" } else { body.as_str() };
        (format!("{method} {target} HTTP/1.1\r\nHost: a.test\r\n{framing}\r\n{sent}"), format!("{method} {target} {body:?}"))
    }
}
