//! What a ZooKeeper server answers and announces → changes of a [`Tree`], and what is to be asked next. Pure:
//! [`zookeeper`](super::zookeeper) does the I/O and says when.
//!
//! * **First a watch, then a list**: what changes while the list is read is announced, and read again. A list is the reads of the root, of
//!   its children and of theirs; what it does not come across is gone.
//! * **An event says that something happened, not what is there now.** So the znode is read. One that is gone by then is no error.
//! * **A deletion counts at once**, and an answer that was on its way meanwhile does not.
//! * **Who deleted an ephemeral znode cannot be known**: its owner, or the end of its owner's session. So that it is gone is inferred.
//! * **A folder is no value.** A znode without data is a folder. So is one with children in layouts of others, where tools and libraries
//!   write into folders what they like; in ours an upstream has data and children.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use super::kv::{KEY_BYTES_MAX, Pair, Tree};
use super::zookeeper_session::Refusal;
use super::zookeeper_wire::{EventKind, NO_AUTH, NO_NODE, Request, Stat};
use crate::config::providers::LayoutKind;
use crate::config::snapshot::Removals;

/// How many requests are on their way at once: what keeps a server busy without making it a storm.
pub(super) const PARALLEL_READS_MAX: usize = 64;
/// How many znodes may be below the prefix.
pub(super) const ZNODES_MAX: usize = 200_000;

/// Something to ask the server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Ask {
    pub(super) what: What,
    path: String,
    /// It is part of the list that is read.
    is_listing: bool,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum What {
    Sync,
    Watch,
    Data,
    Children,
}

impl Ask {
    pub(super) fn request(&self) -> Request<'_> {
        match self.what {
            What::Sync => Request::Sync(&self.path),
            What::Watch => Request::Watch(&self.path),
            What::Data => Request::Data(&self.path),
            What::Children => Request::Children(&self.path),
        }
    }
}

/// An answer.
#[derive(Debug)]
pub(super) enum Answer<'a> {
    /// To what asks for nothing.
    Done,
    Data(&'a [u8], Stat),
    Children(Vec<String>, Stat),
    Refused(Refusal),
}

/// Why the source cannot be read as a whole.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("{what} {path}: {refusal}")]
    Refused { what: &'static str, path: String, refusal: Refusal },
    #[error("there are more than {ZNODES_MAX} znodes below {0}")]
    TooMany(String),
    #[error("the server breaks the protocol: it answers something else than was asked")]
    OutOfStep,
}

/// A znode that was read.
#[derive(Debug, Clone, Copy)]
struct Znode {
    is_ephemeral: bool,
    /// Whether it is a key of the tree.
    is_key: bool,
}

/// What is below a znode, as far as it is known, and what is to be asked to know the rest.
#[derive(Debug)]
pub(super) struct Mirror {
    tree: Tree,
    /// The znode that the prefix names.
    root: String,
    /// Whether a znode with children can be a key.
    has_keys_with_children: bool,
    znodes: BTreeMap<String, Znode>,
    /// Znodes that may not be read.
    denied: BTreeSet<String>,
    /// What was announced comes before what is listed.
    urgent: VecDeque<Ask>,
    listed: VecDeque<Ask>,
    queued: HashSet<Ask>,
    /// What has no answer yet, each with whether the answer will be too old.
    asked: VecDeque<(Ask, bool)>,
    /// Znodes that were deleted while lists were on their way that may still name them.
    buried: HashSet<String>,
    listing: Option<Listing>,
    /// Whether a list was read to its end in this session.
    is_complete: bool,
    is_changed: bool,
    is_inferred: bool,
    zxid: i64,
}

/// A list that is being read.
#[derive(Debug, Default)]
struct Listing {
    /// How many of its asks are queued or have no answer.
    open: usize,
    seen: HashSet<String>,
}

impl Mirror {
    pub(super) fn new(tree: Tree, layout: LayoutKind) -> Self {
        let root = tree.prefix().trim_end_matches('/').to_owned();
        Self {
            tree,
            root,
            has_keys_with_children: layout == LayoutKind::Nuncio,
            znodes: BTreeMap::new(),
            denied: BTreeSet::new(),
            urgent: VecDeque::new(),
            listed: VecDeque::new(),
            queued: HashSet::new(),
            asked: VecDeque::new(),
            buried: HashSet::new(),
            listing: None,
            is_complete: false,
            is_changed: false,
            is_inferred: false,
            zxid: 0,
        }
    }

    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    pub(super) fn root(&self) -> &str {
        &self.root
    }

    /// The last change that the server has seen.
    pub(super) fn zxid(&self) -> i64 {
        self.zxid
    }

    /// A session starts: nothing is on its way, and everything is to be read.
    pub(super) fn begin(&mut self) {
        self.urgent.clear();
        self.listed.clear();
        self.queued.clear();
        self.asked.clear();
        self.buried.clear();
        self.listing = None;
        self.is_complete = false;
        self.zxid = 0;
        for what in [What::Sync, What::Watch] {
            self.urgent.push_back(Ask { what, path: self.root.clone(), is_listing: false });
        }
        self.relist();
    }

    /// Reads everything again, unless that is being done.
    pub(super) fn relist(&mut self) {
        if self.listing.is_none() {
            self.listing = Some(Listing::default());
            self.ask(What::Data, self.root.clone(), true);
        }
    }

    /// Whether a whole list was read in this session.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Whether nothing is left to be asked or answered.
    pub(super) fn is_settled(&self) -> bool {
        self.urgent.is_empty() && self.listed.is_empty() && self.asked.is_empty()
    }

    /// Whether there are znodes that may not be read.
    pub(super) fn has_denied(&self) -> bool {
        !self.denied.is_empty()
    }

    /// Tries again to open what is sealed, if the keys are others now.
    pub(super) fn open_again(&mut self) {
        self.is_changed |= self.tree.open_again();
    }

    /// Whether the tree changed since this was last [taken](Self::take_change).
    pub(super) fn is_changed(&self) -> bool {
        self.is_changed
    }

    /// How what went since is known to be gone, if anything changed.
    pub(super) fn take_change(&mut self) -> Option<Removals> {
        let removals = if std::mem::take(&mut self.is_inferred) { Removals::Inferred } else { Removals::Explicit };
        std::mem::take(&mut self.is_changed).then_some(removals)
    }

    /// What to ask next, if anything may be asked now.
    pub(super) fn next_ask(&mut self) -> Option<Ask> {
        if self.asked.len() >= PARALLEL_READS_MAX {
            return None;
        }
        let ask = self.urgent.pop_front().or_else(|| self.listed.pop_front())?;
        self.queued.remove(&ask);
        self.asked.push_back((ask.clone(), false));
        Some(ask)
    }

    /// What the next answer is to.
    pub(super) fn awaited(&self) -> Option<What> {
        self.asked.front().map(|(ask, _)| ask.what)
    }

    /// Takes over the answer to the oldest ask.
    ///
    /// # Errors
    /// When not even the start of all can be read, or no list could be complete.
    pub(super) fn answer(&mut self, answer: Answer<'_>, zxid: i64) -> Result<(), Unreadable> {
        let (ask, is_stale) = self.asked.pop_front().ok_or(Unreadable::OutOfStep)?;
        self.zxid = self.zxid.max(zxid);
        if is_stale {
            self.requeue(ask);
            return Ok(());
        }
        let Ask { what, path, is_listing } = ask;
        match (what, answer) {
            (What::Sync | What::Watch, Answer::Done) => {}
            // A znode that does not exist can be watched, but need not be known by who synchronises.
            (What::Sync, Answer::Refused(Refusal::Code(NO_NODE))) => {}
            (What::Data, Answer::Data(data, stat)) => self.read(&path, data, stat, is_listing),
            (What::Children, Answer::Children(names, stat)) => self.list(&path, names, stat)?,
            (What::Data, Answer::Refused(Refusal::Code(NO_NODE))) => self.gone(&path),
            // The deletion is announced, or was.
            (What::Children, Answer::Refused(Refusal::Code(NO_NODE))) => {}
            (What::Data | What::Children, Answer::Refused(Refusal::Code(NO_AUTH))) if path != self.root => self.denied(&path),
            (What::Data, Answer::Refused(Refusal::TooLarge(bytes))) => self.too_large(&path, bytes, is_listing),
            (what, Answer::Refused(refusal)) => return Err(Unreadable::Refused { what: what.doing(), path, refusal }),
            _ => return Err(Unreadable::OutOfStep),
        }
        if what == What::Children && !self.asked.iter().any(|(ask, _)| ask.what == What::Children) {
            self.buried.clear();
        }
        if is_listing && let Some(listing) = &mut self.listing {
            listing.open = listing.open.saturating_sub(1);
            if listing.open == 0 {
                self.finish_listing();
            }
        }
        self.check_size()
    }

    /// Takes over what a watch tells.
    ///
    /// # Errors
    /// When there is too much to be read.
    pub(super) fn event(&mut self, kind: EventKind, path: String) -> Result<(), Unreadable> {
        if path != self.root && !path.starts_with(self.tree.prefix()) {
            return Ok(());
        }
        if path.len() > KEY_BYTES_MAX {
            self.too_long(&path, kind == EventKind::Deleted);
            return Ok(());
        }
        match kind {
            EventKind::Deleted => {
                let is_listing = self.asked.iter().any(|(ask, _)| ask.what == What::Children);
                if is_listing && self.tree.is_told_by_key(path.as_bytes()) {
                    self.buried.insert(path.clone());
                }
                for (ask, is_stale) in &mut self.asked {
                    *is_stale |= ask.what == What::Data && ask.path == path;
                }
                self.gone(&path);
            }
            EventKind::Created if self.tree.is_told_by_key(path.as_bytes()) => self.told(path, self.zxid),
            EventKind::Created | EventKind::DataChanged => self.ask(What::Data, path, false),
            EventKind::ChildrenChanged => {}
        }
        self.check_size()
    }

    fn check_size(&self) -> Result<(), Unreadable> {
        let is_too_large = self.znodes.len().max(self.queued.len()) > ZNODES_MAX;
        if is_too_large { Err(Unreadable::TooMany(self.root.clone())) } else { Ok(()) }
    }

    fn ask(&mut self, what: What, path: String, is_listing: bool) {
        let ask = Ask { what, path, is_listing };
        let is_covered = !is_listing && self.queued.contains(&Ask { is_listing: true, ..ask.clone() });
        if is_covered || !self.queued.insert(ask.clone()) {
            return;
        }
        if let Some(listing) = self.listing.as_mut().filter(|_| is_listing) {
            listing.open += 1;
        }
        if is_listing { self.listed.push_back(ask) } else { self.urgent.push_back(ask) }
    }

    /// Asks once more. Of a list it is still the same part.
    fn requeue(&mut self, ask: Ask) {
        if self.queued.insert(ask.clone()) {
            self.urgent.push_back(ask);
        } else if ask.is_listing
            && let Some(listing) = &mut self.listing
        {
            listing.open = listing.open.saturating_sub(1);
        }
    }

    fn read(&mut self, path: &str, data: &[u8], stat: Stat, is_listing: bool) {
        if self.tree.is_told_by_key(path.as_bytes()) {
            return self.told(path.to_owned(), stat.mzxid);
        }
        self.see(path);
        if is_listing && stat.children > 0 {
            self.ask(What::Children, path.to_owned(), true);
        }
        if path == self.root {
            return;
        }
        let is_key = !data.is_empty() && (stat.children == 0 || self.has_keys_with_children);
        let revision = u64::try_from(stat.mzxid).unwrap_or_default();
        if is_key {
            self.is_changed |= self.tree.put(Pair { key: path.as_bytes(), value: data, revision });
        } else {
            // What it was until now.
            self.is_changed |= self.tree.delete(path.as_bytes());
        }
        self.remember(path, Znode { is_ephemeral: stat.is_ephemeral, is_key });
    }

    fn list(&mut self, path: &str, names: Vec<String>, stat: Stat) -> Result<(), Unreadable> {
        for name in names {
            let child = format!("{path}/{name}");
            if child.len() > KEY_BYTES_MAX {
                self.too_long(&child, false);
            } else if self.tree.is_told_by_key(child.as_bytes()) && !self.buried.contains(&child) {
                self.told(child, stat.pzxid);
            } else {
                self.ask(What::Data, child, true);
            }
            self.check_size()?;
        }
        Ok(())
    }

    /// A znode whose name says it all.
    fn told(&mut self, path: String, zxid: i64) {
        self.see(&path);
        let revision = u64::try_from(zxid).unwrap_or_default();
        self.is_changed |= self.tree.put(Pair { key: path.as_bytes(), value: b"", revision });
        self.remember(&path, Znode { is_ephemeral: true, is_key: true });
    }

    /// A path that is no key, which the tree says. It is not read, nor remembered.
    fn too_long(&mut self, path: &str, is_gone: bool) {
        let key = path.as_bytes();
        self.is_changed |= if is_gone { self.tree.delete(key) } else { self.tree.put(Pair { key, value: b"", revision: 0 }) };
    }

    fn denied(&mut self, path: &str) {
        self.see(path);
        // What is below it is as it was when it could be read.
        if let Some(listing) = &mut self.listing {
            listing.seen.extend(below(&self.znodes, path).map(|(path, _)| path.clone()));
        }
        let is_ephemeral = self.znodes.get(path).is_some_and(|znode| znode.is_ephemeral);
        self.is_changed |= self.tree.put_unreadable(path.as_bytes(), "the znode may not be read: its ACL does not allow us to", 0);
        self.remember(path, Znode { is_ephemeral, is_key: true });
        self.denied.insert(path.to_owned());
    }

    fn too_large(&mut self, path: &str, bytes: usize, is_listing: bool) {
        self.see(path);
        if is_listing {
            self.ask(What::Children, path.to_owned(), true);
        }
        if path != self.root {
            let why = format!("the znode is too large to be read: the answer has {bytes} bytes");
            self.is_changed |= self.tree.put_unreadable(path.as_bytes(), &why, 0);
            self.remember(path, Znode { is_ephemeral: false, is_key: true });
        }
    }

    /// Notes that a znode is there.
    fn see(&mut self, path: &str) {
        if let Some(listing) = &mut self.listing {
            listing.seen.insert(path.to_owned());
        }
    }

    fn remember(&mut self, path: &str, znode: Znode) {
        let is_new = self.znodes.insert(path.to_owned(), znode).is_none();
        self.denied.remove(path);
        let parent = parent(path);
        if is_new
            && !self.has_keys_with_children
            && let Some(folder) = self.znodes.get_mut(parent).filter(|znode| znode.is_key && !self.denied.contains(parent))
        {
            folder.is_key = false;
            self.is_changed |= self.tree.delete(parent.as_bytes());
        }
    }

    /// A znode is not there any more.
    fn gone(&mut self, path: &str) {
        let Some(znode) = self.znodes.remove(path) else { return };
        self.denied.remove(path);
        if znode.is_key && self.tree.delete(path.as_bytes()) {
            self.is_changed = true;
            self.is_inferred |= znode.is_ephemeral;
        }
        let parent = parent(path);
        // It may be a value now.
        if !self.has_keys_with_children && self.znodes.contains_key(parent) && below(&self.znodes, parent).next().is_none() {
            self.ask(What::Data, parent.to_owned(), false);
        }
    }

    /// What the list did not come across is gone.
    fn finish_listing(&mut self) {
        let Some(Listing { seen, .. }) = self.listing.take() else { return };
        let missing: Vec<String> = self.znodes.keys().filter(|path| !seen.contains(*path)).cloned().collect();
        for path in missing {
            self.denied.remove(&path);
            let is_gone = self.znodes.remove(&path).is_some_and(|znode| znode.is_key) && self.tree.delete(path.as_bytes());
            self.is_changed |= is_gone;
            self.is_inferred |= is_gone;
        }
        if !self.is_complete {
            self.is_complete = true;
            // Whatever went while nobody was listening: nobody said so.
            self.is_inferred = true;
        }
    }
}

impl What {
    fn doing(self) -> &'static str {
        match self {
            Self::Sync => "synchronise",
            Self::Watch => "watch",
            Self::Data => "read",
            Self::Children => "list the children of",
        }
    }
}

/// The znodes below one.
fn below<'a>(znodes: &'a BTreeMap<String, Znode>, path: &str) -> impl Iterator<Item = (&'a String, &'a Znode)> {
    let start = format!("{path}/");
    znodes.range(start.clone()..).take_while(move |(path, _)| path.starts_with(&start))
}

/// The path of the znode that one is in.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;
    use crate::config::providers::Layout;
    use crate::names::Name;

    fn mirror(kind: LayoutKind) -> Mirror {
        let mut mirror = Mirror::new(Tree::with_layout("/n", Name::literal("zookeeper"), Layout { kind, route: None }), kind);
        mirror.begin();
        mirror
    }

    fn said(mirror: &Mirror) -> Vec<String> {
        let now = mirror.tree().snapshot(None, Instant::now());
        let endpoints = now.upstreams.iter().flat_map(|(name, upstream)| {
            let endpoint = move |(id, entry): (&Name, &crate::config::Entry<crate::config::Endpoint>)| {
                format!(
                    "{name}/{id}={:?}",
                    entry.value.as_ref().map(|endpoint| endpoint.address.to_string()).map_err(|problem| &problem.message)
                )
            };
            upstream.endpoints.iter().map(endpoint).chain([format!("{name}: {}", upstream.settings.is_some())])
        });
        endpoints.chain(now.problems.iter().map(|problem| problem.message.clone())).collect()
    }

    /// What an ensemble holds, and what is between it and a mirror.
    #[derive(Default)]
    struct Server {
        znodes: BTreeMap<String, (Vec<u8>, Stat)>,
        zxid: i64,
        is_watched: bool,
        denied: BTreeSet<String>,
        large: BTreeSet<String>,
        asked: VecDeque<Ask>,
        /// Answers that were made, and are not sent yet.
        made: VecDeque<Made>,
        sent: VecDeque<Sent>,
    }

    enum Made {
        Done,
        Data(Vec<u8>, Stat),
        Children(Vec<String>, Stat),
        Refused(Refusal),
    }

    enum Sent {
        Event(EventKind, String),
        Answer(Made),
    }

    impl Server {
        fn tell(&mut self, kind: EventKind, path: &str) {
            if self.is_watched {
                self.sent.push_back(Sent::Event(kind, path.to_owned()));
            }
        }

        fn put(&mut self, path: &str, value: &str, is_ephemeral: bool) {
            self.zxid += 1;
            for (at, _) in path.match_indices('/').skip(1).chain([(path.len(), "")]) {
                let folder = &path[..at];
                let data = if at == path.len() { value } else { "" };
                let kind = match self.znodes.get(folder) {
                    Some(_) if at < path.len() => continue,
                    // It cannot have children.
                    None if self.znodes.get(parent(folder)).is_some_and(|(_, stat)| stat.is_ephemeral) => return,
                    Some(_) => EventKind::DataChanged,
                    None => EventKind::Created,
                };
                let before = self.znodes.get(folder).map(|(_, stat)| stat.is_ephemeral);
                let is_ephemeral = before.unwrap_or(is_ephemeral && at == path.len());
                let stat = Stat { mzxid: self.zxid, is_ephemeral, ..Stat::default() };
                self.znodes.insert(folder.to_owned(), (data.into(), stat));
                self.tell(kind, folder);
            }
        }

        fn delete(&mut self, path: &str) {
            self.zxid += 1;
            let below: Vec<String> = self.znodes.keys().filter(|key| key.starts_with(&format!("{path}/"))).cloned().collect();
            for path in below.iter().rev().map(String::as_str).chain([path]) {
                if self.znodes.remove(path).is_some() {
                    self.tell(EventKind::Deleted, path);
                }
            }
        }

        fn children(&self, path: &str) -> Vec<String> {
            let names = self.znodes.keys().filter_map(|key| key.strip_prefix(path)?.strip_prefix('/'));
            names.filter(|name| !name.contains('/')).map(Into::into).collect()
        }

        fn make(&mut self, ask: &Ask) {
            let path = ask.path.as_str();
            let found = self.znodes.get(path).cloned();
            let stat = |stat: Stat| Stat { children: i32::try_from(self.children(path).len()).unwrap(), ..stat };
            let made = match (ask.what, found) {
                (What::Sync, _) => Made::Done,
                (What::Watch, _) => {
                    self.is_watched = true;
                    Made::Done
                }
                _ if self.denied.contains(path) => Made::Refused(Refusal::Code(NO_AUTH)),
                (_, None) => Made::Refused(Refusal::Code(NO_NODE)),
                (What::Data, _) if self.large.contains(path) => Made::Refused(Refusal::TooLarge(2_000_000)),
                (What::Data, Some((data, found))) => Made::Data(data, stat(found)),
                (What::Children, Some((_, found))) => Made::Children(self.children(path), stat(found)),
            };
            self.made.push_back(made);
        }

        fn ask(&mut self, mirror: &mut Mirror) {
            while let Some(ask) = mirror.next_ask() {
                self.asked.push_back(ask);
            }
        }

        fn serve(&mut self) {
            if let Some(ask) = self.asked.pop_front() {
                self.make(&ask);
            }
        }

        fn deliver(&mut self, mirror: &mut Mirror) -> Result<(), Unreadable> {
            match self.sent.pop_front() {
                None => Ok(()),
                Some(Sent::Event(kind, path)) => mirror.event(kind, path),
                Some(Sent::Answer(made)) => {
                    let answer = match &made {
                        Made::Done => Answer::Done,
                        Made::Data(data, stat) => Answer::Data(data, *stat),
                        Made::Children(names, stat) => Answer::Children(names.clone(), *stat),
                        Made::Refused(refusal) => Answer::Refused(*refusal),
                    };
                    mirror.answer(answer, self.zxid)
                }
            }
        }

        /// Until nothing is on its way any more.
        fn settle(&mut self, mirror: &mut Mirror) -> Result<(), Unreadable> {
            for _ in 0..10_000 {
                self.ask(mirror);
                self.serve();
                self.sent.extend(self.made.drain(..).map(Sent::Answer));
                self.deliver(mirror)?;
                if mirror.is_settled() && self.sent.is_empty() {
                    assert!(mirror.is_complete() && mirror.listing.is_none());
                    return Ok(());
                }
            }
            panic!("it never settles");
        }

        fn disconnect(&mut self) {
            self.is_watched = false;
            self.asked.clear();
            self.made.clear();
            self.sent.clear();
        }
    }

    fn started(kind: LayoutKind) -> (Server, Mirror) {
        let mut server = Server::default();
        server.put("/n/upstreams/api/endpoints/1", "10.0.0.1:80", false);
        server.put("/n/upstreams/api/endpoints/2", "10.0.0.2:80", true);
        let mut mirror = mirror(kind);
        server.settle(&mut mirror).unwrap();
        mirror.take_change();
        (server, mirror)
    }

    #[test]
    fn a_prefix_that_does_not_exist_is_empty_and_watched() {
        let (mut server, mut mirror) = (Server::default(), mirror(LayoutKind::Nuncio));
        server.settle(&mut mirror).unwrap();
        assert!(said(&mirror).is_empty() && mirror.take_change().is_none());
        server.put("/n/upstreams/api/endpoints/1", "10.0.0.1:80", false);
        server.settle(&mut mirror).unwrap();
        assert_eq!(said(&mirror), ["api/1=Ok(\"10.0.0.1:80\")", "api: false"]);
        assert_eq!(mirror.take_change(), Some(Removals::Explicit));
    }

    #[test]
    fn a_deletion_is_explicit_unless_the_znode_was_ephemeral() {
        let (mut server, mut mirror) = started(LayoutKind::Nuncio);
        server.delete("/n/upstreams/api/endpoints/1");
        server.settle(&mut mirror).unwrap();
        assert_eq!(said(&mirror), ["api/2=Ok(\"10.0.0.2:80\")", "api: false"]);
        assert_eq!(mirror.take_change(), Some(Removals::Explicit));
        server.delete("/n/upstreams/api/endpoints/2");
        server.settle(&mut mirror).unwrap();
        assert_eq!((mirror.take_change(), said(&mirror).len()), (Some(Removals::Inferred), 0));
    }

    #[test]
    fn what_went_while_nobody_listened_is_inferred() {
        let (mut server, mut mirror) = started(LayoutKind::Nuncio);
        server.disconnect();
        server.delete("/n/upstreams/api/endpoints/1");
        mirror.begin();
        assert!(!mirror.is_complete());
        server.settle(&mut mirror).unwrap();
        assert_eq!(said(&mirror), ["api/2=Ok(\"10.0.0.2:80\")", "api: false"]);
        assert_eq!(mirror.take_change(), Some(Removals::Inferred));
    }

    #[test]
    fn what_may_not_be_read_is_neither_absent_nor_in_the_way() {
        let (mut server, mut mirror) = started(LayoutKind::Nuncio);
        // A znode, and a folder with what is in it.
        server.put("/n/upstreams/db/endpoints/1", "10.0.0.9:80", false);
        server.settle(&mut mirror).unwrap();
        server.denied.extend(["/n/upstreams/api/endpoints/1".into(), "/n/upstreams/db/endpoints".into()]);
        mirror.relist();
        server.settle(&mut mirror).unwrap();
        let now = said(&mirror);
        assert!(mirror.has_denied() && now[0].contains("ACL") && now[1] == "api/2=Ok(\"10.0.0.2:80\")", "{now:?}");
        assert!(now.contains(&"db/1=Ok(\"10.0.0.9:80\")".into()) && now[5].contains("ACL"), "{now:?}");
        server.denied.clear();
        mirror.relist();
        server.settle(&mut mirror).unwrap();
        assert!(!mirror.has_denied() && said(&mirror).len() == 5, "{:?}", said(&mirror));
        server.denied.insert("/n".into());
        mirror.relist();
        let error = server.settle(&mut mirror).unwrap_err();
        assert_eq!(error.to_string(), "read /n: its ACL does not allow us to");
    }

    #[test]
    fn what_is_too_large_is_a_problem_in_its_place() {
        let (mut server, mut mirror) = started(LayoutKind::Nuncio);
        server.large.insert("/n/upstreams/api".into());
        server.put("/n/upstreams/api", "{}", false);
        server.settle(&mut mirror).unwrap();
        mirror.begin();
        server.disconnect();
        server.settle(&mut mirror).unwrap();
        assert_eq!(said(&mirror).len(), 3, "its endpoints serve");
        let now = mirror.tree().snapshot(None, Instant::now());
        assert!(now.all_problems().all(|problem| problem.message.contains("2000000 bytes")) && now.all_problems().count() == 1);
    }

    #[test]
    fn paths_that_are_too_long_are_told_and_not_read() {
        let (mut server, mut mirror) = started(LayoutKind::Services);
        let long = format!("/n/web/{}", "x".repeat(KEY_BYTES_MAX));
        server.put(&long, "10.0.0.9:80", false);
        server.settle(&mut mirror).unwrap();
        assert!(said(&mirror).last().is_some_and(|said| said.contains("at most 4096 bytes")), "{:?}", said(&mirror));
        server.delete(&long);
        server.settle(&mut mirror).unwrap();
        assert!(mirror.tree().snapshot(None, Instant::now()).problems.is_empty());
        server.put(&long, "10.0.0.9:80", false);
        server.disconnect();
        mirror.begin();
        server.settle(&mut mirror).unwrap();
        assert_eq!(mirror.tree().snapshot(None, Instant::now()).problems.len(), 1);
    }

    #[test]
    fn an_older_server_says_what_it_lacks() {
        let mut mirror = mirror(LayoutKind::Nuncio);
        while mirror.next_ask().is_some() {}
        mirror.answer(Answer::Done, 1).unwrap();
        let error = mirror.answer(Answer::Refused(Refusal::Code(-6)), 1).unwrap_err();
        assert_eq!(error.to_string(), "watch /n: the server does not know how to: it is older than ZooKeeper 3.6");
    }

    #[test]
    fn reads_are_bounded() {
        let mut server = Server::default();
        for index in 0..500 {
            server.put(&format!("/n/upstreams/api/endpoints/{index}"), "10.0.0.1:80", false);
        }
        let mut mirror = mirror(LayoutKind::Nuncio);
        while !mirror.is_complete() {
            server.ask(&mut mirror);
            assert!(server.asked.len() <= PARALLEL_READS_MAX);
            server.serve();
            server.sent.extend(server.made.drain(..).map(Sent::Answer));
            server.deliver(&mut mirror).unwrap();
        }
        assert_eq!(said(&mirror).len(), 501);
    }

    const PATHS: [&str; 9] = [
        "/n",
        "/n/upstreams/a",
        "/n/upstreams/a/endpoints/1",
        "/n/upstreams/a/endpoints/2",
        "/n/upstreams/b/endpoints/1",
        "/n/upstreams/b",
        "/n/upstreams",
        "/n/upstreams/base64_44_eyJob3N0IjoiMTAuMC4wLjQiLCJwb3J0IjozMDAwfQ==_1",
        "/other/1",
    ];
    const VALUES: [&str; 4] = ["", "{}", "10.0.0.1:80", "10.0.0.2:80"];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        /// Whatever happens in whatever order, and however late answers are: in the end the tree is what the server holds.
        #[test]
        fn in_the_end_the_tree_is_what_the_server_holds(
            is_ours: bool,
            steps in proptest::collection::vec((0..10_u8, 0..PATHS.len(), 0..VALUES.len(), any::<bool>()), 0..80),
        ) {
            let kind = if is_ours { LayoutKind::Nuncio } else { LayoutKind::Services };
            let (mut server, mut mirror) = (Server::default(), mirror(kind));
            for (step, path, value, is_ephemeral) in steps {
                match step {
                    0 | 1 => server.put(PATHS[path], VALUES[value], is_ephemeral),
                    2 => server.delete(PATHS[path]),
                    3 => server.ask(&mut mirror),
                    4 | 5 => server.serve(),
                    6 => server.sent.extend(server.made.pop_front().map(Sent::Answer)),
                    7 | 8 => server.deliver(&mut mirror).unwrap(),
                    _ if path == 0 => {
                        server.disconnect();
                        mirror.begin();
                    }
                    _ => mirror.relist(),
                }
            }
            server.settle(&mut mirror).unwrap();
            let mut fresh = self::mirror(kind);
            let mut same = Server { znodes: server.znodes.clone(), ..Server::default() };
            same.settle(&mut fresh).unwrap();
            prop_assert_eq!(said(&mirror), said(&fresh));
            prop_assert_eq!(mirror.znodes.len(), fresh.znodes.len());
            prop_assert!(mirror.queued.is_empty() && mirror.buried.is_empty());
        }
    }
}
