//! The labels by which hive-builder's web servers are described: `published_fqdn`, `port`, `cert` and `key` → objects.
//!
//! Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::haproxy_labels::Object;

/// The label that says that the others are meant for a proxy.
pub const FQDN: &str = "published_fqdn";

/// The port inside, if `port` does not say it.
const PORT_DEFAULT: u16 = 80;

/// What a service says.
#[derive(Debug, PartialEq)]
pub struct Published {
    /// Its route, its upstream, and its certificate.
    pub objects: Vec<Object>,
    /// The port inside. Err: the label says none.
    pub port: Result<u16, String>,
    /// What is wrong beside the objects, by label.
    pub problem: Option<(&'static str, String)>,
}

/// Reads the labels of the service `name`. None: it is not published.
///
/// With a certificate, clients that come without TLS are sent to it. The certificate is chosen by SNI, and replaced as soon as the label is.
#[must_use]
pub fn read(labels: &BTreeMap<String, String>, name: &str) -> Option<Published> {
    let hosts: Vec<String> = labels.get(FQDN)?.split([',', ' ']).filter(|host| !host.is_empty()).map(|host| format!("{host:?}")).collect();
    let port = match labels.get("port") {
        None => Ok(PORT_DEFAULT),
        Some(port) => port.trim().parse().ok().filter(|port| *port > 0).ok_or_else(|| "a port is a number from 1 to 65535".to_owned()),
    };
    let object = |section: &str, label: &str, value: Value| Object { key: format!("/{section}/{name}"), label: label.into(), value };
    let mut objects = vec![object("upstreams", FQDN, json!({}))];
    let mut route = json!({ "match": format!("Host({})", hosts.join(", ")), "upstream": name });
    let mut problem = None;
    match (labels.get("cert"), labels.get("key")) {
        (Some(cert), Some(key)) => {
            route["middlewares"] = json!([{ "redirect_https": { "status": 301 } }]);
            objects.push(object("certificates", "cert", json!({ "cert": cert, "key": key })));
        }
        (None, None) => (),
        (Some(_), None) => problem = Some(("cert", "there is no label `key` with its private key".to_owned())),
        (None, Some(_)) => problem = Some(("key", "there is no label `cert` with its certificate".to_owned())),
    }
    objects.push(object("routes", FQDN, route));
    Some(Published { objects, port, problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(labels: &[(&str, &str)]) -> Option<Published> {
        read(&labels.iter().map(|(label, value)| ((*label).into(), (*value).into())).collect(), "web")
    }

    fn lines(published: &Published) -> Vec<String> {
        published.objects.iter().map(|object| format!("{} {}", object.key, object.value)).collect()
    }

    #[test]
    fn a_name_publishes_a_service() {
        assert_eq!(published(&[("port", "80")]), None);
        let plain = published(&[(FQDN, "a.test")]).unwrap();
        assert_eq!(
            (lines(&plain), plain.port),
            (vec!["/upstreams/web {}".into(), r#"/routes/web {"match":"Host(\"a.test\")","upstream":"web"}"#.into()], Ok(80))
        );
        assert_eq!(published(&[(FQDN, "a.test"), ("port", "8080")]).unwrap().port, Ok(8080));
        assert!(published(&[(FQDN, "a.test"), ("port", "http")]).unwrap().port.is_err());
    }

    #[test]
    fn a_certificate_makes_it_secure() {
        let secure = published(&[(FQDN, "a.test"), ("cert", "C"), ("key", "K")]).unwrap();
        assert_eq!(
            lines(&secure)[1..],
            [
                r#"/certificates/web {"cert":"C","key":"K"}"#,
                r#"/routes/web {"match":"Host(\"a.test\")","middlewares":[{"redirect_https":{"status":301}}],"upstream":"web"}"#
            ]
        );
        let half = published(&[(FQDN, "a.test"), ("cert", "C")]).unwrap();
        assert!(half.problem.is_some_and(|(label, problem)| label == "cert" && problem.contains("`key`")));
        assert_eq!(half.objects.len(), 2, "without TLS it is still served");
    }
}
