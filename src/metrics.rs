//! Every metric's name, unit and help, and the handles through which it is written.
//!
//! Handles are made when a table is compiled and live in the object they count for, so a request hashes no label. The recorder is the
//! embedder's, or our own [`Registry`]; nothing global is touched. A series of our registry lives as long as its handle: when a
//! route is gone from the table, and its last request has ended, so is its series. That bounds the registry by the table.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use metrics::{Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Label, Metadata, Recorder, SharedString, Unit};

use crate::names::Name;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Description {
    /// The name, with its unit last.
    pub name: &'static str,
    /// What it says, in one sentence.
    pub help: &'static str,
}

macro_rules! descriptions {
    ($($(#[$doc:meta])* $constant:ident = $name:literal, $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: Description = Description { name: $name, help: $help };)*
        /// All of them.
        pub const ALL: &[Description] = &[$($constant),*];
    };
}

descriptions! {
    REQUESTS = "nuncio_requests_total", "Requests answered, by route, upstream and status class.";
    REQUEST_DURATION = "nuncio_request_duration_seconds", "Time from the head of a request to the end of its response, by route, upstream and status class.";
    REQUESTS_IN_FLIGHT = "nuncio_requests_in_flight", "Requests being answered, by route and upstream.";
    REQUESTS_UNROUTED = "nuncio_requests_unrouted_total", "Requests answered before a route was found: malformed ones and those that no route takes.";
    RETRIES = "nuncio_retries_total", "Attempts beyond the first, by upstream and reason.";
    UPSTREAM_ERRORS = "nuncio_upstream_errors_total", "Requests and connections that failed for good, by upstream and cause.";
    UPSTREAM_CONNECTIONS = "nuncio_upstream_connections_total", "Connections and UDP sessions opened to endpoints, by upstream.";
    HEALTH_TRANSITIONS = "nuncio_health_transitions_total", "Endpoints that went up or down, by upstream and direction.";
    CONNECTIONS = "nuncio_connections_total", "Connections accepted, and UDP sessions begun, by listener.";
    CONNECTIONS_OPEN = "nuncio_connections_open", "Connections and UDP sessions open, by listener.";
    CONNECTIONS_REFUSED = "nuncio_connections_refused_total", "Connections closed before they were served, by listener and cause.";
    TCP_BYTES = "nuncio_tcp_bytes_total", "Bytes forwarded by TCP routes, by route and direction.";
    UDP_DATAGRAMS = "nuncio_udp_datagrams_total", "Datagrams forwarded by UDP routes, by route, upstream and direction.";
    UDP_BYTES = "nuncio_udp_bytes_total", "Bytes of datagrams forwarded by UDP routes, by route, upstream and direction.";
    UDP_DROPPED = "nuncio_udp_dropped_total", "Datagrams dropped by UDP routes, by route, upstream and reason.";
    TABLE_GENERATION = "nuncio_table_generation", "Generation of the table in force.";
    TABLE_COMPILE_DURATION = "nuncio_table_compile_duration_seconds", "Time to compile a table.";
    CHANGE_LATENCY = "nuncio_change_latency_seconds", "Time from a change being seen to its table being live.";
    PROBLEMS = "nuncio_problems", "Problems of the table in force, by severity.";
    PROVIDER_LIVE = "nuncio_provider_live", "Whether the provider's source answers, by provider.";
    PROVIDER_FROM_DISK = "nuncio_provider_from_disk", "Whether the provider is served from what an earlier run kept on disk, by provider.";
    PROVIDER_AGE = "nuncio_provider_last_contact_age", "Seconds since the provider's source was last heard from, or, before that, since what is in force of it was kept; by provider.";
    PROVIDER_CHANGE_AGE = "nuncio_provider_last_change_age", "Seconds since the latest change of the provider's source was seen, by provider.";
    PROVIDER_LAG = "nuncio_provider_lag", "Seconds by which what is in force may be behind the provider's source: since the source could be asked last, or since what is held was taken away there; 0 when nothing is known to be missing; by provider.";
    PROVIDER_REVISION = "nuncio_provider_revision", "The source's revision of the latest snapshot, by provider.";
    PROVIDER_RESTARTS = "nuncio_provider_restarts", "How often the provider was called again after a failure, by provider.";
    PROVIDER_REJECTED = "nuncio_provider_rejected_objects", "Objects and keys of the provider that cannot be read, by provider.";
    PROVIDER_HELD = "nuncio_provider_held", "Whether an update of the provider is held in part, because much would be gone that nobody deleted; by provider.";
    PROVIDER_HELD_UPDATES = "nuncio_provider_held_updates", "How many updates of the provider were held in part, by provider.";
    PROVIDER_CHANGE_LATENCY = "nuncio_provider_change_latency_seconds", "Time from a change being seen by the provider to its table being live, by provider.";
    ACCESS_LOG_LOST = "nuncio_access_log_lost_total", "Access log lines dropped because the disk or the reader was too slow.";
}

/// Upper bounds of the buckets of all histograms, in seconds: 100 µs to 60 s.
pub const BUCKETS: [f64; 16] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0];

/// Makes handles. Cheap to clone; all clones write to the same recorder.
#[derive(Clone)]
pub struct Meter {
    recorder: Arc<dyn Recorder + Send + Sync>,
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meter")
    }
}

impl Meter {
    /// A meter that writes to `recorder`.
    #[must_use]
    pub fn new(recorder: Arc<dyn Recorder + Send + Sync>) -> Self {
        for description in ALL {
            let (name, help) = (KeyName::from_const_str(description.name), SharedString::const_str(description.help));
            let unit = description.name.ends_with("_seconds").then_some(Unit::Seconds);
            match description.name {
                name_of if name_of.ends_with("_total") => recorder.describe_counter(name, unit, help),
                name_of if name_of.ends_with("_seconds") => recorder.describe_histogram(name, unit, help),
                _ => recorder.describe_gauge(name, unit, help),
            }
        }
        Self { recorder }
    }

    /// A counter of `what` with these labels.
    pub fn counter(&self, what: Description, labels: &[(&'static str, &str)]) -> Counter {
        self.recorder.register_counter(&key(what, labels), &METADATA)
    }

    /// A gauge of `what` with these labels.
    pub fn gauge(&self, what: Description, labels: &[(&'static str, &str)]) -> Gauge {
        self.recorder.register_gauge(&key(what, labels), &METADATA)
    }

    /// A histogram of `what` with these labels.
    pub fn histogram(&self, what: Description, labels: &[(&'static str, &str)]) -> Histogram {
        self.recorder.register_histogram(&key(what, labels), &METADATA)
    }
}

static METADATA: Metadata<'static> = Metadata::new("nuncio", metrics::Level::INFO, None);

fn key(what: Description, labels: &[(&'static str, &str)]) -> Key {
    let labels: Vec<Label> = labels.iter().map(|(name, value)| Label::new(*name, (*value).to_string())).collect();
    Key::from_parts(what.name, labels)
}

/// The handles of one route. Those of a status class are made when its first response is sent.
#[derive(Debug)]
pub struct RouteMetrics {
    meter: Meter,
    route: Name,
    upstream: String,
    classes: [OnceLock<(Counter, Histogram)>; 5],
    in_flight: Gauge,
}

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

impl RouteMetrics {
    /// The handles of `route`, which sends to `upstream`.
    #[must_use]
    pub fn new(meter: &Meter, route: &Name, upstream: Option<&Name>) -> Self {
        let upstream = upstream.map_or("", Name::as_str).to_string();
        let in_flight = meter.gauge(REQUESTS_IN_FLIGHT, &[("route", route.as_str()), ("upstream", &upstream)]);
        Self { meter: meter.clone(), route: route.clone(), upstream, classes: Default::default(), in_flight }
    }

    /// Notes that a request has come.
    pub fn begin(&self) {
        self.in_flight.increment(1.0);
    }

    /// Notes that a request is over: answered with `status` after `duration`, or, without a status, abandoned by its client.
    pub fn end(&self, status: Option<http::StatusCode>, duration: Duration) {
        self.in_flight.decrement(1.0);
        let Some(status) = status else { return };
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        let (Some(cell), Some(label)) = (self.classes.get(class), CLASSES.get(class)) else { return };
        let (count, latency) = cell.get_or_init(|| {
            let labels = [("route", self.route.as_str()), ("upstream", self.upstream.as_str()), ("status", *label)];
            (self.meter.counter(REQUESTS, &labels), self.meter.histogram(REQUEST_DURATION, &labels))
        });
        count.increment(1);
        latency.record(duration.as_secs_f64());
    }
}

/// The handles of one TCP route.
#[derive(Debug)]
pub struct TcpRouteMetrics {
    /// Its connections: each counts as a request, answered 200 if it ended as both sides wanted, 502 if not.
    pub connections: RouteMetrics,
    /// Bytes to endpoints.
    pub sent: Counter,
    /// Bytes from endpoints.
    pub received: Counter,
}

impl TcpRouteMetrics {
    /// The handles of `route`, which sends to `upstream`.
    #[must_use]
    pub fn new(meter: &Meter, route: &Name, upstream: &Name) -> Self {
        let bytes = |direction| {
            let labels = [("route", route.as_str()), ("upstream", upstream.as_str()), ("direction", direction)];
            meter.counter(TCP_BYTES, &labels)
        };
        Self { connections: RouteMetrics::new(meter, route, Some(upstream)), sent: bytes("to_endpoint"), received: bytes("to_client") }
    }
}

/// The handles of one UDP route.
#[derive(Debug)]
pub struct UdpRouteMetrics {
    meter: Meter,
    route: Name,
    upstream: Name,
    /// From clients to endpoints.
    pub requests: DatagramMetrics,
    /// From endpoints to clients.
    pub replies: DatagramMetrics,
    /// By [`UdpDrop`]; made when the first is dropped.
    dropped: [OnceLock<Counter>; UdpDrop::ALL.len()],
}

/// Datagrams of one direction.
#[derive(Debug)]
pub struct DatagramMetrics {
    datagrams: Counter,
    bytes: Counter,
}

impl DatagramMetrics {
    /// Counts datagrams that were sent on.
    pub fn count(&self, datagrams: usize, bytes: usize) {
        self.datagrams.increment(datagrams as u64);
        self.bytes.increment(bytes as u64);
    }
}

/// Why a datagram was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UdpDrop {
    /// The route's upstream is missing.
    NoUpstream,
    /// No endpoint is eligible.
    NoEndpoint,
    /// There can be no further session: `limits.sessions`, descriptors or ports are used up.
    NoSession,
    /// The endpoint, or the way to it, refused it.
    Endpoint,
    /// The client, or the way to it, refused it.
    Client,
}

impl UdpDrop {
    const ALL: [Self; 5] = [Self::NoUpstream, Self::NoEndpoint, Self::NoSession, Self::Endpoint, Self::Client];

    /// What it is called.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::NoUpstream => "no_upstream",
            Self::NoEndpoint => "no_endpoint",
            Self::NoSession => "no_session",
            Self::Endpoint => "endpoint",
            Self::Client => "client",
        }
    }
}

impl UdpRouteMetrics {
    /// The handles of `route`, which sends to `upstream`.
    #[must_use]
    pub fn new(meter: &Meter, route: &Name, upstream: &Name) -> Self {
        let direction = |direction: &str| {
            let labels = [("route", route.as_str()), ("upstream", upstream.as_str()), ("direction", direction)];
            DatagramMetrics { datagrams: meter.counter(UDP_DATAGRAMS, &labels), bytes: meter.counter(UDP_BYTES, &labels) }
        };
        let (requests, replies) = (direction("to_endpoint"), direction("to_client"));
        Self { meter: meter.clone(), route: route.clone(), upstream: upstream.clone(), requests, replies, dropped: Default::default() }
    }

    /// Counts datagrams that were dropped.
    pub fn dropped(&self, reason: UdpDrop, datagrams: usize) {
        let Some((cell, _)) = self.dropped.iter().zip(UdpDrop::ALL).find(|(_, known)| *known == reason) else { return };
        let labels = [("route", self.route.as_str()), ("upstream", self.upstream.as_str()), ("reason", reason.label())];
        cell.get_or_init(|| self.meter.counter(UDP_DROPPED, &labels)).increment(datagrams as u64);
    }
}

/// Counters of one object for events that are rare enough for a lock. Each is made when the first such event happens.
#[derive(Debug)]
struct Rare {
    meter: Meter,
    /// The kind of object.
    kind: &'static str,
    name: Name,
    counters: Mutex<HashMap<(&'static str, &'static str), Counter>>,
}

impl Rare {
    fn new(meter: &Meter, kind: &'static str, name: &Name) -> Self {
        Self { meter: meter.clone(), kind, name: name.clone(), counters: Mutex::default() }
    }

    fn count(&self, what: Description, label: &'static str, value: &'static str) {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || self.meter.counter(what, &[(self.kind, self.name.as_str()), (label, value)]);
        counters.entry((what.name, value)).or_insert_with(make).increment(1);
    }
}

/// The handles of one listener.
#[derive(Debug)]
pub struct ListenerMetrics {
    /// Connections accepted, and UDP sessions begun.
    pub accepted: Counter,
    /// Those that are open.
    pub open: Gauge,
    rare: Rare,
}

impl ListenerMetrics {
    /// The handles of `listener`.
    #[must_use]
    pub fn new(meter: &Meter, listener: &Name) -> Self {
        let label = [("listener", listener.as_str())];
        let (accepted, open) = (meter.counter(CONNECTIONS, &label), meter.gauge(CONNECTIONS_OPEN, &label));
        Self { accepted, open, rare: Rare::new(meter, "listener", listener) }
    }

    /// Counts a connection that was closed before it was served.
    pub fn refused(&self, cause: &'static str) {
        self.rare.count(CONNECTIONS_REFUSED, "cause", cause);
    }
}

/// The handles of one upstream.
#[derive(Debug)]
pub struct UpstreamMetrics {
    /// Connections opened to its endpoints.
    pub connections: Counter,
    rare: Rare,
}

impl UpstreamMetrics {
    /// The handles of `upstream`.
    #[must_use]
    pub fn new(meter: &Meter, upstream: &Name) -> Self {
        let connections = meter.counter(UPSTREAM_CONNECTIONS, &[("upstream", upstream.as_str())]);
        Self { connections, rare: Rare::new(meter, "upstream", upstream) }
    }

    /// Counts an attempt beyond the first.
    pub fn retry(&self, reason: &'static str) {
        self.rare.count(RETRIES, "reason", reason);
    }

    /// Counts a request or connection that failed for good.
    pub fn error(&self, cause: &'static str) {
        self.rare.count(UPSTREAM_ERRORS, "cause", cause);
    }

    /// Counts an endpoint that went up or down.
    pub fn transition(&self, to: &'static str) {
        self.rare.count(HEALTH_TRANSITIONS, "to", to);
    }
}

/// Our own recorder: keeps what handles still refer to, and writes it as Prometheus text.
#[derive(Default)]
pub struct Registry {
    series: Mutex<HashMap<Key, Series>>,
}

enum Series {
    Counter(Weak<Count>),
    Gauge(Weak<Level>),
    Histogram(Weak<Buckets>),
}

impl Recorder for Registry {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Series::Counter(held)) = series.get(key)
            && let Some(held) = held.upgrade()
        {
            return Counter::from_arc(held);
        }
        let count = Arc::new(Count::default());
        series.insert(key.clone(), Series::Counter(Arc::downgrade(&count)));
        Counter::from_arc(count)
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Series::Gauge(held)) = series.get(key)
            && let Some(held) = held.upgrade()
        {
            return Gauge::from_arc(held);
        }
        let level = Arc::new(Level::default());
        series.insert(key.clone(), Series::Gauge(Arc::downgrade(&level)));
        Gauge::from_arc(level)
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Series::Histogram(held)) = series.get(key)
            && let Some(held) = held.upgrade()
        {
            return Histogram::from_arc(held);
        }
        let buckets = Arc::new(Buckets::default());
        series.insert(key.clone(), Series::Histogram(Arc::downgrade(&buckets)));
        Histogram::from_arc(buckets)
    }
}

impl Registry {
    /// All living series as Prometheus text (exposition format 0.0.4). Forgets those that no handle refers to any more.
    #[must_use]
    pub fn render(&self) -> String {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        series.retain(|_, series| series.is_alive());
        let mut text = String::new();
        for description in ALL {
            let mut of_name: Vec<_> = series.iter().filter(|(key, _)| key.name() == description.name).collect();
            of_name.sort_by_key(|(key, _)| *key);
            let Some((_, first)) = of_name.first() else { continue };
            let _ = writeln!(text, "# HELP {} {}", description.name, description.help);
            let _ = writeln!(text, "# TYPE {} {}", description.name, first.kind());
            for (key, series) in of_name {
                series.write(key, &mut text);
            }
        }
        text
    }
}

impl Series {
    fn is_alive(&self) -> bool {
        match self {
            Self::Counter(held) => held.strong_count() > 0,
            Self::Gauge(held) => held.strong_count() > 0,
            Self::Histogram(held) => held.strong_count() > 0,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Counter(_) => "counter",
            Self::Gauge(_) => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }

    fn write(&self, key: &Key, text: &mut String) {
        let name = key.name();
        match self {
            Self::Counter(held) => {
                let Some(count) = held.upgrade() else { return };
                let _ = writeln!(text, "{name}{} {}", labels(key, None), count.0.load(Ordering::Relaxed));
            }
            Self::Gauge(held) => {
                let Some(level) = held.upgrade() else { return };
                let _ = writeln!(text, "{name}{} {}", labels(key, None), f64::from_bits(level.0.load(Ordering::Relaxed)));
            }
            Self::Histogram(held) => {
                let Some(buckets) = held.upgrade() else { return };
                buckets.write(key, text);
            }
        }
    }
}

fn labels(key: &Key, bound: Option<&str>) -> String {
    let own = key.labels().map(|label| (label.key(), label.value()));
    let mut text = String::new();
    for (name, value) in own.chain(bound.map(|bound| ("le", bound))) {
        let _ = write!(text, "{}{name}=\"", if text.is_empty() { '{' } else { ',' });
        for c in value.chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                c => text.push(c),
            }
        }
        text.push('"');
    }
    if !text.is_empty() {
        text.push('}');
    }
    text
}

#[derive(Default)]
struct Count(AtomicU64);

impl CounterFn for Count {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.0.fetch_max(value, Ordering::Relaxed);
    }
}

/// The bits of an `f64`.
#[derive(Default)]
struct Level(AtomicU64);

impl Level {
    fn update(&self, change: impl Fn(f64) -> f64) {
        let next = |bits| Some(change(f64::from_bits(bits)).to_bits());
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }
}

impl GaugeFn for Level {
    fn increment(&self, value: f64) {
        self.update(|level| level + value);
    }

    fn decrement(&self, value: f64) {
        self.update(|level| level - value);
    }

    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }
}

/// Counts per bucket; the last one is of what exceeds all bounds. The sum is in nanoseconds, so that adding is one instruction.
#[derive(Default)]
struct Buckets {
    counts: [AtomicU64; BUCKETS.len() + 1],
    sum_ns: AtomicU64,
}

impl HistogramFn for Buckets {
    fn record(&self, value: f64) {
        let bucket = BUCKETS.iter().position(|bound| value <= *bound).unwrap_or(BUCKETS.len());
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_ns.fetch_add((value * 1e9) as u64, Ordering::Relaxed);
    }
}

impl Buckets {
    fn write(&self, key: &Key, text: &mut String) {
        let name = key.name();
        let bounds = BUCKETS.iter().map(f64::to_string).chain(["+Inf".to_string()]);
        let mut total = 0;
        for (count, bound) in self.counts.iter().zip(bounds) {
            total += count.load(Ordering::Relaxed);
            let _ = writeln!(text, "{name}_bucket{} {total}", labels(key, Some(&bound)));
        }
        let sum = self.sum_ns.load(Ordering::Relaxed) as f64 / 1e9;
        let _ = writeln!(text, "{name}_sum{} {sum}", labels(key, None));
        let _ = writeln!(text, "{name}_count{} {total}", labels(key, None));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter() -> (Arc<Registry>, Meter) {
        let registry = Arc::new(Registry::default());
        (registry.clone(), Meter::new(registry))
    }

    #[test]
    fn writes_prometheus_text() {
        let (registry, meter) = meter();
        let count = meter.counter(CONNECTIONS, &[("listener", "a\"b\\c\nd")]);
        count.increment(3);
        let open = meter.gauge(CONNECTIONS_OPEN, &[]);
        open.increment(2.0);
        open.decrement(1.0);
        let text = registry.render();
        assert!(text.contains("# TYPE nuncio_connections_total counter\n"), "{text}");
        assert!(text.contains("nuncio_connections_total{listener=\"a\\\"b\\\\c\\nd\"} 3\n"), "{text}");
        assert!(text.contains("nuncio_connections_open 1\n"), "{text}");
    }

    #[test]
    fn buckets_are_cumulative() {
        let (registry, meter) = meter();
        let latency = meter.histogram(TABLE_COMPILE_DURATION, &[]);
        for seconds in [0.0001, 0.002, 100.0] {
            latency.record(seconds);
        }
        let text = registry.render();
        for line in ["_bucket{le=\"0.0001\"} 1", "_bucket{le=\"0.0025\"} 2", "_bucket{le=\"60\"} 2", "_bucket{le=\"+Inf\"} 3", "_count 3"] {
            assert!(text.contains(&format!("nuncio_table_compile_duration_seconds{line}\n")), "{line} in {text}");
        }
    }

    #[test]
    fn a_series_lives_as_long_as_its_handle() {
        let (registry, meter) = meter();
        let (web, shop) = (Name::literal("web"), Name::literal("shop"));
        let metrics = RouteMetrics::new(&meter, &web, Some(&shop));
        metrics.begin();
        metrics.end(Some(http::StatusCode::OK), Duration::from_millis(1));
        assert!(registry.render().contains("nuncio_requests_total{route=\"web\",upstream=\"shop\",status=\"2xx\"} 1\n"));
        drop(metrics);
        assert_eq!(registry.render(), "");
    }

    #[test]
    fn the_same_labels_are_the_same_series() {
        let (registry, meter) = meter();
        let labels = [("listener", "web")];
        let (first, second) = (meter.counter(CONNECTIONS, &labels), meter.counter(CONNECTIONS, &labels));
        first.increment(1);
        second.increment(1);
        assert!(registry.render().contains("nuncio_connections_total{listener=\"web\"} 2\n"));
    }
}
