//! Money that moves between accounts: every read must show the same total.

use std::collections::BTreeSet;

use super::{Class, Verdict};
use crate::history::{F, History, Value};

/// What the bank promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Rules {
    /// The sum of all accounts.
    pub total: i64,
    /// Whether an account may be overdrawn.
    pub negative: bool,
}

/// Checks each read of the accounts; what standbys answered is told by [`standby_reads`](super::standby_reads).
#[must_use]
pub fn check(history: &History, rules: Rules) -> Verdict {
    let mut verdict = Verdict::new("bank");
    let mut accounts: Option<(u64, BTreeSet<u64>)> = None;
    for pair in history.pairs().iter().filter(|pair| pair.invoke.f == F::ReadBank) {
        let Some(ok) = pair.ok().filter(|ok| !ok.by_standby()) else { continue };
        let Value::Balances(Some(balances)) = &ok.value else { continue };
        let index = pair.invoke.index;
        verdict.count("reads", 1);
        let total: i128 = balances.values().map(|&sum| i128::from(sum)).sum();
        if total != i128::from(rules.total) {
            let text = format!(
                "read {index} shows {total} in all accounts, not {}: {balances:?}",
                rules.total
            );
            verdict.find(Class::WrongTotal, vec![index], text);
        }
        for (account, sum) in balances.iter().filter(|(_, sum)| **sum < 0 && !rules.negative) {
            let text = format!("read {index} shows {sum} in account {account}");
            verdict.find(Class::Negative, vec![index], text);
        }
        let names: BTreeSet<u64> = balances.keys().copied().collect();
        match &accounts {
            None => accounts = Some((index, names)),
            Some((first, known)) if *known != names => {
                let text = format!("read {index} shows accounts {names:?}, read {first} {known:?}");
                verdict.find(Class::WrongTotal, vec![*first, index], text);
            }
            Some(_) => {}
        }
    }
    if !verdict.counts.contains_key("reads") && has_transfers(history) {
        let text = "money was moved, and nobody read the accounts".to_owned();
        verdict.doubt(Class::NeverRead, Vec::new(), text);
    }
    verdict
}

fn has_transfers(history: &History) -> bool {
    history.operations.iter().any(|operation| operation.f == F::Transfer)
}
