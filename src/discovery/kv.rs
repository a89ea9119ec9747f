//! A key/value tree → [`Snapshot`]: the layout that all stores share. Incremental: a change decodes one value and touches one object.
//!
//! | key, after the prefix | value |
//! |---|---|
//! | `listeners/{name}` | [`Listener`] |
//! | `routes/{name}` | [`Route`] |
//! | `tcp_routes/{name}` | [`TcpRoute`] |
//! | `middlewares/{name}` | [`Middleware`] |
//! | `certificates/{name}` | [`Certificate`] |
//! | `upstreams/{name}` | [`Upstream`] |
//! | `upstreams/{name}/endpoints/{id}` | [`Endpoint`], or just its address |
//!
//! Values are JSON. An endpoint makes its upstream exist, so that each instance can register itself and nothing else. A value that
//! cannot be read stands in its object's place as a [`Problem`]; a key that belongs to no object is a problem beside the objects. A key
//! that ends in `/` is a folder, as some stores and their tools make them, and means nothing.
//!
//! Pure: providers do the I/O and say when.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde::de::DeserializeOwned;

use crate::config::decode::{decode_endpoint, decode_json};
use crate::config::problem::{Kind, ObjectId};
use crate::config::snapshot::{Place, Section, UpstreamEntry};
use crate::config::{Certificate, Endpoint, Entry, Listener, Origin, Problem, Route, Snapshot, TcpRoute, Upstream};
use crate::middleware::Middleware;
use crate::names::Name;
use crate::suggest;

/// The longest key, in bytes. Longer ones are a problem.
pub const KEY_BYTES_MAX: usize = 4 * 1024;

/// The largest value, in bytes: as much as etcd takes. Larger ones are a problem.
pub const VALUE_BYTES_MAX: usize = 3 * 512 * 1024;

/// How many keys that belong to no object are reported one by one. Of further ones it is only said that they are there.
pub const STRAYS_MAX: usize = 100;

/// The folders of the layout.
const FOLDERS: [&str; 6] = ["certificates", "listeners", "middlewares", "routes", "tcp_routes", "upstreams"];
/// The folder inside an upstream.
const ENDPOINTS: &str = "endpoints";

/// A key with its value, as a store holds them.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a> {
    /// The whole key, prefix included.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// The store's revision of the key's last change. 0 for a store without revisions.
    pub revision: u64,
}

/// What a store holds under a prefix, decoded.
///
/// An object that did not change keeps its `Arc` from snapshot to snapshot. Writing a key again with an equal value is no change:
/// instances that refresh their registration every few seconds cost nothing downstream.
#[derive(Debug, Clone)]
pub struct Tree {
    provider: Name,
    /// Invariant: ends with `/`.
    prefix: String,
    objects: Objects,
    strays: Strays,
}

impl Tree {
    /// An empty tree of the keys below `prefix`, whose objects name `provider` as their origin. A `/` at the end is added if missing.
    #[must_use]
    pub fn new(prefix: &str, provider: Name) -> Self {
        let prefix = format!("{}/", prefix.trim_end_matches('/'));
        Self { provider, prefix, objects: Objects::default(), strays: Strays::default() }
    }

    /// The prefix of all keys. It ends with `/`, so that `/nuncio` does not take the keys of `/nuncio2`.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Takes over a key that was written. Whether that changes the snapshot.
    pub fn put(&mut self, pair: Pair<'_>) -> bool {
        self.put_at(pair, None)
    }

    /// The same, read at `place` if that is not the key itself.
    fn put_at(&mut self, pair: Pair<'_>, place: Option<Place>) -> bool {
        match locate(&self.prefix, pair.key) {
            Ok(Some((key, slot))) => {
                let origin = match place {
                    Some(place) => Origin { provider: self.provider.clone(), place },
                    None => self.origin(key, pair.revision),
                };
                self.objects.put(slot, Written { value: pair.value, origin })
            }
            Ok(None) => false,
            Err(stray) => {
                let shown = pair.key.get(..KEY_BYTES_MAX).unwrap_or(pair.key);
                let origin = self.origin(&String::from_utf8_lossy(shown), pair.revision);
                self.strays.put(pair.key, stray.problem().at(origin))
            }
        }
    }

    /// Takes over a key that was deleted. Whether that changes the snapshot.
    pub fn delete(&mut self, key: &[u8]) -> bool {
        match locate(&self.prefix, key) {
            Ok(Some((_, slot))) => self.objects.delete(&slot),
            Ok(None) => false,
            Err(_) => self.strays.delete(key),
        }
    }

    /// Takes over all that the store holds: keys that are not among `pairs` are gone. Whether that changes the snapshot.
    ///
    /// Every value is decoded again, because a store that was rebuilt may use a revision twice. What comes out equal keeps its `Arc`.
    pub fn replace<'a>(&mut self, pairs: impl IntoIterator<Item = Pair<'a>>) -> bool {
        self.replace_at(pairs.into_iter().map(|pair| (pair, None)))
    }

    /// The same, of pairs that were read elsewhere than under their keys, if they say so.
    pub fn replace_at<'a>(&mut self, pairs: impl IntoIterator<Item = (Pair<'a>, Option<Place>)>) -> bool {
        let mut fresh = Self::new(&self.prefix, self.provider.clone());
        for (pair, place) in pairs {
            fresh.put_at(pair, place);
        }
        let is_changed = fresh.objects.keep_equal(&self.objects) | (fresh.strays != self.strays);
        *self = fresh;
        is_changed
    }

    /// Everything that the tree holds, as the store's `revision`, because of a change that was seen at `seen_at`.
    #[must_use]
    pub fn snapshot(&self, revision: Option<u64>, seen_at: Instant) -> Snapshot {
        Snapshot {
            listeners: self.objects.listeners.clone(),
            routes: self.objects.routes.clone(),
            tcp_routes: self.objects.tcp_routes.clone(),
            upstreams: self.objects.upstreams.clone(),
            middlewares: self.objects.middlewares.clone(),
            certificates: self.objects.certificates.clone(),
            problems: self.strays.problems(),
            revision,
            seen_at,
        }
    }

    fn origin(&self, key: &str, revision: u64) -> Origin {
        Origin { provider: self.provider.clone(), place: Place::Key { key: key.into(), revision } }
    }
}

/// The object that a key belongs to.
#[derive(Debug, PartialEq, Eq)]
enum Slot {
    Listener(Name),
    Route(Name),
    TcpRoute(Name),
    Middleware(Name),
    Certificate(Name),
    Upstream(Name),
    Endpoint { upstream: Name, id: Name },
}

/// Where `key` belongs, with the key as text. None: it is a folder.
fn locate<'a>(prefix: &str, key: &'a [u8]) -> Result<Option<(&'a str, Slot)>, Stray> {
    if key.len() > KEY_BYTES_MAX {
        return Err(Stray::new(format!("a key has at most {KEY_BYTES_MAX} bytes, this one has {}", key.len())));
    }
    let key = str::from_utf8(key).map_err(|_| Stray::new("the key is not UTF-8"))?;
    let path = key.strip_prefix(prefix).ok_or_else(|| Stray::new(format!("the key is not below `{prefix}`")))?;
    if path.is_empty() || path.ends_with('/') {
        return Ok(None);
    }
    let segments: Vec<&str> = path.splitn(5, '/').collect();
    let slot = match *segments.as_slice() {
        ["listeners", name] => Slot::Listener(parse_name(name)?),
        ["routes", name] => Slot::Route(parse_name(name)?),
        ["tcp_routes", name] => Slot::TcpRoute(parse_name(name)?),
        ["middlewares", name] => Slot::Middleware(parse_name(name)?),
        ["certificates", name] => Slot::Certificate(parse_name(name)?),
        ["upstreams", name] => Slot::Upstream(parse_name(name)?),
        ["upstreams", upstream, ENDPOINTS, id] => Slot::Endpoint { upstream: parse_name(upstream)?, id: parse_name(id)? },
        ["upstreams", upstream, folder, id] => {
            let help =
                suggest::nearest(folder, [ENDPOINTS]).map(|known| format!("did you mean `{prefix}upstreams/{upstream}/{known}/{id}`?"));
            return Err(Stray { message: format!("an upstream has no `{folder}`"), help });
        }
        [folder, ..] => return Err(misplaced(prefix, path, folder)),
        [] => return Ok(None),
    };
    Ok(Some((key, slot)))
}

fn parse_name(text: &str) -> Result<Name, Stray> {
    Name::new(text).map_err(|error| Stray::new(error.to_string()))
}

/// Why the key `{prefix}{path}`, which is in `folder`, belongs to no object.
fn misplaced(prefix: &str, path: &str, folder: &str) -> Stray {
    let rest = path.get(folder.len()..).unwrap_or_default();
    match suggest::nearest(folder, FOLDERS) {
        Some("upstreams") if folder == "upstreams" => Stray::new("below an upstream there is nothing but its endpoints")
            .help(format!("the keys of an upstream are `{prefix}upstreams/NAME` and `{prefix}upstreams/NAME/{ENDPOINTS}/ID`")),
        Some(known) if folder == known => Stray::new(format!("the key is not of the form `{known}/NAME`"))
            .help(format!("write `{prefix}{known}/NAME`, without further `/`")),
        Some(known) => Stray::new(format!("there is no `{folder}`")).help(format!("did you mean `{prefix}{known}{rest}`?")),
        None => Stray::new(format!("there is no `{folder}`")).help(format!("below `{prefix}` there are: {}", FOLDERS.join(", "))),
    }
}

/// Why a key belongs to no object.
struct Stray {
    message: String,
    help: Option<String>,
}

impl Stray {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    fn help(self, help: String) -> Self {
        Self { help: Some(help), ..self }
    }

    fn problem(self) -> Problem {
        Problem { help: self.help, ..Problem::error(self.message).effect("the key is ignored") }
    }
}

/// A value that was written under the key of an object.
struct Written<'a> {
    value: &'a [u8],
    origin: Origin,
}

impl Written<'_> {
    fn object<T: DeserializeOwned>(self, kind: Kind, name: &Name) -> Entry<T> {
        self.entry(ObjectId::new(kind, name), decode_json)
    }

    fn endpoint(self, upstream: &Name, id: &Name) -> Entry<Endpoint> {
        self.entry(ObjectId { kind: Kind::Endpoint, name: format!("{upstream}/{id}") }, decode_endpoint)
    }

    fn entry<T>(self, object: ObjectId, decode: impl FnOnce(&str, ObjectId, Origin) -> Result<T, Problem>) -> Entry<T> {
        let value = match self.text() {
            Ok(text) => decode(text, object, self.origin.clone()),
            Err(message) => Err(Problem::error(message).about(object).at(self.origin.clone())),
        };
        Entry { origin: self.origin, value }
    }

    fn text(&self) -> Result<&str, String> {
        if self.value.len() > VALUE_BYTES_MAX {
            return Err(format!("a value has at most {VALUE_BYTES_MAX} bytes, this one has {}", self.value.len()));
        }
        str::from_utf8(self.value).map_err(|error| format!("the value is not UTF-8: byte {} does not belong there", error.valid_up_to()))
    }
}

/// The objects of all kinds.
#[derive(Debug, Clone, Default)]
struct Objects {
    listeners: Section<Listener>,
    routes: Section<Route>,
    tcp_routes: Section<TcpRoute>,
    middlewares: Section<Middleware>,
    certificates: Section<Certificate>,
    upstreams: BTreeMap<Name, Arc<UpstreamEntry>>,
}

impl Objects {
    fn put(&mut self, slot: Slot, written: Written<'_>) -> bool {
        match slot {
            Slot::Listener(name) => put(&mut self.listeners, written.object(Kind::Listener, &name), name),
            Slot::Route(name) => put(&mut self.routes, written.object(Kind::Route, &name), name),
            Slot::TcpRoute(name) => put(&mut self.tcp_routes, written.object(Kind::TcpRoute, &name), name),
            Slot::Middleware(name) => put(&mut self.middlewares, written.object(Kind::Middleware, &name), name),
            Slot::Certificate(name) => put(&mut self.certificates, written.object(Kind::Certificate, &name), name),
            Slot::Upstream(name) => self.put_settings(written.object(Kind::Upstream, &name), name),
            Slot::Endpoint { upstream, id } => self.put_endpoint(written.endpoint(&upstream, &id), upstream, id),
        }
    }

    fn delete(&mut self, slot: &Slot) -> bool {
        match slot {
            Slot::Listener(name) => self.listeners.remove(name).is_some(),
            Slot::Route(name) => self.routes.remove(name).is_some(),
            Slot::TcpRoute(name) => self.tcp_routes.remove(name).is_some(),
            Slot::Middleware(name) => self.middlewares.remove(name).is_some(),
            Slot::Certificate(name) => self.certificates.remove(name).is_some(),
            Slot::Upstream(name) => self.delete_settings(name),
            Slot::Endpoint { upstream, id } => self.delete_endpoint(upstream, id),
        }
    }

    fn put_settings(&mut self, settings: Entry<Upstream>, name: Name) -> bool {
        let held = self.upstreams.entry(name).or_default();
        let is_changed = !held.settings.as_ref().is_some_and(|held| is_equal(held, &settings));
        if is_changed {
            Arc::make_mut(held).settings = Some(settings);
        }
        is_changed
    }

    fn put_endpoint(&mut self, endpoint: Entry<Endpoint>, upstream: Name, id: Name) -> bool {
        let held = self.upstreams.entry(upstream).or_default();
        let is_changed = !held.endpoints.get(&id).is_some_and(|held| is_equal(held, &endpoint));
        if is_changed {
            Arc::make_mut(held).endpoints.insert(id, endpoint);
        }
        is_changed
    }

    fn delete_settings(&mut self, name: &Name) -> bool {
        let Some(held) = self.upstreams.get_mut(name).filter(|held| held.settings.is_some()) else {
            return false;
        };
        Arc::make_mut(held).settings = None;
        self.drop_if_empty(name);
        true
    }

    fn delete_endpoint(&mut self, upstream: &Name, id: &Name) -> bool {
        let Some(held) = self.upstreams.get_mut(upstream).filter(|held| held.endpoints.contains_key(id)) else {
            return false;
        };
        Arc::make_mut(held).endpoints.remove(id);
        self.drop_if_empty(upstream);
        true
    }

    /// An upstream is gone with the last of its keys.
    fn drop_if_empty(&mut self, upstream: &Name) {
        if self.upstreams.get(upstream).is_some_and(|held| held.settings.is_none() && held.endpoints.is_empty()) {
            self.upstreams.remove(upstream);
        }
    }

    /// Takes over the `Arc`s of `old` for all objects that are equal. Whether any is not.
    fn keep_equal(&mut self, old: &Self) -> bool {
        keep_equal(&mut self.listeners, &old.listeners, is_equal)
            | keep_equal(&mut self.routes, &old.routes, is_equal)
            | keep_equal(&mut self.tcp_routes, &old.tcp_routes, is_equal)
            | keep_equal(&mut self.middlewares, &old.middlewares, is_equal)
            | keep_equal(&mut self.certificates, &old.certificates, is_equal)
            | keep_equal(&mut self.upstreams, &old.upstreams, is_equal_upstream)
    }
}

fn put<T: PartialEq>(section: &mut Section<T>, entry: Entry<T>, name: Name) -> bool {
    let is_changed = !section.get(&name).is_some_and(|held| is_equal(held, &entry));
    if is_changed {
        section.insert(name, Arc::new(entry));
    }
    is_changed
}

fn keep_equal<T>(fresh: &mut BTreeMap<Name, Arc<T>>, old: &BTreeMap<Name, Arc<T>>, is_equal: impl Fn(&T, &T) -> bool) -> bool {
    let mut is_changed = fresh.len() != old.len();
    for (name, entry) in fresh {
        match old.get(name) {
            Some(held) if is_equal(held, entry) => *entry = held.clone(),
            _ => is_changed = true,
        }
    }
    is_changed
}

/// Whether both mean the same to a table. Two good values do when they are equal, whatever the revisions they were written at.
fn is_equal<T: PartialEq>(held: &Entry<T>, other: &Entry<T>) -> bool {
    match (&held.value, &other.value) {
        (Ok(held), Ok(other)) => held == other,
        (Err(held), Err(other)) => held == other,
        _ => false,
    }
}

fn is_equal_upstream(held: &UpstreamEntry, other: &UpstreamEntry) -> bool {
    let is_settings_equal = match (&held.settings, &other.settings) {
        (Some(held), Some(other)) => is_equal(held, other),
        (None, None) => true,
        _ => false,
    };
    let mut endpoints = held.endpoints.iter().zip(&other.endpoints);
    is_settings_equal
        && held.endpoints.len() == other.endpoints.len()
        && endpoints.all(|((held_id, held), (id, other))| held_id == id && is_equal(held, other))
}

/// Keys that belong to no object.
#[derive(Debug, Clone, Default, PartialEq)]
struct Strays {
    /// Invariant: at most [`STRAYS_MAX`].
    problems: BTreeMap<Box<[u8]>, Problem>,
    /// Whether there were more. Forgotten when the whole tree is read again: to know sooner, all keys would have to be kept.
    has_more: bool,
}

impl Strays {
    fn put(&mut self, key: &[u8], problem: Problem) -> bool {
        if self.problems.len() < STRAYS_MAX || self.problems.contains_key(key) {
            let held = self.problems.insert(key.into(), problem);
            return held.as_ref() != self.problems.get(key);
        }
        !std::mem::replace(&mut self.has_more, true)
    }

    fn delete(&mut self, key: &[u8]) -> bool {
        self.problems.remove(key).is_some()
    }

    fn problems(&self) -> Vec<Problem> {
        let more = self
            .has_more
            .then(|| Stray::new(format!("more than {STRAYS_MAX} keys belong to no object; the others are not listed")).problem());
        self.problems.values().cloned().chain(more).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        Tree::new("/nuncio", Name::literal("etcd"))
    }

    fn pair<'a>(key: &'a str, value: &'a str, revision: u64) -> Pair<'a> {
        Pair { key: key.as_bytes(), value: value.as_bytes(), revision }
    }

    fn snapshot(tree: &Tree) -> Snapshot {
        tree.snapshot(None, Instant::now())
    }

    #[test]
    fn each_kind_has_its_folder() {
        let mut tree = tree();
        for (key, value) in [
            ("/nuncio/listeners/web", r#"{"address":"127.0.0.1:80"}"#),
            ("/nuncio/routes/app", r#"{"match":"Host(\"a\")","upstream":"app"}"#),
            ("/nuncio/tcp_routes/db", r#"{"listener":"pg","upstream":"db"}"#),
            ("/nuncio/certificates/site", r#"{"cert":"/a.pem","key":"/a.key"}"#),
            ("/nuncio/upstreams/app", r#"{"retries":1}"#),
            ("/nuncio/upstreams/app/endpoints/1", r#"{"address":"10.0.0.1:80","weight":2}"#),
            ("/nuncio/upstreams/app/endpoints/2", "10.0.0.2:80"),
        ] {
            assert!(tree.put(pair(key, value, 3)), "{key}");
        }
        let snapshot = snapshot(&tree);
        assert!(snapshot.problems.is_empty(), "{:?}", snapshot.problems);
        assert!(snapshot.listeners["web"].value.is_ok());
        assert!(snapshot.routes["app"].value.is_ok());
        assert!(snapshot.tcp_routes["db"].value.is_ok());
        assert!(snapshot.certificates["site"].value.is_ok());
        let app = &snapshot.upstreams["app"];
        assert_eq!(app.settings.as_ref().unwrap().value.as_ref().unwrap().retries, 1);
        let weights: Vec<_> = app.endpoints.values().map(|entry| entry.value.as_ref().unwrap().weight).collect();
        assert_eq!(weights, [2, 1]);
        assert_eq!(snapshot.routes["app"].origin.to_string(), "etcd: key /nuncio/routes/app, revision 3");
    }

    #[test]
    fn an_endpoint_makes_its_upstream_exist_and_the_last_key_ends_it() {
        let mut tree = tree();
        tree.put(pair("/nuncio/upstreams/a/endpoints/1", "10.0.0.1:80", 1));
        assert!(snapshot(&tree).upstreams["a"].settings.is_none());
        tree.put(pair("/nuncio/upstreams/a", "{}", 2));
        assert!(tree.delete(b"/nuncio/upstreams/a/endpoints/1"));
        assert!(snapshot(&tree).upstreams["a"].endpoints.is_empty());
        assert!(tree.delete(b"/nuncio/upstreams/a"));
        assert!(snapshot(&tree).upstreams.is_empty());
        assert!(!tree.delete(b"/nuncio/upstreams/a"));
    }

    #[test]
    fn a_value_that_cannot_be_read_stands_in_its_place() {
        let mut tree = tree();
        tree.put(pair("/nuncio/upstreams/good", "{}", 1));
        tree.put(pair("/nuncio/upstreams/bad", "{", 2));
        tree.put(Pair { key: b"/nuncio/upstreams/latin", value: b"\"\xe9\"", revision: 3 });
        tree.put(Pair { key: b"/nuncio/upstreams/huge", value: &vec![b' '; VALUE_BYTES_MAX + 1], revision: 4 });
        let snapshot = snapshot(&tree);
        let value = |name: &str| snapshot.upstreams[name].settings.as_ref().unwrap().value.as_ref();
        assert!(value("good").is_ok());
        assert_eq!(value("bad").unwrap_err().object, Some(ObjectId { kind: Kind::Upstream, name: "bad".into() }));
        assert_eq!(value("latin").unwrap_err().message, "the value is not UTF-8: byte 1 does not belong there");
        assert_eq!(value("huge").unwrap_err().message, "a value has at most 1572864 bytes, this one has 1572865");
    }

    #[test]
    fn keys_that_belong_nowhere_are_problems() {
        let check = |key: &str, message: &str, help: Option<&str>| {
            let mut tree = tree();
            assert!(tree.put(pair(key, "{}", 9)), "{key}");
            let problems = snapshot(&tree).problems;
            assert_eq!(problems.len(), 1, "{key}");
            assert_eq!((problems[0].message.as_str(), problems[0].help.as_deref()), (message, help));
            assert!(tree.delete(key.as_bytes()));
            assert!(snapshot(&tree).problems.is_empty(), "{key}");
        };
        check("/nuncio/route/a", "there is no `route`", Some("did you mean `/nuncio/routes/a`?"));
        check("/nuncio/tcp-routes/a", "there is no `tcp-routes`", Some("did you mean `/nuncio/tcp_routes/a`?"));
        check(
            "/nuncio/backends/a",
            "there is no `backends`",
            Some("below `/nuncio/` there are: certificates, listeners, middlewares, routes, tcp_routes, upstreams"),
        );
        check("/nuncio/upstreams/a/endpoint/1", "an upstream has no `endpoint`", Some("did you mean `/nuncio/upstreams/a/endpoints/1`?"));
        check("/nuncio/upstreams/a/pool/1", "an upstream has no `pool`", None);
        check("/nuncio/routes/a/b", "the key is not of the form `routes/NAME`", Some("write `/nuncio/routes/NAME`, without further `/`"));
        check(
            "/nuncio/upstreams/a/endpoints/1/weight",
            "below an upstream there is nothing but its endpoints",
            Some("the keys of an upstream are `/nuncio/upstreams/NAME` and `/nuncio/upstreams/NAME/endpoints/ID`"),
        );
        check("/nuncio/routes/a b", "a name must not contain ' '", None);
        check("/elsewhere", "the key is not below `/nuncio/`", None);
        check(&format!("/nuncio/routes/{}", "x".repeat(KEY_BYTES_MAX)), "a key has at most 4096 bytes, this one has 4111", None);
    }

    #[test]
    fn folders_mean_nothing() {
        let mut tree = tree();
        for key in ["/nuncio/", "/nuncio/routes/", "/nuncio/upstreams/a/", "/nuncio/upstreams/a/endpoints/"] {
            assert!(!tree.put(pair(key, "", 1)), "{key}");
            assert!(!tree.delete(key.as_bytes()), "{key}");
        }
        assert!(snapshot(&tree).upstreams.is_empty());
    }

    #[test]
    fn the_number_of_problems_is_bounded() {
        let mut tree = tree();
        let key = |index| format!("/nuncio/bad/{index:04}");
        for index in 0..STRAYS_MAX + 50 {
            tree.put(pair(&key(index), "", 1));
        }
        let problems = snapshot(&tree).problems;
        assert_eq!(problems.len(), STRAYS_MAX + 1);
        assert!(problems.last().unwrap().message.starts_with("more than 100 keys"));
        assert!(!tree.put(pair(&key(STRAYS_MAX + 51), "", 1)), "one more changes nothing");
        tree.replace([]);
        assert!(snapshot(&tree).problems.is_empty());
    }

    #[test]
    fn a_change_touches_one_object() {
        let mut tree = tree();
        for index in 0..100 {
            tree.put(pair(&format!("/nuncio/upstreams/u{index}/endpoints/1"), "10.0.0.1:80", 1));
            tree.put(pair(&format!("/nuncio/routes/r{index}"), r#"{"match":"Host(\"a\")"}"#, 1));
        }
        let before = snapshot(&tree);
        assert!(tree.put(pair("/nuncio/upstreams/u7/endpoints/1", "10.0.0.2:80", 2)));
        let after = snapshot(&tree);
        for (name, entry) in &after.upstreams {
            assert_eq!(Arc::ptr_eq(entry, &before.upstreams[name]), name.as_str() != "u7");
        }
        assert!(after.routes.iter().all(|(name, entry)| Arc::ptr_eq(entry, &before.routes[name])));
        let address = |snapshot: &Snapshot| snapshot.upstreams["u7"].endpoints["1"].value.as_ref().unwrap().address.to_string();
        assert_eq!((address(&before), address(&after)), ("10.0.0.1:80".into(), "10.0.0.2:80".into()));
    }

    #[test]
    fn an_equal_value_is_no_change() {
        let mut tree = tree();
        assert!(tree.put(pair("/nuncio/upstreams/a/endpoints/1", "10.0.0.1:80", 1)));
        let before = snapshot(&tree);
        assert!(!tree.put(pair("/nuncio/upstreams/a/endpoints/1", r#"{"address":"10.0.0.1:80"}"#, 2)));
        assert!(Arc::ptr_eq(&before.upstreams["a"], &snapshot(&tree).upstreams["a"]));
    }

    #[test]
    fn replace_keeps_what_is_equal_and_drops_what_is_gone() {
        let mut tree = tree();
        let mut pairs = vec![
            pair("/nuncio/routes/a", r#"{"match":"Host(\"a\")","upstream":"u"}"#, 1),
            pair("/nuncio/routes/b", r#"{"match":"Host(\"b\")","upstream":"u"}"#, 2),
            pair("/nuncio/upstreams/u", "{}", 3),
            pair("/nuncio/upstreams/u/endpoints/1", "10.0.0.1:80", 4),
            pair("/nuncio/upstreams/v/endpoints/1", "10.0.0.1:80", 5),
        ];
        assert!(tree.replace(pairs.iter().copied()));
        let before = snapshot(&tree);
        assert!(!tree.replace(pairs.iter().copied().map(|pair| Pair { revision: pair.revision + 10, ..pair })));

        pairs.remove(1);
        pairs[3].value = b"10.0.0.9:80";
        assert!(tree.replace(pairs));
        let after = snapshot(&tree);
        assert!(Arc::ptr_eq(&before.routes["a"], &after.routes["a"]));
        assert!(!after.routes.contains_key("b"));
        assert!(Arc::ptr_eq(&before.upstreams["u"], &after.upstreams["u"]));
        assert!(!Arc::ptr_eq(&before.upstreams["v"], &after.upstreams["v"]));
        assert!(tree.replace([]), "an empty store is a change");
    }

    const KEYS: [&str; 9] = [
        "/nuncio/routes/a",
        "/nuncio/routes/b",
        "/nuncio/upstreams/u",
        "/nuncio/upstreams/u/endpoints/1",
        "/nuncio/upstreams/u/endpoints/2",
        "/nuncio/upstreams/v/endpoints/1",
        "/nuncio/upstreams/",
        "/nuncio/route/a",
        "/elsewhere",
    ];
    const VALUES: [&str; 6] = ["{}", r#"{"match":"Host(\"a\")"}"#, "10.0.0.1:80", r#"{"address":"10.0.0.2:80"}"#, "{", ""];

    proptest::proptest! {
        /// Changes one by one lead to what reading the whole store leads to, and tell whether they changed anything.
        #[test]
        fn incremental_is_the_same_as_whole(steps in proptest::collection::vec((0..KEYS.len(), proptest::option::of(0..VALUES.len())), 0..60)) {
            let mut store = BTreeMap::new();
            let mut tree = tree();
            for (key, value) in steps {
                let before = whole(&tree);
                let is_changed = match value {
                    Some(value) => {
                        store.insert(KEYS[key], VALUES[value]);
                        tree.put(pair(KEYS[key], VALUES[value], 0))
                    }
                    None => {
                        store.remove(KEYS[key]);
                        tree.delete(KEYS[key].as_bytes())
                    }
                };
                proptest::prop_assert_eq!(is_changed, whole(&tree) != before);
                let mut read = Tree::new("/nuncio", Name::literal("etcd"));
                read.replace(store.iter().map(|(key, value)| pair(key, value, 0)));
                proptest::prop_assert_eq!(whole(&tree), whole(&read));
                proptest::prop_assert!(!read.replace(store.iter().map(|(key, value)| pair(key, value, 0))));
            }
        }
    }

    fn whole(tree: &Tree) -> String {
        let Snapshot { routes, upstreams, problems, .. } = snapshot(tree);
        format!("{routes:?} {upstreams:?} {problems:?}")
    }
}
