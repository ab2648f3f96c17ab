//! Warnings and errors of agents that faults explain. Any other one speaks against a run.

use crate::nemesis::{Fault, Plan};
use crate::sabotage;

/// What any fault may have an agent say, by a part of the line: what happened, and what could not be done.
const OF_ANY: [&str; 26] = [
    "could not ",
    "lease expired",
    "lease is lost: a later epoch was granted",
    "nothing is seen of the database, the lease is given up",
    "no other node has taken over yet",
    "peer does not answer",
    "database did not answer",
    "database is not ready",
    "local WAL diverges from the primary's history",
    "diverged WAL was kept aside",
    "diverged WAL was not kept by itself",
    "diverged WAL is incomplete",
    "kept WAL is not part of the primary's history: set aside",
    "the primary cannot continue the WAL that is kept here",
    "its timeline here began with another promotion",
    "promotion was not recorded",
    "the quorum cannot be kept",
    "ending a walsender",
    "step failed",
    "node fenced",
    "the stop was not in order",
    "the database did not stop in time",
    "the standby has not received the end of WAL in time",
    "switchover failed, an election decides",
    "checkpoint before the stop failed",
    "checkpoint after the promotion did not end",
];
/// What only some may.
const OF_SOME: [(&str, &[Fault]); 8] = [
    (
        "guard ended",
        &[Fault::KillGuard, Fault::KillNode, Fault::PauseGuard, Fault::FreezeNode, Fault::PowerCut],
    ),
    ("the guard is frozen", &[Fault::PauseGuard, Fault::FreezeNode]),
    (
        "killing an orphaned server",
        &[
            Fault::KillGuard,
            Fault::KillNode,
            Fault::PauseGuard,
            Fault::FreezeNode,
            Fault::PowerCut,
            Fault::KillContainer,
        ],
    ),
    ("switchover broken off", &[Fault::Switchover, Fault::RollingRestart]),
    ("the control loop hangs", &[Fault::PauseAgent, Fault::FreezeNode, Fault::SlowDiskRaft]),
    // Its directories were emptied before it joined.
    ("the permit was damaged or gone", &[Fault::ChangeMembers]),
    ("No space left on device", &[Fault::FullDiskData, Fault::FullDiskRaft]),
    ("Raft", &[Fault::FullDiskRaft, Fault::SlowDiskRaft, Fault::PowerCut]),
];

/// Returns the parts of lines that a plan's faults explain.
pub fn by(plan: &Plan) -> Vec<String> {
    let some = OF_SOME.iter().filter(|(_, faults)| plan.any(|fault| faults.contains(&fault)));
    // Said at the start, as an error; who takes a safety away wants to know what else is seen.
    let wanted = std::env::var_os(sabotage::VARIABLE).map(|_| "SABOTAGE BUILD");
    let texts = OF_ANY.into_iter().chain(some.map(|(text, _)| *text)).chain(wanted);
    texts.map(ToOwned::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::logs::{Log, check};
    use crate::checker::{Class, Validity};

    fn valid(line: &str, script: &str) -> bool {
        let log = Log {
            name: "n1-agent.log".to_owned(),
            text: format!("2026-11-29T02:02:14Z  {line}\n"),
        };
        let verdict = check(&[log], &by(&Plan::script(script, 1).unwrap()));
        assert_eq!(verdict.valid == Validity::Valid, !verdict.has(Class::UnannouncedLine));
        verdict.valid == Validity::Valid
    }

    #[test]
    fn a_warning_is_excused_by_the_faults_that_explain_it_and_by_no_other() {
        assert!(valid("WARN ha::event: lease expired epoch=3", "ring@any:5+5"));
        assert!(valid("WARN ha_postgres::process: guard ended status=9", "kill-guard@primary:5+1"));
        assert!(!valid("WARN ha_postgres::process: guard ended status=9", "ring@any:5+5"));
        assert!(!valid("WARN ha_agent::x: what nobody has thought of", "kill-guard@primary:5+1"));
        assert!(!valid("ERROR ha_agent: it is over", "kill-node@primary:5+1"));
        assert!(valid("INFO ha_agent: all is well", "ring@any:5+5"));
    }
}
