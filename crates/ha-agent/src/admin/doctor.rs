//! Every node examined: this one here, the others by their own agents.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use ha_core::NodeId;
use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::{DoctorFact, DoctorFinding, DoctorReply, DoctorRequest};
use tonic::{Code, Status};

use super::credentials;
use crate::agent::Agent;
use crate::doctor::compare::{self, Facts};
use crate::doctor::finding::Finding;
use crate::doctor::{self, EXAMINATION_LIMIT, links};

/// How long another agent may take beyond its own limit.
const SLACK: Duration = Duration::from_secs(1);

/// Examines this node, or all.
///
/// # Errors
/// `InvalidArgument` for a node that is none.
pub(super) async fn answer<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    request: &DoctorRequest,
) -> Result<DoctorReply, Status> {
    let answered_by = agent.node().to_string();
    if request.clocks {
        let clocks = Some(links::own_clocks());
        return Ok(DoctorReply { answered_by, clocks, ..DoctorReply::default() });
    }
    if request.local {
        let (findings, facts) = doctor::examine(agent).await;
        let findings = findings.into_iter().map(|finding| wire(agent.node(), finding)).collect();
        let facts = facts.into_iter().map(|(key, value)| DoctorFact { key, value }).collect();
        return Ok(DoctorReply { findings, answered_by, facts, ..DoctorReply::default() });
    }
    let only = match request.node.as_str() {
        "" => None,
        name => Some(known(agent, name)?),
    };
    let findings = all(agent).await;
    let wanted =
        |finding: &DoctorFinding| only.as_ref().is_none_or(|only| finding.node == only.as_str());
    let findings = findings.into_iter().filter(wanted).collect();
    Ok(DoctorReply { findings, answered_by, ..DoctorReply::default() })
}

fn known<D>(agent: &Agent<D>, name: &str) -> Result<NodeId, Status> {
    let found = agent.members().into_keys().find(|node| node.as_str() == name);
    found.ok_or_else(|| {
        Status::invalid_argument(format!("node {name:?} is not a node of this cluster"))
    })
}

async fn all<D: PostgresDriver>(agent: &Arc<Agent<D>>) -> Vec<DoctorFinding> {
    let others = agent.others();
    let others = join_all(others.iter().map(|node| async move {
        let cluster = agent.config.cluster.clone();
        let request = DoctorRequest { cluster, local: true, ..DoctorRequest::default() };
        (node, agent.peers.doctor(node, request, EXAMINATION_LIMIT + SLACK).await)
    }));
    let ((own, own_facts), others, passwords) =
        tokio::join!(doctor::examine(agent), others, credentials::compared(agent));
    let mut findings: Vec<DoctorFinding> =
        own.into_iter().map(|finding| wire(agent.node(), finding)).collect();
    let mut facts: BTreeMap<NodeId, Facts> = BTreeMap::from([(agent.node().clone(), own_facts)]);
    for (node, answer) in others {
        findings.push(wire(node, silence(node, answer.as_ref().err())));
        if let Ok(reply) = answer {
            findings.extend(reply.findings.into_iter().map(|found| DoctorFinding {
                // Whatever an agent says, it says of its own node.
                node: node.to_string(),
                ..found
            }));
            let pairs = reply.facts.into_iter().map(|fact| (fact.key, fact.value));
            facts.insert(node.clone(), pairs.collect());
        }
    }
    findings.extend(passwords.into_iter().map(|(node, finding)| wire(&node, finding)));
    let compared = compare::judge(&facts);
    findings.extend(compared.into_iter().map(|(node, finding)| wire(&node, finding)));
    findings
}

/// Judges whether a node's agent examined itself.
fn silence(node: &NodeId, error: Option<&Status>) -> Finding {
    let id = "agent-silent";
    match error {
        None => Finding::ok(id, "its agent examined the node"),
        Some(status) if status.code() == Code::Unimplemented => Finding::warning(
            id,
            "its agent is of a version that cannot examine the node",
            "upgrade the agent",
        ),
        Some(status) => Finding::critical(
            id,
            format!("its agent gave no findings: {}", links::said(node, status)),
            "start the agent, or look at its log: `systemctl status haclt-agent`, `docker logs`",
        ),
    }
}

fn wire(node: &NodeId, finding: Finding) -> DoctorFinding {
    DoctorFinding {
        id: finding.id.to_owned(),
        node: node.to_string(),
        severity: finding.severity.word().to_owned(),
        evidence: finding.evidence,
        mend: finding.mend,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_says_nothing_is_critical_and_an_old_one_is_not() {
        #[rustfmt::skip]
        let table = [
            (None,                                     "ok"),
            (Some(Status::unimplemented("no")),        "warning"),
            (Some(Status::unavailable("no answer")),   "critical"),
            (Some(Status::failed_precondition("no")),  "critical"),
        ];
        let node: NodeId = "n3".parse().expect("a name");
        for (error, severity) in table {
            assert_eq!(silence(&node, error.as_ref()).severity.word(), severity, "{error:?}");
        }
    }
}
