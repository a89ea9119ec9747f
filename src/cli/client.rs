//! Asks the admin API of a running instance.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use nuncio::config::server::Admin;

use super::{Failure, whereabouts};

/// For connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// The largest answer read, in bytes.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Which instance is asked.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Instance {
    /// The admin API of the instance to ask [default: that of the instance that runs here, else http://127.0.0.1:8182]
    #[arg(long, value_name = "URL", env = "NUNCIO_ADMIN")]
    admin: Option<String>,
}

/// A table is asked for.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Question {
    #[command(flatten)]
    pub(super) instance: Instance,
    /// Prints the answer as JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl Question {
    /// Asks at this path, and prints the answer as JSON, or as `draw` does.
    pub(super) fn ask<T: DeserializeOwned + serde::Serialize>(
        &self,
        path: &str,
        draw: impl FnOnce(&T) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let answer: T = self.instance.ask(path)?.1;
        if self.json {
            return super::output::say_json(&answer);
        }
        draw(&answer)
    }
}

impl Instance {
    /// Whether nobody is named, and nobody is seen.
    pub(super) fn is_unknown(&self) -> bool {
        self.admin.is_none() && whereabouts::admins().is_empty()
    }

    /// Asks at this path. Says what was answered, and whether as a success.
    pub(super) fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<(StatusCode, T), Failure> {
        self.send(Method::GET, path)
    }

    /// Has it do what this path is for.
    pub(super) fn order<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.send(Method::POST, path).map(|(_, answer)| answer)
    }

    fn send<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<(StatusCode, T), Failure> {
        let authority = self.authority()?;
        let (status, body) = super::runtime()?.block_on(request(&authority, method, path))?;
        if !(status.is_success() || status == StatusCode::SERVICE_UNAVAILABLE) {
            return Err(Failure::Message(format!("{authority}{path} answered {status}: {}", error_in(&body))));
        }
        let answer = serde_json::from_slice(&body);
        answer.map(|answer| (status, answer)).map_err(|error| {
            Failure::Message(format!(
                "{authority}{path} answered something else than the admin API of this version of nuncio does: {error}"
            ))
        })
    }

    /// `127.0.0.1:8182` of `http://127.0.0.1:8182/`.
    fn authority(&self) -> Result<String, Failure> {
        let Some(admin) = &self.admin else { return choose(&whereabouts::admins()) };
        let text = admin.strip_prefix("http://").unwrap_or(admin);
        let authority: Result<http::uri::Authority, _> = text.trim_end_matches('/').parse();
        match authority {
            Ok(authority) if authority.port_u16().is_some() && !authority.host().is_empty() => Ok(authority.to_string()),
            _ => Err(Failure::Message(format!("`{}` is not the URL of an admin API, such as http://127.0.0.1:8182", admin))),
        }
    }
}

/// Who is asked of the instances that were found here, if nobody is named.
fn choose(found: &[SocketAddr]) -> Result<String, Failure> {
    match (found, Admin::default()) {
        ([one], _) => Ok(one.to_string()),
        ([_, ..], Admin::Address(default)) if !found.contains(&default) => {
            let all = found.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
            Err(Failure::Message(format!("several instances run here: say which one to ask, such as with --admin http://HOST:PORT: {all}")))
        }
        (_, Admin::Address(default)) => Ok(default.to_string()),
        (_, Admin::Off) => Err(Failure::Message("no instance was found here: say where it is with --admin http://HOST:PORT".into())),
    }
}

/// What an error says of itself, if it is one of ours.
fn error_in(body: &[u8]) -> String {
    let ours = serde_json::from_slice::<serde_json::Value>(body).ok();
    let message = ours.as_ref().and_then(|body| body.get("error")?.as_str());
    message.unwrap_or("this is not the admin API of nuncio").to_string()
}

async fn request(authority: &str, method: Method, path: &str) -> Result<(StatusCode, Bytes), Failure> {
    let (stream, address) = connect(authority).await.map_err(|error| Failure::Message(no_answer(authority, &error)))?;
    let answer = timeout(ANSWER_TIMEOUT, exchange(stream, address, method, path)).await;
    let answer = answer.map_err(|_| format!("no answer within {ANSWER_TIMEOUT:?}")).and_then(|answer| answer);
    answer.map_err(|error| Failure::Message(format!("{authority}{path}: {error}")))
}

async fn connect(authority: &str) -> std::io::Result<(TcpStream, SocketAddr)> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(authority)).await??;
    let address = stream.peer_addr()?;
    Ok((stream, address))
}

/// Asks by address: the admin API answers to no name.
async fn exchange(stream: TcpStream, address: SocketAddr, method: Method, path: &str) -> Result<(StatusCode, Bytes), String> {
    let error = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(error)?;
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let request = Request::builder().method(method).uri(path).header(http::header::HOST, address.to_string()).body(Empty::<Bytes>::new());
    let response = sender.send_request(request.map_err(|error| error.to_string())?).await.map_err(error)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
    Ok((status, body.to_bytes()))
}

fn no_answer(authority: &str, error: &std::io::Error) -> String {
    format!(
        "no instance answers on {authority}: {error}\n\n  \
         `nuncio run` answers on 127.0.0.1:8182 by default. Ask another address with --admin http://HOST:PORT;\n  \
         set where an instance answers with `nuncio run --admin HOST:PORT`, or `admin = \"HOST:PORT\"` in [server]."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_named_by_a_url_or_an_address() {
        let authority = |text: &str| Instance { admin: Some(text.into()) }.authority().ok();
        for text in ["http://10.0.0.5:8182", "http://10.0.0.5:8182/", "10.0.0.5:8182"] {
            assert_eq!(authority(text).as_deref(), Some("10.0.0.5:8182"), "{text}");
        }
        for text in ["", "https://a:1", "http://a", "a b:1", ":8182"] {
            assert_eq!(authority(text), None, "{text}");
        }
    }

    #[test]
    fn the_instance_that_runs_here_is_asked() {
        let [default, other, third] = ["127.0.0.1:8182", "127.0.0.1:9", "127.0.0.1:10"].map(|text| text.parse::<SocketAddr>().unwrap());
        let check = |found: &[SocketAddr], expected: Option<SocketAddr>| {
            assert_eq!(choose(found).ok(), expected.map(|address| address.to_string()), "{found:?}");
        };
        check(&[], Some(default));
        check(&[other], Some(other));
        check(&[default, other], Some(default));
        check(&[other, third], None);
    }
}
