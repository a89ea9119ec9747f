//! What a provider publishes: all objects it knows, each with its origin, complete every time.
//!
//! Entries are shared: a provider that changes one object hands out the same `Arc`s for all others, so that comparing two
//! snapshots costs a pointer comparison per object, not a deep one.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{Certificate, Endpoint, Listener, Problem, Route, RoutingConfig, TcpRoute, UdpRoute, Upstream};
use crate::middleware::Middleware;
use crate::names::Name;

/// Everything that one provider knows at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The addresses we accept on.
    pub listeners: Section<Listener>,
    /// Which HTTP requests go where.
    pub routes: Section<Route>,
    /// Which TCP connections go where.
    pub tcp_routes: Section<TcpRoute>,
    /// Which UDP datagrams go where.
    pub udp_routes: Section<UdpRoute>,
    /// The groups of endpoints.
    pub upstreams: BTreeMap<Name, Arc<UpstreamEntry>>,
    /// Middlewares that several routes share.
    pub middlewares: Section<Middleware>,
    /// Certificates, chosen by SNI.
    pub certificates: Section<Certificate>,
    /// What is wrong beside the objects: keys and tables that belong to none.
    pub problems: Vec<Problem>,
    /// The source's own revision, if it has one: etcd's store revision.
    pub revision: Option<u64>,
    /// When the change that led to this snapshot was seen.
    pub seen_at: Instant,
    /// How the provider knows that what is missing here is gone.
    pub removals: Removals,
}

/// How a provider knows that an object is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removals {
    /// The source said of each that it was deleted: an event, an edit of a file, a call of the program.
    Explicit,
    /// They are missing where they were before: in a list, a poll, an answer of a resolver. Much of that at once is held for a while.
    Inferred,
}

/// The objects of one kind.
pub type Section<T> = BTreeMap<Name, Arc<Entry<T>>>;

/// One object and where it was read, or the problem that stands in its place.
///
/// An entry that holds a problem is not absent: the last good version of its object stays in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry<T> {
    /// Where it was read.
    pub origin: Origin,
    /// The object, or why it could not be read.
    pub value: Result<T, Problem>,
}

/// An upstream: its own settings, and endpoints under keys of their own.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct UpstreamEntry {
    /// The upstream's own object. None: only endpoints were registered, and all settings are at their defaults.
    pub settings: Option<Entry<Upstream>>,
    /// Endpoints registered one by one, in addition to those that the settings list.
    pub endpoints: BTreeMap<Name, Entry<Endpoint>>,
}

/// Where an object was read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The provider, by its configured name: `file`, `etcd`, `program`.
    pub provider: Name,
    /// The place within it.
    #[serde(flatten)]
    pub place: Place,
}

/// A place within a provider.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Place {
    /// In a file. Lines and columns (in characters) count from 1.
    File {
        /// The file.
        file: Arc<PathBuf>,
        /// The line.
        line: u32,
        /// The column.
        column: u32,
    },
    /// Under a key of a store.
    Key {
        /// The key, in full.
        key: Arc<str>,
        /// The store's revision of its last change.
        revision: u64,
    },
    /// In a label of a container or a service.
    Label {
        /// What bears it: `container web-1`, `service web`.
        bearer: Arc<str>,
        /// The label, or what all labels of the object start with.
        label: Arc<str>,
    },
    /// In the answer of a name server.
    Lookup {
        /// The name that is looked up, as the settings write it.
        lookup: Arc<str>,
    },
    /// In the program that embeds us, or on the command line.
    Program {},
}

impl Origin {
    /// From the program itself.
    #[must_use]
    pub fn program(provider: Name) -> Self {
        Self { provider, place: Place::Program {} }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File { file, line, column } => write!(f, "{}:{line}:{column}", file.display()),
            Place::Key { key, revision } => write!(f, "{}: key {key}, revision {revision}", self.provider),
            Place::Label { bearer, label } => write!(f, "{}: {bearer}, label {label}", self.provider),
            Place::Lookup { lookup } => write!(f, "{}: lookup of {lookup}", self.provider),
            Place::Program {} => write!(f, "{}", self.provider),
        }
    }
}

impl Snapshot {
    /// A snapshot that holds nothing: the source is there, and empty.
    #[must_use]
    pub fn empty(seen_at: Instant) -> Self {
        Self {
            listeners: Section::new(),
            routes: Section::new(),
            tcp_routes: Section::new(),
            udp_routes: Section::new(),
            upstreams: BTreeMap::new(),
            middlewares: Section::new(),
            certificates: Section::new(),
            problems: Vec::new(),
            revision: None,
            seen_at,
            removals: Removals::Explicit,
        }
    }

    /// All problems: those beside the objects, and those that stand in an object's place.
    pub fn all_problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems
            .iter()
            .chain(problems(&self.listeners))
            .chain(problems(&self.routes))
            .chain(problems(&self.tcp_routes))
            .chain(problems(&self.udp_routes))
            .chain(self.upstreams.values().flat_map(|upstream| upstream.problems()))
            .chain(problems(&self.middlewares))
            .chain(problems(&self.certificates))
    }

    /// A snapshot of a configuration that a program wrote.
    #[must_use]
    pub fn of_program(config: RoutingConfig, provider: &Name, seen_at: Instant) -> Self {
        let origin = Origin::program(provider.clone());
        let upstreams = config.upstreams.into_iter().map(|(name, upstream)| {
            let settings = Some(Entry { origin: origin.clone(), value: Ok(upstream) });
            (name, Arc::new(UpstreamEntry { settings, endpoints: BTreeMap::new() }))
        });
        Self {
            listeners: section(config.listeners, &origin),
            routes: section(config.routes, &origin),
            tcp_routes: section(config.tcp_routes, &origin),
            udp_routes: section(config.udp_routes, &origin),
            upstreams: upstreams.collect(),
            middlewares: section(config.middlewares, &origin),
            certificates: section(config.certificates, &origin),
            problems: Vec::new(),
            revision: None,
            seen_at,
            removals: Removals::Explicit,
        }
    }
}

impl<T> Entry<T> {
    /// The problem, if one stands in the object's place.
    pub fn problem(&self) -> Option<&Problem> {
        self.value.as_ref().err()
    }
}

impl<T> Entry<Option<T>> {
    /// The entry of what is there. None: nothing is, and nothing is wrong.
    pub(crate) fn transpose(self) -> Option<Entry<T>> {
        Some(Entry { origin: self.origin, value: self.value.transpose()? })
    }
}

impl UpstreamEntry {
    /// Where it was read: its own object, or the first of its endpoints.
    #[must_use]
    pub fn origin(&self) -> Option<&Origin> {
        let settings = self.settings.as_ref().map(|settings| &settings.origin);
        settings.or_else(|| self.endpoints.values().next().map(|endpoint| &endpoint.origin))
    }

    /// The problems that stand in the place of its settings and endpoints.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        let settings = self.settings.iter().filter_map(Entry::problem);
        settings.chain(self.endpoints.values().filter_map(Entry::problem))
    }
}

fn problems<T>(section: &Section<T>) -> impl Iterator<Item = &Problem> {
    section.values().filter_map(|entry| entry.problem())
}

fn section<T>(objects: BTreeMap<Name, T>, origin: &Origin) -> Section<T> {
    let entry = |(name, value)| (name, Arc::new(Entry { origin: origin.clone(), value: Ok(value) }));
    objects.into_iter().map(entry).collect()
}
