//! Diverged WAL: what a node had beyond the point where the cluster went on without it.

use ha_core::{Epoch, Lsn, NodeId, TimelineId, WalPosition};
use ha_proto::v1;

use super::{MalformedReply, name, plain, text, texts};

/// All diverged WAL that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DivergedList {
    /// In the order of the agent.
    pub entries: Vec<DivergedEntry>,
}

/// What is recorded of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DivergedEntry {
    /// Its number.
    pub id: u64,
    /// The node that had it, and keeps the copy.
    pub node: NodeId,
    /// The epoch in which it was found.
    pub epoch: Epoch,
    /// Where the cluster's history leaves the node's.
    pub fork: WalPosition,
    /// How far the node's WAL went.
    pub end: WalPosition,
    /// How much WAL that is.
    pub bytes: u64,
    /// When it was found, in milliseconds of Unix time.
    pub at_unix_ms: u64,
}

/// What is in one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DivergedReport {
    /// What is recorded of it.
    pub entry: DivergedEntry,
    /// Whether its node answered; if not, all that follows is unknown.
    pub reachable: bool,
    /// Whether its node still keeps the copy.
    pub kept: bool,
    /// Where the copy is, on that node.
    pub directory: Option<String>,
    /// The transactions in it that were committed, or the first of them.
    pub transactions: Vec<DivergedTransaction>,
    /// How many there are.
    pub transactions_total: u64,
    /// Whether more is in it than is listed.
    pub truncated: bool,
    /// What else there is to know.
    pub note: Option<String>,
}

/// A committed transaction that the cluster does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DivergedTransaction {
    /// Its number.
    pub xid: u64,
    /// Where it was committed.
    pub commit: Option<Lsn>,
    /// When it was committed, as PostgreSQL writes it.
    pub committed_at: Option<String>,
    /// What it changed.
    pub relations: Vec<String>,
    /// How many WAL records it wrote.
    pub records: u64,
}

/// A copy that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DivergedDropped {
    /// Where it was.
    pub directory: Option<String>,
}

impl TryFrom<v1::DivergedListReply> for DivergedList {
    type Error = MalformedReply;

    fn try_from(wire: v1::DivergedListReply) -> Result<Self, MalformedReply> {
        let entries = wire.entries.iter().map(DivergedEntry::try_from).collect::<Result<_, _>>()?;
        Ok(Self { entries })
    }
}

impl TryFrom<&v1::DivergedEntry> for DivergedEntry {
    type Error = MalformedReply;

    fn try_from(wire: &v1::DivergedEntry) -> Result<Self, MalformedReply> {
        let place = |field, timeline, lsn: &str| {
            let lsn = position(wire.id, field, lsn)?;
            Ok(WalPosition { timeline: TimelineId(timeline), lsn })
        };
        Ok(Self {
            id: wire.id,
            node: name(&wire.node)?,
            epoch: Epoch(wire.epoch),
            fork: place("fork_lsn", wire.fork_timeline, &wire.fork_lsn)?,
            end: place("end_lsn", wire.end_timeline, &wire.end_lsn)?,
            bytes: wire.bytes,
            at_unix_ms: wire.at_unix_ms,
        })
    }
}

impl TryFrom<v1::DivergedShowReply> for DivergedReport {
    type Error = MalformedReply;

    fn try_from(wire: v1::DivergedShowReply) -> Result<Self, MalformedReply> {
        let entry = wire.entry.as_ref().ok_or(MalformedReply::Missing { field: "entry" })?;
        let transactions = wire.transactions.iter().map(|one| transaction(entry.id, one));
        Ok(Self {
            entry: DivergedEntry::try_from(entry)?,
            reachable: wire.reachable,
            kept: wire.kept,
            directory: text(&wire.directory),
            transactions: transactions.collect::<Result<_, _>>()?,
            transactions_total: wire.transactions_total,
            truncated: wire.truncated,
            note: text(&wire.note),
        })
    }
}

impl TryFrom<v1::DivergedDropReply> for DivergedDropped {
    type Error = MalformedReply;

    fn try_from(wire: v1::DivergedDropReply) -> Result<Self, MalformedReply> {
        Ok(Self { directory: text(&wire.directory) })
    }
}

fn transaction(
    id: u64,
    wire: &v1::DivergedTransaction,
) -> Result<DivergedTransaction, MalformedReply> {
    let commit = match plain(&wire.commit_lsn).as_str() {
        "" => None,
        lsn => Some(position(id, "commit_lsn", lsn)?),
    };
    Ok(DivergedTransaction {
        xid: wire.xid,
        commit,
        committed_at: text(&wire.committed_at),
        relations: texts(&wire.relations),
        records: wire.records,
    })
}

fn position(id: u64, field: &'static str, wire: &str) -> Result<Lsn, MalformedReply> {
    let refuse = |_| MalformedReply::DivergedPosition { id, field, text: wire.to_owned() };
    wire.parse().map_err(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> v1::DivergedShowReply {
        v1::DivergedShowReply {
            entry: Some(v1::DivergedEntry {
                id: 3,
                node: "n1".into(),
                fork_timeline: 1,
                fork_lsn: "0/3000060".into(),
                end_timeline: 1,
                end_lsn: "0/3000100".into(),
                ..Default::default()
            }),
            transactions: vec![v1::DivergedTransaction { xid: 743, ..Default::default() }],
            ..Default::default()
        }
    }

    #[test]
    fn what_the_node_does_not_say_is_unknown() {
        let report = DivergedReport::try_from(wire()).unwrap();
        assert_eq!((report.directory, report.note), (None, None));
        let transaction = &report.transactions[0];
        assert_eq!((transaction.commit, &transaction.committed_at), (None, &None));
    }

    #[test]
    fn a_reply_that_makes_no_sense_is_refused() {
        let change = |change: fn(&mut v1::DivergedShowReply)| {
            let mut reply = wire();
            change(&mut reply);
            DivergedReport::try_from(reply).unwrap_err().to_string()
        };
        let entry = |reply: &mut v1::DivergedShowReply| reply.entry.take().unwrap();
        assert_eq!(change(|reply| reply.entry = None), "it has no entry");
        let nowhere = v1::DivergedEntry { end_lsn: "far".into(), ..entry(&mut wire()) };
        let list = v1::DivergedListReply { entries: vec![nowhere] };
        let error = DivergedList::try_from(list).unwrap_err();
        assert_eq!(error.to_string(), "diverged WAL 3 has an invalid end_lsn: \"far\"");
        assert_eq!(
            change(|reply| reply.transactions[0].commit_lsn = "0".into()),
            "diverged WAL 3 has an invalid commit_lsn: \"0\""
        );
        let nobody = |reply: &mut v1::DivergedShowReply| {
            reply.entry.get_or_insert_default().node = "\u{1b}".into();
        };
        assert!(change(nobody).contains("invalid node name"));
    }
}
