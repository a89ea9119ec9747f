//! A document that an HTTP server has, which holds its answer until the document is another.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use nuncio::Name;
use nuncio::config::providers::HttpConfig;
use nuncio::discovery::{HttpProvider, Provider};
use serde_json::{Value, json};

use crate::rig::{Change, Contents, Fault, Rig};
use crate::support::http_document::Document;
use crate::support::relay::Target;
use crate::support::stub::Say;

/// How long the server may hold its answer.
const WAIT: Duration = Duration::from_secs(60);

/// A server with a document in JSON, of which no part is a document.
pub struct HttpPullRig {
    server: Document,
    text: Text,
    backup: Option<Text>,
    /// How many documents there were so far.
    count: usize,
}

/// What the document is made of.
#[derive(Debug, Clone, Default)]
struct Text {
    routes: BTreeMap<String, Value>,
    /// The addresses of upstreams, by the names of their endpoints.
    upstreams: BTreeMap<String, BTreeMap<String, SocketAddr>>,
}

impl Text {
    fn change(&mut self, change: &Change) {
        match change {
            Change::Route { name, host, upstream } => {
                let route = json!({ "match": format!("Host(\"{host}\")"), "upstream": upstream });
                self.routes.insert(name.clone(), route);
            }
            Change::NoRoute { name } => drop(self.routes.remove(name)),
            Change::Endpoint { upstream, id, address } => {
                self.upstreams.entry(upstream.clone()).or_default().insert(id.clone(), *address);
            }
            Change::NoEndpoint { upstream, id } => drop(self.upstreams.entry(upstream.clone()).or_default().remove(id)),
        }
    }

    fn write(&self) -> String {
        let upstreams = self.upstreams.iter().map(|(name, endpoints)| {
            let addresses: BTreeSet<String> = endpoints.values().map(ToString::to_string).collect();
            (name.clone(), json!({ "endpoints": addresses }))
        });
        json!({ "routes": self.routes, "upstreams": upstreams.collect::<BTreeMap<_, _>>() }).to_string()
    }
}

impl HttpPullRig {
    /// Puts a document in place, with a tag of its own.
    fn put(&mut self, text: String) {
        self.count += 1;
        self.server.say(whole(&format!("\"{}\"", self.count), text));
    }
}

fn whole(tag: &str, text: String) -> Say {
    Say::Whole(200, format!("Content-Type: application/json\r\nETag: {tag}\r\n"), text)
}

impl Rig for HttpPullRig {
    async fn start() -> Self {
        let (server, text) = (Document::start(whole("\"0\"", "{}".into())).await, Text::default());
        Self { server, text, backup: None, count: 0 }
    }

    /// A document without anything in it.
    fn could_say(answer: &[u8]) -> bool {
        answer.ends_with(b"{}")
    }

    fn address(&self) -> Target {
        self.server.stub().address.into()
    }

    fn faults(&self) -> &'static [Fault] {
        &[Fault::Restart, Fault::Kill, Fault::Freeze, Fault::ForgetHistory, Fault::Restore, Fault::HalfWritten, Fault::Away]
    }

    fn provider(&self, address: SocketAddr) -> impl Provider + 'static {
        let config = HttpConfig { wait: Some(WAIT), ..HttpConfig::of_url(&format!("http://{address}/edge.json")) };
        HttpProvider::new(Name::literal("http"), config)
    }

    async fn write(&mut self, change: &Change) {
        self.text.change(change);
        self.put(self.text.write());
    }

    async fn begin(&mut self, fault: Fault) {
        match fault {
            Fault::Restart => {
                self.server.stop();
                self.backup = Some(self.text.clone());
            }
            Fault::Kill => self.server.stop(),
            Fault::Freeze => self.server.freeze(true),
            // Another server has the same document, with a tag that it made.
            Fault::ForgetHistory => self.put(self.text.write()),
            Fault::Restore => {
                self.server.stop();
                if let Some(backup) = &self.backup {
                    self.text = backup.clone();
                    self.put(self.text.write());
                }
            }
            Fault::HalfWritten => {
                let text = self.text.write();
                self.put(text[..text.len() / 2].to_owned());
            }
            Fault::Away => self.server.say(Say::Whole(404, String::new(), "not found".into())),
            _ => unreachable!("not among its faults"),
        }
    }

    async fn end(&mut self, fault: Fault) {
        match fault {
            Fault::Restart | Fault::Kill | Fault::Restore => self.server.run().await,
            Fault::Freeze => self.server.freeze(false),
            Fault::HalfWritten | Fault::Away => self.put(self.text.write()),
            _ => {}
        }
    }

    async fn read(&mut self) -> Contents {
        let Say::Whole(200, _, text) = self.server.said() else { panic!("the document is there") };
        let text: Value = serde_json::from_str(&text).unwrap();
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, route) in text["routes"].as_object().unwrap() {
            pairs.push((format!("routes/{name}"), route.to_string()));
        }
        for (name, upstream) in text["upstreams"].as_object().unwrap() {
            let addresses = upstream["endpoints"].as_array().unwrap().iter().map(|address| address.as_str().unwrap());
            pairs.extend(addresses.map(|address| (format!("upstreams/{name}/endpoints/{address}"), address.to_owned())));
        }
        Contents::of_keys(pairs)
    }
}
