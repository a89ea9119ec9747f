//! ZooKeeper 3.8.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use nuncio::Name;
use nuncio::config::providers::ZookeeperConfig;
use nuncio::discovery::{Provider, ZookeeperProvider};
use zookeeper_client::{Client, Error};

use crate::rig::{Between, Change, Contents, Fault, Rig};
use crate::support::DEADLINE;
use crate::support::relay::Target;
use crate::support::zookeeper::{ZooKeeper, ZooKeeperWriter};

const PREFIX: &str = "/nuncio";

/// So many seconds are a day.
const DAY: i64 = 24 * 60 * 60;

/// A server, whose clock is its own.
pub struct ZookeeperRig {
    server: ZooKeeper,
    writer: ZooKeeperWriter,
    has_backup: bool,
}

impl ZookeeperRig {
    /// All znodes with data.
    async fn pairs(&self) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        collect(self.writer.client(), PREFIX.to_owned(), &mut pairs).await;
        pairs
    }

    async fn run(&mut self) {
        self.server.run().await;
        self.writer = self.server.writer().await;
    }
}

async fn collect(client: &Client, path: String, pairs: &mut Vec<(String, String)>) {
    let (data, _) = client.get_data(&path).await.unwrap();
    for child in client.list_children(&path).await.unwrap() {
        Box::pin(collect(client, format!("{path}/{child}"), pairs)).await;
    }
    if !data.is_empty() {
        pairs.push((path, String::from_utf8(data).unwrap()));
    }
}

impl Rig for ZookeeperRig {
    async fn start() -> Self {
        let mut server = ZooKeeper::stopped().with_own_clock();
        server.run().await;
        let writer = server.writer().await;
        Self { server, writer, has_backup: false }
    }

    fn address(&self) -> Target {
        self.server.address().into()
    }

    fn faults(&self) -> &'static [Fault] {
        &[
            Fault::Restart,
            Fault::Kill,
            Fault::Freeze,
            Fault::ForgetHistory,
            Fault::Restore,
            Fault::Rebuild,
            Fault::ClockAhead,
            Fault::ClockBack,
        ]
    }

    fn provider(&self, address: SocketAddr) -> impl Provider + 'static {
        let session_timeout = Duration::from_secs(2);
        let config = ZookeeperConfig { endpoints: vec![address.to_string()], session_timeout, ..ZookeeperConfig::default() };
        ZookeeperProvider::new(Name::literal("zookeeper"), config)
    }

    /// A session expires when nothing is heard of its owner.
    fn between(fault: Fault) -> Between {
        match fault {
            Fault::ForgetHistory => Between::Silence,
            Fault::Rebuild => Between::Nothing,
            _ => Between::AsItIs,
        }
    }

    async fn write(&mut self, change: &Change) {
        let (key, value) = change.key_and_value();
        let path = format!("{PREFIX}/{key}");
        match value {
            Some(value) => self.writer.put(&path, &value).await,
            None => match self.writer.client().delete(&path, None).await {
                Ok(()) | Err(Error::NoNode) => {}
                Err(error) => panic!("delete {path}: {error}"),
            },
        }
    }

    async fn begin(&mut self, fault: Fault) {
        match fault {
            Fault::Restart => {
                self.server.end();
                self.server.keep_data();
                self.has_backup = true;
            }
            Fault::Kill => self.server.kill(),
            Fault::Freeze => self.server.freeze(),
            Fault::ForgetHistory => {}
            Fault::Restore => {
                self.server.kill();
                if self.has_backup {
                    self.server.restore_data();
                }
            }
            Fault::Rebuild => {
                let pairs = self.pairs().await;
                self.server.kill();
                self.server.wipe();
                self.run().await;
                for (path, value) in pairs {
                    self.writer.put(&path, &value).await;
                }
            }
            Fault::ClockAhead => self.server.move_clock(DAY),
            Fault::ClockBack => self.server.move_clock(-DAY),
            _ => unreachable!("not among its faults"),
        }
    }

    async fn end(&mut self, fault: Fault) {
        match fault {
            Fault::Freeze => self.server.thaw(),
            Fault::Restart | Fault::Kill | Fault::Restore => self.run().await,
            Fault::ForgetHistory => {
                let is_expired = async { while self.server.sessions().await > 1 {} };
                tokio::time::timeout(DEADLINE, is_expired).await.expect("only the writer's session is left");
            }
            _ => {}
        }
    }

    async fn read(&mut self) -> Contents {
        let pairs = self.pairs().await;
        Contents::of_keys(pairs.into_iter().map(|(path, value)| (path[PREFIX.len() + 1..].to_owned(), value)))
    }
}

/// Else its clock is moved by nobody, and jumps show nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clock_of_zookeeper_jumps() {
    let rig = ZookeeperRig::start().await;
    for days in [0, 1, -1] {
        rig.server.move_clock(days * DAY);
        let jumped = async { while rig.ahead().await.abs_diff(days * DAY) > 60 {} };
        tokio::time::timeout(DEADLINE, jumped).await.unwrap_or_else(|_| panic!("it did not jump by {days} days"));
    }
}

impl ZookeeperRig {
    /// How many seconds its clock is ahead of ours.
    async fn ahead(&self) -> i64 {
        self.writer.put("/clock", "x").await;
        let stat = self.writer.client().check_stat("/clock").await.unwrap().unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        stat.mtime / 1_000 - i64::try_from(now).unwrap()
    }
}
