//! Runs providers: starts each one as a task, calls it again after it failed, and keeps what it published last, in memory and on disk.
//!
//! What is known of one provider is its [`Feed`]. The control loop reads the feeds, and waits for the next change of any of them with
//! [`Supervisor::changed`].

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::feed::{Feed, Inlet};
use super::keep::{SnapshotDir, keep};
use super::{Provider, ProviderError};
use crate::backoff::{Backoff, random};
use crate::config::protection::Protection;

/// The wait after a provider's first failure. Short, because most failures are a connection that was closed and can be opened again.
pub const RETRY_MIN: Duration = Duration::from_millis(50);

/// The longest wait between two attempts. It bounds how long after its source returned a provider may still not have noticed: with
/// time to read the source left, the table is right within a second.
pub const RETRY_MAX: Duration = Duration::from_millis(500);

/// Runs providers until it is stopped or dropped.
#[derive(Debug)]
pub struct Supervisor {
    feeds: Vec<Arc<Feed>>,
    changed: Arc<Notify>,
    tasks: TaskTracker,
    stop: DropGuard,
}

impl Supervisor {
    /// Starts a task for each provider on the current runtime.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use = "dropping the supervisor stops its providers"]
    pub fn start(providers: Vec<Box<dyn Provider>>) -> Self {
        Self::start_keeping(providers, Protection::default(), None)
    }

    /// The same with this protection; and what providers of remote sources publish is kept in this directory, from where it serves
    /// when the source cannot be read at the next start.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use = "dropping the supervisor stops its providers"]
    pub fn start_keeping(providers: Vec<Box<dyn Provider>>, protection: Protection, data_dir: Option<&Path>) -> Self {
        let changed = Arc::new(Notify::new());
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let kept = data_dir.map(|path| SnapshotDir::open(path).map(Arc::new));
        let mut feeds = Vec::with_capacity(providers.len());
        for provider in providers {
            let feed = Arc::new(Feed::new(provider.name().clone(), protection, changed.clone()));
            match (provider.source(), &kept) {
                (Some(source), Some(Ok(dir))) => drop(tasks.spawn(keep(feed.clone(), dir.clone(), source, stop.clone()))),
                (Some(_), Some(Err(error))) => feed.not_kept(Some(error.clone())),
                (None, _) | (_, None) => {}
            }
            tasks.spawn(stop.clone().run_until_cancelled_owned(keep_watching(provider, Inlet(feed.clone()))));
            feeds.push(feed);
        }
        tasks.close();
        Self { feeds, changed, tasks, stop: stop.drop_guard() }
    }

    /// The feeds, in the order of their providers.
    #[must_use]
    pub fn feeds(&self) -> &[Arc<Feed>] {
        &self.feeds
    }

    /// Waits until a feed has published, or its [`FeedState`](super::FeedState) became another, since this was last awaited.
    ///
    /// For one caller, which reads all feeds afterwards: any number of changes wakes it once, and one that comes between two calls
    /// is not lost. Dropping the future loses nothing either. What becomes of feeds as time passes is done in here.
    pub async fn changed(&self) {
        let next = self.feeds.iter().filter_map(|feed| feed.due()).min();
        let is_due = async {
            match next {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.changed.notified() => {}
            () = is_due => self.feeds.iter().for_each(|feed| feed.pass_time(Instant::now())),
        }
    }

    /// Stops all providers and waits for their tasks to end.
    pub async fn stop(self) {
        drop(self.stop);
        self.tasks.wait().await;
    }
}

async fn keep_watching(mut provider: Box<dyn Provider>, inlet: Inlet) {
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
    loop {
        let started = tokio::time::Instant::now();
        let Err(error) = watch_once(&mut *provider, &inlet).await else {
            return inlet.0.finish();
        };
        // One that worked for a while is tried again at once; one that fails right after each start is not.
        if started.elapsed() > RETRY_MAX {
            backoff.reset();
        }
        let retry = backoff.next_delay(random());
        inlet.0.fail(error, retry);
        tokio::time::sleep(retry).await;
        inlet.0.restart();
    }
}

/// One call of the provider. A panic is an error like any other: the provider is called again, and keeps nobody else from working.
async fn watch_once(provider: &mut dyn Provider, inlet: &Inlet) -> Result<(), String> {
    let watch = AssertUnwindSafe(async { provider.watch(inlet).await });
    match watch.catch_unwind().await {
        Ok(result) => result.map_err(|error: ProviderError| error.to_string()),
        Err(panic) => Err(format!("panicked: {}", panic_message(&*panic))),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let literal = panic.downcast_ref::<&str>().copied();
    literal.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Snapshot;
    use crate::discovery::{FeedState, FeedStatus, Publisher};
    use crate::names::Name;
    use std::collections::VecDeque;
    use std::future::Future;
    use std::pin::Pin;

    /// What a scripted provider does in one call.
    enum Act {
        Publish(u64),
        Contact,
        Fail,
        Panic,
        Hang,
        Finish,
    }

    /// Does the acts in turn, in as many calls as it takes; then hangs.
    struct Script {
        name: Name,
        acts: VecDeque<Act>,
    }

    impl Provider for Script {
        fn name(&self) -> &Name {
            &self.name
        }

        fn watch<'a>(&'a mut self, publisher: &'a dyn Publisher) -> Pin<Box<dyn Future<Output = Result<(), ProviderError>> + Send + 'a>> {
            Box::pin(async move {
                while let Some(act) = self.acts.pop_front() {
                    match act {
                        Act::Publish(revision) => {
                            publisher.publish(Snapshot { revision: Some(revision), ..Snapshot::empty(Instant::now()) });
                        }
                        Act::Contact => publisher.contact(),
                        Act::Fail => return Err(ProviderError { doing: "read the script".into(), cause: "it says so".into() }),
                        Act::Panic => panic!("as the script says"),
                        Act::Hang => break,
                        Act::Finish => return Ok(()),
                    }
                }
                std::future::pending().await
            })
        }
    }

    fn supervise(acts: impl IntoIterator<Item = Act>) -> Supervisor {
        let acts = acts.into_iter().collect();
        Supervisor::start(vec![Box::new(Script { name: Name::literal("script"), acts })])
    }

    async fn until(supervisor: &Supervisor, is_reached: impl Fn(&FeedStatus) -> bool) -> FeedStatus {
        let reached = async {
            loop {
                let status = supervisor.feeds()[0].status();
                if is_reached(&status) {
                    return status;
                }
                supervisor.changed().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), reached).await.expect("reached in time")
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_keeps_the_last_snapshot_and_is_retried() {
        let supervisor = supervise([Act::Publish(1), Act::Fail, Act::Fail, Act::Publish(2), Act::Hang]);
        let failing = until(&supervisor, |status| matches!(status.state, FeedState::Failing { .. })).await;
        assert_eq!(failing.state, FeedState::Failing { error: "read the script: it says so".into() });
        assert_eq!((failing.revision, failing.has_snapshot), (Some(1), true));
        let live = until(&supervisor, |status| status.revision == Some(2)).await;
        assert_eq!((live.state, live.restarts), (FeedState::Live, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_caught_and_the_provider_restarted() {
        let supervisor = supervise([Act::Publish(1), Act::Panic, Act::Contact, Act::Hang]);
        let failing = until(&supervisor, |status| matches!(status.state, FeedState::Failing { .. })).await;
        assert_eq!(failing.state, FeedState::Failing { error: "panicked: as the script says".into() });
        let live = until(&supervisor, |status| status.restarts == 1 && status.state == FeedState::Live).await;
        assert_eq!(live.revision, Some(1), "contact keeps the last good snapshot");
    }

    #[tokio::test(start_paused = true)]
    async fn retries_are_never_further_apart_than_the_maximum() {
        let supervisor = supervise((0..20).map(|_| Act::Fail).chain([Act::Publish(1), Act::Hang]));
        let started = tokio::time::Instant::now();
        until(&supervisor, |status| status.has_snapshot).await;
        let elapsed = started.elapsed();
        assert!(elapsed > RETRY_MAX * 16 / 2 && elapsed <= RETRY_MAX * 20, "{elapsed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_published_is_not_empty() {
        let supervisor = supervise([Act::Fail, Act::Hang]);
        until(&supervisor, |status| matches!(status.state, FeedState::Failing { .. })).await;
        assert!(supervisor.feeds()[0].latest().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_never_changes_again_is_finished() {
        let supervisor = supervise([Act::Publish(7), Act::Finish]);
        let status = until(&supervisor, |status| status.state == FeedState::Finished).await;
        assert_eq!((status.revision, status.restarts), (Some(7), 0));
        supervisor.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn changes_coalesce_and_none_is_lost() {
        let supervisor = supervise([Act::Publish(1), Act::Publish(2), Act::Publish(3), Act::Hang]);
        tokio::task::yield_now().await;
        // All three happened before anybody waited: one wake-up, then none.
        supervisor.changed().await;
        assert_eq!(supervisor.feeds()[0].status().revision, Some(3));
        assert!(tokio::time::timeout(Duration::from_secs(1), supervisor.changed()).await.is_err());
    }

    #[tokio::test]
    async fn stop_waits_for_the_tasks_and_drop_ends_them() {
        let supervisor = supervise([Act::Hang]);
        tokio::time::timeout(Duration::from_secs(10), supervisor.stop()).await.expect("stopped in time");

        let supervisor = supervise([Act::Hang]);
        let tasks = supervisor.tasks.clone();
        drop(supervisor);
        tokio::time::timeout(Duration::from_secs(10), tasks.wait()).await.expect("ended in time");
    }
}
