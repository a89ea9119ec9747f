//! Follows what names stand for: asks again when an answer has run out, and keeps the last good one when nobody can say.
//!
//! | answer | what becomes of it |
//! |---|---|
//! | records | they hold for their TTL, but at least [`TTL_MIN`] and at most [`TTL_MAX`]; [`TTL_MAX_LOCAL`] for names inside a cluster |
//! | no records: `NXDOMAIN`, or an empty answer | the name has no hosts. If it had some, it must be said for [`GRACE`] |
//! | `SERVFAIL`, refused, none in time | nobody could say: the last good records stay, and it is asked again with back-off, as often as their TTL says |
//!
//! One task looks up all names, [`ACTIVE_MAX`] at a time.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::lookup::{Lookup, NameServers};
use crate::backoff::{Backoff, random};

/// The shortest time for which records hold. A TTL of 0 or 1 s is meant to be asked for often, not for every request.
pub const TTL_MIN: Duration = Duration::from_secs(1);
/// The longest time for which records hold. TTLs are made for caches of the whole internet; a proxy must see that an endpoint is gone.
pub const TTL_MAX: Duration = Duration::from_secs(30);
/// The same for names of one part, and for `tasks.NAME`: they are answered on this machine. Docker gives all of them a TTL of 600 s, and
/// replaces the addresses behind them at any time.
pub const TTL_MAX_LOCAL: Duration = Duration::from_secs(5);
/// How long a name that had records must have none before they go. That a name is gone is an inference: servers say so too while they
/// start, or read their zones anew.
pub const GRACE: Duration = Duration::from_secs(5);
/// How soon a name without records is asked for again, while its last ones are on grace.
const GRACE_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest and the longest wait after nobody could say, or a name never had records. Records that there were are asked for as soon as
/// if they had held, and a name that nothing is known of after the shortest wait: so the end of an outage is noticed as soon as any change is.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// The shortest wait after nobody could say: where an answer was waited for, that counts.
const RETRY_AFTER_SILENCE: Duration = Duration::from_millis(100);
/// Names that are looked up at a time.
pub const ACTIVE_MAX: usize = 128;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Question {
    /// The addresses of a host: `A` and `AAAA` records.
    Host(Arc<str>),
    /// The places of a service: `SRV` records.
    Service(Arc<str>),
}

/// One thing that a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Record {
    /// An address of a host.
    Ip(IpAddr),
    /// A place of a service (RFC 2782).
    Service {
        /// Lower ones are used first.
        priority: u16,
        /// The share among those of one priority.
        weight: u16,
        /// The port.
        port: u16,
        /// The host.
        target: Arc<str>,
    },
}

/// What was answered, one outcome per type of record.
pub(super) type Answer = Vec<Outcome>;

/// What was answered to one question for one type of record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Records, sorted, and for how long they hold.
    Found { records: Vec<Record>, ttl: Duration },
    /// There are none.
    Nothing,
    /// Nobody could say: why.
    Failed(String),
}

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// What it stands for, sorted.
    pub records: Arc<[Record]>,
    /// What was answered last.
    pub state: State,
}

/// What was answered last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum State {
    /// Nothing yet.
    #[default]
    Pending,
    /// Records.
    Found,
    /// That there are none. Records that there were may still be on grace.
    Nothing,
    /// Nobody could say: why. Records that there were stay.
    Failed(String),
}

impl Question {
    /// The name that is asked for.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Host(name) | Self::Service(name) => name,
        }
    }

    fn ttl_max(&self) -> Duration {
        let name = self.name().trim_end_matches('.');
        if name.contains('.') && !name.starts_with("tasks.") { TTL_MAX } else { TTL_MAX_LOCAL }
    }
}

impl Outcome {
    pub(super) fn records(&self) -> &[Record] {
        match self {
            Self::Found { records, .. } => records,
            Self::Nothing | Self::Failed(_) => &[],
        }
    }
}

/// Follows names until it is stopped or dropped.
#[derive(Debug)]
pub struct Resolver {
    shared: Arc<Shared>,
    wanted: watch::Sender<HashSet<Question>>,
    tasks: TaskTracker,
    stop: DropGuard,
}

#[derive(Debug, Default)]
struct Shared {
    known: Mutex<HashMap<Question, Known>>,
    changed: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<Question, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resolver {
    /// Starts the task that asks `servers`, on the current runtime.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use = "dropping the resolver stops it"]
    pub fn start(servers: NameServers) -> Self {
        let shared = Arc::new(Shared::default());
        let (wanted, questions) = watch::channel(HashSet::new());
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        tasks.spawn(stop.clone().run_until_cancelled_owned(follow(servers, questions, shared.clone())));
        tasks.close();
        Self { shared, wanted, tasks, stop: stop.drop_guard() }
    }

    /// Follows these names, and forgets all others.
    pub fn follow(&self, questions: HashSet<Question>) {
        self.wanted.send_if_modified(|wanted| {
            let is_new = *wanted != questions;
            if is_new {
                *wanted = questions;
            }
            is_new
        });
    }

    /// What is known of a name.
    #[must_use]
    pub fn known(&self, question: &Question) -> Known {
        self.shared.lock().get(question).cloned().unwrap_or_default()
    }

    /// Waits until something else is known than when this was last awaited, of any name. For one caller; dropping the future loses
    /// nothing.
    pub async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// Stops looking up, and waits for the end of it.
    pub async fn stop(self) {
        drop(self.stop);
        self.tasks.wait().await;
    }
}

/// A name that is followed.
struct Followed {
    /// The last good records, per type.
    parts: Vec<Vec<Record>>,
    known: Known,
    /// Since when a name that had records is said to have none.
    gone_since: Option<Instant>,
    backoff: Backoff,
    /// How long the last good records held, at most. The shortest wait, until there were some.
    ttl: Duration,
    /// When it is asked for. None: it is just being asked for.
    due: Option<Instant>,
    /// When it was asked for last.
    asked_at: Instant,
}

impl Followed {
    fn new(due: Instant) -> Self {
        let backoff = Backoff::new(RETRY.0, RETRY.1);
        Self { parts: Vec::new(), known: Known::default(), gone_since: None, backoff, ttl: RETRY.0, due: Some(due), asked_at: due }
    }

    /// Takes in an answer, and says in which time to ask again.
    fn apply(&mut self, answer: &Answer, ttl_max: Duration, now: Instant, random: u64) -> Duration {
        self.parts.resize_with(answer.len(), Vec::new);
        let failure = answer.iter().find_map(|outcome| match outcome {
            Outcome::Failed(why) => Some(why.clone()),
            Outcome::Found { .. } | Outcome::Nothing => None,
        });
        let ttl = answer.iter().filter_map(|outcome| match outcome {
            Outcome::Found { ttl, .. } => Some(*ttl),
            Outcome::Nothing | Outcome::Failed(_) => None,
        });
        if let Some(ttl) = ttl.min() {
            for (part, outcome) in self.parts.iter_mut().zip(answer) {
                if !matches!(outcome, Outcome::Failed(_)) {
                    *part = outcome.records().to_vec();
                }
            }
            self.learn(State::Found);
            self.gone_since = None;
            self.backoff.reset();
            self.ttl = ttl.clamp(TTL_MIN, ttl_max);
            return jittered(self.ttl, random);
        }
        if let Some(why) = failure {
            self.known.state = State::Failed(why);
            return self.backoff.next_delay(random).clamp(RETRY.0, ttl_max.min(self.ttl));
        }
        let since = *self.gone_since.get_or_insert(now);
        if !self.known.records.is_empty() && now.duration_since(since) < GRACE {
            self.known.state = State::Nothing;
            return GRACE_INTERVAL;
        }
        self.parts.iter_mut().for_each(Vec::clear);
        self.learn(State::Nothing);
        self.backoff.next_delay(random).clamp(RETRY.0, ttl_max)
    }

    fn learn(&mut self, state: State) {
        let mut records = self.parts.concat();
        records.sort_unstable();
        records.dedup();
        if *records != *self.known.records {
            self.known.records = records.into();
        }
        self.known.state = state;
    }
}

/// Shortened by up to a tenth, so that names learned together do not stay in step.
fn jittered(time: Duration, random: u64) -> Duration {
    let share = (random >> 32) as f64 / f64::from(u32::MAX);
    time.mul_f64(1.0 - share / 10.0).max(TTL_MIN)
}

/// Whether those who look at what is known see a difference that matters: other records, or another kind of state.
fn differs(a: &Known, b: &Known) -> bool {
    a.records != b.records || std::mem::discriminant(&a.state) != std::mem::discriminant(&b.state)
}

async fn follow(servers: NameServers, mut wanted: watch::Receiver<HashSet<Question>>, shared: Arc<Shared>) {
    // Files are read at once, and again by whoever asks when they have changed.
    let lookup = Lookup::new(servers);
    let mut names = Names::default();
    let mut asking = FuturesUnordered::new();
    loop {
        while asking.len() < ACTIVE_MAX
            && let Some(question) = names.take_due(Instant::now())
        {
            asking.push(async {
                let answer = lookup.ask(&question).await;
                (question, answer)
            });
        }
        let next = names.next_due().filter(|_| asking.len() < ACTIVE_MAX);
        tokio::select! {
            changed = wanted.changed() => match changed {
                Ok(()) => names.want(&wanted.borrow_and_update(), &shared, Instant::now()),
                Err(_) => return,
            },
            Some((question, answer)) = asking.next() => names.answered(question, &answer, &shared, Instant::now()),
            () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => (),
        }
    }
}

/// All names that are followed, in the order in which they are asked for.
#[derive(Default)]
struct Names {
    followed: HashMap<Question, Followed>,
    /// Invariant: holds each followed name that has a `due`, and nothing else.
    due: BTreeSet<(Instant, Question)>,
}

impl Names {
    fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    fn take_due(&mut self, now: Instant) -> Option<Question> {
        if self.next_due().is_none_or(|at| at > now) {
            return None;
        }
        let (_, question) = self.due.pop_first()?;
        let followed = self.followed.get_mut(&question)?;
        (followed.due, followed.asked_at) = (None, now);
        Some(question)
    }

    fn want(&mut self, wanted: &HashSet<Question>, shared: &Shared, now: Instant) {
        self.followed.retain(|question, followed| {
            let is_wanted = wanted.contains(question);
            if let (false, Some(due)) = (is_wanted, followed.due) {
                self.due.remove(&(due, question.clone()));
            }
            is_wanted
        });
        shared.lock().retain(|question, _| wanted.contains(question));
        for question in wanted {
            self.followed.entry(question.clone()).or_insert_with(|| {
                self.due.insert((now, question.clone()));
                Followed::new(now)
            });
        }
    }

    fn answered(&mut self, question: Question, answer: &Answer, shared: &Shared, now: Instant) {
        // Nobody wants to know any more.
        let Some(followed) = self.followed.get_mut(&question) else { return };
        let before = followed.known.clone();
        let delay = followed.apply(answer, question.ttl_max(), now, random());
        let next = match followed.known.state {
            State::Failed(_) => (followed.asked_at + delay).max(now + RETRY_AFTER_SILENCE),
            State::Pending | State::Found | State::Nothing => now + delay,
        };
        // It may have been forgotten and wanted again while it was asked for.
        if let Some(due) = followed.due.replace(next) {
            self.due.remove(&(due, question.clone()));
        }
        self.due.insert((next, question.clone()));
        if before == followed.known {
            return;
        }
        tracing::debug!(name = question.name(), known = ?followed.known, "name looked up");
        let is_news = differs(&before, &followed.known);
        shared.lock().insert(question, followed.known.clone());
        if is_news {
            shared.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ip(last: u8) -> Record {
        Record::Ip(IpAddr::from([10, 0, 0, last]))
    }

    fn found(records: &[u8], seconds: u64) -> Outcome {
        Outcome::Found { records: records.iter().map(|last| ip(*last)).collect(), ttl: Duration::from_secs(seconds) }
    }

    fn failed() -> Outcome {
        Outcome::Failed("SERVFAIL".into())
    }

    struct Name {
        followed: Followed,
        now: Instant,
    }

    impl Name {
        fn new() -> Self {
            Self { followed: Followed::new(Instant::now()), now: Instant::now() }
        }

        /// What is known after this answer, and in which time it is asked for again, without jitter.
        fn answer(&mut self, v4: Outcome, v6: Outcome) -> (Vec<Record>, Duration) {
            let next = self.followed.apply(&vec![v4, v6], TTL_MAX, self.now, 0);
            (self.followed.known.records.to_vec(), next)
        }
    }

    #[test]
    fn a_ttl_is_kept_within_bounds() {
        for (ttl, expected) in [(0, 1), (1, 1), (7, 7), (30, 30), (600, 30), (u64::from(u32::MAX), 30)] {
            assert_eq!(Name::new().answer(found(&[1], ttl), Outcome::Nothing).1, SECOND * expected, "{ttl}");
        }
        let max = |name: &str| Question::Host(name.into()).ttl_max();
        assert_eq!([max("web"), max("web."), max("tasks.web"), max("localhost")], [TTL_MAX_LOCAL; 4]);
        assert_eq!([max("web.test"), max("a.tasks.web")], [TTL_MAX; 2]);
        for random in [0, 1 << 63, u64::MAX] {
            assert!((SECOND * 9..=SECOND * 10).contains(&jittered(SECOND * 10, random)));
            assert_eq!(jittered(SECOND, random), SECOND);
        }
    }

    #[test]
    fn a_failure_keeps_the_last_good_records() {
        let mut name = Name::new();
        name.answer(found(&[1, 2], 5), Outcome::Nothing);
        let mut unknown = Name::new();
        for _ in 0..5 {
            assert_eq!(unknown.answer(failed(), failed()), (vec![], SECOND), "it has no hosts until it is answered for");
        }
        // As soon as records that hold for 5 s, at the latest.
        for expected in [1, 1, 2, 4, 5, 5] {
            assert_eq!(name.answer(failed(), failed()), (vec![ip(1), ip(2)], SECOND * expected));
            name.now += GRACE * 10;
        }
        assert_eq!(name.followed.known.state, State::Failed("SERVFAIL".into()));
        assert_eq!(name.answer(found(&[2, 3], 5), Outcome::Nothing).0, [ip(2), ip(3)]);
        assert_eq!(name.followed.known.state, State::Found);
    }

    #[test]
    fn half_an_answer_takes_nothing_from_the_other_half() {
        let mut name = Name::new();
        name.answer(found(&[1], 5), found(&[2], 5));
        assert_eq!(name.answer(found(&[1], 5), failed()).0, [ip(1), ip(2)]);
        assert_eq!(name.answer(failed(), Outcome::Nothing).0, [ip(1), ip(2)], "nobody said that there are none at all");
        assert_eq!(name.answer(found(&[1], 5), Outcome::Nothing).0, [ip(1)]);
    }

    #[test]
    fn a_name_without_hosts_loses_them_after_a_grace() {
        let mut name = Name::new();
        name.answer(found(&[1], 5), Outcome::Nothing);
        for _ in 0..5 {
            assert_eq!(name.answer(Outcome::Nothing, Outcome::Nothing), (vec![ip(1)], GRACE_INTERVAL));
            name.now += SECOND;
        }
        assert_eq!(name.answer(Outcome::Nothing, Outcome::Nothing).0, []);
        assert_eq!(name.followed.known.state, State::Nothing);
        assert_eq!(name.answer(failed(), failed()).0, []);
        assert_eq!(name.answer(found(&[2], 5), Outcome::Nothing).0, [ip(2)]);
    }

    #[test]
    fn records_that_come_back_end_the_grace() {
        let mut name = Name::new();
        name.answer(found(&[1], 5), Outcome::Nothing);
        for _ in 0..3 {
            name.answer(Outcome::Nothing, Outcome::Nothing);
            name.now += GRACE - SECOND;
            assert_eq!(name.answer(found(&[1], 5), Outcome::Nothing).0, [ip(1)]);
        }
    }

    #[test]
    fn a_name_that_never_had_hosts_is_tried_again_with_backoff() {
        let mut name = Name::new();
        let delays: Vec<u64> = (0..8).map(|_| name.answer(Outcome::Nothing, Outcome::Nothing).1.as_secs()).collect();
        assert_eq!(delays, [1, 1, 2, 4, 8, 15, 15, 15]);
        assert_eq!(name.followed.known.state, State::Nothing);
    }

    #[test]
    fn what_was_waited_for_in_vain_is_asked_for_at_once() {
        let check = |took: u64, expected: u64| {
            let (shared, mut names, now) = (Shared::default(), Names::default(), Instant::now());
            let question = Question::Host("a".into());
            names.want(&HashSet::from([question.clone()]), &shared, now);
            names.take_due(now);
            names.answered(question, &vec![failed()], &shared, now + Duration::from_millis(took));
            assert_eq!(names.next_due(), Some(now + Duration::from_millis(expected)), "{took}");
        };
        check(3, 1_000);
        check(700, 1_000);
        check(950, 1_050);
        check(5_000, 5_100);
    }

    #[test]
    fn names_are_forgotten_and_wanted_again() {
        let (shared, mut names, now) = (Shared::default(), Names::default(), Instant::now());
        let question = Question::Host("a".into());
        let wanted = HashSet::from([question.clone()]);
        names.want(&wanted, &shared, now);
        assert_eq!(names.take_due(now).as_ref(), Some(&question));
        names.want(&HashSet::new(), &shared, now);
        names.answered(question.clone(), &vec![found(&[1], 5)], &shared, now);
        assert!(shared.lock().is_empty() && names.followed.is_empty() && names.due.is_empty());
        names.want(&wanted, &shared, now);
        names.answered(question.clone(), &vec![found(&[1], 5)], &shared, now);
        assert_eq!((names.due.len(), names.take_due(now)), (1, None));
        assert_eq!(*shared.lock()[&question].records, [ip(1)]);
    }
}
