//! The file provider: a configuration file, or a directory of them, watched by inotify.
//!
//! Watched are directories, not files: editors write a new file and rename it over the old one, deployments swap a symbolic link.
//! Which directories those are changes with the links (`trace`), so it is looked up again before each read. After each change
//! everything is read again: what did not change stays the same `Arc`s ([`Files`]).

use std::collections::BTreeSet;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::trace::Trace;
use super::{Provider, ProviderError, Publisher};
use crate::config::decode::FileConfig;
use crate::config::files::{Files, is_config};
use crate::config::{Origin, Problem, ProviderConfig, ServerConfig, Snapshot};
use crate::names::Name;

/// Reads a file, or all `*.toml` of a directory, again whenever they change.
#[derive(Debug)]
pub struct FileProvider {
    name: Name,
    path: PathBuf,
    /// What was read. Shared with a read that is still under way after the future that waited for it was dropped.
    files: Arc<Mutex<Files>>,
    started_with: Option<Arc<Settings>>,
}

/// What a file says of the process, which is read once, at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Settings {
    server: ServerConfig,
    providers: Vec<(Name, ProviderConfig)>,
}

impl Settings {
    fn of(config: &FileConfig) -> Self {
        Self { server: config.server.clone(), providers: config.providers.clone() }
    }
}

impl FileProvider {
    /// A provider of what is at `path`, which need not exist yet.
    #[must_use]
    pub fn new(name: Name, path: PathBuf) -> Self {
        let files = Arc::new(Mutex::new(Files::new(path.clone(), name.clone())));
        Self { name, path, files, started_with: None }
    }

    /// The same for a process that started with the settings of `config`: it warns while the file says something else of the process
    /// itself, because that is read at the start only.
    #[must_use]
    pub fn started_with(self, config: &FileConfig) -> Self {
        Self { started_with: Some(Arc::new(Settings::of(config))), ..self }
    }

    async fn run(&mut self, changes: Arc<Changes>, publisher: &dyn Publisher) -> Result<(), ProviderError> {
        let (files, started_with) = (self.files.clone(), self.started_with.clone());
        let mut reader = Reader { path: self.path.clone(), files, started_with, changes: changes.clone(), watches: None };
        let mut seen_at = Instant::now();
        let mut is_published = false;
        loop {
            let read = tokio::task::spawn_blocking(move || reader.read(seen_at)).await;
            let read = read.map_err(|error| self.error("read", error))?;
            if read.is_changed || !is_published {
                publisher.publish(read.snapshot);
                is_published = true;
            } else {
                publisher.contact();
            }
            reader = read.reader.map_err(|error| self.error("watch", error))?;
            seen_at = changes.settled().await;
        }
    }

    fn error(&self, doing: &str, cause: impl std::error::Error + Send + Sync + 'static) -> ProviderError {
        ProviderError { doing: format!("{}: {doing} {}", self.name, self.path.display()), cause: Box::new(cause) }
    }
}

impl Provider for FileProvider {
    fn name(&self) -> &Name {
        &self.name
    }

    fn watch<'a>(&'a mut self, publisher: &'a dyn Publisher) -> Pin<Box<dyn Future<Output = Result<(), ProviderError>> + Send + 'a>> {
        Box::pin(self.run(Arc::default(), publisher))
    }
}

/// What reads, on a thread that may wait for disks.
struct Reader {
    path: PathBuf,
    files: Arc<Mutex<Files>>,
    started_with: Option<Arc<Settings>>,
    changes: Arc<Changes>,
    /// Made for the first read. inotify ends with it.
    watches: Option<Watches>,
}

/// What came of one read. Also if it is not possible to watch, there is something to publish.
struct Read {
    reader: Result<Reader, notify::Error>,
    snapshot: Snapshot,
    is_changed: bool,
}

impl Reader {
    /// Watches first and reads then: whatever changes after the read is noticed.
    fn read(mut self, seen_at: Instant) -> Read {
        let watched = self.watch();
        let mut files = lock(&self.files);
        let is_changed = files.read(seen_at);
        let config = files.config(seen_at);
        drop(files);
        let is_restart_needed = self.started_with.as_ref().is_some_and(|settings| **settings != Settings::of(&config));
        let mut snapshot = config.snapshot;
        // Settings that cannot be read are at their defaults, which says nothing about what is wanted.
        if is_restart_needed && config.problems.is_empty() {
            snapshot.problems.push(restart_needed(config.server_origin));
        }
        snapshot.problems.extend(config.problems);
        Read { reader: watched.map(|()| self), snapshot, is_changed }
    }

    fn watch(&mut self) -> Result<(), notify::Error> {
        let watches = match &mut self.watches {
            Some(watches) => watches,
            watches => watches.insert(Watches::new(self.changes.clone())?),
        };
        watches.update(&self.path)
    }
}

fn restart_needed(server: Option<Origin>) -> Problem {
    let problem = Problem::warning("`[server]` or `[providers]` is not what it was at the start")
        .effect("the process goes on with the settings of its start; all other changes are live")
        .help("restart it to use the new ones");
    match server {
        Some(origin) => problem.at(origin),
        None => problem,
    }
}

/// The directories that are watched.
struct Watches {
    watcher: RecommendedWatcher,
    watched: BTreeSet<PathBuf>,
    changes: Arc<Changes>,
}

/// How often links are followed anew because they changed meanwhile. Then a later event leads to the next attempt.
const ROUNDS_MAX: usize = 8;

impl Watches {
    fn new(changes: Arc<Changes>) -> Result<Self, notify::Error> {
        let noted = changes.clone();
        let watcher = notify::recommended_watcher(move |event| noted.note(event))?;
        Ok(Self { watcher, watched: BTreeSet::new(), changes })
    }

    /// Watches all that decides what `path` leads to, and nothing else.
    fn update(&mut self, path: &Path) -> Result<(), notify::Error> {
        let mut interest = Interest::in_path(path);
        for _ in 0..ROUNDS_MAX {
            // Known before it is watched, so that no event is taken for one of no interest.
            lock(&self.changes.interest).clone_from(&interest);
            for directory in &interest.trace.directories {
                self.watch(directory)?;
            }
            let now = Interest::in_path(path);
            if now == interest {
                break;
            }
            interest = now;
        }
        for directory in self.watched.difference(&interest.trace.directories) {
            // It may be gone, and its watch with it.
            let _ = self.watcher.unwatch(directory);
        }
        self.watched = interest.trace.directories;
        Ok(())
    }

    /// Also if it was watched already: another directory may have taken its place.
    fn watch(&mut self, directory: &Path) -> Result<(), notify::Error> {
        self.watched.insert(directory.to_path_buf());
        match self.watcher.watch(directory, RecursiveMode::NonRecursive) {
            Err(error) if matches!(error.kind, notify::ErrorKind::PathNotFound) => Ok(()),
            result => result,
        }
    }
}

/// Which events matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Interest {
    trace: Trace,
    /// The directory of which all configuration files are read, if it is one.
    listed: Option<PathBuf>,
}

impl Interest {
    fn in_path(path: &Path) -> Self {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let mut trace = Trace::default();
        trace.follow(&path);
        let listed = path.canonicalize().ok().filter(|path| path.is_dir());
        if let Some(directory) = &listed {
            trace.add_directory(directory);
            let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).filter(|path| is_config(path)).for_each(|path| trace.follow(&path));
        }
        Self { trace, listed }
    }

    fn covers(&self, path: &Path) -> bool {
        let is_listed = self.listed.is_some() && path.parent() == self.listed.as_deref() && is_config(path);
        is_listed || self.trace.paths.contains(path) || self.trace.directories.contains(path)
    }
}

/// What inotify told, until it is acted on.
#[derive(Debug, Default)]
struct Changes {
    interest: Mutex<Interest>,
    pending: Mutex<Pending>,
    noted: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    /// When the first change was seen.
    since: Option<Instant>,
    /// Whether a file was written to, and not closed since.
    is_being_written: bool,
}

/// No change for this long: whoever makes them is done.
const QUIET: Duration = Duration::from_millis(10);
/// Changes that do not end are acted on after this long.
const CHANGES_MAX: Duration = Duration::from_millis(50);

impl Changes {
    /// Takes an event, from the watcher's thread.
    fn note(&self, event: Result<Event, notify::Error>) {
        let is_written = match event {
            Ok(event) if !self.concerns(&event) => return,
            Ok(Event { kind: EventKind::Modify(ModifyKind::Data(_)), .. }) => true,
            // An error says that events were lost, or nothing that could be acted on otherwise.
            Ok(_) | Err(_) => false,
        };
        let mut pending = lock(&self.pending);
        pending.since.get_or_insert_with(Instant::now);
        pending.is_being_written = is_written;
        drop(pending);
        self.noted.notify_one();
    }

    fn concerns(&self, event: &Event) -> bool {
        let is_read = matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write));
        if event.need_rescan() || is_read {
            return !is_read;
        }
        let interest = lock(&self.interest);
        event.paths.is_empty() || event.paths.iter().any(|path| interest.covers(path))
    }

    /// Waits for a change and for the end of the changes around it. Says when the first one was seen.
    async fn settled(&self) -> Instant {
        loop {
            let is_quiet = timeout(QUIET, self.noted.notified()).await.is_err();
            if let Some(since) = self.take(is_quiet) {
                return since;
            }
            if is_quiet && lock(&self.pending).since.is_none() {
                self.noted.notified().await;
            }
        }
    }

    /// The changes, if it is time to act on them.
    fn take(&self, is_quiet: bool) -> Option<Instant> {
        let mut pending = lock(&self.pending);
        let since = pending.since?;
        let is_done = is_quiet && !pending.is_being_written;
        if !is_done && since.elapsed() < CHANGES_MAX {
            return None;
        }
        *pending = Pending::default();
        Some(since)
    }
}

/// Whoever panicked with the lock left values behind that are good in themselves.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;
    use tokio::sync::mpsc;
    use tokio::task::JoinHandle;

    use super::*;

    /// Anything that does not happen within this time never will.
    const DEADLINE: Duration = Duration::from_secs(10);

    struct Channel(mpsc::UnboundedSender<Option<Snapshot>>);

    impl Publisher for Channel {
        fn publish(&self, snapshot: Snapshot) {
            let _ = self.0.send(Some(snapshot));
        }

        fn contact(&self) {
            let _ = self.0.send(None);
        }
    }

    /// A provider at work on a path in a directory of its own.
    struct Fixture {
        directory: TempDir,
        published: mpsc::UnboundedReceiver<Option<Snapshot>>,
        changes: Arc<Changes>,
        task: JoinHandle<Result<(), ProviderError>>,
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    impl Fixture {
        /// Watches `path` inside a directory that `prepare` fills.
        fn new(path: &str, prepare: impl FnOnce(&Path)) -> Self {
            let directory = tempfile::tempdir().unwrap();
            prepare(directory.path());
            let (sender, published) = mpsc::unbounded_channel();
            let mut provider = FileProvider::new(Name::literal("file"), directory.path().join(path));
            let changes = Arc::new(Changes::default());
            let noted = changes.clone();
            let task = tokio::spawn(async move { provider.run(noted, &Channel(sender)).await });
            Self { directory, published, changes, task }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.path(name), text).unwrap();
        }

        /// The next snapshot of which `condition` is true.
        async fn until(&mut self, condition: impl Fn(&Snapshot) -> bool) -> Snapshot {
            let next = async {
                loop {
                    match self.published.recv().await {
                        Some(Some(snapshot)) if condition(&snapshot) => return snapshot,
                        Some(_) => {}
                        None => panic!("the provider ended"),
                    }
                }
            };
            timeout(DEADLINE, next).await.expect("the snapshot is published in time")
        }

        /// The next snapshot with these upstreams, and no problem.
        async fn until_upstreams(&mut self, names: &[&str]) -> Snapshot {
            self.until(|snapshot| snapshot.upstreams.keys().map(Name::as_str).eq(names.iter().copied()) && snapshot.problems.is_empty())
                .await
        }
    }

    fn upstreams(names: &[&str]) -> String {
        names.iter().fold(String::new(), |mut text, name| {
            writeln!(text, "[upstreams.{name}]\nendpoints = ['10.0.0.1:80']").unwrap();
            text
        })
    }

    fn file(name: &str, names: &[&str]) -> impl FnOnce(&Path) {
        let text = upstreams(names);
        move |directory| std::fs::write(directory.join(name), text).unwrap()
    }

    #[tokio::test]
    async fn an_edit_in_place_is_published() {
        let mut fixture = Fixture::new("a.toml", file("a.toml", &["a"]));
        let before = fixture.until_upstreams(&["a"]).await;
        fixture.write("a.toml", &upstreams(&["a", "b"]));
        let after = fixture.until_upstreams(&["a", "b"]).await;
        assert!(Arc::ptr_eq(&before.upstreams["a"], &after.upstreams["a"]));
        assert!(after.seen_at > before.seen_at);
    }

    #[tokio::test]
    async fn a_rename_over_the_file_is_published() {
        let mut fixture = Fixture::new("a.toml", file("a.toml", &["a"]));
        fixture.until_upstreams(&["a"]).await;
        for names in [["b"], ["c"]] {
            fixture.write("a.toml~", &upstreams(&names));
            std::fs::rename(fixture.path("a.toml~"), fixture.path("a.toml")).unwrap();
            fixture.until_upstreams(&names).await;
        }
    }

    #[tokio::test]
    async fn a_deleted_file_keeps_what_it_said_until_it_is_back() {
        let mut fixture = Fixture::new("a.toml", file("a.toml", &["a"]));
        fixture.until_upstreams(&["a"]).await;
        std::fs::remove_file(fixture.path("a.toml")).unwrap();
        let without = fixture.until(|snapshot| !snapshot.problems.is_empty()).await;
        assert_eq!(without.upstreams.len(), 1);
        fixture.write("a.toml", &upstreams(&["b"]));
        fixture.until_upstreams(&["b"]).await;
    }

    #[tokio::test]
    async fn a_file_in_a_directory_that_is_made_later_is_found() {
        let mut fixture = Fixture::new("x/y/a.toml", |_| {});
        let first = fixture.until(|_| true).await;
        assert!(first.upstreams.is_empty() && first.problems.len() == 1);
        for names in [["a"], ["b"]] {
            std::fs::create_dir_all(fixture.path("x/y")).unwrap();
            fixture.write("x/y/a.toml", &upstreams(&names));
            fixture.until_upstreams(&names).await;
            std::fs::remove_dir_all(fixture.path("x")).unwrap();
            fixture.until(|snapshot| !snapshot.problems.is_empty()).await;
        }
    }

    #[tokio::test]
    async fn a_syntax_error_keeps_the_last_good_objects() {
        let mut fixture = Fixture::new("a.toml", file("a.toml", &["a"]));
        let before = fixture.until_upstreams(&["a"]).await;
        fixture.write("a.toml", "[upstreams.a");
        let broken = fixture.until(|snapshot| !snapshot.problems.is_empty()).await;
        assert!(Arc::ptr_eq(&before.upstreams["a"], &broken.upstreams["a"]));
        fixture.write("a.toml", &upstreams(&["a", "b"]));
        fixture.until_upstreams(&["a", "b"]).await;
    }

    #[tokio::test]
    async fn files_of_a_directory_come_and_go() {
        let mut fixture = Fixture::new("", file("a.toml", &["a"]));
        fixture.until_upstreams(&["a"]).await;
        fixture.write("b.toml", &upstreams(&["b"]));
        fixture.until_upstreams(&["a", "b"]).await;
        fixture.write("b.toml", &upstreams(&["b", "c"]));
        fixture.until_upstreams(&["a", "b", "c"]).await;
        std::fs::remove_file(fixture.path("a.toml")).unwrap();
        fixture.until_upstreams(&["b", "c"]).await;
    }

    #[tokio::test]
    async fn a_swapped_link_is_followed() {
        let mut fixture = Fixture::new("conf/a.toml", |directory| {
            for (version, name) in [("v1", "a"), ("v2", "b")] {
                std::fs::create_dir_all(directory.join("conf").join(version)).unwrap();
                file("a.toml", &[name])(&directory.join("conf").join(version));
            }
            symlink("v1", directory.join("conf/..data")).unwrap();
            symlink("..data/a.toml", directory.join("conf/a.toml")).unwrap();
        });
        fixture.until_upstreams(&["a"]).await;
        symlink("v2", fixture.path("conf/..new")).unwrap();
        std::fs::rename(fixture.path("conf/..new"), fixture.path("conf/..data")).unwrap();
        fixture.until_upstreams(&["b"]).await;
        fixture.write("conf/v2/a.toml", &upstreams(&["c"]));
        fixture.until_upstreams(&["c"]).await;
    }

    /// As vim does with `backupcopy=no`: the old file becomes a backup, the new one is written under its name, the backup goes.
    #[tokio::test]
    async fn an_editor_that_renames_and_writes_anew_loses_nothing() {
        let mut fixture = Fixture::new("", file("a.toml", &["a", "b"]));
        fixture.until_upstreams(&["a", "b"]).await;
        for round in 0..5 {
            let last = format!("c{round}");
            std::fs::rename(fixture.path("a.toml"), fixture.path("a.toml~")).unwrap();
            fixture.write("a.toml", &upstreams(&["a", "b", &last]));
            std::fs::remove_file(fixture.path("a.toml~")).unwrap();
            let is_whole = |snapshot: &Snapshot| snapshot.upstreams.contains_key("a") && snapshot.upstreams.contains_key("b");
            let next = fixture.until(|snapshot| !is_whole(snapshot) || snapshot.upstreams.contains_key(last.as_str())).await;
            assert!(is_whole(&next), "the file is never taken for gone");
        }
    }

    /// As a bind mount of one file forces it: the file stays the same one, and is written piece by piece.
    #[tokio::test]
    async fn a_write_in_place_in_several_pieces_loses_nothing() {
        use std::io::Write as _;

        let names = ["a", "b", "c", "d", "e", "f"];
        let mut fixture = Fixture::new("", file("a.toml", &names));
        fixture.until_upstreams(&names).await;
        let mut open = std::fs::File::create(fixture.path("a.toml")).unwrap();
        let text = upstreams(&["a", "b", "c", "d", "e", "f", "g"]);
        for piece in text.as_bytes().chunks(16) {
            open.write_all(piece).unwrap();
            open.sync_data().unwrap();
        }
        drop(open);
        let next = fixture.until(|snapshot| snapshot.upstreams.len() != names.len()).await;
        assert_eq!(next.upstreams.len(), names.len() + 1, "what is half written is not taken over");
    }

    /// As Kubernetes mounts a ConfigMap as a directory: every file leads through `..data`, and only that is replaced.
    #[tokio::test]
    async fn a_directory_of_links_changes_as_a_whole() {
        let version = |directory: &Path, version: &str, files: [(&str, &[&str]); 2]| {
            std::fs::create_dir_all(directory.join(version)).unwrap();
            for (name, names) in files {
                file(name, names)(&directory.join(version));
            }
        };
        let mut fixture = Fixture::new("", |directory| {
            version(directory, "..v1", [("a.toml", &["a1"]), ("b.toml", &["b1"])]);
            symlink("..v1", directory.join("..data")).unwrap();
            for name in ["a.toml", "b.toml"] {
                symlink(Path::new("..data").join(name), directory.join(name)).unwrap();
            }
        });
        fixture.until_upstreams(&["a1", "b1"]).await;
        for (next, before, names) in [("..v2", "..v1", ["a2", "b2"]), ("..v3", "..v2", ["a3", "b3"])] {
            version(fixture.directory.path(), next, [("a.toml", &names[..1]), ("b.toml", &names[1..])]);
            symlink(next, fixture.path("..data_tmp")).unwrap();
            std::fs::rename(fixture.path("..data_tmp"), fixture.path("..data")).unwrap();
            std::fs::remove_dir_all(fixture.path(before)).unwrap();
            let is_next = |snapshot: &Snapshot| snapshot.upstreams.keys().any(|name| names.contains(&name.as_str()));
            let next = fixture.until(is_next).await;
            assert!(next.upstreams.keys().map(Name::as_str).eq(names), "both at once: {:?}", next.upstreams.keys());
        }
    }

    #[tokio::test]
    async fn a_file_of_a_directory_that_is_gone_and_back_is_read_again() {
        let mut fixture = Fixture::new("", |directory| {
            file("a.toml", &["a"])(directory);
            file("b.toml", &["b"])(directory);
        });
        fixture.until_upstreams(&["a", "b"]).await;
        for _ in 0..3 {
            std::fs::remove_file(fixture.path("b.toml")).unwrap();
            fixture.until_upstreams(&["a"]).await;
            fixture.write("b.toml", &upstreams(&["b"]));
            fixture.until_upstreams(&["a", "b"]).await;
        }
    }

    #[tokio::test]
    async fn a_change_of_nothing_is_a_contact() {
        let mut fixture = Fixture::new("a.toml", file("a.toml", &["a"]));
        fixture.until_upstreams(&["a"]).await;
        fixture.write("other.toml", &upstreams(&["a"]));
        std::fs::rename(fixture.path("other.toml"), fixture.path("a.toml")).unwrap();
        let next = timeout(DEADLINE, fixture.published.recv()).await.expect("the provider reads again in time");
        assert!(next.expect("the provider is alive").is_none());
    }

    #[tokio::test]
    async fn a_thousand_objects_change_one_by_one() {
        let names: Vec<_> = (0..1_000).map(|number| format!("u{number:04}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let mut fixture = Fixture::new("a.toml", file("a.toml", &names));
        let before = fixture.until_upstreams(&names).await;
        fixture.write("a.toml", &(upstreams(&names) + "retries = 1\n"));
        let last = &before.upstreams["u0999"];
        let after = fixture.until(|snapshot| !Arc::ptr_eq(last, &snapshot.upstreams["u0999"])).await;
        let same = names.iter().filter(|name| Arc::ptr_eq(&before.upstreams[**name], &after.upstreams[**name]));
        assert_eq!(same.count(), 999);
    }

    #[tokio::test]
    async fn dropping_the_future_stops_the_watcher() {
        let mut fixture = Fixture::new("a.toml", file("a.toml", &["a"]));
        fixture.until_upstreams(&["a"]).await;
        fixture.task.abort();
        let ended = async {
            while Arc::strong_count(&fixture.changes) > 1 {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, ended).await.expect("the watcher lets go of what it notes to");
    }

    #[tokio::test]
    async fn a_provider_that_is_called_again_keeps_what_it_knew() {
        let directory = tempfile::tempdir().unwrap();
        file("a.toml", &["a"])(directory.path());
        let mut provider = FileProvider::new(Name::literal("file"), directory.path().join("a.toml"));
        for text in [None, Some("[")] {
            if let Some(text) = text {
                std::fs::write(directory.path().join("a.toml"), text).unwrap();
            }
            let (sender, mut published) = mpsc::unbounded_channel();
            let channel = Channel(sender);
            let snapshot = tokio::select! {
                _ = provider.watch(&channel) => panic!("the provider ended"),
                snapshot = timeout(DEADLINE, published.recv()) => snapshot.unwrap().flatten().unwrap(),
            };
            assert_eq!((snapshot.upstreams.len(), snapshot.problems.is_empty()), (1, text.is_none()));
        }
    }
}
