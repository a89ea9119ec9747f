//! A directory of configuration files: half-written, gone for a while, or replaced by another one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;

use nuncio::Name;
use nuncio::discovery::Provider;
use nuncio::discovery::file::FileProvider;
use tempfile::TempDir;

use crate::rig::{Change, Contents, Fault, Rig};
use crate::support::relay::Target;

/// A directory with a file for each route and each upstream.
pub struct FileRig {
    parent: TempDir,
    /// The addresses of upstreams, by the names of their endpoints.
    upstreams: BTreeMap<String, BTreeMap<String, SocketAddr>>,
    /// What is yet to be written.
    rest: Option<(PathBuf, String)>,
}

impl FileRig {
    fn directory(&self) -> PathBuf {
        self.parent.path().join("conf.d")
    }

    fn away(&self) -> PathBuf {
        self.parent.path().join("away")
    }

    /// As deployments do: another file takes the place of the old one.
    fn replace(&self, name: &str, text: Option<String>) {
        let path = self.directory().join(name);
        match text {
            Some(text) => {
                let next = self.parent.path().join("next");
                std::fs::write(&next, text).unwrap();
                std::fs::rename(next, path).unwrap();
            }
            // It may not be there.
            None => drop(std::fs::remove_file(path)),
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = std::fs::read_dir(self.directory()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }
}

impl Rig for FileRig {
    const HAS_NETWORK: bool = false;

    async fn start() -> Self {
        let rig = Self { parent: TempDir::new().unwrap(), upstreams: BTreeMap::new(), rest: None };
        std::fs::create_dir(rig.directory()).unwrap();
        rig
    }

    /// Nobody is there, and nobody connects.
    fn address(&self) -> Target {
        Target::Unix(self.parent.path().join("socket"))
    }

    fn faults(&self) -> &'static [Fault] {
        &[Fault::HalfWritten, Fault::Away, Fault::Replaced]
    }

    fn provider(&self, _: SocketAddr) -> impl Provider + 'static {
        FileProvider::new(Name::literal("file"), self.directory())
    }

    async fn write(&mut self, change: &Change) {
        match change {
            Change::Route { name, host, upstream } => {
                let text = format!("routes.{name} = {{ match = 'Host(\"{host}\")', upstream = \"{upstream}\" }}\n");
                self.replace(&format!("route-{name}.toml"), Some(text));
            }
            Change::NoRoute { name } => self.replace(&format!("route-{name}.toml"), None),
            Change::Endpoint { upstream, .. } | Change::NoEndpoint { upstream, .. } => {
                let endpoints = self.upstreams.entry(upstream.clone()).or_default();
                match change {
                    Change::Endpoint { id, address, .. } => drop(endpoints.insert(id.clone(), *address)),
                    Change::NoEndpoint { id, .. } => drop(endpoints.remove(id)),
                    Change::Route { .. } | Change::NoRoute { .. } => {}
                }
                let addresses: BTreeSet<String> = endpoints.values().map(|address| format!("\"{address}\"")).collect();
                let list = addresses.into_iter().collect::<Vec<_>>().join(", ");
                let text = Some(format!("upstreams.{upstream}.endpoints = [{list}]\n")).filter(|_| !list.is_empty());
                self.replace(&format!("upstream-{upstream}.toml"), text);
            }
        }
    }

    async fn begin(&mut self, fault: Fault) {
        match fault {
            // The first one is that of the route that the load takes. No part of a line is a line, and the first half is never empty.
            Fault::HalfWritten => {
                for path in self.files().into_iter().take(1) {
                    let text = std::fs::read_to_string(&path).unwrap();
                    std::fs::write(&path, &text[..text.len() / 2]).unwrap();
                    self.rest = Some((path, text));
                }
            }
            Fault::Away => std::fs::rename(self.directory(), self.away()).unwrap(),
            Fault::Replaced => {
                let other = self.parent.path().join("other");
                std::fs::create_dir(&other).unwrap();
                for path in self.files() {
                    std::fs::copy(&path, other.join(path.file_name().unwrap())).unwrap();
                }
                std::fs::rename(self.directory(), self.away()).unwrap();
                std::fs::rename(other, self.directory()).unwrap();
                std::fs::remove_dir_all(self.away()).unwrap();
            }
            _ => unreachable!("not among its faults"),
        }
    }

    async fn end(&mut self, fault: Fault) {
        match (fault, self.rest.take()) {
            (Fault::HalfWritten, Some((path, text))) => std::fs::write(path, text).unwrap(),
            (Fault::Away, _) => std::fs::rename(self.away(), self.directory()).unwrap(),
            _ => {}
        }
    }

    async fn read(&mut self) -> Contents {
        let mut pairs = Vec::new();
        for path in self.files() {
            let table: toml::Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
            for (name, route) in table.get("routes").and_then(|routes| routes.as_table()).into_iter().flatten() {
                pairs.push((format!("routes/{name}"), serde_json::to_string(route).unwrap()));
            }
            for (name, upstream) in table.get("upstreams").and_then(|upstreams| upstreams.as_table()).into_iter().flatten() {
                let addresses = upstream["endpoints"].as_array().unwrap().iter().map(|address| address.as_str().unwrap());
                pairs.extend(addresses.map(|address| (format!("upstreams/{name}/endpoints/{address}"), address.to_owned())));
            }
        }
        Contents::of_keys(pairs)
    }
}
