//! The WAL quorum of a cluster under test: what it is, changing it, what it must have kept.

use std::time::Duration;

use ha_proto::v1::{
    ConfigSetReply, DivergedDropReply, DivergedEntry, DivergedShowReply, StatusReply,
};

use crate::cluster::Cluster;
use crate::shape::Mode;
use crate::wait::{eventually, within};
use crate::writer::Acks;
use crate::{admin, status};

impl Cluster {
    /// Waits until commits wait for the quorum that all nodes make: every other node that keeps WAL
    /// receives it.
    pub async fn quorum_in_force(&self, required: u32, limit: Duration) -> StatusReply {
        let what = format!("a quorum of {required} is in force and everybody acknowledges");
        self.await_status(&what, limit, |s| status::everybody_acknowledges(s, required)).await
    }

    /// Waits until a quorum needs so many acknowledgements, whoever gives them.
    pub async fn quorum_requires(&self, required: u32, limit: Duration) -> StatusReply {
        let what = format!("{required} acknowledgements are required");
        self.await_status(&what, limit, |s| {
            s.wal_quorum.as_ref().is_some_and(|quorum| quorum.required == required)
        })
        .await
    }

    /// Asks agents in turn to change the durability mode; returns the first answer.
    pub async fn ask_for_mode(&self, mode: Mode, wait: Duration) -> Option<ConfigSetReply> {
        for node in self.nodes() {
            let grpc = node.grpc();
            let set = admin::config_set(&grpc, "durability.mode", mode.name(), wait);
            if let Ok(reply) = set.await {
                return Some(reply);
            }
        }
        None
    }

    /// Waits until a durability mode is configured and in force.
    pub async fn mode_in_force(&self, mode: Mode, limit: Duration) {
        let what = format!("mode {} is in force", mode.name());
        eventually(&what, limit, async || {
            for node in self.nodes() {
                let Ok(shown) = admin::config_show(&node.grpc()).await else { continue };
                let item = shown.items.into_iter().find(|item| item.key == "durability.mode")?;
                let settled = item.in_force.is_empty() || item.in_force == item.value;
                return (settled && item.value == mode.name()).then_some(());
            }
            None
        })
        .await;
    }

    /// Changes the durability mode and waits until that is in force.
    pub async fn set_mode(&self, mode: Mode, limit: Duration) {
        let asked = format!("an agent accepts mode {}", mode.name());
        eventually(&asked, limit, async || self.ask_for_mode(mode, within(20)).await).await;
        self.mode_in_force(mode, limit).await;
    }

    /// Panics unless a node that is primary, perhaps alone, has every acknowledged write.
    pub async fn assert_nothing_lost_on(&self, node: &str, acks: &Acks) {
        let present = self.rows(node).await;
        let missing = acks.missing(&present);
        assert!(
            missing.is_empty(),
            "{} of {} acknowledged rows are not on {node}, the first is {:?}",
            missing.len(),
            acks.0.len(),
            missing.first()
        );
    }

    /// Waits until an agent lists this many pieces of diverged WAL, and returns them.
    pub async fn diverged(&self, count: usize, limit: Duration) -> Vec<DivergedEntry> {
        let what = format!("{count} pieces of diverged WAL are listed");
        eventually(&what, limit, async || {
            for node in self.nodes() {
                if let Ok(list) = admin::diverged_list(&node.grpc()).await {
                    return (list.entries.len() == count).then_some(list.entries);
                }
            }
            None
        })
        .await
    }

    /// Returns what is in a piece of diverged WAL.
    pub async fn diverged_show(&self, id: u64) -> DivergedShowReply {
        let asked = self.witness();
        let shown = admin::diverged_show(&self.node(&asked).grpc(), id).await;
        shown.unwrap_or_else(|error| panic!("diverged WAL {id} is not shown: {error}"))
    }

    /// Removes the copy of a piece of diverged WAL.
    pub async fn diverged_drop(&self, id: u64) -> DivergedDropReply {
        let asked = self.witness();
        let dropped = admin::diverged_drop(&self.node(&asked).grpc(), id).await;
        dropped.unwrap_or_else(|error| panic!("diverged WAL {id} is not dropped: {error}"))
    }

    /// Returns what the agents say of an election that does not come about: all refusals and reasons.
    pub async fn explained(&self) -> String {
        let mut text = String::new();
        for node in self.nodes() {
            let Some(told) = status::explain(&node.grpc()).await else { continue };
            let if_died = told.if_primary_died.unwrap_or_default();
            let nodes =
                told.nodes.iter().map(|n| format!("{}: {} {}", n.node, n.why, n.waiting_for));
            let lines: Vec<String> =
                [told.summary.clone(), if_died.why.clone(), if_died.lost.clone()]
                    .into_iter()
                    .chain(if_died.refusals.iter().cloned())
                    .chain(nodes)
                    .collect();
            text.push_str(&lines.join("\n"));
            text.push('\n');
        }
        text
    }
}
