//! What became of an order.

use ha_proto::v1;

use super::{MalformedReply, text};

/// What became of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ordered {
    /// How far it got.
    pub outcome: OrderOutcome,
    /// What is so now, or is still awaited.
    pub detail: Option<String>,
}

/// How far an order got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderOutcome {
    /// It is carried out.
    Done,
    /// It was taken, and is under way.
    Accepted,
    /// It was so before.
    Unchanged,
}

impl OrderOutcome {
    /// Returns its word, as programs see it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Accepted => "accepted",
            Self::Unchanged => "unchanged",
        }
    }
}

impl TryFrom<v1::OrderReply> for Ordered {
    type Error = MalformedReply;

    fn try_from(wire: v1::OrderReply) -> Result<Self, MalformedReply> {
        let v1::OrderReply { outcome, detail } = wire;
        let all = [OrderOutcome::Done, OrderOutcome::Accepted, OrderOutcome::Unchanged];
        let known = all.into_iter().find(|known| known.word() == outcome);
        let outcome = known.ok_or(MalformedReply::Outcome { text: outcome })?;
        Ok(Self { outcome, detail: text(&detail) })
    }
}
