//! The internal users and their passwords' files, for people.

use std::fmt::Write as _;

use crate::render::grid::grid;
use crate::reply::credentials::CredentialEntry;

const COLUMNS: [&str; 8] = ["USER", "FOR", "NODE", "FILE", "AGE", "NEXT", "SERVER", "AGREES"];
const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Returns a line for each user and node, then what is not known, and why.
#[must_use]
pub fn credentials(entries: &[CredentialEntry]) -> String {
    let dash = || "-".to_owned();
    let rows: Vec<_> = entries
        .iter()
        .map(|entry| {
            let server = if entry.takes == "none" { dash() } else { entry.takes.clone() };
            [
                entry.user.clone(),
                entry.purpose.clone(),
                entry.node.to_string(),
                entry.file.clone().unwrap_or_else(dash),
                entry.age_s.map_or_else(dash, age),
                if entry.half_way { "waits" } else { "-" }.to_owned(),
                server,
                entry.agrees.clone(),
            ]
        })
        .collect();
    let mut text = grid(COLUMNS, &[4], &rows);
    for entry in entries {
        if let Some(trouble) = &entry.trouble {
            let CredentialEntry { user, node, .. } = entry;
            writeln!(text, "{user} on {node}: {trouble}").expect("writing to a String cannot fail");
        }
    }
    text
}

/// In the largest unit of which there are at least two.
fn age(seconds: u64) -> String {
    let units = [(DAY, "d"), (HOUR, "h"), (MINUTE, "min")];
    match units.into_iter().find(|(unit, _)| seconds >= 2 * unit) {
        Some((unit, name)) => format!("{} {name}", seconds / unit),
        None => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_told_in_the_unit_that_says_most() {
        let told = [0, 119, 120, 2 * HOUR - 1, 2 * HOUR, 2 * DAY - 1, 400 * DAY].map(age);
        assert_eq!(told, ["0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "400 d"]);
    }
}
