//! A configuration file, or a directory of them, as it was last read without an error of the whole file.
//!
//! A file that cannot be read, is no TOML, or is suddenly empty keeps what it said before: [`Files::config`] gives that, and what is
//! wrong now. Reads files when it is told to, and watches nothing: that is the file provider's job.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::decode::{FILE_BYTES_MAX, FileConfig, TomlFile, decode_toml};
use super::problem::{Kind, ObjectId, bounded};
use super::snapshot::{Place, Section, UpstreamEntry};
use super::{Entry, Origin, Problem, Snapshot};
use crate::names::Name;

/// The most files that a directory may have.
pub const FILES_MAX: usize = 4_096;

/// One file, or all `*.toml` of a directory, in the order of their names.
#[derive(Debug)]
pub struct Files {
    path: PathBuf,
    provider: Name,
    known: BTreeMap<PathBuf, KnownFile>,
    /// Why the directory cannot be listed, if it cannot.
    problem: Option<Problem>,
}

/// A file that was there when it was looked for last.
#[derive(Debug)]
struct KnownFile {
    path: Arc<PathBuf>,
    /// What it held last.
    text: Result<String, String>,
    /// What it said when it was last readable as a whole.
    config: FileConfig,
    /// What is wrong with it as a whole now.
    problems: Vec<Problem>,
}

impl Files {
    /// Nothing is read yet. Objects will say that they come from `provider`.
    #[must_use]
    pub fn new(path: PathBuf, provider: Name) -> Self {
        Self { path, provider, known: BTreeMap::new(), problem: None }
    }

    /// The file or directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads what there is now. Says whether anything is different from the last time.
    pub fn read(&mut self, seen_at: Instant) -> bool {
        let before = self.problem.take();
        let changed = match list(&self.path, self.was_directory()) {
            Ok(paths) => self.read_all(paths, seen_at),
            Err(error) => {
                self.problem = Some(Problem::error(format!("cannot list the directory: {error}")).at(self.start_of(&self.path)));
                false
            }
        };
        changed || before != self.problem
    }

    /// All that was read, as one: of an object that several files define, the first one's.
    #[must_use]
    pub fn config(&self, seen_at: Instant) -> FileConfig {
        let mut merged = FileConfig::empty(seen_at);
        merged.snapshot.problems.extend(self.problem.clone());
        for file in self.known.values() {
            merged.snapshot.problems.extend(file.problems.iter().cloned());
            merge(&mut merged, &file.config, &file.path);
        }
        merged.problems = bounded(merged.problems);
        merged.snapshot.problems = bounded(merged.snapshot.problems);
        merged
    }

    /// Whether files were read out of it.
    fn was_directory(&self) -> bool {
        self.known.keys().any(|path| *path != self.path)
    }

    fn read_all(&mut self, paths: Vec<PathBuf>, seen_at: Instant) -> bool {
        let count = self.known.len();
        self.known.retain(|path, _| paths.contains(path));
        let mut changed = self.known.len() != count;
        for path in paths {
            changed |= self.read_one(path, seen_at);
        }
        changed
    }

    fn read_one(&mut self, path: PathBuf, seen_at: Instant) -> bool {
        let text = read_text(&path);
        let origin = self.start_of(&path);
        let provider = &self.provider;
        match self.known.get_mut(&path) {
            Some(known) if known.text == text => false,
            Some(known) => {
                known.update(text, &origin, provider, seen_at);
                true
            }
            None => {
                let config = FileConfig::empty(seen_at);
                let mut known = KnownFile { path: Arc::new(path.clone()), text: Ok(String::new()), config, problems: Vec::new() };
                known.update(text, &origin, provider, seen_at);
                self.known.insert(path, known);
                true
            }
        }
    }

    /// The first character of a file.
    fn start_of(&self, path: &Path) -> Origin {
        let place = Place::File { file: Arc::new(path.to_path_buf()), line: 1, column: 1 };
        Origin { provider: self.provider.clone(), place }
    }
}

impl KnownFile {
    /// Takes what the file holds now. What it said before stays, if this says nothing.
    fn update(&mut self, text: Result<String, String>, origin: &Origin, provider: &Name, seen_at: Instant) {
        let decoded = match &text {
            Ok(text) if text.is_empty() && !self.config.is_empty() => Err(vec![suddenly_empty().at(origin.clone())]),
            Ok(text) => decode_toml(&TomlFile { text, path: self.path.clone(), provider }, seen_at),
            Err(error) => Err(vec![Problem::error(format!("cannot read the file: {error}")).at(origin.clone())]),
        };
        match decoded {
            Ok(mut config) => {
                reuse(&mut config.snapshot, &self.config.snapshot);
                self.config = config;
                self.problems.clear();
            }
            Err(problems) => self.problems = problems.into_iter().map(|problem| problem.effect(STAYS)).collect(),
        }
        self.text = text;
    }
}

/// What an error of a whole file means for traffic.
const STAYS: &str = "what the file said before stays in force, if it was read before";

/// A file that is being written in place is empty for a moment. To take that for its content would end all traffic.
fn suddenly_empty() -> Problem {
    Problem::error("the file is empty, which it was not before").help("to remove all of its objects, leave a comment in it")
}

impl FileConfig {
    fn is_empty(&self) -> bool {
        let Snapshot { listeners, routes, tcp_routes, udp_routes, upstreams, middlewares, certificates, .. } = &self.snapshot;
        let of_routes = routes.len() + tcp_routes.len() + udp_routes.len();
        let objects = listeners.len() + of_routes + upstreams.len() + middlewares.len() + certificates.len();
        objects == 0 && self.server_origin.is_none() && self.providers.is_empty()
    }
}

/// The files to read: `path` itself, or what is in it. A directory that is gone, unlike one that is empty, does not say that its files are.
fn list(path: &Path, was_directory: bool) -> Result<Vec<PathBuf>, std::io::Error> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if was_directory && error.kind() == ErrorKind::NotFound => return Err(error),
        // Not a directory, or not there: to read it will tell.
        Err(error) if matches!(error.kind(), ErrorKind::NotADirectory | ErrorKind::NotFound) => return Ok(vec![path.to_path_buf()]),
        Err(error) => return Err(error),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if is_config(&path) {
            paths.push(path);
        }
    }
    if paths.len() > FILES_MAX {
        return Err(std::io::Error::other(format!("it has more than {FILES_MAX} files")));
    }
    paths.sort();
    Ok(paths)
}

/// Whether a file of a directory is read. Hidden ones are not: editors keep their copies there.
#[must_use]
pub fn is_config(path: &Path) -> bool {
    let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    path.extension().is_some_and(|extension| extension == "toml") && !is_hidden
}

/// The whole text of a file. What is larger than a file may be is cut, which decoding then refuses.
fn read_text(path: &Path) -> Result<String, String> {
    let error = |error: std::io::Error| error.to_string();
    // Looked at before it is opened: to open a pipe waits for its writer.
    if !std::fs::metadata(path).map_err(error)?.is_file() {
        return Err("it is not a regular file".into());
    }
    let mut bytes = Vec::new();
    let bytes_max = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX);
    File::open(path).and_then(|file| file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)).map_err(error)?;
    String::from_utf8(bytes).map_err(|error| format!("it is not UTF-8 after byte {}", error.utf8_error().valid_up_to()))
}

/// Puts the entries of `before` in the place of equal ones, so that who compares them sees at once that they are the same.
pub(crate) fn reuse(snapshot: &mut Snapshot, before: &Snapshot) {
    reuse_equal(&mut snapshot.listeners, &before.listeners);
    reuse_equal(&mut snapshot.routes, &before.routes);
    reuse_equal(&mut snapshot.tcp_routes, &before.tcp_routes);
    reuse_equal(&mut snapshot.udp_routes, &before.udp_routes);
    reuse_equal(&mut snapshot.upstreams, &before.upstreams);
    reuse_equal(&mut snapshot.middlewares, &before.middlewares);
    reuse_equal(&mut snapshot.certificates, &before.certificates);
}

fn reuse_equal<T: PartialEq>(section: &mut BTreeMap<Name, Arc<T>>, before: &BTreeMap<Name, Arc<T>>) {
    for (name, entry) in section {
        if let Some(same) = before.get(name).filter(|before| *before == entry) {
            *entry = same.clone();
        }
    }
}

/// Adds what the file at `path` says.
fn merge(merged: &mut FileConfig, file: &FileConfig, path: &Path) {
    merged.problems.extend(file.problems.iter().cloned());
    match (&merged.server_origin, &file.server_origin) {
        (Some(first), Some(second)) => merged.problems.push(duplicate("`[server]`", first).at(second.clone())),
        (None, Some(_)) => {
            merged.server = file.server.clone();
            merged.server_origin.clone_from(&file.server_origin);
        }
        (_, None) => {}
    }
    for (name, provider) in &file.providers {
        if merged.providers.iter().any(|(known, _)| known == name) {
            merged.problems.push(Problem::error(format!("provider `{name}` of {} is in an earlier file as well", path.display())));
        } else {
            merged.providers.push((name.clone(), provider.clone()));
        }
    }
    merge_snapshot(&mut merged.snapshot, &file.snapshot);
}

fn merge_snapshot(merged: &mut Snapshot, file: &Snapshot) {
    let problems = &mut merged.problems;
    problems.extend(file.problems.iter().cloned());
    merge_entries(Kind::Listener, &mut merged.listeners, &file.listeners, problems);
    merge_entries(Kind::Route, &mut merged.routes, &file.routes, problems);
    merge_entries(Kind::TcpRoute, &mut merged.tcp_routes, &file.tcp_routes, problems);
    merge_entries(Kind::UdpRoute, &mut merged.udp_routes, &file.udp_routes, problems);
    merge_section(Kind::Upstream, &mut merged.upstreams, &file.upstreams, UpstreamEntry::origin, problems);
    merge_entries(Kind::Middleware, &mut merged.middlewares, &file.middlewares, problems);
    merge_entries(Kind::Certificate, &mut merged.certificates, &file.certificates, problems);
}

fn merge_entries<T>(kind: Kind, merged: &mut Section<T>, file: &Section<T>, problems: &mut Vec<Problem>) {
    merge_section(kind, merged, file, |entry: &Entry<T>| Some(&entry.origin), problems);
}

fn merge_section<T>(
    kind: Kind,
    merged: &mut BTreeMap<Name, Arc<T>>,
    file: &BTreeMap<Name, Arc<T>>,
    origin: impl Fn(&T) -> Option<&Origin>,
    problems: &mut Vec<Problem>,
) {
    for (name, entry) in file {
        let Some(first) = merged.get(name) else {
            merged.insert(name.clone(), entry.clone());
            continue;
        };
        if let (Some(first), Some(second)) = (origin(first), origin(entry)) {
            let object = ObjectId::new(kind, name);
            problems.push(duplicate("it", first).about(object).at(second.clone()));
        }
    }
}

fn duplicate(what: &str, first: &Origin) -> Problem {
    Problem::error(format!("{what} is defined at {first} already"))
        .help("give one of them another name, or remove it")
        .effect("the first one counts, in the order of the files' names")
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    struct Fixture {
        directory: TempDir,
        files: Files,
    }

    impl Fixture {
        fn new(files: &[(&str, &str)]) -> Self {
            let directory = TempDir::new().unwrap();
            for (name, text) in files {
                std::fs::write(directory.path().join(name), text).unwrap();
            }
            let files = Files::new(directory.path().to_path_buf(), Name::literal("file"));
            Self { directory, files }
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.directory.path().join(name), text).unwrap();
        }

        fn read(&mut self) -> FileConfig {
            self.files.read(Instant::now());
            self.files.config(Instant::now())
        }
    }

    const ROUTE: &str = "[routes.a]\nmatch = 'Path(\"/\")'\nupstream = 'a'\n";
    const UPSTREAM: &str = "[upstreams.a]\nendpoints = ['10.0.0.1:80']\n";

    #[test]
    fn a_directory_is_one_configuration() {
        let mut fixture = Fixture::new(&[("b.toml", UPSTREAM), ("a.toml", ROUTE), (".hidden.toml", "?"), ("notes.txt", "?")]);
        let config = fixture.read();
        assert_eq!((config.snapshot.routes.len(), config.snapshot.upstreams.len()), (1, 1));
        assert!(config.all_problems().is_empty());
        assert!(!fixture.files.read(Instant::now()));
    }

    #[test]
    fn an_object_in_two_files_is_a_problem_that_names_both() {
        let other = "[upstreams.a]\nendpoints = ['10.0.0.2:80']\n[server]\n";
        let mut fixture = Fixture::new(&[("a.toml", &format!("{UPSTREAM}[server]\nworkers = 2\n")), ("b.toml", other)]);
        let config = fixture.read();
        let settings = config.snapshot.upstreams["a"].settings.as_ref().unwrap();
        assert_eq!(settings.value.as_ref().unwrap().endpoints[0].address.to_string(), "10.0.0.1:80");
        assert_eq!(config.server.workers, Some(2));
        let problems: Vec<_> = config.all_problems().iter().map(ToString::to_string).collect();
        assert_eq!(problems.len(), 2);
        assert!(problems.iter().all(|problem| problem.contains("a.toml:") && problem.contains("b.toml:")), "{problems:?}");
    }

    #[test]
    fn a_directory_that_is_gone_for_a_while_keeps_what_it_said() {
        let mut fixture = Fixture::new(&[("a.toml", ROUTE), ("b.toml", UPSTREAM)]);
        let before = fixture.read().snapshot;
        let (path, away) = (fixture.directory.path().to_path_buf(), fixture.directory.path().with_extension("away"));
        std::fs::rename(&path, &away).unwrap();
        let config = fixture.read();
        assert!(Arc::ptr_eq(&config.snapshot.routes["a"], &before.routes["a"]));
        assert!(config.snapshot.problems[0].to_string().contains("cannot list the directory"), "{:?}", config.snapshot.problems);
        std::fs::rename(&away, &path).unwrap();
        assert!(fixture.read().all_problems().is_empty());
        std::fs::remove_file(path.join("a.toml")).unwrap();
        assert!(fixture.read().snapshot.routes.is_empty(), "a file that is gone is");
    }

    #[test]
    fn a_broken_file_keeps_what_it_said() {
        let mut fixture = Fixture::new(&[("a.toml", ROUTE), ("b.toml", UPSTREAM)]);
        let before = fixture.read().snapshot;
        for broken in ["[routes", "", "\u{0}"] {
            fixture.write("a.toml", broken);
            let config = fixture.read();
            assert!(Arc::ptr_eq(&config.snapshot.routes["a"], &before.routes["a"]));
            assert!(config.snapshot.problems[0].to_string().contains("a.toml:1:"), "{:?}", config.snapshot.problems);
        }
        fixture.write("a.toml", "# nothing");
        let config = fixture.read();
        assert!(config.snapshot.routes.is_empty() && config.all_problems().is_empty());
    }

    #[test]
    fn a_file_that_is_broken_at_first_leaves_the_others() {
        let mut fixture = Fixture::new(&[("a.toml", "["), ("b.toml", UPSTREAM)]);
        let config = fixture.read();
        assert_eq!((config.snapshot.upstreams.len(), config.snapshot.problems.len()), (1, 1));
    }

    #[test]
    fn objects_that_did_not_change_stay_the_same_ones() {
        let mut fixture = Fixture::new(&[("a.toml", &format!("{ROUTE}{UPSTREAM}"))]);
        let before = fixture.read().snapshot;
        fixture.write("a.toml", &format!("{ROUTE}{UPSTREAM}retries = 1\n"));
        let after = fixture.read().snapshot;
        assert!(Arc::ptr_eq(&before.routes["a"], &after.routes["a"]));
        assert!(!Arc::ptr_eq(&before.upstreams["a"], &after.upstreams["a"]));
    }

    #[test]
    fn what_is_no_file_says_why() {
        let provider = Name::literal("file");
        let directory = TempDir::new().unwrap();
        let check = |path: PathBuf, expected: &str| {
            let mut files = Files::new(path, provider.clone());
            assert!(files.read(Instant::now()));
            let problems = files.config(Instant::now()).all_problems();
            assert!(problems[0].message.contains(expected), "{problems:?}");
        };
        check(directory.path().join("absent.toml"), "cannot read the file: No such file");
        check("/dev/null".into(), "not a regular file");
        std::fs::write(directory.path().join("latin1.toml"), b"a = '\xFC'").unwrap();
        check(directory.path().join("latin1.toml"), "not UTF-8 after byte 5");
    }
}
