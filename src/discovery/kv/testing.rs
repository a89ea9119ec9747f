//! For tests of layouts: what a tree says, and the property that all of them have.

use std::collections::BTreeMap;
use std::time::Instant;

use proptest::test_runner::TestCaseError;

use super::{Pair, Tree};
use crate::config::{Problem, Snapshot};

/// A pair as a store has it.
pub(super) fn pair<'a>(key: &'a str, value: &'a str, revision: u64) -> Pair<'a> {
    Pair { key: key.as_bytes(), value: value.as_bytes(), revision }
}

/// What is published.
pub(super) fn snapshot(tree: &Tree) -> Snapshot {
    tree.snapshot(None, Instant::now())
}

/// Changes one by one lead to what reading the whole store leads to, and tell whether they changed anything. Without a value the key is
/// deleted.
pub(super) fn check_incremental_is_whole<'a>(
    empty: impl Fn() -> Tree,
    steps: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
) -> Result<(), TestCaseError> {
    let mut store = BTreeMap::new();
    let mut tree = empty();
    for (key, value) in steps {
        let before = said(&tree);
        let is_changed = match value {
            Some(value) => {
                store.insert(key, value);
                tree.put(pair(key, value, 0))
            }
            None => {
                store.remove(key);
                tree.delete(key.as_bytes())
            }
        };
        proptest::prop_assert_eq!(is_changed, said(&tree) != before);
        let pairs = || store.iter().map(|(key, value)| pair(key, value, 0));
        let mut read = empty();
        read.replace(pairs());
        proptest::prop_assert_eq!(said(&tree), said(&read));
        proptest::prop_assert!(!read.replace(pairs()));
    }
    Ok(())
}

/// All that a snapshot says, but for the keys that say it: of several that say the same, which one counts does not matter.
fn said(tree: &Tree) -> String {
    let now = snapshot(tree);
    let wrong = |problem: &Problem| (problem.message.clone(), problem.help.clone());
    let upstreams: Vec<_> = now
        .upstreams
        .iter()
        .map(|(name, upstream)| {
            let settings = upstream.settings.as_ref().map(|settings| settings.value.as_ref().map_err(wrong));
            let endpoints: Vec<_> = upstream.endpoints.iter().map(|(id, entry)| (id, entry.value.as_ref().map_err(wrong))).collect();
            format!("{name} {settings:?} {endpoints:?}")
        })
        .collect();
    let routes: Vec<_> = now.routes.iter().map(|(name, entry)| (name, entry.value.as_ref().map_err(wrong))).collect();
    let Snapshot { listeners, certificates, middlewares, tcp_routes, udp_routes, problems, .. } = &now;
    format!("{upstreams:?} {routes:?} {listeners:?} {certificates:?} {middlewares:?} {tcp_routes:?} {udp_routes:?} {problems:?}")
}
