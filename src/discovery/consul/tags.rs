//! Tags and metadata of an instance → labels ([`super::super::labels`]), and objects that other dialects describe.
//!
//! | tag | |
//! |---|---|
//! | `nuncio.KEY=VALUE` | a label; `nuncio.enable` alone is `nuncio.enable=true` |
//! | `urlprefix-…` | a route, as `fabio` reads it |
//! | `traefik.…` | routes and settings, as `traefik` reads them |
//!
//! Metadata has no dots in its keys: `nuncio-host`, `nuncio-port`, `nuncio-weight`, `nuncio-upstream` and `nuncio-enable`, with `_` for `-`
//! too, say what the labels of these names say. A tag of the same name counts before them.
//!
//! Pure, and total: a tag that cannot be read is a problem, and all others count.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{fabio, traefik};
use crate::config::Problem;
use crate::config::providers::TagDialect;
use crate::discovery::labels::PREFIX;

/// The most tags of an instance that are read. Of further ones it is only said that they are there.
pub const TAGS_MAX: usize = 256;

/// What the tags of one instance say.
#[derive(Debug, Default)]
pub(super) struct Tagged {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) objects: Vec<Object>,
    pub(super) problems: Vec<(String, Problem)>,
}

/// An object that a tag describes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Object {
    /// As in the key/value layout: `/routes/web`.
    pub(super) key: String,
    pub(super) tag: String,
    pub(super) value: Value,
}

/// The instance whose tags are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bearing<'a> {
    /// The upstream of its service, which is also the start of the names of its routes.
    pub(super) name: &'a str,
    pub(super) tags: &'a [String],
    pub(super) meta: &'a BTreeMap<String, String>,
}

/// Whether a service with these tags is asked for.
pub(super) fn asks(tags: &[String], dialects: &BTreeSet<TagDialect>) -> bool {
    tags.iter().any(|tag| match dialect_of(tag) {
        Some(TagDialect::Nuncio) => dialects.contains(&TagDialect::Nuncio) && tag != "nuncio.enable=false",
        Some(TagDialect::Traefik) => dialects.contains(&TagDialect::Traefik) && tag != "traefik.enable=false",
        Some(TagDialect::Fabio) => dialects.contains(&TagDialect::Fabio),
        None => false,
    })
}

fn dialect_of(tag: &str) -> Option<TagDialect> {
    let starts = [(PREFIX, TagDialect::Nuncio), (fabio::PREFIX, TagDialect::Fabio), (traefik::PREFIX, TagDialect::Traefik)];
    starts.into_iter().find(|(start, _)| tag.starts_with(start)).map(|(_, dialect)| dialect)
}

/// Reads the tags of an instance that are of `dialects`.
pub(super) fn read(bearing: Bearing<'_>, dialects: &BTreeSet<TagDialect>) -> Tagged {
    let mut tagged = Tagged::default();
    let of = |dialect| {
        let is_read = dialects.contains(&dialect);
        bearing.tags.iter().take(TAGS_MAX).filter(move |tag| is_read && dialect_of(tag) == Some(dialect)).map(String::as_str)
    };
    for tag in of(TagDialect::Nuncio) {
        tagged.label(tag);
    }
    if dialects.contains(&TagDialect::Nuncio) {
        tagged.take_meta(bearing.meta);
    }
    let upstream = tagged.labels.get("nuncio.upstream").map_or(bearing.name, |upstream| upstream.trim()).to_owned();
    for tag in of(TagDialect::Fabio) {
        fabio::read(&upstream, tag, &mut tagged);
    }
    traefik::read(&upstream, of(TagDialect::Traefik), &mut tagged);
    if bearing.tags.len() > TAGS_MAX {
        let problem = Problem::error(format!("an instance has at most {TAGS_MAX} tags, this one has {}", bearing.tags.len()));
        tagged.complain("", problem.effect("the others are ignored"));
    }
    tagged
}

impl Tagged {
    pub(super) fn complain(&mut self, tag: &str, problem: Problem) {
        self.problems.push((tag.to_owned(), problem));
    }

    pub(super) fn say(&mut self, key: String, tag: &str, value: Value) {
        self.objects.push(Object { key, tag: tag.to_owned(), value });
    }

    /// A label of the instance itself, if it has not said it in our own words. Always true: it is read.
    pub(super) fn own(&mut self, label: &str, value: &str) -> bool {
        self.labels.entry(format!("{PREFIX}{label}")).or_insert_with(|| value.to_owned());
        true
    }

    /// A setting of the upstream of this name. Whether it can be said: a name in a label has no dots.
    pub(super) fn of_upstream(&mut self, upstream: &str, field: &str, value: &str, tag: &str) -> bool {
        if upstream.contains('.') {
            let problem = Problem::error(format!("`{upstream}` is no name in a label, because of its dots"));
            self.complain(tag, problem.help(format!("say `{field}` under a key of the store")).effect("the tag is ignored"));
            return true;
        }
        self.own(&format!("upstreams.{upstream}.{field}"), value)
    }

    fn label(&mut self, tag: &str) {
        let (label, value) = match tag.split_once('=') {
            Some((label, value)) => (label, value),
            None if tag == "nuncio.enable" => (tag, "true"),
            None => return self.complain(tag, Problem::error("the tag says no value: `KEY=VALUE`").effect("the tag is ignored")),
        };
        if self.labels.insert(label.trim().to_owned(), value.to_owned()).is_some_and(|held| held != value) {
            self.complain(tag, Problem::error("another tag of the instance says something else").effect("the last one is in force"));
        }
    }

    fn take_meta(&mut self, meta: &BTreeMap<String, String>) {
        for (key, value) in meta {
            let short = key.strip_prefix("nuncio-").or_else(|| key.strip_prefix("nuncio_"));
            let label = match short {
                Some(short) => format!("{PREFIX}{short}"),
                None if key.starts_with(PREFIX) => key.clone(),
                None => continue,
            };
            self.labels.entry(label).or_insert_with(|| value.clone());
        }
    }

    /// Whether any route is among what is said.
    pub(super) fn has_route(&self) -> bool {
        let is_route = |label: &String| {
            ["nuncio.host", "nuncio.routes.", "nuncio.tcp_routes.", "nuncio.udp_routes."].iter().any(|route| label.starts_with(route))
        };
        let is_object = |object: &Object| ["/routes/", "/tcp_routes/", "/udp_routes/"].iter().any(|folder| object.key.starts_with(folder));
        self.labels.keys().any(is_route) || self.objects.iter().any(is_object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn dialects() -> BTreeSet<TagDialect> {
        [TagDialect::Nuncio, TagDialect::Fabio, TagDialect::Traefik].into()
    }

    fn strings(tags: &[&str]) -> Vec<String> {
        tags.iter().map(|tag| (*tag).to_owned()).collect()
    }

    #[test]
    fn a_service_asks_by_its_tags() {
        for (tag, expected) in [
            ("nuncio.host=a", true),
            ("nuncio.enable=false", false),
            ("urlprefix-/", true),
            ("traefik.enable=true", true),
            ("traefik.enable=false", false),
            ("production", false),
            ("nuncio", false),
        ] {
            assert_eq!(asks(&strings(&["udp", tag]), &dialects()), expected, "{tag}");
        }
        assert!(!asks(&strings(&["urlprefix-/"]), &[TagDialect::Nuncio].into()));
    }

    #[test]
    fn tags_are_labels_and_metadata_comes_after_them() {
        let tags = strings(&["nuncio.host=a.test", "nuncio.enable", "nuncio.routes", "nuncio.port=1", "nuncio.port=2", "blue"]);
        let meta = [("nuncio-host", "b.test"), ("nuncio_weight", "3"), ("nuncio.upstream", "u"), ("other", "x")];
        let meta = meta.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let tagged = read(Bearing { name: "web", tags: &tags, meta: &meta }, &dialects());
        let labels: Vec<_> = tagged.labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
        assert_eq!(labels, ["nuncio.enable=true", "nuncio.host=a.test", "nuncio.port=2", "nuncio.upstream=u", "nuncio.weight=3"]);
        let problems: Vec<_> = tagged.problems.iter().map(|(tag, problem)| format!("{tag}: {}", problem.message)).collect();
        assert_eq!(
            problems,
            ["nuncio.routes: the tag says no value: `KEY=VALUE`", "nuncio.port=2: another tag of the instance says something else"]
        );
        assert!(tagged.has_route());
    }

    #[test]
    fn tags_have_a_bound() {
        let tags = vec!["nuncio.host=a".to_owned(); TAGS_MAX + 1];
        let tagged = read(Bearing { name: "web", tags: &tags, meta: &BTreeMap::new() }, &dialects());
        assert_eq!(tagged.problems.len(), 1);
    }

    proptest::proptest! {
        #[test]
        fn any_tags_can_be_read(tags in proptest::collection::vec(
            "(nuncio\\.|urlprefix-|traefik\\.(http\\.(routers|services|middlewares)\\.[a-c]\\.(rule|priority|loadbalancer\\.server\\.port|stripprefix\\.prefixes)=)?)?[a-z.=:/ `()&|,0-9-]{0,24}", 0..10)) {
            read(Bearing { name: "web", tags: &tags, meta: &BTreeMap::new() }, &dialects());
        }
    }
}
