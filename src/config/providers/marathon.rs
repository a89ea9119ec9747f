//! A Marathon, and the tasks of its apps.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::credentials;
use super::layout::RouteTemplate;
use super::tls::ClientTls;
use super::url::{Url, check_schemes, is_server, list_of, settings, truth, unknown_setting, with_port};
use crate::config::{Secret, duration};

/// A Marathon. Each port of an app becomes an upstream, whose endpoints are the tasks that run and are well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MarathonConfig {
    /// URLs of instances, such as `"http://10.0.0.5:8080"`, of which one is asked, and the next if it fails. At least one; `https` with
    /// `tls`. Default that of this host.
    #[serde(deserialize_with = "deserialize_endpoints")]
    pub endpoints: Vec<String>,
    /// The user of HTTP basic authentication. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The password that goes with `username`.
    #[serde(skip_serializing)]
    pub password: Option<Secret>,
    /// Sent as `Authorization: token=…`, instead of a user. Default: none.
    #[serde(skip_serializing)]
    pub token: Option<Secret>,
    /// Speaks TLS to the instances when present. `{}` verifies against the system's roots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
    /// How often everything is read, whatever was announced. 500 ms to 10 min. Default 30 s.
    #[serde(with = "duration")]
    pub poll: Duration,
    /// How long the stream of events may be silent before it is opened anew. 1 s to 10 min. Default 60 s.
    #[serde(with = "duration")]
    pub event_idle: Duration,
    /// What is read: `"auto"` (default), `"json"` or `"text"`, the lines of `/v2/tasks` that old versions have.
    pub format: MarathonFormat,
    /// Whether each service port is a TCP listener, as with haproxy-marathon-bridge. Default false.
    pub service_port_listeners: bool,
    /// The rule of the route that each app gets whose labels say none, with `{name}` in it. Default: none, upstreams only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteTemplate>,
    /// Whether the `HAPROXY_` labels of marathon-lb are read too. Default false.
    pub haproxy_labels: bool,
    /// With `haproxy_labels`: only what is of this `HAPROXY_GROUP`. Default: of any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub haproxy_group: Option<String>,
}

/// How apps and tasks are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MarathonFormat {
    /// As JSON; as text, if an instance does not know the JSON.
    #[default]
    Auto,
    /// `/v2/apps?embed=apps.tasks`.
    Json,
    /// `/v2/tasks` as `text/plain`, which has no labels.
    Text,
}

/// The Marathon of this host.
impl Default for MarathonConfig {
    fn default() -> Self {
        Self {
            endpoints: vec![format!("http://127.0.0.1:{}", Self::PORT_DEFAULT)],
            username: None,
            password: None,
            token: None,
            tls: None,
            poll: Duration::from_secs(30),
            event_idle: Duration::from_secs(60),
            format: MarathonFormat::Auto,
            service_port_listeners: false,
            route: None,
            haproxy_labels: false,
            haproxy_group: None,
        }
    }
}

impl MarathonConfig {
    /// The port of an instance whose URL has none.
    pub const PORT_DEFAULT: u16 = 8080;

    /// What `poll` may be.
    const POLL_RANGE: RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_secs(600);

    /// What `event_idle` may be.
    const EVENT_IDLE_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);

    /// Whether the settings go together.
    ///
    /// # Errors
    /// A sentence that names the first that does not.
    pub(super) fn check(&self) -> Result<(), String> {
        check_schemes(&self.endpoints, self.tls.as_ref())?;
        credentials::check(self.username.as_deref(), self.password.as_ref(), self.token.as_ref())?;
        if !Self::POLL_RANGE.contains(&self.poll) {
            return Err("`poll` is from 500ms to 10min".into());
        }
        if !Self::EVENT_IDLE_RANGE.contains(&self.event_idle) {
            return Err("`event_idle` is from 1s to 10min".into());
        }
        if self.haproxy_group.is_some() && !self.haproxy_labels {
            return Err("`haproxy_group` needs `haproxy_labels = true`".into());
        }
        if self.haproxy_labels && self.format == MarathonFormat::Text {
            return Err("`haproxy_labels` needs the JSON: the text has no labels".into());
        }
        self.tls.as_ref().map_or(Ok(()), ClientTls::check)
    }

    /// Reads what follows `marathon://`, or with `tls` `marathons://`.
    pub(super) fn parse_url(rest: &str, tls: Option<ClientTls>) -> Result<Self, String> {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let Url { user: username, password, hosts, path } = Url::parse(rest)?;
        if path.len() > 1 {
            return Err(format!("a Marathon URL has no path, and this one has `{path}`: marathon://host:8080,host2:8080"));
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = |host: &&str| {
            let url = format!("{scheme}://{}", with_port(host, Self::PORT_DEFAULT));
            check_endpoint(&url).map(|()| url)
        };
        let endpoints = hosts.iter().map(endpoint).collect::<Result<_, _>>()?;
        // A user alone is a token.
        let (username, token) = if password.is_some() { (username, None) } else { (None, username.map(Secret::from)) };
        let mut config = Self { endpoints, username, password, token, tls, ..Self::default() };
        for setting in settings(query) {
            let (key, value) = setting?;
            config.set(key, &value)?;
        }
        config.check().map(|()| config)
    }

    /// Takes over a setting of a URL's query: `?service_port_listeners&route=Host("{name}.example.com")`.
    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        const KEYS: [&str; 5] = ["format", "haproxy_group", "haproxy_labels", "route", "service_port_listeners"];
        match key {
            "format" => {
                self.format = match value {
                    "auto" => MarathonFormat::Auto,
                    "json" => MarathonFormat::Json,
                    "text" => MarathonFormat::Text,
                    _ => return Err(format!("`format` in the URL is `auto`, `json` or `text`, not `{value}`")),
                };
            }
            "haproxy_group" => (self.haproxy_group, self.haproxy_labels) = (Some(value.to_owned()), true),
            "haproxy_labels" => self.haproxy_labels = truth(key, value)?,
            "route" => self.route = Some(RouteTemplate::parse(value)?),
            "service_port_listeners" => self.service_port_listeners = truth(key, value)?,
            _ => return Err(unknown_setting(key, &KEYS)),
        }
        Ok(())
    }
}

/// Its error does not quote what may be a secret.
fn check_endpoint(endpoint: &str) -> Result<(), String> {
    if is_server(endpoint) {
        return Ok(());
    }
    let shown = endpoint.rsplit_once('@').map_or(endpoint, |(_, host)| host);
    Err(format!("`{shown}` is not the URL of a Marathon, such as \"http://10.0.0.5:8080\""))
}

fn deserialize_endpoints<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    list_of(deserializer, "URL", check_endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_whole_configuration() {
        let url = r#"me:geheim@10.0.0.5,[::1]:99?service_port_listeners&route=Host("{name}.test")&format=json&haproxy_group=external"#;
        let config = MarathonConfig::parse_url(url, None).unwrap();
        assert_eq!(config.endpoints, ["http://10.0.0.5:8080", "http://[::1]:99"]);
        assert_eq!((config.username.as_deref(), config.password.as_deref(), config.token.as_deref()), (Some("me"), Some("geheim"), None));
        assert!(config.service_port_listeners && config.haproxy_labels && config.route.is_some() && config.format == MarathonFormat::Json);
        assert!(!format!("{config:?}").contains("geheim") && !serde_json::to_string(&config).unwrap().contains("geheim"));
        let config = MarathonConfig::parse_url("geheim@host", Some(ClientTls::default())).unwrap();
        assert_eq!((config.token.as_deref(), config.endpoints.as_slice()), (Some("geheim"), ["https://host:8080".to_owned()].as_slice()));
        assert!(!format!("{config:?}").contains("geheim") && !serde_json::to_string(&config).unwrap().contains("geheim"));
    }

    #[test]
    fn what_is_none_says_so_without_its_secrets() {
        for (url, expected) in [
            ("me:geheim@", "not the URL of a Marathon"),
            ("me:geheim@a b", "not the URL of a Marathon"),
            ("geheim%0a@a", "no token has"),
            ("me:geheim@a/path", "has no path"),
            ("a?format=xml", "`auto`, `json` or `text`"),
            ("a?haproxy_labels=no", "`true` or `false`"),
            ("a?format=text&haproxy_labels", "has no labels"),
            ("a?rout=x", "did you mean `route`?"),
            ("a?route=Host(`a`)", "needs a place"),
        ] {
            let error = MarathonConfig::parse_url(url, None).unwrap_err();
            assert!(error.contains(expected) && !error.contains("geheim"), "{url}: {error}");
        }
    }

    #[test]
    fn settings_go_together() {
        let check = |text: &str| toml::from_str::<MarathonConfig>(text).unwrap().check();
        assert_eq!(check(""), Ok(()));
        assert!(toml::from_str::<MarathonConfig>("endpoints = []").unwrap_err().message().contains("at least one URL"));
        for (text, expected) in [
            ("endpoints = ['https://a:1']", "without `tls`"),
            ("tls = {}", "with `tls`"),
            ("username = 'a'", "go together"),
            ("username = 'a'\npassword = 'b'\ntoken = 'c'", "exclude each other"),
            ("poll = '100ms'", "500ms to 10min"),
            ("event_idle = '11min'", "1s to 10min"),
            ("haproxy_group = 'a'", "needs `haproxy_labels"),
        ] {
            assert!(check(text).unwrap_err().contains(expected), "{text}");
        }
    }
}
