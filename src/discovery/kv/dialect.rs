//! What registrators write of an instance → where it listens. The dialect of each value is told by the value itself.
//!
//! | who writes it | value |
//! |---|---|
//! | registrator, confd's users | `10.0.0.1:8080`, `[fd00::1]:8080` |
//! | hipache and others | `http://10.0.0.1:8080`, `https://…` for TLS. What follows host and port is not looked at |
//! | docker-register, SkyDNS, nerve | `{"host": "10.0.0.1", "port": 8080, "weight": 3}`; nerve's `haproxy_server_options` may hold the weight |
//! | registrator in ZooKeeper | `{"IP": "10.0.0.1", "PublicPort": 8080}` |
//! | Finagle, Aurora (ServerSet) | `{"serviceEndpoint": {"host": …, "port": …}, "status": "ALIVE"}`; with any other status there is no instance |
//! | vulcand | `{"URL": "http://10.0.0.1:8080"}` |
//! | Nuncio | `{"address": "10.0.0.1:8080", "weight": 3}`, `"10.0.0.1:8080"` |
//!
//! Wherever there is an IP address, there may be the name of a host, which is looked up: `web-1.internal:8080`.
//!
//! Fields that say nothing of the address or the weight are not looked at. An address that cannot be connected to from elsewhere, such
//! as `0.0.0.0`, is refused: docker-register writes it for ports that are published on all addresses.
//!
//! Pure.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::json::{Fields, whole_number};
use crate::config::providers::port_of;
use crate::config::{Address, Endpoint, Problem};

/// The largest value that is read, in bytes: what says where an instance is, is short.
pub const INSTANCE_BYTES_MAX: usize = 64 * 1024;

/// Where an instance listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Address and weight.
    pub endpoint: Endpoint,
    /// What is spoken there, where the value says so.
    pub scheme: Option<Scheme>,
}

/// What is spoken to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP without TLS.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Instance {
    /// Whether it is reached by TLS. One that says nothing is not.
    pub(super) fn speaks_tls(&self) -> bool {
        self.scheme == Some(Scheme::Https)
    }
}

/// Reads the value of an instance in any dialect. None: the value says that the instance takes no traffic.
///
/// # Errors
/// A problem that says what is wrong, and what was expected.
pub fn decode(value: &[u8]) -> Result<Option<Instance>, Problem> {
    if value.len() > INSTANCE_BYTES_MAX {
        return Err(unreadable(format!("the value of an instance has at most {INSTANCE_BYTES_MAX} bytes, this one has {}", value.len())));
    }
    let text = str::from_utf8(value)
        .map_err(|error| unreadable(format!("the value is not UTF-8: byte {} does not belong there", error.valid_up_to())))?
        .trim();
    match text.chars().next() {
        None => Err(unreadable("the value is empty")),
        Some('{' | '"') => match serde_json::from_str(text) {
            Ok(Value::String(text)) => in_words(&text).map(Some),
            Ok(Value::Object(map)) => in_json(&Fields(&map)),
            Ok(_) => Err(unreadable("the value is neither an object nor a string")),
            Err(error) => Err(broken_json(text, &error)),
        },
        Some(_) => in_words(text).map(Some),
    }
}

/// An address, or a URL.
fn in_words(text: &str) -> Result<Instance, Problem> {
    if text.contains("://") {
        return in_url(text);
    }
    if text.lines().count() > 1 {
        return Err(unreadable("the value has several lines"));
    }
    address(text).map(|address| Instance { endpoint: Endpoint::new(address), scheme: None })
}

fn in_url(text: &str) -> Result<Instance, Problem> {
    let is_not = || unreadable(format!("`{}` is not a URL such as \"http://10.0.0.1:8080\"", shown(text)));
    let uri: http::Uri = text.parse().map_err(|_| is_not())?;
    let (scheme, port) = match uri.scheme_str().map(str::to_ascii_lowercase).as_deref() {
        Some("http") => (Scheme::Http, 80),
        Some("https") => (Scheme::Https, 443),
        _ => return Err(is_not()),
    };
    let authority = uri.authority().ok_or_else(is_not)?;
    let port = port_of(authority, port).ok_or_else(is_not)?;
    let address = address(&format!("{}:{port}", authority.host()))?;
    Ok(Instance { endpoint: Endpoint::new(address), scheme: Some(scheme) })
}

fn in_json(fields: &Fields<'_>) -> Result<Option<Instance>, Problem> {
    let instance = if let Some(served) = fields.get("serviceEndpoint") {
        if fields.text("status").is_some_and(|status| status != "ALIVE") {
            return Ok(None);
        }
        let served = served.as_object().ok_or_else(|| unreadable("`serviceEndpoint` is not an object"))?;
        plain(host_and_port(&Fields(served), "host", "port")?)
    } else if fields.get("URL").is_some() {
        in_url(fields.text("URL").ok_or_else(|| unreadable("`URL` is not a string"))?)?
    } else if fields.get("address").is_some() {
        plain(address(fields.text("address").ok_or_else(|| unreadable("`address` is not a string"))?)?)
    } else if fields.get("IP").is_some() {
        plain(host_and_port(fields, "IP", "PublicPort")?)
    } else {
        plain(host_and_port(fields, "host", "port")?)
    };
    let weight = weight(fields)?;
    Ok(Some(Instance { endpoint: Endpoint { weight, ..instance.endpoint }, ..instance }))
}

fn plain(address: Address) -> Instance {
    Instance { endpoint: Endpoint::new(address), scheme: None }
}

fn host_and_port(fields: &Fields<'_>, host: &str, port: &str) -> Result<Address, Problem> {
    let text = fields.text(host).ok_or_else(|| unreadable(format!("there is no text `{host}` in the value")))?;
    let number = fields.get(port).ok_or_else(|| unreadable(format!("there is no `{port}` in the value")))?;
    let port = match number {
        Value::String(text) => text.parse().ok(),
        number => whole_number(number).and_then(|number| u16::try_from(number).ok()),
    };
    let port = port.ok_or_else(|| unreadable("the port is not a number from 1 to 65535"))?;
    match text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(ip) => address(&SocketAddr::new(ip, port).to_string()),
        Err(_) => address(&format!("{text}:{port}")),
    }
}

/// An address that can be connected to from elsewhere.
fn address(text: &str) -> Result<Address, Problem> {
    let address = Endpoint::parse_address(text).map_err(|_| refused(text))?;
    let is_reachable = |address: SocketAddr| !address.ip().to_canonical().is_unspecified() && !address.ip().is_multicast();
    match &address {
        Address::Ip(ip) if is_reachable(*ip) => Ok(address),
        Address::Name(_) => Ok(address),
        // A socket of the machine that wrote it is none of ours.
        Address::Ip(_) | Address::Unix(_) => Err(refused(text)),
    }
}

fn refused(text: &str) -> Problem {
    let shown = shown(text);
    match text.parse::<SocketAddr>() {
        Ok(_) => Problem::error(format!("`{shown}` cannot be connected to: an instance needs a definite address and port"))
            .help("publish the port on an address of the host: `docker run -p 10.0.0.1::80`, not on all of them"),
        Err(_) => unreadable(format!("`{shown}` is not an IP address or name with a port")),
    }
}

/// nerve's own, or what it hands on to HAProxy.
fn weight(fields: &Fields<'_>) -> Result<u16, Problem> {
    let written = match (fields.get("weight"), fields.text("haproxy_server_options")) {
        (Some(weight), _) => whole_number(weight),
        (None, Some(options)) => match options.split_ascii_whitespace().skip_while(|word| *word != "weight").nth(1) {
            Some(weight) => weight.parse().ok(),
            None => Some(1),
        },
        (None, None) => Some(1),
    };
    let weight = written.and_then(|weight| u16::try_from(weight).ok()).filter(|weight| *weight <= Endpoint::WEIGHT_MAX);
    weight.ok_or_else(|| Problem::error(format!("the weight is not a whole number from 0 to {}", Endpoint::WEIGHT_MAX)))
}

fn broken_json(text: &str, error: &serde_json::Error) -> Problem {
    let problem = unreadable(format!("the value is not JSON: {error}"));
    if text.contains("\"[\":") {
        let help = "docker-register writes this when Docker publishes the port on IPv4 and IPv6: publish it on one address of the host";
        return problem.help(help);
    }
    problem
}

fn unreadable(message: impl Into<String>) -> Problem {
    Problem::error(message).help(concat!(
        "an instance is `10.0.0.1:8080`, `http://10.0.0.1:8080`, {\"host\": \"10.0.0.1\", \"port\": 8080}, ",
        "registrator's {\"IP\": …, \"PublicPort\": …}, a ServerSet's {\"serviceEndpoint\": {…}, \"status\": \"ALIVE\"} or vulcand's {\"URL\": …}"
    ))
}

/// The start of a text: a value may be long, a message should not be. Without what may be a password in a URL.
fn shown(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 80;
    let text = match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://…@{host}"),
        _ => text.to_owned(),
    };
    text.chars().take(SHOWN_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, address: &str, weight: u16, scheme: Option<Scheme>) {
        let instance = decode(value.as_bytes()).unwrap_or_else(|problem| panic!("{value}: {problem}")).unwrap();
        assert_eq!(
            (instance.endpoint.address.to_string().as_str(), instance.endpoint.weight, instance.scheme),
            (address, weight, scheme),
            "{value}"
        );
    }

    fn refuse(value: &str, message: &str, help: &str) {
        let problem = decode(value.as_bytes()).expect_err(value);
        assert!(problem.message.contains(message), "{value}: {}", problem.message);
        assert!(problem.help.as_deref().is_some_and(|text| text.contains(help)), "{value}: {:?}", problem.help);
    }

    #[test]
    fn words() {
        check("10.99.0.1:32768", "10.99.0.1:32768", 1, None);
        check(" [fd00::1]:80\n", "[fd00::1]:80", 1, None);
        check("\"10.0.0.1:80\"", "10.0.0.1:80", 1, None);
        check("http://10.0.0.1:5000", "10.0.0.1:5000", 1, Some(Scheme::Http));
        check("HTTPS://[fd00::1]/x?y", "[fd00::1]:443", 1, Some(Scheme::Https));
        check("http://10.0.0.1", "10.0.0.1:80", 1, Some(Scheme::Http));
    }

    #[test]
    fn json_of_each_writer() {
        check(r#"{ "port": 49155, "host": "10.0.0.1" }"#, "10.0.0.1:49155", 1, None);
        check(r#"{ "port": 49155, "host": "10.0.0.1", "color": "blue", "build": 7 }"#, "10.0.0.1:49155", 1, None);
        check(r#"{"host":"fd00::1","port":80}"#, "[fd00::1]:80", 1, None);
        let nerve = r#"{"host":"10.0.0.2","port":3000,"name":"i-1","weight":5,"labels":{"az":"a"},"haproxy_server_options":"weight 9"}"#;
        check(nerve, "10.0.0.2:3000", 5, None);
        check(
            r#"{"host":"10.0.0.2","port":3000,"name":"i-1","haproxy_server_options":"check weight 9 inter 2s"}"#,
            "10.0.0.2:3000",
            9,
            None,
        );
        let registrator =
            r#"{"Name":"web","IP":"10.0.0.3","PublicPort":32768,"PrivatePort":80,"ContainerID":"6ef","Tags":["a"],"Attrs":{}}"#;
        check(registrator, "10.0.0.3:32768", 1, None);
        let finagle = r#"{"serviceEndpoint":{"host":"10.0.0.4","port":31000},"additionalEndpoints":{"http":{"host":"10.0.0.4","port":31001}},"status":"ALIVE","shard":3}"#;
        check(finagle, "10.0.0.4:31000", 1, None);
        assert_eq!(decode(finagle.replace("ALIVE", "STOPPING").as_bytes()), Ok(None));
        check(r#"{"URL":"http://10.0.0.5:5000"}"#, "10.0.0.5:5000", 1, Some(Scheme::Http));
        check("{\"Id\":\"s1\",\"url\":\"https://10.0.0.5:5000/ignored\"}\n", "10.0.0.5:5000", 1, Some(Scheme::Https));
        check(r#"{"address":"10.0.0.6:80","weight":0}"#, "10.0.0.6:80", 0, None);
    }

    #[test]
    fn hosts_by_name() {
        check("web-1.internal:8080", "web-1.internal:8080", 1, None);
        check("http://Web-1.internal", "web-1.internal:80", 1, Some(Scheme::Http));
        check(r#"{"host":"web-1.internal","port":80,"weight":3}"#, "web-1.internal:80", 3, None);
        check(r#"{"serviceEndpoint":{"host":"a.rack.test","port":31000},"status":"ALIVE"}"#, "a.rack.test:31000", 1, None);
        check(r#"{"URL":"https://web_1"}"#, "web_1:443", 1, Some(Scheme::Https));
    }

    #[test]
    fn addresses_that_cannot_be_connected_to() {
        for value in [
            "0.0.0.0:80",
            "[::]:80",
            "[::ffff:0.0.0.0]:80",
            "10.0.0.1:0",
            "http://0.0.0.0:80",
            "224.0.0.1:80",
            r#"{ "port": 49155, "host": "0.0.0.0" }"#,
            r#"{ "port": 49155, "host": "::" }"#,
            r#"{ "port": 0, "host": "10.0.0.1" }"#,
        ] {
            refuse(value, "cannot be connected to", "publish the port");
        }
    }

    #[test]
    fn what_is_no_instance_says_what_was_expected() {
        let docker_register = r#"{ "port": 8088, "[": , "host": "0.0.0.0", "::": , "]": 8088 }"#;
        refuse(docker_register, "not JSON", "docker-register");
        refuse("10.0.0.1:80\n10.0.0.1:80", "several lines", "an instance is");
        for (value, message) in [
            ("", "empty"),
            ("web", "is not an IP address or name with a port"),
            ("web:0", "is not an IP address or name with a port"),
            ("-web:80", "is not an IP address or name with a port"),
            (r#"{"host":"web 1","port":80}"#, "is not an IP address or name with a port"),
            ("10.0.0.256:80", "is not an IP address or name with a port"),
            ("10.0.0.1", "is not an IP address or name with a port"),
            ("10.0.0.1:99999", "is not an IP address or name with a port"),
            ("http://10.0.0.1:99999", "is not a URL"),
            ("ftp://10.0.0.1:80", "is not a URL"),
            ("true", "is not an IP address or name with a port"),
            ("[]", "is not an IP address or name with a port"),
            ("{}", "no text `host`"),
            (r#"{"host":"10.0.0.1"}"#, "no `port`"),
            (r#"{"host":"10.0.0.1","port":80.5}"#, "the port is not"),
            (r#"{"host":"10.0.0.1","port":-1}"#, "the port is not"),
            (r#"{"serviceEndpoint":3}"#, "not an object"),
            (r#"{"URL":3}"#, "not a string"),
        ] {
            refuse(value, message, "an instance is");
        }
        assert!(decode(br#"{"host":"10.0.0.1","port":80,"weight":1001}"#).unwrap_err().message.contains("weight"));
        assert!(decode(&[0xff]).unwrap_err().message.contains("UTF-8"));
        assert!(decode(&vec![b'1'; INSTANCE_BYTES_MAX + 1]).unwrap_err().message.contains("at most"));
        assert!(!decode(b"ftp://user:geheim@10.0.0.1").unwrap_err().message.contains("geheim"));
    }

    proptest::proptest! {
        /// Any address survives any dialect.
        #[test]
        fn an_address_is_the_same_in_every_dialect(ip: std::net::IpAddr, port in 1u16.., weight in 0u16..=1000) {
            let address = SocketAddr::new(ip, port);
            let is_usable = !ip.to_canonical().is_unspecified() && !ip.is_multicast();
            for value in [
                address.to_string(),
                format!("https://{address}"),
                format!(r#"{{"host":"{ip}","port":{port},"weight":{weight}}}"#),
                format!(r#"{{"IP":"{ip}","PublicPort":{port}}}"#),
                format!(r#"{{"serviceEndpoint":{{"host":"{ip}","port":{port}}},"status":"ALIVE"}}"#),
                format!(r#"{{"URL":"http://{address}"}}"#),
            ] {
                let found = decode(value.as_bytes()).ok().flatten().map(|instance| instance.endpoint.address);
                proptest::prop_assert_eq!(found, is_usable.then_some(address.into()));
            }
        }

        #[test]
        fn any_bytes_are_an_instance_or_a_problem(value: Vec<u8>) {
            let _ = decode(&value);
        }
    }
}
