//! Which crate may depend on which (`STYLE.md`, "Rooms and doors").

use std::fmt;

use serde_json::Value;

use crate::failure::{Doing as _, Failure, Outcome};
use crate::{note, paths};

/// Edges inside the workspace that are allowed. A crate that is not listed may depend on none.
const ALLOWED: [(&str, &[&str]); 9] = [
    ("ha-core", &[]),
    ("ha-guard", &["ha-core"]),
    ("ha-proto", &["ha-core"]),
    ("ha-postgres", &["ha-core"]),
    ("ha-sim", &["ha-core"]),
    ("ha-raft", &["ha-proto", "ha-core"]),
    ("haclt", &["ha-proto", "ha-core"]),
    ("ha-agent", &["ha-raft", "ha-postgres", "ha-proto", "ha-core"]),
    ("xtask", &[]),
];

/// Crates that may depend on any other, as they test them.
const FREE: [&str; 2] = ["ha-tests", "jepsen"];

/// Crates whose other dependencies are counted too (build and development aside): the pure heart
/// stays pure, and the guard stays small and without an async runtime.
const CLOSED: [(&str, &[&str]); 2] = [
    ("ha-core", &["serde", "thiserror"]),
    ("ha-guard", &["libc", "rustix", "signal-hook", "thiserror", "thread-priority"]),
];

/// A dependency that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refused {
    from: String,
    to: String,
    why: &'static str,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} must not depend on {}: {}", self.from, self.to, self.why)
    }
}

/// Checks the workspace.
pub(crate) fn deps() -> Outcome<()> {
    let refused = refused(&paths::metadata()?)?;
    for edge in &refused {
        note!("deps: {edge}");
    }
    if refused.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("{} dependencies are not allowed", refused.len())).hint(
        "STYLE.md §1 draws the allowed ones; crates/xtask/src/deps.rs holds them as a table.",
    ))
}

fn refused(metadata: &Value) -> Outcome<Vec<Refused>> {
    let packages = metadata["packages"]
        .as_array()
        .doing(|| "`cargo metadata` lists no packages".to_owned())?;
    let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
    let ours: Vec<String> = packages.iter().map(name).collect();
    let mut found = Vec::new();
    for package in packages {
        let from = name(package);
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = name(dependency);
            let is_normal = dependency["kind"].is_null();
            if let Some(why) = refusal(&from, &to, ours.contains(&to), is_normal) {
                found.push(Refused { from: from.clone(), to, why });
            }
        }
    }
    Ok(found)
}

fn refusal(from: &str, to: &str, is_ours: bool, is_normal: bool) -> Option<&'static str> {
    let entry = |table: &[(&str, &'static [&'static str])]| {
        table.iter().find(|(name, _)| *name == from).map(|(_, list)| *list)
    };
    if is_ours {
        let allowed =
            FREE.contains(&from) || entry(&ALLOWED).is_some_and(|list| list.contains(&to));
        return (!allowed).then_some("not an edge of the drawing");
    }
    let closed = entry(&CLOSED)?;
    (is_normal && !closed.contains(&to)).then_some("its outside dependencies are counted")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_edges_of_the_drawing_pass() {
        #[rustfmt::skip]
        let table = [
            // from         to            ours   normal passes
            ("ha-agent",    "ha-raft",    true,  true,  true),
            ("ha-raft",     "ha-postgres",true,  true,  false),
            ("ha-raft",     "ha-postgres",true,  false, false),
            ("haclt",       "ha-agent",   true,  true,  false),
            ("ha-guard",    "ha-core",    true,  true,  true),
            ("ha-guard",    "tokio",      false, true,  false),
            ("ha-guard",    "tempfile",   false, false, true),
            ("ha-core",     "rand",       false, true,  false),
            ("ha-agent",    "ha-sim",     true,  true,  false),
            ("ha-tests",    "ha-sim",     true,  true,  true),
            ("newcomer",    "ha-core",    true,  true,  false),
            ("newcomer",    "tokio",      false, true,  true),
        ];
        for (from, to, is_ours, is_normal, passes) in table {
            assert_eq!(refusal(from, to, is_ours, is_normal).is_none(), passes, "{from} → {to}");
        }
    }

    #[test]
    fn edges_are_read_from_what_cargo_says() {
        let metadata = json!({ "packages": [
            { "name": "ha-core", "dependencies": [{ "name": "serde", "kind": null }] },
            { "name": "ha-raft", "dependencies": [{ "name": "ha-guard", "kind": "dev" },
                                                  { "name": "ha-core", "kind": null }] },
            { "name": "ha-guard", "dependencies": [] },
        ]});
        let lines: Vec<String> =
            refused(&metadata).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["ha-raft must not depend on ha-guard: not an edge of the drawing"]);
    }
}
