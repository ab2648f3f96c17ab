//! The cluster as a table.

use std::fmt::{Display, Write as _};

use crate::render::grid::grid;
use crate::render::units;
use crate::reply::{ClusterStatus, LeaseView, NodeView, RaftView};

/// What stands where nothing is known, or nothing applies.
const NOTHING: &str = "-";

const COLUMNS: [&str; 7] = ["NODE", "ROLE", "STATE", "TIMELINE", "FLUSHED", "LAG", "SYNC"];

/// The one column of numbers, which align to the right.
const TIMELINE: usize = 3;

/// Returns the header, the state unless it is healthy, a line for each node, their troubles, and
/// what would be lost if the primary were lost now.
#[must_use]
pub fn status(status: &ClusterStatus) -> String {
    let mut text = format!(
        "cluster {}   epoch {}   {}   {}\n",
        status.cluster,
        status.epoch,
        lease(status.lease.as_ref()),
        raft(status.raft.as_ref()),
    );
    text.push_str(&state(status));
    let rows: Vec<_> = status.nodes.iter().map(row).collect();
    text.push_str(&grid(COLUMNS, &[TIMELINE], &rows));
    for node in &status.nodes {
        for trouble in &node.troubles {
            writeln!(text, "{}: {trouble}", node.name).expect("writing to a string cannot fail");
        }
    }
    if let Some(loss) = &status.loss {
        writeln!(text, "loss now: {loss}").expect("writing to a string cannot fail");
    }
    text
}

fn lease(lease: Option<&LeaseView>) -> String {
    match lease {
        None => "lease unknown".to_owned(),
        Some(LeaseView { holder: None, .. }) => "lease vacant".to_owned(),
        Some(LeaseView { holder: Some(holder), left_ms, .. }) => {
            format!("lease {holder}, {} left", units::seconds(*left_ms))
        }
    }
}

fn raft(raft: Option<&RaftView>) -> String {
    let Some(RaftView { leader, term, quorum, .. }) = raft else {
        return "raft unknown".to_owned();
    };
    let leader = shown(leader.as_ref(), "unknown");
    let quorum = if *quorum { "" } else { ", no quorum" };
    format!("raft leader {leader}, term {term}{quorum}")
}

/// Returns the line that says what is wrong; nothing if all is well.
fn state(status: &ClusterStatus) -> String {
    if status.is_healthy() && status.reason.is_none() {
        return String::new();
    }
    let paused = if status.paused && status.state != "paused" { ", paused" } else { "" };
    let reason = status.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
    format!("state {}{paused}{reason}\n", status.state)
}

fn row(node: &NodeView) -> [String; COLUMNS.len()] {
    [
        node.name.to_string(),
        word(&node.role),
        word(&node.state),
        shown(node.timeline.as_ref(), NOTHING),
        shown(node.flushed.as_ref(), NOTHING),
        node.lag_bytes.map_or(NOTHING.to_owned(), units::size),
        sync(node).to_owned(),
    ]
}

/// Returns how commits count on this node: it acknowledges them, as a standby or just by keeping
/// their WAL; it only follows; or neither.
fn sync(node: &NodeView) -> &'static str {
    match (node.role.as_str(), node.wal_ack) {
        ("primary", _) => NOTHING,
        ("standby", true) => "sync",
        (_, true) => "ack",
        ("standby", false) if node.reachable => "async",
        (_, false) => NOTHING,
    }
}

fn word(word: &str) -> String {
    if word.is_empty() { NOTHING.to_owned() } else { word.to_owned() }
}

fn shown(value: Option<&impl Display>, otherwise: &str) -> String {
    value.map_or(otherwise.to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::table;
    use crate::reply::samples;

    #[test]
    fn a_healthy_cluster_is_a_header_and_a_table() {
        let expected = "\
cluster orders   epoch 7   lease n2, 2.4 s left   raft leader n3, term 12
NODE  ROLE     STATE      TIMELINE  FLUSHED    LAG  SYNC
n1    standby  streaming         4  0/5A3C9F0  0 B  sync
n2    primary  running           4  0/5A3C9F0  -    -
n3    witness  receiving         -  0/5A3C9F0  0 B  ack
";
        assert_eq!(table::status(&samples::healthy()), expected);
    }

    #[test]
    fn what_would_be_lost_now_is_the_last_line() {
        let loss = Some("nothing: n1 has every acknowledged commit".to_owned());
        let text = table::status(&ClusterStatus { loss, ..samples::degraded() });
        let last = "loss now: nothing: n1 has every acknowledged commit";
        assert_eq!(text.lines().last(), Some(last));
        assert!(!table::status(&samples::degraded()).contains("loss now"));
    }

    #[test]
    fn a_degraded_cluster_says_why_and_lists_the_troubles() {
        let expected = "\
cluster orders   epoch 7   lease n2, 2.4 s left   raft leader n3, term 12
state degraded: node n1 lags behind
NODE  ROLE     STATE        TIMELINE  FLUSHED    LAG       SYNC
n1    standby  catching_up         4  0/4A3C9F0  16.0 MiB  async
n2    primary  running             4  0/5A3C9F0  -         -
n3    witness  receiving           -  0/5A3C9F0  0 B       ack
n1: disk 91 % full
n1: replication slot n3 is inactive
";
        assert_eq!(table::status(&samples::degraded()), expected);
    }

    #[test]
    fn what_is_unknown_is_called_unknown() {
        let expected = "\
cluster orders   epoch 7   lease unknown   raft unknown
state no_quorum, paused: 1 of 3 voters answers
NODE  ROLE  STATE        TIMELINE  FLUSHED  LAG  SYNC
n1    none  stopped             -  -        -    -
n2    -     unreachable         -  -        -    -
";
        assert_eq!(table::status(&samples::cut_off()), expected);
    }

    #[test]
    fn the_header_names_a_vacant_lease_and_a_missing_quorum() {
        let mut cluster = samples::healthy();
        cluster.nodes.clear();
        if let (Some(lease), Some(raft)) = (&mut cluster.lease, &mut cluster.raft) {
            lease.holder = None;
            raft.leader = None;
            raft.quorum = false;
        }
        let expected = "\
cluster orders   epoch 7   lease vacant   raft leader unknown, term 12, no quorum
NODE  ROLE  STATE  TIMELINE  FLUSHED  LAG  SYNC
";
        assert_eq!(table::status(&cluster), expected);
    }

    #[test]
    fn the_state_line_stands_unless_all_is_well() {
        #[rustfmt::skip]
        let table = [
            // state      paused  reason     line
            ("healthy",   false,  None,      ""),
            ("healthy",   false,  Some("x"), "state healthy: x\n"),
            ("healthy",   true,   None,      "state healthy, paused\n"),
            ("paused",    true,   None,      "state paused\n"),
            ("paused",    true,   Some("x"), "state paused: x\n"),
            ("electing",  false,  None,      "state electing\n"),
            ("electing",  true,   Some("x"), "state electing, paused: x\n"),
        ];
        for (name, paused, reason, expected) in table {
            let reason = reason.map(str::to_owned);
            let cluster =
                ClusterStatus { state: name.into(), paused, reason, ..samples::healthy() };
            assert_eq!(state(&cluster), expected, "{name} {paused}");
        }
    }
}
