//! Who asks, for the cluster's record.

use std::env;
use std::fs;

/// Where Linux tells the machine's name.
const HOSTNAME: &str = "/proc/sys/kernel/hostname";

/// Returns `user@machine` as far as that is known: for people, and no proof of anything.
#[must_use]
pub(crate) fn asker() -> String {
    let named = |key: &str| env::var(key).ok().filter(|name| !name.trim().is_empty());
    // Whoever became root did not cease to be somebody.
    let user = named("SUDO_USER").or_else(|| named("USER")).or_else(|| named("LOGNAME"));
    let user = user.unwrap_or_else(|| "somebody".to_owned());
    match fs::read_to_string(HOSTNAME) {
        Ok(machine) if !machine.trim().is_empty() => format!("{user}@{}", machine.trim()),
        Ok(_) | Err(_) => user,
    }
}
