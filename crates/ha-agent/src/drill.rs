//! Rehearsed faults: made by the agents themselves, bounded, measured from another node, and over by
//! themselves whatever dies meanwhile.
//!
//! | Module | Does |
//! |---|---|
//! | [`conduct`] | on the Raft leader, never on the primary's node: the drill from its record to its end |
//! | [`client`] | writes numbered rows as a client would, and counts what becomes of them |
//! | [`tally`] | the arithmetic of that |
//! | [`watch`] | who noticed what, and what each node reports |
//! | [`freeze`] | stops this process, and makes sure that it is continued |
//!
//! A fault ends without anybody's order: a cut compares the clock, a frozen agent is continued by helpers that
//! were started before, a crash is over when it has happened.

pub mod client;
pub mod conduct;
pub mod freeze;
pub mod tally;
pub mod watch;

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ha_core::policy::Durability;
use ha_core::{Epoch, NodeId};

use crate::agent::lock;

/// The longest fault.
pub const FAULT_MAX: Duration = Duration::from_secs(60);
/// How much longer than the ttl a fault is unless somebody says otherwise: the lease is lost in it.
pub const BEYOND_TTL: Duration = Duration::from_secs(5);
/// How long after the end of its fault a drill may take, all in all.
pub const DRILL_LIMIT: Duration = Duration::from_secs(300);

/// What is rehearsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The primary role is handed over in order.
    Switchover,
    /// The primary's postmaster is killed.
    Crash,
    /// The primary's agent stands still.
    Freeze,
    /// The primary's agent hears no peer, and no peer hears it.
    Partition,
}

impl Kind {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Switchover, "switchover"),
        (Self::Crash, "crash"),
        (Self::Freeze, "freeze"),
        (Self::Partition, "partition"),
    ];

    /// Returns its word, as operators say it.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("", |(_, word)| word)
    }

    /// Returns whether it lasts for a time that is chosen.
    #[must_use]
    pub const fn lasts(self) -> bool {
        matches!(self, Self::Freeze | Self::Partition)
    }

    /// Returns whether acknowledged commits may be lost in that mode, by design.
    #[must_use]
    pub fn may_lose(self, mode: Durability) -> bool {
        mode == Durability::Async && self != Self::Switchover
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().find(|(_, known)| *known == word).map(|(kind, _)| *kind);
        known.ok_or_else(|| {
            format!("{word:?} is no drill: expected switchover, crash, freeze or partition")
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// A drill, as it was ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its number, drawn at random.
    pub number: u64,
    /// What is rehearsed.
    pub kind: Kind,
    /// The primary.
    pub node: NodeId,
    /// Who is to take over, in a switchover.
    pub to: Option<NodeId>,
    /// The grant of the primary.
    pub epoch: Epoch,
    /// How long the fault lasts; zero for one without duration.
    pub fault: Duration,
    /// Who wants it.
    pub by: String,
}

impl Order {
    /// Says what is rehearsed, for the record.
    #[must_use]
    pub fn what(&self) -> String {
        match (self.kind, &self.to) {
            (Kind::Switchover, Some(to)) => format!("switchover to {to}"),
            (kind, _) if kind.lasts() => format!("{kind} of {} s", self.fault.as_secs_f64()),
            (kind, _) => kind.to_string(),
        }
    }
}

/// What this agent has to do with drills now.
#[derive(Debug, Default)]
pub struct Here {
    conducting: Mutex<Option<u64>>,
    struck: Mutex<Option<u64>>,
}

impl Here {
    /// Claims this agent for conducting a drill; `None` if it conducts one.
    #[must_use]
    pub fn conduct(self: &Arc<Self>, number: u64) -> Option<Conducting> {
        let mut slot = lock(&self.conducting);
        if slot.is_some() {
            return None;
        }
        *slot = Some(number);
        Some(Conducting(Arc::clone(self)))
    }

    /// Returns the drill that this agent conducts.
    #[must_use]
    pub fn conducted(&self) -> Option<u64> {
        *lock(&self.conducting)
    }

    /// Returns whether the fault of that drill is to be made: each is made once, however often it is ordered.
    #[must_use]
    pub fn strike(&self, number: u64) -> bool {
        lock(&self.struck).replace(number) != Some(number)
    }
}

/// The claim of a conductor.
#[derive(Debug)]
pub struct Conducting(Arc<Here>);

impl Drop for Conducting {
    fn drop(&mut self) {
        *lock(&self.0.conducting) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_conducts_one_drill_and_makes_each_fault_once() {
        let here = Arc::new(Here::default());
        let claim = here.conduct(1);
        assert!(claim.is_some() && here.conduct(2).is_none());
        assert_eq!(here.conducted(), Some(1));
        drop(claim);
        assert!(here.conduct(2).is_some());
        assert!(here.strike(7) && !here.strike(7) && here.strike(8));
    }

    #[test]
    fn what_is_rehearsed_is_said_in_words() {
        let order = |kind, to: Option<&str>, fault| Order {
            number: 1,
            kind,
            node: "n1".parse().expect("a name"),
            to: to.map(|to| to.parse().expect("a name")),
            epoch: Epoch(3),
            fault: Duration::from_millis(fault),
            by: String::new(),
        };
        assert_eq!(order(Kind::Switchover, Some("n2"), 0).what(), "switchover to n2");
        assert_eq!(order(Kind::Crash, None, 0).what(), "crash");
        assert_eq!(order(Kind::Freeze, None, 8500).what(), "freeze of 8.5 s");
        for (kind, word) in Kind::ALL {
            assert_eq!(word.parse(), Ok(kind));
        }
        assert!("flood".parse::<Kind>().is_err());
        assert!(
            Kind::Crash.may_lose(Durability::Async) && !Kind::Crash.may_lose(Durability::Quorum)
        );
        assert!(!Kind::Switchover.may_lose(Durability::Async));
    }
}
