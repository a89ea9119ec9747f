//! Results of probes in, up or down out. Pure: no clock, no endpoint.

use crate::routing::endpoint::Health;

/// What is concluded from the results so far.
///
/// ```text
///            success                        `fall` failures in a row
///  Unknown ───────────► Up ─────────────────────────────────────────────► Down
///     │                  ◄─────────────────────────────────────────────    ▲
///     │                                    `rise` successes in a row       │
///     └────────────────────────────────────────────────────────────────────┘
///            failure
/// ```
#[derive(Debug)]
pub(super) struct Threshold {
    rise: u16,
    fall: u16,
    health: Health,
    /// Results in a row that speak against `health`.
    against: u16,
}

impl Threshold {
    /// Begins with what is known: `health`. One that is not known is decided by the first result.
    pub(super) fn new(health: Health, rise: u16, fall: u16) -> Self {
        Self { rise, fall, health, against: 0 }
    }

    /// Takes in one result. Some: what the health is from now on, when that is another than before.
    pub(super) fn observe(&mut self, is_success: bool) -> Option<Health> {
        let verdict = if is_success { Health::Up } else { Health::Down };
        if verdict == self.health {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        if self.against < self.needed() {
            return None;
        }
        self.against = 0;
        self.health = verdict;
        Some(verdict)
    }

    /// How many results in a row change the health.
    fn needed(&self) -> u16 {
        match self.health {
            Health::Unchecked | Health::Unknown => 1,
            Health::Up => self.fall,
            Health::Down => self.rise,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the results, `+` and `-`, make of an endpoint: `U` up, `D` down, `.` no change.
    fn check(health: Health, results: &str, expected: &str) {
        let mut threshold = Threshold::new(health, 2, 3);
        let changes = results.chars().map(|result| match threshold.observe(result == '+') {
            Some(Health::Up) => 'U',
            Some(_) => 'D',
            None => '.',
        });
        assert_eq!(changes.collect::<String>(), expected, "{health}: {results}");
    }

    #[test]
    fn the_first_result_decides_alone() {
        check(Health::Unknown, "+++", "U..");
        check(Health::Unknown, "---", "D..");
    }

    #[test]
    fn rises_and_falls_by_results_in_a_row() {
        check(Health::Up, "--+---", ".....D");
        check(Health::Down, "+-++", "...U");
        check(Health::Unknown, "+---++---", "U..D.U..D");
    }

    /// Looks at the last results afresh every time.
    fn naive(start: Health, history: &[bool], rise: u16, fall: u16) -> Health {
        let ends_with = |end: usize, count: u16, result: bool| {
            let count = usize::from(count);
            end >= count && history[end - count..end].iter().all(|it| *it == result)
        };
        (1..=history.len()).fold(start, |health, end| match health {
            Health::Unknown | Health::Unchecked => [Health::Down, Health::Up][usize::from(history[end - 1])],
            Health::Up if ends_with(end, fall, false) => Health::Down,
            Health::Down if ends_with(end, rise, true) => Health::Up,
            unchanged => unchanged,
        })
    }

    proptest! {
        #[test]
        fn agrees_with_a_look_at_the_whole_history(
            start in prop::sample::select(vec![Health::Unknown, Health::Up, Health::Down]),
            history in prop::collection::vec(any::<bool>(), 0..60),
            (rise, fall) in (1u16..6, 1u16..6),
        ) {
            let mut threshold = Threshold::new(start, rise, fall);
            let mut health = start;
            for (end, is_success) in history.iter().enumerate() {
                let change = threshold.observe(*is_success);
                prop_assert_ne!(change, Some(health), "a change is to another health");
                health = change.unwrap_or(health);
                prop_assert_eq!(health, naive(start, &history[..=end], rise, fall));
            }
        }
    }
}
