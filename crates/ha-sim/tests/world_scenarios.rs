//! Stories: a script in, a trace out, reviewed as text.
//!
//! Where a change is meant: `HA_SIM_RENEW=1 cargo test -p ha-sim --test world_scenarios`, then read the
//! difference.

use std::fs;
use std::path::{Path, PathBuf};

use ha_sim::world::{Ended, Plan, run};

/// Divides a script from its trace.
const RULE: &str = "----";

fn scenarios() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut all: Vec<PathBuf> = fs::read_dir(dir)
        .expect("the scenarios")
        .map(|entry| entry.expect("a readable directory").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    all.sort();
    all
}

#[test]
fn every_story_goes_as_it_was_told() {
    let renew = std::env::var_os("HA_SIM_RENEW").is_some();
    let all = scenarios();
    assert!(all.len() >= 5, "{} scenarios", all.len());
    let mut changed = Vec::new();
    for path in all {
        let text = fs::read_to_string(&path).expect("a readable scenario");
        let script = text.split(RULE).next().unwrap_or_default().trim_end();
        let plan = Plan::of_script(script).expect("a script");
        let outcome = run(&plan, true);
        assert_eq!(outcome.ended, Ended::Well, "{}", path.display());
        let lines: Vec<&str> = outcome.trace.iter().map(|line| line.trim_end()).collect();
        let told = format!("{script}\n{RULE}\n{}\n", lines.join("\n"));
        if renew {
            fs::write(&path, told).expect("a writable scenario");
        } else if told != text {
            let differs = told.lines().zip(text.lines()).find(|(now, before)| now != before);
            changed.push(format!("{}: {differs:#?}", path.display()));
        }
    }
    assert!(changed.is_empty(), "{changed:#?}\nrenew them as this file says, if that is meant");
}
