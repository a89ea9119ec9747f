//! Makes a store hold the entries that are wanted, and nothing else of ours, whatever happens to the store.
//!
//! Entries are written, deleted and looked after in batches. Between two of them there is time for a sign of life, for what is wanted now, and
//! for the end: however many there are, and however far the store is, none of that waits for a whole round.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::layout::Entry;
use super::store::{AT_ONCE, Put, Session, StoreConfig};
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
    let mut keeper = Keeper {
        store,
        ttl,
        wanted: BTreeMap::new(),
        written: BTreeMap::new(),
        todo: BTreeSet::new(),
        refused: BTreeMap::new(),
        former: None,
        is_failing: false,
        missing,
    };
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
    /// What the store shall hold.
    wanted: BTreeMap<String, Entry>,
    /// What the store was last known to hold of ours.
    written: BTreeMap<String, Entry>,
    /// The keys that are to be written, or deleted if they are not wanted.
    todo: BTreeSet<String>,
    /// Entries that the store does not take: of each key the value that was told of last, and why.
    refused: BTreeMap<String, (String, String)>,
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
        let mut former = std::mem::replace(&mut self.former, session.id());
        self.want(wanted);
        // Whatever the store has kept.
        self.todo.extend(self.wanted.keys().cloned());
        let mut signs = tokio::time::interval(self.ttl / SIGNS);
        signs.reset();
        let (mut sign, mut is_settled) = (0, false);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.end(session).await,
                _ = signs.tick() => {
                    sign += 1;
                    self.look_after(&mut session, sign % SIGNS == 0, stop).await?;
                    // One that took long must not be followed by the next one at once: there is more to do.
                    signs.reset();
                }
                Ok(()) = wanted.changed() => self.want(wanted),
                () = std::future::ready(()), if !is_settled || !self.todo.is_empty() => {
                    self.write_some(&mut session).await?;
                    is_settled = self.todo.is_empty();
                    if is_settled {
                        if let Some(former) = former.take() {
                            session.end_former(former).await?;
                        }
                        backoff.reset();
                        self.tell_how_it_is(server);
                    }
                }
            }
        }
    }

    /// Takes what is wanted now, and notes what differs from what is written.
    fn want(&mut self, wanted: &mut watch::Receiver<Wanted>) {
        self.wanted = wanted.borrow_and_update().clone().unwrap_or_default();
        let value = |entry: Option<&Entry>| entry.map(|entry| entry.value.clone());
        let keys = self.wanted.keys().chain(self.written.keys());
        self.todo.extend(keys.filter(|key| value(self.wanted.get(*key)) != value(self.written.get(*key))).cloned());
        self.refused.retain(|key, _| self.wanted.contains_key(key));
    }

    /// Writes a few of the keys that are to be, or else deletes a few that are wanted no more. In this order, so that what moves to another
    /// key is always there.
    async fn write_some(&mut self, session: &mut Session) -> Result<(), ProviderError> {
        let new: Vec<(String, Entry)> =
            self.todo.iter().filter_map(|key| Some((key.clone(), self.wanted.get(key)?.clone()))).take(AT_ONCE).collect();
        if new.is_empty() {
            return self.delete_some(session).await;
        }
        let outcomes = session.put(&new).await?;
        for ((key, entry), outcome) in new.into_iter().zip(outcomes) {
            self.todo.remove(&key);
            match outcome {
                Put::Done => self.is_written(key, entry),
                Put::Refused(reason) => self.is_refused(key, entry, reason),
            }
        }
        Ok(())
    }

    fn is_written(&mut self, key: String, entry: Entry) {
        self.refused.remove(&key);
        let held = self.written.get(&key);
        if held.is_none_or(|held| held.value != entry.value) {
            let what = if held.is_some() { "changed" } else { "registered" };
            tracing::info!("{what} {}: {key} = {}", entry.registration.service, entry.value);
        }
        self.written.insert(key, entry);
    }

    fn is_refused(&mut self, key: String, entry: Entry, reason: String) {
        if self.refused.get(&key).is_none_or(|(value, _)| *value != entry.value) {
            tracing::warn!("not registered: {key} = {}: the store refuses it: {reason}", entry.value);
        }
        self.refused.insert(key, (entry.value, reason));
    }

    async fn delete_some(&mut self, session: &mut Session) -> Result<(), ProviderError> {
        let unwanted: Vec<String> = self.todo.iter().take(AT_ONCE).cloned().collect();
        let old: Vec<(String, Entry)> = unwanted.iter().filter_map(|key| self.written.get_key_value(key)).map(owned).collect();
        session.delete(&old).await?;
        for (key, _) in &old {
            tracing::info!("deregistered: {key}");
            self.written.remove(key);
        }
        unwanted.iter().for_each(|key| {
            self.todo.remove(key);
        });
        Ok(())
    }

    /// Gives a sign of life. With `is_thorough`, and where it costs nothing, what someone else deleted is to be written again, and so is what
    /// was refused: it may be allowed by now.
    async fn look_after(&mut self, session: &mut Session, is_thorough: bool, stop: &CancellationToken) -> Result<(), ProviderError> {
        session.keep_alive().await?;
        if is_thorough {
            self.todo.extend(self.refused.keys().cloned());
        }
        if is_thorough || session.does_renew_each() {
            let gone = session.gone(&self.written, stop).await?;
            if !gone.is_empty() {
                tracing::warn!("{} entries were gone from the store, and are written again", gone.len());
            }
            self.todo.extend(gone);
        }
        Ok(())
    }

    /// Tells whether the store holds what it should, now that there is nothing left to do.
    fn tell_how_it_is(&mut self, server: &str) {
        let count = self.refused.len();
        let refused =
            self.refused.first_key_value().map(|(key, (_, reason))| format!("the store refuses {count} entries, such as {key}: {reason}"));
        self.missing.send_if_modified(|missing| {
            let is_new = missing.store != refused;
            missing.store = refused;
            is_new
        });
        if std::mem::take(&mut self.is_failing) {
            tracing::info!("{server} answers again: {} entries were written anew", self.written.len());
        }
    }

    async fn end(&mut self, session: Session) -> Result<(), ProviderError> {
        session.close(&self.written).await?;
        tracing::info!("{} entries were deleted", self.written.len());
        self.written.clear();
        Ok(())
    }
}

fn owned((key, entry): (&String, &Entry)) -> (String, Entry) {
    (key.clone(), entry.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::{Arc, Mutex, PoisonError};
    use std::time::Instant;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::config::providers::EtcdConfig;
    use crate::register::registration::Registration;

    const TTL: Duration = Duration::from_secs(2);
    const DEADLINE: Duration = Duration::from_secs(20);

    /// A v2 API of etcd that is some way off.
    #[derive(Default)]
    struct Store {
        latency: Duration,
        /// When keys end, and how often they were renewed.
        keys: HashMap<String, (Instant, usize)>,
        puts: usize,
        is_forbidden: bool,
    }

    impl Store {
        fn answer(&mut self, method: &str, key: &str, form: &str) -> u16 {
            let now = Instant::now();
            self.keys.retain(|_, (ends, _)| *ends > now);
            match (method, self.keys.get_mut(key)) {
                ("PUT", Some(held)) if form.contains("refresh") => *held = (now + TTL, held.1 + 1),
                ("PUT", None) if form.contains("refresh") => return 404,
                ("PUT", _) if self.is_forbidden => return 403,
                ("PUT", _) => {
                    self.puts += 1;
                    self.keys.insert(key.to_owned(), (now + TTL, 0));
                }
                _ => drop(self.keys.remove(key)),
            }
            200
        }
    }

    type Shared = Arc<Mutex<Store>>;

    fn with<T>(store: &Shared, look: impl FnOnce(&mut Store) -> T) -> T {
        look(&mut store.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn serve(mut stream: TcpStream, store: Shared) -> Option<()> {
        let mut read = Vec::new();
        loop {
            let head = loop {
                if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                    break String::from_utf8(read.drain(..end + 4).collect()).unwrap().to_lowercase();
                }
                read.push(stream.read_u8().await.ok()?);
            };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
            let mut form = vec![0; length];
            stream.read_exact(&mut form).await.ok()?;
            tokio::time::sleep(with(&store, |store| store.latency)).await;
            let mut words = head.split([' ', '?']);
            let (method, key) = (words.next()?.to_uppercase(), words.next()?);
            let status = with(&store, |store| store.answer(&method, key, &String::from_utf8_lossy(&form)));
            stream.write_all(format!("HTTP/1.1 {status} Status\r\ncontent-length: 0\r\n\r\n").as_bytes()).await.ok()?;
        }
    }

    fn entries(count: u16) -> BTreeMap<String, Entry> {
        let entry = |number: u16| {
            let address = ([10, 0, 0, 1], number).into();
            let (service, container, id) = (format!("m{number}"), "many".to_owned(), "many".to_owned());
            let registration =
                Registration { service, container, port: 80, address, id: None, tags: Vec::new(), attributes: BTreeMap::new() };
            (format!("/services/m{number}/many"), Entry { value: address.to_string(), registration, id })
        };
        (1..=count).map(entry).collect()
    }

    /// Keeps so many entries in a store while `look` looks, and then is stopped.
    async fn keep_while(store: Store, count: u16, look: impl AsyncFnOnce(&Shared, watch::Receiver<Missing>)) -> Shared {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = EtcdConfig { endpoints: vec![format!("http://{}", listener.local_addr().unwrap())], ..EtcdConfig::default() };
        let shared = Arc::new(Mutex::new(store));
        let (stop, (missing, seen)) = (CancellationToken::new(), watch::channel(Missing::everything()));
        let (_wanting, wanted) = watch::channel(Some(entries(count)));
        let (config, served) = (StoreConfig::Etcd2(config), shared.clone());
        let mut serving = tokio::task::JoinSet::new();
        let accept = async {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                serving.spawn(serve(stream, served.clone()));
            }
        };
        let looking = async {
            look(&shared, seen).await;
            stop.cancel();
        };
        let all = async { tokio::join!(keep(&config, TTL, wanted, &missing, &stop), looking) };
        tokio::select! {
            outcome = tokio::time::timeout(DEADLINE, all) => assert!(outcome.is_ok(), "it does not end"),
            () = accept => (),
        }
        shared
    }

    async fn until(store: &Shared, what: &str, holds: impl Fn(&Store) -> bool) {
        let holding = async {
            while !with(store, |store| holds(store)) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(tokio::time::timeout(DEADLINE / 2, holding).await.is_ok(), "never: {what}");
    }

    #[tokio::test]
    async fn many_entries_are_kept_in_a_store_that_is_far_away() {
        let store = Store { latency: Duration::from_millis(30), ..Store::default() };
        let store = keep_while(store, 300, async |store, _| {
            until(store, "all are there", |store| store.keys.len() == 300).await;
            until(store, "all are renewed", |store| store.keys.len() == 300 && store.keys.values().all(|(_, renewed)| *renewed > 2)).await;
            assert_eq!(with(store, |store| store.puts), 300, "none ended in between");
            with(store, |store| store.latency = Duration::from_millis(60));
        });
        assert!(with(&store.await, |store| store.keys.is_empty()), "all are deleted");
    }

    #[tokio::test]
    async fn what_is_refused_is_missing_and_written_once_it_is_allowed() {
        let store = Store { is_forbidden: true, ..Store::default() };
        keep_while(store, 2, async |store, mut missing| {
            let told =
                |missing: &Missing| missing.store.as_ref().is_some_and(|why| why.contains("refuses 2 entries, such as /services/m1/"));
            missing.wait_for(told).await.unwrap();
            with(store, |store| store.is_forbidden = false);
            until(store, "both are there", |store| store.keys.len() == 2).await;
            missing.wait_for(|missing| missing.store.is_none()).await.unwrap();
        })
        .await;
    }

    #[tokio::test]
    async fn nothing_is_missing_where_nothing_is_wanted() {
        keep_while(Store::default(), 0, async |_, mut missing| {
            missing.wait_for(|missing| missing.store.is_none()).await.unwrap();
        })
        .await;
    }
}
