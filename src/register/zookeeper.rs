//! Ephemeral znodes: they go with the session that made them.

use std::time::Duration;

use bytes::Bytes;

use super::layout::Entry;
use super::store::Put;
use crate::config::providers::ZookeeperConfig;
use crate::discovery::ProviderError;
use crate::discovery::zookeeper_session::{HANDSHAKE_TIMEOUT_MAX, Message, Refusal, Session};
use crate::discovery::zookeeper_wire::{self as wire, NO_NODE, NODE_EXISTS, Request};

/// For an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// A session, and the znodes that hang on it.
pub(super) struct Znodes {
    server: String,
    session: Session,
}

impl Znodes {
    /// Makes a session that lasts `ttl` without a sign of life, within what the server allows.
    pub(super) async fn open(server: &str, config: &ZookeeperConfig, ttl: Duration) -> Result<Self, ProviderError> {
        let range = ZookeeperConfig::SESSION_TIMEOUT_RANGE;
        let config = ZookeeperConfig { session_timeout: ttl.clamp(*range.start(), *range.end()), ..config.clone() };
        let session = Session::open(server, &config, HANDSHAKE_TIMEOUT_MAX).await;
        let session = session.map_err(|error| failed(server, "make a session", error.into()))?;
        Ok(Self { server: server.to_owned(), session })
    }

    /// Makes znodes, in the place of those that are there, and the folders above them.
    pub(super) async fn put(&mut self, batch: &[(String, Entry)]) -> Result<Vec<Put>, ProviderError> {
        let requests: Vec<_> = batch.iter().map(create).collect();
        let mut outcomes = self.ask_all(&requests).await?;
        // Those that something hinders, with the number of requests after which nothing does.
        let (mut hindered, mut requests) = (Vec::new(), Vec::new());
        for (pair, outcome) in batch.iter().zip(&mut outcomes) {
            match outcome {
                Err(Refusal::Code(NODE_EXISTS)) => requests.push(Request::Delete(&pair.0)),
                Err(Refusal::Code(NO_NODE)) => requests.extend(folders(&pair.0)),
                _ => continue,
            }
            hindered.push((pair, outcome, requests.len()));
        }
        let cleared = self.ask_all(&requests).await?;
        hindered.retain_mut(|(_, outcome, end)| match end.checked_sub(1).and_then(|last| cleared.get(last)) {
            Some(Err(refusal)) if !matches!(refusal, Refusal::Code(NO_NODE | NODE_EXISTS)) => {
                **outcome = Err(*refusal);
                false
            }
            _ => true,
        });
        let requests: Vec<_> = hindered.iter().map(|(pair, ..)| create(pair)).collect();
        for ((_, outcome, _), again) in hindered.into_iter().zip(self.ask_all(&requests).await?) {
            *outcome = again;
        }
        Ok(outcomes.into_iter().map(put).collect())
    }

    /// Deletes znodes that still say what we wrote.
    pub(super) async fn delete(&mut self, batch: &[(String, Entry)]) -> Result<(), ProviderError> {
        let values = self.values(batch).await?;
        let is_ours = |(_, entry): &(String, Entry), value: Option<Bytes>| value.is_some_and(|value| value == entry.value.as_bytes());
        let ours: Vec<_> = batch.iter().zip(values).filter(|(pair, value)| is_ours(pair, value.clone())).map(|(pair, _)| pair).collect();
        let requests: Vec<_> = ours.iter().map(|(path, _)| Request::Delete(path)).collect();
        for ((path, _), outcome) in ours.iter().zip(self.ask_all(&requests).await?) {
            match outcome {
                Ok(_) | Err(Refusal::Code(NO_NODE)) => (),
                Err(refusal) => return Err(self.refused(path, refusal)),
            }
        }
        Ok(())
    }

    /// What znodes say. None: there is none.
    pub(super) async fn values(&mut self, batch: &[(String, Entry)]) -> Result<Vec<Option<Bytes>>, ProviderError> {
        let requests: Vec<_> = batch.iter().map(|(path, _)| Request::Data(path)).collect();
        let outcomes = self.ask_all(&requests).await?;
        let value = |((path, _), outcome): (&(String, Entry), Result<Bytes, Refusal>)| match outcome {
            Ok(body) => {
                let (value, _) = wire::data(&body).map_err(|broken| failed(&self.server, path, broken.into()))?;
                Ok(Some(Bytes::copy_from_slice(value)))
            }
            Err(Refusal::Code(NO_NODE)) => Ok(None),
            Err(refusal) => Err(self.refused(path, refusal)),
        };
        batch.iter().zip(outcomes).map(value).collect()
    }

    /// Gives a sign of life.
    pub(super) async fn keep_alive(&mut self) -> Result<(), ProviderError> {
        self.ask_all(&[Request::Sync("/")]).await.map(drop)
    }

    /// Ends the session, and with it all znodes.
    pub(super) async fn close(self) {
        self.session.close().await;
    }

    /// Sends all of these, and then waits for the answers, which come in the same order.
    async fn ask_all(&mut self, requests: &[Request<'_>]) -> Result<Vec<Result<Bytes, Refusal>>, ProviderError> {
        requests.iter().for_each(|request| self.session.send(request));
        let mut outcomes = Vec::with_capacity(requests.len());
        while outcomes.len() < requests.len() {
            match tokio::time::timeout(ANSWER_TIMEOUT, self.session.next()).await {
                Ok(Ok(Message::Answer { outcome, .. })) => outcomes.push(outcome),
                Ok(Ok(_)) => (),
                Ok(Err(error)) => return Err(failed(&self.server, "write", error.into())),
                Err(_) => return Err(failed(&self.server, "write", format!("no answer within {ANSWER_TIMEOUT:?}").into())),
            }
        }
        Ok(outcomes)
    }

    fn refused(&self, path: &str, refusal: Refusal) -> ProviderError {
        failed(&self.server, path, refusal.to_string().into())
    }
}

fn create((path, entry): &(String, Entry)) -> Request<'_> {
    Request::Create { path, data: entry.value.as_bytes(), is_ephemeral: true }
}

/// Makes the folders above a znode.
fn folders(path: &str) -> impl Iterator<Item = Request<'_>> {
    let folders = path.match_indices('/').skip(1).filter_map(|(end, _)| path.get(..end));
    folders.map(|path| Request::Create { path, data: b"", is_ephemeral: false })
}

fn put(outcome: Result<Bytes, Refusal>) -> Put {
    outcome.map_or_else(|refusal| Put::Refused(refusal.to_string()), |_| Put::Done)
}

fn failed(server: &str, doing: &str, cause: Box<dyn std::error::Error + Send + Sync>) -> ProviderError {
    ProviderError { doing: format!("zookeeper {server}: {doing}"), cause }
}
