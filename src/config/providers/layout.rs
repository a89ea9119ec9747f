//! How the keys and values of a store are laid out: ours, or what others already write there.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::keyring::KeyringConfig;
use super::url;
use crate::names::Name;
use crate::rule::Rule;
use crate::suggest;

/// How a store's keys and values are read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    /// Whose keys they are.
    pub kind: LayoutKind,
    /// The rule of the route that each service gets. None: services make upstreams only. For [`LayoutKind::Services`] alone.
    pub route: Option<RouteTemplate>,
}

impl Layout {
    /// Whether the settings go together.
    ///
    /// # Errors
    /// A sentence that names the first that does not.
    pub(super) fn check(&self, prefix: &str) -> Result<(), String> {
        if self.route.is_some() && self.kind != LayoutKind::Services {
            return Err("`route` makes routes of services: it needs `layout = \"services\"`".into());
        }
        if !prefix.starts_with('/') && self.kind != LayoutKind::Vulcand {
            return Err(format!("`{prefix}` is not a prefix of keys, such as \"/nuncio\""));
        }
        Ok(())
    }
}

/// What tells it from others: what was read by one is not what another would read.
impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind.as_str())?;
        self.route.as_ref().map_or(Ok(()), |route| write!(f, " {}", route.0))
    }
}

/// Whose keys and values a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayoutKind {
    /// Our own: `{prefix}/routes/NAME` and so on.
    #[default]
    Nuncio,
    /// Of registrators: `{prefix}/SERVICE/INSTANCE`, whose values say where an instance listens.
    Services,
    /// Of vulcand: `{prefix}/frontends/ID/frontend` and so on.
    Vulcand,
}

impl LayoutKind {
    const ALL: [Self; 3] = [Self::Nuncio, Self::Services, Self::Vulcand];

    /// The name, as it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nuncio => "nuncio",
            Self::Services => "services",
            Self::Vulcand => "vulcand",
        }
    }

    /// What all keys start with unless it is said: the layout's name as a folder.
    #[must_use]
    pub fn prefix_default(self) -> String {
        format!("/{}", self.as_str())
    }

    /// Reads the name of one.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str);
            let near = suggest::nearest(text, known).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            format!("unknown layout `{text}`: the known ones are {}{near}", known.join(", "))
        })
    }
}

/// A rule with `{name}` where the name of a service goes: `Host("{name}.example.com")`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RouteTemplate(String);

/// Where the name goes.
const PLACEHOLDER: &str = "{name}";

impl RouteTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// A sentence that says what is wrong: it has no `{name}`, has one inside a regular expression, or is no rule.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.contains(PLACEHOLDER) {
            return Err(format!(
                "the route of all services needs a place for their name: `{PLACEHOLDER}`, as in Host(\"{PLACEHOLDER}.example.com\")"
            ));
        }
        if predicates_of_placeholders(text).any(|predicate| predicate.ends_with("Regexp")) {
            return Err(format!(
                "`{PLACEHOLDER}` does not go into a regular expression: a name may hold characters that mean something there"
            ));
        }
        let template = Self(text.to_owned());
        template.rule_of("name").map_err(|error| format!("`{text}` is not a rule: {error}"))?;
        Ok(template)
    }

    /// The rule of the service of this name.
    ///
    /// # Errors
    /// A sentence that says why the name does not fit.
    pub fn rule(&self, service: &str) -> Result<Rule, String> {
        // Quotes would end the string in the rule, and `*` would make a wildcard of a host.
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.~/:@+,;=!$&'()".contains(c);
        if let Some(character) = service.chars().find(|c| !is_plain(*c)) {
            return Err(format!("a service whose name contains {character:?} gets no route"));
        }
        self.rule_of(service).map_err(|error| format!("the service gets no route by `{}`: {error}", self.0))
    }

    fn rule_of(&self, service: &str) -> Result<Rule, String> {
        Rule::parse(&self.0.replace(PLACEHOLDER, service)).map_err(|error| error.message)
    }
}

impl TryFrom<String> for RouteTemplate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<RouteTemplate> for String {
    fn from(template: RouteTemplate) -> Self {
        template.0
    }
}

/// The names of the predicates that have a placeholder among their strings.
fn predicates_of_placeholders(text: &str) -> impl Iterator<Item = &str> {
    let mut quote = None;
    let mut predicate = "";
    let mut is_escaped = false;
    text.char_indices().filter_map(move |(at, character)| {
        match (quote, character) {
            (None, '"' | '`') => quote = Some(character),
            (None, '(') => {
                let before = text.get(..at).unwrap_or_default().trim_end();
                predicate = before.rsplit(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
            }
            (Some('"'), '\\') if !is_escaped => {
                is_escaped = true;
                return None;
            }
            (Some(open), close) if open == close && !is_escaped => quote = None,
            _ => {}
        }
        is_escaped = false;
        text.get(at..).filter(|rest| rest.starts_with(PLACEHOLDER)).map(|_| predicate)
    })
}

/// The settings of a layout in the query of a provider's URL: `?layout=services&route=Host("{name}.example.com")`.
#[derive(Debug, Default)]
pub(super) struct LayoutQuery {
    pub(super) layout: Layout,
    /// What all keys start with, for prefixes that do not start with `/`.
    pub(super) prefix: Option<String>,
    /// Opens sealed values.
    pub(super) keyring: Option<KeyringConfig>,
}

impl LayoutQuery {
    const KEYS: [&str; 4] = ["keyring", "layout", "prefix", "route"];

    /// Reads the query of what follows `scheme://`. What is before it is handed back.
    pub(super) fn parse(rest: &str) -> Result<(&str, Self), String> {
        let mut query = Self::default();
        let Some((rest, settings)) = rest.split_once('?') else {
            return Ok((rest, query));
        };
        for setting in url::settings(settings) {
            let (key, value) = setting?;
            query.set(key, &value)?;
        }
        Ok((rest, query))
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "keyring" => self.keyring = Some(KeyringConfig::new(value)),
            "layout" => self.layout.kind = LayoutKind::parse(value)?,
            "route" => self.layout.route = Some(RouteTemplate::parse(value)?),
            "prefix" => self.prefix = Some(value.to_owned()),
            _ => return Err(url::unknown_setting(key, &Self::KEYS)),
        }
        Ok(())
    }
}

/// The name of an object that has this name elsewhere, where names have other rules. What a [`Name`] may not hold is written as in
/// URLs, `%2F`, and `%` itself as `%25`: no two names become one.
///
/// # Errors
/// A sentence that says why there is none.
pub fn clean_name(text: &str) -> Result<Name, String> {
    let mut clean = String::with_capacity(text.len());
    for character in text.chars() {
        let mut bytes = [0; 4];
        let encoded: &str = character.encode_utf8(&mut bytes);
        if character != '%' && Name::new(encoded).is_ok() {
            clean.push(character);
        } else {
            encoded.bytes().for_each(|byte| clean.push_str(&format!("%{byte:02X}")));
        }
    }
    Name::new(clean).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_makes_one_rule_per_name() {
        let template = RouteTemplate::parse(r#"Host("{name}.example.com") && PathRegexp("/v[0-9]{2}")"#).unwrap();
        assert_eq!(template.rule("web-80").unwrap().text(), r#"Host("web-80.example.com") && PathRegexp("/v[0-9]{2}")"#);
        for (name, expected) in [
            ("*", "contains '*'"),
            (r#"a") || Host("b"#, "contains '\"'"),
            ("a`b", "contains '`'"),
            ("a b", "contains ' '"),
            ("com/example", "gets no route by"),
            ("a:80", "no port"),
        ] {
            let error = template.rule(name).unwrap_err();
            assert!(error.contains(expected), "{name}: {error}");
        }
        let by_path = RouteTemplate::parse("PathPrefix(`/{name}`)").unwrap();
        assert_eq!(by_path.rule("com/example").unwrap().text(), "PathPrefix(`/com/example`)");
    }

    #[test]
    fn what_is_no_template_says_so() {
        for (text, expected) in [
            (r#"Host("a")"#, "needs a place"),
            (r#"Hots("{name}")"#, "is not a rule"),
            (r#"Host("{name}""#, "is not a rule"),
            (r#"Host("a\"(") && HostRegexp("x", "{name}")"#, "regular expression"),
            ("PathRegexp(`/(a)/{name}`)", "regular expression"),
        ] {
            let error = RouteTemplate::parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn names_are_cleaned_without_two_becoming_one() {
        let clean = |text: &str| clean_name(text).map(|name| name.to_string());
        assert_eq!(clean("vm:web_1:80"), Ok("vm:web_1:80".into()));
        assert_eq!(clean("com/example/a b"), Ok("com%2Fexample%2Fa%20b".into()));
        assert_eq!(clean("com%2Fexample"), Ok("com%252Fexample".into()));
        assert!(clean("").is_err() && clean(&"/".repeat(100)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn cleaning_can_be_undone(text in "\\PC{1,20}") {
            if let Ok(name) = clean_name(&text) {
                let back = percent_encoding::percent_decode_str(name.as_str()).decode_utf8().unwrap();
                proptest::prop_assert_eq!(back.as_ref(), text.as_str());
            }
        }
    }
}
