//! One word per thing: the words that are not to be used, and where they are all the same.

/// What is not said, and what is said instead. Only words that have no honest other use here:
/// "lock", "delay", "position" or "kill" have one, and are left to the reviewer.
const UNWANTED: [(&str, &str); 8] = [
    ("arbiter", "witness"),
    ("master", "primary"),
    ("slave", "standby"),
    ("slaves", "standbys"),
    ("replica", "standby"),
    ("replicas", "standbys"),
    ("handover", "switchover"),
    ("isolated", "fenced"),
];

/// Where a word stands for something of others, and why that is right.
const ALLOWED: [(&str, &str, &str); 7] = [
    // path, word, reason
    ("crates/ha-agent/src/rest", "replica", "names of Patroni's REST interface"),
    ("crates/ha-postgres/src/instance/settings", "replica", "a value of PostgreSQL's `wal_level`"),
    ("crates/ha-postgres/src/adopt/", "replica", "a value of PostgreSQL's `wal_level`"),
    ("crates/ha-agent/src/config/tests.rs", "arbiter", "a kind of node that is refused"),
    ("tests/tests/bad_input.rs", "arbiter", "a kind of node that is refused"),
    ("crates/xtask/src/bench/world.rs", "master", "a word of `ip link`"),
    ("jepsen/src/env/world.rs", "master", "a word of `ip link`"),
];

/// Returns the unwanted words of a line, each with the wanted one.
pub(crate) fn unwanted(path: &str, line: &str) -> Vec<(&'static str, &'static str)> {
    let words = split(line);
    UNWANTED
        .into_iter()
        .filter(|(word, _)| words.iter().any(|w| w == word))
        .filter(|(word, _)| {
            !ALLOWED.iter().any(|(place, allowed, _)| path.starts_with(place) && allowed == word)
        })
        .collect()
}

/// Splits a line into lower-case words; `snake_case` and `CamelCase` are several.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut previous_lower = false;
    for letter in line.chars() {
        let starts_new = letter.is_uppercase() && previous_lower;
        if !letter.is_alphabetic() || starts_new {
            words.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
        }
        if letter.is_alphabetic() {
            word.extend(letter.to_lowercase());
        }
        previous_lower = letter.is_lowercase();
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_into_words() {
        assert_eq!(split("ReadReplica of_master"), ["read", "replica", "of", "master"]);
    }

    #[test]
    fn unwanted_words_are_found_whole_only() {
        let found = |line: &str| unwanted("crates/a/src/b.rs", line);
        assert_eq!(found("let new_master = 1;"), [("master", "primary")]);
        assert_eq!(found("the postmaster, replication, mastery"), []);
        assert_eq!(unwanted("crates/ha-agent/src/rest.rs", "GET /replica"), []);
    }
}
