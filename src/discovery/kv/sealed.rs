//! Values that are sealed as [crypt](https://github.com/xordataexchange/crypt) does it, so that a store does not show what it holds:
//! base64 of an OpenPGP message of gzip of the value.
//!
//! | | |
//! |---|---|
//! | [`is_sealed`] | whether a value looks like it |
//! | [`Keys`] | secret keys, which open |
//! | [`Recipients`] | public keys, for which is sealed |
//!
//! More is read than crypt reads: base64 in lines, messages in ASCII armor, messages that OpenPGP compressed instead of gzip, keys with a
//! passphrase, and keys for X25519 and other curves. A message without a check of its integrity is never opened. What is sealed here, crypt
//! opens with RSA keys; it knows no others.
//!
//! Pure: who calls reads the files. No error quotes what was sealed.

use std::borrow::Cow;
use std::fmt;
use std::io::{Read, Write};
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use pgp::composed::{
    DecryptionOptions, Deserializable, Esk, Message, MessageBuilder, SignedPublicKey, SignedPublicSubKey, SignedSecretKey, TheRing,
};
use pgp::crypto::sym::SymmetricKeyAlgorithm;
use pgp::packet::{Signature, SignatureType};
use pgp::types::{KeyDetails, Password};
use rand::rngs::OsRng;
use zeroize::Zeroizing;

use super::VALUE_BYTES_MAX;

/// The largest value once it is opened, in bytes.
pub const OPENED_BYTES_MAX: usize = VALUE_BYTES_MAX;

/// The largest file of keys, in bytes.
pub const KEYRING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How many times a message may be compressed.
const LAYERS_MAX: usize = 4;

/// How many recipients of a message are named when we are none of them.
const RECIPIENTS_SHOWN_MAX: usize = 4;

const ARMOR: &str = "-----BEGIN PGP ";

/// Why a value cannot be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The text around the message.
    #[error("it is not base64 of an OpenPGP message: {0}")]
    NotSealed(String),
    /// No key opens it.
    #[error("it is sealed for other keys: {0}")]
    OtherKeys(String),
    /// The key is there, and what it opens is not what was sealed.
    #[error("it is damaged, or was not sealed for the key that it names")]
    Damaged,
    /// Anybody could have changed it.
    #[error("it has no check of its integrity, so that anybody who can write to the store could have changed it unseen")]
    Unchecked,
    /// More than [`OPENED_BYTES_MAX`].
    #[error("it has more than {OPENED_BYTES_MAX} bytes once it is opened")]
    TooLarge,
    /// A file of keys.
    #[error("{0}")]
    Keyring(String),
}

/// Whether a value looks sealed: nothing else that is written into stores starts like it.
#[must_use]
pub fn is_sealed(value: &[u8]) -> bool {
    let value = value.trim_ascii();
    if value.starts_with(b"-----BEGIN PGP MESSAGE-----") {
        return true;
    }
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=') || byte.is_ascii_whitespace();
    let Some(start) = value.get(..4).filter(|_| value.iter().all(is_base64)) else { return false };
    // Tags of packets that start a message, in both forms of their headers: a session key, or encrypted data without one.
    let tag = match STANDARD.decode(start).ok().and_then(|bytes| bytes.first().copied()) {
        Some(byte) if byte & 0xc0 == 0xc0 => byte & 0x3f,
        Some(byte) if byte & 0xc0 == 0x80 => (byte >> 2) & 0x0f,
        _ => return false,
    };
    matches!(tag, 1 | 3 | 9 | 18 | 20)
}

/// Secret keys that open values.
///
/// Not `Clone`, and never shown: the crates that hold the keys wipe them when they are dropped.
pub struct Keys {
    keys: Vec<SignedSecretKey>,
}

/// Says how many there are.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.keys.len())
    }
}

impl Keys {
    /// Reads a file of secret keys, armored or binary, as `gpg --export-secret-keys` writes it. With a passphrase, keys that have one
    /// are unlocked. Keys of kinds that are not known are left out, if there are others.
    ///
    /// # Errors
    /// [`SealError::Keyring`] when there is no key that can be used, or the passphrase is not theirs.
    pub fn parse(ring: &[u8], passphrase: Option<&[u8]>) -> Result<Self, SealError> {
        let mut keys: Vec<SignedSecretKey> = read_ring(ring, "secret", "gpg --export-secret-keys --armor KEY")?;
        let mut is_locked = false;
        let password = passphrase.map(Password::from);
        keys.retain_mut(|key| {
            let can_open = unlock(key, password.as_ref());
            is_locked |= !can_open;
            can_open
        });
        match (keys.is_empty(), is_locked, passphrase) {
            (false, ..) => Ok(Self { keys }),
            (true, false, _) => Err(SealError::Keyring("there is no key in it".into())),
            (true, true, None) => Err(SealError::Keyring("its keys have a passphrase, and none is given".into())),
            (true, true, Some(_)) => Err(SealError::Keyring("the passphrase is not that of its keys".into())),
        }
    }

    /// Whether a message names one of the keys. One that hides its recipients names none.
    fn is_named(&self, esk: &[Esk]) -> bool {
        let is_ours = |id| {
            let subkeys = |key: &SignedSecretKey| key.secret_subkeys.iter().any(|subkey| subkey.legacy_key_id() == id);
            self.keys.iter().any(|key| key.primary_key.legacy_key_id() == id || subkeys(key))
        };
        esk.iter().any(|esk| match esk {
            Esk::PublicKeyEncryptedSessionKey(key) => key.id().is_ok_and(|id| is_ours(*id)),
            Esk::SymKeyEncryptedSessionKey(_) => false,
        })
    }

    /// Opens a sealed value.
    ///
    /// # Errors
    /// [`SealError`], which tells a value that is not for these keys from one that was changed.
    pub fn open(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let packets = packets_of(sealed)?;
        let message = Message::from_bytes(packets.as_ref()).map_err(|error| SealError::NotSealed(error.to_string()))?;
        let Message::Encrypted { esk, edata, .. } = &message else {
            return Err(SealError::NotSealed("the message is not encrypted".into()));
        };
        if edata.tag() == pgp::types::Tag::SymEncryptedData {
            return Err(SealError::Unchecked);
        }
        let (recipients, is_ours) = (recipients(esk), self.is_named(esk));
        let ring = TheRing {
            secret_keys: self.keys.iter().collect(),
            decrypt_options: DecryptionOptions::new().enable_gnupg_aead(),
            ..TheRing::default()
        };
        // What goes wrong from here on may tell of what is inside.
        let mut message = match message.decrypt_the_ring(ring, true) {
            Ok((message, _)) => message,
            Err(pgp::errors::Error::MissingKey) if !is_ours => return Err(SealError::OtherKeys(recipients)),
            Err(_) => return Err(SealError::Damaged),
        };
        for _ in 0..LAYERS_MAX {
            if !message.is_compressed() {
                break;
            }
            message = message.decompress().map_err(|_| SealError::Damaged)?;
        }
        if !message.is_literal() && !message.is_signed() {
            return Err(SealError::Damaged);
        }
        let content = read_bounded(message)?;
        if content.starts_with(&[0x1f, 0x8b]) { read_bounded(MultiGzDecoder::new(content.as_slice())) } else { Ok(content) }
    }
}

/// Whether the key can open anything once its passphrase is taken off.
fn unlock(key: &mut SignedSecretKey, password: Option<&Password>) -> bool {
    let mut can_open = !key.primary_key.secret_params().is_encrypted();
    if let (false, Some(password)) = (can_open, password) {
        can_open = key.primary_key.remove_password(password).is_ok();
    }
    // Of a key whose primary part is kept elsewhere, the others may be here.
    for subkey in &mut key.secret_subkeys {
        let mut is_open = !subkey.key.secret_params().is_encrypted();
        if let (false, Some(password)) = (is_open, password) {
            is_open = subkey.key.remove_password(password).is_ok();
        }
        can_open |= is_open;
    }
    can_open
}

/// The message itself, without the text around it.
fn packets_of(sealed: &[u8]) -> Result<Cow<'_, [u8]>, SealError> {
    let text = sealed.trim_ascii();
    if text.starts_with(ARMOR.as_bytes()) {
        let mut packets = Vec::new();
        let mut dearmor = pgp::armor::Dearmor::new(text);
        dearmor.read_to_end(&mut packets).map_err(|error| SealError::NotSealed(error.to_string()))?;
        return Ok(packets.into());
    }
    let mut text = text.to_vec();
    text.retain(|byte| !byte.is_ascii_whitespace());
    STANDARD.decode(text).map(Cow::Owned).map_err(|error| SealError::NotSealed(error.to_string()))
}

fn read_bounded(from: impl Read) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let mut content = Zeroizing::new(Vec::new());
    from.take(OPENED_BYTES_MAX as u64 + 1).read_to_end(&mut content).map_err(|_| SealError::Damaged)?;
    if content.len() > OPENED_BYTES_MAX { Err(SealError::TooLarge) } else { Ok(content) }
}

/// The ids of the keys that a message is for.
fn recipients(esk: &[Esk]) -> String {
    let ids = esk.iter().map(|esk| match esk {
        Esk::PublicKeyEncryptedSessionKey(key) => match (key.id(), key.fingerprint()) {
            (Ok(id), _) => id.to_string(),
            (_, Ok(Some(fingerprint))) => fingerprint.to_string(),
            _ => "one that is not named".to_owned(),
        },
        Esk::SymKeyEncryptedSessionKey(_) => "a password".to_owned(),
    });
    let mut ids: Vec<String> = ids.take(RECIPIENTS_SHOWN_MAX + 1).collect();
    if ids.len() > RECIPIENTS_SHOWN_MAX {
        ids.truncate(RECIPIENTS_SHOWN_MAX);
        ids.push("…".into());
    }
    if ids.is_empty() { "none is named".into() } else { ids.join(", ") }
}

/// Public keys that values are sealed for: whoever has the secret key of any of them can open.
#[derive(Debug)]
pub struct Recipients {
    keys: Vec<Recipient>,
}

#[derive(Debug)]
enum Recipient {
    Primary(Box<SignedPublicKey>),
    Subkey(Box<SignedPublicSubKey>),
}

impl Recipients {
    /// Reads a file of public keys, armored or binary, as `gpg --export` writes it. Of each key the newest part that is for encryption,
    /// neither revoked nor expired at `now`, is used.
    ///
    /// # Errors
    /// [`SealError::Keyring`] when there is no key, or one that nothing can be sealed for: who is named must be able to open.
    pub fn parse(ring: &[u8], now: SystemTime) -> Result<Self, SealError> {
        let keys: Vec<SignedPublicKey> = read_ring(ring, "public", "gpg --export --armor KEY")?;
        let keys = keys.into_iter().map(|key| {
            let name = key.legacy_key_id().to_string();
            encryption_key(key, now).ok_or_else(|| {
                SealError::Keyring(format!("nothing can be sealed for the key {name}: it has no valid part that is for encryption"))
            })
        });
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() { Err(SealError::Keyring("there is no key in it".into())) } else { Ok(Self { keys }) }
    }

    /// Seals a value: one line of base64.
    ///
    /// # Errors
    /// [`SealError::TooLarge`], and [`SealError::Keyring`] when a key cannot be sealed for.
    pub fn seal(&self, value: &[u8]) -> Result<String, SealError> {
        if value.len() > OPENED_BYTES_MAX {
            return Err(SealError::TooLarge);
        }
        let failed = |error: &dyn fmt::Display| SealError::Keyring(format!("cannot seal for a key: {error}"));
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        let content = gzip.write_all(value).and_then(|()| gzip.finish()).map_err(|error| failed(&error))?;
        let mut builder = MessageBuilder::from_bytes("", content).seipd_v1(OsRng, SymmetricKeyAlgorithm::AES256);
        for key in &self.keys {
            let added = match key {
                Recipient::Primary(key) => builder.encrypt_to_key(OsRng, &key.primary_key),
                Recipient::Subkey(key) => builder.encrypt_to_key(OsRng, &**key),
            };
            added.map_err(|error| failed(&error))?;
        }
        let message = builder.to_vec(OsRng).map_err(|error| failed(&error))?;
        Ok(STANDARD.encode(message))
    }
}

/// The part of a key that is for encryption.
fn encryption_key(key: SignedPublicKey, now: SystemTime) -> Option<Recipient> {
    if !key.details.revocation_signatures.is_empty() {
        return None;
    }
    let of_users = || key.details.users.iter().flat_map(|user| &user.signatures).chain(&key.details.direct_signatures);
    let is_self_signed = key.details.verify_bindings(&key.primary_key).is_ok();
    if is_expired(&key.primary_key, newest(of_users()), now) || !is_self_signed {
        return None;
    }
    let subkeys = key.public_subkeys.iter().filter(|subkey| {
        let is_revoked = subkey.signatures.iter().any(|signature| signature.typ() == Some(SignatureType::SubkeyRevocation));
        let binding = newest(subkey.signatures.iter());
        subkey.key.algorithm().can_encrypt()
            && binding.is_some_and(is_for_encryption)
            && !is_revoked
            && !is_expired(&subkey.key, binding, now)
            && subkey.verify_bindings(&key.primary_key).is_ok()
    });
    if let Some(subkey) = subkeys.max_by_key(|subkey| SystemTime::from(subkey.key.created_at())) {
        return Some(Recipient::Subkey(Box::new(subkey.clone())));
    }
    let can_encrypt = key.primary_key.algorithm().can_encrypt() && newest(of_users()).is_some_and(is_for_encryption);
    can_encrypt.then(|| Recipient::Primary(Box::new(key)))
}

fn newest<'a>(signatures: impl Iterator<Item = &'a Signature>) -> Option<&'a Signature> {
    signatures.max_by_key(|signature| signature.created().map(SystemTime::from))
}

/// A key whose signature does not say what it is for is for everything.
fn is_for_encryption(signature: &Signature) -> bool {
    let flags = signature.key_flags();
    flags.encrypt_comms() || flags.encrypt_storage() || !(flags.sign() || flags.certify() || flags.authentication())
}

fn is_expired(key: &impl KeyDetails, binding: Option<&Signature>, now: SystemTime) -> bool {
    let lifetime = binding.and_then(Signature::key_expiration_time).map(std::time::Duration::from).filter(|lifetime| !lifetime.is_zero());
    lifetime.is_some_and(|lifetime| SystemTime::from(key.created_at()) + lifetime <= now)
}

/// The keys of a file: binary, or any number of armored blocks. Those of kinds that are not known are left out, if there are others.
fn read_ring<T: Deserializable>(ring: &[u8], kind: &str, recipe: &str) -> Result<Vec<T>, SealError> {
    if ring.len() > KEYRING_BYTES_MAX {
        return Err(SealError::Keyring(format!("a file of keys has at most {KEYRING_BYTES_MAX} bytes, this one has {}", ring.len())));
    }
    let mut keys = Vec::new();
    let mut failure = None;
    for block in blocks(ring) {
        match T::from_reader_many_buf(block) {
            Ok((found, _)) => {
                for key in found {
                    match key {
                        Ok(key) => keys.push(key),
                        Err(error) => failure = Some(error.to_string()),
                    }
                }
            }
            Err(error) => failure = Some(error.to_string()),
        }
    }
    match failure {
        None if keys.is_empty() => Err(SealError::Keyring(format!("there is no {kind} key in it: `{recipe}` writes one"))),
        Some(error) if keys.is_empty() => {
            Err(SealError::Keyring(format!("it is no file of {kind} keys, such as `{recipe}` writes: {error}")))
        }
        _ => Ok(keys),
    }
}

/// The armored blocks of a file; the whole file if there is none.
fn blocks(ring: &[u8]) -> Vec<&[u8]> {
    let Some(text) = str::from_utf8(ring).ok().filter(|text| text.contains(ARMOR)) else { return vec![ring] };
    let starts: Vec<usize> = text.match_indices(ARMOR).map(|(at, _)| at).collect();
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts.iter().zip(ends).filter_map(|(start, end)| ring.get(*start..end)).collect()
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// A new public key, and the secret one.
    pub(in super::super) fn pair() -> (Vec<u8>, Keys) {
        let key = super::tests::key(None);
        (super::tests::public(&key), super::tests::keys(&key))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pgp::composed::{ArmorOptions, EncryptionCaps, KeyType, SecretKeyParamsBuilder, SubkeyParamsBuilder};
    use pgp::crypto::ecc_curve::ECCCurve;
    use pgp::ser::Serialize;

    use super::*;

    /// A key such as `gpg --quick-generate-key NAME ed25519` makes, by default, with a part for encryption.
    pub(super) fn key(passphrase: Option<&str>) -> SignedSecretKey {
        let mut subkey = SubkeyParamsBuilder::default();
        subkey.key_type(KeyType::ECDH(ECCCurve::Curve25519Legacy)).can_encrypt(EncryptionCaps::All);
        subkey.passphrase(passphrase.map(Into::into));
        let mut params = SecretKeyParamsBuilder::default();
        params.key_type(KeyType::Ed25519Legacy).can_sign(true).primary_user_id("a <a@b.test>".into());
        params.passphrase(passphrase.map(Into::into)).subkey(subkey.build().unwrap());
        params.build().unwrap().generate(OsRng).unwrap()
    }

    fn secret(key: &SignedSecretKey) -> Vec<u8> {
        key.to_armored_bytes(ArmorOptions::default()).unwrap()
    }

    pub(super) fn public(key: &SignedSecretKey) -> Vec<u8> {
        key.to_public_key().to_armored_bytes(ArmorOptions::default()).unwrap()
    }

    pub(super) fn keys(key: &SignedSecretKey) -> Keys {
        Keys::parse(&secret(key), None).unwrap()
    }

    fn sealed_for(key: &SignedSecretKey, value: &[u8]) -> String {
        Recipients::parse(&public(key), SystemTime::now()).unwrap().seal(value).unwrap()
    }

    #[test]
    fn what_is_sealed_for_a_key_is_opened_by_it_alone() {
        let (ours, other) = (key(None), key(None));
        let sealed = sealed_for(&ours, b"10.0.0.1:80");
        assert!(is_sealed(sealed.as_bytes()) && !sealed.contains('\n'));
        assert_eq!(*keys(&ours).open(sealed.as_bytes()).unwrap(), b"10.0.0.1:80");
        let lines = sealed.as_bytes().chunks(64).collect::<Vec<_>>().join(&b"\r\n"[..]);
        assert!(is_sealed(&lines));
        assert_eq!(*keys(&ours).open(&lines).unwrap(), b"10.0.0.1:80");
        let refused = keys(&other).open(sealed.as_bytes()).unwrap_err();
        let id = ours.secret_subkeys[0].legacy_key_id().to_string();
        assert_eq!(refused, SealError::OtherKeys(id));
    }

    #[test]
    fn a_ring_of_several_keys_seals_for_all_of_them() {
        let (one, two) = (key(None), key(None));
        let ring = [public(&one), public(&two)].concat();
        let sealed = Recipients::parse(&ring, SystemTime::now()).unwrap().seal(b"x").unwrap();
        for key in [&one, &two] {
            assert_eq!(*keys(key).open(sealed.as_bytes()).unwrap(), b"x");
        }
        let both = Keys::parse(&[secret(&one), b"\n".to_vec(), secret(&two)].concat(), None).unwrap();
        assert_eq!(format!("{both:?}"), "Keys(2)");
        assert_eq!(*both.open(sealed_for(&two, b"y").as_bytes()).unwrap(), b"y");
        assert!(Keys::parse(&two.to_bytes().unwrap(), None).is_ok(), "a binary ring");
    }

    #[test]
    fn keys_with_a_passphrase_need_it() {
        let locked = key(Some("geheim"));
        let ring = secret(&locked);
        assert!(Keys::parse(&ring, None).unwrap_err().to_string().contains("none is given"));
        let refused = Keys::parse(&ring, Some(b"falsch")).unwrap_err().to_string();
        assert!(refused.contains("the passphrase is not") && !refused.contains("falsch"));
        let keys = Keys::parse(&ring, Some(b"geheim")).unwrap();
        assert_eq!(*keys.open(sealed_for(&locked, b"x").as_bytes()).unwrap(), b"x");
    }

    #[test]
    fn what_was_changed_is_not_opened_as_something_else() {
        let key = key(None);
        let message = STANDARD.decode(sealed_for(&key, &[b'x'; 300])).unwrap();
        let keys = keys(&key);
        for at in (0..message.len()).step_by(7) {
            let mut changed = message.clone();
            changed[at] ^= 0x10;
            // A byte that means nothing may change, the value may not.
            let opened = keys.open(STANDARD.encode(changed).as_bytes());
            assert!(opened.is_err() || opened.is_ok_and(|value| *value == [b'x'; 300]), "byte {at}");
        }
        for length in (0..message.len()).step_by(7) {
            assert!(keys.open(STANDARD.encode(&message[..length]).as_bytes()).is_err(), "{length} bytes");
        }
        let end = message.len();
        let last = [&message[..end - 1], &[message[end - 1] ^ 1]].concat();
        assert_eq!(keys.open(STANDARD.encode(last).as_bytes()), Err(SealError::Damaged));
    }

    #[test]
    fn a_message_without_a_check_of_its_integrity_is_refused() {
        let key = key(None);
        let message = STANDARD.decode(sealed_for(&key, b"x")).unwrap();
        // The second packet, tag 18, becomes tag 9.
        let second = 2 + usize::from(message[1]);
        assert_eq!((message[0], message[second]), (0xc1, 0xd2));
        let mut unchecked = message.clone();
        unchecked[second] = 0xc9;
        assert_eq!(keys(&key).open(STANDARD.encode(unchecked).as_bytes()), Err(SealError::Unchecked));
    }

    #[test]
    fn a_bomb_is_not_blown_up() {
        let key = key(None);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(&vec![0; OPENED_BYTES_MAX + 1]).unwrap();
        let mut message = MessageBuilder::from_bytes("", gzip.finish().unwrap()).seipd_v1(OsRng, SymmetricKeyAlgorithm::AES128);
        message.encrypt_to_key(OsRng, &key.to_public_key().public_subkeys[0]).unwrap();
        let sealed = STANDARD.encode(message.to_vec(OsRng).unwrap());
        assert!(sealed.len() < 10_000);
        assert_eq!(keys(&key).open(sealed.as_bytes()), Err(SealError::TooLarge));
        let recipients = Recipients::parse(&public(&key), SystemTime::now()).unwrap();
        assert_eq!(recipients.seal(&vec![0; OPENED_BYTES_MAX + 1]), Err(SealError::TooLarge));
        let largest = recipients.seal(&vec![0; OPENED_BYTES_MAX]).unwrap();
        assert_eq!(keys(&key).open(largest.as_bytes()).unwrap().len(), OPENED_BYTES_MAX);
    }

    #[test]
    fn what_stores_hold_otherwise_does_not_look_sealed() {
        for value in [
            "",
            "10.0.0.1:80",
            "web",
            "true",
            "hQEMA-x",
            "hQEM",
            r#"{"address":"10.0.0.1:80"}"#,
            "http://10.0.0.1",
            "-----BEGIN CERTIFICATE-----",
            "AAAA",
        ] {
            // Four letters that are a packet's first bytes are taken for one: no value of any layout is a word alone.
            assert_eq!(is_sealed(value.as_bytes()), value == "hQEM", "{value}");
        }
        assert!(is_sealed(b"\n-----BEGIN PGP MESSAGE-----\n\nhQEM"));
        assert!(!is_sealed(&[0x85, 0x01, 0x0c, 0x03]));
    }

    #[test]
    fn what_is_no_ring_says_so() {
        let parse = |ring: &[u8]| Keys::parse(ring, None).unwrap_err().to_string();
        assert!(parse(b"").contains("gpg --export-secret-keys"), "{}", parse(b""));
        assert!(parse(b"hello").contains("gpg --export-secret-keys"));
        assert!(parse(&public(&key(None))).contains("gpg --export-secret-keys"));
        assert!(parse(&vec![0; KEYRING_BYTES_MAX + 1]).contains("at most"));
        let recipients = |ring: &[u8], now| Recipients::parse(ring, now).unwrap_err().to_string();
        assert!(recipients(&secret(&key(None)), SystemTime::now()).contains("gpg --export"));
        let signer = {
            let mut params = SecretKeyParamsBuilder::default();
            params.key_type(KeyType::Ed25519Legacy).can_sign(true).primary_user_id("a".into());
            params.build().unwrap().generate(OsRng).unwrap()
        };
        assert!(recipients(&public(&signer), SystemTime::now() + Duration::from_secs(1)).contains("for encryption"));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
        #[test]
        fn any_bytes_are_opened_or_refused(value: Vec<u8>) {
            let key = key(None);
            let keys = keys(&key);
            let _ = keys.open(&value);
            let _ = keys.open(STANDARD.encode(&value).as_bytes());
            proptest::prop_assert!(Keys::parse(&value, None).is_err());
            let sealed = sealed_for(&key, &value);
            proptest::prop_assert_eq!(&*keys.open(sealed.as_bytes()).unwrap(), &value);
        }
    }
}
