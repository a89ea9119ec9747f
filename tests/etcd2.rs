//! What the etcd v2 provider promises beyond the contract of all providers, on a real etcd that is killed, frozen, restored and wiped; and
//! on a stub where the answer cannot be had from a real one at will.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nuncio::config::providers::{ClientTls, EtcdConfig};
use nuncio::config::{Pem, Snapshot};
use nuncio::discovery::{Etcd2Provider, FeedState, FeedStatus};
use nuncio::names::Name;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use support::etcd::Etcd;
use support::etcd2::{Etcd2Writer, start, stopped};
use support::stub::{Say, Stub};
use support::{DEADLINE, Observed, endpoints, is_empty};
use tokio::sync::watch;

/// How soon after etcd answers again the table must be right.
const SOON: Duration = Duration::from_secs(1);
const ONE: &str = "/nuncio/upstreams/api/endpoints/1";

fn observe(url: String) -> Observed {
    observe_with(EtcdConfig { endpoints: vec![url], ..EtcdConfig::default() })
}

fn observe_with(config: EtcdConfig) -> Observed {
    Observed::new(Box::new(Etcd2Provider::new(Name::literal("etcd2"), config)))
}

fn is_failing(status: &FeedStatus) -> bool {
    matches!(status.state, FeedState::Failing { .. })
}

fn has_one(snapshot: &Snapshot) -> bool {
    endpoints(snapshot, "api") == ["10.0.0.1:80"]
}

async fn started() -> (Etcd, Etcd2Writer) {
    let etcd = start().await;
    let writer = Etcd2Writer::new(etcd.address());
    (etcd, writer)
}

#[tokio::test]
async fn killed_and_restarted() {
    let (mut etcd, writer) = started().await;
    writer.put(ONE, "10.0.0.1:80").await;
    let observed = observe(etcd.url());
    observed.until("the endpoint", has_one).await;
    etcd.kill();
    observed.until_status("it fails", is_failing).await;
    assert!(has_one(&observed.feed().latest().expect("the last snapshot stays")));
    etcd.run().await;
    observed.until_status("it is live", |status| status.state == FeedState::Live).await;
    writer.put(ONE, "10.0.0.2:80").await;
    observed.within(SOON, "the change", |snapshot| endpoints(snapshot, "api") == ["10.0.0.2:80"]).await;
}

/// A store restored from a backup is at an index that we are past: a watch from ours would hang for ever.
#[tokio::test]
async fn restored_to_an_older_state() {
    let (mut etcd, writer) = started().await;
    writer.put(ONE, "10.0.0.1:80").await;
    etcd.kill();
    etcd.keep_data();
    etcd.run().await;
    for _ in 0..20 {
        writer.put(ONE, "10.0.0.2:80").await;
    }
    let observed = observe(etcd.url());
    observed.until("the new state", |snapshot| endpoints(snapshot, "api") == ["10.0.0.2:80"]).await;
    etcd.kill();
    etcd.restore_data();
    etcd.run().await;
    observed.within(SOON, "the old state", has_one).await;
    writer.put("/nuncio/upstreams/later", "{}").await;
    observed.within(SOON, "what came after", |snapshot| snapshot.upstreams.contains_key("later")).await;
}

#[tokio::test]
async fn a_frozen_server_is_noticed_and_loses_nothing() {
    let (etcd, writer) = started().await;
    writer.put(ONE, "10.0.0.1:80").await;
    let observed = observe(etcd.url());
    observed.until("the endpoint", has_one).await;
    etcd.freeze();
    let status = observed.until_status("it fails", is_failing).await;
    let FeedState::Failing { error } = &status.state else { unreachable!("it fails") };
    // The watch may not have been set yet.
    let is_noticed = error.contains("HEAD http://") && error.ends_with("no answer within 2s");
    assert!(is_noticed || error.ends_with("no answer within 5s"), "{error}");
    assert!(has_one(&observed.feed().latest().expect("the last snapshot stays")));
    etcd.thaw();
    observed.until_status("it is live", |status| status.state == FeedState::Live).await;
}

#[tokio::test]
async fn registrations_end_with_their_time_to_live_and_refreshing_them_is_silent() {
    let (etcd, writer) = started().await;
    let observed = observe(etcd.url());
    observed.until("an empty store", is_empty).await;
    writer.put_with(ONE, "value=10.0.0.1:80&ttl=1").await;
    let revision = observed.until("the endpoint", has_one).await.revision;
    writer.put_with(ONE, "ttl=2&refresh=true&prevExist=true").await;
    let gone = observed.until("its end", is_empty).await;
    assert!(gone.revision > revision, "{:?} {revision:?}", gone.revision);
}

#[tokio::test]
async fn a_directory_goes_with_all_that_is_in_it() {
    let (etcd, writer) = started().await;
    let prefix = "/site/edge".to_owned();
    let observed = observe_with(EtcdConfig { endpoints: vec![etcd.url()], prefix, ..EtcdConfig::default() });
    observed.until("a directory that does not exist is empty", is_empty).await;

    writer.put("/site/edge/upstreams/api/endpoints/1", "10.0.0.1:80").await;
    observed.until("the endpoint", has_one).await;
    writer.put("/site/edge/upstreams/stays", "{}").await;
    writer.delete("/site/edge/upstreams/api").await;
    let left = observed.until("the other one", |snapshot| !snapshot.upstreams.contains_key("api")).await;
    assert!(left.upstreams.contains_key("stays"));

    // The one who watches a child hears of its parent's end.
    writer.delete("/site").await;
    observed.until("nothing", is_empty).await;

    writer.put_with("/site/edge/upstreams/api", "dir=true&ttl=1").await;
    writer.put("/site/edge/upstreams/api/endpoints/1", "10.0.0.1:80").await;
    observed.until("the endpoint again", has_one).await;
    observed.until("the end of its directory", is_empty).await;
}

/// Others may write more than etcd remembers while nothing of ours changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_events_of_others() {
    let (etcd, writer) = started().await;
    let observed = observe(etcd.url());
    observed.until("an empty store", is_empty).await;
    let write = |from: usize| {
        let writer = writer.clone();
        async move {
            for index in from..from + 275 {
                writer.put(&format!("/other/{index}"), "x").await;
            }
        }
    };
    tokio::join!(write(0), write(275), write(550), write(825));
    let cleared = writer.get("/v2/keys/nuncio?wait=true&recursive=true&waitIndex=1").await;
    assert_eq!(cleared.status(), 400);
    assert!(cleared.body.contains("\"errorCode\":401"), "{}", cleared.body);
    writer.put(ONE, "10.0.0.1:80").await;
    observed.within(SOON, "ours", has_one).await;
    writer.delete(ONE).await;
    observed.within(SOON, "its end", is_empty).await;
}

/// The same answer to a watch of ours: it is followed by a new list, not by an error, and not by the same watch for ever.
#[tokio::test]
async fn a_cleared_history_is_listed_again() {
    let (seen, mut watches) = watch::channel(0);
    let lists = AtomicUsize::new(0);
    let stub = Stub::start(move |request| {
        seen.send_modify(|watches| *watches += usize::from(request.parameter("waitIndex") == Some("1010")));
        let at = |index: u32| format!("X-Etcd-Cluster-Id: c\r\nX-Etcd-Index: {index}\r\n");
        let list = |value: &str| {
            format!(r#"{{"action":"get","node":{{"dir":true,"nodes":[{{"key":"{ONE}","value":"{value}","modifiedIndex":3}}]}}}}"#)
        };
        let say = match (request.parameter("waitIndex"), lists.load(Ordering::Relaxed)) {
            (Some("4"), _) => Say::Whole(400, at(1009), r#"{"errorCode":401,"message":"cleared","cause":"[10/4]","index":1009}"#.into()),
            (Some(_), _) => Say::Hang(200, at(1009)),
            (None, 0) => Say::Whole(200, at(3), list("10.0.0.9:80")),
            (None, _) => Say::Whole(200, at(1009), list("10.0.0.1:80")),
        };
        lists.fetch_add(usize::from(request.parameter("quorum").is_some()), Ordering::Relaxed);
        async { say }
    })
    .await;
    let observed = observe(stub.url());
    observed.until("the second list", has_one).await;
    let watched = watches.wait_for(|watches| *watches == 1);
    tokio::time::timeout(DEADLINE, watched).await.expect("in time").expect("the stub lives");
    assert_eq!(observed.feed().status().restarts, 0);
}

/// Answers that are none: cut, no JSON, of a key, during an election, without an index, never with an event.
#[tokio::test]
async fn what_is_no_answer_is_not_empty() {
    let at = "X-Etcd-Cluster-Id: c\r\nX-Etcd-Index: 3\r\n".to_owned();
    let empty = r#"{"action":"get","node":{"key":"/nuncio","dir":true}}"#.to_owned();
    for (say, expected) in [
        (Say::Cut(200, at.clone(), empty.clone()), "read http"),
        (Say::Whole(200, at.clone(), "<html>".into()), "no answer of etcd"),
        (Say::Whole(200, at.clone(), r#"{"action":"get","node":{"key":"/nuncio","value":"x"}}"#.into()), "is a key, not a directory"),
        (Say::Whole(500, at.clone(), r#"{"errorCode":300,"message":"Raft Internal Error"}"#.into()), "etcd error 300: Raft Internal Error"),
        (Say::Whole(404, at.clone(), "nothing here".into()), "404 Not Found: nothing here"),
        (Say::Whole(200, String::new(), empty), "X-Etcd-Index"),
    ] {
        let stub = Stub::start(move |_| std::future::ready(say.clone())).await;
        let observed = observe(stub.url());
        let status = observed.until_status("it fails", is_failing).await;
        assert!(format!("{:?}", status.state).contains(expected), "{expected}: {:?}", status.state);
        assert!(observed.feed().latest().is_none(), "{expected}");
    }
}

#[tokio::test]
async fn logs_in() {
    let (etcd, writer) = started().await;
    writer.put(ONE, "10.0.0.1:80").await;
    writer.put_json("/v2/auth/users/root", r#"{"user":"root","password":"root"}"#).await;
    writer.put_json("/v2/auth/users/nuncio", r#"{"user":"nuncio","password":"hunter2"}"#).await;
    writer.put_json("/v2/auth/roles/reader", r#"{"role":"reader","permissions":{"kv":{"read":["/nuncio*"],"write":[]}}}"#).await;
    writer.put_json("/v2/auth/users/nuncio", r#"{"user":"nuncio","grant":["reader"]}"#).await;
    writer.put_json("/v2/auth/enable", "").await;
    writer.put_json("/v2/auth/roles/guest", r#"{"role":"guest","revoke":{"kv":{"read":["/*"],"write":["/*"]}}}"#).await;

    let as_user = |username: Option<&str>, password: Option<&str>| {
        let (username, password) = (username.map(Into::into), password.map(Into::into));
        observe_with(EtcdConfig { endpoints: vec![etcd.url()], username, password, ..EtcdConfig::default() })
    };
    as_user(Some("nuncio"), Some("hunter2")).until("what the user may read", has_one).await;
    for refused in [as_user(Some("nuncio"), Some("geheim")), as_user(None, None)] {
        let status = refused.until_status("it fails", is_failing).await;
        let state = format!("{:?}", status.state);
        assert!(state.contains("etcd error 110") && !state.contains("geheim"), "{state}");
        assert!(refused.feed().latest().is_none(), "what may not be read is not empty");
    }
}

#[tokio::test]
async fn another_member_takes_over() {
    let dead = stopped();
    let (etcd, writer) = started().await;
    writer.put(ONE, "10.0.0.1:80").await;
    let observed = observe_with(EtcdConfig { endpoints: vec![dead.url(), etcd.url()], ..EtcdConfig::default() });
    observed.within(SOON, "the answer of the second", has_one).await;
}

#[tokio::test]
async fn speaks_tls_both_ways_and_reads_renewed_certificates() {
    let mut etcd = stopped();
    let ca = {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
    };
    let issue = |name: &str| {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        (params.signed_by(&key, &ca).expect("a certificate").pem(), key.serialize_pem())
    };
    let write = |name: &str, text: &str| {
        let path = etcd.directory().join(name);
        std::fs::write(&path, text).expect("our own directory");
        path
    };
    let (server_cert, server_key) = issue("etcd.test");
    let arguments = [
        format!("--cert-file={}", write("server.pem", &server_cert).display()),
        format!("--key-file={}", write("server.key", &server_key).display()),
        format!("--trusted-ca-file={}", write("ca.pem", &ca.pem()).display()),
        "--client-cert-auth".into(),
        format!("--listen-client-urls=https://{}", etcd.address()),
        format!("--advertise-client-urls=https://{}", etcd.address()),
    ];
    // A pair that does not fit, as it may be seen in the middle of a renewal.
    let (cert, key) = issue("nuncio.test");
    let tls = ClientTls {
        ca: Some(Pem::Path(etcd.directory().join("ca.pem"))),
        cert: Some(Pem::Path(write("client.pem", &cert))),
        key: Some(Pem::Path(write("client.key", &issue("nuncio.test").1))),
        server_name: Some("etcd.test".into()),
    };
    let key_path = etcd.directory().join("client.key");
    for argument in arguments {
        etcd = etcd.argument(argument);
    }
    etcd.spawn();

    let url = format!("https://{}", etcd.address());
    let observe = |tls| observe_with(EtcdConfig { endpoints: vec![url.clone()], tls, ..EtcdConfig::default() });
    let observed = observe(Some(tls.clone()));
    let state = observed.until_status("it fails", is_failing).await.state;
    std::fs::write(key_path, key).expect("our own directory");
    observed.until("an empty store, after the pair was completed", is_empty).await;
    assert!(matches!(state, FeedState::Failing { .. }));

    for tls in [None, Some(ClientTls { cert: None, key: None, ..tls.clone() }), Some(ClientTls { server_name: None, ..tls.clone() })] {
        let refused = observe(tls);
        refused.until_status("it fails", is_failing).await;
        assert!(refused.feed().latest().is_none());
    }
}
