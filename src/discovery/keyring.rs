//! The files with the keys that open sealed values: read when they are needed, and again when they changed. What is done with the keys is
//! in [`kv::sealed`](super::kv::sealed).

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use zeroize::Zeroizing;

use super::kv::KeySource;
use super::kv::sealed::{KEYRING_BYTES_MAX, Keys};
use crate::config::providers::KeyringConfig;

/// The keys of a provider.
#[derive(Debug)]
pub(super) struct Keyring {
    config: KeyringConfig,
    /// What was read, and of which files.
    read: Mutex<Option<(Stamp, ReadKeys)>>,
}

type ReadKeys = Result<Arc<Keys>, String>;

/// What tells a version of the files from the next: of each its inode, size and time of change. None: there is none.
type Stamp = [Option<(u64, u64, i64, i64)>; 2];

impl Keyring {
    /// The keys in these files, if there are to be any.
    pub(super) fn source(config: Option<&KeyringConfig>) -> Option<Arc<dyn KeySource>> {
        let config = config?.clone();
        Some(Arc::new(Self { config, read: Mutex::default() }))
    }

    fn stamp(&self) -> Stamp {
        let of = |path: &Path| std::fs::metadata(path).ok().map(|file| (file.ino(), file.len(), file.mtime(), file.mtime_nsec()));
        [of(&self.config.path), self.config.passphrase_file.as_deref().and_then(of)]
    }
}

impl KeySource for Keyring {
    fn keys(&self) -> ReadKeys {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = self.stamp();
        match &*read {
            Some((of, keys)) if *of == stamp => keys.clone(),
            _ => {
                let keys = load(&self.config).map(Arc::new);
                *read = Some((stamp, keys.clone()));
                keys
            }
        }
    }
}

/// Reads the files once.
///
/// # Errors
/// A sentence that names the file.
pub fn load(config: &KeyringConfig) -> Result<Keys, String> {
    let ring = read(&config.path)?;
    let passphrase = config.passphrase_file.as_deref().map(read).transpose()?;
    let passphrase = passphrase.as_ref().map(|text| first_line(text));
    Keys::parse(&ring, passphrase).map_err(|error| format!("{}: {error}", config.path.display()))
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > KEYRING_BYTES_MAX as u64 {
        return Err(format!("{}: a file of keys has at most {KEYRING_BYTES_MAX} bytes, this one has {length}", path.display()));
    }
    std::fs::read(path).map(Zeroizing::new).map_err(failed)
}

fn first_line(text: &[u8]) -> &[u8] {
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    line.strip_suffix(b"\r").unwrap_or(line)
}
