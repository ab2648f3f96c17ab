//! The cluster as this agent sees it now: what every node reports, and what follows.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use ha_core::candidate::{BootstrapChoice, choose_bootstrap};
use ha_core::decide::Rule;
use ha_core::policy::Durability;
use ha_core::state::State;
use ha_core::state::operator::Pause;
use ha_core::{Lsn, NodeId, NodeKind};
use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::{LeaseStatus, NodeStatus, RaftStatus, ReportReply, StatusReply};

use crate::agent::{Agent, lock};
use crate::clock;
use crate::report;

/// How long a node may take to report for one answer.
const REPORT_LIMIT: Duration = Duration::from_millis(800);
/// How long the round that proves a quorum may take.
const QUORUM_LIMIT: Duration = Duration::from_millis(800);

/// What one answer is made from.
pub(super) struct Picture {
    pub(super) state: State,
    pub(super) reports: BTreeMap<NodeId, Option<ReportReply>>,
    pub(super) leader: Option<NodeId>,
    term: u64,
    voters: Vec<NodeId>,
    quorum: bool,
    left_ms: u64,
}

impl Picture {
    pub(super) async fn take<D: PostgresDriver>(agent: &Agent<D>) -> Self {
        let members = agent.members();
        let asked = members.keys().map(|node| async move {
            let reply = if node == agent.node() {
                Some(report::fresh(agent).await)
            } else {
                let request = report::request(agent, true);
                agent.peers.report(node, request, REPORT_LIMIT).await.ok()
            };
            (node.clone(), reply)
        });
        let (reports, confirmed) =
            tokio::join!(join_all(asked), agent.raft.confirm_leadership(QUORUM_LIMIT));
        let reports: BTreeMap<_, _> = reports.into_iter().collect();
        let status = agent.raft.status();
        let state = agent.state();
        let agreeing = reports
            .values()
            .flatten()
            .filter(|r| {
                status.leader.as_ref().is_some_and(|leader| r.raft_leader == leader.as_str())
            })
            .count();
        // The leader asked a majority just now; anybody else counts who follows the same leader.
        let quorum = if status.is_leader {
            confirmed.is_ok()
        } else {
            status.leader.is_some() && agreeing > status.voters.len() / 2
        };
        let by_holder = state
            .lease
            .holder()
            .and_then(|holder| reports.get(holder)?.as_ref())
            .map(|report| report.left_ms);
        let by_granter = lock(&agent.granter).left(&state.lease, clock::now());
        let left_ms =
            by_holder.or_else(|| by_granter.map(ha_core::clock::millis)).unwrap_or_default();
        Self {
            state,
            reports,
            leader: status.leader,
            term: status.term,
            voters: status.voters,
            quorum,
            left_ms,
        }
    }

    pub(super) fn status<D: PostgresDriver>(&self, agent: &Agent<D>) -> StatusReply {
        let nodes: Vec<NodeStatus> =
            self.reports.keys().map(|node| self.node(agent, node)).collect();
        let (state, reason) = self.judge(&nodes);
        let grant = self.state.lease.grant();
        let primary = self.primary_report();
        let timeline = primary
            .and_then(|r| r.postgres.as_ref()?.flushed)
            .map(|position| position.timeline)
            .or_else(|| self.state.latest_promotion().map(|p| p.begin.timeline.0));
        let holder = grant.map(|grant| grant.holder.to_string()).unwrap_or_default();
        StatusReply {
            cluster: agent.config.cluster.clone(),
            state: state.to_owned(),
            reason,
            epoch: self.state.last_epoch.0,
            timeline: timeline.unwrap_or_default(),
            durability: self.state.durability.to_string(),
            paused: self.state.is_paused(),
            lease: Some(LeaseStatus {
                left_ms: if grant.is_some() { self.left_ms } else { 0 },
                ttl_ms: ha_core::clock::millis(
                    grant.map_or(agent.config.policy.ttl, |grant| grant.ttl),
                ),
                holder: holder.clone(),
            }),
            raft: Some(RaftStatus {
                leader: self.leader.as_ref().map(ToString::to_string).unwrap_or_default(),
                term: self.term,
                voters: self.voters.iter().map(ToString::to_string).collect(),
                quorum: self.quorum,
            }),
            wal_quorum: Some(self.wal_quorum()),
            loss: self.loss(agent),
            nodes,
            answered_by: agent.node().to_string(),
        }
    }

    pub(super) fn primary_report(&self) -> Option<&ReportReply> {
        let report = self.reports.get(self.state.lease.holder()?)?.as_ref()?;
        (report.role == "primary").then_some(report)
    }

    fn node<D>(&self, agent: &Agent<D>, node: &NodeId) -> NodeStatus {
        let known = self.state.nodes.get(node);
        let Some(Some(report)) = self.reports.get(node) else {
            return NodeStatus {
                name: node.to_string(),
                kind: known.map(|n| n.kind.to_string()).unwrap_or_default(),
                role: match known.map(|n| n.kind) {
                    Some(NodeKind::Witness) => "witness",
                    _ => "none",
                }
                .to_owned(),
                state: "unreachable".to_owned(),
                postgres: known.map(|n| n.postgres.clone()).unwrap_or_default(),
                ..NodeStatus::default()
            };
        };
        let mut status = NodeStatus {
            name: node.to_string(),
            kind: report.kind.clone(),
            role: report.role.clone(),
            state: report.state.clone(),
            reachable: true,
            agent_version: report.agent_version.clone(),
            rule: report.rule.clone(),
            troubles: report.troubles.clone(),
            ..NodeStatus::default()
        };
        // Nobody asked it to in the other modes.
        if let Some(witness) = report.witness.as_ref().filter(|witness| !witness.keeps_wal)
            && self.state.durability == Durability::Quorum
        {
            status.troubles.push(witness.why.clone());
        }
        if let Some(witness) = &report.witness
            && let Some(end) = witness.tip.as_ref().and_then(|tip| tip.end)
        {
            status.timeline = end.timeline;
            status.flushed_lsn = Lsn(end.lsn).to_string();
            status.lag_bytes = self.behind_primary(Lsn(end.lsn));
            status.wal_ack = self.acknowledges(node);
        }
        if let Some(postgres) = &report.postgres {
            status.postgres.clone_from(&postgres.address);
            let runs = report.role == "primary" || report.role == "standby";
            if let Some(position) = postgres.flushed.filter(|_| runs) {
                status.timeline = position.timeline;
                status.flushed_lsn = Lsn(position.lsn).to_string();
                status.replayed_lsn = Lsn(postgres.replayed).to_string();
            }
            let is_primary = report.role == "primary";
            status.lag_bytes = if is_primary { None } else { self.lag_bytes(report) };
            status.wal_ack = is_primary || self.acknowledges(node);
            // A receiver that fails again and again says that it streams; the primary knows better.
            if status.state == "streaming" && self.has_receivers() && !self.streams(node) {
                "catching_up".clone_into(&mut status.state);
            }
            let majors = (agent.postgres_major, postgres.major);
            if let (Some(ours), theirs) = majors
                && theirs != 0
                && theirs != ours
            {
                status.troubles.push(format!(
                    "it runs PostgreSQL {theirs}, node {} runs {ours}: replication needs one major",
                    agent.node()
                ));
            }
        }
        status
    }

    /// Why there is no database yet.
    fn bootstrap_reason(&self) -> String {
        if let Some(bootstrap) = &self.state.bootstrap {
            return format!("node {} is making the database", bootstrap.node);
        }
        let reports = self.reports.iter();
        let known = reports
            .filter_map(|(node, reply)| Some((node.clone(), report::to_core(reply.as_ref()?))));
        match choose_bootstrap(&self.state, &known.collect()) {
            BootstrapChoice::Conflict(found) => {
                let list: Vec<String> =
                    found.iter().map(|(node, id)| format!("node {node} has {id}")).collect();
                format!(
                    "the nodes have different databases ({}): empty the data directory of those that \
                     are to be cloned",
                    list.join(", ")
                )
            }
            BootstrapChoice::Unusable(nodes) => {
                let names: Vec<&str> = nodes.iter().map(NodeId::as_str).collect();
                format!("the data directory of {} cannot be used", names.join(", "))
            }
            BootstrapChoice::WaitFor(_) | BootstrapChoice::Assign(_) => {
                "waiting for every data node to say whether it has a database".to_owned()
            }
        }
    }

    /// Who paused the cluster and why, and what its end waits for.
    fn paused_reason(&self, pause: &Pause) -> String {
        let by = if pause.why.is_empty() {
            format!("by {}", pause.by)
        } else {
            format!("by {}: {}", pause.by, pause.why)
        };
        match self.state.lease.holder() {
            Some(holder) if pause.ending => {
                format!("{by}; it ends once node {holder} says that its guard has a deadline again")
            }
            None => format!("{by}; nobody holds the lease, and nobody is given it"),
            Some(_) => by,
        }
    }

    /// How much WAL a standby has still to receive; `None` if either position is unknown.
    fn lag_bytes(&self, standby: &ReportReply) -> Option<u64> {
        let standby = standby.postgres.as_ref().filter(|p| p.answering)?;
        self.behind_primary(Lsn(standby.flushed?.lsn))
    }

    fn behind_primary(&self, has: Lsn) -> Option<u64> {
        let primary = self.primary_report()?.postgres.as_ref()?.flushed?;
        Some(Lsn(primary.lsn).bytes_after(has))
    }

    /// Whether this node's word counts for commits, and it receives.
    fn acknowledges(&self, node: &NodeId) -> bool {
        let recorded = self.state.recorded.as_ref();
        let member = recorded.is_some_and(|recorded| recorded.quorum.members.contains(node));
        member && self.streams(node)
    }

    /// The cluster's state in one word, and why it is not `healthy`.
    fn judge(&self, nodes: &[NodeStatus]) -> (&'static str, String) {
        let silent: Vec<&str> =
            nodes.iter().filter(|n| !n.reachable).map(|n| n.name.as_str()).collect();
        if self.leader.is_none() || !self.quorum {
            let answering = nodes.len() - silent.len();
            if answering <= nodes.len() / 2 {
                let text = format!("{} of {} nodes answer", answering, nodes.len());
                return ("no_quorum", text);
            }
            if self.state.is_founded() || self.leader.is_some() {
                return ("leaderless", "the agents are electing a Raft leader".to_owned());
            }
        }
        if !self.state.is_founded() {
            return ("bootstrapping", "the agents are forming the cluster".to_owned());
        }
        if self.state.system_identifier.is_none() {
            return ("bootstrapping", self.bootstrap_reason());
        }
        if let Some(pause) = &self.state.pause {
            return ("paused", self.paused_reason(pause));
        }
        let Some(holder) = self.state.lease.holder() else {
            return ("electing", "nobody holds the lease".to_owned());
        };
        let serving =
            nodes.iter().any(|n| n.name == holder.as_str() && n.rule == Rule::Serving.name());
        let handing_over =
            nodes.iter().any(|n| n.name == holder.as_str() && n.rule == Rule::HandingOver.name());
        if handing_over {
            return ("switching", format!("node {holder} hands the primary role over"));
        }
        if !serving {
            let rule = nodes
                .iter()
                .find(|n| n.name == holder.as_str())
                .map_or("", |n| if n.reachable { n.rule.as_str() } else { "unreachable" });
            return ("electing", format!("node {holder} holds the lease and is {rule}"));
        }
        let ill = nodes.iter().filter_map(|n| ill(n, holder));
        let ill: Vec<String> = ill.chain(self.durability_trouble()).collect();
        if ill.is_empty() { ("healthy", String::new()) } else { ("degraded", ill.join("; ")) }
    }
}

/// Why a node is not as it should be beside a serving primary.
fn ill(node: &NodeStatus, holder: &NodeId) -> Option<String> {
    let name = &node.name;
    if !node.reachable {
        return Some(format!("node {name} does not answer"));
    }
    if let Some(trouble) = node.troubles.first() {
        return Some(format!("node {name}: {trouble}"));
    }
    let streams = node.state == "streaming" && node.rule == Rule::Following.name();
    if name != holder.as_str() && node.kind == "data" && !streams {
        return Some(format!("node {name} is {}", node.state));
    }
    None
}
