//! The Marathon provider against a stub that answers as Marathon did: no binary of it can be had.

mod support;

use std::sync::Arc;
use std::time::Duration;

use nuncio::config::Snapshot;
use nuncio::config::providers::{MarathonConfig, MarathonFormat, RouteTemplate};
use nuncio::config::snapshot::Removals;
use nuncio::discovery::{FeedState, FeedStatus, MarathonProvider, Provider};
use nuncio::{Name, Server};
use serde_json::json;
use support::http1::{AfterResponse, Connection, Endpoint};
use support::marathon::{Age, Marathon, app, labelled, task};
use support::relay::Relay;
use support::stub::Say;
use support::{DEADLINE, Observed, Recorder, endpoints, is_empty};

/// Much less than the interval at which everything is read in any case.
const SOON: Duration = Duration::from_secs(4);

fn config(endpoints: &[String]) -> MarathonConfig {
    MarathonConfig { endpoints: endpoints.to_vec(), ..MarathonConfig::default() }
}

fn provider(config: MarathonConfig) -> Box<MarathonProvider> {
    Box::new(MarathonProvider::new(Name::literal("marathon"), config))
}

fn observe(config: MarathonConfig) -> Observed {
    Observed::new(provider(config))
}

fn is_failing(status: &FeedStatus) -> bool {
    matches!(status.state, FeedState::Failing { .. })
}

async fn error_of(observed: &Observed) -> String {
    match observed.until_status("it fails", is_failing).await.state {
        FeedState::Failing { error, .. } => error,
        state => panic!("{state:?}"),
    }
}

fn problems(snapshot: &Snapshot) -> Vec<String> {
    snapshot.all_problems().map(ToString::to_string).collect()
}

#[tokio::test]
async fn events_bring_what_changed() {
    let marathon = Marathon::start().await;
    let observed = observe(config(&[marathon.stub().url()]));
    observed.until("a Marathon without apps is empty, and live", is_empty).await;
    marathon.until_heard().await;
    marathon.put(app("/prod/web", &[10001, 10002], &[task("web.1", "127.0.0.1", &[31001, 31002])]));
    let snapshot = observed.within(SOON, "the app", |now| endpoints(now, "prod_web") == ["127.0.0.1:31001"]).await;
    assert_eq!(endpoints(&snapshot, "prod_web-1"), ["127.0.0.1:31002"]);
    assert_eq!((problems(&snapshot), snapshot.listeners.len()), (vec![], 0));
    let two = [task("web.1", "127.0.0.1", &[31001, 31002]), task("web.2", "agent-2.test", &[31005, 31006])];
    marathon.put(app("/prod/web", &[10001, 10002], &two));
    observed.within(SOON, "scaled", |now| endpoints(now, "prod_web") == ["127.0.0.1:31001", "agent-2.test:31005"]).await;
    marathon.destroy("/prod/web");
    observed.within(SOON, "destroyed", is_empty).await;
    assert!(marathon.count("/v2/apps") < 20, "events are gathered: {}", marathon.count("/v2/apps"));
}

/// The event is ahead of what its sender stores, and nothing else is announced.
#[tokio::test]
async fn an_event_that_comes_first_is_followed_by_a_second_look() {
    let marathon = Marathon::start().await;
    let observed = observe(config(&[marathon.stub().url()]));
    observed.until("nothing", is_empty).await;
    marathon.until_heard().await;
    let read = marathon.count("/v2/apps");
    marathon.tell("status_update_event", json!({ "taskId": "web.1", "taskStatus": "TASK_RUNNING", "appId": "/web" }));
    marathon.until_asked("/v2/apps", read + 1).await;
    marathon.set(|state| drop(state.apps.insert("/web".into(), app("/web", &[10001], &[task("web.1", "127.0.0.1", &[31001])]))));
    observed.within(SOON, "the app", |now| endpoints(now, "web").len() == 1).await;
    // What says the opposite of what is read counts for nothing.
    for status in ["TASK_KILLED", "TASK_STAGING", "TASK_LOST"] {
        marathon.tell("status_update_event", json!({ "taskId": "web.1", "taskStatus": status, "appId": "/web" }));
    }
    marathon.tell("app_terminated_event", json!({ "appId": "/web" }));
    let read = marathon.count("/v2/apps");
    marathon.until_asked("/v2/apps", read + 2).await;
    assert_eq!(observed.feed().latest().map(|now| endpoints(&now, "web").len()), Some(1));
}

#[tokio::test]
async fn a_stream_that_ends_is_opened_anew_and_nothing_is_missed() {
    let marathon = Marathon::start().await;
    let observed = observe(config(&[marathon.stub().url()]));
    observed.until("nothing", is_empty).await;
    marathon.until_heard().await;
    marathon.set(|state| drop(state.apps.insert("/web".into(), app("/web", &[10001], &[]))));
    marathon.end_streams();
    observed.within(SOON, "what nobody told", |now| now.upstreams.contains_key("web")).await;
    marathon.until_asked("/v2/events", 2).await;
    assert_eq!(observed.feed().status().state, FeedState::Live, "a stream that ends is no failure");
    // At once it is not opened anew again and again.
    assert!(marathon.count("/v2/events") == 2, "{}", marathon.count("/v2/events"));
}

/// A proxy before Marathon that answers in its place for a moment. To wait for half a minute would be to wait without events.
#[tokio::test]
async fn a_stream_that_is_refused_for_a_moment_is_soon_opened() {
    let marathon = Marathon::start().await;
    // It has no events, and lists as the others do.
    marathon.set(|state| state.has_no_events = true);
    let observed = observe(config(&[marathon.stub().url()]));
    observed.until("nothing", is_empty).await;
    marathon.set(|state| state.has_no_events = false);
    marathon.set(|state| drop(state.apps.insert("/web".into(), app("/web", &[10001], &[]))));
    observed.within(SOON, "what nobody told", |now| now.upstreams.contains_key("web")).await;
    marathon.until_heard().await;
    for name in ["a", "b", "c"] {
        // Each time it ends as soon as it is there, with a change that it does not tell.
        let streams = marathon.count("/v2/events");
        marathon.set(|state| drop(state.apps.insert(format!("/{name}"), app(&format!("/{name}"), &[10001], &[]))));
        marathon.end_streams();
        observed.within(SOON, "what nobody told", |now| now.upstreams.contains_key(name)).await;
        let opened = tokio::time::timeout(Duration::from_secs(2), marathon.until_asked("/v2/events", streams + 1));
        assert!(opened.await.is_ok(), "it is not opened soon");
        marathon.until_heard().await;
    }
}

/// A 404 is what a proxy says too that has lost its backend for a moment. Text has no labels.
#[tokio::test]
async fn who_was_read_as_json_is_not_read_as_text() {
    let marathon = Marathon::start().await;
    let mut web = app("/web", &[10001], &[task("web.1", "127.0.0.1", &[31001])]);
    web["labels"]["nuncio.host"] = "a.test".into();
    marathon.put(web);
    let observed = observe(config(&[marathon.stub().url()]));
    let before = observed.until("its route", |now| now.routes.contains_key("web")).await;
    marathon.until_heard().await;
    marathon.set(|state| state.age = Age::Ancient);
    marathon.end_streams();
    let error = error_of(&observed).await;
    assert!(error.contains("404 Not Found"), "{error}");
    let after = observed.feed().latest().expect("a snapshot");
    assert!(Arc::ptr_eq(&before, &after), "nothing is taken away");
    // Who was read as text at first is read as JSON as soon as that can be had.
    let observed = observe(MarathonConfig { poll: Duration::from_millis(500), ..config(&[marathon.stub().url()]) });
    observed.until("the text", |now| now.upstreams.contains_key("web") && now.routes.is_empty()).await;
    marathon.set(|state| state.age = Age::Modern);
    observed.within(SOON, "its route", |now| now.routes.contains_key("web")).await;
}

/// Nothing comes any more, not even an end: the half-open stream that others wait on for minutes.
#[tokio::test]
async fn a_silent_stream_is_noticed() {
    let marathon = Marathon::start().await;
    let relay = Relay::to(marathon.stub().address).await;
    let url = format!("http://{}", relay.address());
    let observed = observe(MarathonConfig { event_idle: Duration::from_secs(1), ..config(&[url]) });
    observed.until("nothing", is_empty).await;
    marathon.until_heard().await;
    marathon.set(|state| drop(state.apps.insert("/web".into(), app("/web", &[10001], &[]))));
    observed.within(SOON, "what nobody told", |now| now.upstreams.contains_key("web")).await;
    marathon.until_asked("/v2/events", 2).await;
    assert_eq!(observed.feed().status().state, FeedState::Live);
}

/// marathon-lb stuck to the first master that it was told.
#[tokio::test]
async fn another_master_takes_over() {
    let (first, second) = (Marathon::start().await, Marathon::start().await);
    let relay = Relay::to(first.stub().address).await;
    let web = app("/web", &[10001], &[task("web.1", "127.0.0.1", &[31001])]);
    first.put(web.clone());
    second.put(web);
    let observed = observe(config(&[format!("http://{}", relay.address()), second.stub().url()]));
    let before = observed.until("the app", |now| now.upstreams.contains_key("web")).await;
    assert_eq!(second.count("/"), 0);
    first.until_heard().await;
    relay.cut();
    second.until_heard().await;
    observed.until_status("it is live", |status| status.state == FeedState::Live).await;
    let after = observed.feed().latest().expect("a snapshot");
    assert!(Arc::ptr_eq(&before.upstreams["web"], &after.upstreams["web"]), "nothing changed");
    second.put(app("/api", &[10002], &[]));
    observed.within(SOON, "what the second one tells", |now| now.upstreams.contains_key("api")).await;
}

/// A leader that was just elected has no results of health checks, and a proxy without a leader answers with 503.
#[tokio::test]
async fn an_election_takes_nothing_away() {
    let marathon = Marathon::start().await;
    let checked = |results: serde_json::Value| {
        let mut web = app("/web", &[10001], &[task("web.1", "127.0.0.1", &[31001])]);
        web["healthChecks"] = json!([{ "protocol": "HTTP", "path": "/" }]);
        web["tasks"][0]["healthCheckResults"] = results;
        web
    };
    marathon.put(checked(json!([{ "alive": true, "taskId": "web.1", "consecutiveFailures": 0 }])));
    let observed = observe(config(&[marathon.stub().url()]));
    let before = observed.until("the task", |now| endpoints(now, "web").len() == 1).await;
    let no_leader = "{\"message\":\"Could not determine the current leader\"}";
    marathon.set(|state| state.instead = Some(Say::Whole(503, String::new(), no_leader.into())));
    marathon.end_streams();
    let error = error_of(&observed).await;
    assert!(error.contains("503") && error.contains("Could not determine the current leader"), "{error}");
    marathon.set(|state| state.instead = None);
    marathon.put(checked(json!([])));
    observed.until_status("it is live", |status| status.state == FeedState::Live).await;
    let after = observed.feed().latest().expect("a snapshot");
    assert!(Arc::ptr_eq(&before.upstreams["web"], &after.upstreams["web"]), "nothing changed");
    marathon.until_heard().await;
    marathon.put(checked(json!([{ "alive": false }])));
    observed.within(SOON, "it is not well", |now| endpoints(now, "web").is_empty()).await;
}

/// What the source said is gone goes at once; what is only missing may be held back.
#[tokio::test]
async fn what_is_told_is_explicit_and_what_is_missing_is_inferred() {
    let marathon = Marathon::start().await;
    let tasks = |states: &[(&str, &str)]| -> Vec<serde_json::Value> {
        let of_state = |(id, state): &(&str, &str)| {
            let mut task = task(id, "127.0.0.1", &[31001]);
            task["state"] = (*state).into();
            task
        };
        states.iter().map(of_state).collect()
    };
    let running = [("a", "TASK_RUNNING"), ("b", "TASK_RUNNING"), ("c", "TASK_RUNNING"), ("d", "TASK_RUNNING")];
    marathon.put(app("/web", &[10001], &tasks(&running)));
    let mut provider = provider(config(&[marathon.stub().url()]));
    let (recorder, mut recorded) = Recorder::new();
    let check = async {
        let mut next = async |count: usize| loop {
            let (snapshot, _) = recorded.recv().await.expect("the provider lives");
            if snapshot.upstreams["web"].endpoints.len() == count {
                return snapshot.removals;
            }
        };
        next(4).await;
        marathon.until_heard().await;
        // One is told to end, and another one did, which an event says.
        marathon.put(app("/web", &[10001], &tasks(&[("a", "TASK_KILLING"), running[1], running[2], running[3]])));
        assert_eq!(next(3).await, Removals::Explicit);
        marathon.tell("status_update_event", json!({ "taskId": "b", "taskStatus": "TASK_KILLED", "appId": "/web" }));
        marathon.put(app("/web", &[10001], &tasks(&[running[2], running[3]])));
        assert_eq!(next(2).await, Removals::Explicit);
        marathon.put(app("/web", &[10001], &tasks(&[running[3]])));
        assert_eq!(next(1).await, Removals::Inferred);
    };
    tokio::select! {
        result = provider.watch(&recorder) => panic!("the provider stopped: {result:?}"),
        result = tokio::time::timeout(DEADLINE, check) => result.expect("in time"),
    }
}

#[tokio::test]
async fn old_versions_are_read_as_text() {
    for (age, format) in [(Age::Old, MarathonFormat::Auto), (Age::Ancient, MarathonFormat::Auto), (Age::Ancient, MarathonFormat::Text)] {
        let marathon = Marathon::start().await;
        marathon.set(|state| state.age = age);
        marathon.put(app(
            "/prod/web",
            &[10001, 10002],
            &[task("a", "127.0.0.1", &[31001, 31002]), task("b", "127.0.0.2", &[31005, 31006])],
        ));
        marathon.put(app("/worker", &[], &[task("w", "10.0.0.1", &[]), task("x", "10.0.0.2", &[])]));
        let poll = Duration::from_millis(500);
        let observed = observe(MarathonConfig { poll, format, service_port_listeners: true, ..config(&[marathon.stub().url()]) });
        let snapshot = observed.until("the app", |now| endpoints(now, "prod_web").len() == 2).await;
        assert_eq!(endpoints(&snapshot, "prod_web-1"), ["127.0.0.1:31002", "127.0.0.2:31006"]);
        let listeners: Vec<_> = snapshot.listeners.keys().map(Name::as_str).collect();
        assert_eq!((listeners, problems(&snapshot)), (vec!["prod_web", "prod_web-1"], vec![]), "none on the first byte of an address");
        // Without events, at intervals.
        marathon.put(app("/api", &[10003], &[]));
        observed.within(SOON, "another app", |now| now.upstreams.contains_key("api")).await;
    }
}

#[tokio::test]
async fn what_is_no_answer_is_not_empty() {
    let text = "Content-Type: text/plain\r\n";
    for (format, say, expected) in [
        (MarathonFormat::Auto, Say::Whole(200, String::new(), "{}".into()), "no list of apps"),
        (MarathonFormat::Auto, Say::Whole(200, String::new(), "<html>login</html>".into()), "no list of apps"),
        (MarathonFormat::Auto, Say::Whole(401, String::new(), "Unauthorized".into()), "401 Unauthorized"),
        (MarathonFormat::Auto, Say::Whole(302, "Location: /login\r\n".into(), String::new()), "302 Found"),
        (MarathonFormat::Auto, Say::Cut(200, String::new(), "{\"apps\":[]}".into()), "read http"),
        (MarathonFormat::Json, Say::Whole(404, String::new(), "nothing here".into()), "404 Not Found: nothing here"),
        (MarathonFormat::Json, Say::Whole(200, String::new(), "{\"apps\":[{\"id\":\"/a\"}]}".into()), "without their tasks"),
        (MarathonFormat::Text, Say::Whole(200, text.into(), "<html>login</html>".into()), "no list of tasks"),
        (MarathonFormat::Text, Say::Whole(200, "Content-Type: application/json\r\n".into(), "{\"tasks\":[]}".into()), "is no text"),
    ] {
        let marathon = Marathon::start().await;
        marathon.set(|state| state.instead = Some(say));
        let observed = observe(MarathonConfig { format, ..config(&[marathon.stub().url()]) });
        let error = error_of(&observed).await;
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(observed.feed().latest().is_none(), "{expected}");
    }
}

#[tokio::test]
async fn one_bad_task_blocks_nobody() {
    let marathon = Marathon::start().await;
    let mut web =
        app("/web", &[10001], &[task("good", "127.0.0.1", &[31001]), task("bad", "127.0.0.1", &[31001]), task("lost", "", &[31002])]);
    web["tasks"][1]["ports"] = json!(["many"]);
    marathon.put_all(vec![web, app("/api", &[10002], &[task("api", "127.0.0.1", &[31003])]), labelled("/bad", &[("nuncio.hots", "a")])]);
    let observed = observe(config(&[marathon.stub().url()]));
    let snapshot = observed.until("both apps", |now| endpoints(now, "web").len() == 1 && endpoints(now, "api").len() == 1).await;
    let problems = problems(&snapshot);
    assert_eq!(problems.len(), 3, "{problems:?}");
    for expected in ["app /web, task bad", "app /web, task lost", "did you mean `nuncio.host`?"] {
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected}: {problems:?}");
    }
}

#[tokio::test]
async fn credentials_are_sent_and_never_shown() {
    let marathon = Marathon::start().await;
    let basic = MarathonConfig { username: Some("me".into()), password: Some("geheim".into()), ..config(&[marathon.stub().url()]) };
    let token = MarathonConfig { token: Some("geheim".into()), ..config(&[marathon.stub().url()]) };
    for (config, expected) in [(basic, "Basic bWU6Z2VoZWlt"), (token, "token=geheim")] {
        let provider = provider(config);
        assert!(!format!("{provider:?} {:?}", provider.source()).contains("geheim"));
        let observed = Observed::new(provider);
        observed.until("nothing", is_empty).await;
        let asked = marathon.asked();
        let of_last = asked.last().and_then(|asked| asked.field("authorization").map(ToOwned::to_owned));
        assert_eq!(of_last.as_deref(), Some(expected));
        marathon.set(|state| state.instead = Some(Say::Whole(403, String::new(), "Forbidden".into())));
        marathon.end_streams();
        let error = error_of(&observed).await;
        assert!(error.contains("403") && !error.contains("geheim"), "{error}");
        observed.stop().await;
        marathon.set(|state| state.instead = None);
    }
}

/// What haproxy-marathon-bridge and Frontrunner do: service ports by TCP, port 80 by the name of the app.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service_ports_and_routes_bring_traffic() {
    let endpoint = Endpoint::start(1, AfterResponse::Keep).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
    let marathon = Marathon::start().await;
    let tasks = [task("web.1", "127.0.0.1", &[endpoint.address.port(), endpoint.address.port()])];
    marathon.put(app("/prod/web", &[80, free], &tasks));
    let route = RouteTemplate::parse(r#"Host("{name}")"#).ok();
    let config = MarathonConfig { service_port_listeners: true, route, ..config(&[marathon.stub().url()]) };
    let (program, handle) = nuncio::discovery::ProgramProvider::new(Name::literal("program"));
    let mut own = nuncio::config::RoutingConfig::default();
    own.listeners.insert(Name::literal("http"), nuncio::config::Listener::http("127.0.0.1:0".parse().expect("an address")));
    handle.publish(own);
    let provider = MarathonProvider::new(Name::literal("marathon"), config);
    let server = Server::builder().workers(1).provider(program).provider(provider).start().expect("a server starts");
    tokio::time::timeout(DEADLINE, server.ready()).await.expect("it is ready");
    let http = server.local_addr(&Name::literal("http")).expect("the listener is open");
    for (address, host, status) in [(http, "prod_web", 200), (http, "other", 404), (([127, 0, 0, 1], free).into(), "any", 200)] {
        let mut connection = Connection::open(address).await.expect("it accepts");
        let answer = connection.exchange(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await.expect("an answer");
        assert_eq!(answer.status(), status, "{host}");
    }
    tokio::time::timeout(DEADLINE, server.shutdown()).await.expect("it stops");
}
