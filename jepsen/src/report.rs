//! Results and pictures of a run, and the check of a stored one.
//!
//! A run has a directory of its own, `STORE/TEST/TIME`: `run.json` says what was asked, `history.jsonl`
//! is what happened, `logs/` holds the agents' logs; all else is made from these and can be made again.

pub mod leases;
mod markup;
pub mod rates;
pub mod store;
pub mod table;
pub mod timeline;

use serde::{Deserialize, Serialize};

pub use leases::Lease;
pub use store::{analyze, index, place, write};

use crate::checker::logs::Log;
use crate::checker::recovery::{Bounds, EpochChange};
use crate::checker::{
    Outcome, Verdict, bank, linearizable, list_append, logs, overlap, recovery, rights, set,
    standby_reads,
};
use crate::history::{F, History};

/// What was asked of a run, and what is known of it beside its history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The test's name: the directory above the run's.
    pub test: String,
    /// When it began, for people.
    pub started: String,
    /// Anything else that is worth knowing, such as the seed; name and value.
    pub notes: Vec<(String, String)>,
    /// The isolation of list-append transactions.
    pub lists: list_append::Options,
    /// What the bank promises; without it, reads of the bank are not checked.
    pub bank: Option<bank::Rules>,
    /// How soon after faults writes must be acknowledged; without it, that is not checked.
    pub recovery: Option<Bounds>,
    /// Each epoch that began.
    pub epochs: Vec<EpochChange>,
    /// Who held the lease when.
    pub leases: Vec<Lease>,
    /// Whether guards were frozen: what they say of their rights is late then.
    #[serde(default)]
    pub frozen_guards: bool,
    /// Texts of warnings that its faults announce; without it, logs are not checked.
    pub announced: Option<Vec<String>>,
}

/// Asks every checker that has something to look at.
#[must_use]
pub fn check(run: &Run, history: &History, logs: &[Log]) -> Outcome {
    let has = |wanted: &[F]| history.operations.iter().any(|o| wanted.contains(&o.f));
    let mut verdicts: Vec<Verdict> = Vec::new();
    if has(&[F::Txn]) {
        verdicts.push(list_append::check(history, run.lists));
    }
    if has(&[F::Read, F::Write, F::Cas]) {
        verdicts.push(linearizable::check(history, linearizable::STEPS_MAX));
    }
    if has(&[F::Add, F::ReadSet]) {
        verdicts.push(set::check(history));
    }
    if let Some(rules) = run.bank.filter(|_| has(&[F::Transfer, F::ReadBank])) {
        verdicts.push(bank::check(history, rules));
    }
    verdicts.push(overlap::check(history));
    verdicts.push(rights::check(&run.leases, run.frozen_guards));
    if let Some(bounds) = &run.recovery {
        verdicts.push(recovery::check(history, bounds, &run.epochs));
    }
    if let Some(announced) = &run.announced {
        // What servers write has no levels of ours, and they panic by design where their disk is full.
        let of_agents: Vec<Log> =
            logs.iter().filter(|log| log.name.contains("agent")).cloned().collect();
        verdicts.push(logs::check(&of_agents, announced));
    }
    verdicts.extend(standby_reads::check(history, run.bank));
    Outcome::new(history, verdicts)
}
