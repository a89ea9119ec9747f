//! What the etcd provider promises beyond the contract of all providers, on a real etcd that is killed, frozen, wiped and compacted.

mod support;

use std::time::{Duration, Instant};

use etcd_client::{Permission, PermissionType, PutOptions};
use hdrhistogram::Histogram;
use nuncio::config::providers::{ClientTls, EtcdConfig};
use nuncio::config::{Pem, Snapshot};
use nuncio::discovery::etcd::{CALL_TIMEOUT, HEARTBEAT_INTERVAL};
use nuncio::discovery::{EtcdProvider, FeedState, FeedStatus, Provider};
use nuncio::names::Name;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use support::etcd::Etcd;
use support::relay::Relay;
use support::{DEADLINE, Observed, Recorder, endpoints, is_empty, summary};

/// How soon after etcd answers again the table must be right.
const SOON: Duration = Duration::from_secs(1);

fn provider(config: EtcdConfig) -> Box<EtcdProvider> {
    Box::new(EtcdProvider::new(Name::literal("etcd"), config))
}

fn observe(etcd: &Etcd) -> Observed {
    observe_url(etcd.url())
}

fn observe_url(url: String) -> Observed {
    Observed::new(provider(EtcdConfig { endpoints: vec![url], ..EtcdConfig::default() }))
}

fn is_failing(status: &FeedStatus) -> bool {
    matches!(status.state, FeedState::Failing { .. })
}

fn upstreams(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.upstreams.keys().map(Name::as_str).collect()
}

#[tokio::test]
async fn appears_after_we_started() {
    let mut etcd = Etcd::stopped();
    let observed = observe(&etcd);
    let status = observed.until_status("it fails", is_failing).await;
    let FeedState::Failing { error } = &status.state else { unreachable!("it fails") };
    assert!(
        error.starts_with(&format!("etcd {}: ", etcd.url())) && error.ends_with("tcp connect error: Connection refused (os error 111)"),
        "{error}"
    );
    assert!(!status.has_snapshot);
    etcd.run().await;
    observed.within(SOON, "an empty store", is_empty).await;
}

#[tokio::test]
async fn killed_and_restarted() {
    let mut etcd = Etcd::start().await;
    etcd.writer().await.put("/nuncio/upstreams/a", "{}").await;
    let observed = observe(&etcd);
    observed.until("a", |snapshot| upstreams(snapshot) == ["a"]).await;
    for name in ["b", "c", "d"] {
        etcd.kill();
        observed.until_status("it fails", is_failing).await;
        assert!(observed.feed().latest().is_some_and(|snapshot| snapshot.upstreams.contains_key("a")));
        etcd.run().await;
        let answered = Instant::now();
        etcd.writer().await.put(&format!("/nuncio/upstreams/{name}"), "{}").await;
        observed.within(SOON.saturating_sub(answered.elapsed()), name, |snapshot| snapshot.upstreams.contains_key(name)).await;
    }
}

#[tokio::test]
async fn frozen_and_thawed() {
    let etcd = Etcd::start().await;
    let mut writer = etcd.writer().await;
    writer.put("/nuncio/upstreams/a", "{}").await;
    let observed = observe(&etcd);
    // Whichever it is doing then: waiting for a heartbeat's answer, or for its watch to be created.
    observed.until("a", |snapshot| upstreams(snapshot) == ["a"]).await;
    let frozen = Instant::now();
    etcd.freeze();
    let status = observed.until_status("it fails", is_failing).await;
    let noticed = frozen.elapsed();
    assert!(noticed < HEARTBEAT_INTERVAL + CALL_TIMEOUT + Duration::from_millis(500), "noticed after {noticed:?}");
    assert!(status.has_snapshot);
    etcd.thaw();
    writer.put("/nuncio/upstreams/b", "{}").await;
    // The attempt under way when it thawed may go on; none is slower than its time-outs.
    observed.within(SOON + CALL_TIMEOUT, "b", |snapshot| upstreams(snapshot) == ["a", "b"]).await;
}

#[tokio::test]
async fn an_idle_store_stays_live() {
    let etcd = Etcd::start().await;
    let observed = observe(&etcd);
    let first = observed.until_status("it is live", |status| status.state == FeedState::Live).await;
    let failed = observed.until_status("a failure", |status| status.state != FeedState::Live);
    // Time passing is what is tested here: nothing but heartbeats happens.
    assert!(tokio::time::timeout(HEARTBEAT_INTERVAL * 4, failed).await.is_err(), "an idle store is no failure");
    let last = observed.feed().status();
    assert!(last.last_contact > first.last_contact.map(|contact| contact + HEARTBEAT_INTERVAL * 2), "heartbeats are contacts");
    assert_eq!((last.restarts, last.last_change), (0, first.last_change));
}

#[tokio::test]
async fn what_was_compacted_is_listed_again() {
    let etcd = Etcd::start().await;
    let relay = Relay::to(etcd.address()).await;
    let mut writer = etcd.writer().await;
    writer.put("/nuncio/upstreams/goes", "{}").await;
    writer.put("/nuncio/upstreams/stays", "{}").await;
    let observed = observe_url(format!("http://{}", relay.address()));
    observed.until("both", |snapshot| upstreams(snapshot) == ["goes", "stays"]).await;
    relay.cut();
    observed.until_status("it fails", is_failing).await;
    writer.delete("/nuncio/upstreams/goes").await;
    writer.put("/nuncio/upstreams/comes", "{}").await;
    writer.put("/elsewhere", "").await;
    writer.compact().await;
    relay.mend();
    observed.within(SOON, "the table is right", |snapshot| upstreams(snapshot) == ["comes", "stays"]).await;
    writer.put("/nuncio/upstreams/later", "{}").await;
    observed.within(SOON, "and goes on", |snapshot| upstreams(snapshot) == ["comes", "later", "stays"]).await;
}

#[tokio::test]
async fn a_rebuilt_store_is_listed_again() {
    let mut etcd = Etcd::start().await;
    let mut writer = etcd.writer().await;
    for name in ["a", "b", "c", "d"] {
        writer.put(&format!("/nuncio/upstreams/{name}"), "{}").await;
    }
    let observed = observe(&etcd);
    observed.until("all", |snapshot| upstreams(snapshot) == ["a", "b", "c", "d"]).await;
    etcd.kill();
    etcd.wipe();
    observed.until_status("it fails", is_failing).await;
    etcd.run().await;
    // The same cluster id, because that is made of member URLs, and a lower revision.
    etcd.writer().await.put("/nuncio/upstreams/new", "{}").await;
    // All that was there is gone at once, and nobody deleted it: what is new counts, and the rest is held until someone confirms it.
    observed.within(SOON, "the new store", |snapshot| upstreams(snapshot) == ["a", "b", "c", "d", "new"]).await;
    let held = observed.feed().status().held.expect("it is held");
    assert_eq!(held.gone.iter().map(ToString::to_string).collect::<Vec<_>>(), ["4 of 4 upstreams"]);
    assert!(observed.feed().release(), "something was held");
    observed.within(SOON, "the new store alone", |snapshot| upstreams(snapshot) == ["new"]).await;
    assert!(observed.feed().status().held.is_none() && !observed.feed().release());
}

/// It keeps its id, and its revision is ahead of ours: only what it holds tells that its history is another one.
#[tokio::test]
async fn a_store_restored_from_a_backup_is_listed_again_even_if_it_overtook_us() {
    let mut etcd = Etcd::start().await;
    etcd.writer().await.put("/nuncio/upstreams/kept", "{}").await;
    etcd.kill();
    etcd.keep_data();
    etcd.run().await;
    let mut writer = etcd.writer().await;
    let relay = Relay::to(etcd.address()).await;
    let observed = observe_url(format!("http://{}", relay.address()));
    writer.put("/nuncio/upstreams/lost", "{}").await;
    observed.until("both", |snapshot| upstreams(snapshot) == ["kept", "lost"]).await;
    relay.cut();
    observed.until_status("it fails", is_failing).await;
    etcd.kill();
    etcd.restore_data();
    etcd.run().await;
    let mut writer = etcd.writer().await;
    for name in ["other", "another"] {
        writer.put(&format!("/nuncio/upstreams/{name}"), "{}").await;
    }
    relay.mend();
    observed.within(SOON, "what it holds", |snapshot| upstreams(snapshot) == ["another", "kept", "other"]).await;
}

#[tokio::test]
async fn deleting_the_prefix_is_real() {
    let etcd = Etcd::start().await;
    let mut writer = etcd.writer().await;
    writer.put("/nuncio/upstreams/a", "{}").await;
    writer.put("/nuncio2/upstreams/b", "{}").await;
    let observed = observe(&etcd);
    observed.until("a, not b", |snapshot| upstreams(snapshot) == ["a"]).await;
    writer.delete_prefix("/nuncio/").await;
    observed.within(SOON, "nothing", is_empty).await;
    assert_eq!(observed.feed().status().state, FeedState::Live);
}

#[tokio::test]
async fn an_expired_lease_removes_its_endpoint() {
    let etcd = Etcd::start().await;
    let mut writer = etcd.writer().await;
    writer.put("/nuncio/upstreams/api/endpoints/1", "10.0.0.1:80").await;
    writer.put_with_lease("/nuncio/upstreams/api/endpoints/2", "10.0.0.2:80", 1).await;
    let observed = observe(&etcd);
    observed.until("both", |snapshot| endpoints(snapshot, "api").len() == 2).await;
    observed.until("the other one", |snapshot| endpoints(snapshot, "api") == ["10.0.0.1:80"]).await;
}

/// Keys of one registrar: what it deletes is gone, however much of it, and what goes with its lease is held.
#[tokio::test]
async fn what_a_registrar_deletes_is_not_taken_for_a_lease_that_ended() {
    let etcd = Etcd::start().await;
    let mut writer = etcd.writer().await;
    let lease = writer.0.lease_grant(600, None).await.expect("etcd grants a lease").id();
    for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        let options = PutOptions::new().with_lease(lease);
        writer.0.put(format!("/nuncio/upstreams/{name}"), "{}", Some(options)).await.expect("etcd takes a key");
    }
    let observed = observe(&etcd);
    observed.until("all", |snapshot| upstreams(snapshot).len() == 8).await;
    for name in ["a", "b", "c", "d", "e"] {
        writer.delete(&format!("/nuncio/upstreams/{name}")).await;
    }
    observed.within(SOON, "what was deleted is gone", |snapshot| upstreams(snapshot) == ["f", "g", "h"]).await;
    writer.0.lease_revoke(lease).await.expect("etcd ends a lease");
    observed.until_status("the rest is held", |status| status.held.is_some()).await;
    assert_eq!(upstreams(&observed.feed().latest().expect("a snapshot")), ["f", "g", "h"]);
}

#[tokio::test]
async fn a_refreshed_registration_is_no_change() {
    let etcd = Etcd::start().await;
    let mut writer = etcd.writer().await;
    let key = "/nuncio/upstreams/api/endpoints/1";
    writer.put(key, "10.0.0.1:80").await;
    let mut provider = provider(EtcdConfig { endpoints: vec![etcd.url()], ..EtcdConfig::default() });
    let (recorder, mut recorded) = Recorder::new();
    let check = async {
        recorded.recv().await.expect("the first snapshot");
        for _ in 0..10 {
            writer.put(key, "10.0.0.1:80").await;
        }
        writer.put(key, "10.0.0.2:80").await;
        let (next, _) = recorded.recv().await.expect("the next snapshot");
        assert_eq!(endpoints(&next, "api"), ["10.0.0.2:80"], "the first one that differs");
    };
    tokio::select! {
        result = provider.watch(&recorder) => panic!("the provider stopped: {result:?}"),
        result = tokio::time::timeout(DEADLINE, check) => result.expect("in time"),
    }
}

#[tokio::test]
async fn lists_larger_than_a_grpc_message() {
    let etcd = Etcd::start().await;
    let mut writer = etcd.writer().await;
    let padding = " ".repeat(1_400_000);
    for index in 0..6 {
        writer.put(&format!("/nuncio/upstreams/u{index}"), &format!("{{{padding}}}")).await;
    }
    let observed = observe(&etcd);
    observed.until("all", |snapshot| snapshot.upstreams.len() == 6).await;
}

#[tokio::test]
async fn a_second_member_takes_over() {
    let (one, mut two) = (Etcd::stopped(), Etcd::stopped());
    two.run().await;
    two.writer().await.put("/nuncio/upstreams/a", "{}").await;
    let observed = Observed::new(provider(EtcdConfig { endpoints: vec![one.url(), two.url()], ..EtcdConfig::default() }));
    observed.within(SOON, "the answer of the second", |snapshot| upstreams(snapshot) == ["a"]).await;
}

#[tokio::test]
async fn logs_in() {
    let etcd = Etcd::start().await;
    let mut client = etcd.writer().await.0;
    client.put("/nuncio/upstreams/a", "{}", None).await.expect("put");
    client.role_add("reader").await.expect("role");
    let permission = Permission::new(PermissionType::Read, "/nuncio/").with_prefix();
    client.role_grant_permission("reader", permission).await.expect("grant");
    client.user_add("nuncio", "hunter2", None).await.expect("user");
    client.user_grant_role("nuncio", "reader").await.expect("grant");
    client.user_add("root", "root", None).await.expect("root");
    client.user_grant_role("root", "root").await.expect("grant");
    client.auth_enable().await.expect("auth");

    let with_password = |password: &str| EtcdConfig {
        endpoints: vec![etcd.url()],
        username: Some("nuncio".into()),
        password: Some(password.into()),
        ..EtcdConfig::default()
    };
    let observed = Observed::new(provider(with_password("hunter2")));
    observed.until("what the user may read", |snapshot| upstreams(snapshot) == ["a"]).await;
    let refused = Observed::new(provider(with_password("wrong")));
    let status = refused.until_status("it fails", is_failing).await;
    assert!(format!("{:?}", status.state).contains("authentication failed"), "{:?}", status.state);
    let nobody = observe(&etcd);
    nobody.until_status("it fails", is_failing).await;
    assert!(nobody.feed().latest().is_none(), "what may not be read is not empty");
}

#[tokio::test]
async fn speaks_tls_both_ways() {
    let mut etcd = Etcd::stopped();
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
        path.display().to_string()
    };
    let (server_cert, server_key) = issue("etcd.test");
    let arguments = [
        format!("--cert-file={}", write("server.pem", &server_cert)),
        format!("--key-file={}", write("server.key", &server_key)),
        format!("--trusted-ca-file={}", write("ca.pem", &ca.pem())),
        "--client-cert-auth".into(),
        format!("--listen-client-urls=https://{}", etcd.address()),
        format!("--advertise-client-urls=https://{}", etcd.address()),
    ];
    for argument in arguments {
        etcd = etcd.argument(argument);
    }
    etcd.spawn();

    let (cert, key) = issue("nuncio.test");
    let tls = ClientTls {
        ca: Some(Pem::Path(etcd.directory().join("ca.pem"))),
        cert: Some(Pem::Text(cert)),
        key: Some(Pem::Text(key)),
        server_name: Some("etcd.test".into()),
    };
    let url = format!("https://{}", etcd.address());
    let observe = |tls| Observed::new(provider(EtcdConfig { endpoints: vec![url.clone()], tls, ..EtcdConfig::default() }));
    observe(Some(tls.clone())).until("an empty store", is_empty).await;

    for tls in [None, Some(ClientTls { cert: None, key: None, ..tls.clone() }), Some(ClientTls { key: None, ..tls.clone() })] {
        let refused = observe(tls);
        refused.until_status("it fails", is_failing).await;
        assert!(refused.feed().latest().is_none());
    }
}

/// 1,000 upstreams of 10 endpoints each, 100 changes a second: how long from a write to the snapshot that has it?
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn latency_under_change() {
    const UPSTREAMS: usize = 1_000;
    const ENDPOINTS: usize = 10;
    const CHANGES: u64 = 500;
    let key = |index: usize| format!("/nuncio/upstreams/u{:04}/endpoints/{}", index % UPSTREAMS, index / UPSTREAMS);
    let address = |index: usize, round: u64| format!("10.0.{}.{}:{}", index / 250, index % 250 + 1, 1_000 + round);

    let etcd = Etcd::start().await;
    let mut writer = etcd.writer().await;
    let settings = (0..UPSTREAMS).map(|index| (format!("/nuncio/upstreams/u{index:04}"), "{}".to_owned()));
    let all: Vec<_> = settings.chain((0..UPSTREAMS * ENDPOINTS).map(|index| (key(index), address(index, 0)))).collect();
    writer.put_all(&all).await;

    let mut provider = provider(EtcdConfig { endpoints: vec![etcd.url()], ..EtcdConfig::default() });
    let (recorder, mut recorded) = Recorder::new();
    let started = Instant::now();
    let check = async {
        let (first, listed_at) = recorded.recv().await.expect("the first snapshot");
        let count: usize = first.upstreams.values().map(|entry| entry.endpoints.len()).sum();
        assert_eq!((first.upstreams.len(), count), (UPSTREAMS, UPSTREAMS * ENDPOINTS), "{}", summary(&first));

        let mut written = Micros::new("put → published");
        let mut acknowledged = Micros::new("put → acknowledged by etcd");
        let mut after = Micros::new("acknowledged → published, 0 if it was before");
        let mut taken_over = Micros::new("response seen → published");
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        for round in 1..=CHANGES {
            tick.tick().await;
            let index = (round as usize * 7_919) % (UPSTREAMS * ENDPOINTS);
            let before = Instant::now();
            let revision = writer.put(&key(index), &address(index, round)).await;
            let acknowledged_at = Instant::now();
            acknowledged.record(acknowledged_at - before);
            let (snapshot, published_at) = loop {
                let (snapshot, published_at) = recorded.recv().await.expect("the provider lives");
                if snapshot.revision >= Some(revision) {
                    break (snapshot, published_at);
                }
            };
            written.record(published_at - before);
            after.record(published_at.saturating_duration_since(acknowledged_at));
            taken_over.record(published_at - snapshot.seen_at);
        }
        let report = [written, acknowledged, after, taken_over].map(|micros| micros.report()).join("\n  ");
        let listed = listed_at - started;
        report_line(&format!("{} keys listed in {listed:?}; {CHANGES} changes, microseconds:\n  {report}", all.len()));
    };
    tokio::select! {
        result = provider.watch(&recorder) => panic!("the provider stopped: {result:?}"),
        result = tokio::time::timeout(DEADLINE, check) => result.expect("in time"),
    }
}

struct Micros {
    what: &'static str,
    histogram: Histogram<u64>,
}

impl Micros {
    fn new(what: &'static str) -> Self {
        Self { what, histogram: Histogram::new(3).expect("three digits are allowed") }
    }

    fn record(&mut self, duration: Duration) {
        self.histogram.saturating_record(duration.as_micros() as u64);
    }

    fn report(&self) -> String {
        let at = |quantile| self.histogram.value_at_quantile(quantile);
        format!("{}: median {}, p99 {}, most {}", self.what, at(0.5), at(0.99), self.histogram.max())
    }
}

/// Figures for whoever runs the test with `--nocapture`.
#[allow(clippy::print_stderr)]
fn report_line(text: &str) {
    eprintln!("{text}");
}
