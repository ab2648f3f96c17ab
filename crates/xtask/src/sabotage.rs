//! The feature `sabotage` takes safeties away, for the fault suite to be seen to fail: it must be in nothing that
//! anybody runs by accident.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::failure::{Doing as _, Failure, Outcome};
use crate::{binaries, exec, note, paths};

const FEATURE: &str = "sabotage";
/// Those that have it.
const PACKAGES: [&str; 4] = ["ha-raft", "ha-guard", "ha-agent", "ha-postgres"];
/// Only code behind the feature holds this.
const MARK: &[u8] = b"HACLT_SABOTAGE";
/// Where programs are built for people: no word of the feature may stand there, nor may all features be asked for.
const RECIPES: [&str; 4] = ["deploy", "Makefile", ".ci", ".cargo"];

/// Checks that no build has the feature unless it is asked for by name, and that what has it passes the lints.
pub(crate) fn check() -> Outcome<()> {
    let mut found = asked_for(&paths::metadata()?)?;
    for name in RECIPES {
        recipes(&paths::workspace().join(name), &mut found)?;
    }
    for program in programs()? {
        let bytes = fs::read(&program).doing(|| format!("could not read {}", program.display()))?;
        if holds(&bytes) {
            found.push(format!("{} has it", program.display()));
        }
    }
    for what in &found {
        note!("{FEATURE}: {what}");
    }
    if !found.is_empty() {
        return Err(Failure::new(format!("{} places have the feature {FEATURE}", found.len())));
    }
    let mut clippy = paths::cargo();
    // The whole workspace, so that what it depends on is what the lints before it have checked.
    clippy.args(["clippy", "--locked", "--workspace", "--all-targets", "--features"]);
    exec::run(clippy.args([features().as_str(), "--", "-D", "warnings"]))
}

/// Builds programs that have it beside the others, and has the fault suite find each safety that is missing.
pub(crate) fn see() -> Outcome<()> {
    let target = paths::target()?.join(FEATURE);
    let mut build = paths::cargo();
    build.args(["build", "--locked", "--workspace", "--bins", "--features", &features()]);
    exec::run(build.arg("--target-dir").arg(&target))?;
    let built = target.join("debug");
    let mut suite = Command::new(built.join("jepsen"));
    suite.arg("sabotage").arg("--store").arg(target.join("store"));
    suite.env("HA_BIN_DIR", &built).env("HA_GUARD", built.join("ha-guard"));
    exec::run(suite.current_dir(paths::workspace()))
}

fn features() -> String {
    PACKAGES.map(|package| format!("{package}/{FEATURE}")).join(",")
}

/// The programs of a default build, which `verify` has just made, and the guard.
fn programs() -> Outcome<Vec<PathBuf>> {
    let debug = paths::target()?.join("debug");
    let names = ["ha-agent", "ha-guard", "haclt"];
    let all = names.into_iter().map(|name| debug.join(name)).chain([binaries::guard_path()?]);
    let there: Vec<PathBuf> = all.filter(|path| path.is_file()).collect();
    if there.is_empty() {
        return Err(Failure::new("there is no program to look into: build them first"));
    }
    Ok(there)
}

fn holds(program: &[u8]) -> bool {
    program.windows(MARK.len()).any(|bytes| bytes == MARK)
}

/// Finds packages that have it by default, and dependencies that ask for it.
fn asked_for(metadata: &Value) -> Outcome<Vec<String>> {
    let packages = metadata["packages"]
        .as_array()
        .doing(|| "`cargo metadata` lists no packages".to_owned())?;
    let mut found = Vec::new();
    let is_it = |text: &str| text == FEATURE || text.ends_with(&format!("/{FEATURE}"));
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        for (feature, turns_on) in package["features"].as_object().into_iter().flatten() {
            let mut on = turns_on.as_array().into_iter().flatten().filter_map(Value::as_str);
            if feature != FEATURE && on.any(is_it) {
                found.push(format!("{name}: feature {feature} turns it on"));
            }
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let mut on = dependency["features"].as_array().into_iter().flatten();
            if on.any(|feature| feature.as_str().is_some_and(is_it)) {
                let to = dependency["name"].as_str().unwrap_or_default();
                found.push(format!("{name} asks for it of {to}"));
            }
        }
    }
    Ok(found)
}

fn recipes(path: &Path, found: &mut Vec<String>) -> Outcome<()> {
    if path.is_dir() {
        let entries = fs::read_dir(path).doing(|| format!("could not list {}", path.display()))?;
        for entry in entries.flatten() {
            recipes(&entry.path(), found)?;
        }
    } else if let Ok(text) = fs::read_to_string(path)
        && (text.contains(FEATURE) || text.contains("--all-features"))
    {
        found.push(format!("{} asks for it", path.display()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_has_it_by_default_or_asks_for_it_is_found() {
        let package = |features: Value, asked: &[&str]| {
            let dependencies = json!([{ "name": "ha-raft", "features": asked }]);
            let package =
                json!({ "name": "a", "features": features, "dependencies": dependencies });
            asked_for(&json!({ "packages": [package] })).unwrap().len()
        };
        assert_eq!(package(json!({}), &[]), 0);
        assert_eq!(package(json!({ "sabotage": ["ha-raft/sabotage"] }), &["x"]), 0);
        assert_eq!(package(json!({ "default": ["sabotage"] }), &[]), 1);
        assert_eq!(package(json!({ "default": ["ha-raft/sabotage"] }), &[]), 1);
        assert_eq!(package(json!({}), &["sabotage"]), 1);
    }

    #[test]
    fn this_workspace_has_it_nowhere_by_default() {
        assert_eq!(asked_for(&paths::metadata().unwrap()).unwrap(), Vec::<String>::new());
        let mut found = Vec::new();
        for name in RECIPES {
            recipes(&paths::workspace().join(name), &mut found).unwrap();
        }
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn a_program_with_it_is_known_by_what_it_holds() {
        assert!(holds(b"ELF...HACLT_SABOTAGE..."));
        assert!(!holds(b"ELF...HACLT_SABOTA"));
    }
}
