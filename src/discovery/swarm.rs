//! The services of a Docker Swarm, described by their labels.
//!
//! ```text
//! follow events ──► read services, nodes, tasks ──► publish ──► wait for an event, or half a second ──┐
//!                        ▲                                                                            │
//!                        └────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Nothing is announced of a task: neither that it is to end, nor that it crashed. So tasks are looked at all the time, and the rest when
//! an event says so. A manager that wants a task to end says it in its list at once, and has it signalled some three seconds later: from
//! then on it gets no new request, while it finishes those that it has. That makes every update lossless, without help of the task.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;

use super::engine::{Engine, Event, Events, Failure};
use super::kv::Tree;
use super::labels::Said;
use super::tasks::{Node, Servings, Swarm, bearers, missing_tasks, with_missing};
use super::{Provider, ProviderError, Publisher};
use crate::config::providers::{Conventions, EngineAddress, NodeChoice, SwarmConfig};
use crate::config::snapshot::Removals;
use crate::config::{Origin, Problem, Snapshot};
use crate::names::Name;

/// How often tasks are looked at, if the settings do not say it.
pub const POLL_DEFAULT: Duration = Duration::from_millis(500);

/// How often services and nodes are looked at, whatever was announced.
const LIST_INTERVAL: Duration = Duration::from_secs(10);

/// How long changes are gathered before anything is read.
const SETTLE: Duration = Duration::from_millis(20);

/// The most managers that are named to someone who asked a worker.
const MANAGERS_NAMED_MAX: usize = 8;

/// Where Linux tells what is mounted for us. An engine mounts `/etc/hostname` out of the container's own directory.
const MOUNTS: &str = "/proc/self/mountinfo";

/// Watches the services of a Swarm.
#[derive(Debug)]
pub struct SwarmProvider {
    name: Name,
    config: SwarmConfig,
    conventions: Conventions,
    /// How often a manager was connected to.
    turn: usize,
    tree: Tree,
    /// What was wrong beside the objects when they were published last. None: nothing was published yet.
    problems: Option<Vec<Problem>>,
    swarm: Swarm,
    /// What was published last.
    servings: Servings,
    /// Services of which an event said that they were removed.
    removed: BTreeSet<String>,
}

/// What is to be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Look {
    Tasks,
    All,
}

/// What `GET /info` says of the Swarm that the engine is in.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Info {
    #[serde(rename = "Swarm")]
    swarm: Membership,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Membership {
    #[serde(rename = "NodeID")]
    node_id: String,
    local_node_state: String,
    remote_managers: Option<Vec<Manager>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Manager {
    addr: String,
}

impl SwarmProvider {
    /// A provider of this name. It does nothing until it is watched.
    #[must_use]
    pub fn new(name: Name, config: SwarmConfig) -> Self {
        Self {
            tree: Tree::new("", name.clone()),
            conventions: config.conventions(),
            turn: 0,
            name,
            config,
            problems: None,
            swarm: Swarm::default(),
            servings: Servings::new(),
            removed: BTreeSet::new(),
        }
    }

    /// The manager whose turn it is: after a failure, the next one.
    fn next_endpoint(&mut self) -> EngineAddress {
        let endpoints = &self.config.endpoints;
        let index = self.turn.checked_rem(endpoints.len()).unwrap_or_default();
        self.turn = self.turn.wrapping_add(1);
        endpoints.get(index).cloned().unwrap_or_default()
    }

    async fn run(&mut self, publisher: &dyn Publisher) -> Result<(), ProviderError> {
        let endpoint = self.next_endpoint();
        let doing = format!("swarm {endpoint}");
        let failed = |what: &str, failure: Failure| ProviderError { doing: format!("{doing}: {what}"), cause: failure.into() };
        let connected = Engine::connect(&endpoint, self.config.tls.as_ref()).await;
        let engine = connected.map_err(|failure| failed("connect", failure))?;
        self.swarm.own_container = own_container().await;
        self.swarm.own_engine = self.own_engine(&endpoint, &engine).await.map_err(|failure| failed("ask which node it is", failure))?;
        // Before anything is read, so that no event is missed. What nobody listened to is not remembered.
        self.removed.clear();
        let events = engine.events(&["service", "node", "container"], None).await;
        let mut events = events.map_err(|failure| failed("follow events", failure))?;
        let mut look = Look::All;
        let mut listed_at = Instant::now();
        loop {
            if look == Look::All {
                listed_at = Instant::now();
                if let Err(failure) = self.list(&engine).await {
                    let doing = format!("{doing}: list services and nodes");
                    return Err(ProviderError { doing, cause: explain(&engine, failure).await });
                }
            }
            self.look_at_tasks(&engine, publisher).await.map_err(|failure| failed("list tasks", failure))?;
            look = self.until_something_happens(&mut events).await.map_err(|failure| failed("follow events", failure))?;
            if listed_at.elapsed() >= LIST_INTERVAL {
                look = Look::All;
            }
        }
    }

    /// The node of `engine`, if it matters, and if that is the one that we run on: the file of a socket is on one host with its engine.
    async fn own_engine(&self, endpoint: &EngineAddress, engine: &Engine) -> Result<Option<String>, Failure> {
        if self.config.prefer_node != Some(NodeChoice::Local) || !matches!(endpoint, EngineAddress::Unix(_)) {
            return Ok(None);
        }
        let (Info { swarm }, _) = engine.get::<Info>("/info").await?;
        Ok(Some(swarm.node_id).filter(|id| !id.is_empty()))
    }

    /// Waits for an event, or until it is time to look at the tasks in any case.
    async fn until_something_happens(&mut self, events: &mut Events) -> Result<Look, Failure> {
        let mut until = tokio::time::Instant::now() + self.config.poll.unwrap_or(POLL_DEFAULT);
        let mut look = Look::Tasks;
        while let Ok(event) = tokio::time::timeout_at(until, events.next()).await {
            let event = event?;
            self.removed.extend(removed_service(&event).map(ToOwned::to_owned));
            if let Some(wanted) = look_at(&event) {
                look = look.max(wanted);
                until = until.min(tokio::time::Instant::now() + SETTLE);
            }
        }
        Ok(look)
    }

    /// Reads services and nodes.
    async fn list(&mut self, engine: &Engine) -> Result<(), Failure> {
        let (services, _) = engine.get("/services").await?;
        let (nodes, _) = engine.get::<Vec<Node>>("/nodes").await?;
        let nodes: BTreeMap<String, Node> = nodes.into_iter().map(|node| (node.id.clone(), node)).collect();
        for (id, node) in &nodes {
            let now = node.describe();
            if self.swarm.nodes.get(id).map(Node::describe).as_ref() != Some(&now) {
                tracing::info!(provider = %self.name, "node {now}");
            }
        }
        (self.swarm.services, self.swarm.nodes) = (services, nodes);
        Ok(())
    }

    /// Reads the tasks, and publishes what they and the services say.
    async fn look_at_tasks(&mut self, engine: &Engine, publisher: &dyn Publisher) -> Result<(), Failure> {
        // There are many more that ended a while ago.
        let (tasks, _) = engine.get_filtered("/tasks", &json!({ "desired-state": ["running"] })).await?;
        self.swarm.take_tasks(tasks);
        let servings = self.swarm.servings(&self.config);
        let missing = missing_tasks(&self.servings, &servings);
        let ended = if missing.is_empty() { BTreeSet::new() } else { self.told_to_end(engine).await? };
        self.publish(servings, &ended, publisher);
        Ok(())
    }

    /// The tasks that were told to end, by their ids.
    async fn told_to_end(&self, engine: &Engine) -> Result<BTreeSet<String>, Failure> {
        let (tasks, _) = engine.get::<Vec<super::tasks::Task>>("/tasks").await?;
        let told = tasks.into_iter().filter(|task| task.is_told_to_end(&self.swarm.nodes));
        Ok(told.map(|task| task.id).collect())
    }

    /// Publishes what was said, if that is new: first what was said of each object, and then what is only missing.
    fn publish(&mut self, servings: Servings, ended: &BTreeSet<String>, publisher: &dyn Publisher) {
        match with_missing(&self.servings, &servings, &self.removed, ended) {
            None => self.publish_as(&servings, Removals::Explicit, publisher),
            Some(kept) => {
                self.publish_as(&kept, Removals::Explicit, publisher);
                self.publish_as(&servings, Removals::Inferred, publisher);
            }
        }
        self.removed.retain(|id| servings.contains_key(id));
        self.servings = servings;
    }

    /// Why no node is preferred, although one is to be.
    fn preference_problem(&self) -> Option<Problem> {
        let message = self.swarm.node(self.config.prefer_node.as_ref()?).err()?;
        let problem = Problem::error(format!("`prefer_node`: {message}")).effect("tasks of all nodes are used alike");
        Some(problem.at(Origin::program(self.name.clone())))
    }

    fn publish_as(&mut self, servings: &Servings, removals: Removals, publisher: &dyn Publisher) {
        let mut said = Said::by(&bearers(servings), &self.conventions, &self.name);
        said.problems.extend(self.preference_problem());
        let is_changed = self.tree.replace_at(said.pairs());
        if !is_changed && self.problems.as_ref() == Some(&said.problems) {
            return publisher.contact();
        }
        let mut snapshot = Snapshot { removals, ..self.tree.snapshot(None, Instant::now()) };
        snapshot.problems.extend(said.problems.iter().cloned());
        self.problems = Some(said.problems);
        publisher.publish(snapshot);
    }
}

impl Provider for SwarmProvider {
    fn name(&self) -> &Name {
        &self.name
    }

    fn source(&self) -> Option<String> {
        let managers: Vec<String> = self.config.endpoints.iter().map(ToString::to_string).collect();
        Some(format!("swarm {}{}", managers.join(","), self.conventions.describe()))
    }

    fn watch<'a>(&'a mut self, publisher: &'a dyn Publisher) -> Pin<Box<dyn Future<Output = Result<(), ProviderError>> + Send + 'a>> {
        Box::pin(self.run(publisher))
    }
}

/// What an event gives reason to read again. None: nothing.
fn look_at(event: &Event) -> Option<Look> {
    match (event.r#type.as_str(), event.action.as_str()) {
        ("service" | "node", _) => Some(Look::All),
        // Of this engine alone, but sooner than the next look.
        ("container", "die" | "start") => Some(Look::Tasks),
        _ => None,
    }
}

/// The service that is gone by this event.
fn removed_service(event: &Event) -> Option<&str> {
    ((event.r#type.as_str(), event.action.as_str()) == ("service", "remove")).then_some(event.actor.id.as_str())
}

/// An engine that would not tell of its services, because it does not know them.
#[derive(Debug, thiserror::Error)]
enum NoManager {
    #[error("this engine is a worker, and only managers know the services: ask one of them{}", named(.0))]
    Worker(Vec<String>),
    #[error("this engine is in no Swarm: `docker swarm init` makes one; docker:// is for its own containers")]
    NoSwarm,
    #[error("this engine is locked out of its Swarm until `docker swarm unlock`")]
    Locked,
}

fn named(managers: &[String]) -> String {
    if managers.is_empty() { String::new() } else { format!(" (they speak to each other at {})", managers.join(", ")) }
}

/// Why the engine does not tell of its services.
async fn explain(engine: &Engine, failure: Failure) -> Box<dyn std::error::Error + Send + Sync> {
    let is_no_manager = matches!(&failure, Failure::Refused { status, .. } if status.as_u16() == 503);
    if !is_no_manager {
        return failure.into();
    }
    let Ok((Info { swarm }, _)) = engine.get::<Info>("/info").await else { return failure.into() };
    match swarm.local_node_state.as_str() {
        "inactive" => NoManager::NoSwarm.into(),
        "locked" => NoManager::Locked.into(),
        // A manager refuses too, while there is no leader: that one says it itself.
        "active" if failure.to_string().contains("not a swarm manager") => {
            let managers = swarm.remote_managers.unwrap_or_default().into_iter().map(|manager| manager.addr);
            NoManager::Worker(managers.take(MANAGERS_NAMED_MAX).collect()).into()
        }
        _ => failure.into(),
    }
}

/// The container that we run in, by its id.
async fn own_container() -> Option<String> {
    // Without it, networks have to be named.
    container_of(&tokio::fs::read_to_string(MOUNTS).await.ok()?)
}

/// The container whose files are mounted: 64 hexadecimal digits behind `/containers/`.
fn container_of(mounts: &str) -> Option<String> {
    let behind = mounts.split("/containers/").skip(1);
    let id = behind.filter_map(|rest| rest.split('/').next()).find(|id| id.len() == 64 && id.chars().all(|c| c.is_ascii_hexdigit()));
    id.map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_apart() {
        let check = |text: &str, look: Option<Look>, removed: Option<&str>| {
            let event: Event = serde_json::from_str(text).unwrap();
            assert_eq!((look_at(&event), removed_service(&event)), (look, removed), "{text}");
        };
        let service = r#"{"Type":"service","Action":"update","Actor":{"ID":"a","Attributes":{"name":"web","updatestate.new":"updating"}}}"#;
        check(service, Some(Look::All), None);
        check(r#"{"Type":"service","Action":"remove","Actor":{"ID":"a"},"scope":"swarm"}"#, Some(Look::All), Some("a"));
        check(r#"{"Type":"node","Action":"update","Actor":{"ID":"n"}}"#, Some(Look::All), None);
        check(r#"{"Type":"container","Action":"die","Actor":{"ID":"c"}}"#, Some(Look::Tasks), None);
        check(r#"{"Type":"container","Action":"exec_start: true","Actor":{"ID":"c"}}"#, None, None);
        check("{}", None, None);
    }

    #[test]
    fn our_container_is_found_among_what_is_mounted() {
        let id = "2b1ccf5803b40facfe2ddc4710ba923291497eb9aefeeb2fac034de4141374a2";
        let line = format!("612 590 0:42 /var/lib/docker/containers/{id}/hostname /etc/hostname rw,relatime - ext4 /dev/sda1 rw\n");
        assert_eq!(container_of(&format!("1 2 0:3 / / rw - ext4 /dev/sda1 rw\n{line}")).as_deref(), Some(id));
        assert_eq!(container_of("1 2 0:3 /containers/short/x / rw"), None);
        assert_eq!(container_of(""), None);
    }
}
