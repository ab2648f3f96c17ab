//! Why the cluster is as it is, and what would happen if the primary died now.

use std::time::Duration;

use ha_core::candidate::{Refusal, elect};
use ha_core::clock::millis;
use ha_core::decide::Rule;
use ha_core::{NodeId, WalPosition};
use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::{ExplainReply, IfPrimaryDied, NodeExplanation};

use super::picture::Picture;
use crate::agent::{Agent, lock};
use crate::granter;
use crate::report;

/// What a promotion takes on top of the lease: an election and the end of recovery.
const PROMOTION: Duration = Duration::from_millis(300);

impl Picture {
    pub(super) fn explain<D: PostgresDriver>(&self, agent: &Agent<D>) -> ExplainReply {
        let status = self.status(agent);
        let holder = self.state.lease.holder();
        let mut summary = format!("cluster {} is {}", status.cluster, status.state);
        if !status.reason.is_empty() {
            summary = format!("{summary}: {}", status.reason);
        } else if let Some(holder) = holder {
            summary = format!("{summary}: node {holder} is primary under epoch {}", status.epoch);
        }
        if holder.is_none() {
            let refusals = lock(&agent.last_refusals);
            let list: Vec<String> =
                refusals.iter().map(|(node, why)| format!("{node}: {why}")).collect();
            if !list.is_empty() && self.leader.as_ref() == Some(agent.node()) {
                summary = format!("{summary} ({})", list.join("; "));
            }
        }
        ExplainReply {
            summary,
            nodes: status.nodes.iter().map(|node| explain_node(node, &self.reports)).collect(),
            if_primary_died: holder.map(|holder| self.if_primary_died(agent, holder)),
            answered_by: agent.node().to_string(),
        }
    }

    /// Runs the real election on what is known, without the primary.
    fn if_primary_died<D: PostgresDriver>(
        &self,
        agent: &Agent<D>,
        holder: &NodeId,
    ) -> IfPrimaryDied {
        let reports = self
            .reports
            .iter()
            .filter(|(node, _)| *node != holder)
            .filter_map(|(node, reply)| {
                let report = report::as_if_pledged(reply.as_ref()?, self.state.last_epoch);
                Some((node.clone(), report))
            })
            .collect();
        let known: Option<WalPosition> = self
            .primary_report()
            .and_then(|r| r.postgres.as_ref()?.flushed)
            .map(Into::into)
            .or_else(|| granter::known_end(agent, &self.state));
        let election = elect(&self.state, &reports, known, &agent.config.policy);
        let survivors = self.reports.values().flatten().count();
        let majority = self.reports.len() / 2 + 1;
        let holder_answers = usize::from(matches!(self.reports.get(holder), Some(Some(_))));
        let quorum_left = survivors - holder_answers >= majority;
        let refusals = election
            .refusals
            .iter()
            .filter(|(node, _)| *node != holder)
            .map(|(node, why)| format!("{node}: {why}"))
            .collect();
        let max = agent.config.policy.lag_bytes_max;
        let (successor, why, lost_bytes, lost) = match election.winner {
            Some(_) if !quorum_left => (
                String::new(),
                "nobody: without the primary's node no majority of the agents is left".to_owned(),
                None,
                "nothing is lost while nobody is promoted".to_owned(),
            ),
            Some(winner) => {
                let lost = match winner.lost_bytes {
                    _ if !winner.proven_by.is_empty() => self.loss(agent),
                    Some(bytes) => format!(
                        "{bytes} bytes right now; durability is async, so up to {max} bytes of \
                         acknowledged commits may be lost, and a standby further behind is refused"
                    ),
                    None => format!("unknown; durability is async, the bound is {max} bytes"),
                };
                (winner.node.to_string(), winner.evidence(), winner.lost_bytes, lost)
            }
            None => (
                String::new(),
                "nobody: see the refusals".to_owned(),
                None,
                "nothing is lost while nobody is promoted".to_owned(),
            ),
        };
        let ttl = self.state.lease.grant().map_or(agent.config.policy.ttl, |grant| grant.ttl);
        IfPrimaryDied {
            successor,
            why,
            refusals,
            lost_bytes,
            lost,
            expected_ms: millis(agent.config.policy.drift.lengthened(ttl) + PROMOTION),
        }
    }
}

fn explain_node(
    node: &ha_proto::v1::NodeStatus,
    reports: &std::collections::BTreeMap<NodeId, Option<ha_proto::v1::ReportReply>>,
) -> NodeExplanation {
    let rule = Rule::ALL.iter().find(|rule| rule.name() == node.rule);
    let name = node.name.clone();
    if !node.reachable {
        return NodeExplanation {
            node: name,
            rule: "unreachable".to_owned(),
            why: Refusal::Unreachable.to_string(),
            waiting_for: "its agent".to_owned(),
        };
    }
    let Some(rule) = rule else {
        let why = if node.kind == "witness" && node.state == "receiving" {
            "It votes, and keeps WAL: it acknowledges commits."
        } else if node.kind == "witness" {
            "It votes, and keeps WAL when it can."
        } else {
            "It has not decided anything yet."
        };
        let rule = if node.kind == "witness" { "voting" } else { "undecided" };
        return NodeExplanation {
            node: name,
            rule: rule.to_owned(),
            why: why.to_owned(),
            waiting_for: String::new(),
        };
    };
    let lasts = reports
        .iter()
        .find(|(id, _)| id.as_str() == node.name)
        .and_then(|(_, report)| report.as_ref())
        .map_or(0, |report| report.rule_for_ms);
    let mut why =
        format!("{} (for {:.1} s)", rule.why(), Duration::from_millis(lasts).as_secs_f64());
    for trouble in &node.troubles {
        why = format!("{why} Trouble: {trouble}.");
    }
    NodeExplanation {
        node: name,
        rule: rule.name().to_owned(),
        why,
        waiting_for: rule.awaits().to_owned(),
    }
}
