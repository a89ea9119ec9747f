//! Ephemeral znodes: they go with the session that made them.

use std::time::Duration;

use bytes::Bytes;

use super::layout::Entry;
use super::store::Put;
use crate::config::providers::ZookeeperConfig;
use crate::discovery::ProviderError;
use crate::discovery::zookeeper_session::{HANDSHAKE_TIMEOUT_MAX, Message, Refusal, Session, SessionError};
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

    /// Makes a znode, in the place of one that is there, and the folders above it.
    pub(super) async fn put(&mut self, path: &str, value: &str) -> Result<Put, ProviderError> {
        let create = Request::Create { path, data: value.as_bytes(), is_ephemeral: true };
        let made = match self.ask(&create).await? {
            Err(Refusal::Code(NODE_EXISTS)) => self.ask(&Request::Delete(path)).await?,
            Err(Refusal::Code(NO_NODE)) => self.make_folders(path).await?,
            outcome => return Ok(put(outcome)),
        };
        match made {
            Ok(_) | Err(Refusal::Code(NO_NODE | NODE_EXISTS)) => self.ask(&create).await.map(put),
            Err(refusal) => Ok(Put::Refused(refusal.to_string())),
        }
    }

    /// Deletes a znode, if it still says what we wrote.
    pub(super) async fn delete(&mut self, path: &str, entry: &Entry) -> Result<(), ProviderError> {
        if self.holds(path).await?.is_some_and(|value| value == entry.value.as_bytes()) {
            match self.ask(&Request::Delete(path)).await? {
                Ok(_) | Err(Refusal::Code(NO_NODE)) => (),
                Err(refusal) => return Err(self.refused(path, refusal)),
            }
        }
        Ok(())
    }

    /// What a znode says. None: there is none.
    pub(super) async fn holds(&mut self, path: &str) -> Result<Option<Vec<u8>>, ProviderError> {
        match self.ask(&Request::Data(path)).await? {
            Ok(body) => {
                let (value, _) = wire::data(&body).map_err(|broken| failed(&self.server, path, broken.into()))?;
                Ok(Some(value.to_vec()))
            }
            Err(Refusal::Code(NO_NODE)) => Ok(None),
            Err(refusal) => Err(self.refused(path, refusal)),
        }
    }

    /// Gives a sign of life.
    pub(super) async fn keep_alive(&mut self) -> Result<(), ProviderError> {
        self.ask(&Request::Sync("/")).await.map(drop)
    }

    /// Ends the session, and with it all znodes.
    pub(super) async fn close(self) {
        self.session.close().await;
    }

    /// Makes the folders above a znode. The outcome of the last one.
    async fn make_folders(&mut self, path: &str) -> Result<Result<Bytes, Refusal>, ProviderError> {
        let mut outcome = Ok(Bytes::new());
        for (end, _) in path.match_indices('/').skip(1) {
            if let Some(folder) = path.get(..end) {
                outcome = self.ask(&Request::Create { path: folder, data: b"", is_ephemeral: false }).await?;
            }
        }
        Ok(outcome)
    }

    async fn ask(&mut self, request: &Request<'_>) -> Result<Result<Bytes, Refusal>, ProviderError> {
        self.session.send(request);
        let answered = async {
            loop {
                if let Message::Answer { outcome, .. } = self.session.next().await? {
                    return Ok::<_, SessionError>(outcome);
                }
            }
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, answered).await {
            Ok(outcome) => outcome.map_err(|error| failed(&self.server, "write", error.into())),
            Err(_) => Err(failed(&self.server, "write", format!("no answer within {ANSWER_TIMEOUT:?}").into())),
        }
    }

    fn refused(&self, path: &str, refusal: Refusal) -> ProviderError {
        failed(&self.server, path, refusal.to_string().into())
    }
}

fn put(outcome: Result<Bytes, Refusal>) -> Put {
    outcome.map_or_else(|refusal| Put::Refused(refusal.to_string()), |_| Put::Done)
}

fn failed(server: &str, doing: &str, cause: Box<dyn std::error::Error + Send + Sync>) -> ProviderError {
    ProviderError { doing: format!("zookeeper {server}: {doing}"), cause }
}
