//! docs/container.md: the image, and what is said of it.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use crate::support::dockerd::{Dockerd, IMAGE};
use crate::support::page::Page;
use crate::{build_image, checkout, until};

/// A web server whose `/cgi-bin/slow` tells that it was asked, and answers once it is told to.
const APP: &str = r#"/bin/busybox mkdir -p /www/cgi-bin && echo hello >/www/index.html
printf '%s\n' '#!/bin/sh' '/bin/busybox touch /asked' 'until [ -e /go ]; do /bin/busybox sleep 0.1; done' \
    'printf "Content-Type: text/plain\r\n\r\nslow\n"' >/www/cgi-bin/slow
/bin/busybox chmod +x /www/cgi-bin/slow && exec /bin/busybox httpd -f -p 8000 -h /www"#;

fn status(engine: &Dockerd, name: &str) -> String {
    engine.docker(&["inspect", "--format={{.State.Health.Status}}", name])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_about_containers_is_right() {
    let engine = Dockerd::start().await;
    let page = Page::open("container.md");
    let directory = checkout();
    // For the container's user, as a reader's directories are.
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let shell = |commands: &str| engine.shell(directory.path(), &[], commands);

    let [build] = page.commands("Build").try_into().unwrap();
    let built = build_image(&engine, &build);
    assert!(built.contains("nuncio: "), "{built}");
    let inspect = |format: &str| engine.docker(&["image", "inspect", "--format", format, "nuncio"]);
    assert_eq!(inspect("{{.Config.User}} {{.Config.Entrypoint}} {{len .RootFS.Layers}}"), "65534:65534 [/nuncio] 3");
    assert_eq!(inspect(r#"{{index .Config.Labels "org.opencontainers.image.version"}}"#), env!("CARGO_PKG_VERSION"));

    engine.docker(&["network", "create", "front"]);
    engine.docker(&["run", "--detach", "--name=app", "--network=front", IMAGE, "/bin/sh", "-c", APP]);
    let usage = page.run("Run", &engine, directory.path());
    assert!(usage.contains("nuncio ambassador"), "{usage}");
    until("it is healthy", || status(&engine, "nuncio") == "healthy").await;
    assert_eq!(shell("curl -fsS http://127.0.0.1:8080/"), "hello\n");
    let files = shell("docker export nuncio | tar --list --verbose");
    // Those that are empty are the engine's.
    let ours = files.lines().filter(|line| line.starts_with('-') && line.split_whitespace().nth(2) != Some("0"));
    let ours: Vec<_> = ours.filter_map(|line| line.split_whitespace().last()).collect();
    assert_eq!(ours, ["etc/ssl/certs/ca-certificates.crt", "nuncio"], "{files}");
    shell("docker cp nuncio:/etc/ssl/certs/ca-certificates.crt - | tar -xO | cmp - /etc/ssl/certs/ca-certificates.crt");

    page.run("Change", &engine, directory.path());
    let location = "curl -sS -o /dev/null -w '%{http_code} %{redirect_url}' http://127.0.0.1:8080/old/page";
    until("the new file is live", || shell(location) == "301 https://new.example.com/old/page").await;

    let told = page.run("Health", &engine, directory.path());
    assert!(told.starts_with("healthy\n") && told.contains(":8000"), "{told}");
    wherever_its_admin_api_is(&engine).await;

    let slow = std::thread::scope(|scope| {
        let slow = scope.spawn(|| shell("curl -fsS http://127.0.0.1:8080/cgi-bin/slow"));
        while !engine.does(&["exec", "app", "/bin/busybox", "test", "-e", "/asked"]) {
            std::thread::yield_now();
        }
        let stopped = scope.spawn(|| page.run("Stop", &engine, directory.path()));
        while !shell("docker logs nuncio 2>&1").contains("SIGTERM") {
            std::thread::yield_now();
        }
        let started = Instant::now();
        engine.docker(&["exec", "app", "/bin/busybox", "touch", "/go"]);
        stopped.join().unwrap();
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        slow.join().unwrap()
    });
    assert_eq!(slow, "slow\n", "what is in flight is finished");
    assert_eq!(engine.docker(&["inspect", "--format={{.State.ExitCode}}", "nuncio"]), "0");
    // It does not end when it is told to, as the first process of a container.
    engine.docker(&["rm", "--force", "app"]);
}

/// Health of instances that have it elsewhere, and of one that is not ready. Names are looked up by the C library too.
async fn wherever_its_admin_api_is(engine: &Dockerd) {
    let checks = ["--health-interval=1s", "--health-start-period=0s", "--health-retries=2"];
    let run = |name: &str, arguments: &[&str]| {
        let name = format!("--name={name}");
        engine.docker(&[&["run", "--detach", "--read-only", "--network=front", &name], checks.as_slice(), &["nuncio"], arguments].concat());
    };
    run("flagged", &["forward", "7000", "app:8000", "--admin", "127.0.0.1:0"]);
    run("lost", &["run", "--listen", ":80", "--provider", "etcd://nowhere.invalid"]);
    run("blind", &["register", "--internal"]);
    until("health is asked where --admin says", || status(engine, "flagged") == "healthy").await;
    until("who is not ready is unhealthy", || status(engine, "lost") == "unhealthy").await;
    until("nor is a registrar without an engine", || status(engine, "blind") == "unhealthy").await;
    let told = engine.docker_told(&["exec", "blind", "/nuncio", "health"]);
    assert!(told.contains("not ready:\n  docker unix:///var/run/docker.sock: connect"), "{told}");
    let told = engine.docker_told(&["run", "--rm", "--network=front", "nuncio", "health", "--admin=http://app:8000"]);
    assert!(told.contains("app:8000/readyz answered 404"), "{told}");
    engine.docker(&["rm", "--force", "flagged", "lost", "blind"]);
}
