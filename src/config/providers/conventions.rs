//! Which labels of others are read, beside ours.

use serde::{Deserialize, Serialize};

use super::layout::RouteTemplate;

/// Labels that others made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Convention {
    /// `SERVICE_NAME` and so on of registrator, also in the environment.
    Registrator,
    /// `HAPROXY_0_VHOST` and so on of marathon-lb.
    Haproxy,
    /// `published_fqdn` of hive-builder.
    Hive,
}

/// Which conventions are read, and how.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conventions {
    /// Which.
    pub kinds: Vec<Convention>,
    /// The rule of the route that each service of registrator gets. None: services make upstreams only.
    pub route: Option<RouteTemplate>,
    /// Only what is of this `HAPROXY_GROUP`. None: of any.
    pub haproxy_group: Option<String>,
}

impl Conventions {
    /// Whether this one is read.
    #[must_use]
    pub fn has(&self, kind: Convention) -> bool {
        self.kinds.contains(&kind)
    }

    /// What tells these from others: empty if only our own labels are read.
    #[must_use]
    pub fn describe(&self) -> String {
        let kinds = self.kinds.iter().map(|kind| match kind {
            Convention::Registrator => " registrator".to_owned(),
            Convention::Haproxy => " haproxy".to_owned(),
            Convention::Hive => " hive".to_owned(),
        });
        let route = self.route.iter().map(|route| format!(" route {}", String::from(route.clone())));
        let group = self.haproxy_group.iter().map(|group| format!(" haproxy_group {group}"));
        kinds.chain(route).chain(group).collect()
    }

    /// Whether the settings go together.
    ///
    /// # Errors
    /// A sentence that names the first that does not.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.route.is_some() && !self.has(Convention::Registrator) {
            return Err("`route` makes routes of registrator's services: it needs `conventions = [\"registrator\"]`".into());
        }
        if self.haproxy_group.is_some() && !self.has(Convention::Haproxy) {
            return Err("`haproxy_group` needs `conventions = [\"haproxy\"]`".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_need_their_convention() {
        let route = RouteTemplate::parse(r#"Host("{name}.test")"#).ok();
        let check = |conventions: Conventions, expected: &str| assert!(conventions.check().unwrap_err().contains(expected));
        check(Conventions { route: route.clone(), ..Conventions::default() }, "needs `conventions = [\"registrator\"]`");
        let group = Some("external".to_owned());
        check(Conventions { haproxy_group: group.clone(), ..Conventions::default() }, "needs `conventions = [\"haproxy\"]`");
        let both = Conventions { kinds: vec![Convention::Registrator, Convention::Haproxy], route, haproxy_group: group };
        assert_eq!(both.check(), Ok(()));
        assert_eq!(both.describe(), r#" registrator haproxy route Host("{name}.test") haproxy_group external"#);
        assert_eq!(Conventions::default().describe(), "");
    }
}
