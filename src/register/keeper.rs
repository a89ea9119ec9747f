//! Makes a store hold the entries that are wanted, and nothing else of ours, whatever happens to the store.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::layout::Entry;
use super::store::{Put, Session, StoreConfig};
use super::{Missing, Wanted};
use crate::backoff::{Backoff, random};
use crate::discovery::ProviderError;

/// The waits between two attempts to reach the store.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Signs of life during a time to live: two may be lost.
const SIGNS: u32 = 3;

/// Writes, keeps alive and deletes until it is told to `stop`; then deletes all.
pub(super) async fn keep(
    store: &StoreConfig,
    ttl: Duration,
    mut wanted: watch::Receiver<Wanted>,
    missing: &watch::Sender<Missing>,
    stop: &CancellationToken,
) {
    let mut keeper = Keeper { store, ttl, written: BTreeMap::new(), refused: BTreeMap::new(), former: None, is_failing: false, missing };
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
    // Nothing is known before the engine was heard.
    let is_known = stop.run_until_cancelled(wanted.wait_for(Option::is_some)).await.is_some();
    let mut servers = store.servers().iter().cycle();
    while let (true, Some(server)) = (is_known && !stop.is_cancelled(), servers.next()) {
        match keeper.hold(server, &mut wanted, stop, &mut backoff).await {
            Ok(()) => break,
            Err(error) => {
                if std::mem::replace(&mut keeper.is_failing, true) {
                    tracing::debug!("{error}");
                } else {
                    tracing::warn!("{error}; entries end within {ttl:?} unless the store answers before, and are written anew then");
                }
                missing.send_modify(|missing| missing.store = Some(error.to_string()));
            }
        }
        stop.run_until_cancelled(tokio::time::sleep(backoff.next_delay(random()))).await;
    }
    if !keeper.written.is_empty() {
        tracing::warn!("{} entries could not be deleted: they end within {ttl:?}", keeper.written.len());
    }
}

struct Keeper<'a> {
    store: &'a StoreConfig,
    ttl: Duration,
    /// What the store was last known to hold of ours.
    written: BTreeMap<String, Entry>,
    /// Entries that the store does not take: of each key the value that was told of last.
    refused: BTreeMap<String, String>,
    /// What that ends with, if a session broke off.
    former: Option<i64>,
    is_failing: bool,
    missing: &'a watch::Sender<Missing>,
}

impl Keeper<'_> {
    /// Makes the store hold what is wanted, over one session. Returns when it was told to stop, and nothing is left.
    async fn hold(
        &mut self,
        server: &str,
        wanted: &mut watch::Receiver<Wanted>,
        stop: &CancellationToken,
        backoff: &mut Backoff,
    ) -> Result<(), ProviderError> {
        // Stopped before the store answered: what was written over an earlier session is left to end by itself.
        let Some(session) = stop.run_until_cancelled(Session::open(self.store, server, self.ttl)).await else { return Ok(()) };
        let mut session = session?;
        let former = std::mem::replace(&mut self.former, session.id());
        self.apply(&mut session, wanted, true).await?;
        if let Some(former) = former {
            session.end_former(former).await?;
        }
        backoff.reset();
        self.missing.send_if_modified(|missing| missing.store.take().is_some());
        if std::mem::take(&mut self.is_failing) {
            tracing::info!("{server} answers again: {} entries were written anew", self.written.len());
        }
        let mut signs = tokio::time::interval(self.ttl / SIGNS);
        signs.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for sign in 1.. {
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return self.end(session).await,
                    Ok(()) = wanted.changed() => self.apply(&mut session, wanted, false).await?,
                    _ = signs.tick() => break,
                }
            }
            let restored = session.keep_alive(&self.written, sign % SIGNS == 0).await?;
            if restored > 0 {
                tracing::warn!("{restored} entries had been deleted by someone else, and were written again");
            }
        }
        Ok(())
    }

    /// Writes what is new, or all if the store `is_new`, and deletes what is wanted no more. In this order, so that what moves to another key
    /// is always there.
    async fn apply(&mut self, session: &mut Session, wanted: &mut watch::Receiver<Wanted>, is_new: bool) -> Result<(), ProviderError> {
        let wanted = wanted.borrow_and_update().clone().unwrap_or_default();
        for (key, entry) in &wanted {
            let held = self.written.get(key);
            let is_changed = held.is_none_or(|held| held.value != entry.value);
            if (is_new || is_changed)
                && let Put::Refused(reason) = session.put(key, entry).await?
            {
                let is_told = self.refused.insert(key.clone(), entry.value.clone()).is_some_and(|value| value == entry.value);
                if !is_told {
                    tracing::warn!("not registered: {key} = {}: the store refuses it: {reason}", entry.value);
                }
                continue;
            }
            if is_changed {
                let what = if held.is_some() { "changed" } else { "registered" };
                tracing::info!("{what} {}: {key} = {}", entry.registration.service, entry.value);
                self.written.insert(key.clone(), entry.clone());
            }
        }
        self.refused.retain(|key, _| wanted.contains_key(key));
        while let Some((key, entry)) = self.written.iter().find(|(key, _)| !wanted.contains_key(*key)) {
            session.delete(key, entry).await?;
            tracing::info!("deregistered: {key}");
            let key = key.clone();
            self.written.remove(&key);
        }
        Ok(())
    }

    async fn end(&mut self, session: Session) -> Result<(), ProviderError> {
        session.close(&self.written).await?;
        tracing::info!("{} entries were deleted", self.written.len());
        self.written.clear();
        Ok(())
    }
}
