//! The znodes of a ZooKeeper ensemble as a source of configuration. The layouts are those of [`kv`](super::kv): a path is a key, data is a
//! value.
//!
//! ```text
//! session ──► watch all below the prefix ──► list ──► publish ──► events: read what changed ──► publish
//!    ▲                                         ▲                              │
//!    │                                         └── every RELIST_INTERVAL ─────┤
//!    └── the connection ended, the session expired, the server is silent ─────┘
//! ```
//!
//! * **A list is the truth.** Each session starts with one, of what the server's leader has seen, and publishes once it is whole. What is
//!   missing in it is inferred to be gone.
//! * **One watch for all**: persistent and recursive, which needs ZooKeeper 3.6. It does not end with its first event, so there is no moment
//!   without a watch, and no read per znode to set it again.
//! * **A prefix that does not exist is empty**, and is watched all the same. One that may not be read is an error.
//! * **A deletion is explicit if the znode was persistent.** The end of an ephemeral one is announced in the same way whether its owner
//!   deleted it or died, and many owners that die at once may be a cluster that lost its mind: so it is inferred.
//! * **What happens at once is published at once**: nothing is published while reads are on their way, unless that lasts longer than
//!   [`PUBLISH_DELAY_MAX`].
//! * **One server at a time.** Each attempt connects to the next of [`ZookeeperConfig::endpoints`].

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use super::http_client::Turns;
use super::keyring::Keyring;
use super::kv::Tree;
use super::zookeeper_mirror::{Answer, Mirror, Unreadable, What};
use super::zookeeper_session::{HANDSHAKE_TIMEOUT_MAX, HANDSHAKE_TIMEOUT_MIN, Message, Session, SessionError};
use super::zookeeper_wire::{self as wire, Broken};
use super::{Provider, ProviderError, Publisher};
use crate::config::Snapshot;
use crate::config::providers::ZookeeperConfig;
use crate::config::snapshot::Removals;
use crate::names::Name;

/// After this long everything is listed again, whether or not there was a sign of change.
pub const RELIST_INTERVAL: Duration = Duration::from_secs(300);
/// The same while there are znodes that may not be read: nobody tells when that changes.
pub const DENIED_INTERVAL: Duration = Duration::from_secs(10);
/// How long a change waits for reads that are on their way.
pub const PUBLISH_DELAY_MAX: Duration = Duration::from_millis(500);

/// Watches all znodes below one.
#[derive(Debug)]
pub struct ZookeeperProvider {
    name: Name,
    config: ZookeeperConfig,
    turns: Turns,
    mirror: Mirror,
    has_published: bool,
    /// For a session to be made.
    patience: Duration,
}

/// What is waited for, and since when.
#[derive(Debug, Default)]
struct Clock {
    listed: Option<Instant>,
    changed: Option<Instant>,
}

impl ZookeeperProvider {
    /// A provider of this name. It does nothing until it is watched.
    #[must_use]
    pub fn new(name: Name, config: ZookeeperConfig) -> Self {
        let tree = Tree::with_layout(&config.prefix, name.clone(), config.layout()).with_keys(Keyring::source(config.keyring.as_ref()));
        let mirror = Mirror::new(tree, config.layout);
        let turns = Turns::new(config.servers());
        Self { name, config, turns, mirror, has_published: false, patience: HANDSHAKE_TIMEOUT_MIN }
    }

    async fn run(&mut self, server: &str, publisher: &dyn Publisher) -> Result<(), Failure> {
        let opened = Session::open(server, &self.config, self.patience).await;
        self.patience = match opened {
            Err(SessionError::NoSession(_)) => (self.patience * 2).min(HANDSHAKE_TIMEOUT_MAX),
            _ => HANDSHAKE_TIMEOUT_MIN,
        };
        let mut session = opened?;
        let failure = self.follow(&mut session, publisher).await;
        // Of a connection that works, and is given up for what comes over it.
        if matches!(failure, Err(Failure::Unreadable(_))) {
            session.close().await;
        }
        failure
    }

    async fn follow(&mut self, session: &mut Session, publisher: &dyn Publisher) -> Result<(), Failure> {
        self.mirror.begin();
        let mut clock = Clock::default();
        loop {
            while let Some(ask) = self.mirror.next_ask() {
                session.send(&ask.request());
            }
            let due = clock.due(self.relist_interval());
            let is_due = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                message = session.next() => self.take_over(message?, publisher)?,
                () = is_due => {}
            }
            self.publish_what_is_due(&mut clock, publisher);
        }
    }

    fn take_over(&mut self, message: Message, publisher: &dyn Publisher) -> Result<(), Failure> {
        match message {
            Message::Pong => {
                self.mirror.open_again();
                if self.mirror.is_complete() && self.has_published {
                    publisher.contact();
                }
            }
            Message::Event(kind, path) => self.mirror.event(kind, path)?,
            Message::Answer { zxid, outcome } => {
                let what = self.mirror.awaited().ok_or(Unreadable::OutOfStep)?;
                let answer = match (&outcome, what) {
                    (Err(refusal), _) => Answer::Refused(*refusal),
                    (Ok(_), What::Sync | What::Watch) => Answer::Done,
                    (Ok(body), What::Data) => wire::data(body).map(|(data, stat)| Answer::Data(data, stat))?,
                    (Ok(body), What::Children) => wire::children(body).map(|(names, stat)| Answer::Children(names, stat))?,
                };
                self.mirror.answer(answer, zxid)?;
            }
        }
        Ok(())
    }

    fn relist_interval(&self) -> Duration {
        if self.mirror.has_denied() { DENIED_INTERVAL } else { RELIST_INTERVAL }
    }

    fn publish_what_is_due(&mut self, clock: &mut Clock, publisher: &dyn Publisher) {
        if !self.mirror.is_complete() {
            return;
        }
        let now = Instant::now();
        let is_settled = self.mirror.is_settled();
        let is_due = |since: Option<Instant>, wait| since.is_some_and(|since| now.saturating_duration_since(since) >= wait);
        if clock.listed.is_none() {
            // The list that a session starts with.
            clock.listed = Some(now);
            self.publish(publisher);
            return;
        }
        clock.changed = self.mirror.is_changed().then(|| clock.changed.unwrap_or(now));
        if clock.changed.is_some() && (is_settled || is_due(clock.changed, PUBLISH_DELAY_MAX)) {
            clock.changed = None;
            self.publish(publisher);
        }
        if is_due(clock.listed, self.relist_interval()) {
            clock.listed = Some(now);
            self.mirror.relist();
        }
    }

    fn publish(&mut self, publisher: &dyn Publisher) {
        let change = self.mirror.take_change();
        if change.is_none() && self.has_published {
            publisher.contact();
            return;
        }
        let removals = change.unwrap_or(Removals::Inferred);
        let revision = u64::try_from(self.mirror.zxid()).ok();
        publisher.publish(Snapshot { removals, ..self.mirror.tree().snapshot(revision, Instant::now()) });
        self.has_published = true;
    }
}

impl Clock {
    /// When there is something to do, whatever comes until then.
    fn due(&self, relist_interval: Duration) -> Option<Instant> {
        let waits = [(self.listed, relist_interval), (self.changed, PUBLISH_DELAY_MAX)];
        waits.into_iter().filter_map(|(since, wait)| since.map(|since| since + wait)).min()
    }
}

impl Provider for ZookeeperProvider {
    fn name(&self) -> &Name {
        &self.name
    }

    fn source(&self) -> Option<String> {
        let ZookeeperConfig { endpoints, prefix, .. } = &self.config;
        Some(format!("zookeeper {} {prefix} {}", endpoints.join(","), self.config.layout()))
    }

    fn watch<'a>(&'a mut self, publisher: &'a dyn Publisher) -> Pin<Box<dyn Future<Output = Result<(), ProviderError>> + Send + 'a>> {
        Box::pin(async move {
            let server = self.turns.next();
            let doing = format!("zookeeper {server}: watch {}", self.mirror.root());
            self.run(&server, publisher).await.map_err(|failure| ProviderError { doing, cause: failure.into() })
        })
    }
}

/// What goes wrong between us and a server.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error(transparent)]
    Broken(#[from] Broken),
}
