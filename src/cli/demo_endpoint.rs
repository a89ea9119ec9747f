//! The endpoints of the demo: tiny HTTP servers in this process, each of which can be stopped and started.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// One endpoint.
pub(super) struct DemoEndpoint {
    /// Its name.
    pub(super) name: &'static str,
    /// Where it listens while it runs. Its own for as long as nobody takes it.
    pub(super) address: SocketAddr,
    /// None: it is stopped.
    running: Mutex<Option<Running>>,
}

/// A server at work.
struct Running {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl DemoEndpoint {
    /// An endpoint on a free port, running.
    pub(super) async fn start_on_free_port(name: &'static str) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let running = Running::start(listener, Arc::new(move |request: &Request<_>| describe(name, address, request)));
        Ok(Self { name, address, running: Mutex::new(Some(running)) })
    }

    /// Starts it again. Nothing if it runs.
    pub(super) async fn start(&self) -> io::Result<()> {
        let mut running = self.running.lock().await;
        if running.is_none() {
            let (name, address) = (self.name, self.address);
            let listener = TcpListener::bind(address).await?;
            *running = Some(Running::start(listener, Arc::new(move |request: &Request<_>| describe(name, address, request))));
        }
        Ok(())
    }

    /// Stops it as a crash would: connections end where they are, and new ones are refused.
    pub(super) async fn stop(&self) {
        if let Some(running) = self.running.lock().await.take() {
            running.stop().await;
        }
    }
}

/// Where the endpoints are stopped and started: `/stop/NAME` and `/start/NAME`.
pub(super) struct Switchboard {
    /// Where it listens.
    pub(super) address: SocketAddr,
    running: Running,
}

impl Switchboard {
    /// A switchboard of `endpoints` on a free port.
    pub(super) async fn start(endpoints: Arc<[DemoEndpoint]>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let accepting = async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answer = service_fn(|request: Request<_>| {
                    let endpoints = endpoints.clone();
                    async move { Ok::<_, Infallible>(switch(&endpoints, request.uri().path()).await) }
                });
                // One after the other: there is one person at the switches.
                let _ = hyper::server::conn::http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), answer).await;
            }
        };
        tasks.spawn(stop.clone().run_until_cancelled_owned(accepting));
        Ok(Self { address, running: Running { stop, tasks } })
    }

    /// Ends it.
    pub(super) async fn stop(self) {
        self.running.stop().await;
    }
}

async fn switch(endpoints: &[DemoEndpoint], path: &str) -> Response<Full<Bytes>> {
    let (action, name) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
    let Some(endpoint) = endpoints.iter().find(|endpoint| endpoint.name == name) else {
        return text(StatusCode::NOT_FOUND, "ask for /stop/NAME or /start/NAME\n".into());
    };
    match action {
        "stop" => {
            endpoint.stop().await;
            text(StatusCode::OK, format!("{name} is stopped\n"))
        }
        "start" => match endpoint.start().await {
            Ok(()) => text(StatusCode::OK, format!("{name} runs\n")),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{name} cannot listen on {}: {error}\n", endpoint.address)),
        },
        _ => text(StatusCode::NOT_FOUND, "ask for /stop/NAME or /start/NAME\n".into()),
    }
}

type Answer = Arc<dyn Fn(&Request<hyper::body::Incoming>) -> Response<Full<Bytes>> + Send + Sync>;

impl Running {
    fn start(listener: TcpListener, answer: Answer) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(stop.clone().run_until_cancelled_owned(accept(listener, answer, tasks.clone(), stop.clone())));
        Self { stop, tasks }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn accept(listener: TcpListener, answer: Answer, tasks: TaskTracker, stop: CancellationToken) {
    while let Ok((stream, _)) = listener.accept().await {
        tasks.spawn(stop.clone().run_until_cancelled_owned(converse(stream, answer.clone())));
    }
}

async fn converse(stream: TcpStream, answer: Answer) {
    let service = service_fn(move |request| {
        let answer = answer(&request);
        async { Ok::<_, Infallible>(answer) }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// One line that says who answers, and what the proxy told of the request.
fn describe<B>(name: &str, address: SocketAddr, request: &Request<B>) -> Response<Full<Bytes>> {
    let field = |name| request.headers().get(name).map_or("none".into(), |value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let instance = format!("{name}-{}", address.port());
    let line = format!("{instance:<12} {} {}  X-Forwarded-For: {}\n", request.method(), request.uri().path(), field("x-forwarded-for"));
    text(StatusCode::OK, line)
}

fn text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response
}
