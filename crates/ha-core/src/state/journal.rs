//! What happened to the cluster, as everybody remembers it: for people, never for decisions.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Command, State, VacateReason};
use crate::epoch::Epoch;
use crate::lsn::WalPosition;
use crate::node::NodeId;

/// How many events are remembered; the oldest are forgotten first.
pub const EVENTS_MAX: usize = 500;
/// The longest text of one event in bytes; what is longer is cut.
pub const EVENT_TEXT_MAX: usize = 400;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number, counted from 1 and never used again.
    pub id: u64,
    /// When, milliseconds of Unix time by the wall clock of the Raft leader that took it in.
    pub at_unix_ms: u64,
    /// The epoch of the latest grant then.
    pub epoch: Epoch,
    /// The rest.
    #[serde(flatten)]
    pub what: Note,
}

/// What an event says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// What kind of thing it was.
    pub kind: EventKind,
    /// Which node it is about; `None` for the whole cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// Who asked for it; empty if nobody did: it was the agents' own doing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// Why, or what exactly, in words.
    pub text: String,
    /// Where in the WAL, if that means something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<WalPosition>,
    /// How long it took, milliseconds; `None` for what has no duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// The name of the log file that its node keeps of it; empty if there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log: String,
}

macro_rules! kinds {
    ($($name:ident, $text:literal, $about:literal;)*) => {
        /// What kind of thing happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum EventKind {
            $(#[doc = $about] $name,)*
        }

        impl EventKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Returns the kind's name, as `haclt events` shows it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

kinds! {
    Founded, "founded", "The agents formed the cluster.";
    Refounded, "refounded", "The cluster was made anew from one survivor.";
    Bootstrapped, "bootstrapped", "The database cluster was made, or named.";
    Granted, "granted", "A node was given the primary lease.";
    Vacated, "vacated", "The primary lease ended.";
    Transferred, "transferred", "The primary lease was handed over.";
    Promoted, "promoted", "A node ended recovery and began a timeline.";
    QuorumChanged, "quorum_changed", "Other nodes than before acknowledge commits.";
    ConfigChanged, "config_changed", "The shared configuration was changed.";
    Diverged, "diverged", "WAL was found that is not part of the cluster's history.";
    Paused, "paused", "An operator told the agents to leave the databases alone.";
    Resuming, "resuming", "An operator ended that; the holder's permit is limited again first.";
    Resumed, "resumed", "The agents look after the databases again.";
    Fenced, "fenced", "A node's database is to be down until an operator says otherwise.";
    Unfenced, "unfenced", "A node may have a database again.";
    Scheduled, "scheduled", "A switchover was scheduled.";
    Unscheduled, "unscheduled", "A scheduled switchover was cancelled, or its time has come.";
    Switchover, "switchover", "A switchover was ordered.";
    Failover, "failover", "A failover was ordered.";
    Drill, "drill", "A rehearsed fault began or ended.";
    Rewound, "rewound", "A node's data directory was rewound.";
    Cloned, "cloned", "A node's data directory was cloned.";
    Crashed, "crashed", "A primary's database crashed under its lease.";
    Recovered, "recovered", "A crashed primary recovered in place.";
    Stopped, "stopped", "A node's database was stopped because it must not run.";
    Restarted, "restarted", "A node's database was restarted by order.";
    Replaced, "replaced", "A node's lost store was replaced by a new one.";
    Joined, "joined", "A node became part of the cluster, or stays in it.";
    Leaving, "leaving", "A node is being taken out of the cluster.";
    Left, "left", "A node is not part of the cluster any more.";
    CredentialsRotated, "credentials_rotated", "A password of an internal user was changed, or begun to be.";
    Reloaded, "reloaded", "A node's configuration was reloaded by order.";
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Note {
    /// Returns a note of that kind and text, about nobody and asked for by nobody.
    #[must_use]
    pub const fn new(kind: EventKind, text: String) -> Self {
        let (node, position, took_ms) = (None, None, None);
        Self { kind, node, by: String::new(), text, position, took_ms, log: String::new() }
    }

    /// Returns the same about that node.
    #[must_use]
    pub fn about(self, node: &NodeId) -> Self {
        Self { node: Some(node.clone()), ..self }
    }

    /// Returns the same as asked for by somebody.
    #[must_use]
    pub fn asked_by(self, by: &str) -> Self {
        Self { by: by.to_owned(), ..self }
    }

    /// Returns the same with a place in the WAL.
    #[must_use]
    pub fn at(self, position: WalPosition) -> Self {
        Self { position: Some(position), ..self }
    }

    /// Returns the same with how long it took, milliseconds.
    #[must_use]
    pub fn lasting(self, took_ms: u64) -> Self {
        Self { took_ms: Some(took_ms), ..self }
    }

    /// Returns the same with the name of its log file.
    #[must_use]
    pub fn logged_in(self, log: &str) -> Self {
        Self { log: log.to_owned(), ..self }
    }
}

impl State {
    /// Remembers what happened.
    pub(super) fn remember(&mut self, at_unix_ms: u64, mut what: Note) {
        cut(&mut what.text);
        cut(&mut what.by);
        self.event_count += 1;
        let event = Event { id: self.event_count, at_unix_ms, epoch: self.last_epoch, what };
        let events = Arc::make_mut(&mut self.events);
        events.push(event);
        let surplus = events.len().saturating_sub(EVENTS_MAX);
        events.drain(..surplus);
    }

    /// Returns what is to be remembered of a command that was just carried out on `before`.
    pub(super) fn note_of(&self, before: &Self, command: &Command) -> Option<Note> {
        use EventKind as K;
        let note = |kind, text: &str| Some(Note::new(kind, text.to_owned()));
        let about = |node: &NodeId, kind, text: String| Some(Note::new(kind, text).about(node));
        match command {
            Command::At { .. }
            | Command::Describe { .. }
            | Command::AssignBootstrap { .. }
            | Command::EndBootstrap { .. }
            | Command::DropDivergence { .. } => None,
            Command::Note { note } => Some(note.clone()),
            Command::Found { cluster, .. } => note(K::Founded, cluster),
            Command::RegisterSystem { system_identifier, .. } => {
                note(K::Bootstrapped, &format!("database system {system_identifier}"))
            }
            Command::Grant { to, evidence, .. } => about(to, K::Granted, evidence.clone()),
            Command::Vacate { reason, .. } => {
                about(before.lease.holder()?, K::Vacated, reason.to_string())
            }
            Command::Transfer { to, evidence, .. } => about(to, K::Transferred, evidence.clone()),
            Command::RecordPromotion { begin, .. } => {
                let text = format!("timeline {} begins", begin.timeline);
                about(self.lease.holder()?, K::Promoted, text).map(|note| note.at(*begin))
            }
            Command::SetQuorum { .. } => {
                let (old, new) = (before.recorded.as_ref()?, self.recorded.as_ref()?);
                if old.quorum == new.quorum && old.mode == new.mode {
                    return None;
                }
                note(K::QuorumChanged, &new.quorum.to_string())
            }
            Command::SetDurability { .. } | Command::Configure { .. } => {
                let change = self.config_log.last()?;
                let text = change.to_string();
                note(K::ConfigChanged, &text).map(|note| note.asked_by(&change.by))
            }
            Command::RecordDivergence { node, fork, end, .. } => {
                if self.divergences == before.divergences {
                    return None;
                }
                let bytes = end.lsn.bytes_after(fork.lsn);
                about(node, K::Diverged, format!("{bytes} bytes up to {end}"))
                    .map(|note| note.at(*fork))
            }
            Command::Pause { by, why } => note(K::Paused, why).map(|note| note.asked_by(by)),
            Command::EndPause { by, forced } => {
                let kind = if self.pause.is_none() { K::Resumed } else { K::Resuming };
                let text = if *forced { "without the holder's word" } else { "" };
                note(kind, text).map(|note| note.asked_by(by))
            }
            Command::ConfirmResumed { .. } => note(K::Resumed, ""),
            Command::Fence { node, by, why } => {
                about(node, K::Fenced, why.clone()).map(|note| note.asked_by(by))
            }
            Command::Unfence { node, by } => {
                about(node, K::Unfenced, String::new()).map(|note| note.asked_by(by))
            }
            Command::Join { node, is, by } => {
                if before.nodes.get(node) == Some(is) && !before.is_leaving(node) {
                    return None;
                }
                about(node, K::Joined, format!("a {} node", is.kind)).map(|note| note.asked_by(by))
            }
            Command::Retire { node, by } => {
                if before.is_leaving(node) {
                    return None;
                }
                about(node, K::Leaving, String::new()).map(|note| note.asked_by(by))
            }
            Command::Leave { node } => about(node, K::Left, String::new()),
            Command::Schedule { due_unix_ms, to, by } => {
                let to = to.as_ref().map_or("the fittest standby", NodeId::as_str);
                let id = self.schedules;
                note(K::Scheduled, &format!("number {id}: to {to} at {due_unix_ms} ms Unix time"))
                    .map(|note| note.asked_by(by))
            }
            Command::BeginDrill { drill } => {
                let text = format!("begins: {}, measured by {}", drill.what, drill.conductor);
                about(&drill.node, K::Drill, text).map(|note| note.asked_by(&drill.by))
            }
            Command::EndDrill { node, text, took_ms, log, .. } => {
                let drill = before.drill.as_ref()?;
                let text = format!("ended: {} on {}: {text}", drill.what, drill.node);
                about(node, K::Drill, text)
                    .map(|note| note.asked_by(&drill.by).lasting(*took_ms).logged_in(log))
            }
            Command::Unschedule { id, by, why } => {
                note(K::Unscheduled, &format!("number {id}: {why}")).map(|note| note.asked_by(by))
            }
        }
    }
}

impl fmt::Display for VacateReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired => f.write_str("nobody renewed it for a whole ttl"),
            Self::Killed => f.write_str("the holder's container was killed from outside"),
            Self::Released { why } => write!(f, "given back: {why}"),
        }
    }
}

/// Cuts a text that somebody made too long, between two characters.
fn cut(text: &mut String) {
    if text.len() > EVENT_TEXT_MAX {
        let end = (0..=EVENT_TEXT_MAX).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
    }
}
