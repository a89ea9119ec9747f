//! TOML and JSON text → objects and problems.

use serde::de::DeserializeOwned;

use super::problem::ObjectId;
use super::{Endpoint, Origin, Problem};

/// Reads one object from JSON.
///
/// # Errors
/// A [`Problem`] about `object` at `origin`.
pub fn decode_json<T: DeserializeOwned>(text: &str, object: ObjectId, origin: Origin) -> Result<T, Problem> {
    serde_json::from_str(text).map_err(|error| Problem::error(error.to_string()).about(object).at(origin))
}

/// Reads an endpoint from JSON, or from its bare address.
///
/// # Errors
/// A [`Problem`] about `object` at `origin`.
pub fn decode_endpoint(text: &str, object: ObjectId, origin: Origin) -> Result<Endpoint, Problem> {
    let trimmed = text.trim();
    if trimmed.starts_with(['{', '"']) {
        return decode_json(text, object, origin);
    }
    Endpoint::parse_address(trimmed).map(Endpoint::new).map_err(|message| Problem::error(message).about(object).at(origin))
}
