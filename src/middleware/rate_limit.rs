//! Bounds the rate of requests, of each client or of all together. Those above it are answered 429 with `Retry-After`.
//!
//! The algorithm is GCRA (ITU-T I.371), a leaky bucket that needs one number per client: `rate` requests per `per`, spread evenly, of
//! which up to `burst` may come at once. Limits hold for one instance, not for all instances together.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::{Quota, RateLimiter};
use http::header::RETRY_AFTER;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::rate_cells::RateCells;
use super::{BuildError, Exchange, Flow, RequestHead, Step, answer};
use crate::duration;

/// A bound on the rate of requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Requests per `per`.
    pub rate: NonZeroU32,
    /// The time in which `rate` requests are let through. Default 1 s.
    #[serde(default = "second", with = "duration")]
    pub per: Duration,
    /// Requests that may come at once. Default: as many as `rate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<NonZeroU32>,
    /// What shares one limit: `"client_ip"` (default), `"route"`, or `{ header = "X-Api-Key" }`.
    #[serde(default)]
    pub key: RateKey,
}

/// What shares one limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateKey {
    /// Each address of a client has its own limit. Of an IPv6 address the first 64 bits count: clients choose the others freely.
    #[default]
    ClientIp,
    /// All requests that pass this middleware share one limit. Routes that refer to a shared middleware by its name share it too.
    Route,
    /// Each value of this header field has its own limit. Requests without it share one.
    Header(String),
}

fn second() -> Duration {
    Duration::from_secs(1)
}

impl RateLimit {
    pub(super) fn build(&self) -> Result<impl Step + use<>, BuildError> {
        self.build_with(DefaultClock::default())
    }

    fn build_with<C>(&self, clock: C) -> Result<Limit<C>, BuildError>
    where
        C: Clock + Send + Sync + std::fmt::Debug,
        C::Instant: Send + Sync + std::fmt::Debug,
    {
        let error = |message: &str| BuildError(format!("rate_limit: {message}"));
        let quota =
            Quota::with_period(self.per / self.rate.get()).ok_or_else(|| error("more than one request per nanosecond is no limit"))?;
        let quota = quota.allow_burst(self.burst.unwrap_or(self.rate));
        if quota.replenish_interval().saturating_mul(quota.burst_size().get()) > BURST_TIME_MAX {
            return Err(error("`burst` requests take more than a year at this rate"));
        }
        let key = match &self.key {
            RateKey::ClientIp => Key::ClientIp,
            RateKey::Route => Key::All,
            RateKey::Header(name) => Key::Header(name.parse().map_err(|_| error(&format!("{name:?} is not a valid header field name")))?),
        };
        let cells = RateCells::new(quota.replenish_interval());
        Ok(Limit { key, hasher: RandomState::new(), limiter: RateLimiter::new(quota, cells, clock) })
    }
}

/// How long a burst may take to be made good again: the cells count nanoseconds in 64 bits.
const BURST_TIME_MAX: Duration = Duration::from_secs(366 * 86_400);

/// The limits of all keys. A key is the hash of what it is taken of: it needs no memory of its own, whatever clients send. The hash is
/// seeded at random, so that nobody can find two that meet.
#[derive(Debug)]
struct Limit<C: Clock> {
    key: Key,
    hasher: RandomState,
    limiter: RateLimiter<u64, RateCells, C, NoOpMiddleware<C::Instant>>,
}

#[derive(Debug)]
enum Key {
    ClientIp,
    All,
    Header(HeaderName),
}

impl<C> Step for Limit<C>
where
    C: Clock + Send + Sync + std::fmt::Debug,
    C::Instant: Send + Sync + std::fmt::Debug,
{
    fn request(&self, head: &mut RequestHead, exchange: &mut Exchange) -> Flow {
        match self.limiter.check_key(&self.key(head, exchange)) {
            Ok(()) => Flow::Continue,
            Err(not_until) => Flow::Respond(too_many(not_until.wait_time_from(self.limiter.clock().now()))),
        }
    }
}

impl<C: Clock> Limit<C> {
    fn key(&self, head: &RequestHead, exchange: &Exchange) -> u64 {
        match &self.key {
            Key::All => 0,
            Key::ClientIp => self.hasher.hash_one(network(exchange.client_ip)),
            Key::Header(name) => self.hasher.hash_one(head.headers.get(name).map(HeaderValue::as_bytes)),
        }
    }
}

/// The part of an address that says whose it is.
fn network(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        // The first 16 bits of an IPv6 address in use are not zero, so that it never meets an IPv4 address here.
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
    }
}

fn too_many(wait: Duration) -> Box<Response<Bytes>> {
    let mut response = answer::text(StatusCode::TOO_MANY_REQUESTS, "Too many requests.\n");
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    response
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;
    use crate::middleware::testing::{exchange, request};

    fn limit(json: &str) -> (impl Step + use<>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (serde_json::from_str::<RateLimit>(json).unwrap().build_with(clock.clone()).unwrap(), clock)
    }

    /// How many of ten requests come through, and what the last one is told to wait.
    fn ten(step: &impl Step, ip: &str, headers: &[(&str, &str)]) -> (usize, Option<String>) {
        let mut wait = None;
        let through = (0..10).filter(|_| {
            let mut exchange = Exchange { client_ip: ip.parse().unwrap(), ..exchange() };
            match step.request(&mut request("/", headers), &mut exchange) {
                Flow::Respond(answer) => {
                    assert_eq!(answer.status(), 429);
                    wait = Some(answer.headers()[RETRY_AFTER].to_str().unwrap().to_owned());
                    false
                }
                _ => true,
            }
        });
        (through.count(), wait)
    }

    #[test]
    fn lets_bursts_through_and_then_the_rate() {
        let (step, clock) = limit(r#"{"rate":1,"per":"10s","burst":3}"#);
        assert_eq!(ten(&step, "10.0.0.1", &[]), (3, Some("10".into())));
        clock.advance(Duration::from_millis(9500));
        assert_eq!(ten(&step, "10.0.0.1", &[]), (0, Some("1".into())));
        clock.advance(Duration::from_millis(10_500));
        assert_eq!(ten(&step, "10.0.0.1", &[]), (2, Some("10".into())));
    }

    #[test]
    fn each_key_has_its_own_limit() {
        let (step, _clock) = limit(r#"{"rate":2}"#);
        assert_eq!(ten(&step, "10.0.0.1", &[]).0, 2);
        assert_eq!(ten(&step, "::ffff:10.0.0.1", &[]).0, 0, "the same client");
        assert_eq!(ten(&step, "10.0.0.2", &[]).0, 2);
        assert_eq!(ten(&step, "2001:db8::1", &[]).0, 2);
        assert_eq!(ten(&step, "2001:db8::2", &[]).0, 0, "the same network");

        let (step, _clock) = limit(r#"{"rate":2,"key":"route"}"#);
        assert_eq!((ten(&step, "10.0.0.1", &[]).0, ten(&step, "10.0.0.2", &[]).0), (2, 0));

        let (step, _clock) = limit(r#"{"rate":2,"key":{"header":"X-Key"}}"#);
        assert_eq!(ten(&step, "10.0.0.1", &[("x-key", "a")]).0, 2);
        assert_eq!(ten(&step, "10.0.0.2", &[("x-key", "a")]).0, 0);
        assert_eq!(ten(&step, "10.0.0.1", &[("x-key", "b")]).0, 2);
        assert_eq!((ten(&step, "10.0.0.1", &[]).0, ten(&step, "10.0.0.2", &[]).0), (2, 0));
    }

    #[test]
    fn refuses_what_is_no_limit() {
        let check = |json: &str| serde_json::from_str::<RateLimit>(json).unwrap().build().err().unwrap().0;
        assert!(check(r#"{"rate":2,"per":"1ns"}"#).contains("no limit"));
        assert!(check(r#"{"rate":1,"per":"1year","burst":1000}"#).contains("more than a year"));
        assert!(check(r#"{"rate":1,"key":{"header":"a b"}}"#).contains("\"a b\" is not"));
        assert!(serde_json::from_str::<RateLimit>(r#"{"rate":0}"#).is_err());
        assert!(serde_json::from_str::<RateLimit>(r#"{"rate":1,"brst":1}"#).is_err());
    }
}
