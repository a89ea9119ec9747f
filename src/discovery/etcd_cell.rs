//! One key of an etcd v3 cluster, which several instances read and write.

use super::ProviderError;
use super::etcd_session::{Failure, Session};
use crate::config::providers::EtcdConfig;

/// One key, which several instances read and write.
pub(super) struct EtcdCell {
    session: Session,
    key: String,
    endpoint: String,
}

impl EtcdCell {
    /// The key is the prefix of `config`. The first of its endpoints that answers counts.
    pub(super) async fn connect(config: &EtcdConfig) -> Result<Self, ProviderError> {
        let mut failed = None;
        for endpoint in &config.endpoints {
            match Session::connect(endpoint, config, config.prefix.clone()).await {
                Ok(session) => return Ok(Self { session, key: config.prefix.clone(), endpoint: endpoint.clone() }),
                Err(failure) => failed = Some(ProviderError { doing: format!("etcd {endpoint}: connect"), cause: failure.into() }),
            }
        }
        Err(failed.unwrap_or_else(|| ProviderError { doing: "etcd".into(), cause: "`endpoints` is empty".into() }))
    }

    /// Where it is.
    pub(super) fn place(&self) -> String {
        format!("{} of etcd {}", self.key, self.endpoint)
    }

    /// Its value, and the revision that wrote it. None: there is none.
    pub(super) async fn read(&mut self) -> Result<Option<(Vec<u8>, i64)>, ProviderError> {
        self.session.get(&self.key).await.map_err(|failure| self.failed("read", failure))
    }

    /// Writes it, if `revision` is still the last that did; 0: if there is no value. False: somebody else was faster.
    pub(super) async fn write(&mut self, value: Vec<u8>, revision: i64) -> Result<bool, ProviderError> {
        self.session.replace(&self.key, value, revision).await.map_err(|failure| self.failed("write", failure))
    }

    fn failed(&self, what: &str, failure: Failure) -> ProviderError {
        ProviderError { doing: format!("{what} {}", self.place()), cause: failure.into() }
    }
}
