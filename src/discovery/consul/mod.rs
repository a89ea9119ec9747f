//! Consul as a source of configuration: keys of its store, in the layout of [`kv`](super::kv), and services of its catalog.
//!
//! ```text
//! connect ──► ask for each thing at index 0 ──► publish once all is told ──► ask for each, once its index is above I ──► publish ─┐
//!                                                                                     ▲                                           │
//!                                                                                     └───────────────────────────────────────────┘
//! ```
//!
//! | file | concept |
//! |---|---|
//! | `agent` | the HTTP API of an agent: queries, connections, how far an answer is believed |
//! | `watch` | what is watched, and what is told of it |
//! | `services` | which services are asked for, what is known of them, what they say |
//! | `catalog` | instances: where they listen, whether they are well |
//! | `tags`, `fabio`, `traefik` | what tags say: our own, and those of others |
//!
//! * **Every answer is complete**, so nothing can be missed. A blocking query only says when it is worth reading again. There is one for
//!   all keys, one for the names of all services, and one for each service that is asked for.
//! * **An index that goes down** means that the store was rebuilt: the next query starts from 0. So does the first one of each connection,
//!   because a query with an index of a life before blocks although there is something new. A query waits for [`WAIT`] at most.
//! * **Denied is not empty.** Consul gives the same answer where there is nothing and where we may read nothing. Where its ACLs deny by
//!   default, such an answer counts only once something was asked for that is refused (403) to who may not read it. An answer that says
//!   that something was left out of it says that the token was not granted enough. Before Consul 1.9 nothing tells the two apart.
//! * **A silent agent is noticed**: every [`HEARTBEAT_INTERVAL`] it is asked for its leader over a connection of its own. A cluster
//!   without a leader counts as failed.
//! * A key and a tag may say the same object: the key counts. The endpoints of an upstream may come from both.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt};

use self::agent::{Agent, Failure, Index, next_index, wait_of};
use self::services::Services;
use self::watch::{Key, News, Told, Watched, Watches, ask};
use super::http_client::Turns;
use super::keyring::Keyring;
use super::kv::{Pair, Tree};
use super::labels::Said;
use super::{Provider, ProviderError, Publisher};
use crate::config::providers::ConsulConfig;
use crate::config::snapshot::Place;
use crate::config::{Origin, Problem, Snapshot};
use crate::names::Name;

mod agent;
mod catalog;
mod fabio;
mod services;
mod tags;
mod traefik;
mod watch;

pub use self::agent::{CONNECTIONS_MAX, HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT, TURN, WAIT, WAIT_SLACK};
pub use self::services::SERVICES_MAX;
pub use self::tags::TAGS_MAX;
pub use self::watch::QUERY_INTERVAL_MIN;

/// How long changes of services are gathered before they are published, so that a hundred services that are told at once are one change.
const SETTLE: Duration = Duration::from_millis(20);

/// Watches keys and services of Consul.
#[derive(Debug)]
pub struct ConsulProvider {
    name: Name,
    config: ConsulConfig,
    turns: Turns,
    tree: Tree,
    /// What the keys hold. None: not told yet.
    keys: Option<Vec<(Key, Vec<u8>)>>,
    /// None: nothing of the catalog is asked for.
    services: Option<Services>,
    /// The index of the last answer that was taken over.
    index: u64,
    /// What was wrong beside the objects when they were published last. None: nothing was published yet.
    problems: Option<Vec<Problem>>,
}

/// The queries to one agent.
struct Session {
    agent: Arc<Agent>,
    watches: Watches,
    /// The services that there is a query for.
    asked: BTreeSet<String>,
    /// How many things were not told yet by this agent.
    untold: usize,
}

/// When to publish what was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    /// Not at all: it is known.
    None,
    /// With what else is told right now.
    Soon,
    Now,
}

impl ConsulProvider {
    /// A provider of this name. It does nothing until it is watched.
    #[must_use]
    pub fn new(name: Name, config: ConsulConfig) -> Self {
        let tree = Tree::with_layout(&config.prefix, name.clone(), config.layout()).with_keys(Keyring::source(config.keyring.as_ref()));
        let services = config.catalog.clone().map(Services::new);
        Self { name, turns: Turns::new(config.endpoints.clone()), config, tree, keys: None, services, index: 0, problems: None }
    }

    async fn run(&mut self, publisher: &dyn Publisher) -> Result<(), Failure> {
        let agent = Arc::new(Agent::new(self.turns.next(), &self.config));
        let mut session = Session { agent: agent.clone(), watches: Watches::new(), asked: BTreeSet::new(), untold: 0 };
        self.begin(&mut session);
        let mut pulse = pin!(agent.pulse(publisher));
        // When the first change was told that is not published yet.
        let mut changed_at: Option<Instant> = None;
        loop {
            let due = changed_at.filter(|_| self.is_ready()).map(|at| at + SETTLE);
            let is_due = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            let change = tokio::select! {
                biased;
                failure = &mut pulse => return Err(failure),
                () = is_due => Change::Now,
                Some((is_first, news)) = session.watches.next() => {
                    session.untold -= usize::from(is_first);
                    let change = self.hear(news?, &mut session)?;
                    self.check_granted(&session)?;
                    change
                }
            };
            if change > Change::None {
                changed_at.get_or_insert_with(Instant::now);
            } else if changed_at.is_none() && session.untold == 0 {
                publisher.contact();
            }
            if change == Change::Now && self.is_ready() {
                self.publish(changed_at.take().unwrap_or_else(Instant::now), publisher);
            }
        }
    }

    /// Asks for everything once.
    fn begin(&self, session: &mut Session) {
        if self.config.kv {
            session.ask(Watched::Keys(self.tree.prefix().to_owned()));
        }
        let Some(services) = &self.services else { return };
        if services.needs_listing(self.config.kv) {
            session.ask(Watched::Catalog);
        }
        for key in services.switch_keys() {
            session.ask(Watched::Key(key.to_owned()));
        }
        session.ask_for(services);
    }

    /// Takes over what was told, and asks again.
    fn hear(&mut self, news: News, session: &mut Session) -> Result<Change, Failure> {
        let next = Index { value: next_index(news.asked, news.index.value), ..news.index };
        let may_ask_for_more = matches!(news.told, Told::Keys(_) | Told::Catalog(_));
        let change = match (news.told, &news.watched) {
            (Told::Keys(keys), _) => {
                let keys: Vec<(Key, Vec<u8>)> =
                    keys.into_iter().map(|key| key.decode().map(|value| (key, value))).collect::<Result<_, _>>()?;
                let change = if self.keys.as_ref() == Some(&keys) { Change::None } else { Change::Now };
                if let Some(services) = &mut self.services {
                    services.ask_for(asked_for(self.tree.prefix(), &keys));
                }
                self.keys = Some(keys);
                self.index = news.index.value;
                change
            }
            (told, watched) => {
                if !self.config.kv {
                    self.index = news.index.value;
                }
                self.services.as_mut().map_or(Change::None, |services| services.hear(watched, told))
            }
        };
        if let (Some(services), true) = (&self.services, may_ask_for_more) {
            session.ask_for(services);
        }
        if self.is_watched(&news.watched) {
            session.ask_again(news.watched, next, news.asked_at + QUERY_INTERVAL_MIN);
        } else if let Watched::Service(service) = &news.watched {
            session.asked.remove(service);
        }
        // Until the first time it is all told that counts, also that there is nothing.
        Ok(if self.problems.is_none() { change.max(Change::Soon) } else { change })
    }

    fn is_watched(&self, watched: &Watched) -> bool {
        match watched {
            Watched::Service(service) => self.services.as_ref().is_some_and(|services| services.wants(service)),
            Watched::Keys(_) | Watched::Catalog | Watched::Key(_) => true,
        }
    }

    /// Whether there is something to publish: at first all has to be told.
    fn is_ready(&self) -> bool {
        let are_services_told =
            || self.services.as_ref().is_none_or(|services| services.is_complete(services.needs_listing(self.config.kv)));
        self.problems.is_some() || ((self.keys.is_some() || !self.config.kv) && are_services_told())
    }

    /// Whether the token may read any of the services that are asked for, once all was told.
    fn check_granted(&self, session: &Session) -> Result<(), Failure> {
        match self.services.as_ref().and_then(Services::denied) {
            Some(grant) if session.untold == 0 => Err(Failure::Grant(grant.to_owned())),
            _ => Ok(()),
        }
    }

    /// Publishes what keys and services say, if that is new.
    fn publish(&mut self, seen_at: Instant, publisher: &dyn Publisher) {
        let mut said = self.services.as_mut().map(|services| services.say(&self.name)).unwrap_or_default();
        let (pairs, problems) = self.pairs(&said);
        said.problems.extend(problems);
        let of_services = pairs.iter().map(|(key, value, place)| (pair(key, value, 0), place.clone()));
        let of_keys = self.keys.iter().flatten().map(|(key, value)| (pair(&key.key, value, key.modify_index), None));
        let is_changed = self.tree.replace_at(of_services.chain(of_keys));
        if !is_changed && self.problems.as_ref() == Some(&said.problems) {
            return publisher.contact();
        }
        let mut snapshot: Snapshot = self.tree.snapshot(Some(self.index), seen_at);
        snapshot.problems.extend(said.problems.iter().cloned());
        self.problems = Some(said.problems);
        publisher.publish(snapshot);
    }

    /// What services say and no key does, under keys of the store, and what is wrong with the rest.
    fn pairs(&self, said: &Said) -> (Vec<SaidPair>, Vec<Problem>) {
        let held: BTreeSet<&str> = self.keys.iter().flatten().map(|(key, _)| key.key.as_str()).collect();
        let (mut pairs, mut problems) = (Vec::new(), Vec::new());
        for (pair, place) in said.pairs() {
            let path = String::from_utf8_lossy(pair.key);
            let key = format!("{}{}", self.tree.prefix(), path.trim_start_matches('/'));
            if !held.contains(key.as_str()) {
                pairs.push((key, pair.value.to_vec(), place));
            } else if let (Some(place), false) = (place, pair.value == b"{}") {
                let problem = Problem::warning(format!("the key {key} says something else of the same object"));
                problems.push(problem.effect("the key is in force").at(Origin { provider: self.name.clone(), place }));
            }
        }
        (pairs, problems)
    }
}

impl Session {
    /// Asks for something for the first time.
    fn ask(&mut self, watched: Watched) {
        self.untold += 1;
        self.push(watched, Index::zero(), tokio::time::Instant::now(), true);
    }

    fn ask_again(&mut self, watched: Watched, index: Index, not_before: tokio::time::Instant) {
        self.push(watched, index, not_before, false);
    }

    fn push(&mut self, watched: Watched, index: Index, not_before: tokio::time::Instant, is_first: bool) {
        let wait = if matches!(watched, Watched::Service(_)) { wait_of(self.asked.len()) } else { WAIT };
        let news = ask(self.agent.clone(), watched, index, wait, not_before);
        self.watches.push(news.map(move |news| (is_first, news)).boxed());
    }

    /// Asks for all services that are to be watched and are not yet.
    fn ask_for(&mut self, services: &Services) {
        for service in services.wanted() {
            if !self.asked.contains(service) {
                self.asked.insert(service.clone());
                self.ask(Watched::Service(service.clone()));
            }
        }
    }
}

/// A key of the store that nobody wrote: its value, and where that was read.
type SaidPair = (String, Vec<u8>, Option<Place>);

fn pair<'a>(key: &'a str, value: &'a [u8], revision: u64) -> Pair<'a> {
    Pair { key: key.as_bytes(), value, revision }
}

/// The upstreams that routes among `keys` name, and that have no endpoints there.
fn asked_for(prefix: &str, keys: &[(Key, Vec<u8>)]) -> BTreeSet<String> {
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Fields {
        upstream: Option<String>,
        endpoints: Vec<serde::de::IgnoredAny>,
    }
    // What cannot be read is reported in its place.
    let fields = |value: &[u8]| serde_json::from_slice::<Fields>(value).unwrap_or_default();
    let (mut asked, mut made) = (BTreeSet::new(), BTreeSet::new());
    for (key, value) in keys {
        let path = key.key.strip_prefix(prefix).unwrap_or_default();
        match path.split('/').collect::<Vec<_>>().as_slice() {
            ["routes" | "tcp_routes" | "udp_routes", _] => asked.extend(fields(value).upstream),
            ["upstreams", name] if !fields(value).endpoints.is_empty() => drop(made.insert((*name).to_owned())),
            ["upstreams", name, _, ..] => drop(made.insert((*name).to_owned())),
            _ => {}
        }
    }
    &asked - &made
}

impl Provider for ConsulProvider {
    fn name(&self) -> &Name {
        &self.name
    }

    fn source(&self) -> Option<String> {
        let ConsulConfig { endpoints, prefix, kv, catalog, datacenter, .. } = &self.config;
        let keys = if *kv { format!("{prefix} {}", self.config.layout()) } else { String::new() };
        let catalog = catalog.as_ref().and_then(|catalog| serde_json::to_string(catalog).ok()).unwrap_or_default();
        Some(format!("consul {} {keys} {} {catalog}", endpoints.join(","), datacenter.as_deref().unwrap_or_default()))
    }

    fn watch<'a>(&'a mut self, publisher: &'a dyn Publisher) -> Pin<Box<dyn Future<Output = Result<(), ProviderError>> + Send + 'a>> {
        Box::pin(async move {
            let doing = match (self.config.kv, self.services.is_some()) {
                (true, false) => format!("consul: watch {}", self.tree.prefix()),
                (true, true) => format!("consul: watch {} and services", self.tree.prefix()),
                (false, _) => "consul: watch services".to_owned(),
            };
            self.run(publisher).await.map_err(|failure| ProviderError { doing, cause: failure.into() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_ask_for_upstreams_that_nobody_else_makes() {
        let key = |(key, value): &(&str, &str)| {
            let key = serde_json::from_value(serde_json::json!({ "Key": format!("n/{key}"), "Value": null })).unwrap();
            (key, value.as_bytes().to_vec())
        };
        let keys: Vec<_> = [
            ("routes/a", r#"{"match":"Host(\"a\")","upstream":"web"}"#),
            ("routes/b", r#"{"upstream":"own"}"#),
            ("routes/c", r#"{"upstream":"listed"}"#),
            ("routes/d", "broken"),
            ("tcp_routes/t", r#"{"listener":"l","upstream":"db"}"#),
            ("upstreams/web", r#"{"retries":1}"#),
            ("upstreams/own/endpoints/1", "10.0.0.1:80"),
            ("upstreams/listed", r#"{"endpoints":["10.0.0.1:80"]}"#),
        ]
        .iter()
        .map(key)
        .collect();
        assert_eq!(asked_for("n/", &keys), ["db".to_owned(), "web".to_owned()].into());
    }
}
