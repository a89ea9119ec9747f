//! The files that certificates, listeners and upstreams name: read here, so that compiling needs no I/O, and looked at again every second.
//!
//! A pair of certificate and key that is half written does not fit together; compiling then keeps the pair before, and the next look
//! finds the whole.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::Metadata;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::problem::{Kind, ObjectId};
use crate::config::snapshot::UpstreamEntry;
use crate::config::{Certificate, Entry, Listener, Pem, Problem, Snapshot, Upstream};
use crate::names::Name;

/// The largest file read, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The files, and what was made of the objects that name them.
#[derive(Default)]
pub(super) struct PemFiles {
    files: BTreeMap<PathBuf, File>,
    certificates: HashMap<Name, Resolved<Entry<Certificate>>>,
    listeners: HashMap<Name, Resolved<Entry<Listener>>>,
    upstreams: HashMap<Name, Resolved<UpstreamEntry>>,
}

struct File {
    stamp: Option<Stamp>,
    text: Result<String, String>,
}

/// What tells one version of a file from the next.
#[derive(PartialEq, Eq, Clone, Copy)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

/// An object with the text of its files in place of their names. Kept, so that an unchanged object stays the same `Arc`.
struct Resolved<T> {
    named: Arc<T>,
    whole: Arc<T>,
}

impl PemFiles {
    /// Puts the text of every file in place of its name.
    pub(super) fn resolve(&mut self, snapshot: &mut Cow<'_, Snapshot>) {
        if !names_files(snapshot) {
            *self = Self::default();
            return;
        }
        let snapshot = snapshot.to_mut();
        let mut named = Vec::new();
        self.resolve_certificates(snapshot, &mut named);
        self.resolve_listeners(snapshot, &mut named);
        self.resolve_upstreams(snapshot, &mut named);
        self.files.retain(|path, _| named.contains(path));
        self.certificates.retain(|name, _| snapshot.certificates.contains_key(name));
        self.listeners.retain(|name, _| snapshot.listeners.contains_key(name));
        self.upstreams.retain(|name, _| snapshot.upstreams.contains_key(name));
    }

    /// Whether a file is another one than when it was read.
    pub(super) fn has_changed(&mut self) -> bool {
        let changed: Vec<PathBuf> =
            self.files.iter().filter(|(path, file)| stamp(path) != file.stamp).map(|(path, _)| path.clone()).collect();
        for path in &changed {
            self.files.remove(path);
            self.certificates.retain(|_, it| !certificate_paths(&it.named).any(|named| named == path));
            self.listeners.retain(|_, it| client_ca_path(&it.named) != Some(path));
            self.upstreams.retain(|_, it| ca_path(&it.named) != Some(path));
        }
        !changed.is_empty()
    }

    fn resolve_certificates(&mut self, snapshot: &mut Snapshot, named: &mut Vec<PathBuf>) {
        for (name, entry) in &mut snapshot.certificates {
            let paths: Vec<PathBuf> = certificate_paths(entry).map(Path::to_path_buf).collect();
            if paths.is_empty() {
                continue;
            }
            named.extend(paths);
            if let Some(known) = self.certificates.get(name).filter(|known| Arc::ptr_eq(&known.named, entry)) {
                *entry = known.whole.clone();
                continue;
            }
            let whole = Arc::new(Entry { origin: entry.origin.clone(), value: self.whole_certificate(name, entry) });
            self.certificates.insert(name.clone(), Resolved { named: entry.clone(), whole: whole.clone() });
            *entry = whole;
        }
    }

    fn whole_certificate(&mut self, name: &Name, entry: &Entry<Certificate>) -> Result<Certificate, Problem> {
        let certificate = entry.value.clone()?;
        let problem = |message| Problem::error(message).about(ObjectId::new(Kind::Certificate, name)).at(entry.origin.clone());
        let cert = self.text(certificate.cert, "cert").map_err(problem)?;
        let key = self.text(certificate.key, "key").map_err(problem)?;
        let ca = certificate.ca.map(|ca| self.text(ca, "ca")).transpose().map_err(problem)?;
        Ok(Certificate { cert, key, ca, default: certificate.default })
    }

    fn resolve_listeners(&mut self, snapshot: &mut Snapshot, named: &mut Vec<PathBuf>) {
        for (name, entry) in &mut snapshot.listeners {
            let Some(path) = client_ca_path(entry) else { continue };
            named.push(path.to_path_buf());
            if let Some(known) = self.listeners.get(name).filter(|known| Arc::ptr_eq(&known.named, entry)) {
                *entry = known.whole.clone();
                continue;
            }
            let whole = Arc::new(Entry { origin: entry.origin.clone(), value: self.whole_listener(name, entry) });
            self.listeners.insert(name.clone(), Resolved { named: entry.clone(), whole: whole.clone() });
            *entry = whole;
        }
    }

    fn whole_listener(&mut self, name: &Name, entry: &Entry<Listener>) -> Result<Listener, Problem> {
        let mut listener = entry.value.clone()?;
        if let Some(auth) = listener.tls.as_mut().and_then(|tls| tls.client_auth.as_mut())
            && let Some(ca) = auth.ca.take()
        {
            let problem = |message| Problem::error(message).about(ObjectId::new(Kind::Listener, name)).at(entry.origin.clone());
            auth.ca = Some(self.text(ca, "tls.client_auth.ca").map_err(problem)?);
        }
        Ok(listener)
    }

    fn resolve_upstreams(&mut self, snapshot: &mut Snapshot, named: &mut Vec<PathBuf>) {
        for (name, entry) in &mut snapshot.upstreams {
            let Some(path) = ca_path(entry) else { continue };
            named.push(path.to_path_buf());
            if let Some(known) = self.upstreams.get(name).filter(|known| Arc::ptr_eq(&known.named, entry)) {
                *entry = known.whole.clone();
                continue;
            }
            let mut whole = UpstreamEntry::clone(entry);
            if let Some(settings) = &mut whole.settings {
                settings.value = self.whole_upstream(name, settings);
            }
            let whole = Arc::new(whole);
            self.upstreams.insert(name.clone(), Resolved { named: entry.clone(), whole: whole.clone() });
            *entry = whole;
        }
    }

    fn whole_upstream(&mut self, name: &Name, settings: &Entry<Upstream>) -> Result<Upstream, Problem> {
        let mut upstream = settings.value.clone()?;
        if let Some(tls) = &mut upstream.tls
            && let Some(ca) = tls.ca.take()
        {
            let problem = |message| Problem::error(message).about(ObjectId::new(Kind::Upstream, name)).at(settings.origin.clone());
            tls.ca = Some(self.text(ca, "tls.ca").map_err(problem)?);
        }
        Ok(upstream)
    }

    fn text(&mut self, pem: Pem, field: &str) -> Result<Pem, String> {
        let Pem::Path(path) = pem else { return Ok(pem) };
        let file = self.files.entry(path.clone()).or_insert_with(|| File { stamp: stamp(&path), text: read(&path) });
        file.text.clone().map(Pem::Text).map_err(|error| format!("`{field}`: {}: {error}", path.display()))
    }
}

fn names_files(snapshot: &Snapshot) -> bool {
    let by_certificate = snapshot.certificates.values().any(|entry| certificate_paths(entry).next().is_some());
    let by_listener = snapshot.listeners.values().any(|entry| client_ca_path(entry).is_some());
    by_certificate || by_listener || snapshot.upstreams.values().any(|entry| ca_path(entry).is_some())
}

fn certificate_paths(entry: &Entry<Certificate>) -> impl Iterator<Item = &Path> {
    let pems = entry.value.iter().flat_map(|certificate| [Some(&certificate.cert), Some(&certificate.key), certificate.ca.as_ref()]);
    pems.flatten().filter_map(Pem::path)
}

fn client_ca_path(entry: &Entry<Listener>) -> Option<&Path> {
    entry.value.as_ref().ok()?.tls.as_ref()?.client_auth.as_ref()?.ca.as_ref()?.path()
}

fn ca_path(entry: &UpstreamEntry) -> Option<&Path> {
    entry.settings.as_ref()?.value.as_ref().ok()?.tls.as_ref()?.ca.as_ref()?.path()
}

fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let of = |metadata: Metadata| Stamp { modified: metadata.modified().ok(), bytes: metadata.len(), inode: metadata.ino() };
    std::fs::metadata(path).ok().map(of)
}

fn read(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(format!("larger than {FILE_BYTES_MAX} bytes"));
    }
    if !text.contains("-----BEGIN") {
        return Err("it is not PEM text".into());
    }
    Ok(text)
}
