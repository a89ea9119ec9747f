//! The containers of a Docker engine, followed as they change.
//!
//! ```text
//!            ┌─► list ──► tell ──► follow: events since the list ──┐ something happened, or it is time to look
//!            └─────────────────────────────────────────────────────┘
//! ```
//!
//! Events only say "look again", with one exception: a container that was told to end counts as gone from that moment on, while it still
//! finishes what it has. The list is read again after each event, and every now and then in any case.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use http::StatusCode;

use super::ProviderError;
use super::containers::{Container, Inspected};
use super::engine::{Engine, Event, Events, Failure};
use crate::config::providers::DockerConfig;

/// How often everything is looked at, if the settings do not say it.
const POLL_DEFAULT: Duration = Duration::from_secs(10);

/// How long changes are gathered before the list is read, so that a hundred containers that start at once are not a hundred lists.
const SETTLE: Duration = Duration::from_millis(20);

/// How far before the list the events begin that are followed, in seconds: the engine tells its clock in whole ones.
const OVERLAP_SECONDS: u64 = 2;

/// How long a container may take to end before it counts as alive after all.
const STOPPING_MAX: Duration = Duration::from_secs(300);

/// Signals that ask a program to end: INT, QUIT, KILL, TERM, and systemd's RTMIN+3.
const ENDING_SIGNALS: [&str; 5] = ["2", "3", "9", "15", "37"];

/// What is known of an engine's containers.
#[derive(Debug)]
pub(crate) struct Follower {
    config: DockerConfig,
    /// Whether the environments of containers are read.
    has_variables: bool,
    containers: Vec<Container>,
    /// Containers that were told to end, and when.
    stopping: Vec<(String, Instant)>,
}

/// Is told of all containers, and of those that were told to end, whenever something may have changed.
pub(crate) trait Listener: Send {
    /// All containers that run, and the ids of those among them that were told to end.
    fn hear(&mut self, containers: &[Container], stopping: &BTreeSet<String>);
}

/// What an event means.
#[derive(Debug, PartialEq, Eq)]
enum Meaning<'a> {
    Nothing,
    LookAgain,
    Ends(&'a str),
    Starts(&'a str),
}

impl Follower {
    /// Follows the engine of these settings, once it is [run](Self::run).
    pub(crate) fn new(config: DockerConfig, has_variables: bool) -> Self {
        Self { config, has_variables, containers: Vec::new(), stopping: Vec::new() }
    }

    /// Tells `listener` of everything, and again after each change, until the engine fails.
    pub(crate) async fn run(&mut self, listener: &mut dyn Listener) -> Result<(), ProviderError> {
        let endpoint = self.config.endpoint.clone();
        let doing = |what: &str| {
            let doing = format!("docker {endpoint}: {what}");
            move |failure: Failure| ProviderError { doing, cause: failure.into() }
        };
        let engine = Engine::connect(&self.config.endpoint, self.config.tls.as_ref()).await.map_err(doing("connect"))?;
        // Who was told to end may have ended and started again while nobody listened.
        self.stopping.clear();
        let mut sent_at = self.list(&engine, listener).await.map_err(doing("list containers"))?;
        let since = sent_at.map(|sent_at| sent_at.saturating_sub(OVERLAP_SECONDS));
        let mut events = engine.events(&["container", "network"], since).await.map_err(doing("follow events"))?;
        if since.is_none() {
            // What happened between the list and the events is not among them.
            sent_at = self.list(&engine, listener).await.map_err(doing("list containers"))?;
        }
        tracing::debug!(%endpoint, ?sent_at, "following the engine's events");
        loop {
            self.until_something_happens(&mut events, listener).await.map_err(doing("follow events"))?;
            self.list(&engine, listener).await.map_err(doing("list containers"))?;
        }
    }

    /// Waits for an event, or until it is time to look in any case.
    async fn until_something_happens(&mut self, events: &mut Events, listener: &mut dyn Listener) -> Result<(), Failure> {
        let mut until = tokio::time::Instant::now() + self.config.poll.unwrap_or(POLL_DEFAULT);
        while let Ok(event) = tokio::time::timeout_at(until, events.next()).await {
            if self.hear(&event?, Instant::now(), listener) {
                until = until.min(tokio::time::Instant::now() + SETTLE);
            }
        }
        Ok(())
    }

    /// Takes over an event. Whether to look again.
    fn hear(&mut self, event: &Event, now: Instant, listener: &mut dyn Listener) -> bool {
        match meaning(event) {
            Meaning::Nothing => return false,
            Meaning::LookAgain => (),
            Meaning::Starts(id) => self.stopping.retain(|(stopping, _)| stopping != id),
            Meaning::Ends(id) => {
                if self.containers.iter().any(|container| container.id == id) && !self.stopping.iter().any(|(stopping, _)| stopping == id) {
                    self.stopping.push((id.to_owned(), now));
                    self.tell(listener);
                }
            }
        }
        true
    }

    /// Reads all containers. When that was, by the engine's clock.
    async fn list(&mut self, engine: &Engine, listener: &mut dyn Listener) -> Result<Option<u64>, Failure> {
        let (mut containers, sent_at) = engine.get::<Vec<Container>>("/containers/json").await?;
        if self.has_variables {
            self.read_variables(engine, &mut containers).await?;
        }
        self.containers = containers;
        let now = Instant::now();
        let is_there = |id: &String| self.containers.iter().any(|container| container.id == *id);
        self.stopping.retain(|(id, since)| is_there(id) && now.saturating_duration_since(*since) < STOPPING_MAX);
        self.tell(listener);
        Ok(sent_at)
    }

    /// Reads the environments of containers that are new. They never change.
    async fn read_variables(&self, engine: &Engine, containers: &mut [Container]) -> Result<(), Failure> {
        let known: BTreeMap<&str, &Container> = self.containers.iter().map(|container| (container.id.as_str(), container)).collect();
        for container in containers {
            container.variables = match known.get(container.id.as_str()) {
                Some(known) => known.variables.clone(),
                None => match engine.get::<Inspected>(&format!("/containers/{}/json", container.id)).await {
                    Ok((inspected, _)) => inspected.variables(),
                    // It is gone since it was listed, of which there is an event.
                    Err(Failure::Refused { status: StatusCode::NOT_FOUND, .. }) => BTreeMap::new(),
                    Err(failure) => return Err(failure),
                },
            };
        }
        Ok(())
    }

    fn tell(&self, listener: &mut dyn Listener) {
        let stopping = self.stopping.iter().map(|(id, _)| id.clone()).collect();
        listener.hear(&self.containers, &stopping);
    }
}

/// What follows from an event.
fn meaning(event: &Event) -> Meaning<'_> {
    let signal = event.actor.attributes.signal.as_deref().unwrap_or_default();
    // What follows a colon is told of health checks and commands.
    match event.action.split(':').next().unwrap_or_default() {
        "kill" if ENDING_SIGNALS.contains(&signal) => Meaning::Ends(&event.actor.id),
        "start" => Meaning::Starts(&event.actor.id),
        "create" | "die" | "destroy" | "stop" | "pause" | "unpause" | "health_status" | "rename" | "update" | "connect" | "disconnect" => {
            Meaning::LookAgain
        }
        // Commands inside of containers, copies, resized terminals: a health check alone makes two each time.
        _ => Meaning::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_apart() {
        let check = |text: &str, expected: Meaning<'_>| {
            let event: Event = serde_json::from_str(text).unwrap();
            assert_eq!(meaning(&event), expected, "{text}");
        };
        check(r#"{"Type":"container","Action":"start","Actor":{"ID":"a","Attributes":{"image":"x"}}}"#, Meaning::Starts("a"));
        check(r#"{"Type":"container","Action":"kill","Actor":{"ID":"a","Attributes":{"signal":"15"}}}"#, Meaning::Ends("a"));
        check(r#"{"Type":"container","Action":"kill","Actor":{"ID":"a","Attributes":{"signal":"1"}}}"#, Meaning::Nothing);
        check(r#"{"Action":"health_status: unhealthy","Actor":{"ID":"a"}}"#, Meaning::LookAgain);
        check(r#"{"Action":"exec_create: true","Actor":{"ID":"a"}}"#, Meaning::Nothing);
        check(r#"{"Type":"network","Action":"disconnect","Actor":{"ID":"n","Attributes":{"container":"a"}}}"#, Meaning::LookAgain);
        check("{}", Meaning::Nothing);
    }
}
