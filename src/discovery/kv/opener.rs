//! Opens the sealed values of a store before anybody reads them, and remembers what it opened: all keys may be read again every minute.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use zeroize::Zeroizing;

use super::sealed::{Keys, is_sealed};
use super::{Pair, VALUE_BYTES_MAX};
use crate::config::Problem;
use crate::config::snapshot::Place;

/// Where the keys are that open sealed values. They may change while the program runs.
pub trait KeySource: std::fmt::Debug + Send + Sync {
    /// The keys as they are now.
    ///
    /// # Errors
    /// A sentence that says why there are none. It quotes no secret.
    fn keys(&self) -> Result<Arc<Keys>, String>;
}

/// Opens values. It knows what it opened last under each key.
#[derive(Debug, Clone, Default)]
pub(super) struct Opener {
    source: Option<Arc<dyn KeySource>>,
    opened: BTreeMap<Box<[u8]>, Opened>,
    /// What could not be opened, as it is in the store.
    closed: BTreeMap<Box<[u8]>, Closed>,
}

/// A value that other keys may open.
#[derive(Debug, Clone)]
pub(super) struct Closed {
    pub(super) sealed: Box<[u8]>,
    pub(super) revision: u64,
    pub(super) place: Option<Place>,
    /// The keys that were tried. None: there were none.
    tried: Option<Weak<Keys>>,
}

#[derive(Clone)]
struct Opened {
    sealed: Box<[u8]>,
    value: Arc<Zeroizing<Vec<u8>>>,
}

/// Never shows what was sealed.
impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opened({} bytes)", self.value.len())
    }
}

/// A value that is to be read.
#[derive(Debug, Clone)]
pub(super) enum Value<'a> {
    /// As it is in the store.
    Plain(&'a [u8]),
    /// It was sealed. What is wrong with it must not be told with its own words.
    Opened(Arc<Zeroizing<Vec<u8>>>),
    /// It is sealed, and cannot be opened.
    Closed(Box<Problem>),
}

impl Value<'_> {
    /// Reads it. A problem with a value that was sealed says where it is, and nothing of what is there.
    pub(super) fn read<T>(&self, read: impl FnOnce(&[u8]) -> Result<T, Problem>) -> Result<T, Problem> {
        match self {
            Self::Plain(value) => read(value),
            Self::Opened(value) => read(value).map_err(without_words),
            Self::Closed(problem) => Err((**problem).clone()),
        }
    }
}

impl Opener {
    pub(super) fn new(source: Option<Arc<dyn KeySource>>) -> Self {
        Self { source, ..Self::default() }
    }

    /// The same keys, with nothing opened yet.
    pub(super) fn fresh(&self) -> Self {
        Self::new(self.source.clone())
    }

    /// The value of a key, opened if it is sealed. What `old` opened under the key is used again if it is still the same.
    pub(super) fn open<'a>(&mut self, pair: Pair<'a>, place: Option<&Place>, old: Option<&Self>) -> Value<'a> {
        let Pair { key, value, revision } = pair;
        if value.len() > VALUE_BYTES_MAX || !is_sealed(value) {
            self.forget(key);
            return Value::Plain(value);
        }
        let known = |opener: &Self| opener.opened.get(key).filter(|opened| *opened.sealed == *value).cloned();
        let opened = match known(self).or_else(|| old.and_then(known)) {
            Some(opened) => opened,
            None => match self.open_now(value) {
                Ok(opened) => Opened { sealed: value.into(), value: Arc::new(opened) },
                Err(problem) => {
                    self.forget(key);
                    let tried = self.keys().map(|keys| Arc::downgrade(&keys));
                    self.closed.insert(key.into(), Closed { sealed: value.into(), revision, place: place.cloned(), tried });
                    return Value::Closed(problem.into());
                }
            },
        };
        let value = opened.value.clone();
        self.closed.remove(key);
        self.opened.insert(key.into(), opened);
        Value::Opened(value)
    }

    /// Drops what is known of a key.
    pub(super) fn forget(&mut self, key: &[u8]) {
        self.opened.remove(key);
        self.closed.remove(key);
    }

    /// What could not be opened, and has not been tried with the keys as they are now.
    pub(super) fn untried(&self) -> Vec<(Box<[u8]>, Closed)> {
        if self.closed.is_empty() {
            return Vec::new();
        }
        let Some(keys) = self.keys() else { return Vec::new() };
        let is_untried = |closed: &Closed| !closed.tried.as_ref().is_some_and(|tried| std::ptr::eq(tried.as_ptr(), Arc::as_ptr(&keys)));
        self.closed.iter().filter(|(_, closed)| is_untried(closed)).map(|(key, closed)| (key.clone(), closed.clone())).collect()
    }

    fn keys(&self) -> Option<Arc<Keys>> {
        self.source.as_ref()?.keys().ok()
    }

    fn open_now(&self, value: &[u8]) -> Result<Zeroizing<Vec<u8>>, Problem> {
        let Some(source) = &self.source else {
            return Err(Problem::error("the value looks sealed by crypt, and its provider has no keys")
                .help("set `keyring` of the provider to a file with the secret key, as `gpg --export-secret-keys --armor KEY` writes it"));
        };
        let keys =
            source.keys().map_err(|error| Problem::error(format!("the value is sealed, and there are no keys to open it: {error}")))?;
        keys.open(value).map_err(|error| {
            Problem::error(format!("the value is sealed, and cannot be opened: {error}"))
                .help("seal it again for a key of `keyring`: `nuncio seal --key PUBLIC.asc FILE`")
        })
    }
}

/// What is wrong with a value that was sealed, without any of its words.
fn without_words(problem: Problem) -> Problem {
    let place = problem.snippet.as_ref().and_then(|snippet| {
        let before = snippet.source.get(..snippet.span.start)?;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Some(format!(": see line {}, column {column} of it", before.matches('\n').count() + 1))
    });
    let message = format!("the value that was sealed here does not make sense{}", place.unwrap_or_default());
    let said =
        Problem::error(message).help("`nuncio open --keyring SECRET.asc FILE` shows it; what is wrong is not quoted, because it is secret");
    Problem { severity: problem.severity, object: problem.object, origin: problem.origin, effect: problem.effect, ..said }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::{Instant, SystemTime};

    use super::super::Tree;
    use super::super::sealed::Recipients;
    use super::*;
    use crate::names::Name;

    /// Keys that a test changes, and how often they were asked for.
    #[derive(Debug, Default)]
    struct Ring(Mutex<(Option<Arc<Keys>>, usize)>);

    impl Ring {
        fn set(&self, keys: Option<Arc<Keys>>) {
            self.0.lock().unwrap().0 = keys;
        }

        fn asked(&self) -> usize {
            std::mem::take(&mut self.0.lock().unwrap().1)
        }
    }

    impl KeySource for Ring {
        fn keys(&self) -> Result<Arc<Keys>, String> {
            let mut ring = self.0.lock().unwrap();
            ring.1 += 1;
            ring.0.clone().ok_or_else(|| "the ring is away".into())
        }
    }

    const KEY: &[u8] = b"/n/upstreams/a/endpoints/1";

    fn endpoint(tree: &Tree) -> Result<String, String> {
        let snapshot = tree.snapshot(None, Instant::now());
        let entry = snapshot.upstreams["a"].endpoints["1"].clone();
        entry.value.map(|endpoint| endpoint.address.to_string()).map_err(|problem| problem.message)
    }

    #[test]
    fn what_was_opened_is_not_opened_again_and_what_was_not_is_tried_with_other_keys() {
        let (public, keys) = super::super::sealed::testing::pair();
        let sealed = Recipients::parse(&public, SystemTime::now()).unwrap().seal(b"10.0.0.1:80").unwrap();
        let pair = Pair { key: KEY, value: sealed.as_bytes(), revision: 1 };
        let ring = Arc::new(Ring::default());
        let mut tree = Tree::new("/n", Name::literal("test")).with_keys(Some(ring.clone()));
        assert!(tree.put(pair));
        assert!(endpoint(&tree).unwrap_err().contains("the ring is away"));
        assert!(!tree.open_again());

        ring.set(Some(Arc::new(super::super::sealed::testing::pair().1)));
        assert!(tree.open_again() && endpoint(&tree).unwrap_err().contains("other keys"));
        assert!(!tree.open_again(), "these were tried");

        ring.set(Some(Arc::new(keys)));
        assert!(tree.open_again());
        assert_eq!(endpoint(&tree).as_deref(), Ok("10.0.0.1:80"));

        ring.asked();
        assert!(!tree.put(pair) && !tree.replace([pair]) && !tree.open_again());
        assert_eq!(ring.asked(), 0, "it is known");
        assert!(tree.delete(KEY) && tree.put(pair));
        assert!(ring.asked() > 0, "what is gone is forgotten");
    }
}
