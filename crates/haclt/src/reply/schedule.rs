//! Switchovers that are to come.

use ha_core::NodeId;
use ha_proto::v1;

use super::{MalformedReply, filled, optional_name};

/// Switchovers that are to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// In the order in which they were ordered.
    pub entries: Vec<Scheduled>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheduled {
    /// Its number.
    pub id: u64,
    /// When, milliseconds of Unix time.
    pub due_unix_ms: u64,
    /// To whom; none for the fittest standby.
    pub to: Option<NodeId>,
    /// Who ordered it.
    pub by: String,
}

impl TryFrom<v1::ScheduleListReply> for Schedule {
    type Error = MalformedReply;

    fn try_from(wire: v1::ScheduleListReply) -> Result<Self, MalformedReply> {
        let entries = wire.entries.into_iter().map(|entry| {
            Ok(Scheduled {
                id: entry.id,
                due_unix_ms: entry.due_unix_ms,
                to: optional_name(&entry.to)?,
                by: filled(&entry.by, "by")?,
            })
        });
        Ok(Self { entries: entries.collect::<Result<_, _>>()? })
    }
}
