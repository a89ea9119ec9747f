//! The program that embeds us as a source of configuration.
//!
//! The program keeps the [`ProgramHandle`] and publishes whenever it likes, from any thread; the [`ProgramProvider`] goes to the
//! supervisor like any other provider.

use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use tokio::sync::watch;

use super::{Provider, ProviderError, Publisher};
use crate::config::{RoutingConfig, Snapshot};
use crate::names::Name;

/// The end that the supervisor runs. It finishes when every handle is gone; what was published last stays in force.
#[derive(Debug)]
pub struct ProgramProvider {
    name: Name,
    snapshots: watch::Receiver<Option<Snapshot>>,
}

/// The end that the program keeps. Clones publish to the same provider.
#[derive(Debug, Clone)]
pub struct ProgramHandle {
    name: Name,
    snapshots: watch::Sender<Option<Snapshot>>,
}

impl ProgramProvider {
    /// A provider of this name, and the handle that feeds it. Nothing is published until the handle says so.
    #[must_use]
    pub fn new(name: Name) -> (Self, ProgramHandle) {
        let (sender, receiver) = watch::channel(None);
        (Self { name: name.clone(), snapshots: receiver }, ProgramHandle { name, snapshots: sender })
    }

    async fn run(&mut self, publisher: &dyn Publisher) {
        // What is there already counts as new: an earlier call may have been dropped between taking and publishing it.
        self.snapshots.mark_changed();
        while self.snapshots.changed().await.is_ok() {
            let snapshot = self.snapshots.borrow_and_update().clone();
            if let Some(snapshot) = snapshot {
                publisher.publish(snapshot);
            }
        }
    }
}

impl Provider for ProgramProvider {
    fn name(&self) -> &Name {
        &self.name
    }

    fn watch<'a>(&'a mut self, publisher: &'a dyn Publisher) -> Pin<Box<dyn Future<Output = Result<(), ProviderError>> + Send + 'a>> {
        Box::pin(async move {
            self.run(publisher).await;
            Ok(())
        })
    }
}

impl ProgramHandle {
    /// Publishes `config` in place of what was published before. Never waits; of several calls in quick succession the last one counts.
    pub fn publish(&self, config: RoutingConfig) {
        self.publish_snapshot(Snapshot::of_program(config, &self.name, Instant::now()));
    }

    /// The same for a program that knows the origin of each object, or has objects that it could not read.
    pub fn publish_snapshot(&self, snapshot: Snapshot) {
        self.snapshots.send_replace(Some(snapshot));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Upstream;
    use crate::discovery::testing::Seen;

    fn config(upstreams: &[&'static str]) -> RoutingConfig {
        let upstreams = upstreams.iter().map(|name| (Name::literal(name), Upstream::default())).collect();
        RoutingConfig { upstreams, ..RoutingConfig::default() }
    }

    #[tokio::test]
    async fn the_last_one_counts_and_dropping_the_handle_ends_it() {
        let (mut provider, handle) = ProgramProvider::new(Name::literal("program"));
        handle.publish(config(&["a"]));
        handle.publish(config(&["a", "b"]));
        drop(handle);
        let seen = Seen::default();
        provider.watch(&seen).await.unwrap();
        assert_eq!(seen.all().iter().map(|snapshot| snapshot.upstreams.len()).collect::<Vec<_>>(), [2]);
    }

    #[tokio::test]
    async fn publishes_nothing_on_its_own() {
        let (mut provider, handle) = ProgramProvider::new(Name::literal("program"));
        drop(handle);
        let seen = Seen::default();
        provider.watch(&seen).await.unwrap();
        assert!(seen.all().is_empty());
    }
}
