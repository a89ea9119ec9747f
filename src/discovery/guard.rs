//! Holds back an update that would take away much at once, unless the source said that it was deleted.
//!
//! A list that comes back short may mean that all is gone, or that the source lost its mind: a registry that restarts empty, a filter that
//! matches nothing, a cluster restored from the wrong backup. The two look alike, and one of them is an outage. So what is missing from a
//! list is [inferred](Removals::Inferred) to be gone; too much of it at once is kept in force for a while, and all else of the update is
//! taken over. It is let go when the source repeats it, when time is up, or when someone confirms it.
//!
//! Pure: `protect` says when.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::changes::changes;
use crate::config::problem::Kind;
use crate::config::protection::Protection;
use crate::config::snapshot::{Removals, Snapshot, UpstreamEntry};
use crate::names::Name;

/// What is gone of one kind, or of one upstream's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// The kind.
    pub kind: Kind,
    /// Of endpoints, their upstream.
    pub upstream: Option<Name>,
    /// Which.
    pub names: Vec<Name>,
    /// How many there were.
    pub of: usize,
}

/// Of so many kinds and upstreams it is told what is gone; of the others, how many they are.
const TOLD_MAX: usize = 8;

/// What is gone, in a few words: `3 of 4 routes, 8 of 9 endpoints of upstream `web``.
#[must_use]
pub fn tell(gone: &[Gone]) -> String {
    let what: Vec<String> = gone.iter().take(TOLD_MAX).map(ToString::to_string).collect();
    match gone.len().saturating_sub(TOLD_MAX) {
        0 => what.join(", "),
        more => format!("{}, and of {more} more", what.join(", ")),
    }
}

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plural = if self.of == 1 { "" } else { "s" };
        write!(f, "{} of {} {}{plural}", self.names.len(), self.of, self.kind)?;
        self.upstream.iter().try_for_each(|upstream| write!(f, " of upstream `{upstream}`"))
    }
}

/// Whether so much of `before` is missing in `after` that it is held. Of an upstream's endpoints there must also be so many fewer than at the
/// `start` of what is looked at: instances that register themselves anew, under other ids, are not gone.
#[must_use]
pub fn is_too_much(protection: &Protection, start: &Snapshot, before: &Snapshot, after: &Snapshot) -> bool {
    let exceeds = |gone: usize, of: usize| gone > protection.gone_few && gone * 100 > of * usize::from(protection.gone_percent);
    let count = |snapshot: &Snapshot, upstream: &Name| snapshot.upstreams.get(upstream).map_or(0, |upstream| upstream.endpoints.len());
    let is_fewer = |upstream: &Name| {
        let (was, is) = (count(start, upstream), count(after, upstream));
        exceeds(was.saturating_sub(is), was)
    };
    let is_too_much = |gone: &Gone| exceeds(gone.names.len(), gone.of) && gone.upstream.as_ref().is_none_or(is_fewer);
    after.removals == Removals::Inferred && gone(before, after).iter().any(is_too_much)
}

/// What `before` has and `after` has not. Endpoints are those with keys of their own.
#[must_use]
pub fn gone(before: &Snapshot, after: &Snapshot) -> Vec<Gone> {
    let mut all = Vec::new();
    let mut add = |kind, upstream: Option<&Name>, names: Vec<Name>, of| {
        if !names.is_empty() {
            all.push(Gone { kind, upstream: upstream.cloned(), names, of });
        }
    };
    add(Kind::Listener, None, missing(&before.listeners, &after.listeners), before.listeners.len());
    add(Kind::Route, None, missing(&before.routes, &after.routes), before.routes.len());
    add(Kind::TcpRoute, None, missing(&before.tcp_routes, &after.tcp_routes), before.tcp_routes.len());
    add(Kind::UdpRoute, None, missing(&before.udp_routes, &after.udp_routes), before.udp_routes.len());
    add(Kind::Upstream, None, missing(&before.upstreams, &after.upstreams), before.upstreams.len());
    add(Kind::Middleware, None, missing(&before.middlewares, &after.middlewares), before.middlewares.len());
    add(Kind::Certificate, None, missing(&before.certificates, &after.certificates), before.certificates.len());
    let none = BTreeMap::new();
    for change in changes(&before.upstreams, &after.upstreams) {
        let Some(was) = change.before.map(|upstream| &upstream.endpoints) else { continue };
        let is = change.after.map_or(&none, |upstream| &upstream.endpoints);
        add(Kind::Endpoint, Some(change.name), missing(was, is), was.len());
    }
    all
}

fn missing<T>(before: &BTreeMap<Name, T>, after: &BTreeMap<Name, T>) -> Vec<Name> {
    before.keys().filter(|name| !after.contains_key(*name)).cloned().collect()
}

/// What `before` has and `after` has not, as a snapshot of its own. Of an upstream that stays, it holds the endpoints that are gone.
#[must_use]
pub fn lost(before: &Snapshot, after: &Snapshot) -> Snapshot {
    let mut lost = before.clone();
    lost.problems.clear();
    lost.listeners.retain(|name, _| !after.listeners.contains_key(name));
    lost.routes.retain(|name, _| !after.routes.contains_key(name));
    lost.tcp_routes.retain(|name, _| !after.tcp_routes.contains_key(name));
    lost.udp_routes.retain(|name, _| !after.udp_routes.contains_key(name));
    lost.middlewares.retain(|name, _| !after.middlewares.contains_key(name));
    lost.certificates.retain(|name, _| !after.certificates.contains_key(name));
    lost.upstreams.retain(|name, entry| {
        let Some(after) = after.upstreams.get(name) else { return true };
        if missing(&entry.endpoints, &after.endpoints).is_empty() {
            return false;
        }
        let endpoints = entry.endpoints.iter().filter(|(id, _)| !after.endpoints.contains_key(*id));
        let endpoints = endpoints.map(|(id, entry)| (id.clone(), entry.clone())).collect();
        *entry = Arc::new(UpstreamEntry { settings: None, endpoints });
        true
    });
    lost
}

/// `snapshot` with all of `held` that it does not have itself.
#[must_use]
pub fn with_held(mut snapshot: Snapshot, held: &Snapshot) -> Snapshot {
    add(&mut snapshot.listeners, &held.listeners);
    add(&mut snapshot.routes, &held.routes);
    add(&mut snapshot.tcp_routes, &held.tcp_routes);
    add(&mut snapshot.udp_routes, &held.udp_routes);
    add(&mut snapshot.middlewares, &held.middlewares);
    add(&mut snapshot.certificates, &held.certificates);
    for (name, held) in &held.upstreams {
        match snapshot.upstreams.get_mut(name) {
            None => drop(snapshot.upstreams.insert(name.clone(), held.clone())),
            Some(entry) if missing(&held.endpoints, &entry.endpoints).is_empty() => {}
            Some(entry) => add(&mut Arc::make_mut(entry).endpoints, &held.endpoints),
        }
    }
    snapshot
}

fn add<T: Clone>(to: &mut BTreeMap<Name, T>, held: &BTreeMap<Name, T>) {
    for (name, entry) in held {
        to.entry(name.clone()).or_insert_with(|| entry.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;
    use crate::discovery::kv::{Pair, Tree};

    /// Routes by number, and endpoints of upstreams by number.
    type Keys = (BTreeSet<u8>, BTreeSet<(u8, u8)>);

    fn snapshot((routes, endpoints): &Keys, port: u16, removals: Removals) -> Snapshot {
        let mut tree = Tree::new("/n", Name::literal("test"));
        let mut put = |key: String, value: String| tree.put(Pair { key: key.as_bytes(), value: value.as_bytes(), revision: 1 });
        for route in routes {
            put(format!("/n/routes/{route}"), r#"{"match":"Host(\"a\")","upstream":"0"}"#.into());
        }
        for (upstream, id) in endpoints {
            put(format!("/n/upstreams/{upstream}/endpoints/{id}"), format!("10.0.0.{id}:{port}"));
        }
        Snapshot { removals, ..tree.snapshot(None, Instant::now()) }
    }

    fn keys_of(snapshot: &Snapshot) -> Keys {
        let number = |name: &Name| name.as_str().parse().unwrap();
        let endpoints = |(name, entry): (&Name, &Arc<UpstreamEntry>)| {
            let upstream = number(name);
            entry.endpoints.keys().map(move |id| (upstream, number(id))).collect::<Vec<_>>()
        };
        (snapshot.routes.keys().map(number).collect(), snapshot.upstreams.iter().flat_map(endpoints).collect())
    }

    fn keys() -> impl Strategy<Value = Keys> {
        (prop::collection::btree_set(0..12u8, 0..12), prop::collection::btree_set((0..3u8, 1..8u8), 0..20))
    }

    proptest! {
        #[test]
        fn held_is_all_that_is_gone_and_nothing_else(before in keys(), after in keys()) {
            let (old, new) = (snapshot(&before, 80, Removals::Inferred), snapshot(&after, 81, Removals::Inferred));
            let held = with_held(new.clone(), &lost(&old, &new));
            prop_assert_eq!(keys_of(&held), (&before.0 | &after.0, &before.1 | &after.1));
            // What the update has itself is as the update says.
            for (name, entry) in &new.upstreams {
                for (id, endpoint) in &entry.endpoints {
                    prop_assert_eq!(&held.upstreams[name].endpoints[id], endpoint);
                }
            }
            prop_assert!(gone(&held, &with_held(new, &held)).is_empty());
        }

        #[test]
        fn only_much_that_nobody_deleted_is_held(before in keys(), after in keys()) {
            let protection = Protection::default();
            let (old, new) = (snapshot(&before, 80, Removals::Inferred), snapshot(&after, 80, Removals::Inferred));
            let too_much = |gone: usize, of: usize| gone > 2 && 2 * gone > of;
            let upstreams = |keys: &Keys| keys.1.iter().map(|(upstream, _)| *upstream).collect::<BTreeSet<_>>();
            let of = |keys: &Keys, upstream: u8| keys.1.iter().filter(|key| key.0 == upstream).copied().collect::<BTreeSet<_>>();
            let (had, has) = (upstreams(&before), upstreams(&after));
            let is_one_cut = had.iter().any(|upstream| {
                let (had, has) = (of(&before, *upstream), of(&after, *upstream));
                too_much((&had - &has).len(), had.len()) && too_much(had.len().saturating_sub(has.len()), had.len())
            });
            let expected = too_much((&before.0 - &after.0).len(), before.0.len()) || too_much((&had - &has).len(), had.len()) || is_one_cut;
            prop_assert_eq!(is_too_much(&protection, &old, &old, &new), expected);
            prop_assert!(!is_too_much(&protection, &old, &old, &snapshot(&after, 80, Removals::Explicit)));
            prop_assert!(!is_too_much(&protection, &old, &old, &old));
        }
    }

    #[test]
    fn what_is_gone_is_told() {
        let before = (BTreeSet::new(), (1..=4).map(|id| (0, id)).collect());
        let after = (BTreeSet::new(), [(0, 4)].into());
        let gone = gone(&snapshot(&before, 80, Removals::Inferred), &snapshot(&after, 80, Removals::Inferred));
        assert_eq!(gone.iter().map(ToString::to_string).collect::<Vec<_>>(), ["3 of 4 endpoints of upstream `0`"]);
    }
}
