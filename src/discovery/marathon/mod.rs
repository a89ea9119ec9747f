//! Marathon: apps and their tasks, and the labels that they bear.
//!
//! ```text
//! open the stream of events ──► read all apps with their tasks ──► publish ──► wait for an event, or half a minute ──┐
//!            ▲                                                                                                      │
//!            └──────────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! | file | concept |
//! |---|---|
//! | `apps` | the JSON: ports, addresses, who is well |
//! | `text` | the lines of old versions |
//! | `events` | the stream that says when to read again |
//! | `served` | what objects all that makes, with labels and settings |
//!
//! * **What is read counts**, as a whole, each time. Events come late, twice, in any order or not at all: they say that it is worth reading
//!   again, now and a second later, because an event may be ahead of what its sender has stored.
//! * **A stream that is silent or ends** is nothing but that: it is opened anew, and all is read again. Only an instance that cannot be
//!   read has failed, and then it is the next one's turn.
//! * **Gone or missing**: a task that is listed without being fit, or that an event said to have ended, is gone. One that is only missing
//!   may be the mistake of a leader that knows little: much of that at once is held for a while.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::time::Instant;

use self::apps::{Apps, Reading, Unreadable};
use self::events::{Event, Heard, Stream};
use self::served::Served;
use super::http_client::{Answer, Aside, BODY_TIMEOUT, Credentials, HttpError, Question, Turns};
use super::kv::Tree;
use super::{Provider, ProviderError, Publisher};
use crate::config::providers::{MarathonConfig, MarathonFormat};
use crate::config::snapshot::Removals;
use crate::config::{Problem, Snapshot};
use crate::names::Name;

mod apps;
mod events;
mod served;
mod text;

/// How long events are gathered before anything is read.
const SETTLE: Duration = Duration::from_millis(50);

/// Everything is not read more often than this, whatever is announced.
const READ_INTERVAL_MIN: Duration = Duration::from_millis(250);

/// After an event everything is read once more, this much later.
const ECHO: Duration = Duration::from_secs(1);

/// The most tasks and apps of which it is remembered that an event said they ended.
const ENDED_MAX: usize = 10_000;

const APPS: &str = "/v2/apps?embed=apps.tasks";
const TASKS: &str = "/v2/tasks";

/// Watches the apps of a Marathon.
#[derive(Debug)]
pub struct MarathonProvider {
    name: Name,
    config: MarathonConfig,
    credentials: Credentials,
    turns: Turns,
    tree: Tree,
    /// [`MarathonFormat::Json`] once that was read: who is not there for a moment has not become another version.
    format: MarathonFormat,
    /// What was read last.
    apps: Apps,
    /// What was wrong beside the objects when they were published last. None: nothing was published yet.
    problems: Option<Vec<Problem>>,
    /// Tasks of which an event said that they ended.
    ended: BTreeSet<String>,
    /// Apps of which an event said that they were destroyed, by their names.
    removed: BTreeSet<String>,
}

/// Why an instance could not be read.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Http(#[from] HttpError),
    #[error("{path}: {status}: {message}")]
    Refused { path: &'static str, status: StatusCode, message: String },
    #[error("{path}: {message}")]
    Unreadable { path: &'static str, message: String },
}

impl MarathonProvider {
    /// A provider of this name. It does nothing until it is watched.
    #[must_use]
    pub fn new(name: Name, config: MarathonConfig) -> Self {
        let credentials = match (&config.username, &config.password, &config.token) {
            (Some(user), Some(password), _) => Credentials::basic(user, password),
            (_, _, Some(token)) => Credentials::field("authorization", &["token=", token].concat()),
            _ => Credentials::default(),
        };
        Self {
            tree: Tree::new("", name.clone()),
            turns: Turns::new(config.endpoints.clone()),
            format: config.format,
            name,
            config,
            credentials,
            apps: Apps::new(),
            problems: None,
            ended: BTreeSet::new(),
            removed: BTreeSet::new(),
        }
    }

    async fn run(&mut self, publisher: &dyn Publisher) -> Result<(), ProviderError> {
        let server = self.turns.next();
        let aside = Aside::new(&server, self.config.tls.as_ref(), self.credentials.clone());
        let mut reader = Reader { aside, format: self.format, is_text: false };
        let mut stream = Stream::new(self.config.event_idle);
        // What nobody listened to is not remembered.
        self.ended.clear();
        self.removed.clear();
        let mut echo = None;
        loop {
            // Before anything is read, so that no event is missed.
            stream.open(&server, self.config.tls.as_ref(), &self.credentials).await;
            let read_at = Instant::now();
            echo = echo.filter(|echo| *echo > read_at);
            let reading = reader.read(&self.apps).await;
            let reading = reading.map_err(|cause| ProviderError { doing: format!("marathon {server}: read apps"), cause: cause.into() })?;
            self.format = reader.format;
            self.publish(&reading, publisher);
            self.until_something_happens(&mut stream, read_at, &mut echo).await;
        }
    }

    /// Waits for events, or until it is time to read in any case.
    async fn until_something_happens(&mut self, stream: &mut Stream, read_at: Instant, echo: &mut Option<Instant>) {
        let soonest = read_at + READ_INTERVAL_MIN;
        let due = [Some(read_at + self.config.poll), *echo, stream.due().map(|due| due.max(soonest))];
        let mut until = due.into_iter().flatten().min().unwrap_or(soonest);
        loop {
            let heard = tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                heard = stream.next() => heard,
            };
            let now = Instant::now();
            match heard {
                Heard::Events(events) => {
                    if self.note(events) {
                        until = until.min((now + SETTLE).max(soonest));
                        *echo = Some(now + ECHO);
                    }
                }
                Heard::Lost => {
                    tracing::debug!(provider = %self.name, "the stream of events is over");
                    until = until.min(now.max(soonest));
                }
            }
        }
    }

    /// Remembers what events say. Whether it is worth reading again.
    fn note(&mut self, events: Vec<Event>) -> bool {
        let mut is_change = false;
        for event in events {
            is_change |= event.is_change;
            if self.ended.len() < ENDED_MAX {
                self.ended.extend(event.ended_task);
            }
            if self.removed.len() < ENDED_MAX {
                self.removed.extend(event.removed_app);
            }
        }
        is_change
    }

    /// Publishes what was read, if that is new: first what was said of each object, and then what is only missing.
    fn publish(&mut self, reading: &Reading, publisher: &dyn Publisher) {
        let ended = self.ended.union(&reading.ended).cloned().collect();
        match apps::with_missing(&self.apps, &reading.apps, &self.removed, &ended) {
            None => self.publish_as(&reading.apps, reading, Removals::Explicit, publisher),
            Some(kept) => {
                self.publish_as(&kept, reading, Removals::Explicit, publisher);
                self.publish_as(&reading.apps, reading, Removals::Inferred, publisher);
            }
        }
        self.apps.clone_from(&reading.apps);
        self.removed.retain(|name| self.apps.contains_key(name));
        self.ended.retain(|id| self.apps.values().any(|app| app.tasks.contains_key(id)));
    }

    fn publish_as(&mut self, apps: &Apps, reading: &Reading, removals: Removals, publisher: &dyn Publisher) {
        let served = Served::by(apps, &reading.problems, &self.config, &self.name);
        let is_changed = self.tree.replace_at(served.pairs());
        if !is_changed && self.problems.as_ref() == Some(&served.problems) {
            return publisher.contact();
        }
        let mut snapshot = Snapshot { removals, ..self.tree.snapshot(None, std::time::Instant::now()) };
        snapshot.problems.extend(served.problems.iter().cloned());
        self.problems = Some(served.problems);
        publisher.publish(snapshot);
    }
}

/// Reads from one instance.
struct Reader {
    aside: Aside,
    /// [`MarathonFormat::Json`] once that was read.
    format: MarathonFormat,
    /// Whether text was read last.
    is_text: bool,
}

impl Reader {
    async fn read(&mut self, before: &Apps) -> Result<Reading, Failure> {
        if self.format != MarathonFormat::Text {
            let answer = self.ask(APPS, "application/json").await?;
            let is_auto = self.format == MarathonFormat::Auto;
            match answer.status {
                StatusCode::OK => match apps::read(&answer.body, before) {
                    Err(Unreadable::NoTasks) if is_auto => (),
                    Err(error) => return Err(Failure::Unreadable { path: APPS, message: error.to_string() }),
                    Ok(reading) => {
                        (self.format, self.is_text) = (MarathonFormat::Json, false);
                        return Ok(reading);
                    }
                },
                StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_ACCEPTABLE if is_auto => (),
                _ => return Err(refused(APPS, &answer)),
            }
            if !self.is_text {
                tracing::info!("marathon: apps with their tasks are not to be had as JSON: tasks are read as text, without labels");
            }
            self.is_text = true;
        }
        let answer = self.ask(TASKS, "text/plain").await?;
        let kind = answer.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if answer.status != StatusCode::OK {
            return Err(refused(TASKS, &answer));
        }
        if !kind.starts_with("text/plain") {
            let message = format!("the answer is no text, but `{}`: this Marathon has the JSON alone", kind.escape_debug());
            return Err(Failure::Unreadable { path: TASKS, message });
        }
        text::read(&String::from_utf8_lossy(&answer.body)).map_err(|message| Failure::Unreadable { path: TASKS, message })
    }

    async fn ask(&mut self, path: &'static str, accept: &'static str) -> Result<Answer, HttpError> {
        let fields = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
        // All apps with their tasks may take a while to be put together.
        self.aside
            .ask_with(&Question { method: Method::GET, path, fields: &fields, body: Bytes::new(), limits: [BODY_TIMEOUT, BODY_TIMEOUT] })
            .await
    }
}

fn refused(path: &'static str, answer: &Answer) -> Failure {
    Failure::Refused { path, status: answer.status, message: answer.quote() }
}

impl Provider for MarathonProvider {
    fn name(&self) -> &Name {
        &self.name
    }

    fn source(&self) -> Option<String> {
        let MarathonConfig { service_port_listeners, route, haproxy_labels, haproxy_group, .. } = &self.config;
        let flags = [("service_port_listeners", *service_port_listeners), ("haproxy_labels", *haproxy_labels)];
        let flags: String = flags.iter().filter(|(_, is_set)| *is_set).map(|(flag, _)| format!(" {flag}")).collect();
        let route: String = route.iter().map(|route| format!(" route {}", String::from(route.clone()))).collect();
        let group: String = haproxy_group.iter().map(|group| format!(" haproxy_group {group}")).collect();
        Some(format!("marathon {}{flags}{route}{group}", self.config.endpoints.join(",")))
    }

    fn watch<'a>(&'a mut self, publisher: &'a dyn Publisher) -> Pin<Box<dyn Future<Output = Result<(), ProviderError>> + Send + 'a>> {
        Box::pin(self.run(publisher))
    }
}
