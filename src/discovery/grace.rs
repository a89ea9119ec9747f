//! A route that is gone because its last endpoint is, answers 503 for a while.
//!
//! Registrations make routes: a label of a container, a template for services. When the last instance restarts, its route is gone for a
//! moment, and its requests would meet another route, without its middlewares, or a 404 that clients and caches believe. "Not now" is the
//! truth. A route whose upstream keeps endpoints was taken away on purpose, and is gone at once. Pure: `protect` says when.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::changes::changes;
use crate::config::snapshot::UpstreamEntry;
use crate::config::{Entry, Route, Snapshot, Upstream};
use crate::names::Name;

/// So many routes are kept at once; further ones are gone.
pub const KEPT_MAX: usize = 10_000;

/// The routes of a provider that are gone with their endpoints, and still answer.
#[derive(Debug, Default)]
pub(super) struct Grace(BTreeMap<Name, Kept>);

#[derive(Debug)]
struct Kept {
    until: Instant,
    route: Arc<Entry<Route>>,
    upstream: Name,
    settings: Arc<UpstreamEntry>,
}

impl Grace {
    /// Looks at what the provider has taken away and given back.
    pub(super) fn observe(&mut self, before: &Snapshot, after: &Snapshot, grace: Duration, now: Instant) {
        self.0.retain(|name, _| !after.routes.contains_key(name));
        for change in changes(&before.routes, &after.routes).filter(|change| change.after.is_none()) {
            let Some(route) = change.before else { continue };
            let Some((upstream, settings)) = went_with_its_endpoints(route, before, after) else { continue };
            if self.0.len() < KEPT_MAX {
                let kept = Kept { until: now + grace, route: route.clone(), upstream, settings: Arc::new(settings) };
                self.0.insert(change.name.clone(), kept);
            }
        }
    }

    /// When the next one is gone.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.values().map(|kept| kept.until).min()
    }

    /// Those whose time is up by now are gone.
    pub(super) fn pass_time(&mut self, now: Instant) {
        self.0.retain(|_, kept| kept.until > now);
    }

    /// Puts them where they were, each with an upstream that has no endpoints unless it has another one by now.
    pub(super) fn add_to(&self, snapshot: &mut Snapshot) {
        for (name, kept) in &self.0 {
            snapshot.routes.entry(name.clone()).or_insert_with(|| kept.route.clone());
            snapshot.upstreams.entry(kept.upstream.clone()).or_insert_with(|| kept.settings.clone());
        }
    }
}

/// The upstream of a route that is gone, without its endpoints, if it had registered ones and has none any more.
fn went_with_its_endpoints(route: &Entry<Route>, before: &Snapshot, after: &Snapshot) -> Option<(Name, UpstreamEntry)> {
    let name = route.value.as_ref().ok()?.upstream.as_ref()?;
    let was = before.upstreams.get(name).filter(|upstream| !upstream.endpoints.is_empty())?;
    if after.upstreams.get(name).is_some_and(|upstream| has_endpoints(upstream)) {
        return None;
    }
    let settings = match &was.settings {
        Some(Entry { value: Ok(upstream), .. }) => Upstream { endpoints: Vec::new(), ..upstream.clone() },
        _ => Upstream::default(),
    };
    let settings = Entry { origin: was.origin()?.clone(), value: Ok(settings) };
    Some((name.clone(), UpstreamEntry { settings: Some(settings), endpoints: BTreeMap::new() }))
}

fn has_endpoints(entry: &UpstreamEntry) -> bool {
    let listed = entry.settings.iter().filter_map(|settings| settings.value.as_ref().ok()).any(|upstream| !upstream.endpoints.is_empty());
    listed || !entry.endpoints.is_empty()
}
