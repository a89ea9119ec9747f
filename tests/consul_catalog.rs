//! Services of Consul's catalog: what instances go through, on a real agent if `CONSUL_BIN` names one; and what an agent itself goes
//! through, on a stub that answers as Consul does.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nuncio::config::Snapshot;
use nuncio::config::providers::{CatalogConfig, ConsulConfig, RouteTemplate, ServicePattern};
use nuncio::discovery::consul::{CONNECTIONS_MAX, SERVICES_MAX};
use nuncio::discovery::{ConsulProvider, FeedState, FeedStatus};
use nuncio::names::Name;
use serde_json::json;
use support::consul::Consul;
use support::consul_agent::Agent;
use support::stub::Say;
use support::{Observed, endpoints};

const SOON: Duration = Duration::from_secs(1);

fn catalog(services: &[&str]) -> CatalogConfig {
    let services = services.iter().map(|service| ServicePattern::parse(service).expect("a pattern")).collect();
    CatalogConfig { services, ..CatalogConfig::default() }
}

/// Only the catalog.
fn config(url: String, catalog: CatalogConfig) -> ConsulConfig {
    ConsulConfig { endpoints: vec![url], kv: false, catalog: Some(catalog), ..ConsulConfig::default() }
}

fn observe(config: ConsulConfig) -> Observed {
    Observed::new(Box::new(ConsulProvider::new(Name::literal("consul"), config)))
}

fn observe_services(agent: &Agent, services: &[&str]) -> Observed {
    observe(config(agent.url(), catalog(services)))
}

fn weights(snapshot: &Snapshot, upstream: &str) -> BTreeMap<String, u16> {
    let entries = snapshot.upstreams.get(upstream).into_iter().flat_map(|upstream| &upstream.endpoints);
    entries.filter_map(|(id, entry)| Some((id.to_string(), entry.value.as_ref().ok()?.weight))).collect()
}

fn rule<'a>(snapshot: &'a Snapshot, route: &str) -> Option<&'a str> {
    snapshot.routes.get(route)?.value.as_ref().ok().map(|route| route.rule.text())
}

fn upstreams(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.upstreams.keys().map(Name::as_str).collect()
}

fn problems(snapshot: &Snapshot) -> Vec<String> {
    snapshot.all_problems().map(|problem| problem.render(false)).collect()
}

fn is_failing(status: &FeedStatus) -> bool {
    matches!(status.state, FeedState::Failing { .. })
}

async fn error_of(observed: &Observed) -> String {
    let FeedState::Failing { error } = observed.until_status("it fails", is_failing).await.state else { unreachable!("it fails") };
    error
}

#[tokio::test]
async fn instances_come_change_and_go() {
    let agent = Agent::start().await;
    let observed = observe_services(&agent, &["web"]);
    let snapshot = observed.until("a service that is named is there, and empty", |now| upstreams(now) == ["web"]).await;
    assert!(problems(&snapshot).is_empty() && endpoints(&snapshot, "web").is_empty(), "{:?}", problems(&snapshot));

    agent.register("web", "web-1", "10.0.0.1", 8080, &[]).await;
    observed.within(SOON, "an instance", |now| endpoints(now, "web") == ["10.0.0.1:8080"]).await;
    agent.register("web", "web-2", "", 8081, &["production"]).await;
    observed.within(SOON, "one at the address of its node", |now| endpoints(now, "web") == ["10.0.0.1:8080", "127.0.0.1:8081"]).await;
    agent.register("web", "web-3", "db.internal", 8082, &[]).await;
    observed.within(SOON, "one at a name", |now| endpoints(now, "web").contains(&"db.internal:8082".to_owned())).await;
    agent.register("other", "other-1", "10.0.0.9", 80, &[]).await;

    agent.check("web-1", "fail").await;
    observed.within(SOON, "a critical one gets nothing", |now| endpoints(now, "web") == ["127.0.0.1:8081", "db.internal:8082"]).await;
    agent.check("web-1", "pass").await;
    observed.within(SOON, "it is well again", |now| endpoints(now, "web").len() == 3).await;
    agent.maintain("web-1", true).await;
    observed.within(SOON, "one in maintenance gets nothing", |now| endpoints(now, "web").len() == 2).await;
    agent.maintain("web-1", false).await;
    observed.within(SOON, "it is back", |now| endpoints(now, "web").len() == 3).await;

    agent.deregister("web-3").await;
    agent.deregister("web-2").await;
    observed.within(SOON, "they are gone", |now| endpoints(now, "web") == ["10.0.0.1:8080"]).await;
    agent.deregister("web-1").await;
    observed.until_status("all are gone within seconds, which may be a mistake", |status| status.held.is_some()).await;
    assert!(observed.feed().release());
    let snapshot = observed.until("it is empty, and there", |now| endpoints(now, "web").is_empty()).await;
    assert_eq!(upstreams(&snapshot), ["web"], "the other one was not asked for");
}

#[tokio::test]
async fn weights_follow_health() {
    let agent = Agent::start().await;
    let observed = observe_services(&agent, &["w*"]);
    let weighted = json!({ "Name": "web", "ID": "a", "Address": "10.0.0.1", "Port": 80, "Weights": { "Passing": 10, "Warning": 2 } });
    agent.register_as(weighted).await;
    agent.register("web", "b", "10.0.0.2", 80, &[]).await;
    let of = |a: u16| move |now: &Snapshot| weights(now, "web") == [("a".to_owned(), a), ("b".to_owned(), 1)].into();
    observed.until("the weight of one that passes", of(10)).await;
    agent.check("a", "warn").await;
    observed.within(SOON, "the weight of one with a warning", of(2)).await;
}

#[tokio::test]
async fn tags_ask_for_their_service_and_say_routes() {
    let agent = Agent::start().await;
    agent.register("plain", "plain-1", "10.0.0.9", 80, &["production"]).await;
    agent.register("web", "web-1", "10.0.0.1", 80, &["nuncio.host=a.test", "nuncio.upstreams.web.retries=1"]).await;
    let observed = observe_services(&agent, &[]);
    let snapshot = observed.until("a service with our tags", |now| rule(now, "web") == Some(r#"Host("a.test")"#)).await;
    assert_eq!((upstreams(&snapshot), endpoints(&snapshot, "web")), (vec!["web"], vec!["10.0.0.1:80".to_owned()]));

    agent.register("fab", "fab-1", "10.0.0.2", 80, &["urlprefix-b.test/v1 strip=/v1"]).await;
    agent.register("tra", "tra-1", "10.0.0.3", 80, &["traefik.http.routers.tra.rule=Host(`c.test`)", "traefik.http.foo=secret"]).await;
    let snapshot = observed
        .within(SOON, "those of others", |now| now.routes.len() == 3 && upstreams(now) == ["fab", "tra", "web"] && !now.problems.is_empty())
        .await;
    assert_eq!(rule(&snapshot, "fab@b.test%2Fv1"), Some(r#"Host("b.test") && PathPrefix("/v1")"#));
    let problems = problems(&snapshot);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("service tra, instance tra-1") && problems[0].contains("traefik.http.foo"), "{problems:?}");
    assert!(!problems[0].contains("secret"), "{problems:?}");

    // A critical instance keeps its route: it answers 503.
    agent.check("web-1", "fail").await;
    let snapshot = observed.within(SOON, "no endpoint", |now| endpoints(now, "web").is_empty()).await;
    assert!(rule(&snapshot, "web").is_some());
    agent.register("web", "web-1", "10.0.0.1", 80, &[]).await;
    observed.within(SOON, "a service that says nothing any more", |now| upstreams(now) == ["fab", "tra"]).await;
    agent.deregister("fab-1").await;
    observed.within(SOON, "a service that is gone", |now| upstreams(now) == ["tra"] && now.routes.len() == 1).await;
}

#[tokio::test]
async fn keys_and_services_are_one_configuration() {
    let agent = Agent::start().await;
    agent.register("web", "web-1", "10.0.0.1", 80, &["nuncio.host=a.test"]).await;
    agent.register("db", "db-1", "10.0.0.2", 5432, &[]).await;
    agent.put_key("nuncio/upstreams/web", r#"{"retries":7}"#).await;
    agent.put_key("nuncio/tcp_routes/db", r#"{"listener":"db","upstream":"db"}"#).await;
    let observed = observe(ConsulConfig { kv: true, ..config(agent.url(), CatalogConfig::default()) });
    let snapshot = observed.until("both", |now| upstreams(now) == ["db", "web"] && rule(now, "web").is_some()).await;
    let settings = snapshot.upstreams["web"].settings.as_ref().and_then(|entry| entry.value.as_ref().ok()).expect("settings");
    assert_eq!((settings.retries, endpoints(&snapshot, "web")), (7, vec!["10.0.0.1:80".to_owned()]));
    assert_eq!(endpoints(&snapshot, "db"), ["10.0.0.2:5432"], "the route asks for it");
    assert!(problems(&snapshot).is_empty(), "{:?}", problems(&snapshot));

    agent.put_key("nuncio/routes/web", r#"{"match":"Host(\"key.test\")","upstream":"web"}"#).await;
    let after = observed.within(SOON, "the key counts", |now| rule(now, "web") == Some(r#"Host("key.test")"#)).await;
    assert!(problems(&after)[0].contains("the key nuncio/routes/web says something else"), "{:?}", problems(&after));
    assert!(Arc::ptr_eq(&snapshot.upstreams["web"], &after.upstreams["web"]), "what did not change is shared");
}

#[tokio::test]
async fn each_service_gets_a_route_by_the_template() {
    let agent = Agent::start().await;
    agent.register("web", "web-1", "10.0.0.1", 80, &[]).await;
    agent.register("own", "own-1", "10.0.0.2", 80, &["nuncio.host=own.test"]).await;
    agent.register("off", "off-1", "10.0.0.3", 80, &["nuncio.enable=false"]).await;
    let route = RouteTemplate::parse(r#"Host("{name}.example.com")"#).ok();
    let observed = observe(config(agent.url(), CatalogConfig { route, ..catalog(&["*"]) }));
    let snapshot = observed.until("all", |now| now.routes.len() == 2).await;
    assert_eq!((rule(&snapshot, "web"), rule(&snapshot, "own")), (Some(r#"Host("web.example.com")"#), Some(r#"Host("own.test")"#)));
    assert_eq!(upstreams(&snapshot), ["own", "web"], "Consul's servers are meant only by name");
}

/// The blue/green deployment of registrator and consul-template: a key says the tag of the live group.
#[tokio::test]
async fn a_key_switches_between_groups_and_not_to_an_empty_one() {
    let agent = Agent::start().await;
    agent.register("apache-80", "vm:b1:80", "10.0.0.1", 80, &["production"]).await;
    agent.register("apache-80", "vm:b2:80", "10.0.0.2", 80, &["staging"]).await;
    let switch = [("apache-80".to_owned(), "backend/current".to_owned())].into();
    let observed = observe(config(agent.url(), CatalogConfig { switch, ..CatalogConfig::default() }));
    let snapshot = observed.until("a problem", |now| upstreams(now) == ["apache-80"]).await;
    assert!(problems(&snapshot)[0].contains("there is no key `backend/current`"), "{:?}", problems(&snapshot));
    agent.put_key("backend/current", "production\n").await;
    observed.within(SOON, "the one group", |now| endpoints(now, "apache-80") == ["10.0.0.1:80"] && now.problems.is_empty()).await;
    agent.put_key("backend/current", "staging").await;
    observed.within(SOON, "the other group", |now| endpoints(now, "apache-80") == ["10.0.0.2:80"]).await;
    agent.put_key("backend/current", "nosuch").await;
    let snapshot = observed.within(SOON, "a problem", |now| now.problems.len() == 1).await;
    assert!(
        problems(&snapshot)[0].contains("`nosuch`") && problems(&snapshot)[0].contains("`staging` stay in use"),
        "{:?}",
        problems(&snapshot)
    );
    assert_eq!(endpoints(&snapshot, "apache-80"), ["10.0.0.2:80"]);
    // A group that is not well is not switched to before it is.
    agent.check("vm:b1:80", "fail").await;
    agent.put_key("backend/current", "production").await;
    let snapshot =
        observed.within(SOON, "another problem", |now| problems(now).iter().any(|problem| problem.contains("`production`"))).await;
    assert_eq!(endpoints(&snapshot, "apache-80"), ["10.0.0.2:80"]);
    agent.check("vm:b1:80", "pass").await;
    observed.within(SOON, "once it is well", |now| endpoints(now, "apache-80") == ["10.0.0.1:80"] && now.problems.is_empty()).await;
}

/// With a missing token health and catalog answer 200 and nothing.
#[tokio::test]
async fn what_may_not_be_read_is_not_empty() {
    let consul = Consul::start().await;
    let agent = |consul: &Consul| consul.stub().url();
    register(&consul, "web", &["nuncio.host=a.test"]);
    let observed = observe(config(agent(&consul), CatalogConfig::default()));
    let before = observed.until("the service", |now| endpoints(now, "web").len() == 1).await;
    consul.set(|state| {
        state.token = Some("geheim".into());
        state.index += 1;
        state.services.write_of("web", state.index);
    });
    let error = error_of(&observed).await;
    assert!(error.contains("grant the token service_prefix"), "{error}");
    let after = observed.feed().latest().expect("the last snapshot stays");
    assert!(Arc::ptr_eq(&before.upstreams["web"], &after.upstreams["web"]));

    let fresh = observe(config(agent(&consul), CatalogConfig { tags: [].into(), ..catalog(&["web", "db"]) }));
    let error = error_of(&fresh).await;
    assert!(error.contains("grant the token service \"db\" read"), "{error}");
    assert!(fresh.feed().latest().is_none(), "what may not be read is not empty");
    // It is tried again, and never counts as read.
    consul.until_asked("/v1/health/service/db", 3).await;
    assert!(is_failing(&fresh.feed().status()) && fresh.feed().latest().is_none());

    let unknown = observe(ConsulConfig { token: Some("verraten".into()), ..config(agent(&consul), catalog(&["web"])) });
    let error = error_of(&unknown).await;
    assert!(error.contains("denied: ACL not found") && !error.contains("verraten"), "{error}");

    let allowed = observe(ConsulConfig { token: Some("geheim".into()), ..config(agent(&consul), catalog(&["web", "none"])) });
    let snapshot = allowed.until("what the token may read, and what is not there", |now| upstreams(now) == ["none", "web"]).await;
    assert_eq!((endpoints(&snapshot, "web").len(), problems(&snapshot).len()), (1, 0));
}

/// A token that loses the right to one service changes nothing else, before Consul 1.11 and since.
#[tokio::test]
async fn one_service_that_may_not_be_read_keeps_its_instances() {
    for says_filtered in [false, true] {
        let consul = Consul::start().await;
        register(&consul, "web", &["nuncio.host=a.test"]);
        register(&consul, "api", &["nuncio.host=b.test"]);
        consul.set(|state| (state.token, state.says_filtered) = (Some("geheim".into()), says_filtered));
        let observed = observe(ConsulConfig { token: Some("geheim".into()), ..config(consul.stub().url(), CatalogConfig::default()) });
        observed.until("both", |now| upstreams(now) == ["api", "web"]).await;
        consul.set(|state| {
            state.hidden = ["web".to_owned()].into();
            state.index += 1;
            state.services.write_of("web", state.index);
            state.services.write_of("api", state.index);
        });
        let snapshot = observed.until("a problem", |now| !now.problems.is_empty()).await;
        assert_eq!((upstreams(&snapshot), endpoints(&snapshot, "web").len()), (vec!["api", "web"], 1));
        assert!(problems(&snapshot)[0].contains("grant the token service \"web\" read"), "{:?}", problems(&snapshot));
        // Meanwhile the others go on, and then it does.
        register(&consul, "new", &["nuncio.host=c.test"]);
        observed.within(SOON, "another one", |now| upstreams(now) == ["api", "new", "web"]).await;
        consul.set(|state| {
            state.hidden.clear();
            state.index += 1;
            state.services.write_of("web", state.index);
        });
        observed.within(SOON, "it may be read again", |now| now.problems.is_empty()).await;
        consul.set(|state| {
            state.index += 1;
            state.services.remove("web", state.index);
        });
        observed.within(SOON, "it is gone", |now| upstreams(now) == ["api", "new"]).await;
    }
}

/// What was read before is not taken for what is read now.
#[tokio::test]
async fn a_token_that_lost_all_its_rights_fails_until_it_has_them() {
    let consul = Consul::start().await;
    register(&consul, "web", &[]);
    consul.set(|state| state.token = Some("geheim".into()));
    let tags = [].into();
    let config = config(consul.stub().url(), CatalogConfig { tags, ..catalog(&["web"]) });
    let observed = observe(ConsulConfig { token: Some("geheim".into()), ..config });
    let before = observed.until("the instance", |now| endpoints(now, "web").len() == 1).await;
    consul.set(|state| {
        state.hidden = ["web".to_owned()].into();
        state.index += 1;
        state.services.write_of("web", state.index);
    });
    observed.until_status("it fails", is_failing).await;
    consul.until_asked("/v1/agent/health/service/name/web", 3).await;
    assert!(is_failing(&observed.feed().status()), "what was denied before is denied still");
    assert!(Arc::ptr_eq(&before, &observed.feed().latest().expect("it stays")), "nothing was published");
    consul.set(|state| state.hidden.clear());
    observed.until_status("it is live", |status| status.state == FeedState::Live).await;
    consul.set(|state| {
        state.index += 1;
        state.services.register(json!({ "Name": "web", "ID": "web-2", "Address": "10.0.0.2", "Port": 80 }), state.index);
    });
    observed.within(SOON, "it goes on", |now| endpoints(now, "web").len() == 2).await;
}

#[tokio::test]
async fn nodes_that_may_not_be_read_are_told() {
    let consul = Consul::start().await;
    register(&consul, "web", &["nuncio.host=a.test"]);
    consul.set(|state| (state.token, state.hides_nodes) = (Some("geheim".into()), true));
    let observed = observe(ConsulConfig { token: Some("geheim".into()), ..config(consul.stub().url(), CatalogConfig::default()) });
    let error = error_of(&observed).await;
    assert!(error.contains("node_prefix \"\" read"), "{error}");
}

/// After a restart with a younger log: connections end, and all indices are below ours.
#[tokio::test]
async fn an_agent_that_was_rebuilt_is_read_from_the_start() {
    let consul = Consul::start().await;
    register(&consul, "web", &["nuncio.host=a.test"]);
    let observed = observe(config(consul.stub().url(), CatalogConfig::default()));
    let before = observed.until("the first life", |now| upstreams(now) == ["web"]).await;
    consul.set(|state| state.instead = Some(Say::Cut(500, String::new(), String::new())));
    observed.until_status("it fails", is_failing).await;
    assert!(Arc::ptr_eq(&before, &observed.feed().latest().expect("it stays")), "nothing is published meanwhile");
    consul.set(|state| {
        state.instead = None;
        state.index = 2;
        state.services.reset_indices();
    });
    observed.until_status("it is live", |status| status.state == FeedState::Live).await;
    register(&consul, "api", &["nuncio.host=b.test"]);
    observed.within(SOON, "what came after", |now| upstreams(now) == ["api", "web"]).await;
}

/// An index may go down without anything being closed. A query with the old one would wait.
#[tokio::test]
async fn an_index_that_goes_down_is_asked_from_the_start() {
    let consul = Consul::start().await;
    register(&consul, "web", &[]);
    let observed = observe(config(consul.stub().url(), CatalogConfig { tags: [].into(), ..catalog(&["web"]) }));
    observed.until("the instance", |now| endpoints(now, "web").len() == 1).await;
    consul.set(|state| state.instead = Some(Say::Whole(200, "X-Consul-Index: 3\r\n".into(), "[]".into())));
    observed.until("what it says now", |now| endpoints(now, "web").is_empty()).await;
    consul.set(|state| state.instead = None);
    observed.within(SOON, "it was asked from the start", |now| endpoints(now, "web").len() == 1).await;
    let asked = consul.asked();
    let indices: Vec<_> = asked.iter().filter(|asked| asked.path.starts_with("/v1/health")).map(|asked| asked.parameter("index")).collect();
    let down = indices.windows(2).position(|pair| pair[0].is_some() && pair[1].is_none());
    assert!(down.is_some(), "{indices:?}");
}

#[tokio::test]
async fn an_agent_that_hangs_is_noticed() {
    let consul = Consul::start().await;
    register(&consul, "web", &["nuncio.host=a.test"]);
    let observed = observe(config(consul.stub().url(), CatalogConfig::default()));
    let before = observed.until("the service", |now| upstreams(now) == ["web"]).await;
    consul.set(|state| state.instead = Some(Say::Hang(200, String::new())));
    observed.until_status("it fails", is_failing).await;
    assert!(Arc::ptr_eq(&before, &observed.feed().latest().expect("it stays")));
    consul.set(|state| state.instead = None);
    observed.until_status("it is live", |status| status.state == FeedState::Live).await;
}

/// A replica that was just restarted, or lost its leader, may answer with nothing.
#[tokio::test]
async fn a_stale_answer_is_asked_of_the_leader() {
    for when_stale in ["X-Consul-Knownleader: false\r\n", "X-Consul-Lastcontact: 7000\r\n"] {
        let consul = Consul::start().await;
        register(&consul, "web", &["nuncio.host=a.test"]);
        consul.set(|state| state.when_stale = when_stale.into());
        let config = config(consul.stub().url(), CatalogConfig::default());
        let observed = observe(ConsulConfig { stale: true, max_stale: Duration::from_secs(5), ..config });
        observed.until("the service", |now| upstreams(now) == ["web"]).await;
        let asked = consul.asked();
        let paths =
            |what: &str| asked.iter().filter(|asked| asked.parameter(what).is_some()).map(|asked| asked.path.clone()).collect::<Vec<_>>();
        assert!(!paths("stale").is_empty() && paths("consistent").len() >= 2, "{asked:?}");
        assert!(paths("stale").iter().all(|path| !path.contains("consistent")), "both together are refused");
        // The leader itself does not know better.
        let consul = Consul::start().await;
        consul.set(|state| (state.when_stale, state.has_no_leader) = (when_stale.into(), true));
        let config = self::config(consul.stub().url(), catalog(&["web"]));
        let observed = observe(ConsulConfig { stale: true, max_stale: Duration::from_secs(5), ..config });
        assert!(error_of(&observed).await.contains("no leader"));
        assert!(observed.feed().latest().is_none());
    }
}

#[tokio::test]
async fn what_is_no_answer_is_not_empty() {
    let fields = "X-Consul-Index: 9\r\n";
    for (say, expected) in [
        (Say::Cut(200, fields.into(), "[]".into()), "read http"),
        (Say::Whole(200, fields.into(), "{}".into()), "no answer of Consul"),
        (Say::Whole(200, fields.into(), "[{}]".into()), "no answer of Consul"),
        (Say::Whole(200, String::new(), "[]".into()), "no X-Consul-Index"),
        (Say::Whole(404, fields.into(), "no such path".into()), "404 Not Found"),
        (Say::Whole(500, fields.into(), "rpc error: No cluster leader".into()), "No cluster leader"),
    ] {
        let consul = Consul::start().await;
        consul.set(|state| state.instead = Some(say));
        let observed = observe(config(consul.stub().url(), CatalogConfig { tags: [].into(), ..catalog(&["web"]) }));
        let error = error_of(&observed).await;
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(observed.feed().latest().is_none(), "{expected}");
    }
}

/// More services than connections take turns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_have_a_bound() {
    let consul = Consul::start().await;
    let count = CONNECTIONS_MAX + 20;
    assert!(count < SERVICES_MAX);
    for index in 0..count {
        register(&consul, &format!("s{index}"), &[]);
    }
    let observed = observe(config(consul.stub().url(), CatalogConfig { tags: [].into(), ..catalog(&["s*"]) }));
    observed.until("all services", |now| now.upstreams.len() == count).await;
    let some = ["s0", "s40", "s80"];
    for name in some {
        consul.set(|state| {
            state.index += 1;
            let definition = json!({ "Name": name, "ID": format!("{name}-1"), "Address": "10.0.0.2", "Port": 80 });
            state.services.register(definition, state.index);
        });
    }
    let is_new = |now: &Snapshot, name: &&str| endpoints(now, name) == ["10.0.0.2:80"];
    observed.until("each had its turn", |now| some.iter().all(|name| is_new(now, name))).await;
    assert!(consul.stub().connections_max() <= CONNECTIONS_MAX + 4, "{}", consul.stub().connections_max());
}

fn register(consul: &Consul, name: &str, tags: &[&str]) {
    consul.set(|state| {
        state.index += 1;
        state
            .services
            .register(json!({ "Name": name, "ID": format!("{name}-1"), "Address": "10.0.0.1", "Port": 80, "Tags": tags }), state.index);
    });
}
