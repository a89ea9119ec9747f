//! A real Docker engine of our own: in a network and a mount namespace of its own, its data in a directory of its own, so that it neither
//! sees nor disturbs one that the machine has. Ended when dropped.

use std::fs::File;
use std::future::Future;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

use super::DEADLINE;

/// An image with nothing but busybox, and `/bin/sh`.
pub const IMAGE: &str = "busybox-test";

/// The engine's own start: what it writes to /run stays in its namespace.
const START: &str = r#"directory=$1; shift; ip link set lo up && mount -t tmpfs tmpfs /run && mkdir /run/exec && exec dockerd \
    --host unix:///run/docker.sock --data-root "$directory/data" --exec-root /run/exec --pidfile /run/dockerd.pid --host "unix://$directory/docker.sock" \
    --storage-driver vfs --shutdown-timeout 1 "$@""#;

/// An engine of one host.
pub struct Dockerd {
    directory: TempDir,
    arguments: Vec<String>,
    process: Option<Child>,
}

impl Dockerd {
    /// Starts an engine with [`IMAGE`], and waits until it answers.
    pub async fn start() -> Self {
        Self::start_with(|_| Vec::new()).await
    }

    /// The same with further arguments, which may name files in its directory.
    pub async fn start_with(arguments: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let directory = tempfile::Builder::new().prefix("dockerd").tempdir().expect("a temporary directory");
        let arguments = arguments(directory.path());
        let mut engine = Self { directory, arguments, process: None };
        engine.run().await;
        engine.import_programs(IMAGE, &[], &[]);
        engine
    }

    /// Starts its process, with the same data as before, and waits until it answers.
    pub async fn run(&mut self) {
        let log = File::options().append(true).create(true).open(self.log_path()).expect("a log file in our directory");
        let spawned = Command::new("unshare")
            .args(["--net", "--mount", "sh", "-c", START, "sh"])
            .arg(self.directory.path())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log"))
            .stderr(log)
            .spawn();
        self.process = Some(spawned.unwrap_or_else(|error| panic!("cannot start unshare: {error}. `make test` installs it (util-linux)")));
        let answers = async {
            while !self.ask(&["version"]).status.success() {
                if let Some(status) = self.process.as_mut().and_then(|process| process.try_wait().expect("our own child has a status")) {
                    panic!("dockerd ended with {status}. It needs to be root, and dockerd (Debian: docker.io):\n{}", self.log());
                }
                // A poll of another process, which tells nobody when it is ready.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(DEADLINE * 2, answers).await.is_err() {
            panic!("dockerd does not answer:\n{}", self.log());
        }
    }

    /// Ends its process as the system would, with all its containers. Its data stays.
    pub fn end(&mut self) {
        if let Some(mut process) = self.process.take() {
            kill_process(Pid::from_child(&process), Signal::TERM).expect("our own child can be signalled");
            process.wait().expect("our own child can be waited for");
        }
    }

    /// Ends its process as `kill -9` does, and all its containers. Its data stays.
    pub fn kill(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let ours = network(&process.id().to_string()).expect("a process has a network");
        let pids =
            || std::fs::read_dir("/proc").expect("there is a /proc").flatten().filter_map(|entry| entry.file_name().into_string().ok());
        // Containers are in networks of their own, and children of what is in the engine's.
        let parent = |pid: &String| {
            Some(std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?.rsplit(')').next()?.split(' ').nth(2)?.to_owned())
        };
        let mut doomed: Vec<String> = pids().filter(|pid| network(pid).as_ref() == Some(&ours)).collect();
        let mut parents = doomed.clone();
        while !parents.is_empty() {
            parents = pids().filter(|pid| !doomed.contains(pid) && parent(pid).is_some_and(|parent| parents.contains(&parent))).collect();
            doomed.extend(parents.iter().cloned());
        }
        process.kill().expect("our own child can be killed");
        process.wait().expect("our own child can be waited for");
        for pid in doomed {
            if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
                // It may have ended by itself.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }

    /// Stops its process without ending it: connections stay, and nothing is answered.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("it runs");
        kill_process(Pid::from_child(process), signal).expect("our own child can be signalled");
    }

    /// Whether the `docker` command succeeds.
    pub fn does(&self, arguments: &[&str]) -> bool {
        self.ask(arguments).status.success()
    }

    /// Runs the `docker` command. What it printed, without the newline at the end.
    pub fn docker(&self, arguments: &[&str]) -> String {
        let output = self.ask(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        assert!(output.status.success(), "docker {}: {}\n{}", arguments.join(" "), text(&output.stderr), self.log());
        text(&output.stdout)
    }

    /// Runs the `docker` command. What it printed, errors included.
    pub fn docker_told(&self, arguments: &[&str]) -> String {
        let output = self.ask(arguments);
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat()
    }

    /// Makes it the only manager of a Swarm.
    pub fn init_swarm(&self) {
        self.docker(&["swarm", "init", "--advertise-addr=127.0.0.1", "--listen-addr=127.0.0.1"]);
    }

    /// Its process, whose network it is.
    pub fn process_id(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    /// Runs what `run` makes in the engine's network, where its containers and their published ports can be reached.
    pub fn inside<F: Future>(&self, run: impl FnOnce() -> F + Send) -> F::Output
    where
        F::Output: Send,
    {
        let pid = self.process_id();
        let network = File::open(format!("/proc/{pid}/ns/net")).expect("a process has a network");
        let enter = move || {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).expect("root can enter a network");
            // All threads that it starts from here are in that network too.
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
            runtime.block_on(run())
        };
        std::thread::scope(|scope| match scope.spawn(enter).join() {
            Ok(output) => output,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Runs the `docker` command without waiting for its end. What it prints goes to `output`.
    pub fn docker_into(&self, output: File, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(output).stderr(Stdio::null()).spawn().expect("docker was run before")
    }

    /// Runs the `docker` command without waiting for its end.
    pub fn docker_spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("docker was run before")
    }

    /// Runs shell commands in `directory`, with this engine as the one of `docker`, in its network, and with variables. What they print.
    pub fn shell(&self, directory: &Path, variables: &[(&str, &str)], commands: &str) -> String {
        let run = || async {
            let mut command = Command::new("bash");
            command.args(["-euo", "pipefail", "-c", commands]).current_dir(directory).stdin(Stdio::null());
            command.env("DOCKER_HOST", self.host()).env("DOCKER_CONFIG", self.directory.path()).envs(variables.iter().copied());
            command.output().expect("bash can be run")
        };
        let output = self.inside(run);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}\n{commands}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// Where its API is.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("docker.sock")
    }

    fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output();
        output.unwrap_or_else(|error| panic!("cannot run docker: {error}. `make test` installs it (on Debian: apt-get install docker.io)"))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", self.host()).env("DOCKER_CONFIG", self.directory.path());
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Makes an image with busybox, `/bin/sh`, and programs of this system with the libraries that they need. `changes` are lines of a
    /// Dockerfile.
    pub fn import_programs(&self, image: &str, programs: &[&str], changes: &[&str]) {
        let root = self.directory.path().join(image);
        let copy = |from: &Path, to: &Path| {
            let to = root.join(to.strip_prefix("/").unwrap_or(to));
            std::fs::create_dir_all(to.parent().expect("a file is in a directory")).expect("our own directory can be written");
            std::fs::copy(from, &to).unwrap_or_else(|error| panic!("{} to {}: {error}", from.display(), to.display()));
        };
        let busybox = ["/usr/bin/busybox", "/bin/busybox"].map(Path::new).into_iter().find(|path| path.exists());
        let busybox = busybox.expect("a static busybox; `make test` installs it (on Debian: apt-get install busybox-static)");
        for name in ["/bin/busybox", "/bin/sh"] {
            copy(busybox, Path::new(name));
        }
        for program in programs {
            let path = ["/usr/sbin", "/usr/bin"].map(|directory| Path::new(directory).join(program)).into_iter().find(|path| path.exists());
            let path = path.unwrap_or_else(|| panic!("{program} is not there; `make test` installs it"));
            copy(&path, &Path::new("/bin").join(program));
            libraries(&path).iter().for_each(|library| copy(library, library));
        }
        let archive = self.directory.path().join("root.tar");
        let tar = Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&root).arg(".").status().expect("tar can be run");
        assert!(tar.success(), "tar: {tar}");
        let changes = changes.iter().map(|change| format!("--change={change}"));
        let arguments: Vec<String> =
            ["import".into()].into_iter().chain(changes).chain([archive.display().to_string(), image.into()]).collect();
        self.docker(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    }

    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.log_path()).unwrap_or_else(|error| error.to_string());
        let lines: Vec<&str> = log.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(20)).copied().collect::<Vec<_>>().join("\n")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }
}

/// What a program is linked to, the dynamic linker included.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().expect("ldd can be run");
    let text = String::from_utf8_lossy(&output.stdout);
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    text.lines().filter_map(path).collect()
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        self.end();
    }
}
