//! Which places of the file system decide what a path leads to: itself, and every symbolic link on the way.
//!
//! `/etc/nuncio/nuncio.toml` may lead to `..data/nuncio.toml`, and `..data` to a directory with a date in its name, which is how
//! Kubernetes mounts a ConfigMap: an update renames `..data` and touches nothing else.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// The places that decide what some paths lead to, and the directories in which a change of them shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Trace {
    /// Files, links, and the first missing part of a path that leads nowhere. In canonical directories.
    pub(super) paths: BTreeSet<PathBuf>,
    /// The canonical directories of `paths`, which exist.
    pub(super) directories: BTreeSet<PathBuf>,
}

/// As many links as Linux follows for one path.
const LINKS_MAX: usize = 40;

impl Trace {
    /// Follows `path`, which is absolute.
    pub(super) fn follow(&mut self, path: &Path) {
        self.follow_links(path, LINKS_MAX);
    }

    /// Adds a directory of which every change counts.
    pub(super) fn add_directory(&mut self, path: &Path) {
        if let Ok(directory) = path.canonicalize() {
            self.directories.insert(directory);
        }
    }

    fn follow_links(&mut self, path: &Path, links_left: usize) {
        let mut reached = PathBuf::new();
        let mut rest = path.components();
        while let Some(component) = rest.next() {
            reached.push(component);
            let target = match std::fs::symlink_metadata(&reached) {
                Ok(metadata) if metadata.is_symlink() => std::fs::read_link(&reached),
                Ok(_) => continue,
                Err(_) => return self.add(&reached),
            };
            self.add(&reached);
            let (Ok(target), Some(links_left)) = (target, links_left.checked_sub(1)) else { return };
            let directory = reached.parent().unwrap_or(&reached);
            return self.follow_links(&directory.join(target).join(rest.as_path()), links_left);
        }
        self.add(path);
    }

    fn add(&mut self, path: &Path) {
        let parent = match path.components().next_back() {
            Some(Component::Normal(_)) => path.parent(),
            _ => Some(path),
        };
        let Some(directory) = parent.and_then(|parent| parent.canonicalize().ok()) else { return };
        if let Some(name) = path.file_name() {
            self.paths.insert(directory.join(name));
        }
        self.directories.insert(directory);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// The paths of the trace of `path`, relative to the directory that it is in.
    fn check(directory: &Path, path: &str, expected: &[&str]) {
        let directory = directory.canonicalize().unwrap();
        let mut trace = Trace::default();
        trace.follow(&directory.join(path));
        let inside = trace.paths.iter().filter_map(|path| path.strip_prefix(&directory).ok());
        assert_eq!(inside.map(|path| path.to_str().unwrap()).collect::<Vec<_>>(), expected);
        assert!(trace.paths.iter().all(|path| trace.directories.contains(path.parent().unwrap())));
    }

    #[test]
    fn links_are_followed_and_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        std::fs::create_dir(root.join("v1")).unwrap();
        std::fs::write(root.join("v1/a.toml"), "").unwrap();
        symlink("v1", root.join("..data")).unwrap();
        symlink("..data/a.toml", root.join("a.toml")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        check(root, "v1/a.toml", &["v1/a.toml"]);
        check(root, "a.toml", &["..data", "a.toml", "v1/a.toml"]);
        check(root, "v1/absent/a.toml", &["v1/absent"]);
        check(root, "loop", &["loop"]);
    }
}
