//! What the Consul provider promises beyond the contract of all providers, on a stub that answers as Consul does.

mod support;

use std::sync::Arc;
use std::time::Duration;

use nuncio::config::Snapshot;
use nuncio::config::providers::{ConsulConfig, LayoutKind, RouteTemplate};
use nuncio::discovery::{ConsulProvider, FeedState, FeedStatus};
use nuncio::names::Name;
use support::consul::Consul;
use support::stub::Say;
use support::{Observed, is_empty};

const SOON: Duration = Duration::from_secs(1);

fn observe(consul: &Consul) -> Observed {
    observe_with(ConsulConfig { endpoints: vec![consul.stub().url()], ..ConsulConfig::default() })
}

fn observe_with(config: ConsulConfig) -> Observed {
    Observed::new(Box::new(ConsulProvider::new(Name::literal("consul"), config)))
}

fn put(consul: &Consul, key: &str) {
    consul.put(&[(key.into(), "{}".into())]);
}

fn is_failing(status: &FeedStatus) -> bool {
    matches!(status.state, FeedState::Failing { .. })
}

fn is_live(status: &FeedStatus) -> bool {
    status.state == FeedState::Live
}

fn has<'a>(names: &'a [&str]) -> impl Fn(&Snapshot) -> bool + 'a {
    move |snapshot| snapshot.upstreams.keys().map(Name::as_str).eq(names.iter().copied())
}

#[tokio::test]
async fn keys_of_other_prefixes_and_folders_are_not_ours() {
    let consul = Consul::start().await;
    for key in ["nuncio/", "nuncio/upstreams/", "nuncio/upstreams/a", "nuncio2/upstreams/b"] {
        put(&consul, key);
    }
    let snapshot = observe(&consul).until("ours", has(&["a"])).await;
    assert!(snapshot.problems.is_empty(), "{:?}", snapshot.problems);
    assert_eq!(snapshot.revision, Some(14));
}

/// registrator's `consulkv` writes no objects of ours, only where instances listen.
#[tokio::test]
async fn what_registrators_write_is_read_in_their_layout() {
    let consul = Consul::start().await;
    let pairs =
        [("services/web/vm:web_1:80", "10.0.0.1:32768"), ("services/web/vm:web_2:80", "10.0.0.2:32768"), ("nuncio/upstreams/a", "{}")];
    consul.put(&pairs.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let layout = LayoutKind::Services;
    let route = RouteTemplate::parse(r#"Host("{name}.test")"#).ok();
    let config = ConsulConfig { prefix: "services".into(), layout, route, ..ConsulConfig::default() };
    let observed = observe_with(ConsulConfig { endpoints: vec![consul.stub().url()], ..config });
    let snapshot = observed.until("the service", has(&["web"])).await;
    assert_eq!((snapshot.routes.len(), snapshot.upstreams["web"].endpoints.len()), (1, 2));
    assert!(snapshot.problems.is_empty(), "{:?}", snapshot.problems);
}

#[tokio::test]
async fn a_store_that_was_rebuilt_is_read_from_the_start() {
    let consul = Consul::start().await;
    put(&consul, "nuncio/upstreams/a");
    let observed = observe(&consul);
    observed.until("the first life", has(&["a"])).await;
    // The agent restarts: connections end, and the index is below ours. A query with ours would wait although there is something new.
    consul.set(|state| state.instead = Some(Say::Cut(500, String::new(), String::new())));
    observed.until_status("it fails", is_failing).await;
    consul.set(|state| {
        state.instead = None;
        state.index = 2;
        state.keys = [("nuncio/upstreams/b".into(), ("{}".into(), 2))].into();
    });
    observed.within(SOON, "the second life", has(&["b"])).await;
    put(&consul, "nuncio/upstreams/c");
    observed.within(SOON, "what came after", has(&["b", "c"])).await;
    let asked = consul.asked();
    assert!(asked.iter().any(|asked| asked.parameter("index") == Some("2") && asked.parameter("wait") == Some("30s")));
}

#[tokio::test]
async fn an_empty_store_is_empty_and_a_denied_one_is_not() {
    let consul = Consul::start().await;
    put(&consul, "nuncio/upstreams/a");
    let observed = observe(&consul);
    let before = observed.until("the upstream", has(&["a"])).await;
    consul.set(|state| {
        state.token = Some("geheim".into());
        state.index += 1;
    });
    let FeedState::Failing { error } = observed.until_status("it fails", is_failing).await.state else { unreachable!("it fails") };
    assert!(error.ends_with("denied: Permission denied"), "{error}");
    let after = observed.feed().latest().expect("the last snapshot stays");
    assert!(Arc::ptr_eq(&before.upstreams["a"], &after.upstreams["a"]));

    let with_token = |token: &str| {
        observe_with(ConsulConfig { endpoints: vec![consul.stub().url()], token: Some(token.into()), ..ConsulConfig::default() })
    };
    let allowed = with_token("geheim");
    allowed.until("what the token may read", has(&["a"])).await;
    consul.delete("nuncio/upstreams/a");
    allowed.until("empty for who may read it", is_empty).await;

    let unknown = with_token("verraten");
    let state = unknown.until_status("it fails", is_failing).await.state;
    assert!(format!("{state:?}").contains("denied: ACL not found") && !format!("{state:?}").contains("verraten"), "{state:?}");
    assert!(unknown.feed().latest().is_none());
}

#[tokio::test]
async fn what_is_no_answer_is_not_empty() {
    let fields = |more: &str| format!("X-Consul-Index: 9\r\n{more}");
    for (say, expected) in [
        (Say::Cut(200, fields(""), "[]".into()), "read http"),
        (Say::Whole(200, fields(""), "{}".into()), "no answer of Consul"),
        (Say::Whole(200, fields(""), r#"[{"Key":"nuncio/upstreams/a","Value":"?"}]"#.into()), "no answer of Consul"),
        (Say::Whole(200, String::new(), "[]".into()), "no X-Consul-Index"),
        (Say::Whole(404, fields("X-Consul-Knownleader: false\r\n"), String::new()), "no leader"),
        (Say::Whole(404, fields("X-Consul-Lastcontact: 60000\r\n"), String::new()), "for 60s"),
        (Say::Whole(200, fields("X-Consul-Results-Filtered-By-ACLs: true\r\n"), "[]".into()), "may not read all keys"),
        (Say::Whole(500, fields(""), "No cluster leader".into()), "500 Internal Server Error: No cluster leader"),
    ] {
        let consul = Consul::start().await;
        consul.set(|state| state.instead = Some(say));
        let observed = observe(&consul);
        let state = observed.until_status("it fails", is_failing).await.state;
        assert!(format!("{state:?}").contains(expected), "{expected}: {state:?}");
        assert!(observed.feed().latest().is_none(), "{expected}");
    }
}

/// A query that waits says nothing of whether the agent lives, so it is asked.
#[tokio::test]
async fn a_lost_leader_is_noticed_while_a_query_waits() {
    let consul = Consul::start().await;
    let observed = observe(&consul);
    observed.until("an empty store", is_empty).await;
    consul.set(|state| state.has_no_leader = true);
    let state = observed.until_status("it fails", is_failing).await.state;
    assert!(format!("{state:?}").contains("no leader"), "{state:?}");
    consul.set(|state| state.has_no_leader = false);
    observed.until_status("it is live", is_live).await;
}

#[tokio::test]
async fn options_are_part_of_every_query() {
    let consul = Consul::start().await;
    let config = ConsulConfig {
        endpoints: vec![consul.stub().url()],
        prefix: "edge/ü".into(),
        datacenter: Some("dc 2".into()),
        stale: true,
        ..ConsulConfig::default()
    };
    let observed = observe_with(config);
    observed.until("an empty store", is_empty).await;
    put(&consul, "edge/ü/upstreams/a");
    observed.until("one more query", has(&["a"])).await;
    for asked in consul.asked().iter().filter(|asked| asked.path.starts_with("/v1/kv")) {
        assert!(asked.path.starts_with("/v1/kv/edge/%C3%BC/?recurse&dc=dc%202&stale"), "{}", asked.path);
    }
}
