//! Ephemeral znodes: they go with the session that made them.

use std::time::Duration;

use super::layout::Entry;
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
    pub(super) async fn put(&mut self, path: &str, value: &str) -> Result<(), ProviderError> {
        let create = Request::Create { path, data: value.as_bytes(), is_ephemeral: true };
        match self.ask(&create).await? {
            Err(Refusal::Code(NODE_EXISTS)) => {
                self.demand(&Request::Delete(path), path, &[NO_NODE]).await?;
            }
            Err(Refusal::Code(NO_NODE)) => self.make_folders(path).await?,
            Err(refusal) => return Err(self.refused(path, refusal)),
            Ok(_) => return Ok(()),
        }
        self.demand(&create, path, &[]).await
    }

    /// Deletes a znode, if it still says what we wrote.
    pub(super) async fn delete(&mut self, path: &str, entry: &Entry) -> Result<(), ProviderError> {
        if self.holds(path).await?.is_some_and(|value| value == entry.value.as_bytes()) {
            self.demand(&Request::Delete(path), path, &[NO_NODE]).await?;
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

    async fn make_folders(&mut self, path: &str) -> Result<(), ProviderError> {
        for (end, _) in path.match_indices('/').skip(1) {
            if let Some(folder) = path.get(..end) {
                self.demand(&Request::Create { path: folder, data: b"", is_ephemeral: false }, folder, &[NODE_EXISTS]).await?;
            }
        }
        Ok(())
    }

    /// Asks for what must be done, or have been done, as one of these codes says.
    async fn demand(&mut self, request: &Request<'_>, path: &str, done: &[i32]) -> Result<(), ProviderError> {
        match self.ask(request).await? {
            Err(Refusal::Code(code)) if done.contains(&code) => Ok(()),
            Err(refusal) => Err(self.refused(path, refusal)),
            Ok(_) => Ok(()),
        }
    }

    async fn ask(&mut self, request: &Request<'_>) -> Result<Result<bytes::Bytes, Refusal>, ProviderError> {
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

fn failed(server: &str, doing: &str, cause: Box<dyn std::error::Error + Send + Sync>) -> ProviderError {
    ProviderError { doing: format!("zookeeper {server}: {doing}"), cause }
}
