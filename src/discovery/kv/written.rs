//! A value under the key of an object → the object, or the problem that stands in its place.

use serde::de::DeserializeOwned;

use super::VALUE_BYTES_MAX;
use super::dialect::{self, Instance};
use super::opener::Value;
use crate::config::decode::{decode_endpoint, decode_json};
use crate::config::problem::{Kind, ObjectId};
use crate::config::{Endpoint, Entry, Origin, Problem};
use crate::names::Name;

/// A value that was written under the key of an object.
pub(super) struct Written<'a> {
    pub(super) value: Value<'a>,
    pub(super) origin: Origin,
}

impl Written<'_> {
    pub(super) fn object<T: DeserializeOwned>(self, kind: Kind, name: &Name) -> Entry<T> {
        self.entry(ObjectId::new(kind, name), decode_json)
    }

    pub(super) fn endpoint(self, upstream: &Name, id: &Name) -> Entry<Endpoint> {
        self.entry(ObjectId { kind: Kind::Endpoint, name: format!("{upstream}/{id}") }, decode_endpoint)
    }

    /// In any dialect of registrators. None in the place of an instance that takes no traffic.
    pub(super) fn instance(self, upstream: &Name, id: &Name) -> Entry<Option<Instance>> {
        let object = ObjectId { kind: Kind::Endpoint, name: format!("{upstream}/{id}") };
        let value = self.value.read(dialect::decode).map_err(|problem| problem.about(object).at(self.origin.clone()));
        Entry { origin: self.origin, value }
    }

    /// By a decoder of another layout.
    pub(super) fn foreign<T>(&self, object: ObjectId, decode: impl FnOnce(&[u8]) -> Result<T, Problem>) -> Entry<T> {
        let value = self.value.read(decode).map_err(|problem| problem.about(object).at(self.origin.clone()));
        Entry { origin: self.origin.clone(), value }
    }

    fn entry<T>(self, object: ObjectId, decode: impl FnOnce(&str, ObjectId, Origin) -> Result<T, Problem>) -> Entry<T> {
        let read = self.value.read(|value| decode(text(value)?, object.clone(), self.origin.clone()));
        let value = read.map_err(|problem| problem.about(object).at(self.origin.clone()));
        Entry { origin: self.origin, value }
    }
}

fn text(value: &[u8]) -> Result<&str, Problem> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(Problem::error(format!("a value has at most {VALUE_BYTES_MAX} bytes, this one has {}", value.len())));
    }
    str::from_utf8(value)
        .map_err(|error| Problem::error(format!("the value is not UTF-8: byte {} does not belong there", error.valid_up_to())))
}
