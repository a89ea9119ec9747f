//! Keeps on disk what providers published last, so that a start without their sources has something to serve.
//!
//! ```text
//! data dir/snapshots.key              32 random bytes as hex digits, made once, readable by us alone
//! data dir/snapshots/PROVIDER.sealed  header with the version, nonce, AES-256-GCM of the snapshot as JSON (`stored`)
//! ```
//!
//! Snapshots hold private keys: the files are sealed. The seal is their checksum as well: a file that was cut, changed, or taken from
//! another provider does not open. Files are replaced whole (written beside, synced, renamed), at most once in [`KEEP_INTERVAL`] per
//! provider, by a task that nothing waits for; the last change is always written, also when we are stopped right after it.
//!
//! What was kept is used when the provider has failed, or has said nothing for [`WAIT_FOR_SOURCE`]; its own first snapshot replaces it
//! whole. A file that cannot be used is logged and among the problems, and otherwise as if it were not there.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use tokio_util::sync::CancellationToken;

use super::FeedState;
use super::feed::Feed;
use super::stored::{self, Kept};
use crate::config::Snapshot;
use crate::config::server::StickyKey;
use crate::names::Name;

/// The least time between two writes of one provider's file.
pub const KEEP_INTERVAL: Duration = Duration::from_secs(1);
/// After a write that took this long, the next one waits twenty times as long: it takes a twentieth of a core at most.
const SHARE_OF_TIME: u32 = 20;
/// How long a provider may say nothing, and not fail either, before it is served from disk.
pub const WAIT_FOR_SOURCE: Duration = Duration::from_secs(1);
/// The largest file that is written or read, in bytes.
pub const FILE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Starts every file. The number is the version of what follows.
const HEADER: &[u8] = b"nuncio snapshot 1\n";

/// Where snapshots are kept.
pub(super) struct SnapshotDir {
    path: PathBuf,
    key: RandomizedNonceKey,
}

/// Why a kept snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it has {0} bytes, more than {FILE_BYTES_MAX}")]
    TooLarge(u64),
    #[error("it is of another version of nuncio, or not one of its files")]
    OtherVersion,
    #[error("it is damaged, or was sealed with another key")]
    Seal,
    #[error("{0}")]
    Content(#[from] stored::StoredError),
}

impl SnapshotDir {
    /// The snapshots in this data dir, with their key, which is made if it is not there.
    ///
    /// # Errors
    /// A sentence that says why nothing can be kept there.
    pub(super) fn open(data_dir: &Path) -> Result<Self, String> {
        let key_path = data_dir.join("snapshots.key");
        let error = |error: &dyn std::fmt::Display| format!("snapshots are not kept on disk: {}: {error}", key_path.display());
        let bytes = match std::fs::read_to_string(&key_path) {
            Ok(text) => {
                StickyKey::parse_hex(&text).ok_or_else(|| error(&"it does not hold 64 hex digits; delete it, and another is made"))?
            }
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => new_key(&key_path).map_err(|cause| error(&cause))?,
            Err(cause) => return Err(error(&cause)),
        };
        let key = RandomizedNonceKey::new(&AES_256_GCM, &bytes).map_err(|cause| error(&cause))?;
        Ok(Self { path: data_dir.join("snapshots"), key })
    }

    fn file(&self, provider: &Name) -> PathBuf {
        self.path.join(format!("{provider}.sealed"))
    }

    /// What was kept of a provider. None: nothing.
    fn read(&self, provider: &Name, source: &str) -> Result<Option<Kept>, ReadError> {
        let path = self.file(provider);
        let mut sealed = match std::fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
            Ok(metadata) if metadata.len() > FILE_BYTES_MAX as u64 => return Err(ReadError::TooLarge(metadata.len())),
            Ok(_) => std::fs::read(&path)?,
        };
        let rest = sealed.strip_prefix(HEADER).ok_or(ReadError::OtherVersion)?;
        let (nonce, _) = rest.split_first_chunk::<NONCE_LEN>().ok_or(ReadError::Seal)?;
        let nonce = Nonce::from(nonce);
        let body = sealed.get_mut(HEADER.len() + NONCE_LEN..).ok_or(ReadError::Seal)?;
        let plain = self.key.open_in_place(nonce, Aad::from(provider.as_str()), body).map_err(|_| ReadError::Seal)?;
        Ok(Some(stored::decode(source, plain, Instant::now())?))
    }

    fn write(&self, provider: &Name, mut plain: Vec<u8>) -> io::Result<()> {
        if plain.len() > FILE_BYTES_MAX - 1024 {
            return Err(io::Error::other(format!("the snapshot has {} bytes, more than can be kept", plain.len())));
        }
        let nonce = self.key.seal_in_place_append_tag(Aad::from(provider.as_str()), &mut plain).map_err(io::Error::other)?;
        write_private(&self.file(provider), &[HEADER, nonce.as_ref(), &plain])
    }
}

fn new_key(path: &Path) -> io::Result<[u8; StickyKey::BYTES]> {
    let mut bytes = [0; StickyKey::BYTES];
    aws_lc_rs::rand::fill(&mut bytes).map_err(io::Error::other)?;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    write_private(path, &[digits.as_bytes()])?;
    Ok(bytes)
}

/// Writes a file that only we may read; whole or not at all.
///
/// # Errors
/// When the file or its directory cannot be written, or something is in its place that is no file.
pub fn write_private(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    PrivateFile::create(path)?.finish(parts)
}

/// A file that only we may read, made beside the place that it takes once it is whole.
#[derive(Debug)]
pub struct PrivateFile {
    file: std::fs::File,
    partial: PathBuf,
    path: PathBuf,
}

impl PrivateFile {
    /// Makes sure that the file can be written.
    ///
    /// # Errors
    /// As with [`write_private`].
    pub fn create(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        match std::fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.is_file() => return Err(io::Error::other("what is there is no regular file, and stays")),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?,
        }
        // Of a process that runs beside us it is another file.
        let partial = path.with_extension(format!("{}.partial", std::process::id()));
        let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        Ok(Self { file, partial, path: path.to_path_buf() })
    }

    /// Writes it, and puts it in its place.
    ///
    /// # Errors
    /// When the disk is full, and the like. What was there before is still there then.
    pub fn finish(mut self, parts: &[&[u8]]) -> io::Result<()> {
        use std::io::Write;
        for part in parts {
            self.file.write_all(part)?;
        }
        self.file.sync_all()?;
        std::fs::rename(&self.partial, &self.path)?;
        // So that the new name outlasts a power failure too.
        std::fs::File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for PrivateFile {
    fn drop(&mut self) {
        // It is not there any more if it is in its place.
        let _ = std::fs::remove_file(&self.partial);
    }
}

/// Serves a provider from disk if its source cannot be read at the start, and keeps what it publishes, until `stop`.
pub(super) async fn keep(feed: Arc<Feed>, dir: Arc<SnapshotDir>, source: String, stop: CancellationToken) {
    let mut keeper = Keeper { feed, dir, source: source.into(), written: None, good: None };
    let _ = stop.run_until_cancelled(keeper.start()).await;
    while let Some(took) = keeper.write_once(&stop).await {
        let pause = KEEP_INTERVAL.max(took * SHARE_OF_TIME);
        // Whoever publishes in between calls all the same.
        let _ = stop.run_until_cancelled(tokio::time::sleep(pause)).await;
    }
}

struct Keeper {
    feed: Arc<Feed>,
    dir: Arc<SnapshotDir>,
    source: Arc<str>,
    /// What of the feed is on disk.
    written: Option<Arc<Snapshot>>,
    /// The same with the last good version of each object: what the file holds.
    good: Option<Arc<Snapshot>>,
}

impl Keeper {
    /// Reads what was kept, and falls back to it if need be.
    async fn start(&mut self) {
        let (feed, dir, source) = (self.feed.clone(), self.dir.clone(), self.source.clone());
        let read = tokio::task::spawn_blocking(move || dir.read(feed.name(), &source)).await;
        let kept = match read {
            Ok(Ok(Some(kept))) => kept,
            Ok(Ok(None)) => return,
            Ok(Err(error)) => return self.not_used(&error),
            Err(error) => return self.not_used(&error),
        };
        self.good = Some(Arc::new(kept.snapshot.clone()));
        let _ = tokio::time::timeout(WAIT_FOR_SOURCE, self.until_heard_or_failing()).await;
        let age = kept.saved_at.elapsed().unwrap_or_default();
        let routes = kept.snapshot.routes.len();
        if self.feed.fall_back(kept) {
            let (provider, state) = (self.feed.name(), self.feed.status().state);
            tracing::warn!(%provider, ?age, routes, %state, "served from disk: what an earlier run kept is in force until the provider is heard from");
        }
    }

    fn not_used(&self, error: &dyn std::fmt::Display) {
        let path = self.dir.file(self.feed.name());
        self.feed.not_kept(Some(format!("the snapshot kept in {} is not used: {error}", path.display())));
    }

    async fn until_heard_or_failing(&self) {
        while self.feed.latest().is_none() && !matches!(self.feed.status().state, FeedState::Failing { .. }) {
            self.feed.keeper_is_called().await;
        }
    }

    /// Waits for something new and writes it. Says how long that took; None: we are stopped, and everything is written.
    async fn write_once(&mut self, stop: &CancellationToken) -> Option<Duration> {
        let snapshot = loop {
            if let Some(snapshot) = self.unwritten() {
                break snapshot;
            }
            stop.run_until_cancelled(self.feed.keeper_is_called()).await?;
        };
        let started = Instant::now();
        let result = self.write(snapshot.clone()).await;
        // Also after a failure: it would fail again at once. The next change is another attempt.
        self.written = Some(snapshot);
        let error = result.err().map(|error| format!("what it published is not kept on disk: {error}"));
        if error.is_some() || self.feed.status().disk_error.is_some() {
            self.feed.not_kept(error);
        }
        Some(started.elapsed())
    }

    fn unwritten(&self) -> Option<Arc<Snapshot>> {
        let is_written = |snapshot: &Arc<Snapshot>| self.written.as_ref().is_some_and(|written| Arc::ptr_eq(written, snapshot));
        self.feed.to_keep().filter(|snapshot| !is_written(snapshot))
    }

    async fn write(&mut self, snapshot: Arc<Snapshot>) -> Result<(), String> {
        let (feed, dir, source, previous) = (self.feed.clone(), self.dir.clone(), self.source.clone(), self.good.clone());
        let write = move || {
            let good = match previous {
                Some(previous) => Arc::new(stored::with_last_good(&snapshot, &previous)),
                None => snapshot,
            };
            let encoded = stored::encode(&source, &good, SystemTime::now()).map_err(|error| error.to_string())?;
            dir.write(feed.name(), encoded.bytes).map_err(|error| format!("{}: {error}", dir.file(feed.name()).display()))?;
            Ok::<_, String>((good, encoded.lost))
        };
        let written = tokio::task::spawn_blocking(write).await.map_err(|error| error.to_string())?;
        let (good, lost) = written?;
        self.good = Some(good);
        match lost.first() {
            None => Ok(()),
            Some(first) => {
                Err(format!("{} objects would not be read back as they are, the first of them {first}; all others are", lost.len()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::problem::ObjectId;
    use crate::discovery::kv::{Pair, Tree};

    fn etcd() -> Name {
        Name::literal("etcd")
    }

    fn plain() -> Vec<u8> {
        let mut tree = Tree::new("/nuncio", etcd());
        tree.put(Pair { key: b"/nuncio/certificates/site", value: br#"{"cert":"-----BEGIN C","key":"-----BEGIN hunter2"}"#, revision: 1 });
        let encoded = stored::encode("source", &tree.snapshot(None, Instant::now()), SystemTime::now()).unwrap();
        assert_eq!(encoded.lost, Vec::<ObjectId>::new());
        encoded.bytes
    }

    #[test]
    fn a_snapshot_is_read_back_and_no_secret_is_readable() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let snapshots = SnapshotDir::open(dir.path()).unwrap();
        assert!(snapshots.read(&etcd(), "source").unwrap().is_none());
        snapshots.write(&etcd(), plain()).unwrap();
        // Of the next process.
        let again = SnapshotDir::open(dir.path()).unwrap();
        assert!(again.read(&etcd(), "source").unwrap().unwrap().snapshot.certificates.contains_key("site"));
        let bytes = std::fs::read(again.file(&etcd())).unwrap();
        assert!(!bytes.windows(7).any(|window| window == b"hunter2"));
        for path in [again.file(&etcd()), dir.path().join("snapshots.key")] {
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(std::fs::read_dir(dir.path().join("snapshots")).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_file_that_is_damaged_anywhere_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = SnapshotDir::open(dir.path()).unwrap();
        snapshots.write(&etcd(), plain()).unwrap();
        let path = snapshots.file(&etcd());
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, damaged).unwrap();
            snapshots.read(&etcd(), "source").expect_err("one bit is another");
            std::fs::write(&path, &whole[..at]).unwrap();
            snapshots.read(&etcd(), "source").expect_err("the end is missing");
        }
        std::fs::write(&path, &whole).unwrap();
        snapshots.read(&etcd(), "source").unwrap().expect("it is whole again");
        snapshots.read(&etcd(), "elsewhere").expect_err("it is of another source");
        std::fs::copy(&path, snapshots.file(&Name::literal("other"))).unwrap();
        snapshots.read(&Name::literal("other"), "source").expect_err("it is of another provider");
        std::fs::remove_file(dir.path().join("snapshots.key")).unwrap();
        SnapshotDir::open(dir.path()).unwrap().read(&etcd(), "source").expect_err("it is sealed with another key");
    }

    #[test]
    fn a_key_that_cannot_be_read_is_said_to_be() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("snapshots.key"), "abc").unwrap();
        let error = SnapshotDir::open(dir.path()).err().unwrap();
        assert!(error.contains("snapshots.key"), "{error}");
    }
}
