//! What operators have ordered and the agents keep to: pauses, fences, schedules, settings.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Lease, Refused, State, expect_version};
use crate::epoch::{Epoch, Incarnation};
use crate::node::NodeId;

/// How many switchovers may be scheduled at once.
pub const SCHEDULED_MAX: usize = 16;
/// How many changes of the configuration are remembered.
pub const CONFIG_LOG_MAX: usize = 100;
/// How many settings there may be, and how long each may be in bytes.
pub const SETTINGS_MAX: usize = 200;
/// The longest value of one setting in bytes.
pub const SETTING_BYTES_MAX: usize = 4096;

/// The agents leave the databases alone: nothing is promoted, started, stopped or restarted.
///
/// `ARCHITECTURE.md`, "Pause", says why no second primary can come of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Who wanted it.
    pub by: String,
    /// Why.
    pub why: String,
    /// Since when, milliseconds of Unix time: for people only.
    pub since_unix_ms: u64,
    /// Whether it is to end: as soon as the holder's guard has a deadline again.
    pub ending: bool,
}

/// A node whose database is down by order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FencedByOrder {
    /// Who wanted it.
    pub by: String,
    /// Why.
    pub why: String,
    /// Since when, milliseconds of Unix time: for people only.
    pub since_unix_ms: u64,
}

/// A switchover that is to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduled {
    /// Its number, counted from 1 and never used again.
    pub id: u64,
    /// When, milliseconds of Unix time, by the wall clock of whoever leads then.
    pub due_unix_ms: u64,
    /// To whom; `None` for the fittest standby.
    pub to: Option<NodeId>,
    /// Who wanted it.
    pub by: String,
}

/// A rehearsed fault that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drill {
    /// Drawn at random by whoever conducts it: its steps name it.
    pub number: u64,
    /// What is rehearsed, in words: `freeze of 8 s`.
    pub what: String,
    /// On whom: the holder of the lease.
    pub node: NodeId,
    /// Under which grant.
    pub epoch: Epoch,
    /// The node that conducts it.
    pub conductor: NodeId,
    /// Its agent's start: one that was started anew conducts nothing any more.
    pub incarnation: Incarnation,
    /// Who wanted it.
    pub by: String,
    /// Until when it counts as under way although nobody ends it, milliseconds of Unix time by the leader's
    /// wall clock: whoever conducts it may be lost.
    pub until_unix_ms: u64,
}

/// One change of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigChange {
    /// The version that it led to.
    pub version: u64,
    /// When, milliseconds of Unix time: for people only.
    pub at_unix_ms: u64,
    /// Who wanted it.
    pub by: String,
    /// What, and from what to what; `None` means: not set.
    pub changes: BTreeMap<String, (Option<String>, Option<String>)>,
}

impl fmt::Display for ConfigChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<String>| value.as_deref().unwrap_or("(unset)").to_owned();
        let all = self
            .changes
            .iter()
            .map(|(key, (before, after))| format!("{key}: {} -> {}", shown(before), shown(after)));
        f.write_str(&all.collect::<Vec<_>>().join(", "))
    }
}

impl State {
    /// Returns whether the agents have to leave the databases alone. Still so while a pause is ending.
    #[must_use]
    pub const fn is_paused(&self) -> bool {
        self.pause.is_some()
    }

    pub(super) fn expect_unpaused(&self) -> Result<(), Refused> {
        if self.is_paused() { Err(Refused::Paused) } else { Ok(()) }
    }

    pub(super) fn expect_unfenced(&self, node: &NodeId) -> Result<(), Refused> {
        if self.is_leaving(node) {
            return Err(Refused::Leaving(node.clone()));
        }
        if self.fenced.contains_key(node) { Err(Refused::Fenced(node.clone())) } else { Ok(()) }
    }

    pub(super) fn pause(&mut self, by: &str, why: &str, at_unix_ms: u64) -> Result<(), Refused> {
        if !self.is_founded() {
            return Err(Refused::NotFounded);
        }
        self.expect_unpaused()?;
        let (by, why) = (by.to_owned(), why.to_owned());
        self.pause = Some(Pause { by, why, since_unix_ms: at_unix_ms, ending: false });
        self.pauses += 1;
        Ok(())
    }

    /// A pause ends at once if nobody holds the lease: no guard has a permit without a deadline then. So it
    /// does if an operator vouches for it.
    pub(super) fn end_pause(&mut self, forced: bool) -> Result<(), Refused> {
        let vacant = matches!(self.lease, Lease::Vacant);
        let pause = self.pause.as_mut().ok_or(Refused::NotPaused)?;
        pause.ending = true;
        if vacant || forced {
            self.pause = None;
        }
        Ok(())
    }

    pub(super) fn confirm_resumed(&mut self, epoch: Epoch, pause: u64) -> Result<(), Refused> {
        self.expect_held(epoch)?;
        expect_version(pause, self.pauses)?;
        match &self.pause {
            Some(pause) if pause.ending => {
                self.pause = None;
                Ok(())
            }
            Some(_) => Err(Refused::Paused),
            None => Err(Refused::NotPaused),
        }
    }

    /// Whoever holds the lease is not fenced by order: its role is handed over first.
    pub(super) fn fence(
        &mut self,
        node: &NodeId,
        by: &str,
        why: &str,
        at_unix_ms: u64,
    ) -> Result<(), Refused> {
        self.expect_data_node(node)?;
        if self.lease.holder() == Some(node) {
            return Err(Refused::LeaseHeld(node.clone()));
        }
        self.expect_unfenced(node)?;
        let (by, why) = (by.to_owned(), why.to_owned());
        self.fenced.insert(node.clone(), FencedByOrder { by, why, since_unix_ms: at_unix_ms });
        Ok(())
    }

    pub(super) fn unfence(&mut self, node: &NodeId) -> Result<(), Refused> {
        let known = self.fenced.remove(node);
        known.map(drop).ok_or_else(|| Refused::NotFenced(node.clone()))
    }

    pub(super) fn schedule(
        &mut self,
        due_unix_ms: u64,
        to: Option<&NodeId>,
        by: &str,
    ) -> Result<(), Refused> {
        if let Some(to) = to {
            self.expect_data_node(to)?;
        }
        let same = |known: &&Scheduled| {
            known.due_unix_ms == due_unix_ms && known.to.as_ref() == to && known.by == by
        };
        if let Some(known) = self.scheduled.iter().find(same) {
            return Err(Refused::AlreadyScheduled(known.id));
        }
        if self.scheduled.len() >= SCHEDULED_MAX {
            return Err(Refused::TooMany {
                what: "scheduled switchovers".into(),
                max: SCHEDULED_MAX,
            });
        }
        self.schedules += 1;
        let (id, to) = (self.schedules, to.cloned());
        self.scheduled.push(Scheduled { id, due_unix_ms, to, by: by.to_owned() });
        Ok(())
    }

    pub(super) fn unschedule(&mut self, id: u64) -> Result<(), Refused> {
        let known = self.scheduled.len();
        self.scheduled.retain(|scheduled| scheduled.id != id);
        if self.scheduled.len() == known { Err(Refused::NoSuchSchedule(id)) } else { Ok(()) }
    }

    /// Bound to a grant, so that what was planned for one primary is not done to the next.
    pub(super) fn begin_drill(&mut self, drill: &Drill, at_unix_ms: u64) -> Result<(), Refused> {
        self.expect_unpaused()?;
        self.expect_held(drill.epoch)?;
        if let Some(holder) = self.lease.holder().filter(|holder| **holder != drill.node) {
            return Err(Refused::LeaseHeld(holder.clone()));
        }
        if let Some(Drill { what, node, by, .. }) = self.drill_under_way(at_unix_ms) {
            let (what, node, by) = (what.clone(), node.clone(), by.clone());
            return Err(Refused::DrillUnderWay { what, node, by });
        }
        self.drill = Some(drill.clone());
        Ok(())
    }

    pub(super) fn end_drill(&mut self, number: u64) -> Result<(), Refused> {
        let known = self.drill.take_if(|drill| drill.number == number);
        known.map(drop).ok_or(Refused::NoSuchDrill)
    }

    /// Returns the drill that is under way at that time, by the leader's wall clock.
    #[must_use]
    pub fn drill_under_way(&self, now_unix_ms: u64) -> Option<&Drill> {
        self.drill.as_ref().filter(|drill| now_unix_ms < drill.until_unix_ms)
    }

    pub(super) fn configure(
        &mut self,
        version: u64,
        changes: &BTreeMap<String, Option<String>>,
        by: &str,
        at_unix_ms: u64,
    ) -> Result<(), Refused> {
        expect_version(version, self.config_version)?;
        if !self.is_founded() {
            return Err(Refused::NotFounded);
        }
        let mut settings = BTreeMap::clone(&self.settings);
        let mut log = BTreeMap::new();
        for (key, value) in changes {
            let too_long = |text: &str| text.len() > SETTING_BYTES_MAX;
            if too_long(key) || value.as_deref().is_some_and(too_long) {
                return Err(Refused::TooMany {
                    what: "bytes in one setting".into(),
                    max: SETTING_BYTES_MAX,
                });
            }
            let before = match value {
                Some(value) => settings.insert(key.clone(), value.clone()),
                None => settings.remove(key),
            };
            log.insert(key.clone(), (before, value.clone()));
        }
        if settings.len() > SETTINGS_MAX {
            return Err(Refused::TooMany { what: "settings".into(), max: SETTINGS_MAX });
        }
        self.settings = Arc::new(settings);
        self.log_change(log, by, at_unix_ms);
        Ok(())
    }

    pub(super) fn log_change(
        &mut self,
        changes: BTreeMap<String, (Option<String>, Option<String>)>,
        by: &str,
        at_unix_ms: u64,
    ) {
        self.config_version += 1;
        let (version, by) = (self.config_version, by.to_owned());
        let log = Arc::make_mut(&mut self.config_log);
        log.push(ConfigChange { version, at_unix_ms, by, changes });
        let surplus = log.len().saturating_sub(CONFIG_LOG_MAX);
        log.drain(..surplus);
    }
}
