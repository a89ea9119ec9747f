//! A configuration document that an HTTP server has: all that a file says, in TOML or JSON.
//!
//! It is asked for at intervals, or with `wait` by a request that the server answers when the document changes. A server that told an `ETag`
//! or a `Last-Modified` is asked only for what is new.
//!
//! * Any answer but 200 and 304 is an error, also 404: what cannot be had is not empty. Redirects are not followed.
//! * A document that cannot be read as a whole is a problem, and what it said before stays. Without a before it is an error.
//! * An empty document is empty. What is gone with a change of the document is only missing: much of that at once is held for a while.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tokio::time::Instant;

use super::http_client::{Answer, Aside, BODY_TIMEOUT, Credentials, HEAD_TIMEOUT, HttpError, Question};
use super::{Provider, ProviderError, Publisher};
use crate::backoff::{Backoff, random};
use crate::config::decode::{FileConfig, TomlFile, decode_json_document, decode_toml};
use crate::config::files::reuse;
use crate::config::providers::HttpConfig;
use crate::config::snapshot::{Place, Removals};
use crate::config::{Origin, Problem, Snapshot};
use crate::names::Name;

/// With `wait`, a server that answers at once is not asked again before this; if nothing changed, each time after twice as long.
const WAITED_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// How much longer than `wait` an answer may take.
const WAIT_SLACK: Duration = Duration::from_secs(5);

/// Asks for a document.
#[derive(Debug)]
pub struct HttpProvider {
    name: Name,
    config: HttpConfig,
    credentials: Credentials,
    /// The fields that ask only for what is new.
    validators: HeaderMap,
    /// The last document that was taken, whatever was in it.
    document: Option<Bytes>,
    /// What the last good one said.
    good: Option<Snapshot>,
    /// With `wait`, how soon to ask again a server that answers at once although nothing changed. It may not know how to wait, or have had
    /// another tag for the same document.
    eager: Backoff,
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Http(#[from] HttpError),
    #[error("{0}: redirects are not followed: write where it leads into `url`")]
    Redirected(StatusCode),
    #[error("{status}: {message}")]
    Refused { status: StatusCode, message: String },
    #[error("it is not a configuration: {0}")]
    Unreadable(String),
}

/// How a document is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Toml,
    Json,
}

impl HttpProvider {
    /// A provider of this name. It does nothing until it is watched.
    #[must_use]
    pub fn new(name: Name, config: HttpConfig) -> Self {
        let credentials = match (&config.username, &config.password, &config.token) {
            (Some(user), Some(password), _) => Credentials::basic(user, password),
            (_, _, Some(token)) => Credentials::field("authorization", &["Bearer ", token].concat()),
            _ => Credentials::default(),
        };
        let eager = Backoff::new(WAITED_INTERVAL_MIN, config.poll);
        Self { name, config, credentials, validators: HeaderMap::new(), document: None, good: None, eager }
    }

    async fn run(&mut self, publisher: &dyn Publisher) -> Result<(), ProviderError> {
        let mut aside = Aside::new(self.config.parts().0, self.config.tls.as_ref(), self.credentials.clone());
        loop {
            let asked_at = Instant::now();
            let answer = self.ask(&mut aside).await;
            let taken = answer.and_then(|answer| self.take(answer, publisher));
            let is_changed = taken.map_err(|cause| ProviderError { doing: format!("get {}", self.config.shown()), cause: cause.into() })?;
            tokio::time::sleep_until(asked_at + self.interval(is_changed, asked_at.elapsed(), random())).await;
        }
    }

    /// How long after the last question the next one is asked, if that was answered after `waited`.
    fn interval(&mut self, is_changed: bool, waited: Duration, random: u64) -> Duration {
        match self.config.wait {
            Some(wait) if is_changed || waited >= wait / 2 => {
                self.eager.reset();
                waited + WAITED_INTERVAL_MIN
            }
            Some(_) => waited + self.eager.next_delay(random),
            None => self.config.poll,
        }
    }

    async fn ask(&self, aside: &mut Aside) -> Result<Answer, Failure> {
        let mut fields = self.validators.clone();
        fields.insert(ACCEPT, HeaderValue::from_static("application/toml, application/json, */*;q=0.5"));
        if let Some(wait) = self.config.wait {
            let value = HeaderValue::try_from(format!("wait={}", wait.as_secs())).ok();
            fields.extend(value.map(|value| (HeaderName::from_static("prefer"), value)));
        }
        let head_limit = self.config.wait.map_or(HEAD_TIMEOUT, |wait| wait + WAIT_SLACK);
        let path = self.config.parts().1;
        let limits = [head_limit, BODY_TIMEOUT];
        let answer = aside.ask_with(&Question { method: Method::GET, path, fields: &fields, body: Bytes::new(), limits }).await;
        Ok(answer.map_err(HttpError::without_query)?)
    }

    /// Takes over an answer. Whether the document is another.
    fn take(&mut self, answer: Answer, publisher: &dyn Publisher) -> Result<bool, Failure> {
        match answer.status {
            StatusCode::OK => (),
            StatusCode::NOT_MODIFIED if self.document.is_some() => {
                publisher.contact();
                return Ok(false);
            }
            status if status.is_redirection() && status != StatusCode::NOT_MODIFIED => return Err(Failure::Redirected(status)),
            status => return Err(Failure::Refused { status, message: answer.quote() }),
        }
        let validators = validators(&answer.headers);
        if self.document.as_ref() == Some(&answer.body) {
            self.validators = validators;
            publisher.contact();
            return Ok(false);
        }
        let snapshot = match (self.decode(&answer), &self.good) {
            (Ok(mut snapshot), good) => {
                if let Some(good) = good {
                    reuse(&mut snapshot, good);
                }
                self.good = Some(snapshot.clone());
                snapshot
            }
            (Err(problems), Some(good)) => {
                let mut snapshot = Snapshot { seen_at: std::time::Instant::now(), ..good.clone() };
                let effect = |problem: Problem| problem.effect("what the document said before stays in force");
                snapshot.problems.extend(problems.into_iter().map(effect));
                snapshot
            }
            (Err(problems), None) => {
                return Err(Failure::Unreadable(problems.first().map_or_else(String::new, ToString::to_string)));
            }
        };
        (self.document, self.validators) = (Some(answer.body), validators);
        publisher.publish(snapshot);
        Ok(true)
    }

    fn decode(&self, answer: &Answer) -> Result<Snapshot, Vec<Problem>> {
        let path = Arc::new(PathBuf::from(self.config.shown()));
        let start = Origin { provider: self.name.clone(), place: Place::File { file: path.clone(), line: 1, column: 1 } };
        let text = std::str::from_utf8(&answer.body)
            .map_err(|error| vec![Problem::error(format!("it is not UTF-8 after byte {}", error.valid_up_to())).at(start)])?;
        let file = TomlFile { text, path, provider: &self.name };
        let now = std::time::Instant::now();
        let config = match format(&answer.headers, self.config.parts().1, text) {
            Format::Toml => decode_toml(&file, now),
            Format::Json => decode_json_document(&file, now),
        }?;
        let mut snapshot = Snapshot { removals: Removals::Inferred, ..config.snapshot.clone() };
        snapshot.problems.extend(of_process(&config));
        Ok(snapshot)
    }
}

/// What a document says of the process, where that is not read.
fn of_process(config: &FileConfig) -> Option<Problem> {
    let is_said = config.server_origin.is_some() || !config.providers.is_empty() || !config.problems.is_empty();
    let problem = Problem::warning("`server` and `providers` are read from the file of the start alone").effect("they are ignored here");
    let problem = match &config.server_origin {
        Some(origin) => problem.at(origin.clone()),
        None => problem,
    };
    is_said.then_some(problem)
}

/// The fields that ask for what is not the document of this answer.
fn validators(headers: &HeaderMap) -> HeaderMap {
    let fields = [(ETAG, IF_NONE_MATCH), (LAST_MODIFIED, IF_MODIFIED_SINCE)];
    fields.into_iter().filter_map(|(told, asked)| Some((asked, headers.get(told)?.clone()))).collect()
}

/// As the content type says, or else the name, or else the first character.
fn format(headers: &HeaderMap, path: &str, text: &str) -> Format {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_ascii_lowercase();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let name = path.split('?').next().unwrap_or_default();
    let is_by_start = || text.trim_start().starts_with('{');
    match kind {
        kind if kind.ends_with("/json") || kind.ends_with("+json") => Format::Json,
        kind if kind.ends_with("toml") => Format::Toml,
        _ if name.ends_with(".json") => Format::Json,
        _ if name.ends_with(".toml") => Format::Toml,
        _ if is_by_start() => Format::Json,
        _ => Format::Toml,
    }
}

impl Provider for HttpProvider {
    fn name(&self) -> &Name {
        &self.name
    }

    fn source(&self) -> Option<String> {
        Some(format!("http {}", self.config.shown()))
    }

    fn watch<'a>(&'a mut self, publisher: &'a dyn Publisher) -> Pin<Box<dyn Future<Output = Result<(), ProviderError>> + Send + 'a>> {
        Box::pin(self.run(publisher))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_told_by_type_name_and_start() {
        let check = |kind: &'static str, path: &str, text: &str, expected: Format| {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(format(&headers, path, text), expected, "{kind} {path}");
        };
        check("application/json; charset=utf-8", "/a.toml", "", Format::Json);
        check("application/problem+json", "/", "", Format::Json);
        check("application/toml", "/a.json", "", Format::Toml);
        check("application/octet-stream", "/a.json?v=1", "", Format::Json);
        check("text/plain", "/a.toml", "{", Format::Toml);
        check("text/plain", "/config", " {", Format::Json);
        check("text/plain", "/config", "[routes.a]", Format::Toml);
    }

    #[tokio::test]
    async fn the_query_is_never_shown() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let config = HttpConfig::of_url(&format!("http://{}/a.toml?sig=geheim", listener.local_addr().unwrap()));
        let provider = HttpProvider::new(Name::literal("http"), config);
        let answer = Answer { status: StatusCode::OK, headers: HeaderMap::new(), body: Bytes::from_static(b"[routes.a]\nmatch = 1") };
        let snapshot = provider.decode(&answer).unwrap();
        let said = format!("{:?} {snapshot:?}", provider.source());
        assert!(said.contains("/a.toml?…") && !said.contains("geheim"), "{said}");
        // Whoever listens there closes the connection.
        let closes = std::thread::spawn(move || drop(listener.accept()));
        let mut aside = Aside::new(provider.config.parts().0, None, Credentials::default());
        let error = provider.ask(&mut aside).await.unwrap_err().to_string();
        closes.join().unwrap();
        assert!(error.contains("/a.toml?…: ") && !error.contains("geheim"), "{error}");
    }

    #[test]
    fn a_server_that_does_not_wait_is_asked_at_intervals() {
        let waiting = HttpConfig { wait: Some(Duration::from_secs(30)), ..HttpConfig::of_url("http://a/b") };
        let mut provider = HttpProvider::new(Name::literal("http"), waiting);
        let mut millis = |is_changed, waited| provider.interval(is_changed, Duration::from_millis(waited), u64::MAX).as_millis();
        let eager: Vec<u128> = (0..8).map(|_| millis(false, 3)).collect();
        assert_eq!(eager, [103, 203, 403, 803, 1_603, 3_203, 5_003, 5_003]);
        assert_eq!((millis(false, 30_000), millis(false, 3), millis(true, 2_000), millis(false, 3)), (30_100, 103, 2_100, 103));
        let mut provider = HttpProvider::new(Name::literal("http"), HttpConfig::of_url("http://a/b"));
        assert_eq!(provider.interval(true, Duration::from_millis(3), 0), Duration::from_secs(5));
    }
}
