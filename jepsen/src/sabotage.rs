//! Seeing the suite fail: one safety is taken away at a time, and a run that was made for it must find that.

use std::path::Path;
use std::time::{Duration, Instant};

use ha_tests::programs;

use crate::harness::Harness;
use crate::suite::{BESIDES, call};

/// The variable by which programs with the feature `sabotage` are told which safety to leave out.
pub const VARIABLE: &str = "HACLT_SABOTAGE";

/// A safety, and the run in which its absence shows.
#[derive(Debug)]
struct Case {
    /// As `docs/sabotage.md` names it.
    safety: &'static str,
    workload: &'static str,
    script: &'static str,
    seconds: u64,
    rate: u64,
    bare_witness: bool,
}

/// Each run is the shortest in which the fault comes that its safety is there for.
const CASES: &[Case] = &[
    // Its database goes on without a right, and answers reads of sessions that are open.
    Case {
        safety: "guard-off",
        workload: "register",
        script: "pause-agent@primary:5+10",
        seconds: 16,
        rate: 120,
        bare_witness: false,
    },
    // The cluster goes on believing that the primary acknowledges alone, and never calls itself healthy.
    Case {
        safety: "quorum-not-recorded",
        workload: "set",
        script: "kill-agent@standby:5+2",
        seconds: 10,
        rate: 60,
        bare_witness: true,
    },
    // Two of three have forgotten what they had promised.
    Case {
        safety: "fsync-skipped",
        workload: "probe",
        script: "kill-agent@standby:5+1,kill-agent@witness:5+1,kill-agent@primary:5.2+1,\
                 kill-agent@standby:15+1,kill-agent@witness:15+1",
        seconds: 24,
        rate: 60,
        bare_witness: false,
    },
    // It has WAL of its own when it comes back.
    Case {
        safety: "old-primary-not-compared",
        workload: "set",
        script: "isolate-primary@primary:5+9,kill-node@primary:7+8",
        seconds: 20,
        rate: 100,
        bare_witness: false,
    },
    // Nobody ends the old primary in time, and the witness goes on acknowledging what it writes.
    Case {
        safety: "revoke-skipped",
        workload: "set",
        script: "pause-guard@primary:5+9,pause-agent@primary:5+9",
        seconds: 18,
        rate: 300,
        bare_witness: false,
    },
    // Its agent stands still, with a renewal on the way if it comes about so, and is cut off before it reads the answer.
    Case {
        safety: "deadline-from-answer",
        workload: "register",
        script: "delay@primary:5+8,pause-agent@primary:8+1.5,isolate-primary@primary:9.2+5,\
                 delay@primary:19+8,pause-agent@primary:22+1.5,isolate-primary@primary:23.2+5,\
                 delay@primary:33+8,pause-agent@primary:36+1.5,isolate-primary@primary:37.2+5,\
                 delay@primary:47+8,pause-agent@primary:50+1.5,isolate-primary@primary:51.2+5",
        seconds: 61,
        rate: 120,
        bare_witness: false,
    },
];

/// How a case went.
#[derive(Debug)]
struct Row {
    safety: &'static str,
    /// What the run with the safety said, if it was not valid.
    with: Option<String>,
    /// What found that it is missing, after how many tries and how long; else nothing did.
    caught: Option<(String, u64, Duration)>,
}

impl Row {
    fn is_good(&self) -> bool {
        self.with.is_none() && self.caught.is_some()
    }

    fn line(&self) -> String {
        let Self { safety, with, caught } = self;
        let with = with.as_ref().map_or("valid".to_owned(), |said| format!("NOT VALID: {said}"));
        let caught = caught.as_ref().map_or("NOT CAUGHT".to_owned(), |(said, tries, took)| {
            format!("caught in {} s, try {tries}: {said}", took.as_secs())
        });
        format!("| `{safety}` | {with} | {caught} |")
    }
}

impl Case {
    fn arguments(&self, store: &Path, seed: u64) -> Vec<String> {
        let pairs = [
            ("--env", "netns".to_owned()),
            ("--workload", self.workload.to_owned()),
            ("--script", self.script.to_owned()),
            ("--seconds", self.seconds.to_string()),
            ("--rate", self.rate.to_string()),
            ("--seed", seed.to_string()),
            ("--store", store.display().to_string()),
        ];
        let flat = pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        let bare = self.bare_witness.then(|| "--bare-witness".to_owned());
        std::iter::once("run".to_owned()).chain(flat).chain(bare).collect()
    }

    fn run(&self, store: &Path, tries: u64, say: &mut dyn FnMut(&str)) -> Result<Row, Harness> {
        let safety = self.safety;
        say(&format!("{safety}: with it"));
        let limit = Duration::from_secs(self.seconds) + BESIDES;
        let (code, said) = call(&self.arguments(store, 1), Some((VARIABLE, "")), limit, say)?;
        let with = match code {
            0 => None,
            1 | 3 => Some(said),
            _ => return Err(Harness::new(said)),
        };
        let began = Instant::now();
        for seed in 1..=tries {
            say(&format!("{safety}: without it"));
            let arguments = self.arguments(store, seed);
            let (code, said) = call(&arguments, Some((VARIABLE, safety)), limit, say)?;
            match code {
                0 | 3 => {}
                1 => {
                    let caught = Some((said, seed, began.elapsed()));
                    return Ok(Row { safety, with, caught });
                }
                _ => return Err(Harness::new(said)),
            }
        }
        Ok(Row { safety, with, caught: None })
    }
}

/// Runs the cases, all or those named, and says the table; returns the exit code.
///
/// # Errors
/// If the programs do not have the feature, a name is none, or a run fails itself.
pub fn all(
    store: &Path,
    only: &[String],
    tries: u64,
    say: &mut dyn FnMut(&str),
) -> Result<u8, Harness> {
    if let Some(unknown) = only.iter().find(|name| CASES.iter().all(|c| c.safety != **name)) {
        let known: Vec<&str> = CASES.iter().map(|case| case.safety).collect();
        let known = known.join(", ");
        return Err(Harness::new(format!("{unknown:?} is no safety that is known: {known}")));
    }
    expect_feature(&programs::program("ha-agent"))?;
    expect_feature(&programs::guard())?;
    let wanted = |case: &&Case| only.is_empty() || only.iter().any(|name| name == case.safety);
    let mut table = Vec::new();
    for case in CASES.iter().filter(wanted) {
        let row = case.run(store, tries, say)?;
        say(&row.line());
        table.push(row);
    }
    say("");
    say("| Missing | With it | Without it |");
    say("|---|---|---|");
    for row in &table {
        say(&row.line());
    }
    Ok(u8::from(!table.iter().all(Row::is_good)))
}

/// What a program without it would do as well, it would do with the safety in it: nothing would be caught.
fn expect_feature(program: &Path) -> Result<(), Harness> {
    let said = programs::said(&programs::run(program, &["--version"]));
    if said.to_lowercase().contains("sabotage") {
        return Ok(());
    }
    let program = program.display();
    let how = "cargo build -p ha-agent -p ha-guard --features ha-agent/sabotage,ha-guard/sabotage";
    Err(Harness::new(format!("{program} has every safety: build it with `{how}`")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nemesis::Plan;

    #[test]
    fn every_case_is_a_run_that_can_be_made() {
        for case in CASES {
            let plan = Plan::script(case.script, 1).unwrap();
            let last = plan.0.iter().map(|planned| planned.at + planned.lasts).max().unwrap();
            assert!(last <= Duration::from_secs(case.seconds), "{}: ends too early", case.safety);
        }
    }

    #[test]
    fn a_safety_that_was_not_missed_or_a_run_that_fails_with_it_is_no_success() {
        let caught = || Some(("INVALID  lost".to_owned(), 1, Duration::from_secs(20)));
        let row = |with, caught| Row { safety: "guard-off", with, caught };
        assert!(row(None, caught()).is_good());
        assert!(!row(None, None).is_good());
        assert!(!row(Some("INVALID".to_owned()), caught()).is_good());
        assert!(row(None, None).line().contains("NOT CAUGHT"));
    }
}
