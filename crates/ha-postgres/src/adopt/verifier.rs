//! Whether a password is the one that a role has, by what the server stores of it.
//!
//! # Sources
//! PostgreSQL manual, "`pg_authid`", `rolpassword`; RFC 5802, "SCRAM Algorithm Overview".

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use crate::instance::Role;

/// More than any server is set to: a hostile one must not keep us busy.
const ITERATIONS_MAX: u32 = 10_000_000;

/// What a role's stored password is, beside the one that we have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// There is none.
    Nothing,
    /// The same one, for SCRAM-SHA-256.
    Same,
    /// The same one, as an MD5 hash: it cannot be used with SCRAM.
    SameByMd5,
    /// Another one.
    Other,
}

/// Compares what the server stores with a role's password.
pub(crate) fn compare(stored: Option<&str>, role: &Role) -> Stored {
    let Some(stored) = stored else { return Stored::Nothing };
    let password = role.password.preferred();
    let password = password.expose().as_bytes();
    if stored.starts_with("md5") {
        let same = postgres_protocol::password::md5(password, &role.name) == stored;
        return if same { Stored::SameByMd5 } else { Stored::Other };
    }
    if by_scram(stored, password) == Some(true) { Stored::Same } else { Stored::Other }
}

/// Reads `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
fn by_scram(stored: &str, password: &[u8]) -> Option<bool> {
    let (parameters, keys) = stored.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
    let (iterations, salt) = parameters.split_once(':')?;
    let (stored_key, _) = keys.split_once(':')?;
    let iterations =
        iterations.parse().ok().filter(|count| (1..=ITERATIONS_MAX).contains(count))?;
    let salted = salted(password, &BASE64_STANDARD.decode(salt).ok()?, iterations);
    let key = Sha256::digest(keyed(&salted, &[b"Client Key"]));
    Some(BASE64_STANDARD.encode(key) == stored_key)
}

/// Returns `Hi()` of the RFC: PBKDF2 with one block.
pub(crate) fn salted(password: &[u8], salt: &[u8], iterations: u32) -> [u8; 32] {
    let mut last = keyed(password, &[salt, &1_u32.to_be_bytes()]);
    let mut sum = last;
    for _ in 1..iterations {
        last = keyed(password, &[&last]);
        sum.iter_mut().zip(last).for_each(|(sum, byte)| *sum ^= byte);
    }
    sum
}

/// Returns HMAC-SHA-256 over the parts, one after the other.
pub(crate) fn keyed(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut hmac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in parts {
        hmac.update(part);
    }
    hmac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Secret;

    #[test]
    fn a_password_is_known_by_what_the_server_stores() {
        let role = |word: &str| Role { name: "app".to_owned(), password: Secret::new(word).into() };
        let scram = postgres_protocol::password::scram_sha_256(b"right");
        let md5 = postgres_protocol::password::md5(b"right", "app");
        let table = [
            (None, "right", Stored::Nothing),
            (Some(scram.as_str()), "right", Stored::Same),
            (Some(scram.as_str()), "wrong", Stored::Other),
            (Some(md5.as_str()), "right", Stored::SameByMd5),
            (Some(md5.as_str()), "wrong", Stored::Other),
            (Some("SCRAM-SHA-256$4294967295:c2FsdA==$x:y"), "right", Stored::Other),
            (Some("SCRAM-SHA-256$4096:?$x:y"), "right", Stored::Other),
            (Some(""), "right", Stored::Other),
        ];
        for (stored, word, expected) in table {
            assert_eq!(compare(stored, &role(word)), expected, "{stored:?} {word}");
        }
    }
}
