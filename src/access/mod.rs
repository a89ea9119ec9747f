//! The access log: one line per request, written by a thread of its own, never by the worker that served the request.
//!
//! The queue to that thread is bounded. When the disk or the reader at the other end is too slow, lines are dropped and counted; traffic
//! does not wait.

mod output;

use std::fmt::{self, Write as _};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use metrics::Counter;

use self::output::Output;
use crate::names::Name;
use crate::socket::SocketAddress;

/// Lines that may wait to be written.
const QUEUE_LINES: usize = 65_536;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object per line.
    #[default]
    Json,
    /// The common log format with referrer and user agent, as Apache's `combined`.
    Common,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    /// To standard output.
    Stdout,
    /// To the end of this file.
    File(PathBuf),
}

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("on standard output"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What is known of one request when it is over.
#[derive(Debug)]
pub struct AccessEntry {
    peer: SocketAddr,
    at: SystemTime,
    method: Method,
    uri: Uri,
    version: Version,
    host: Option<HeaderValue>,
    referrer: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    pub(crate) generation: u64,
    pub(crate) route: Option<Name>,
    pub(crate) endpoint: Option<SocketAddress>,
    pub(crate) status: Option<StatusCode>,
    pub(crate) bytes: u64,
    pub(crate) duration: Duration,
    pub(crate) is_complete: bool,
    /// Whose fault it was, and what.
    pub(crate) failure: Option<(&'static str, &'static str)>,
}

impl AccessEntry {
    pub(crate) fn new<B>(peer: SocketAddr, request: &Request<B>) -> Self {
        let field = |headers: &HeaderMap, name| headers.get(name).cloned();
        Self {
            peer,
            at: SystemTime::now(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            host: field(request.headers(), header::HOST),
            referrer: field(request.headers(), header::REFERER),
            user_agent: field(request.headers(), header::USER_AGENT),
            generation: 0,
            route: None,
            endpoint: None,
            status: None,
            bytes: 0,
            duration: Duration::ZERO,
            is_complete: false,
            failure: None,
        }
    }
}

/// Takes entries from all workers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AccessLog {
    entries: SyncSender<Box<AccessEntry>>,
    lost: Arc<Counter>,
}

impl AccessLog {
    /// Starts the thread that writes to `sink`.
    ///
    /// # Errors
    /// The system's, when the file cannot be opened or there can be no further thread.
    pub fn start(sink: &Sink, format: Format, lost: Counter) -> io::Result<(Self, AccessLogWriter)> {
        let output = Output::open(sink)?;
        let (entries, queue) = sync_channel(QUEUE_LINES);
        let thread = std::thread::Builder::new().name("access-log".into()).spawn(move || write_all(&queue, output, format))?;
        Ok((Self { entries, lost: Arc::new(lost) }, AccessLogWriter { thread }))
    }

    /// Hands an entry over. Never waits.
    pub(crate) fn write(&self, entry: Box<AccessEntry>) {
        if let Err(TrySendError::Full(_)) = self.entries.try_send(entry) {
            self.lost.increment(1);
        }
    }
}

/// The thread that writes. It ends when every [`AccessLog`] is dropped and all is written.
#[derive(Debug)]
pub struct AccessLogWriter {
    thread: std::thread::JoinHandle<()>,
}

impl AccessLogWriter {
    /// Waits until all is written.
    pub fn join(self) {
        let _ = self.thread.join();
    }
}

fn write_all(queue: &Receiver<Box<AccessEntry>>, mut output: Output, format: Format) {
    while let Ok(first) = queue.recv() {
        output.follow();
        let mut line = String::new();
        for entry in std::iter::once(first).chain(queue.try_iter()) {
            line.clear();
            match format {
                Format::Json => entry.write_json(&mut line),
                Format::Common => entry.write_common(&mut line),
            }
            line.push('\n');
            output.write(line.as_bytes());
        }
        output.flush();
    }
}

impl AccessEntry {
    fn write_json(&self, line: &mut String) {
        let text = |value: &Option<HeaderValue>| value.as_ref().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let object = serde_json::json!({
            "time": humantime::format_rfc3339_millis(self.at).to_string(),
            "client": self.peer.to_string(),
            "method": self.method.as_str(),
            "host": self.host_text(),
            "path": self.uri.path_and_query().map_or("", |target| target.as_str()),
            "version": format!("{:?}", self.version),
            "status": self.status.map(|status| status.as_u16()),
            "bytes": self.bytes,
            "duration_ms": self.duration.as_secs_f64() * 1e3,
            "route": self.route.as_ref().map(Name::as_str),
            "endpoint": self.endpoint.as_ref().map(SocketAddress::to_string),
            "generation": self.generation,
            "complete": self.is_complete,
            "fault": self.failure.map(|(fault, _)| fault),
            "cause": self.failure.map(|(_, cause)| cause),
            "referrer": text(&self.referrer),
            "user_agent": text(&self.user_agent),
        });
        let _ = write!(line, "{object}");
    }

    fn write_common(&self, line: &mut String) {
        let quoted = |value: &Option<HeaderValue>| value.as_ref().map_or_else(|| "-".into(), |value| escape(value.as_bytes()));
        let target = self.uri.path_and_query().map_or("", |target| target.as_str());
        let status = self.status.map_or(499, |status| status.as_u16());
        let _ = write!(
            line,
            "{} - - [{}] \"{} {} {:?}\" {status} {} \"{}\" \"{}\"",
            self.peer.ip(),
            humantime::format_rfc3339_seconds(self.at),
            self.method,
            escape(target.as_bytes()),
            self.version,
            self.bytes,
            quoted(&self.referrer),
            quoted(&self.user_agent),
        );
    }

    fn host_text(&self) -> Option<String> {
        let authority = self.uri.authority().map(|authority| authority.as_str().to_string());
        authority.or_else(|| self.host.as_ref().map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned()))
    }
}

/// Text inside quotes: what could end them, or the line, is escaped.
fn escape(text: &[u8]) -> String {
    String::from_utf8_lossy(text)
        .chars()
        .flat_map(|c| if matches!(c, '"' | '\\') || c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> AccessEntry {
        let request =
            Request::get("/a\u{22}b?x=1".replace('"', "%22")).header("host", "a.test").header("user-agent", "x\"y").body(()).unwrap();
        let mut entry = AccessEntry::new("127.0.0.1:9".parse().unwrap(), &request);
        entry.at = SystemTime::UNIX_EPOCH;
        (entry.status, entry.bytes, entry.is_complete) = (Some(StatusCode::OK), 12, true);
        entry
    }

    #[test]
    fn json_is_one_object_a_line() {
        let mut line = String::new();
        entry().write_json(&mut line);
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["host"], "a.test");
        assert_eq!(object["path"], "/a%22b?x=1");
        assert_eq!(object["status"], 200);
        assert_eq!(object["user_agent"], "x\"y");
    }

    #[test]
    fn common_escapes_quotes() {
        let mut line = String::new();
        entry().write_common(&mut line);
        assert_eq!(line, r#"127.0.0.1 - - [1970-01-01T00:00:00Z] "GET /a%22b?x=1 HTTP/1.1" 200 12 "-" "x\"y""#);
    }
}
