//! What `haclt status --json` says, as far as this program needs it.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::exec;
use crate::failure::{Doing as _, Outcome};

/// One node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeStatus {
    /// Its name.
    pub(crate) name: String,
    /// `primary`, `standby`, `witness` or `none`.
    pub(crate) role: String,
    /// `running`, `streaming`, ….
    pub(crate) state: String,
}

/// The cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    /// `healthy`, `degraded`, ….
    pub(crate) state: String,
    /// Why it is not healthy.
    pub(crate) reason: Option<String>,
    /// The number of the lease's grant.
    pub(crate) epoch: u64,
    /// Who holds the lease.
    pub(crate) holder: Option<String>,
    /// How long the lease lives.
    pub(crate) ttl: Duration,
    /// Raft's term.
    pub(crate) term: u64,
    /// Raft's leader.
    pub(crate) leader: Option<String>,
    /// Who may acknowledge commits beside the primary.
    pub(crate) members: Vec<String>,
    /// Who of these does now.
    pub(crate) acknowledging: Vec<String>,
    /// All nodes.
    pub(crate) nodes: Vec<NodeStatus>,
}

impl Status {
    /// Asks the cluster by running `haclt`, a command given without arguments.
    pub(crate) fn ask(mut haclt: Command, endpoints: &str) -> Outcome<Self> {
        haclt.args(["--endpoint", endpoints, "status", "--json"]);
        // The exit code may say "not healthy"; what counts here is whether there is an answer.
        let output = exec::outcome(&mut haclt, Duration::from_secs(5))?;
        if output.stdout.is_empty() {
            let said = String::from_utf8_lossy(&output.stderr);
            let line = said.lines().next().unwrap_or("no answer").to_owned();
            return Err(crate::failure::Failure::new(line));
        }
        Self::parse(&String::from_utf8_lossy(&output.stdout))
    }

    /// Reads the JSON.
    pub(crate) fn parse(json: &str) -> Outcome<Self> {
        let value: Value =
            serde_json::from_str(json).doing(|| "could not read the status".to_owned())?;
        let word = |value: &Value| value.as_str().filter(|w| !w.is_empty()).map(str::to_owned);
        let nodes = value["nodes"].as_array().map_or_else(Vec::new, |nodes| {
            nodes
                .iter()
                .map(|node| NodeStatus {
                    name: word(&node["name"]).unwrap_or_default(),
                    role: word(&node["role"]).unwrap_or_default(),
                    state: word(&node["state"]).unwrap_or_default(),
                })
                .collect()
        });
        let names = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(word).collect()
        };
        Ok(Self {
            members: names(&value["wal_quorum"]["members"]),
            acknowledging: names(&value["wal_quorum"]["acknowledging"]),
            state: word(&value["state"]).doing(|| "the status names no state".to_owned())?,
            reason: word(&value["reason"]),
            epoch: value["epoch"].as_u64().unwrap_or(0),
            holder: word(&value["lease"]["holder"]),
            ttl: Duration::from_millis(value["lease"]["ttl_ms"].as_u64().unwrap_or(0)),
            term: value["raft"]["term"].as_u64().unwrap_or(0),
            leader: word(&value["raft"]["leader"]),
            nodes,
        })
    }

    /// Returns whether the whole cluster is well.
    pub(crate) fn is_healthy(&self) -> bool {
        self.state == "healthy"
    }

    /// Returns whether every other node may acknowledge commits, and does.
    pub(crate) fn all_acknowledge(&self) -> bool {
        self.members.len() + 1 == self.nodes.len()
            && self.members.iter().all(|member| self.acknowledging.contains(member))
    }

    /// Returns the name of the node that is primary.
    pub(crate) fn primary(&self) -> Option<&str> {
        self.nodes.iter().find(|node| node.role == "primary").map(|node| node.name.as_str())
    }

    /// Returns whether a node takes part: it is primary or a standby that streams.
    pub(crate) fn is_at_work(&self, name: &str) -> bool {
        let states = ["running", "streaming"];
        self.nodes.iter().any(|node| node.name == name && states.contains(&node.state.as_str()))
    }

    /// Returns state and reason in one line, and what each node does.
    pub(crate) fn line(&self) -> String {
        let nodes = self
            .nodes
            .iter()
            .map(|node| format!("{} {} {}", node.name, node.role, node.state))
            .collect::<Vec<_>>()
            .join(", ");
        let reason = self.reason.as_deref().map_or_else(String::new, |why| format!(" ({why})"));
        format!("{}{reason}: {nodes}", self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"{ "cluster": "orders", "state": "degraded", "reason": "n1 is gone",
      "wal_quorum": {"members": ["n1"], "required": 1, "acknowledging": []},
      "epoch": 7, "lease": {"holder": "n2", "left_ms": 2400}, "raft": {"leader": "n3"},
      "nodes": [ {"name": "n1", "role": "none", "state": "unreachable"},
                 {"name": "n2", "role": "primary", "state": "running"} ] }"#;

    #[test]
    fn what_the_design_promises_can_be_read() {
        let status = Status::parse(SAMPLE).unwrap();
        assert_eq!((status.epoch, status.primary()), (7, Some("n2")));
        assert_eq!(status.holder.as_deref(), Some("n2"));
        assert!(!status.is_healthy());
        assert_eq!(status.members, ["n1"]);
        assert!(!status.all_acknowledge());
        assert!(status.is_at_work("n2") && !status.is_at_work("n1"));
        assert_eq!(status.line(), "degraded (n1 is gone): n1 none unreachable, n2 primary running");
    }

    #[test]
    fn a_vacant_lease_and_no_leader_are_not_names() {
        let status =
            r#"{"state":"electing","reason":null,"epoch":8,"lease":{"holder":""},"nodes":[]}"#;
        let status = Status::parse(status).unwrap();
        assert_eq!((status.holder, status.leader, status.reason), (None, None, None));
    }

    #[test]
    fn an_answer_without_a_state_is_a_failure() {
        assert!(Status::parse("{}").is_err());
        assert!(Status::parse("not json").is_err());
    }
}
