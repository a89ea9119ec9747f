//! A key/value tree → [`Snapshot`]: the layouts that all stores share. Incremental: a change decodes one value and touches one object.
//!
//! Our own layout, [`LayoutKind::Nuncio`]:
//!
//! | key, after the prefix | value |
//! |---|---|
//! | `listeners/{name}` | [`Listener`](crate::config::Listener) |
//! | `routes/{name}` | [`Route`](crate::config::Route) |
//! | `tcp_routes/{name}` | [`TcpRoute`](crate::config::TcpRoute) |
//! | `udp_routes/{name}` | [`UdpRoute`](crate::config::UdpRoute) |
//! | `middlewares/{name}` | [`Middleware`](crate::middleware::Middleware) |
//! | `certificates/{name}` | [`Certificate`](crate::config::Certificate) |
//! | `upstreams/{name}` | [`Upstream`](crate::config::Upstream) |
//! | `upstreams/{name}/endpoints/{id}` | [`Endpoint`](crate::config::Endpoint), or just its address |
//!
//! Values are JSON. An endpoint makes its upstream exist, so that each instance can register itself and nothing else. A value that
//! cannot be read stands in its object's place as a [`Problem`]; a key that belongs to no object is a problem beside the objects. A key
//! that ends in `/` is a folder, as some stores and their tools make them, and means nothing.
//!
//! Those of others: `services` and `vulcand`; their values are read by [`dialect`].
//!
//! | file | concept |
//! |---|---|
//! | `nuncio`, `services`, `vulcand` | a layout each: where a key belongs |
//! | `written`, [`dialect`], `json` | a value: into our objects; into an instance, whoever wrote it; as Go reads JSON |
//! | `nerve` | names of znodes that are values at once |
//! | `groups` | keys of others that make an upstream or a route together |
//! | [`sealed`], `opener` | values that nobody but us shall read; opens them before all of the above |
//! | `objects`, `strays` | what the tree holds: objects; keys that belong to none |
//!
//! Pure: providers do the I/O and say when.

use std::sync::Arc;
use std::time::Instant;

use self::groups::{Groups, Making};
use self::objects::Objects;
pub use self::opener::KeySource;
use self::opener::{Opener, Value};
use self::strays::{Stray, Strays};
use self::vulcand::Located;
use self::written::Written;
use crate::config::problem::{Kind, ObjectId};
use crate::config::providers::{Layout, LayoutKind};
use crate::config::snapshot::{Place, Removals};
use crate::config::upstream::HostHeader;
use crate::config::{Entry, Origin, Problem, Snapshot};
use crate::names::Name;

pub mod dialect;
mod groups;
mod json;
mod nerve;
mod nuncio;
mod objects;
mod opener;
pub mod sealed;
mod services;
mod strays;
#[cfg(test)]
mod testing;
mod vulcand;
mod written;

/// The longest key, in bytes. Longer ones are a problem.
pub const KEY_BYTES_MAX: usize = 4 * 1024;

/// The largest value, in bytes: as much as etcd takes. Larger ones are a problem.
pub const VALUE_BYTES_MAX: usize = 3 * 512 * 1024;

/// How many keys that belong to no object are reported one by one. Of further ones it is only said that they are there.
pub const STRAYS_MAX: usize = 100;

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
    layout: Layout,
    objects: Objects,
    /// What the objects are made of, in layouts whose keys are not objects one by one.
    groups: Groups,
    strays: Strays,
    opener: Opener,
}

impl Tree {
    /// An empty tree of the keys below `prefix` in our own layout, whose objects name `provider` as their origin. A `/` at the end is
    /// added if missing.
    #[must_use]
    pub fn new(prefix: &str, provider: Name) -> Self {
        Self::with_layout(prefix, provider, Layout::default())
    }

    /// The same in another layout.
    #[must_use]
    pub fn with_layout(prefix: &str, provider: Name, layout: Layout) -> Self {
        let prefix = format!("{}/", prefix.trim_end_matches('/'));
        Self {
            provider,
            prefix,
            layout,
            objects: Objects::default(),
            groups: Groups::default(),
            strays: Strays::default(),
            opener: Opener::default(),
        }
    }

    /// The same tree, which opens sealed values with these keys. Without any they are problems.
    #[must_use]
    pub fn with_keys(self, keys: Option<Arc<dyn KeySource>>) -> Self {
        Self { opener: Opener::new(keys), ..self }
    }

    /// The prefix of all keys. It ends with `/`, so that `/nuncio` does not take the keys of `/nuncio2`.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Takes over a key that was written. Whether that changes the snapshot.
    pub fn put(&mut self, pair: Pair<'_>) -> bool {
        self.put_piece(pair, None, None) | self.settle()
    }

    /// Takes over a key whose value could not be had: a problem that says `why` stands in its object's place. Whether that changes the
    /// snapshot.
    pub fn put_unreadable(&mut self, key: &[u8], why: &str, revision: u64) -> bool {
        self.opener.forget(key);
        self.put_value(key, Value::Closed(Problem::error(why).into()), revision, None) | self.settle()
    }

    /// Whether the key says all that its value could: nobody needs to read that.
    #[must_use]
    pub fn is_told_by_key(&self, key: &[u8]) -> bool {
        let name = key.rsplit(|byte| *byte == b'/').next().and_then(|name| str::from_utf8(name).ok());
        self.layout.kind == LayoutKind::Services && name.is_some_and(nerve::is_telling)
    }

    /// Takes over a key that was deleted. Whether that changes the snapshot.
    pub fn delete(&mut self, key: &[u8]) -> bool {
        let is_changed = match below(&self.prefix, key) {
            Ok(Some(path)) => self.delete_located(key, path),
            Ok(None) => return false,
            Err(_) => self.strays.delete(key),
        };
        self.opener.forget(key);
        is_changed | self.settle()
    }

    /// Tries again to open what is sealed and could not be opened, if the keys are others now. Whether that changes the snapshot.
    pub fn open_again(&mut self) -> bool {
        let mut is_changed = false;
        for (key, closed) in self.opener.untried() {
            is_changed |= self.put_piece(Pair { key: &key, value: &closed.sealed, revision: closed.revision }, closed.place, None);
        }
        is_changed | self.settle()
    }

    /// Takes over all that the store holds: keys that are not among `pairs` are gone. Whether that changes the snapshot.
    ///
    /// Every value is decoded again, because a store that was rebuilt may use a revision twice. What comes out equal keeps its `Arc`.
    pub fn replace<'a>(&mut self, pairs: impl IntoIterator<Item = Pair<'a>>) -> bool {
        self.replace_at(pairs.into_iter().map(|pair| (pair, None)))
    }

    /// The same, of pairs that were read elsewhere than under their keys, if they say so.
    pub fn replace_at<'a>(&mut self, pairs: impl IntoIterator<Item = (Pair<'a>, Option<Place>)>) -> bool {
        let mut fresh = Self::with_layout(&self.prefix, self.provider.clone(), self.layout.clone());
        fresh.opener = self.opener.fresh();
        for (pair, place) in pairs {
            fresh.put_piece(pair, place, Some(&self.opener));
        }
        fresh.groups.keep_links(&self.groups);
        fresh.settle();
        let is_changed = fresh.objects.keep_equal(&self.objects) | (fresh.strays != self.strays);
        *self = fresh;
        is_changed
    }

    /// Everything that the tree holds, as the store's `revision`, because of a change that was seen at `seen_at`. What is missing since the
    /// last one is taken for missing in a list; who was told of each deletion says so: [`Removals::Explicit`].
    #[must_use]
    pub fn snapshot(&self, revision: Option<u64>, seen_at: Instant) -> Snapshot {
        Snapshot {
            listeners: self.objects.listeners.clone(),
            routes: self.objects.routes.clone(),
            tcp_routes: self.objects.tcp_routes.clone(),
            udp_routes: self.objects.udp_routes.clone(),
            upstreams: self.objects.upstreams.clone(),
            middlewares: self.objects.middlewares.clone(),
            certificates: self.objects.certificates.clone(),
            problems: self.strays.problems(),
            revision,
            seen_at,
            removals: Removals::Inferred,
        }
    }

    /// Takes over a key, read at `place` if that is not the key itself, and leaves the objects that are made of several to
    /// [`Tree::settle`]. What `opened` has opened is not opened again. Whether that changed any object.
    fn put_piece(&mut self, pair: Pair<'_>, place: Option<Place>, opened: Option<&Opener>) -> bool {
        let value = self.opener.open(pair, place.as_ref(), opened);
        self.put_value(pair.key, value, pair.revision, place)
    }

    fn put_value(&mut self, key: &[u8], value: Value<'_>, revision: u64, place: Option<Place>) -> bool {
        let why = match &value {
            Value::Closed(problem) => Some(problem.message.clone()),
            Value::Plain(_) | Value::Opened(_) => None,
        };
        let put = match below(&self.prefix, key) {
            Ok(Some(path)) => self.put_located(path, value, revision, place.clone()),
            Ok(None) => return false,
            Err(stray) => Err(stray),
        };
        put.unwrap_or_else(|stray| {
            let stray = why.map_or(stray, Stray::new);
            let shown = key.get(..KEY_BYTES_MAX).unwrap_or(key);
            let origin = match place {
                Some(place) => Origin { provider: self.provider.clone(), place },
                None => self.origin(&String::from_utf8_lossy(shown), revision),
            };
            self.strays.put(key, stray.problem().at(origin))
        })
    }

    fn put_located(&mut self, path: &str, value: Value<'_>, revision: u64, place: Option<Place>) -> Result<bool, Stray> {
        let origin = match place {
            Some(place) => Origin { provider: self.provider.clone(), place },
            None => self.origin(&format!("{}{path}", self.prefix), revision),
        };
        let written = Written { value, origin };
        match self.layout.kind {
            LayoutKind::Nuncio => Ok(self.objects.put(nuncio::locate(&self.prefix, path)?, written)),
            LayoutKind::Services => {
                if let Some(located) = services::locate(&self.prefix, path)? {
                    let written = match located.value.as_deref() {
                        Some(value) => Written { value: Value::Plain(value), ..written },
                        None => written,
                    };
                    let instance = written.instance(&located.upstream, &located.id);
                    self.groups.put_instance(located.service, located.upstream, located.id, instance);
                }
                Ok(false)
            }
            LayoutKind::Vulcand => Ok(self.put_vulcand(vulcand::locate(&self.prefix, path)?, written)),
        }
    }

    fn delete_located(&mut self, key: &[u8], path: &str) -> bool {
        match self.layout.kind {
            LayoutKind::Nuncio => match nuncio::locate(&self.prefix, path) {
                Ok(slot) => self.objects.delete(&slot),
                Err(_) => self.strays.delete(key),
            },
            LayoutKind::Services => match services::locate(&self.prefix, path) {
                Ok(Some(located)) => {
                    self.groups.delete_instance(&located.upstream, &located.id);
                    false
                }
                Ok(None) => false,
                Err(_) => self.strays.delete(key),
            },
            LayoutKind::Vulcand => match vulcand::locate(&self.prefix, path) {
                Ok(located) => self.delete_vulcand(key, &located),
                Err(_) => self.strays.delete(key),
            },
        }
    }

    fn put_vulcand(&mut self, located: Located, written: Written<'_>) -> bool {
        let Place::Key { key, .. } = written.origin.place.clone() else { return false };
        let objects = &mut self.objects;
        let mut said = None;
        let mut is_changed = false;
        match located {
            Located::Nothing => return false,
            Located::Listener(name) => {
                let listener = written.foreign(ObjectId::new(Kind::Listener, &name), vulcand::listener::decode);
                is_changed = objects::put(&mut objects.listeners, listener, name);
            }
            Located::Host(name) => {
                let object = ObjectId::new(Kind::Certificate, &name);
                let sealed = written.foreign(object, vulcand::certificate).transpose();
                is_changed = match sealed {
                    Some(entry) => objects::put(&mut objects.certificates, entry, name),
                    None => objects.certificates.remove(&name).is_some(),
                };
            }
            Located::Backend(name) => {
                let settings = written.foreign(ObjectId::new(Kind::Upstream, &name), vulcand::backend::decode);
                self.groups.put_settings(name, settings);
            }
            Located::Server { backend, id } => {
                let instance = written.instance(&backend, &id);
                self.groups.put_instance("", backend, id, instance);
            }
            Located::Frontend(name) => {
                let Entry { origin, value } = written.foreign(ObjectId::new(Kind::Route, &name), vulcand::frontend::decode);
                let value = value.map(|(wanted, warning)| {
                    said = warning.map(|warning| warning.at(origin.clone()));
                    wanted
                });
                self.groups.put_route(name, Entry { origin, value });
            }
            Located::Middleware { frontend, id } => {
                let name = vulcand::middleware_name(&frontend, &id);
                let Entry { origin, value } = written.foreign(ObjectId::new(Kind::Middleware, &name), vulcand::middleware);
                match value {
                    Ok(warning) => {
                        said = Some(warning.at(origin));
                        is_changed = objects.middlewares.remove(&name).is_some();
                        self.groups.delete_middleware(&frontend, &id);
                    }
                    Err(problem) => {
                        is_changed = objects::put(&mut objects.middlewares, Entry { origin, value: Err(problem) }, name.clone());
                        self.groups.put_middleware(frontend, id, name);
                    }
                }
            }
        }
        self.strays.set(&key, said) | is_changed
    }

    fn delete_vulcand(&mut self, key: &[u8], located: &Located) -> bool {
        let is_changed = match located {
            Located::Nothing => false,
            Located::Listener(name) => self.objects.listeners.remove(name).is_some(),
            Located::Host(name) => self.objects.certificates.remove(name).is_some(),
            Located::Backend(name) => {
                self.groups.delete_settings(name);
                false
            }
            Located::Server { backend, id } => {
                self.groups.delete_instance(backend, id);
                false
            }
            Located::Frontend(name) => {
                self.groups.delete_route(name);
                false
            }
            Located::Middleware { frontend, id } => {
                self.groups.delete_middleware(frontend, id);
                self.objects.middlewares.remove(&vulcand::middleware_name(frontend, id)).is_some()
            }
        };
        self.strays.delete(key) | is_changed
    }

    /// Makes the objects of the groups that changed. Whether that changed any.
    fn settle(&mut self) -> bool {
        let host = match self.layout.kind {
            LayoutKind::Vulcand => HostHeader::Endpoint,
            LayoutKind::Nuncio | LayoutKind::Services => HostHeader::Pass,
        };
        self.groups.settle(&Making { route: self.layout.route.as_ref(), host }, &mut self.objects)
    }

    fn origin(&self, key: &str, revision: u64) -> Origin {
        Origin { provider: self.provider.clone(), place: Place::Key { key: key.into(), revision } }
    }
}

/// What follows the prefix in `key`. None: it is a folder.
fn below<'a>(prefix: &str, key: &'a [u8]) -> Result<Option<&'a str>, Stray> {
    if key.len() > KEY_BYTES_MAX {
        return Err(Stray::new(format!("a key has at most {KEY_BYTES_MAX} bytes, this one has {}", key.len())));
    }
    let key = str::from_utf8(key).map_err(|_| Stray::new("the key is not UTF-8"))?;
    let path = key.strip_prefix(prefix).ok_or_else(|| Stray::new(format!("the key is not below `{prefix}`")))?;
    Ok((!path.is_empty() && !path.ends_with('/')).then_some(path))
}

#[cfg(test)]
mod tests {
    use super::testing::{check_incremental_is_whole, pair, snapshot};
    use super::*;

    fn tree() -> Tree {
        Tree::new("/nuncio", Name::literal("etcd"))
    }

    #[test]
    fn each_kind_has_its_folder() {
        let mut tree = tree();
        for (key, value) in [
            ("/nuncio/listeners/web", r#"{"address":"127.0.0.1:80"}"#),
            ("/nuncio/routes/app", r#"{"match":"Host(\"a\")","upstream":"app"}"#),
            ("/nuncio/tcp_routes/db", r#"{"listener":"pg","upstream":"db"}"#),
            ("/nuncio/udp_routes/dns", r#"{"listener":"dns","upstream":"dns","responses":1}"#),
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
        assert!(snapshot.udp_routes["dns"].value.is_ok());
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
            Some("below `/nuncio/` there are: certificates, listeners, middlewares, routes, tcp_routes, udp_routes, upstreams"),
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
        #[test]
        fn incremental_is_the_same_as_whole(steps in proptest::collection::vec((0..KEYS.len(), proptest::option::of(0..VALUES.len())), 0..60)) {
            let steps = steps.into_iter().map(|(key, value)| (KEYS[key], value.map(|value| VALUES[value])));
            check_incremental_is_whole(tree, steps)?;
        }
    }
}
