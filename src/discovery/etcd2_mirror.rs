//! What etcd's v2 API says → changes of a [`Tree`]. Pure: [`etcd2`](super::etcd2) does the I/O.
//!
//! The end of a directory is one event, which names the directory and none of its keys. So the keys are kept beside the tree.

use std::collections::BTreeSet;
use std::ops::Bound;

use serde::Deserialize;

use super::kv::{Pair, Tree};

/// An answer: to a read, with all that is there; or to a watch, with what happened.
#[derive(Debug, Deserialize)]
pub(super) struct Event {
    action: String,
    node: Node,
}

/// A key, or a directory with what is in it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    #[serde(default)]
    key: String,
    #[serde(default)]
    dir: bool,
    #[serde(default)]
    value: String,
    #[serde(default)]
    nodes: Vec<Node>,
    #[serde(default)]
    modified_index: u64,
}

/// Why there is no answer.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Refusal {
    /// etcd's own code, which is not the status.
    pub(super) error_code: u32,
    message: String,
    #[serde(default)]
    cause: String,
}

impl Refusal {
    /// There is no such key.
    pub(super) const NOT_FOUND: u32 = 100;
    /// The index asked for is older than the history. It comes with status 400.
    pub(super) const HISTORY_CLEARED: u32 = 401;
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { error_code, message, cause } = self;
        write!(f, "etcd error {error_code}: {message}")?;
        if cause.is_empty() { Ok(()) } else { write!(f, " ({cause})") }
    }
}

impl Event {
    /// The index of the change.
    pub(super) fn index(&self) -> u64 {
        self.node.modified_index
    }

    /// Whether the time to live of what is gone ran out: whoever wrote it may have been cut off, rather than have left.
    pub(super) fn is_expiry(&self) -> bool {
        self.action == "expire"
    }
}

/// What a store holds below a prefix.
#[derive(Debug)]
pub(super) struct Mirror {
    tree: Tree,
    /// The keys that have a value.
    keys: BTreeSet<String>,
}

impl Mirror {
    pub(super) fn new(tree: Tree) -> Self {
        Self { tree, keys: BTreeSet::new() }
    }

    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The directory that the prefix names.
    pub(super) fn directory(&self) -> &str {
        self.tree.prefix().trim_end_matches('/')
    }

    /// Takes over a whole list; None: the directory does not exist. Whether that changes anything.
    ///
    /// # Errors
    /// When there is a key where the directory should be: whatever that is, it is not a configuration.
    pub(super) fn replace(&mut self, list: Option<&Event>) -> Result<bool, NotADirectory> {
        let mut pairs = Vec::new();
        if let Some(list) = list {
            if !list.node.dir {
                return Err(NotADirectory(self.directory().to_owned()));
            }
            flatten(&list.node, &mut pairs);
        }
        self.keys = pairs.iter().map(|node| node.key.clone()).collect();
        Ok(self.tree.replace(pairs.into_iter().map(pair)))
    }

    /// Takes over a change. Whether it changes anything.
    ///
    /// # Errors
    /// As for [`replace`](Self::replace).
    pub(super) fn apply(&mut self, event: &Event) -> Result<bool, NotADirectory> {
        let Event { action, node } = event;
        match action.as_str() {
            "delete" | "expire" | "compareAndDelete" => Ok(self.drop_all(&node.key)),
            // A directory that is made, or gets another time to live, holds what it held: if it took a key's place, nothing.
            _ if node.dir => Ok(self.drop_one(&node.key)),
            _ if node.key == self.directory() => Err(NotADirectory(node.key.clone())),
            _ => {
                self.keys.insert(node.key.clone());
                Ok(self.tree.put(pair(node)))
            }
        }
    }

    /// A key, or a directory with all that is below it. It may be one that the prefix is below of.
    fn drop_all(&mut self, key: &str) -> bool {
        let below = format!("{}/", key.trim_end_matches('/'));
        let gone: Vec<String> = if self.tree.prefix().starts_with(&below) {
            self.keys.iter().cloned().collect()
        } else {
            let range = (Bound::Included(below.as_str()), Bound::Unbounded);
            self.keys.range::<str, _>(range).take_while(|key| key.starts_with(&below)).cloned().collect()
        };
        let mut is_changed = self.drop_one(key);
        for key in gone {
            is_changed |= self.drop_one(&key);
        }
        is_changed
    }

    fn drop_one(&mut self, key: &str) -> bool {
        self.keys.remove(key) && self.tree.delete(key.as_bytes())
    }
}

fn pair(node: &Node) -> Pair<'_> {
    Pair { key: node.key.as_bytes(), value: node.value.as_bytes(), revision: node.modified_index }
}

/// The keys of a directory. How deep they are is bounded by the JSON parser.
fn flatten<'a>(directory: &'a Node, keys: &mut Vec<&'a Node>) {
    for node in &directory.nodes {
        if node.dir {
            flatten(node, keys);
        } else {
            keys.push(node);
        }
    }
}

/// There is a key where a directory should be.
#[derive(Debug, thiserror::Error)]
#[error("{0} is a key, not a directory")]
pub(super) struct NotADirectory(String);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Name;
    use proptest::prelude::*;
    use std::time::Instant;

    fn event(json: &str) -> Event {
        serde_json::from_str(json).unwrap()
    }

    fn mirror() -> Mirror {
        let mut mirror = Mirror::new(Tree::new("/nuncio", Name::literal("etcd2")));
        let list = event(
            r#"{"action":"get","node":{"key":"/nuncio","dir":true,"nodes":[
                {"key":"/nuncio/upstreams","dir":true,"nodes":[
                    {"key":"/nuncio/upstreams/a","dir":true,"nodes":[
                        {"key":"/nuncio/upstreams/a/endpoints","dir":true,"nodes":[
                            {"key":"/nuncio/upstreams/a/endpoints/1","value":"10.0.0.1:80","modifiedIndex":7,"createdIndex":7},
                            {"key":"/nuncio/upstreams/a/endpoints/2","value":"10.0.0.2:80","modifiedIndex":8,"ttl":4,
                             "expiration":"2026-01-01T00:00:00Z","createdIndex":8}],"modifiedIndex":7}]},
                    {"key":"/nuncio/upstreams/ab","value":"{}","modifiedIndex":9},
                    {"key":"/nuncio/upstreams/empty","dir":true}]}]}}"#,
        );
        assert!(mirror.replace(Some(&list)).unwrap());
        mirror
    }

    fn upstreams(mirror: &Mirror) -> Vec<String> {
        let snapshot = mirror.tree().snapshot(None, Instant::now());
        assert!(snapshot.problems.is_empty(), "{:?}", snapshot.problems);
        snapshot.upstreams.iter().map(|(name, entry)| format!("{name}:{}", entry.endpoints.len())).collect()
    }

    #[test]
    fn a_list_is_all_there_is_and_empty_directories_are_nothing() {
        let mut mirror = mirror();
        assert_eq!(upstreams(&mirror), ["a:2", "ab:0"]);
        assert!(mirror.replace(None).unwrap());
        assert!(upstreams(&mirror).is_empty());
        assert!(!mirror.replace(None).unwrap());
    }

    #[test]
    fn the_end_of_a_directory_is_the_end_of_what_is_in_it_and_of_nothing_else() {
        for action in ["delete", "expire", "compareAndDelete"] {
            for (key, expected) in [
                ("/nuncio/upstreams/a", vec!["ab:0"]),
                ("/nuncio/upstreams/a/endpoints/1", vec!["a:1", "ab:0"]),
                ("/nuncio/upstreams/other", vec!["a:2", "ab:0"]),
                ("/nunci", vec!["a:2", "ab:0"]),
                ("/nuncio", vec![]),
                ("/", vec![]),
            ] {
                let mut mirror = mirror();
                let json = format!(r#"{{"action":"{action}","node":{{"key":"{key}","dir":true,"modifiedIndex":10}},"prevNode":{{}}}}"#);
                let is_changed = mirror.apply(&event(&json)).unwrap();
                assert_eq!(upstreams(&mirror), expected, "{action} {key}");
                assert_eq!(is_changed, expected != ["a:2", "ab:0"], "{action} {key}");
            }
        }
    }

    #[test]
    fn a_directory_that_is_made_is_no_object_and_one_that_is_renewed_keeps_what_is_in_it() {
        let mut mirror = mirror();
        assert!(!mirror.apply(&event(r#"{"action":"update","node":{"key":"/nuncio/upstreams/a","dir":true,"ttl":9}}"#)).unwrap());
        assert!(mirror.apply(&event(r#"{"action":"set","node":{"key":"/nuncio/upstreams/ab","dir":true}}"#)).unwrap());
        assert_eq!(upstreams(&mirror), ["a:2"]);
    }

    #[test]
    fn a_key_in_the_directorys_place_is_an_error_and_changes_nothing() {
        let mut mirror = mirror();
        let key = event(r#"{"action":"set","node":{"key":"/nuncio","value":"x","modifiedIndex":11}}"#);
        assert_eq!(mirror.apply(&key).unwrap_err().to_string(), "/nuncio is a key, not a directory");
        assert_eq!(mirror.replace(Some(&key)).unwrap_err().to_string(), "/nuncio is a key, not a directory");
        assert_eq!(upstreams(&mirror), ["a:2", "ab:0"]);
    }

    #[test]
    fn refusals_say_what_etcd_says() {
        let cleared = r#"{"errorCode":401,"message":"The event in requested index is outdated and cleared","cause":"the requested history has been cleared [3/1]","index":1002}"#;
        let refusal: Refusal = serde_json::from_str(cleared).unwrap();
        assert_eq!(refusal.error_code, Refusal::HISTORY_CLEARED);
        assert!(refusal.to_string().ends_with("outdated and cleared (the requested history has been cleared [3/1])"));
    }

    proptest! {
        /// The keys beside the tree are those in the tree, whatever happens: a list of what remains changes nothing.
        #[test]
        fn keys_and_tree_agree(steps in proptest::collection::vec((0..4_usize, "/nuncio(/upstreams)?(/[ab])?(/endpoints/[12])?"), 0..30)) {
            let mut mirror = mirror();
            for (action, key) in steps {
                let (action, dir) = [("set", false), ("delete", true), ("expire", false), ("create", true)][action];
                let json = serde_json::json!({"action": action, "node": {"key": key, "dir": dir, "value": "1.2.3.4:5", "modifiedIndex": 1}});
                let _ = mirror.apply(&serde_json::from_value(json).unwrap());
            }
            let below = |key: &&String| key.starts_with("/nuncio/");
            prop_assert_eq!(mirror.keys.iter().filter(|key| !below(key)).count(), 0);
            for key in mirror.keys.clone() {
                mirror.drop_all(&key);
            }
            prop_assert!(upstreams_and_problems(&mirror) == 0);
        }
    }

    fn upstreams_and_problems(mirror: &Mirror) -> usize {
        let snapshot = mirror.tree().snapshot(None, Instant::now());
        snapshot.upstreams.len() + snapshot.problems.len()
    }
}
