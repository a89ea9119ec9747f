//! From Consul to traffic: a deployment moves between two groups of instances by a key, and no request is lost. On a real agent if
//! `CONSUL_BIN` names one.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nuncio::config::providers::{CatalogConfig, ConsulConfig};
use nuncio::discovery::ConsulProvider;
use nuncio::{Name, Server};
use support::DEADLINE;
use support::consul_agent::Agent;
use support::http1::{AfterResponse, Connection, Endpoint};
use tokio::task::JoinSet;

const GET: &str = "GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n";
const FLIPS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_are_switched_under_load() {
    let agent = Agent::start().await;
    let groups = ["production", "staging"];
    let mut endpoints = Vec::new();
    for (id, group) in groups.into_iter().enumerate() {
        let endpoint = Endpoint::start(id, AfterResponse::Keep).await;
        agent.register("apache-80", &format!("vm:b{id}:80"), "", endpoint.address.port(), &[group, "nuncio.host=a.test"]).await;
        endpoints.push(endpoint);
    }
    agent.put_key("nuncio/listeners/web", r#"{"address":"127.0.0.1:0"}"#).await;
    agent.put_key("backend/current", groups[0]).await;
    let switch = [("apache-80".to_owned(), "backend/current".to_owned())].into();
    let catalog = Some(CatalogConfig { switch, ..CatalogConfig::default() });
    let config = ConsulConfig { endpoints: vec![agent.url()], catalog, ..ConsulConfig::default() };
    let provider = ConsulProvider::new(Name::literal("consul"), config);
    let server = Server::builder().workers(1).provider(provider).start().expect("a server starts");
    until_endpoint(&server, endpoints[0].address).await;
    let address = server.local_addr(&Name::literal("web")).expect("the listener is open");

    let is_over = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for is_kept in [true, true, false] {
        clients.spawn(ask_until(is_over.clone(), address, is_kept));
    }
    for flip in 1..=FLIPS {
        let group = flip % groups.len();
        agent.put_key("backend/current", groups[group]).await;
        until_endpoint(&server, endpoints[group].address).await;
        let mut connection = Connection::open(address).await.expect("it accepts");
        let answer = connection.exchange(GET).await.expect("an answer");
        assert!(answer.status() == 200 && answer.body.starts_with(&format!("{group} ")), "{} {}", answer.status(), answer.body);
    }
    is_over.store(true, Ordering::Relaxed);
    let mut answered = 0;
    while let Some(client) = clients.join_next().await {
        answered += client.expect("a client ends").unwrap_or_else(|error| panic!("a request was lost: {error}"));
    }
    assert!(answered >= FLIPS, "{answered} requests are no load");
    assert!(tokio::time::timeout(DEADLINE, server.shutdown()).await.expect("it ends"), "nothing was cut");
}

/// Asks again and again. How often it was answered with 200: each time, or an error.
async fn ask_until(is_over: Arc<AtomicBool>, address: SocketAddr, is_kept: bool) -> Result<usize, String> {
    let mut connection = Connection::open(address).await.map_err(|error| error.to_string())?;
    let mut answered = 0;
    while !is_over.load(Ordering::Relaxed) {
        if !is_kept {
            connection = Connection::open(address).await.map_err(|error| error.to_string())?;
        }
        let answer = connection.exchange(GET).await.map_err(|error| error.to_string())?;
        if answer.status() != 200 {
            return Err(format!("{}: {}", answer.status(), answer.body));
        }
        answered += 1;
    }
    Ok(answered)
}

/// Waits for a table in which this is the only endpoint, and which is in force.
async fn until_endpoint(server: &Server, address: SocketAddr) {
    let mut generations = server.status().generations();
    let reached = generations.wait_for(|opened| {
        let table = server.table();
        let endpoints = table.upstreams.get("apache-80").map(|upstream| &upstream.endpoints);
        let is_only = endpoints.is_some_and(|endpoints| endpoints.iter().map(|endpoint| endpoint.address.ip()).eq([Some(address)]));
        *opened >= table.generation && is_only
    });
    if tokio::time::timeout(DEADLINE, reached).await.is_err() {
        panic!("{address}: not within {DEADLINE:?}: {:?}", server.status().problems());
    }
}
