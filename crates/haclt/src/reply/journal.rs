//! What happened.

use ha_core::{Epoch, Lsn, NodeId, TimelineId};
use ha_proto::v1;

use super::{MalformedReply, filled, name, optional_name, text, texts};

/// Events, and how far they go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Events {
    /// Oldest first.
    pub events: Vec<Event>,
    /// The number of the latest one that the agent knows.
    pub last: u64,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its number.
    pub id: u64,
    /// When, milliseconds of Unix time.
    pub at_unix_ms: u64,
    /// The epoch then.
    pub epoch: Epoch,
    /// What kind of thing.
    pub kind: String,
    /// Which node; none for the whole cluster.
    pub node: Option<NodeId>,
    /// Who asked for it, if anybody did.
    pub by: Option<String>,
    /// What exactly.
    pub text: Option<String>,
    /// Where in the WAL, as the agent writes it.
    pub lsn: Option<String>,
    /// On which timeline.
    pub timeline: Option<TimelineId>,
    /// How long it took, milliseconds.
    pub took_ms: Option<u64>,
    /// Whether its node keeps a log of it.
    pub logged: bool,
}

/// One event with its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventReport {
    /// The event.
    pub event: Event,
    /// The lines of its log.
    pub lines: Vec<String>,
    /// Why there are none.
    pub note: Option<String>,
}

/// The promotions that are remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Oldest first.
    pub promotions: Vec<Promotion>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promotion {
    /// Under which grant.
    pub epoch: Epoch,
    /// Who.
    pub node: NodeId,
    /// The timeline that began.
    pub timeline: TimelineId,
    /// Where.
    pub lsn: Lsn,
    /// When, milliseconds of Unix time.
    pub at_unix_ms: u64,
    /// Why it was given the lease, if that is remembered.
    pub why: Option<String>,
    /// How that ended, if it has and is remembered.
    pub ended: Option<String>,
}

impl TryFrom<v1::Event> for Event {
    type Error = MalformedReply;

    fn try_from(wire: v1::Event) -> Result<Self, MalformedReply> {
        Ok(Self {
            id: wire.id,
            at_unix_ms: wire.at_unix_ms,
            epoch: Epoch(wire.epoch),
            kind: filled(&wire.kind, "kind")?,
            node: optional_name(&wire.node)?,
            by: text(&wire.by),
            text: text(&wire.text),
            lsn: text(&wire.lsn),
            timeline: (wire.timeline != 0).then_some(TimelineId(wire.timeline)),
            took_ms: wire.took_ms,
            logged: wire.logged,
        })
    }
}

impl TryFrom<v1::EventsReply> for Events {
    type Error = MalformedReply;

    fn try_from(wire: v1::EventsReply) -> Result<Self, MalformedReply> {
        let events = wire.events.into_iter().map(Event::try_from).collect::<Result<_, _>>()?;
        Ok(Self { events, last: wire.last })
    }
}

impl TryFrom<v1::EventShowReply> for EventReport {
    type Error = MalformedReply;

    fn try_from(wire: v1::EventShowReply) -> Result<Self, MalformedReply> {
        let event = wire.event.ok_or(MalformedReply::Missing { field: "event" })?;
        let (lines, note) = (texts(&wire.lines), text(&wire.note));
        Ok(Self { event: event.try_into()?, lines, note })
    }
}

impl TryFrom<v1::HistoryReply> for History {
    type Error = MalformedReply;

    fn try_from(wire: v1::HistoryReply) -> Result<Self, MalformedReply> {
        let promotions = wire.promotions.into_iter().map(Promotion::try_from);
        Ok(Self { promotions: promotions.collect::<Result<_, _>>()? })
    }
}

impl TryFrom<v1::PromotionEntry> for Promotion {
    type Error = MalformedReply;

    fn try_from(wire: v1::PromotionEntry) -> Result<Self, MalformedReply> {
        let node = name(&wire.node)?;
        let lsn = wire.lsn.parse().map_err(|_| MalformedReply::Position {
            node: node.clone(),
            field: "lsn",
            text: wire.lsn.clone(),
        })?;
        Ok(Self {
            epoch: Epoch(wire.epoch),
            node,
            timeline: TimelineId(wire.timeline),
            lsn,
            at_unix_ms: wire.at_unix_ms,
            why: text(&wire.why),
            ended: text(&wire.ended),
        })
    }
}
