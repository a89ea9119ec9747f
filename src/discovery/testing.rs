//! For tests: who listens to a provider.

use std::sync::{Mutex, PoisonError};

use super::Publisher;
use crate::config::Snapshot;

/// Keeps what is published.
#[derive(Default)]
pub(super) struct Seen(Mutex<Vec<Snapshot>>);

impl Seen {
    /// All of it, the oldest first.
    pub(super) fn all(&self) -> Vec<Snapshot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Publisher for Seen {
    fn publish(&self, snapshot: Snapshot) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(snapshot);
    }

    fn contact(&self) {}
}
