//! One question to the domain name system: what does a name stand for? The only file that speaks DNS.
//!
//! What the answer means is kept apart with care: that a name has no records is an [`Answer`] of the owner of the name, that nobody could
//! say is a failure. Questions go by UDP with EDNS(0) (RFC 6891), and again by TCP when an answer was cut off. Nothing is cached here:
//! [`resolve`](super::resolve) decides how long an answer holds.

use std::fs::Metadata;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record as DnsRecord, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};

use super::resolve::{Answer, Outcome, Question, Record};

/// How long a server may take for one answer, whatever `resolv.conf` allows. An answer that comes later is of little use to a proxy. It is
/// also how long a datagram that was lost may hold up a change: after failures the resolver does not send it again before this.
const TIMEOUT_MAX: Duration = Duration::from_secs(1);
/// How often a question is put to the servers, whatever `resolv.conf` allows.
const ATTEMPTS_MAX: usize = 2;
/// How long one type of record of one name may take, with all attempts and servers. What is known of the other type does not wait longer.
const ASK_MAX: Duration = Duration::from_secs(5);
/// Search domains that are tried.
const SEARCH_MAX: usize = 16;
/// Questions that may wait for one server at a time.
const ACTIVE_MAX: usize = 1_024;
/// The most records that are taken from one answer: more than a message over UDP holds, and what TCP brings for a thousand tasks.
const RECORDS_MAX: usize = 1_024;
/// How often the system's files are looked at. They change when a network comes up, or a container joins one.
const FILES_INTERVAL: Duration = Duration::from_secs(1);

const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NameServers {
    /// Those of `/etc/resolv.conf`.
    #[default]
    System,
    /// These, in place of those of `/etc/resolv.conf`. Its search domains and `/etc/hosts` apply all the same.
    At(Vec<SocketAddr>),
}

/// Asks name servers, after `/etc/hosts`.
pub(super) struct Lookup {
    servers: NameServers,
    system: Mutex<System>,
}

/// The system's files as they were read last.
struct System {
    stamps: [Option<Stamp>; 2],
    looked_at: Instant,
    sources: Arc<Sources>,
}

/// What tells one version of a file from the next.
type Stamp = (Option<SystemTime>, u64);

/// Where answers come from.
struct Sources {
    hosts: Hosts,
    /// The resolver, or why there is none.
    resolver: Result<TokioResolver, String>,
    search: Vec<Name>,
    ndots: usize,
}

impl Lookup {
    pub(super) fn new(servers: NameServers) -> Self {
        let system = System { stamps: stamps(), looked_at: Instant::now(), sources: Arc::new(Sources::read(&servers)) };
        Self { servers, system: Mutex::new(system) }
    }

    /// What the name of `question` stands for. Bounded in time.
    pub(super) async fn ask(&self, question: &Question) -> Answer {
        let sources = self.sources();
        let kinds: &[RecordType] = match question {
            Question::Host(_) => &[RecordType::A, RecordType::AAAA],
            Question::Service(_) => &[RecordType::SRV],
        };
        sources.ask(question.name(), kinds).await
    }

    /// The files as they are now, give or take [`FILES_INTERVAL`].
    fn sources(&self) -> Arc<Sources> {
        let mut system = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        if system.looked_at.elapsed() >= FILES_INTERVAL {
            system.looked_at = Instant::now();
            let stamps = stamps();
            if stamps != system.stamps {
                *system = System { stamps, looked_at: Instant::now(), sources: Arc::new(Sources::read(&self.servers)) };
                tracing::info!("{RESOLV_CONF} or {HOSTS} has changed");
            }
        }
        system.sources.clone()
    }
}

impl Sources {
    fn read(servers: &NameServers) -> Self {
        let hosts = Hosts::from_system().unwrap_or_default();
        let system = system_conf::read_system_conf().map_err(|error| format!("{RESOLV_CONF}: {error}"));
        let (search, ndots) = match &system {
            Ok((config, options)) => (search_list(config), options.ndots),
            Err(_) => (Vec::new(), ResolverOpts::default().ndots),
        };
        let configured = match servers {
            NameServers::System => system,
            NameServers::At(servers) => {
                let servers = servers.iter().map(server).collect();
                let options = system.map(|(_, options)| options).unwrap_or_default();
                Ok((ResolverConfig::from_parts(None, Vec::new(), servers), options))
            }
        };
        let resolver = configured.and_then(|(config, options)| build(config, options).map_err(|error| error.to_string()));
        Self { hosts, resolver, search, ndots }
    }

    async fn ask(&self, name: &str, kinds: &[RecordType]) -> Answer {
        let all = |outcome: Outcome| kinds.iter().map(|_| outcome.clone()).collect();
        let Ok(parsed) = Name::from_ascii(name) else { return all(Outcome::Failed("it is not a name".into())) };
        if let Some(answer) = self.in_hosts(&parsed, kinds) {
            return answer;
        }
        let resolver = match &self.resolver {
            Ok(resolver) => resolver,
            Err(error) => return all(Outcome::Failed(error.clone())),
        };
        for candidate in self.candidates(parsed) {
            let answer = futures_util::future::join_all(kinds.iter().map(|kind| ask_one(resolver, &candidate, *kind))).await;
            // A server that fails for one search domain says nothing of the name there: to go on could end at another host.
            if !answer.iter().all(|outcome| matches!(outcome, Outcome::Nothing)) {
                return answer;
            }
        }
        all(Outcome::Nothing)
    }

    /// What `/etc/hosts` says of the name; then nobody else is asked.
    fn in_hosts(&self, name: &Name, kinds: &[RecordType]) -> Option<Answer> {
        let find = |kind: &RecordType| match self.hosts.lookup_static_host(&Query::query(name.to_lowercase(), *kind)) {
            Some(found) => found_in(found.answers(), *kind),
            None => Outcome::Nothing,
        };
        let answer: Answer = kinds.iter().map(find).collect();
        answer.iter().any(|outcome| matches!(outcome, Outcome::Found { .. })).then_some(answer)
    }

    /// The names that are asked for in turn: as it is first if it has enough dots, otherwise with the search domains first.
    fn candidates(&self, name: Name) -> Vec<Name> {
        let absolute = |mut name: Name| {
            name.set_fqdn(true);
            name
        };
        if name.is_fqdn() {
            return vec![name];
        }
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        let searched = self.search.iter().take(SEARCH_MAX).filter_map(|domain| name.clone().append_domain(domain).ok()).map(absolute);
        let mut candidates: Vec<Name> = searched.collect();
        let is_first = dots >= self.ndots || name.is_localhost();
        let at = if is_first { 0 } else { candidates.len() };
        candidates.insert(at, absolute(name.clone()));
        candidates
    }
}

async fn ask_one(resolver: &TokioResolver, name: &Name, kind: RecordType) -> Outcome {
    resolver.clear_lookup_cache(name.clone(), kind);
    let Ok(answer) = tokio::time::timeout(ASK_MAX, resolver.lookup(name.clone(), kind)).await else {
        return Outcome::Failed(format!("{name}: no answer within {ASK_MAX:?}"));
    };
    match answer {
        Ok(found) => found_in(found.answers(), kind),
        Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords {
            response_code: ResponseCode::NXDomain | ResponseCode::NoError, ..
        }))) => Outcome::Nothing,
        Err(NetError::Dns(DnsError::NoRecordsFound(other))) => Outcome::Failed(format!("{name}: the server says {}", other.response_code)),
        Err(NetError::Dns(DnsError::ResponseCode(code))) => Outcome::Failed(format!("{name}: the server says {code}")),
        Err(error) => Outcome::Failed(format!("{name}: {error}")),
    }
}

/// The records of this kind, and for how long all of them hold: aliases on the way count too.
fn found_in(answers: &[DnsRecord], kind: RecordType) -> Outcome {
    let mut records: Vec<Record> = answers.iter().filter(|record| record.record_type() == kind).filter_map(|it| record(&it.data)).collect();
    if records.is_empty() {
        return Outcome::Nothing;
    }
    records.sort_unstable();
    records.dedup();
    records.truncate(RECORDS_MAX);
    let seconds = answers.iter().map(|record| record.ttl).min().unwrap_or_default();
    Outcome::Found { records, ttl: Duration::from_secs(seconds.into()) }
}

/// None: nothing that can be connected to. `0.0.0.0` is how some servers say that they block a name; a target of `.` says that there is no
/// such service (RFC 2782).
fn record(data: &RData) -> Option<Record> {
    match data {
        RData::A(ip) => Some(IpAddr::V4(ip.0)).filter(|ip| !ip.is_unspecified()).map(Record::Ip),
        RData::AAAA(ip) => Some(IpAddr::V6(ip.0)).filter(|ip| !ip.is_unspecified()).map(Record::Ip),
        RData::SRV(srv) if srv.port != 0 && !srv.target.is_root() => {
            let target = srv.target.to_lowercase().to_ascii().into();
            Some(Record::Service { priority: srv.priority, weight: srv.weight, port: srv.port, target })
        }
        _ => None,
    }
}

fn build(config: ResolverConfig, mut options: ResolverOpts) -> Result<TokioResolver, NetError> {
    options.timeout = options.timeout.min(TIMEOUT_MAX);
    options.attempts = options.attempts.min(ATTEMPTS_MAX);
    options.edns0 = true;
    options.max_active_requests = ACTIVE_MAX;
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.build()
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    server.connections.iter_mut().for_each(|connection| connection.port = address.port());
    server
}

fn search_list(config: &ResolverConfig) -> Vec<Name> {
    if config.search().is_empty() { config.domain().cloned().into_iter().collect() } else { config.search().to_vec() }
}

fn stamps() -> [Option<Stamp>; 2] {
    let stamp = |metadata: Metadata| (metadata.modified().ok(), metadata.len());
    [RESOLV_CONF, HOSTS].map(|path| std::fs::metadata(Path::new(path)).ok().map(stamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(hosts: &str, search: &[&str], ndots: usize) -> Sources {
        let mut known = Hosts::default();
        known.read_hosts_conf(hosts.as_bytes()).unwrap();
        let search = search.iter().map(|domain| Name::from_ascii(domain).unwrap()).collect();
        Sources { hosts: known, resolver: Err("nobody is to be asked".into()), search, ndots }
    }

    #[test]
    fn search_domains_come_first_for_names_with_few_dots() {
        let check = |name: &str, ndots: usize, expected: &[&str]| {
            let sources = sources("", &["corp.test", "example.test."], ndots);
            let candidates: Vec<String> = sources.candidates(Name::from_ascii(name).unwrap()).iter().map(Name::to_ascii).collect();
            assert_eq!(candidates, expected, "{name} {ndots}");
        };
        check("web", 1, &["web.corp.test.", "web.example.test.", "web."]);
        check("web", 0, &["web.", "web.corp.test.", "web.example.test."]);
        check("a.web", 1, &["a.web.", "a.web.corp.test.", "a.web.example.test."]);
        check("a.web", 5, &["a.web.corp.test.", "a.web.example.test.", "a.web."]);
        check("web.", 5, &["web."]);
    }

    #[tokio::test]
    async fn the_hosts_file_comes_before_any_server() {
        let sources = sources("10.0.0.1 App.test # mine\nfd00::1 app.test\n10.0.0.2 app.test other\nbad line\n", &[], 1);
        let kinds = [RecordType::A, RecordType::AAAA];
        let answer = sources.ask("app.test", &kinds).await;
        let ips: Vec<String> = answer.iter().flat_map(|outcome| outcome.records()).map(|record| format!("{record:?}")).collect();
        assert_eq!(ips, ["Ip(10.0.0.1)", "Ip(10.0.0.2)", "Ip(fd00::1)"]);
        let answer = sources.ask("other", &kinds).await;
        assert!(matches!(&answer[..], [Outcome::Found { .. }, Outcome::Nothing]), "{answer:?}");
        let answer = sources.ask("unknown", &kinds).await;
        assert!(matches!(&answer[..], [Outcome::Failed(error), _] if error.contains("nobody")), "{answer:?}");
    }
}
