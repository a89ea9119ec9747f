//! What protects the table from sources that lose their mind: `[server.protection]` of a configuration file.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::duration;

/// How much of a provider's objects may be gone at once, and how those are treated that come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Protection {
    /// Up to this share of what there is of a kind, or of one upstream's endpoints, may be gone at once without having been deleted. In
    /// percent. Default 50.
    #[serde(deserialize_with = "deserialize_percent")]
    pub gone_percent: u8,
    /// And, whatever share that is, up to this many. Default 2.
    pub gone_few: usize,
    /// How long more than that is held. Default 30 s; zero: never.
    #[serde(with = "duration")]
    pub hold: Duration,
    /// A source that still says the same after this long is believed. What is gone within it counts as gone at once. Default 10 s.
    #[serde(with = "duration")]
    pub confirm_after: Duration,
    /// An endpoint whose registration comes and goes gets no traffic until it has stayed for this long, unless it is the only one.
    /// Default 10 s; zero: it does at once.
    #[serde(with = "duration")]
    pub hold_down: Duration,
    /// A route that is gone with all registered endpoints of its upstream answers 503 for this long, rather than leaving its requests to
    /// other routes. Default 60 s; zero: it does not.
    #[serde(with = "duration")]
    pub grace: Duration,
}

impl Default for Protection {
    fn default() -> Self {
        Self {
            gone_percent: 50,
            gone_few: 2,
            hold: Duration::from_secs(30),
            confirm_after: Duration::from_secs(10),
            hold_down: Duration::from_secs(10),
            grace: Duration::from_secs(60),
        }
    }
}

impl Protection {
    /// None at all: whatever a source says is in force at once.
    pub const NONE: Self = Self {
        gone_percent: 100,
        gone_few: usize::MAX,
        hold: Duration::ZERO,
        confirm_after: Duration::ZERO,
        hold_down: Duration::ZERO,
        grace: Duration::ZERO,
    };
}

fn deserialize_percent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    match u8::deserialize(deserializer)? {
        percent @ 0..=100 => Ok(percent),
        percent => Err(serde::de::Error::custom(format!("{percent} is not a share: from 0 to 100 percent"))),
    }
}
