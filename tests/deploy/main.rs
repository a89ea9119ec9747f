//! Deployments as the documentation describes them: the commands of its pages, run with real containers.

// A helper that unwraps says at once what it did not expect, as a test does.
#![allow(clippy::unwrap_used)]

mod container;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::time::Duration;

use support::DEADLINE;
use support::dockerd::Dockerd;

/// Builds the image `nuncio` from what was compiled for tests.
fn build_image(engine: &Dockerd, commands: &str) -> String {
    engine.shell(Path::new(env!("CARGO_MANIFEST_DIR")), &[("PROFILE", "dev")], commands)
}

/// A directory for a page's commands, from where they see config/ as in a checkout.
fn checkout() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("config"), directory.path().join("config")).unwrap();
    directory
}

/// Waits for a condition of other processes, which tell nobody when they have changed.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE, holds).await.unwrap_or_else(|_| panic!("never: {what}"));
}
