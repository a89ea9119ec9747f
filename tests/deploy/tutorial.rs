//! docs/tutorial-ambassador.md: its commands with real containers, and a consumer that is watched while the provider moves.

use std::time::Instant;

use crate::support::DEADLINE;
use crate::support::dockerd::Dockerd;
use crate::support::page::Page;
use crate::{build_image, checkout, until};

/// A web server that says which container it is.
const APACHE: &str = r#"CMD ["/bin/sh", "-c", "/bin/busybox mkdir /www && /bin/busybox hostname >/www/index.html && exec /bin/busybox httpd -f -p 80 -h /www"]"#;

/// Asks again and again until there is a file `stop`. Each answer is a line.
const CONSUME: &str = "while [ ! -e stop ]; do \
    curl -sS --max-time 20 -w ' %{http_code}\\n' http://127.0.0.1:8080/ 2>&1 | tr -d '\\n'; echo; done";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_consumer_does_not_notice_that_the_provider_moves() {
    let engine = Dockerd::start().await;
    build_image(&engine, "make image");
    engine.import_programs("etcd", &["etcd", "etcdctl"], &[]);
    engine.import_programs("haproxy", &["haproxy"], &[]);
    engine.import_programs("apache", &[], &[APACHE]);
    let page = Page::open("tutorial-ambassador.md");
    let directory = checkout();
    for section in ["The store", "The provider", "The ambassadors", "The consumer"] {
        page.run(section, &engine, directory.path());
    }
    let shell = |commands: &str| engine.shell(directory.path(), &[], commands);
    let id = || engine.docker(&["inspect", "--format={{.Config.Hostname}}", "apache"]);
    let answer = || shell("curl -sS --max-time 20 http://127.0.0.1:8080/ || true").trim().to_owned();
    let first = id();
    until("the consumer is served", || answer() == first).await;
    let key = shell("docker exec etcd etcdctl get --print-value-only /services/apache-A/apache");
    assert!(key.contains(r#""port":49153"#), "{key}");
    assert_eq!(
        engine.docker(&["inspect", "--format={{len .NetworkSettings.Networks}}", "apache-amb"]),
        "1",
        "it knows no other way to etcd"
    );
    until("the ambassadors are healthy", || {
        let health = |name: &str| engine.docker(&["inspect", "--format={{.State.Health.Status}}", name]);
        ["etcd-amb", "apache-amb", "register"].iter().all(|name| health(name) == "healthy")
    })
    .await;

    let lines = std::thread::scope(|scope| {
        let consumer = scope.spawn(|| shell(CONSUME));
        let told = page.run("The move", &engine, directory.path());
        assert!(told.contains("49154"), "{told}");
        let started = Instant::now();
        while answer() != id() {
            assert!(started.elapsed() < DEADLINE, "the provider that moved is not found");
        }
        std::fs::write(directory.path().join("stop"), "").unwrap();
        consumer.join().unwrap()
    });
    let second = id();
    let answers: Vec<&str> = lines.lines().collect();
    let (before, after) = (format!("{first} 200"), format!("{second} 200"));
    let errors: Vec<_> = answers.iter().filter(|line| **line != before && **line != after).collect();
    assert!(errors.is_empty(), "of {} answers: {errors:?}", answers.len());
    assert!(answers.contains(&before.as_str()) && answers.contains(&after.as_str()), "{answers:?}");
    assert!(answers.is_sorted_by_key(|line| **line == after), "who has moved is not asked any more");
    // It does not end when it is told to, as the first process of a container.
    engine.docker(&["rm", "--force", "apache"]);
}
