//! Names of the domain name system, each of which is an upstream.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::layout::RouteTemplate;
use super::url::{settings, unknown_setting};
use crate::config::address::{Address, HostPort, is_host};
use crate::config::name_server::NameServer;
use crate::names::Name;

/// Names of the domain name system, each of which is an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DnsConfig {
    /// The upstreams, and the name that each of them is: `{ web = "_http._tcp.web.service.consul", db = "tasks.db:5432" }`. At least one.
    pub upstreams: BTreeMap<Name, ServiceName>,
    /// Who is asked, in place of the servers of `/etc/resolv.conf`: `["10.0.0.2:53"]`. Default port 53, at most 8. `/etc/hosts` comes first
    /// in any case, and the search domains of `/etc/resolv.conf` apply. Default: those of `/etc/resolv.conf`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<NameServer>,
    /// The rule of the route that each upstream gets, such as `Host("{name}.example.com")`. Default: none, upstreams only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteTemplate>,
}

/// A name that stands for the endpoints of an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ServiceName {
    /// Of a service: `SRV` records say hosts, ports and weights. Written with `_` at its start, or with `srv:` before it.
    Service(Arc<str>),
    /// Of a host: `A` and `AAAA` records say the addresses. Written with a port.
    Host(HostPort),
}

/// What tells the name of a service from that of a host, where it does not start with `_`.
const SERVICE_MARK: &str = "srv:";

impl ServiceName {
    /// Reads a name.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let service = text.strip_prefix(SERVICE_MARK).or_else(|| text.starts_with('_').then_some(text));
        match service {
            Some(service) if is_host(service) => Ok(Self::Service(service.to_ascii_lowercase().into())),
            Some(service) if service.contains(':') => {
                Err(format!("`{text}` is the name of a service, whose records say the ports: it takes none"))
            }
            Some(_) => Err(format!("`{text}` is not the name of a service, such as \"_http._tcp.web.service.consul\"")),
            None => match Address::parse(text) {
                Ok(Address::Name(host)) => Ok(Self::Host(host)),
                Ok(Address::Ip(_) | Address::Unix(_)) => Err(format!("`{text}` is no name: list it as an endpoint of [upstreams.NAME]")),
                Err(_) => Err(format!(
                    "`{text}` is not a name with a port, such as \"tasks.db:5432\", and not one of a service, such as \
                     \"_http._tcp.web.service.consul\" or \"srv:web.service.consul\""
                )),
            },
        }
    }

    /// The name without port and mark.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::Service(name) => name,
            Self::Host(host) => &host.host,
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) if name.starts_with('_') => f.write_str(name),
            Self::Service(name) => write!(f, "{SERVICE_MARK}{name}"),
            Self::Host(host) => host.fmt(f),
        }
    }
}

impl TryFrom<String> for ServiceName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<ServiceName> for String {
    fn from(name: ServiceName) -> Self {
        name.to_string()
    }
}

impl DnsConfig {
    /// The most upstreams.
    pub const UPSTREAMS_MAX: usize = 4_096;

    /// Whether the settings go together.
    ///
    /// # Errors
    /// A sentence that names the first that does not.
    pub(super) fn check(&self) -> Result<(), String> {
        match self.upstreams.len() {
            0 => return Err("`upstreams` needs at least one name, such as { db = \"tasks.db:5432\" }".into()),
            1..=Self::UPSTREAMS_MAX => {}
            more => return Err(format!("`upstreams` has {more} names: at most {} are followed", Self::UPSTREAMS_MAX)),
        }
        NameServer::check("servers", &self.servers)
    }

    /// Reads what follows `dns://`: `SERVER:PORT,SERVER2/UPSTREAM=NAME:PORT,NAME2:PORT?route=…`. Without `UPSTREAM=` the upstream has the
    /// name itself, without its port.
    pub(super) fn parse_url(rest: &str) -> Result<Self, String> {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let Some((servers, names)) = rest.split_once('/').filter(|(_, names)| !names.is_empty()) else {
            return Err("a dns URL names what is looked up, such as dns:///tasks.db:5432 or dns://10.0.0.2/_http._tcp.web.internal".into());
        };
        let mut config = Self::default();
        for server in servers.split(',').filter(|_| !servers.is_empty()) {
            config.servers.push(NameServer::parse(server)?);
        }
        for name in names.split(',') {
            let (upstream, name) = name.split_once('=').map_or((None, name), |(upstream, name)| (Some(upstream), name));
            let name = ServiceName::parse(name)?;
            let upstream = Name::new(upstream.unwrap_or_else(|| name.name().trim_end_matches('.'))).map_err(|error| error.to_string())?;
            if let Some(other) = config.upstreams.insert(upstream.clone(), name) {
                return Err(format!("upstream `{upstream}` is `{other}` and another name: give each its own, as in web=NAME"));
            }
        }
        for setting in settings(query) {
            match setting? {
                ("route", template) => config.route = Some(RouteTemplate::parse(&template)?),
                (key, _) => return Err(unknown_setting(key, &["route"])),
            }
        }
        config.check().map(|()| config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_are_of() {
        for (text, expected) in [
            ("_http._tcp.Web.service.consul", "_http._tcp.web.service.consul"),
            ("srv:web.service.consul.", "srv:web.service.consul."),
            ("srv:_http._tcp.web", "_http._tcp.web"),
            ("Tasks.db:5432", "tasks.db:5432"),
            ("localhost:80", "localhost:80"),
        ] {
            let name = ServiceName::parse(text).unwrap();
            assert_eq!(name.to_string(), expected);
            assert_eq!(ServiceName::parse(&name.to_string()), Ok(name));
        }
        for (text, expected) in [
            ("_http._tcp.web:80", "whose records say the ports"),
            ("srv:", "is not the name of a service"),
            ("_http._tcp..web", "is not the name of a service"),
            ("db", "is not a name with a port"),
            ("", "is not a name with a port"),
            ("10.0.0.1:80", "is no name"),
        ] {
            let error = ServiceName::parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_url_is_a_whole_configuration() {
        let config = DnsConfig::parse_url("/tasks.db:5432").unwrap();
        assert_eq!((config.servers.len(), config.upstreams["tasks.db"].to_string().as_str()), (0, "tasks.db:5432"));
        let config =
            DnsConfig::parse_url("10.0.0.2,[fd00::2]:5353/web=_http._tcp.web.a.,b.a:80?route=Host(\"{name}.example.com\")").unwrap();
        assert_eq!(config.servers.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.2:53", "[fd00::2]:5353"]);
        let upstreams: Vec<String> = config.upstreams.iter().map(|(upstream, name)| format!("{upstream}={name}")).collect();
        assert_eq!(upstreams, ["b.a=b.a:80", "web=_http._tcp.web.a."]);
        assert!(config.route.is_some());
    }

    #[test]
    fn what_does_not_go_together_says_so() {
        for (rest, expected) in [
            ("", "names what is looked up"),
            ("10.0.0.2", "names what is looked up"),
            ("10.0.0.2/", "names what is looked up"),
            ("dns.internal/a:80", "not the address of a name server"),
            ("10.0.0.2,/a:80", "not the address of a name server"),
            ("/a:80,", "is not a name with a port"),
            ("/a:80,a:81", "give each its own"),
            ("/=a:80", "must not be empty"),
            ("/a:80?rout=x", "unknown setting `rout`"),
            ("/a:80?route=Host(`a`)", "needs a place"),
        ] {
            let error = DnsConfig::parse_url(rest).unwrap_err();
            assert!(error.contains(expected), "{rest}: {error}");
        }
        assert!(DnsConfig::default().check().unwrap_err().contains("at least one name"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_refused_or_read_back_as_it_is_written(text in "(srv:|_)?[a-zA-Z0-9.:_\\-]{0,30}|.{0,30}") {
            let _ = DnsConfig::parse_url(&text);
            if let Ok(name) = ServiceName::parse(&text) {
                proptest::prop_assert_eq!(ServiceName::parse(&name.to_string()), Ok(name));
            }
        }
    }
}
