//! Names of znodes in which nerve writes all that is to be said of an instance, so that nobody has to read the znode:
//! `base64_{length}_{JSON in URL-safe base64}_{sequence}`, where the length is that of the base64 text, which may hold `_` itself.

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;

use super::json::Fields;

/// What such names start with.
const PREFIX: &str = "base64_";

/// Ruby pads, others may not.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&URL_SAFE, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// A name that says it all.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Telling {
    /// What would be the znode's value.
    pub(super) value: Vec<u8>,
    /// The instance's own name, with what tells it from an earlier registration of the same instance.
    pub(super) id: String,
}

/// Whether the last segment of a key is such a name, or was meant to be one.
pub(super) fn is_telling(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// Reads such a name. None: it is an ordinary one.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(name: &str) -> Option<Result<Telling, String>> {
    name.strip_prefix(PREFIX).map(read_rest)
}

fn read_rest(rest: &str) -> Result<Telling, String> {
    let form = || "the name is not of nerve's form `base64_LENGTH_BASE64_SEQUENCE`".to_owned();
    let (length, rest) = rest.split_once('_').ok_or_else(form)?;
    let (text, sequence) = length.parse().ok().and_then(|length| rest.split_at_checked(length)).ok_or_else(form)?;
    let sequence = if sequence.is_empty() { "" } else { sequence.strip_prefix('_').ok_or_else(form)? };
    let value = BASE64.decode(text).map_err(|error| format!("what nerve wrote into the name is not base64: {error}"))?;
    let name = match serde_json::from_slice(&value) {
        Ok(Value::Object(map)) => Fields(&map).text("name").map(ToOwned::to_owned),
        _ => None,
    };
    let name = name.filter(|name| !name.is_empty()).unwrap_or_else(|| "instance".to_owned());
    // Without a sequence, only what was written tells two registrations apart.
    let id = if sequence.is_empty() { format!("{name}_{:08x}", crc32fast::hash(&value)) } else { format!("{name}_{sequence}") };
    Ok(Telling { value, id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_it_all() {
        // As Ruby's `Base64.urlsafe_encode64` writes it; `>>>???` makes `-` and `_`.
        let json = r#"{"host":"10.0.0.2","port":3000,"name":"i-1","labels":{"a":">>>???"}}"#;
        let text = base64::engine::general_purpose::URL_SAFE.encode(json);
        assert!(text.contains('_') && text.contains('-'), "{text}");
        for text in [text.as_str(), text.trim_end_matches('=')] {
            let telling = read(&format!("base64_{}_{text}_0000000012", text.len())).unwrap().unwrap();
            assert_eq!((telling.value.as_slice(), telling.id.as_str()), (json.as_bytes(), "i-1_0000000012"));
            let telling = read(&format!("base64_{}_{text}", text.len())).unwrap().unwrap();
            assert!(telling.id.starts_with("i-1_") && telling.id.len() == 12, "{}", telling.id);
        }
        assert_eq!(read("base64_4_e30=_7").unwrap().unwrap().id, "instance_7");
        assert_eq!(read("i-1_0000000012"), None);
    }

    #[test]
    fn what_is_none_says_so() {
        for name in ["base64_", "base64_x_e30=_1", "base64_99_e30=_1", "base64_-1_e30=_1", "base64_3_e30=_1", "base64_4_e30=1"] {
            assert!(read(name).unwrap().unwrap_err().contains("nerve's form"), "{name}");
        }
        assert!(read("base64_4_!!!!_1").unwrap().unwrap_err().contains("not base64"));
    }

    proptest::proptest! {
        #[test]
        fn any_value_can_be_read_back(value: Vec<u8>, sequence in "[0-9]{0,10}") {
            let text = base64::engine::general_purpose::URL_SAFE.encode(&value);
            let sequence = if sequence.is_empty() { sequence } else { format!("_{sequence}") };
            let telling = read(&format!("base64_{}_{text}{sequence}", text.len()));
            proptest::prop_assert_eq!(telling.unwrap().unwrap().value, value);
        }

        #[test]
        fn any_text_is_read(rest in "\\PC{0,40}") {
            let _ = read(&format!("base64_{rest}"));
        }
    }
}
