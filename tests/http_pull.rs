//! The provider of a document that an HTTP server has: a stub says what real servers rarely do, and a real one serves a file.

mod support;

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nuncio::config::Snapshot;
use nuncio::config::providers::HttpConfig;
use nuncio::config::snapshot::Removals;
use nuncio::discovery::{FeedState, FeedStatus, HttpProvider, Provider};
use nuncio::names::Name;
use support::http_document::Document;
use support::stub::Say;
use support::{Observed, is_empty};

const POLL: Duration = Duration::from_millis(100);

fn config(served: &Document, path: &str) -> HttpConfig {
    HttpConfig { poll: POLL, ..HttpConfig::of_url(&format!("{}{path}", served.stub().url())) }
}

fn whole(text: &str) -> Say {
    Say::Whole(200, String::new(), text.into())
}

fn observe(config: HttpConfig) -> Observed {
    Observed::new(Box::new(HttpProvider::new(Name::literal("http"), config)))
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

fn upstreams(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.upstreams.keys().map(Name::as_str).collect()
}

const TOML: &str = "[upstreams.a]\nendpoints = ['10.0.0.1:80']\n[upstreams.b]\nendpoints = ['10.0.0.2:80']\n";

#[tokio::test]
async fn toml_and_json_are_read_and_followed() {
    let json = r#"{"upstreams":{"a":{"endpoints":["10.0.0.1:80"]},"b":{}}}"#;
    for (path, text) in [("/edge.toml", TOML), ("/edge.json?v=1", json)] {
        let served = Document::start(whole(text)).await;
        let observed = observe(config(&served, path));
        let snapshot = observed.until("the document", |now| upstreams(now) == ["a", "b"]).await;
        assert_eq!((snapshot.all_problems().count(), snapshot.removals), (0, Removals::Inferred));
        served.say(whole(&text.replace(".b]", ".c]").replace("\"b\"", "\"c\"")));
        observed.until("a change", |now| upstreams(now).contains(&"c")).await;
    }
}

#[tokio::test]
async fn what_is_known_is_not_sent_again() {
    for told in ["ETag: \"v1\"\r\n", "Last-Modified: Sat, 21 Nov 2026 16:00:00 GMT\r\n"] {
        let served = Document::start(Say::Whole(200, told.into(), TOML.into())).await;
        let observed = observe(config(&served, "/edge.toml"));
        let before = observed.until("the document", |now| upstreams(now) == ["a", "b"]).await;
        let asked_again = async {
            while served.asked().len() < 4 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(support::DEADLINE, asked_again).await.expect("it is asked again");
        let field = if told.starts_with("ETag") { "if-none-match" } else { "if-modified-since" };
        assert!(served.asked().iter().skip(1).all(|asked| asked.field(field).is_some()), "{:?}", served.asked());
        assert!(Arc::ptr_eq(&before, &observed.feed().latest().expect("a snapshot")) && !is_failing(&observed.feed().status()));
        assert_eq!(served.stub().connections_max(), 1);
    }
}

#[tokio::test]
async fn a_bad_object_is_a_problem_at_its_place_and_a_bad_document_changes_nothing() {
    let served = Document::start(whole(TOML)).await;
    let url = served.stub().url();
    let observed = observe(config(&served, "/edge.toml"));
    let before = observed.until("the document", |now| upstreams(now) == ["a", "b"]).await;
    served.say(whole(&format!("{TOML}[upstreams.c]\nendpoint = []\n[server]\nworkers = 1\n")));
    let snapshot = observed.until("a bad object", |now| now.all_problems().count() == 2).await;
    let problems: Vec<String> = snapshot.all_problems().map(ToString::to_string).collect();
    assert!(problems.iter().any(|problem| problem.contains(&format!("{url}/edge.toml:6:1"))), "{problems:?}");
    assert!(problems.iter().any(|problem| problem.contains("the file of the start alone")), "{problems:?}");
    assert!(Arc::ptr_eq(&before.upstreams["a"], &snapshot.upstreams["a"]));
    for bad in ["[upstreams.a", "{\"upstreams\":"] {
        served.say(whole(bad));
        let snapshot = observed
            .until("a bad document", |now| {
                now.problems.iter().any(|problem| problem.effect.as_deref() == Some("what the document said before stays in force"))
            })
            .await;
        assert_eq!(upstreams(&snapshot), ["a", "b", "c"]);
        served.say(whole(&format!("{TOML}[upstreams.c]\n")));
        observed.until("a good one again", |now| now.all_problems().count() == 0).await;
    }
}

#[tokio::test]
async fn what_is_no_document_is_not_empty() {
    let json = "Content-Type: application/json\r\n";
    for (say, expected) in [
        (Say::Whole(404, String::new(), "no such file".into()), "404 Not Found: no such file"),
        (Say::Whole(304, String::new(), String::new()), "304 Not Modified"),
        (Say::Whole(302, "Location: http://elsewhere/\r\n".into(), String::new()), "redirects are not followed"),
        (Say::Whole(204, String::new(), String::new()), "204 No Content"),
        (Say::Whole(503, String::new(), "later".into()), "503 Service Unavailable: later"),
        (Say::Cut(200, String::new(), TOML.into()), "read http"),
        (Say::Whole(200, json.into(), "[]".into()), "expected an object"),
        (Say::Whole(200, json.into(), String::new()), "not a configuration"),
        (whole("<html>login</html>"), "not a configuration"),
    ] {
        let served = Document::start(say).await;
        let observed = observe(config(&served, "/edge.toml"));
        let error = error_of(&observed).await;
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(observed.feed().latest().is_none(), "{expected}");
        // And it takes nothing away of what was read before.
        served.say(whole(TOML));
        observed.until_status("it is live", |status| status.state == FeedState::Live).await;
    }
    let served = Document::start(whole("")).await;
    let observed = observe(config(&served, "/edge.toml"));
    assert!(is_empty(&*observed.until("an empty document is empty", is_empty).await));
}

#[tokio::test]
async fn credentials_are_sent_and_never_shown() {
    let served = Document::start(whole(TOML)).await;
    let basic = HttpConfig { username: Some("me".into()), password: Some("geheim".into()), ..config(&served, "/a.toml") };
    let token = HttpConfig { token: Some("geheim".into()), wait: Some(Duration::from_secs(30)), ..config(&served, "/a.toml") };
    for (config, expected, prefer) in [(basic, "Basic bWU6Z2VoZWlt", None), (token, "Bearer geheim", Some("wait=30"))] {
        served.say(whole(TOML));
        let provider = HttpProvider::new(Name::literal("http"), config);
        assert!(!format!("{provider:?} {:?}", provider.source()).contains("geheim"));
        let observed = Observed::new(Box::new(provider));
        observed.until("the document", |now| upstreams(now) == ["a", "b"]).await;
        let last = served.asked().pop().expect("it was asked");
        assert_eq!((last.field("authorization"), last.field("prefer")), (Some(expected), prefer));
        served.say(Say::Whole(401, String::new(), "who?".into()));
        let error = error_of(&observed).await;
        assert!(error.contains("401") && !error.contains("geheim"), "{error}");
        observed.stop().await;
    }
}

/// The server holds its answer until something is new.
#[tokio::test]
async fn a_long_poll_brings_changes_at_once() {
    let version_of = |version: usize| Say::Whole(200, format!("ETag: \"{version}\"\r\n"), format!("[upstreams.v{version}]\n"));
    let served = Document::start(version_of(1)).await;
    let hour = Duration::from_secs(3600);
    let observed = observe(HttpConfig { poll: hour, wait: Some(Duration::from_secs(60)), ..config(&served, "/a.toml") });
    for version in 1..=3_usize {
        served.say(version_of(version));
        observed.within(Duration::from_secs(3), "the version", |now| upstreams(now) == [format!("v{version}")]).await;
    }
}

/// As after a restart of the server, which knows how to wait all the same.
#[tokio::test]
async fn another_tag_of_the_same_document_delays_no_change() {
    let tagged = |tag: &str, text: &str| Say::Whole(200, format!("ETag: \"{tag}\"\r\n"), text.into());
    let served = Document::start(tagged("1", TOML)).await;
    let hour = Duration::from_secs(3600);
    let observed = observe(HttpConfig { poll: hour, wait: Some(Duration::from_secs(60)), ..config(&served, "/a.toml") });
    let before = observed.until("the document", |now| upstreams(now) == ["a", "b"]).await;
    served.say(tagged("2", TOML));
    let is_known = async {
        while !served.asked().iter().any(|asked| asked.field("if-none-match") == Some("\"2\"")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3), is_known).await.expect("it is soon asked again");
    assert!(Arc::ptr_eq(&before, &observed.feed().latest().expect("a snapshot")), "nothing changed");
    served.say(tagged("3", &format!("{TOML}[upstreams.c]\n")));
    observed.within(Duration::from_secs(3), "a change", |now| upstreams(now) == ["a", "b", "c"]).await;
}

/// Debian's nginx serves a file: it tells ETag and Last-Modified, and answers 304.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_server_is_followed() {
    let nginx = ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().find(|path| std::path::Path::new(path).exists());
    let nginx = nginx.expect("nginx is installed: see .ci/deps");
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().display();
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
    let text = format!(
        "daemon off; pid {root}/pid; error_log {root}/error.log; events {{}}\nhttp {{ access_log {root}/access.log; root {root}/www;\n\
         client_body_temp_path {root}/1; proxy_temp_path {root}/2; fastcgi_temp_path {root}/3; uwsgi_temp_path {root}/4; scgi_temp_path {root}/5;\n\
         server {{ listen 127.0.0.1:{port}; }} }}\n"
    );
    let file = directory.path().join("www/edge.toml");
    std::fs::create_dir(directory.path().join("www")).expect("a directory");
    std::fs::write(&file, TOML).expect("a file");
    std::fs::write(directory.path().join("nginx.conf"), text).expect("a file");
    let arguments = ["-p".into(), format!("{root}"), "-e".into(), format!("{root}/error.log"), "-c".into(), format!("{root}/nginx.conf")];
    let mut server =
        tokio::process::Command::new(nginx).args(arguments).stdin(Stdio::null()).kill_on_drop(true).spawn().expect("nginx starts");
    let observed = observe(HttpConfig { poll: POLL, ..HttpConfig::of_url(&format!("http://127.0.0.1:{port}/edge.toml")) });
    observed.until("the file", |now| upstreams(now) == ["a", "b"]).await;
    let log = || std::fs::read_to_string(directory.path().join("access.log")).unwrap_or_default();
    let not_modified = async {
        while !log().contains("\" 304 ") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(support::DEADLINE, not_modified).await.expect("what is known is not sent again");
    std::fs::write(&file, format!("{TOML}[upstreams.c]\n")).expect("a file");
    observed.until("its change", |now| upstreams(now) == ["a", "b", "c"]).await;
    std::fs::remove_file(&file).expect("it is there");
    let error = error_of(&observed).await;
    assert!(error.contains("404 Not Found"), "{error}");
    assert_eq!(observed.feed().latest().map(|now| now.upstreams.len()), Some(3), "what cannot be had is not empty");
    observed.stop().await;
    // Its workers end with the master, if that is asked and not killed.
    let pid = server.id().expect("it runs").to_string();
    assert!(std::process::Command::new("kill").arg(&pid).status().expect("kill runs").success());
    tokio::time::timeout(support::DEADLINE, server.wait()).await.expect("nginx ends").expect("it is our child");
}
