//! TOML and JSON text → objects and problems.

use serde::de::DeserializeOwned;

use super::problem::ObjectId;
use super::{Endpoint, Origin, Problem};

/// The greatest JSON value of a store that is read, in bytes: what etcd accepts at most.
pub const JSON_BYTES_MAX: usize = 1_536 * 1_024;

/// Reads one object from the JSON value of a store. Unknown fields are errors.
///
/// # Errors
/// The problem that takes the object's place, with its origin.
pub fn decode_json<T: DeserializeOwned>(text: &str, object: ObjectId, origin: Origin) -> Result<T, Problem> {
    if text.len() > JSON_BYTES_MAX {
        let message = format!("the value has {} bytes, more than {JSON_BYTES_MAX}", text.len());
        return Err(Problem::error(message).about(object).at(origin));
    }
    serde_json::from_str(text).map_err(|error| Problem::error(error.to_string()).about(object).at(origin))
}

/// Reads an endpoint from the value of a store: JSON, or a bare address such as `127.0.0.1:3000`.
///
/// # Errors
/// The problem that takes the endpoint's place, with its origin.
pub fn decode_endpoint(text: &str, object: ObjectId, origin: Origin) -> Result<Endpoint, Problem> {
    let text = text.trim();
    if text.starts_with(['{', '"']) {
        return decode_json(text, object, origin);
    }
    let address = Endpoint::parse_address(text).map_err(|message| Problem::error(message).about(object).at(origin))?;
    Ok(Endpoint::new(address))
}
