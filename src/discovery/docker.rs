//! The containers of a Docker engine, described by their labels: `follower` knows the containers, `labels` what they say.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Instant;

use super::containers::{Container, bearers};
use super::follower::{Follower, Listener};
use super::kv::Tree;
use super::labels::Said;
use super::{Provider, ProviderError, Publisher};
use crate::config::providers::{Convention, Conventions, DockerConfig};
use crate::config::snapshot::Removals;
use crate::config::{Problem, Snapshot};
use crate::names::Name;

/// Watches the containers of an engine.
#[derive(Debug)]
pub struct DockerProvider {
    follower: Follower,
    reader: Reader,
}

/// What containers say, as it was published last.
#[derive(Debug)]
struct Reader {
    name: Name,
    config: DockerConfig,
    conventions: Conventions,
    tree: Tree,
    /// What was wrong beside the objects when they were published last. None: nothing was published yet.
    problems: Option<Vec<Problem>>,
}

struct Publishing<'a> {
    reader: &'a mut Reader,
    publisher: &'a dyn Publisher,
}

impl DockerProvider {
    /// A provider of this name. It does nothing until it is watched.
    #[must_use]
    pub fn new(name: Name, config: DockerConfig) -> Self {
        let tree = Tree::new("", name.clone());
        let conventions = config.conventions();
        let follower = Follower::new(config.clone(), conventions.has(Convention::Registrator));
        Self { follower, reader: Reader { name, config, conventions, tree, problems: None } }
    }
}

impl Listener for Publishing<'_> {
    /// Publishes what the containers say, if that is new.
    fn hear(&mut self, containers: &[Container], stopping: &BTreeSet<String>) {
        let Self { reader, publisher } = self;
        let now = Instant::now();
        let said = Said::by(&bearers(containers, stopping, &reader.config), &reader.conventions, &reader.name);
        let is_changed = reader.tree.replace_at(said.pairs());
        if !is_changed && reader.problems.as_ref() == Some(&said.problems) {
            return publisher.contact();
        }
        // An engine that answers knows which containers it runs.
        let mut snapshot = Snapshot { removals: Removals::Explicit, ..reader.tree.snapshot(None, now) };
        snapshot.problems.extend(said.problems.iter().cloned());
        reader.problems = Some(said.problems);
        publisher.publish(snapshot);
    }
}

impl Provider for DockerProvider {
    fn name(&self) -> &Name {
        &self.reader.name
    }

    fn source(&self) -> Option<String> {
        Some(format!("docker {}{}", self.reader.config.endpoint, self.reader.conventions.describe()))
    }

    fn watch<'a>(&'a mut self, publisher: &'a dyn Publisher) -> Pin<Box<dyn Future<Output = Result<(), ProviderError>> + Send + 'a>> {
        let mut publishing = Publishing { reader: &mut self.reader, publisher };
        let follower = &mut self.follower;
        Box::pin(async move { follower.run(&mut publishing).await })
    }
}
