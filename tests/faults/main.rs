//! What befalls a source of configuration must not befall traffic: real servers, under load, and faults in random order.
//!
//! Each provider reads its store through a relay, while the test writes to the store directly and clients send requests through the proxy
//! without pause. In rounds, faults of the network (cut, stalled, slow, truncated, wrong answers) and of the store itself (restart,
//! `kill -9`, `kill -STOP`, lost history, clock jumps) come in random order, with random changes of what is registered in between. Then all is healed,
//! and within [two seconds](harness::RIGHT_WITHIN) the table must equal what the store holds, which is read back from it. No request may
//! fail, ever: one endpoint that lives is registered all the time.
//!
//! * `FAULT_SEED=…` repeats a sequence; a run prints its seed, and each fault with its time.
//! * `FAULT_SECONDS=60` is how long each provider is tried, 15 if not given. `FAULT_SECONDS=60 cargo nextest run --test faults` is the
//!   full test; nextest gives it the time (`.config/nextest.toml`).
//! * `CONSUL_BIN=…` is tried in place of the stub.
//!
//! A further provider is a [`Rig`](rig::Rig) in a file of its own, and a line below.
//!
//! # Clock jumps
//! Nothing can make the monotonic clock jump, and a time namespace (`unshare -T`) moves only clocks that count from the boot, at the start of
//! a process. The wall clock of one process is moved by a library that is preloaded into it (`tests/fixtures/clock`), where it asks libc for
//! the time: the virtual machine of ZooKeeper does; etcd, Docker and Consul are Go programs, which ask the kernel.

// A test that unwraps says at once what it did not expect; the helpers of tests do the same.
#![allow(clippy::unwrap_used, unreachable_pub)]
// What a seed did is printed, for who looks why it failed.
#![allow(clippy::print_stdout)]

#[path = "../support/dns.rs"]
#[allow(dead_code)] // Other tests use the rest.
mod name_server;
#[path = "../support/mod.rs"]
mod support;

mod catalog;
mod consul;
mod dns;
mod docker;
mod etcd;
mod etcd2;
mod file;
mod guard;
mod harness;
mod http_pull;
mod load;
mod marathon;
mod rig;
mod swarm;
mod zookeeper;

macro_rules! withstands_faults {
    ($($name:ident: $rig:ty),* $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            harness::run::<$rig>().await;
        }
    )*};
}

withstands_faults! {
    etcd_withstands_faults: etcd::EtcdRig,
    consul_withstands_faults: consul::ConsulRig,
    docker_withstands_faults: docker::DockerRig,
    etcd2_withstands_faults: etcd2::Etcd2Rig,
    file_withstands_faults: file::FileRig,
    swarm_withstands_faults: swarm::SwarmRig,
    zookeeper_withstands_faults: zookeeper::ZookeeperRig,
    marathon_withstands_faults: marathon::MarathonRig,
    catalog_withstands_faults: catalog::CatalogRig,
    http_pull_withstands_faults: http_pull::HttpPullRig,
    dns_withstands_faults: dns::DnsRig,
}
