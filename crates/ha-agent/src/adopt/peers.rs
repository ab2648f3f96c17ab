//! Whether the rest of the cluster has anything that would be lost by going back to this node's database.

use std::time::Duration;

use ha_core::{Lsn, NodeKind};
use ha_postgres::adopt::{Fault, Origin, Undo};
use ha_postgres::driver::ControlFile;
use ha_proto::v1::admin_client::AdminClient;
use ha_proto::v1::{StatusReply, StatusRequest};
use tonic::transport::Endpoint;

use crate::config::Config;

const ASK_LIMIT: Duration = Duration::from_secs(3);
/// More than the record of a shutdown checkpoint takes, which the control file names the beginning of.
const RECORD_BYTES_MAX: u64 = 512;

/// Returns why going back might lose something; nothing if it cannot.
///
/// Whatever was acknowledged after this node's database was stopped is on another node and on one more, and
/// whoever was primary then is on a later timeline. So the word of one other node that is up counts, and
/// without any there is none.
pub(super) async fn newer(config: &Config, undo: &Undo) -> Vec<Fault> {
    let (Some(control), Origin::Primary) = (&undo.control, undo.journal.origin) else {
        return Vec::new();
    };
    // No agent has ever run here.
    if !config.data_dir.join("raft").exists() {
        return Vec::new();
    }
    let mut answers = Vec::new();
    for (node, address) in config.peers.iter().filter(|(node, _)| **node != config.node) {
        if let Some(reply) = ask(address, &config.cluster).await {
            answers.push((node.to_string(), reply));
        }
    }
    if answers.is_empty() {
        let hint =
            "Leave the witness running while you go back, and repeat this where it can be reached.";
        let what = "no other agent answers: whether the cluster has newer data is unknown";
        return vec![Fault { what: what.to_owned(), hint: hint.to_owned() }];
    }
    let node = config.node.as_str();
    answers.iter().filter_map(|(from, reply)| ahead(node, control, from, reply)).collect()
}

async fn ask(address: &str, cluster: &str) -> Option<StatusReply> {
    let asked = async {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
        let channel = endpoint.connect_timeout(ASK_LIMIT).connect().await.ok()?;
        let request = StatusRequest { cluster: cluster.to_owned() };
        AdminClient::new(channel).status(request).await.ok()
    };
    Some(tokio::time::timeout(ASK_LIMIT, asked).await.ok()??.into_inner())
}

/// Returns what a node knows that this one's database does not have.
fn ahead(node: &str, control: &ControlFile, from: &str, reply: &StatusReply) -> Option<Fault> {
    let hint = "Stop the other data nodes first, so that this node becomes primary and has all; then stop it, \
                and go back.";
    let fault = |what: String| Some(Fault { what, hint: hint.to_owned() });
    let holder = reply.lease.as_ref().map_or("", |lease| lease.holder.as_str());
    if !holder.is_empty() && holder != node {
        return fault(format!("{holder} is primary now, says {from}"));
    }
    let (timeline, end) = (control.checkpoint.timeline.0, control.checkpoint.lsn);
    let latest = reply.nodes.iter().map(|node| node.timeline).max().unwrap_or_default();
    if latest.max(reply.timeline) > timeline {
        let latest = latest.max(reply.timeline);
        return fault(format!(
            "the cluster is on timeline {latest}, says {from}, and this node's database on {timeline}"
        ));
    }
    let is_witness = |kind: &str| kind == NodeKind::Witness.to_string();
    let kept = reply.nodes.iter().filter(|other| other.name == from && is_witness(&other.kind));
    let most = kept.filter_map(|other| other.flushed_lsn.parse::<Lsn>().ok()).max()?;
    if most.0 > end.0.saturating_add(RECORD_BYTES_MAX) {
        return fault(format!(
            "{from} has WAL up to {most}, and this node's database ends at {end}"
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use ha_core::{TimelineId, WalPosition};
    use ha_postgres::driver::ControlState;
    use ha_proto::v1::{LeaseStatus, NodeStatus};

    use super::*;

    fn control() -> ControlFile {
        let checkpoint = WalPosition { timeline: TimelineId(3), lsn: Lsn(0x300_0028) };
        ControlFile {
            system_identifier: 7,
            major: 17,
            state: ControlState::ShutDown,
            checkpoint,
            redo: checkpoint.lsn,
            min_recovery_end: WalPosition { timeline: TimelineId(0), lsn: Lsn::ZERO },
            checksums: true,
            standby_signal: false,
        }
    }

    fn reply(holder: &str, timeline: u32, flushed: &str) -> StatusReply {
        let witness = NodeStatus {
            name: "n3".to_owned(),
            kind: "witness".to_owned(),
            timeline,
            flushed_lsn: flushed.to_owned(),
            ..NodeStatus::default()
        };
        let lease = LeaseStatus { holder: holder.to_owned(), ..LeaseStatus::default() };
        StatusReply {
            lease: Some(lease),
            nodes: vec![witness],
            timeline: 3,
            ..StatusReply::default()
        }
    }

    #[test]
    fn whatever_another_node_knows_and_this_one_lacks_is_a_reason_not_to_go_back() {
        let table = [
            ("", 3, "0/3000028", ""),
            ("n1", 3, "0/30000A0", ""),
            ("", 0, "", ""),
            ("n2", 3, "0/3000028", "n2 is primary now, says n3"),
            ("", 4, "0/3000028", "the cluster is on timeline 4"),
            ("", 3, "0/3001000", "n3 has WAL up to 0/3001000"),
        ];
        for (holder, timeline, flushed, expected) in table {
            let fault = ahead("n1", &control(), "n3", &reply(holder, timeline, flushed));
            let what = fault.map(|fault| fault.what).unwrap_or_default();
            assert!(what.starts_with(expected), "{holder} {timeline} {flushed}: {what}");
            assert_eq!(
                what.is_empty(),
                expected.is_empty(),
                "{holder} {timeline} {flushed}: {what}"
            );
        }
    }
}
