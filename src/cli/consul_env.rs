//! `--provider consul://` without a host: the agent that the environment names, as Consul's own tools read it.
//!
//! `CONSUL_HTTP_ADDR`, `CONSUL_HTTP_SSL`, `CONSUL_HTTP_TOKEN`, `CONSUL_HTTP_TOKEN_FILE`, `CONSUL_CACERT`, `CONSUL_CLIENT_CERT`,
//! `CONSUL_CLIENT_KEY`, `CONSUL_TLS_SERVER_NAME`. What these tools know and we do not is an error, so that nothing is weaker than it says.

use nuncio::config::providers::ClientTls;
use nuncio::config::{Pem, ProviderConfig};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// The provider of a URL that leaves its host to the environment. None: it does not.
pub(super) fn provider(url: &str) -> Option<Result<ProviderConfig, String>> {
    let rest = url.strip_prefix("consul://").filter(|rest| rest.is_empty() || rest.starts_with(['/', '?']))?;
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    Some(from(rest, &variable))
}

fn from(rest: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<ProviderConfig, String> {
    if variable("CONSUL_HTTP_AUTH").is_some() {
        return Err("CONSUL_HTTP_AUTH is not known here: a user and a password cannot be sent to Consul".into());
    }
    if variable("CONSUL_HTTP_SSL_VERIFY").is_some_and(|verify| is_false(&verify)) {
        return Err("CONSUL_HTTP_SSL_VERIFY=false is not known here: name the certificate authority by CONSUL_CACERT".into());
    }
    let address = variable("CONSUL_HTTP_ADDR").unwrap_or_else(|| "127.0.0.1:8500".into());
    let (scheme, host) = address.split_once("://").unwrap_or(("", &address));
    let is_tls = match scheme {
        "https" => true,
        "http" => false,
        "" => variable("CONSUL_HTTP_SSL").is_some_and(|ssl| !is_false(&ssl)),
        _ => return Err(format!("CONSUL_HTTP_ADDR: {scheme}:// is not known here, only http:// and https://")),
    };
    let token = match (variable("CONSUL_HTTP_TOKEN"), variable("CONSUL_HTTP_TOKEN_FILE")) {
        (Some(token), _) => Some(token),
        (None, Some(path)) => {
            let token = std::fs::read_to_string(&path).map_err(|error| format!("CONSUL_HTTP_TOKEN_FILE {path}: {error}"))?;
            Some(token.trim().to_owned())
        }
        (None, None) => None,
    };
    let token = token.map(|token| format!("{}@", utf8_percent_encode(&token, NON_ALPHANUMERIC))).unwrap_or_default();
    let scheme = if is_tls { "consuls" } else { "consul" };
    let mut provider = ProviderConfig::parse_url(&format!("{scheme}://{token}{}{rest}", host.trim_end_matches('/')))
        .map_err(|error| format!("of the environment's Consul: {error}"))?;
    if let (ProviderConfig::Consul(config), true) = (&mut provider, is_tls) {
        config.tls = Some(tls(variable)?);
    }
    Ok(provider)
}

fn tls(variable: &dyn Fn(&str) -> Option<String>) -> Result<ClientTls, String> {
    let file = |name| variable(name).map(|path| Pem::Path(path.into()));
    let (cert, key) = (file("CONSUL_CLIENT_CERT"), file("CONSUL_CLIENT_KEY"));
    if cert.is_some() != key.is_some() {
        return Err("CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY go together".into());
    }
    Ok(ClientTls { ca: file("CONSUL_CACERT"), cert, key, server_name: variable("CONSUL_TLS_SERVER_NAME") })
}

/// As Go reads it.
fn is_false(text: &str) -> bool {
    matches!(text, "0" | "f" | "F" | "false" | "FALSE" | "False")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rest: &str, variables: &[(&str, &str)]) -> Result<nuncio::config::providers::ConsulConfig, String> {
        let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        match from(rest, &variable)? {
            ProviderConfig::Consul(config) => Ok(config),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_environment_names_the_agent() {
        assert_eq!(read("", &[]).unwrap().endpoints, ["http://127.0.0.1:8500"]);
        let config = read("/edge?catalog", &[("CONSUL_HTTP_ADDR", "10.0.0.5:80"), ("CONSUL_HTTP_TOKEN", "a:b@c")]).unwrap();
        assert_eq!((config.endpoints.as_slice(), config.prefix.as_str()), (["http://10.0.0.5:80".to_owned()].as_slice(), "edge"));
        assert_eq!((config.token.as_deref(), config.catalog.is_some(), config.tls), (Some("a:b@c"), true, None));
        let variables =
            [("CONSUL_HTTP_ADDR", "https://consul.internal:8501"), ("CONSUL_CACERT", "/ca.pem"), ("CONSUL_TLS_SERVER_NAME", "s")];
        let config = read("", &variables).unwrap();
        assert_eq!(config.endpoints, ["https://consul.internal:8501"]);
        let tls = config.tls.unwrap();
        assert_eq!((tls.ca, tls.cert, tls.server_name.as_deref()), (Some(Pem::Path("/ca.pem".into())), None, Some("s")));
        assert!(read("", &[("CONSUL_HTTP_ADDR", "c:1"), ("CONSUL_HTTP_SSL", "true")]).unwrap().tls.is_some());
        assert!(read("", &[("CONSUL_HTTP_ADDR", "c:1"), ("CONSUL_HTTP_SSL", "false")]).unwrap().tls.is_none());
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        for (variables, expected) in [
            ([("CONSUL_HTTP_AUTH", "a:geheim"), ("", "")], "CONSUL_HTTP_AUTH is not known"),
            ([("CONSUL_HTTP_SSL_VERIFY", "false"), ("", "")], "CONSUL_CACERT"),
            ([("CONSUL_HTTP_ADDR", "unix:///run/consul.sock"), ("", "")], "unix:// is not known"),
            ([("CONSUL_HTTP_ADDR", "https://c"), ("CONSUL_CLIENT_CERT", "/c.pem")], "go together"),
            ([("CONSUL_HTTP_ADDR", "a b"), ("CONSUL_HTTP_TOKEN", "geheim")], "not the URL of a Consul agent"),
        ] {
            let error = read("", &variables).unwrap_err();
            assert!(error.contains(expected) && !error.contains("geheim"), "{error}");
        }
    }

    #[test]
    fn a_url_with_a_host_is_left_alone() {
        assert!(provider("consul://10.0.0.5").is_none() && provider("etcd://").is_none() && provider("consuls://").is_none());
    }
}
