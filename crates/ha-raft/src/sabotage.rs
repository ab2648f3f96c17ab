//! Switches that take one safety away, so that a test suite can be seen to fail without it.
//!
//! They are there only in a build with the feature `sabotage`, which no release has; `docs/fuzzing.md` and
//! `cargo xtask verify` say more. [`VARIABLE`] in the environment names the one that is on.

use std::sync::OnceLock;

/// Environment variable with the name of the safety that is missing.
pub const VARIABLE: &str = "HACLT_SABOTAGE";

/// All names, of the agent's switches and of the guard's.
pub const NAMES: [&str; 6] = [
    "guard-off",
    "deadline-from-answer",
    "revoke-skipped",
    "quorum-not-recorded",
    "fsync-skipped",
    "old-primary-not-compared",
];

/// Returns whether the safety of that name is missing.
#[must_use]
pub fn is(name: &str) -> bool {
    debug_assert!(NAMES.contains(&name), "{name} is no switch");
    named() == Some(name)
}

/// Returns which safety is missing, if one is.
///
/// # Panics
/// If a name is none of [`NAMES`]: a slip would look like a suite that found nothing.
#[must_use]
pub fn named() -> Option<&'static str> {
    static NAMED: OnceLock<Option<&'static str>> = OnceLock::new();
    *NAMED.get_or_init(|| {
        let text = std::env::var_os(VARIABLE)?;
        let known = NAMES.into_iter().find(|name| text == *name);
        let is_slip = known.is_none() && !text.is_empty();
        assert!(!is_slip, "{VARIABLE} is {}: known are {NAMES:?}", text.display());
        known
    })
}
