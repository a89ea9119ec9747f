//! Keys that belong to no object, and what else is to be said of keys.

use std::collections::BTreeMap;

use super::STRAYS_MAX;
use super::objects::is_equal_problem;
use crate::config::Problem;

/// Why a key belongs to no object.
pub(super) struct Stray {
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Stray {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    pub(super) fn help(self, help: String) -> Self {
        Self { help: Some(help), ..self }
    }

    pub(super) fn problem(self) -> Problem {
        Problem { help: self.help, ..Problem::error(self.message).effect("the key is ignored") }
    }
}

/// Keys that belong to no object.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Strays {
    /// Invariant: at most [`STRAYS_MAX`].
    problems: BTreeMap<Box<[u8]>, Problem>,
    /// Whether there were more. Forgotten when the whole tree is read again: to know sooner, all keys would have to be kept.
    has_more: bool,
}

impl Strays {
    pub(super) fn put(&mut self, key: &[u8], problem: Problem) -> bool {
        if self.problems.len() < STRAYS_MAX || self.problems.contains_key(key) {
            let is_same = self.problems.get(key).is_some_and(|held| is_equal_problem(held, &problem));
            if !is_same {
                self.problems.insert(key.into(), problem);
            }
            return !is_same;
        }
        !std::mem::replace(&mut self.has_more, true)
    }

    /// Says this of a key, or no longer anything. Whether that is new.
    pub(super) fn set(&mut self, key: &str, problem: Option<Problem>) -> bool {
        match problem {
            Some(problem) => self.put(key.as_bytes(), problem),
            None => self.delete(key.as_bytes()),
        }
    }

    pub(super) fn delete(&mut self, key: &[u8]) -> bool {
        self.problems.remove(key).is_some()
    }

    pub(super) fn problems(&self) -> Vec<Problem> {
        let more = self
            .has_more
            .then(|| Stray::new(format!("more than {STRAYS_MAX} keys belong to no object; the others are not listed")).problem());
        self.problems.values().cloned().chain(more).collect()
    }
}
