//! Warnings about single requests and connections. There can be as many of them as there is traffic: of each kind one is said at once,
//! and those that follow within a second are counted and told as one line.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;

use crate::names::Name;

/// How often one kind is told.
const EVERY: Duration = Duration::from_secs(1);

/// Kinds that are told apart at a time; all beyond are one. So this is also the most lines a second.
const KINDS_MAX: usize = 128;

/// What went wrong with one request or connection.
#[derive(Debug, Clone)]
pub(crate) struct Warning {
    pub(crate) route: Option<Name>,
    pub(crate) upstream: Option<Name>,
    pub(crate) status: Option<StatusCode>,
    /// A short word, one of those in the program's text.
    pub(crate) cause: &'static str,
    pub(crate) text: String,
}

/// What is counted together: one cause at one upstream or, where there is none, of one route.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Kind {
    upstream: Option<Name>,
    route: Option<Name>,
    cause: &'static str,
}

/// What followed the last line of a kind: the first of it, and how many more.
#[derive(Debug)]
struct Counted {
    said_at: Instant,
    next: Option<(Warning, u64)>,
}

/// The kinds of the last second, of all workers.
#[derive(Debug, Default)]
pub struct Warnings(Mutex<HashMap<Kind, Counted>>);

impl Warnings {
    /// Says it, or counts it.
    pub(crate) fn warn(&self, warning: Warning, now: Instant) {
        if let Some(warning) = self.admit(warning, now) {
            warning.say(0);
        }
    }

    /// Tells what was counted for a second.
    pub(crate) fn tell(&self, now: Instant) {
        self.due(now).into_iter().for_each(|(warning, more)| warning.say(more));
    }

    /// Tells what was counted until now. For the end, when no further warning may come to tell it.
    pub fn tell_all(&self) {
        self.tell(Instant::now() + EVERY);
    }

    /// Gives it back when it is to be said now.
    fn admit(&self, warning: Warning, now: Instant) -> Option<Warning> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = Some(warning.kind()).filter(|kind| kinds.len() < KINDS_MAX || kinds.contains_key(kind));
        match kinds.entry(kind.unwrap_or_default()) {
            Entry::Vacant(unsaid) => {
                unsaid.insert(Counted { said_at: now, next: None });
                return Some(warning);
            }
            Entry::Occupied(mut said) => match &mut said.get_mut().next {
                Some((_, more)) => *more += 1,
                none => *none = Some((warning, 0)),
            },
        }
        None
    }

    /// Takes what is to be told, and forgets the kinds that did not come again.
    fn due(&self, now: Instant) -> Vec<(Warning, u64)> {
        let mut due = Vec::new();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, counted| {
            if now.saturating_duration_since(counted.said_at) < EVERY {
                return true;
            }
            counted.said_at = now;
            let next = counted.next.take();
            let has_come_again = next.is_some();
            due.extend(next);
            has_come_again
        });
        due
    }
}

impl Warning {
    fn kind(&self) -> Kind {
        let route = if self.upstream.is_some() { None } else { self.route.clone() };
        Kind { upstream: self.upstream.clone(), route, cause: self.cause }
    }

    fn say(&self, more: u64) {
        let [route, upstream] = [&self.route, &self.upstream].map(|name| name.as_ref().map(Name::as_str));
        let status = self.status.map(|status| status.as_u16());
        let more = if more == 0 { String::new() } else { format!(" (and {} more like it in the last second)", grouped(more)) };
        tracing::warn!(route, upstream, status, "{}{more}", self.text);
    }
}

/// `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warning(upstream: &str, cause: &'static str) -> Warning {
        let upstream = Some(Name::new(upstream).unwrap());
        Warning { route: Some(Name::literal("r")), upstream, status: None, cause, text: String::new() }
    }

    fn due(warnings: &Warnings, now: Instant) -> Vec<(&'static str, u64)> {
        warnings.due(now).into_iter().map(|(warning, more)| (warning.cause, more)).collect()
    }

    #[test]
    fn the_first_is_said_and_the_others_are_counted() {
        let (warnings, start) = (Warnings::default(), Instant::now());
        let said = (0..1000).filter(|_| warnings.admit(warning("a", "refused"), start).is_some()).count();
        assert_eq!(said, 1);
        assert!(warnings.admit(warning("a", "reset"), start).is_some() && warnings.admit(warning("b", "refused"), start).is_some());
        assert_eq!(due(&warnings, start + EVERY / 2), []);
        assert_eq!(due(&warnings, start + EVERY), [("refused", 998)]);
        assert!(warnings.admit(warning("a", "refused"), start + EVERY).is_none());
        assert_eq!(due(&warnings, start + EVERY * 2), [("refused", 0)]);
        assert_eq!(due(&warnings, start + EVERY * 3), []);
        assert!(warnings.0.lock().unwrap().is_empty());
        assert!(warnings.admit(warning("a", "refused"), start + EVERY * 3).is_some());
    }

    #[test]
    fn kinds_are_bounded_and_none_is_lost() {
        let (warnings, start) = (Warnings::default(), Instant::now());
        let said = (0..5000).filter(|number| warnings.admit(warning(&number.to_string(), "refused"), start).is_some()).count();
        assert_eq!(said, KINDS_MAX + 1);
        let told: u64 = warnings.due(start + EVERY).into_iter().map(|(_, more)| 1 + more).sum();
        assert_eq!(said as u64 + told, 5000);
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 12, 123, 1234, 123_456, 1_234_567].map(grouped), ["0", "12", "123", "1,234", "123,456", "1,234,567"]);
    }
}
