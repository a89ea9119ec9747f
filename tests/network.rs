//! The real binary in networks and with sockets that others made: configurations of the edge, routing, systemd.
//!
//! What is seen is told by the scripts of tests/network, which run in namespaces of their own and end with a line that says so.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Stdio};

/// In new namespaces of the network, of mounts and of processes: nothing is left of it, however it ends.
const UNSHARE: &[&str] = &["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];

/// Longer than any script can take on a busy machine.
const SECONDS_MAX: &str = "90";

fn run(before: &[&str], script: &str, more: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new("timeout");
    command.arg("--kill-after=5").arg(SECONDS_MAX).args(before).arg(root.join("tests/network").join(script));
    command.arg(env!("CARGO_BIN_EXE_nuncio")).arg(more).env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
    let output = command.output().unwrap_or_else(|error| panic!("{before:?}: {error}. `.ci/deps test` installs what it takes"));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains(": seen"), "{script}: {}\n{said}", output.status);
}

/// docs/transparent.md, with its configuration and its script.
#[test]
fn endpoints_see_the_clients_own_address() {
    run(UNSHARE, "transparent.sh", &Path::new(env!("CARGO_MANIFEST_DIR")).join("config/transparent"));
}

/// docs/edge.md: each of its configurations as it is.
#[test]
fn configurations_of_the_edge_do_what_they_say() {
    run(&[UNSHARE, &["python3"]].concat(), "edge.py", &Path::new(env!("CARGO_MANIFEST_DIR")).join("config/edge"));
}

#[test]
fn sockets_of_systemd_are_served_and_it_is_told_when_we_are_ready() {
    run(&["python3"], "systemd.py", tempfile::tempdir().unwrap().path());
}
