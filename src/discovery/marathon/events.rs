//! `/v2/events`: the stream that says when it is worth reading again. Events are lossy and in no order, so nothing else is taken from
//! them, but that a task or an app was ended on purpose: once it is missing in what is read, it is known to be gone.
//!
//! Old versions have no such stream. Then everything is read at intervals, as it is in any case.

use std::time::Duration;

use bytes::BytesMut;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::time::Instant;

use super::super::http_client::{Connection, Credentials, HEAD_TIMEOUT};
use super::apps::name_of;
use crate::backoff::{Backoff, random};
use crate::config::providers::ClientTls;

/// The longest line that is read, in bytes. Of a longer one, the event alone counts.
const LINE_BYTES_MAX: usize = 256 * 1024;

/// The shortest and the longest wait before a stream that ended is opened anew. Changes meanwhile are noticed only then.
const REOPEN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(1));

/// The same for one that could not be opened. An instance that has none refuses it each time; a proxy before one may do so for a moment.
const REFUSED: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(60));

/// The events that say that apps or tasks changed. `deployment_…` are many, and each change of a task is told anyway.
const TYPES: [&str; 9] = [
    "api_post_event",
    "app_terminated_event",
    "deployment_failed",
    "deployment_success",
    "health_status_changed_event",
    "instance_changed_event",
    "instance_health_changed_event",
    "status_update_event",
    "unknown_instance_terminated_event",
];

/// What the scheduler calls a task that ended because it was told to, or by itself. A lost one may come back.
const ENDED: [&str; 5] = ["TASK_KILLING", "TASK_KILLED", "TASK_FINISHED", "TASK_FAILED", "TASK_ERROR"];

/// What an event says.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// Whether it is worth reading again.
    pub(super) is_change: bool,
    /// A task that ended.
    pub(super) ended_task: Option<String>,
    /// The name of an app that was destroyed.
    pub(super) removed_app: Option<String>,
}

/// What came of waiting.
#[derive(Debug)]
pub(super) enum Heard {
    Events(Vec<Event>),
    /// The stream is over: it ended, or was silent for too long.
    Lost,
}

/// The stream of one instance.
#[derive(Debug)]
pub(super) struct Stream {
    open: Option<Open>,
    /// Not opened before this.
    due: Instant,
    idle: Duration,
    ended: Backoff,
    refused: Backoff,
    /// Whether it could not be opened when that was tried last.
    is_refused: bool,
}

#[derive(Debug)]
struct Open {
    connection: Connection,
    body: Incoming,
    parser: Parser,
    since: Instant,
    heard_at: Instant,
}

impl Stream {
    /// A stream that is lost once it was silent for `idle`.
    pub(super) fn new(idle: Duration) -> Self {
        let [ended, refused] = [REOPEN, REFUSED].map(|(min, max)| Backoff::new(min, max));
        Self { open: None, due: Instant::now(), idle, ended, refused, is_refused: false }
    }

    /// When it is to be opened. None: it is open.
    pub(super) fn due(&self) -> Option<Instant> {
        self.open.is_none().then_some(self.due)
    }

    /// Opens it, if it is not and it is time to. An error is only noted: whether the instance is there is told by what is read of it.
    pub(super) async fn open(&mut self, server: &str, tls: Option<&ClientTls>, credentials: &Credentials) {
        if self.open.is_some() || Instant::now() < self.due {
            return;
        }
        match connect(server, tls, credentials).await {
            Ok(open) => {
                self.open = Some(open);
                self.is_refused = false;
                self.refused.reset();
            }
            Err(error) => {
                if !self.is_refused {
                    tracing::info!("marathon {server}: no events, so everything is read at intervals alone: {error}");
                }
                self.is_refused = true;
                self.due = Instant::now() + self.refused.next_delay(random());
            }
        }
    }

    /// The next events. Never, if it is not open. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Heard {
        let Some(open) = &mut self.open else { return std::future::pending().await };
        let piece = tokio::time::timeout_at(open.heard_at + self.idle, open.connection.next_piece(&mut open.body)).await;
        if let Ok(Ok(Some(piece))) = piece {
            open.heard_at = Instant::now();
            return Heard::Events(open.parser.feed(&piece));
        }
        let now = Instant::now();
        if now.duration_since(open.since) > REOPEN.1 {
            self.ended.reset();
        }
        self.due = now + self.ended.next_delay(random());
        self.open = None;
        Heard::Lost
    }
}

async fn connect(server: &str, tls: Option<&ClientTls>, credentials: &Credentials) -> Result<Open, String> {
    let mut connection = Connection::open(server, tls, credentials).await.map_err(|error| error.to_string())?;
    let fields = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("text/event-stream"))]);
    let path = format!("/v2/events?event_type={}", TYPES.join("&event_type="));
    let response = connection.send_with(Method::GET, &path, &fields, HEAD_TIMEOUT).await.map_err(|error| error.to_string())?;
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if response.status() != http::StatusCode::OK || !kind.starts_with("text/event-stream") {
        return Err(format!("/v2/events: {}, {}", response.status(), if kind.is_empty() { "no content type" } else { kind }));
    }
    let now = Instant::now();
    Ok(Open { connection, body: response.into_body(), parser: Parser::default(), since: now, heard_at: now })
}

/// Bytes → events, as server-sent events are written: lines, and an empty one after each event.
#[derive(Debug, Default)]
struct Parser {
    line: BytesMut,
    /// The rest of the line is left out.
    is_skipping: bool,
    name: String,
    data: String,
}

/// As `status_update_event` and `app_terminated_event` have it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Data {
    event_type: Option<String>,
    task_id: Option<String>,
    task_status: Option<String>,
    app_id: Option<String>,
}

impl Parser {
    fn feed(&mut self, mut bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end);
            self.hold(line);
            bytes = rest.get(1..).unwrap_or_default();
            self.is_skipping = false;
            let line = self.line.split();
            events.extend(self.take_line(String::from_utf8_lossy(&line).trim_end_matches('\r')));
        }
        self.hold(bytes);
        events
    }

    fn hold(&mut self, bytes: &[u8]) {
        if self.is_skipping || self.line.len() + bytes.len() > LINE_BYTES_MAX {
            self.is_skipping = true;
            self.line.clear();
        } else {
            self.line.extend_from_slice(bytes);
        }
    }

    fn take_line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let (name, data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
            return (!name.is_empty() || !data.is_empty()).then(|| meaning(&name, &data));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" if self.data.len() + value.len() <= LINE_BYTES_MAX => self.data.push_str(value),
            _ => (),
        }
        None
    }
}

/// What is not a change of apps or tasks says nothing. Data that cannot be read is still an event.
fn meaning(name: &str, data: &str) -> Event {
    let data: Data = serde_json::from_str(data).unwrap_or_default();
    let name = if name.is_empty() { data.event_type.as_deref().unwrap_or_default() } else { name };
    if !TYPES.contains(&name) {
        return Event::default();
    }
    let has_ended = data.task_status.is_some_and(|status| ENDED.contains(&status.as_str()));
    let ended_task = data.task_id.filter(|_| name == "status_update_event" && has_ended);
    let removed_app = data.app_id.filter(|_| name == "app_terminated_event").map(|id| name_of(&id));
    Event { is_change: true, ended_task, removed_app }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As Marathon 1.4 sent them, shortened.
    const STREAM: &str = "event: event_stream_attached\r\n\
        data: {\"remoteAddress\":\"127.0.0.1\",\"eventType\":\"event_stream_attached\",\"timestamp\":\"2017-02-18T19:12:00.102Z\"}\r\n\r\n\
        event: status_update_event\r\n\
        data: {\"slaveId\":\"a-S0\",\"taskId\":\"my-app_0-1396592784349\",\"taskStatus\":\"TASK_KILLED\",\"appId\":\"/my-app\",\"host\":\"slave-1234.acme.org\",\"ports\":[31372],\"eventType\":\"status_update_event\"}\r\n\r\n\
        \r\n\
        event: app_terminated_event\r\n\
        data: {\"appId\":\"/prod/my-app\",\"eventType\":\"app_terminated_event\"}\r\n\r\n";

    fn expected() -> Vec<Event> {
        let ended = Event { is_change: true, ended_task: Some("my-app_0-1396592784349".into()), removed_app: None };
        vec![Event::default(), ended, Event { is_change: true, ended_task: None, removed_app: Some("prod_my-app".into()) }]
    }

    #[test]
    fn events_say_what_changed() {
        assert_eq!(Parser::default().feed(STREAM.as_bytes()), expected());
        let running = "event: status_update_event\ndata: {\"taskId\":\"a\",\"taskStatus\":\"TASK_RUNNING\"}\n\n";
        assert_eq!(Parser::default().feed(running.as_bytes()), [Event { is_change: true, ..Event::default() }]);
        assert_eq!(
            Parser::default().feed(b"data: {\"eventType\":\"api_post_event\"}\n\n"),
            [Event { is_change: true, ..Event::default() }]
        );
        assert_eq!(Parser::default().feed(b": keep\n\n\r\n"), []);
    }

    /// An event with a whole plan in it is an event all the same.
    #[test]
    fn long_lines_are_not_held() {
        let mut parser = Parser::default();
        assert_eq!(parser.feed(b"event: deployment_success\ndata: "), []);
        for _ in 0..20 {
            assert_eq!(parser.feed(&vec![b'x'; LINE_BYTES_MAX / 8]), []);
            assert!(parser.line.len() <= LINE_BYTES_MAX);
        }
        assert_eq!(parser.feed(b"\n\n"), [Event { is_change: true, ..Event::default() }]);
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_are_the_same_events(sizes in prop::collection::vec(1_usize..60, 1..40)) {
            let (mut parser, mut events, mut rest) = (Parser::default(), Vec::new(), STREAM.as_bytes());
            for size in sizes {
                let (piece, after) = rest.split_at(size.min(rest.len()));
                events.extend(parser.feed(piece));
                rest = after;
            }
            events.extend(parser.feed(rest));
            prop_assert_eq!(events, expected());
        }

        #[test]
        fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            Parser::default().feed(&bytes);
        }
    }
}
