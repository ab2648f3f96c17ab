//! A drill: what is planned, and what was seen of it.

use std::time::Duration;

use ha_core::{Epoch, NodeId};
use ha_proto::v1;
use ha_proto::v1::drill_news::News;

use super::switchover::{Finding, refusal};
use super::{MalformedReply, name, optional_name, plain, text};

/// What a drill would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrillPlan {
    /// What is rehearsed: `switchover`, `crash`, `freeze` or `partition`.
    pub kind: String,
    /// The primary.
    pub node: NodeId,
    /// Who would take over; none if nobody can.
    pub to: Option<NodeId>,
    /// The grant under which it is made.
    pub epoch: Epoch,
    /// How long the fault lasts; zero for one without duration.
    pub fault: Duration,
    /// What clients are promised.
    pub durability: String,
    /// Who measures.
    pub measured_by: NodeId,
    /// Where its agent listens, as the agents know it.
    pub address: String,
    /// What speaks against it, or is to be known.
    pub findings: Vec<Finding>,
    /// What will happen, a sentence each.
    pub happens: Vec<String>,
    /// Every node.
    pub nodes: Vec<NodeId>,
}

impl DrillPlan {
    /// Returns why it is not done, if it is not.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        refusal(&self.findings)
    }

    /// Says what is rehearsed on whom.
    #[must_use]
    pub fn what(&self) -> String {
        let Self { kind, node, .. } = self;
        if self.fault.is_zero() {
            return format!("{kind} of {node}");
        }
        format!("{kind} of {node} for {} s", self.fault.as_secs_f64())
    }
}

impl TryFrom<v1::DrillPlanReply> for DrillPlan {
    type Error = MalformedReply;

    fn try_from(wire: v1::DrillPlanReply) -> Result<Self, MalformedReply> {
        Ok(Self {
            kind: plain(&wire.kind),
            node: name(&wire.node)?,
            to: optional_name(&wire.to)?,
            epoch: Epoch(wire.epoch),
            fault: Duration::from_millis(wire.fault_ms),
            durability: plain(&wire.durability),
            measured_by: name(&wire.measured_by)?,
            address: plain(&wire.address),
            findings: wire.findings.iter().map(Finding::from).collect(),
            happens: wire.happens.iter().map(|line| plain(line)).collect(),
            nodes: wire.nodes.iter().map(|node| name(node)).collect::<Result<_, _>>()?,
        })
    }
}

/// Something that was noticed or done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noticed {
    /// When, milliseconds since the measuring began.
    pub at_ms: u64,
    /// What kind of thing.
    pub kind: String,
    /// About whom; none for the whole cluster.
    pub node: Option<String>,
    /// More.
    pub text: String,
}

/// What a node reported from a moment on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// When, milliseconds since the measuring began.
    pub at_ms: u64,
    /// Who.
    pub node: String,
    /// Its role.
    pub role: String,
    /// Its state.
    pub state: String,
}

/// The writes of a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writes {
    /// Up to when, milliseconds since the measuring began.
    pub at_ms: u64,
    /// How many were acknowledged.
    pub acknowledged: u64,
    /// How many were not done, or not known to be.
    pub missed: u64,
}

/// What was measured in the end.
pub type Measured = v1::DrillResult;

/// What was seen of a drill so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    /// Who noticed what, in order.
    pub noticed: Vec<Noticed>,
    /// What the nodes reported, in order.
    pub sights: Vec<Sight>,
    /// The writes, moment by moment.
    pub writes: Vec<Writes>,
    /// When the fault was made, as far as told.
    pub struck_ms: Option<u64>,
    /// What was measured; none before the end.
    pub result: Option<Measured>,
    /// Up to when something was seen.
    pub until_ms: u64,
}

impl Seen {
    /// Takes in what an agent tells. Returns a line for people, if it is worth one.
    pub fn take(&mut self, wire: v1::DrillNews) -> Option<String> {
        let at_ms = wire.at_ms;
        self.until_ms = self.until_ms.max(at_ms);
        let seconds = Duration::from_millis(at_ms).as_secs_f64();
        let line = |text: String| Some(format!("{seconds:>6.2} s  {text}"));
        match wire.news? {
            News::Phase(v1::DrillPhase { name, detail }) => {
                if name == "struck" {
                    self.struck_ms = Some(at_ms);
                }
                let (name, detail) = (plain(&name).replace('_', " "), plain(&detail));
                let colon = if detail.is_empty() { "" } else { ": " };
                line(format!("{name}{colon}{detail}"))
            }
            News::Counts(v1::DrillCounts { acknowledged, failed, unknown, node: _ }) => {
                let missed = failed.saturating_add(unknown);
                self.writes.push(Writes { at_ms, acknowledged, missed });
                None
            }
            News::Noticed(v1::DrillNoticed { kind, node, text: said }) => {
                let (kind, node, said) = (plain(&kind), text(&node), plain(&said));
                let shown = node.clone().unwrap_or_else(|| "-".to_owned());
                let said_line = line(format!("{shown}  {kind}: {said}"));
                self.noticed.push(Noticed { at_ms, kind, node, text: said });
                said_line
            }
            News::Sight(v1::DrillSight { node, role, state }) => {
                let (node, role, state) = (plain(&node), plain(&role), plain(&state));
                self.sights.push(Sight { at_ms, node, role, state });
                None
            }
            News::Result(result) => {
                self.struck_ms = Some(result.struck_ms);
                self.result = Some(cleaned(&result));
                None
            }
        }
    }
}

/// Returns the same without what a terminal would obey.
fn cleaned(result: &Measured) -> Measured {
    Measured {
        primary_before: plain(&result.primary_before),
        primary_after: plain(&result.primary_after),
        awaited: plain(&result.awaited),
        trouble: plain(&result.trouble),
        ..result.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(at_ms: u64, news: News) -> v1::DrillNews {
        v1::DrillNews { at_ms, news: Some(news) }
    }

    #[test]
    fn what_is_told_is_kept_and_what_matters_is_said() {
        let mut seen = Seen::default();
        let phase = |name: &str, detail: &str| {
            News::Phase(v1::DrillPhase { name: name.into(), detail: detail.into() })
        };
        let counts = v1::DrillCounts { acknowledged: 4, failed: 1, unknown: 2, node: "n1".into() };
        let noticed = v1::DrillNoticed {
            kind: "silent".into(),
            node: "n1".into(),
            text: "does not\u{1b}[2J answer".into(),
        };
        let said = seen.take(news(1500, phase("struck", "crash")));
        assert_eq!(said.as_deref(), Some("  1.50 s  struck: crash"));
        assert_eq!(seen.take(news(1600, News::Counts(counts))), None);
        let said = seen.take(news(2000, News::Noticed(noticed))).expect("a line");
        assert!(said.starts_with("  2.00 s  n1  silent: does not") && !said.contains('\u{1b}'));
        assert_eq!(seen.take(v1::DrillNews { at_ms: 2100, news: None }), None);
        assert_eq!((seen.struck_ms, seen.until_ms), (Some(1500), 2100));
        assert_eq!(seen.writes, [Writes { at_ms: 1600, acknowledged: 4, missed: 3 }]);
    }
}
