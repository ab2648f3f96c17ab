//! Runs as rows of a table, for what is published.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::store::{RESULTS, RUN};

/// The head of the table.
pub const HEAD: &str = "\
| Run | Seed | s | Faults made, kinds | Failovers | Acknowledged writes | Longest gap | After a lone fault | Verdict |
|---|---|---|---|---|---|---|---|---|";

/// Returns the directories of all runs in a store, in the order in which they began.
///
/// # Errors
/// If a directory cannot be listed.
pub fn runs(store: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for test in fs::read_dir(store)? {
        let test = test?.path();
        if test.is_dir() {
            for run in fs::read_dir(test)? {
                found.push(run?.path());
            }
        }
    }
    found.retain(|run| run.join("summary.json").is_file());
    found.sort_by_key(|run| run.file_name().map(ToOwned::to_owned));
    Ok(found)
}

/// Returns a run as a row.
///
/// # Errors
/// If one of its files cannot be read.
pub fn row(dir: &Path) -> std::io::Result<String> {
    let read = |name: &str| -> std::io::Result<Value> {
        Ok(serde_json::from_str(&fs::read_to_string(dir.join(name))?)?)
    };
    Ok(line(&read("summary.json")?, &read(RESULTS)?, &read(RUN)?))
}

fn line(summary: &Value, results: &Value, run: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let detail = |check: &str| {
        let mut checks = summary["checks"].as_array().into_iter().flatten();
        checks.find(|c| c["name"] == check).map(|c| text(&c["detail"])).unwrap_or_default()
    };
    let script = text(&summary["script"]);
    let kinds: BTreeSet<&str> =
        script.split(',').filter_map(|part| part.split(['@', ':']).next()).collect();
    let installed = detail("faults");
    let installed = installed.split(' ').next().unwrap_or_default();
    let acknowledged = detail("acknowledged");
    let (writes, gap) = acknowledged.split_once(" writes, longest gap ").unwrap_or_default();
    let after = detail("after-faults");
    let after = after.split_once("at most ").map_or(after.as_str(), |(_, rest)| rest);
    let after = after.strip_suffix(" later").unwrap_or(after);
    let mut verdicts = results["verdicts"].as_array().into_iter().flatten();
    let recovery = verdicts.find(|v| v["checker"] == "recovery");
    let failovers = recovery.and_then(|v| v["counts"]["failovers"].as_u64()).unwrap_or(0);
    let noted = run["notes"].as_array().into_iter().flatten();
    let durability = noted
        .filter(|note| note[0] == "durability" && note[1] != "quorum")
        .map(|note| format!(" ({})", text(&note[1])));
    let kinds = match kinds.len() {
        1..=3 => kinds.into_iter().collect::<Vec<_>>().join(", "),
        many => format!("{many} kinds"),
    };
    format!(
        "| {}{} | {} | {} | {installed}, {kinds} | {failovers} | {writes} | {gap} | {after} | {} |",
        text(&summary["test"]),
        durability.collect::<String>(),
        summary["seed"],
        summary["seconds"],
        text(&summary["verdict"]),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_has_what_was_done_and_what_came_of_it() {
        let check = |name: &str, detail: &str| json!({ "name": name, "detail": detail });
        let summary = json!({
            "test": "netns-set", "seed": 7, "seconds": 60, "verdict": "INVALID",
            "script": "kill-node@primary:4.000+7.278,ring@any:9+1,ring@any:12+1",
            "checks": [
                check("faults", "2 installed, 1 skipped, 0 indeterminate"),
                check("after-faults", "1 faults judged, a write at most 2075 ms later"),
                check("acknowledged", "8286 writes, longest gap 11297 ms"),
            ],
        });
        let results =
            json!({ "verdicts": [{ "checker": "recovery", "counts": { "failovers": 3 } }] });
        let run = json!({ "notes": [["durability", "async"]] });
        assert_eq!(
            line(&summary, &results, &run),
            "| netns-set (async) | 7 | 60 | 2, kill-node, ring | 3 | 8286 | 11297 ms | 2075 ms | INVALID |"
        );
    }

    #[test]
    fn runs_come_in_the_order_of_their_time_and_unfinished_ones_are_left_out() {
        let store = tempfile::tempdir().unwrap();
        for (test, time, finished) in
            [("b", "20260101-1", true), ("a", "20260102-2", true), ("a", "20260101-9", false)]
        {
            let dir = store.path().join(test).join(time);
            fs::create_dir_all(&dir).unwrap();
            if finished {
                fs::write(dir.join("summary.json"), "{}").unwrap();
            }
        }
        fs::write(store.path().join("index.html"), "").unwrap();
        let found = runs(store.path()).unwrap();
        let names: Vec<_> = found.iter().map(|run| run.file_name().unwrap()).collect();
        assert_eq!(names, ["20260101-1", "20260102-2"]);
    }
}
