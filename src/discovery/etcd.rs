//! The keys of an etcd v3 cluster (3.4 or later) as a source of configuration. The layout is that of [`kv`](super::kv).
//!
//! ```text
//! connect ──► list the prefix at revision R ──► publish ──► watch from R + 1 ──► publish after each response
//!                            ▲                                       │
//!                            └────── history is compacted ───────────┘
//! ```
//!
//! * **A transaction is one snapshot.** etcd puts all events of a revision into one response, because fragments are not asked for.
//! * **A deletion is real**, of a key, or of the whole prefix. A cluster that cannot be reached deletes nothing. What is missing from a list
//!   after the history was lost is only [inferred](Removals::Inferred) to be gone, and so are keys whose lease has no others: it may have
//!   ended with those of many others that could not reach the cluster either.
//! * **Each connection starts with a list.** The watch is not resumed where the last one broke off: a cluster that was restored from a
//!   backup keeps its id, and may have overtaken our revision by then, with another history.
//! * **A silent server is noticed.** When nothing was heard for [`HEARTBEAT_INTERVAL`], a small read is sent over the same connection, and
//!   must be answered within [`HEARTBEAT_TIMEOUT`]: a frozen process or a half-open connection counts as failed after 4 s. gRPC's own
//!   keep-alive cannot do that: etcd closes connections that ping more often than every 5 s. Nor can progress requests on the watch:
//!   current etcd leaves them unanswered while nothing was written after the revision that the watch started from.
//! * **One member at a time.** Each attempt connects to the next of [`EtcdConfig::endpoints`], and lists and watches there. Requests carry
//!   `hasleader`, so that a member that lost its cluster refuses them instead of keeping quiet.

use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use super::etcd_leases::Leases;
pub use super::etcd_session::{CALL_TIMEOUT, HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT};
use super::etcd_session::{Cursor, Event, EventType, Failure, Heard, KeyValue, Session};
use super::keyring::Keyring;
use super::kv::{Pair, Tree};
use super::{Provider, ProviderError, Publisher};
use crate::config::Snapshot;
use crate::config::providers::EtcdConfig;
use crate::config::snapshot::Removals;
use crate::names::Name;

/// Watches a prefix of an etcd cluster.
#[derive(Debug)]
pub struct EtcdProvider {
    name: Name,
    config: EtcdConfig,
    /// The number of the attempt, which says whose turn it is among the endpoints.
    turn: usize,
    tree: Tree,
    /// The keys that end with a lease: whoever wrote them may be cut off, rather than leave.
    leases: Leases,
    /// How far `tree` has got. None while it is not known to be what the store held at any one revision.
    cursor: Option<Cursor>,
}

/// How to go on after a response.
enum Next {
    Watch,
    /// The revisions that we miss are compacted away.
    List,
}

impl EtcdProvider {
    /// A provider of this name. It does nothing until it is watched.
    #[must_use]
    pub fn new(name: Name, config: EtcdConfig) -> Self {
        let tree = Tree::with_layout(&config.prefix, name.clone(), config.layout()).with_keys(Keyring::source(config.keyring.as_ref()));
        Self { name, config, turn: 0, tree, leases: Leases::default(), cursor: None }
    }

    async fn run(&mut self, publisher: &dyn Publisher) -> Result<(), ProviderError> {
        let endpoint = self.next_endpoint();
        let prefix = self.tree.prefix().to_owned();
        let doing = |what: &str| {
            let doing = format!("etcd {endpoint}: {what}");
            move |failure: Failure| ProviderError { doing, cause: failure.into() }
        };
        let mut session = Session::connect(&endpoint, &self.config, prefix.clone()).await.map_err(doing("connect"))?;
        loop {
            self.list(&mut session, publisher).await.map_err(doing(&format!("list {prefix}")))?;
            self.follow(&mut session, publisher).await.map_err(doing(&format!("watch {prefix}")))?;
        }
    }

    fn next_endpoint(&mut self) -> String {
        let index = self.turn.checked_rem(self.config.endpoints.len()).unwrap_or_default();
        self.turn = self.turn.wrapping_add(1);
        self.config.endpoints.get(index).cloned().unwrap_or_default()
    }

    async fn list(&mut self, session: &mut Session, publisher: &dyn Publisher) -> Result<(), Failure> {
        let (cursor, pairs) = session.list().await?;
        // Taken away while the tree is in between, so that a panic in there leaves no cursor behind.
        self.cursor = None;
        self.tree.replace(pairs.iter().map(pair));
        self.leases.clear();
        pairs.iter().for_each(|kv| self.leases.put(kv.key(), kv.lease()));
        self.cursor = Some(cursor);
        self.publish(cursor, Removals::Inferred, publisher);
        Ok(())
    }

    /// Takes over changes as they come. Returns when everything must be listed again.
    async fn follow(&mut self, session: &mut Session, publisher: &dyn Publisher) -> Result<(), Failure> {
        let Some(cursor) = self.cursor else {
            return Ok(());
        };
        let mut stream = session.watch(cursor.revision + 1).await?;
        loop {
            let next = match session.next(&mut stream).await {
                Ok(heard) => self.apply(&heard, Instant::now(), publisher)?,
                // A response above our limit would be above it again if the watch were resumed.
                Err(failure) if failure.is_out_of_range() => Next::List,
                Err(failure) => return Err(failure),
            };
            if let Next::List = next {
                self.cursor = None;
                return Ok(());
            }
        }
    }

    fn apply(&mut self, heard: &Heard, now: Instant, publisher: &dyn Publisher) -> Result<Next, Failure> {
        let Some(mut cursor) = self.cursor.take() else {
            return Ok(Next::List);
        };
        cursor.heard_at = now;
        let (mut is_changed, mut removals) = (false, Removals::Explicit);
        if let Heard::Response(response) = heard {
            if response.canceled() && response.compact_revision() > 0 {
                return Ok(Next::List);
            }
            if response.canceled() {
                self.cursor = Some(cursor);
                return Err(Failure::Canceled(response.cancel_reason().to_owned()));
            }
            (is_changed, removals) = self.take_over(response.events(), &mut cursor, publisher);
        }
        is_changed |= self.tree.open_again();
        self.cursor = Some(cursor);
        if is_changed {
            self.publish(cursor, removals, publisher);
        } else {
            publisher.contact();
        }
        Ok(Next::Watch)
    }

    /// Whether that changes anything that is not published yet, and whether all that is gone was deleted. What was deleted before something
    /// else was gone is published by itself. The cursor moves with the events only: the revision in the header may be ahead of events that
    /// are still to come.
    fn take_over(&mut self, events: &[Event], cursor: &mut Cursor, publisher: &dyn Publisher) -> (bool, Removals) {
        let (mut is_changed, mut removals) = (false, Removals::Explicit);
        let revision = |event: &Event| event.kv().map(KeyValue::mod_revision);
        for events in events.chunk_by(|one, other| revision(one) == revision(other)) {
            if self.note_leases(events) && removals == Removals::Explicit {
                if std::mem::take(&mut is_changed) {
                    self.publish(*cursor, Removals::Explicit, publisher);
                }
                removals = Removals::Inferred;
            }
            for event in events {
                let Some(kv) = event.kv() else { continue };
                is_changed |= match event.event_type() {
                    EventType::Put => self.tree.put(pair(kv)),
                    EventType::Delete => self.tree.delete(kv.key()),
                };
                cursor.revision = cursor.revision.max(kv.mod_revision());
            }
        }
        (is_changed, removals)
    }

    /// Notes the leases of a revision's keys. Whether one of them may have ended with it.
    fn note_leases(&mut self, events: &[Event]) -> bool {
        let mut left = Vec::new();
        for event in events {
            let Some(kv) = event.kv() else { continue };
            match event.event_type() {
                EventType::Put => self.leases.put(kv.key(), kv.lease()),
                EventType::Delete => left.extend(self.leases.delete(kv.key())),
            }
        }
        left.into_iter().any(|lease| !self.leases.lives(lease))
    }

    fn publish(&self, cursor: Cursor, removals: Removals, publisher: &dyn Publisher) {
        let snapshot = self.tree.snapshot(Some(cursor.revision.unsigned_abs()), cursor.heard_at);
        publisher.publish(Snapshot { removals, ..snapshot });
    }
}

fn pair(kv: &KeyValue) -> Pair<'_> {
    Pair { key: kv.key(), value: kv.value(), revision: kv.mod_revision().unsigned_abs() }
}

impl Provider for EtcdProvider {
    fn name(&self) -> &Name {
        &self.name
    }

    fn source(&self) -> Option<String> {
        Some(format!("etcd {} {} {}", self.config.endpoints.join(","), self.tree.prefix(), self.config.layout()))
    }

    fn watch<'a>(&'a mut self, publisher: &'a dyn Publisher) -> Pin<Box<dyn Future<Output = Result<(), ProviderError>> + Send + 'a>> {
        Box::pin(self.run(publisher))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_never_shown() {
        let config = EtcdConfig { username: Some("nuncio".into()), password: Some("hunter2".into()), ..EtcdConfig::default() };
        let provider = EtcdProvider::new(Name::literal("etcd"), config);
        assert!(!format!("{provider:?}").contains("hunter2"));
    }

    #[test]
    fn endpoints_take_turns() {
        let endpoints = vec!["a".into(), "b".into()];
        let mut provider = EtcdProvider::new(Name::literal("etcd"), EtcdConfig { endpoints, ..EtcdConfig::default() });
        let turns: Vec<_> = (0..3).map(|_| provider.next_endpoint()).collect();
        assert_eq!(turns, ["a", "b", "a"]);
        let mut none = EtcdProvider::new(Name::literal("etcd"), EtcdConfig { endpoints: Vec::new(), ..EtcdConfig::default() });
        assert_eq!(none.next_endpoint(), "");
    }
}
