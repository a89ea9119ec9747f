//! Endpoints whose registrations come and go get no traffic until they stay.
//!
//! A registration that flaps belongs to an instance that crashes as soon as it is asked, to a registrar that renews it too late, or to two
//! of them that fight for one key. Each time, the table would change, sessions would move and connections be cut. So an endpoint that was
//! gone several times within a minute is left out when it returns, until it has stayed for a while. An upstream never loses its last
//! endpoint that way. Pure: `protect` says when.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::changes::changes;
use crate::config::problem::{Kind, ObjectId};
use crate::config::snapshot::UpstreamEntry;
use crate::config::{Problem, Snapshot};
use crate::names::Name;

/// One that was gone this often within [`FLAPPING_WITHIN`] flaps.
pub const FLAPS: usize = 3;
/// How long it counts that an endpoint was gone.
pub const FLAPPING_WITHIN: Duration = Duration::from_secs(60);
/// Of so many endpoints it is known that they were gone; of further ones it is not noted.
pub const WATCHED_MAX: usize = 10_000;

/// The endpoints of a provider that were gone of late, by upstream and id.
#[derive(Debug, Default)]
pub(super) struct HoldDown(HashMap<(Name, Name), Flapping>);

#[derive(Debug, Default)]
struct Flapping {
    /// When it was gone. At most [`FLAPS`].
    gone_at: VecDeque<Instant>,
    /// It is back, and gets traffic from then on.
    until: Option<Instant>,
}

impl Flapping {
    fn is_recent(&self, now: Instant) -> bool {
        self.gone_at.back().is_some_and(|at| now.saturating_duration_since(*at) < FLAPPING_WITHIN)
    }
}

impl HoldDown {
    /// Looks at what the provider has taken away and given back. One that flaps must stay for `stable_for`.
    pub(super) fn observe(&mut self, before: &Snapshot, after: &Snapshot, stable_for: Duration, now: Instant) {
        self.0.retain(|_, flapping| flapping.is_recent(now) || flapping.until.is_some_and(|until| until > now));
        let none = BTreeMap::new();
        for change in changes(&before.upstreams, &after.upstreams) {
            let was = change.before.map_or(&none, |upstream| &upstream.endpoints);
            let is = change.after.map_or(&none, |upstream| &upstream.endpoints);
            for id in was.keys().filter(|id| !is.contains_key(*id)) {
                self.is_gone(change.name, id, now);
            }
            if self.0.is_empty() {
                continue;
            }
            for id in is.keys().filter(|id| !was.contains_key(*id)) {
                self.is_back(change.name, id, now + stable_for);
            }
        }
    }

    fn is_gone(&mut self, upstream: &Name, id: &Name, now: Instant) {
        let key = (upstream.clone(), id.clone());
        if self.0.len() >= WATCHED_MAX && !self.0.contains_key(&key) {
            return;
        }
        let flapping = self.0.entry(key).or_default();
        flapping.until = None;
        flapping.gone_at.push_back(now);
        while flapping.gone_at.len() > FLAPS {
            flapping.gone_at.pop_front();
        }
    }

    fn is_back(&mut self, upstream: &Name, id: &Name, until: Instant) {
        let Some(flapping) = self.0.get_mut(&(upstream.clone(), id.clone())) else { return };
        let (Some(first), Some(last)) = (flapping.gone_at.front(), flapping.gone_at.back()) else { return };
        if flapping.gone_at.len() >= FLAPS && last.saturating_duration_since(*first) < FLAPPING_WITHIN {
            flapping.until = Some(until);
        }
    }

    /// When the next one has stayed long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.values().filter_map(|flapping| flapping.until).min()
    }

    /// Those that have stayed long enough by now get traffic.
    pub(super) fn pass_time(&mut self, now: Instant) {
        self.0.values_mut().filter(|flapping| flapping.until.is_some_and(|until| until <= now)).for_each(|flapping| flapping.until = None);
    }

    /// Leaves them out.
    pub(super) fn leave_out(&self, snapshot: &mut Snapshot) {
        let mut hidden: BTreeMap<&Name, Vec<&Name>> = BTreeMap::new();
        for ((upstream, id), _) in self.0.iter().filter(|(_, flapping)| flapping.until.is_some()) {
            hidden.entry(upstream).or_default().push(id);
        }
        for (name, mut ids) in hidden {
            let Some(entry) = snapshot.upstreams.get_mut(name) else { continue };
            ids.retain(|id| entry.endpoints.contains_key(*id));
            ids.sort_unstable();
            if ids.is_empty() || !has_others(entry, &ids) {
                continue;
            }
            let entry = Arc::make_mut(entry);
            for id in ids {
                let Some(endpoint) = entry.endpoints.remove(id) else { continue };
                let object = ObjectId { kind: Kind::Endpoint, name: format!("{name}/{id}") };
                let problem = Problem::warning(format!("it was gone {FLAPS} times within {} s", FLAPPING_WITHIN.as_secs()));
                let effect = "it gets no traffic until its registration stays";
                snapshot.problems.push(problem.about(object).at(endpoint.origin).effect(effect));
            }
        }
    }
}

/// Whether the upstream has endpoints beside these.
fn has_others(entry: &UpstreamEntry, ids: &[&Name]) -> bool {
    let registered = entry.endpoints.iter().any(|(id, endpoint)| endpoint.value.is_ok() && !ids.contains(&id));
    let listed = entry.settings.iter().filter_map(|settings| settings.value.as_ref().ok());
    registered || listed.into_iter().any(|upstream| !upstream.endpoints.is_empty())
}
