//! Whether a configuration can be read: what `nuncio check` asks first.

use std::path::Path;
use std::time::Instant;

use super::Problem;
use super::files::Files;
use crate::names::Name;

/// All that is wrong with the file, or the files of the directory, at `path`: settings, objects, and what is around them.
///
/// References between objects are not looked at: compiling the configuration does that.
#[must_use]
pub fn check_file(path: &Path) -> Vec<Problem> {
    let seen_at = Instant::now();
    let mut files = Files::new(path.to_path_buf(), Name::literal("file"));
    files.read(seen_at);
    files.config(seen_at).all_problems()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::decode::{TomlFile, decode_toml};

    fn shipped(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
    }

    #[test]
    fn the_shipped_configurations_have_no_problems() {
        for name in ["example.toml", "full.toml"] {
            let problems: Vec<_> = check_file(&shipped(name)).iter().map(|problem| problem.render(false)).collect();
            assert!(problems.is_empty(), "{}", problems.join("\n\n"));
        }
    }

    /// The keys that a table takes, as the error for one that it does not take lists them.
    fn keys(table: &str) -> BTreeSet<String> {
        let text = format!("{table} = {{ 'no.such-key' = 1 }}");
        let provider = Name::literal("file");
        let file = TomlFile { text: &text, path: std::sync::Arc::default(), provider: &provider };
        let problems = decode_toml(&file, Instant::now()).unwrap().all_problems();
        let help = problems[0].help.clone().unwrap_or_default();
        help.split('`').skip(1).step_by(2).map(ToString::to_string).collect()
    }

    #[test]
    fn the_full_configuration_has_every_key() {
        let text = std::fs::read_to_string(shipped("full.toml")).unwrap();
        for table in [
            "server",
            "server.access_log",
            "providers.docker",
            "providers.docker.tls",
            "providers.etcd",
            "providers.consul",
            "providers.consul.catalog",
            "providers.etcd.tls",
            "providers.file",
            "providers.zookeeper",
            "providers.mesh",
            "providers.swarm",
            "listeners.x",
            "listeners.x.tls",
            "listeners.x.timeouts",
            "listeners.x.limits",
            "certificates.x",
            "routes.x",
            "tcp_routes.x",
            "udp_routes.x",
            "upstreams.x",
            "upstreams.x.sticky",
            "upstreams.x.health",
            "upstreams.x.tls",
            "upstreams.x.timeouts",
            "upstreams.x.keepalive",
        ] {
            let keys = keys(table);
            assert!(!keys.is_empty(), "{table}");
            for key in keys {
                let is_shown = |line: &str| {
                    let line = line.trim_start_matches(['#', ' ']);
                    line.starts_with(&format!("{key} = "))
                        || line.split(']').next().is_some_and(|header| header.ends_with(&format!(".{key}")))
                };
                let is_shown = text.lines().any(is_shown);
                assert!(is_shown, "config/full.toml lacks `{key}` of [{table}]");
            }
        }
    }

    #[test]
    fn a_file_with_problems_lists_them_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nuncio.toml");
        std::fs::write(&path, "[server]\nworkers = 0\n[routes.a]\nmatch = 1\n[nonsense]\n").unwrap();
        assert_eq!(check_file(&path).len(), 3);
    }
}
