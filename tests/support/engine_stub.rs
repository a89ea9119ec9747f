//! The API of a Docker engine, served from memory: as many containers as one likes, each with one label, or, of a Swarm, as many services.
//! A real engine takes a second for each; what only a real one does is tested on that.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

type Labels = BTreeMap<String, (String, String)>;

/// An engine on a free port of loopback.
pub struct EngineStub {
    address: SocketAddr,
    state: Arc<State>,
    _stop: DropGuard,
}

struct State {
    /// The label of each container by its name.
    containers: Mutex<Labels>,
    /// How often something changed.
    changes: watch::Sender<u64>,
}

impl EngineStub {
    /// An engine without containers.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::new(State { containers: Mutex::default(), changes: watch::channel(0).0 });
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(stop.clone().run_until_cancelled_owned(accept(listener, state.clone(), tasks.clone(), stop.clone())));
        Self { address, state, _stop: stop.drop_guard() }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts containers of these names, each with its label, in one step. Of a name that is there already the label changes.
    pub fn run(&self, containers: &[(String, (String, String))]) {
        self.change(|held| held.extend(containers.iter().cloned()));
    }

    /// Removes a container.
    pub fn remove(&self, name: &str) {
        self.change(|held| {
            held.remove(name);
        });
    }

    fn change(&self, change: impl FnOnce(&mut Labels)) {
        change(&mut self.state.containers.lock().expect("nobody panics with it"));
        self.state.changes.send_modify(|changes| *changes += 1);
    }
}

async fn accept(listener: TcpListener, state: Arc<State>, tasks: TaskTracker, stop: CancellationToken) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let state = state.clone();
            async move { Ok::<_, Infallible>(answer(&request, &state)) }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tasks.spawn(stop.clone().run_until_cancelled_owned(async {
            // A client that goes away is none of our business.
            let _ = connection.await;
        }));
    }
}

fn answer(request: &Request<Incoming>, state: &Arc<State>) -> Response<BoxBody<Bytes, Infallible>> {
    assert_eq!(request.method(), Method::GET, "an engine is read, never told to do anything");
    match request.uri().path() {
        "/_ping" => {
            let ping = Response::builder().header("api-version", "1.41").body(full("OK"));
            ping.expect("a response of constants")
        }
        "/v1.41/containers/json" => Response::new(full(list(state))),
        "/v1.41/services" => Response::new(full(services(state))),
        "/v1.41/nodes" | "/v1.41/tasks" => Response::new(full("[]")),
        "/v1.41/events" => Response::new(events(state.changes.subscribe())),
        path => {
            let mut response = Response::new(full(format!(r#"{{"message":"page not found: {path}"}}"#)));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    }
}

fn list(state: &State) -> String {
    let containers = state.containers.lock().expect("nobody panics with it");
    let container = |(name, (label, value)): (&String, &(String, String))| {
        serde_json::json!({
            "Id": name, "Names": [format!("/{}", name.replace('/', "_"))], "Created": 1, "Labels": { label: value },
            "State": "running", "Status": "Up 3 seconds", "Ports": [{ "PrivatePort": 80, "Type": "tcp" }],
            "HostConfig": { "NetworkMode": "default" }, "NetworkSettings": { "Networks": { "bridge": { "IPAddress": "172.17.0.2" } } },
        })
    };
    serde_json::Value::from_iter(containers.iter().map(container)).to_string()
}

/// The same as services without tasks.
fn services(state: &State) -> String {
    let services = state.containers.lock().expect("nobody panics with it");
    let service = |(name, (label, value)): (&String, &(String, String))| {
        serde_json::json!({
            "ID": name, "CreatedAt": "2026-11-21T15:12:44.667090935Z", "Endpoint": { "Spec": {} },
            "Spec": { "Name": name.replace('/', "_"), "Labels": { label: value }, "EndpointSpec": { "Mode": "dnsrr" } },
        })
    };
    serde_json::Value::from_iter(services.iter().map(service)).to_string()
}

/// Two events for each change, from the one before this on: an engine repeats what happened since a moment, too.
fn events(mut changes: watch::Receiver<u64>) -> BoxBody<Bytes, Infallible> {
    changes.mark_changed();
    let stream = futures_util::stream::unfold(changes, |mut changes| async {
        changes.changed().await.ok()?;
        let event = "{\"Type\":\"container\",\"Action\":\"update\",\"Actor\":{\"ID\":\"x\",\"Attributes\":{}}}\n\
            {\"Type\":\"service\",\"Action\":\"update\",\"Actor\":{\"ID\":\"x\",\"Attributes\":{}}}\n";
        Some((Ok(Frame::data(Bytes::from_static(event.as_bytes()))), changes))
    });
    BodyExt::boxed(StreamBody::new(stream))
}

fn full(text: impl Into<Bytes>) -> BoxBody<Bytes, Infallible> {
    Full::new(text.into()).boxed()
}
