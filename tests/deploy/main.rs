//! Deployments as the documentation describes them: the commands of its pages, run with real containers.

// A helper that unwraps says at once what it did not expect, as a test does.
#![allow(clippy::unwrap_used)]

mod container;
mod ingress;
mod register;
#[path = "../support/mod.rs"]
mod support;
mod tutorial;

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use support::DEADLINE;
use support::dockerd::Dockerd;
use tokio::process::{Child, Command};

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

/// The binary at work. Killed by its id when dropped.
struct Nuncio {
    child: Child,
    log: tempfile::NamedTempFile,
}

impl Nuncio {
    fn start(arguments: &[&str]) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        let said = || Stdio::from(File::options().append(true).open(log.path()).unwrap());
        let mut command = Command::new(env!("CARGO_BIN_EXE_nuncio"));
        command.args(arguments).env_remove("RUST_LOG").stdin(Stdio::null()).stdout(said()).stderr(said()).kill_on_drop(true);
        Self { child: command.spawn().unwrap(), log }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap()
    }

    async fn until_says(&self, text: &str) {
        until(&format!("it says {text:?}"), || self.said().contains(text)).await;
    }

    /// Sends it a signal, and waits for its end. The exit code.
    async fn end(&mut self, signal: Signal) -> Option<i32> {
        let id = self.child.id().and_then(|id| Pid::from_raw(id.try_into().unwrap())).expect("it runs");
        kill_process(id, signal).unwrap();
        let ended = tokio::time::timeout(DEADLINE, self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("it does not end:\n{}", self.said())).unwrap().code()
    }
}
