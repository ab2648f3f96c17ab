//! What is promised to clients now, and what would be lost.

use ha_core::policy::Durability;
use ha_core::wal_quorum::Recorded;
use ha_core::{Lsn, NodeId};
use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::{QuorumReport, WalQuorumStatus};

use super::picture::Picture;
use crate::agent::Agent;
use crate::quorum_keeper::shown;

impl Picture {
    /// The quorum that elections go by, and who receives now.
    pub(super) fn wal_quorum(&self) -> WalQuorumStatus {
        let Some(holder) = self.state.lease.holder() else { return WalQuorumStatus::default() };
        let primary = self.primary_report();
        let quorum = self.state.recorded.as_ref().map(|recorded| &recorded.quorum);
        let Some(quorum) = quorum.filter(|quorum| !quorum.is_alone()) else {
            // The primary acknowledges alone.
            let alone = vec![holder.to_string()];
            let acknowledging = if primary.is_some() { alone.clone() } else { Vec::new() };
            return WalQuorumStatus { members: alone, required: 0, acknowledging };
        };
        let members = &quorum.members;
        let streams = |member: &&NodeId| self.streams(member);
        WalQuorumStatus {
            members: members.iter().map(ToString::to_string).collect(),
            required: quorum.required,
            acknowledging: members.iter().filter(streams).map(ToString::to_string).collect(),
        }
    }

    fn quorum_report(&self) -> Option<&QuorumReport> {
        self.primary_report()?.quorum.as_ref()
    }

    /// Whether the primary says who receives.
    pub(super) fn has_receivers(&self) -> bool {
        self.quorum_report().is_some()
    }

    /// Whether the primary sees this node receive.
    pub(super) fn streams(&self, node: &NodeId) -> bool {
        self.quorum_report().is_some_and(|report| {
            let of = |a: &&ha_proto::v1::Acknowledger| a.node == node.as_str();
            report.acknowledgers.iter().find(of).is_some_and(|a| a.streaming)
        })
    }

    /// In one line: what would be lost if the primary's node were lost for good now.
    pub(super) fn loss<D: PostgresDriver>(&self, agent: &Agent<D>) -> String {
        let Some(recorded) = &self.state.recorded else { return String::new() };
        if self.state.lease.holder().is_none() {
            return "nothing more is acknowledged: there is no primary".to_owned();
        }
        let behind = self.behind();
        let nodes = recorded.quorum.required + 1;
        match recorded.mode {
            Durability::Async => {
                let max = agent.config.policy.lag_bytes_max;
                let now = behind.map_or("unknown".to_owned(), |bytes| format!("{bytes} bytes"));
                format!("{now}: durability is async, a standby may be up to {max} bytes behind")
            }
            Durability::Quorum | Durability::StrictStandby if recorded.quorum.is_alone() => {
                let now = behind.map_or("everything".to_owned(), |bytes| format!("{bytes} bytes"));
                format!(
                    "{now} if node {} were lost for good: it acknowledges alone, nobody else would be \
                     promoted before it reports",
                    recorded.primary
                )
            }
            Durability::Quorum | Durability::StrictStandby => {
                format!("0 bytes: every acknowledged commit is on {nodes} nodes")
            }
        }
    }

    /// How much of the primary's WAL the nearest data node still lacks, bytes.
    fn behind(&self) -> Option<u64> {
        let primary = self.primary_report()?.postgres.as_ref()?.flushed?;
        let holder = self.state.lease.holder()?;
        let others = self.reports.iter().filter(|(node, _)| *node != holder);
        others
            .filter_map(|(_, report)| report.as_ref()?.postgres.as_ref()?.flushed)
            .map(|has| Lsn(primary.lsn).bytes_after(Lsn(has.lsn)))
            .min()
    }

    /// Why durability is not as it should be, beside a serving primary.
    pub(super) fn durability_trouble(&self) -> Option<String> {
        let recorded = self.state.recorded.as_ref()?;
        if let Some(report) = self.quorum_report() {
            if report.closed {
                return Some("clients wait outside until the quorum has caught up".to_owned());
            }
            if report.waiting > 0 && report.longest_wait_ms > 1000 {
                return Some(format!(
                    "{} commits wait for an acknowledgement, the longest for {} ms",
                    report.waiting, report.longest_wait_ms
                ));
            }
        }
        self.unkept(recorded)
    }

    fn unkept(&self, recorded: &Recorded) -> Option<String> {
        let wanted = self.state.durability;
        if recorded.mode != wanted {
            let now = shown(&recorded.quorum);
            return Some(format!(
                "durability is being changed to {wanted}, in force is {}: {now}",
                recorded.mode
            ));
        }
        if wanted != Durability::Async && recorded.quorum.is_alone() {
            return Some("commits are acknowledged by the primary alone".to_owned());
        }
        let members = recorded.quorum.members.iter();
        let silent: Vec<&str> = members.filter(|m| !self.streams(m)).map(NodeId::as_str).collect();
        (!silent.is_empty()).then(|| format!("{} acknowledges no commits", silent.join(", ")))
    }
}
