//! etcd 3.4, by its v3 API.

use std::net::SocketAddr;

use etcd_client::GetOptions;
use nuncio::Name;
use nuncio::config::providers::EtcdConfig;
use nuncio::discovery::{EtcdProvider, Provider};

use crate::rig::{Change, Contents, Fault, Rig};
use crate::support::etcd::{Etcd, Writer};
use crate::support::relay::Target;

const PREFIX: &str = "/nuncio/";

/// An etcd of one member.
pub struct EtcdRig {
    etcd: Etcd,
    writer: Writer,
    has_backup: bool,
}

impl EtcdRig {
    async fn pairs(&mut self) -> Vec<(String, String)> {
        let answer = self.writer.0.get(PREFIX, Some(GetOptions::new().with_prefix())).await.expect("etcd answers");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        answer.kvs().iter().map(|pair| (text(pair.key()), text(pair.value()))).collect()
    }
}

impl Rig for EtcdRig {
    async fn start() -> Self {
        let etcd = Etcd::start_in_memory().await;
        let writer = etcd.writer().await;
        Self { etcd, writer, has_backup: false }
    }

    fn address(&self) -> Target {
        self.etcd.address().into()
    }

    fn faults(&self) -> &'static [Fault] {
        &[Fault::Restart, Fault::Kill, Fault::Freeze, Fault::ForgetHistory, Fault::Restore, Fault::Rebuild]
    }

    fn provider(&self, address: SocketAddr) -> impl Provider + 'static {
        let config = EtcdConfig { endpoints: vec![format!("http://{address}")], ..EtcdConfig::default() };
        EtcdProvider::new(Name::literal("etcd"), config)
    }

    async fn write(&mut self, change: &Change) {
        let (key, value) = change.key_and_value();
        let key = format!("{PREFIX}{key}");
        match value {
            Some(value) => drop(self.writer.put(&key, &value).await),
            None => self.writer.delete(&key).await,
        }
    }

    async fn begin(&mut self, fault: Fault) {
        match fault {
            Fault::Restart => {
                self.etcd.end();
                self.etcd.keep_data();
                self.has_backup = true;
            }
            Fault::Kill => self.etcd.kill(),
            Fault::Freeze => self.etcd.freeze(),
            Fault::ForgetHistory => self.writer.compact().await,
            Fault::Restore => {
                self.etcd.kill();
                if self.has_backup {
                    self.etcd.restore_data();
                }
            }
            Fault::Rebuild => {
                let pairs = self.pairs().await;
                self.etcd.kill();
                self.etcd.wipe();
                self.etcd.run().await;
                self.writer = self.etcd.writer().await;
                self.writer.put_all(&pairs).await;
            }
            _ => unreachable!("not among its faults"),
        }
    }

    async fn end(&mut self, fault: Fault) {
        match fault {
            Fault::Freeze => self.etcd.thaw(),
            Fault::Restart | Fault::Kill | Fault::Restore => {
                self.etcd.run().await;
                self.writer = self.etcd.writer().await;
            }
            _ => {}
        }
    }

    async fn read(&mut self) -> Contents {
        Contents::of_keys(self.pairs().await.into_iter().map(|(key, value)| (key[PREFIX.len()..].to_owned(), value)))
    }
}
