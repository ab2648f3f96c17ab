//! Takes secrets out of texts that are given to people outside: logs, settings, SQL.
//!
//! Two nets, one behind the other. Secrets that are known are replaced wherever they stand, in every way in
//! which they may be written. What looks like a secret is replaced by its surroundings: the value of whatever is
//! called a password, private keys, what a server stores of a password, passwords in URLs. Where the end of a
//! value is in doubt, too much is removed rather than too little.

mod value;

use std::collections::BTreeSet;

/// What stands where a secret stood.
pub const REMOVED: &str = "[removed]";

/// Shorter secrets are in too many places that have nothing to do with them, and protect nothing.
pub const KNOWN_LEAST: usize = 4;

/// Parts of names whose values are secret.
const SECRET_PARTS: [&str; 15] = [
    "password",
    "passwd",
    "passphrase",
    "passfile",
    "pgpass",
    "pwd",
    "secret",
    "credential",
    "apikey",
    "api_key",
    "api-key",
    "private_key",
    "privatekey",
    "access_key",
    "accesskey",
];
/// Whole names, or their last words.
const SECRET_WORDS: [&str; 4] = ["pass", "token", "authorization", "pw"];
/// Names that say how passwords are kept, and tell none.
const HARMLESS: [&str; 1] = ["password_encryption"];
/// The longest private key that is looked for the end of.
const KEY_BYTES_MAX: usize = 64 << 10;

/// So many secrets within secrets are nothing that anybody wrote: the rest of the text is removed.
const NESTED_MAX: usize = 200;

/// Takes secrets out of texts.
#[derive(Clone, Default)]
pub struct Redactor {
    /// Known secrets as they may be written, the longest first.
    known: Vec<String>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redactor of {} texts", self.known.len())
    }
}

impl Redactor {
    /// Returns one that also knows these secrets. Those shorter than [`KNOWN_LEAST`] bytes are ignored.
    pub fn knowing<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let long = secrets.into_iter().filter(|secret| secret.len() >= KNOWN_LEAST);
        let all: BTreeSet<String> = long.flat_map(spellings).collect();
        let mut known: Vec<String> = all.into_iter().collect();
        known.sort_by_key(|text| std::cmp::Reverse(text.len()));
        Self { known }
    }

    /// Returns the text without secrets. Names and whatever else says that there was one stay.
    #[must_use]
    pub fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.known {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), REMOVED);
            }
        }
        by_surroundings(&text)
    }
}

/// Returns whether the value of something of that name is secret.
#[must_use]
pub fn names_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    if HARMLESS.contains(&name.as_str()) {
        return false;
    }
    let last = name.rsplit(['_', '-', '.']).next().unwrap_or_default();
    SECRET_PARTS.iter().any(|part| name.contains(part)) || SECRET_WORDS.contains(&last)
}

/// Returns the ways in which a secret may be written: in SQL, in a connection string, in JSON or as Rust shows
/// it, in a URL.
fn spellings(secret: &str) -> Vec<String> {
    let escaped = |text: &str| text.replace('\\', r"\\").replace('"', "\\\"");
    let sql = secret.replace('\'', "''");
    let connection = secret.replace('\\', r"\\").replace('\'', r"\'");
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    let url: String = secret
        .bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect();
    let lower = url.to_lowercase();
    let mut all = vec![escaped(secret), escaped(&sql), escaped(&connection), sql, connection];
    if lower != secret.to_lowercase() {
        all.push(lower);
    }
    all.extend([url, secret.to_owned()]);
    all
}

fn by_surroundings(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut copied = 0;
    for (start, end) in secrets(text) {
        out.push_str(text.get(copied..start).unwrap_or_default());
        out.push_str(REMOVED);
        copied = end;
    }
    out.push_str(text.get(copied..).unwrap_or_default());
    out
}

/// Returns where secrets stand, in order, apart from each other.
fn secrets(text: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let (mut at, mut reach, mut nested) = (0, 0, 0);
    let mut anonymous = 0;
    while at < text.len() {
        // On within what is a secret: a quote that was never closed must not hide where the next one begins.
        let (secret, next) = look(text, at, &mut anonymous);
        if let Some((start, end)) = secret.filter(|(start, end)| end > start) {
            nested = if start < reach { nested + 1 } else { 0 };
            reach = reach.max(end);
            if nested > NESTED_MAX {
                found.push((start, text.len()));
                break;
            }
            found.push((start, end));
        }
        at = next;
    }
    found.sort_unstable();
    let mut apart: Vec<(usize, usize)> = Vec::new();
    for (start, end) in found {
        match apart.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            Some(_) | None => apart.push((start, end)),
        }
    }
    apart
}

/// Looks at what begins at `at`. Returns the secret that it tells, and where to go on otherwise.
///
/// Up to `anonymous` no URL names a user: what was looked through for one URL is not looked through again for
/// each that follows without a gap.
fn look(text: &str, at: usize, anonymous: &mut usize) -> (Option<(usize, usize)>, usize) {
    let bytes = text.as_bytes();
    if bytes.get(at..).is_some_and(|rest| rest.starts_with(b"://")) {
        let start = at + 3;
        if start <= *anonymous {
            return (None, start);
        }
        let found = user_information(text, start);
        if found.is_none() {
            *anonymous = start + run(text, start).len();
        }
        return (found, start);
    }
    if bytes.get(at..).is_some_and(|rest| rest.starts_with(b"-----BEGIN ")) {
        return (private_key(text, at), at + 11);
    }
    if !bytes.get(at).is_some_and(|b| is_word(*b)) {
        return (None, at + 1);
    }
    let end = at + bytes.iter().skip(at).take_while(|b| is_word(**b)).count();
    let word = text.get(at..end).unwrap_or_default();
    let found = stored(text, at, end)
        .or_else(|| bearer(text, word, end))
        .or_else(|| if names_secret(word) { value::after(text, word, end) } else { None });
    (found, end)
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')
}

/// Finds what a server stores of a password, or an access key of a cloud, in a word.
///
/// # Sources
/// PostgreSQL manual, `pg_authid`: `SCRAM-SHA-256$<iteration count>:<salt>$<StoredKey>:<ServerKey>`, and "md5"
/// before 32 hexadecimal digits.
fn stored(text: &str, at: usize, end: usize) -> Option<(usize, usize)> {
    let word = text.get(at..end)?;
    let upper = word.to_ascii_uppercase();
    let bytes = text.as_bytes();
    if upper.ends_with("SCRAM-SHA-256") && bytes.get(end) == Some(&b'$') {
        let part = |b: &&u8| b.is_ascii_alphanumeric() || b"+/=:$".contains(b);
        return Some((end, end + bytes.iter().skip(end).take_while(part).count()));
    }
    let digits = |rest: &str| rest.bytes().take_while(u8::is_ascii_hexdigit).count() >= 32;
    let md5 = upper.match_indices("MD5").any(|(at, _)| upper.get(at + 3..).is_some_and(digits));
    let cloud = word.len() == 20 && (word.starts_with("AKIA") || word.starts_with("ASIA"));
    (md5 || cloud).then_some((at, end))
}

/// Finds what follows the word "bearer" in a header.
fn bearer(text: &str, word: &str, end: usize) -> Option<(usize, usize)> {
    if !word.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let rest = text.get(end..)?;
    let start = end + (rest.len() - rest.trim_start_matches([' ', '\t']).len());
    let token = text.get(start..)?.split(char::is_whitespace).next()?;
    (start > end).then_some((start, start + token.len()))
}

/// Returns what stands there up to the next white space.
fn run(text: &str, start: usize) -> &str {
    let rest = text.get(start..).unwrap_or_default();
    rest.split(char::is_whitespace).next().unwrap_or_default()
}

/// Finds user and password of a URL: what stands before its last `@`. A user with a password stays.
fn user_information(text: &str, start: usize) -> Option<(usize, usize)> {
    let run = run(text, start);
    let end = run.rfind('@')?;
    let from = run.get(..end)?.find(':').map_or(0, |colon| colon + 1);
    Some((start + from, start + end))
}

/// Finds a private key in PEM, with its frame.
fn private_key(text: &str, at: usize) -> Option<(usize, usize)> {
    let rest = text.get(at..)?;
    let rest = rest.get(..value::up_to(rest, KEY_BYTES_MAX))?;
    let label = rest.get(11..)?.split("-----").next()?;
    if !label.contains("PRIVATE KEY") {
        return None;
    }
    let after = 11 + label.len();
    let closing = rest.get(after..)?.find("-----END").map(|found| after + found + 8);
    let end = closing.and_then(|from| Some(from + rest.get(from..)?.find("-----")? + 5));
    Some((at, at + end.unwrap_or(rest.len())))
}

#[cfg(test)]
mod tests;
