//! Diverged WAL, for programs.

use ha_core::{NodeId, WalPosition};
use serde::Serialize;

use super::{Layout, object};
use crate::reply::diverged::{DivergedDropped, DivergedEntry, DivergedReport, DivergedTransaction};

#[derive(Serialize)]
struct List<'a> {
    entries: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    id: u64,
    node: &'a NodeId,
    epoch: u64,
    fork: Place,
    end: Place,
    bytes: u64,
    at_unix_ms: u64,
}

#[derive(Serialize)]
struct Place {
    timeline: u32,
    lsn: String,
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    entry: Entry<'a>,
    reachable: bool,
    kept: Option<bool>,
    directory: Option<&'a str>,
    transactions: Vec<Transaction<'a>>,
    transactions_total: Option<u64>,
    truncated: bool,
    note: Option<&'a str>,
}

#[derive(Serialize)]
struct Transaction<'a> {
    xid: u64,
    commit_lsn: Option<String>,
    committed_at: Option<&'a str>,
    records: u64,
    relations: &'a [String],
}

#[derive(Serialize)]
struct Dropped<'a> {
    id: u64,
    directory: Option<&'a str>,
}

/// Returns all entries as one JSON object and a line feed.
#[must_use]
pub fn list(entries: &[DivergedEntry], layout: Layout) -> String {
    object(&List { entries: entries.iter().map(entry).collect() }, layout)
}

/// Returns one, with the transactions in it, as one JSON object and a line feed.
#[must_use]
pub fn report(report: &DivergedReport, layout: Layout) -> String {
    let reachable = report.reachable;
    let shape = Report {
        entry: entry(&report.entry),
        reachable,
        kept: reachable.then_some(report.kept),
        directory: report.directory.as_deref(),
        transactions: report.transactions.iter().map(transaction).collect(),
        transactions_total: reachable.then_some(report.transactions_total),
        truncated: report.truncated,
        note: report.note.as_deref(),
    };
    object(&shape, layout)
}

/// Returns which one was removed, as one JSON object and a line feed.
#[must_use]
pub fn dropped(id: u64, dropped: &DivergedDropped, layout: Layout) -> String {
    object(&Dropped { id, directory: dropped.directory.as_deref() }, layout)
}

fn entry(entry: &DivergedEntry) -> Entry<'_> {
    let DivergedEntry { id, node, epoch, fork, end, bytes, at_unix_ms } = entry;
    Entry {
        id: *id,
        node,
        epoch: epoch.0,
        fork: place(*fork),
        end: place(*end),
        bytes: *bytes,
        at_unix_ms: *at_unix_ms,
    }
}

fn place(position: WalPosition) -> Place {
    Place { timeline: position.timeline.0, lsn: position.lsn.to_string() }
}

fn transaction(one: &DivergedTransaction) -> Transaction<'_> {
    Transaction {
        xid: one.xid,
        commit_lsn: one.commit.map(|lsn| lsn.to_string()),
        committed_at: one.committed_at.as_deref(),
        records: one.records,
        relations: &one.relations,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::samples;

    #[test]
    fn a_report_of_a_node_that_does_not_answer_leaves_unknown_what_is_unknown() {
        let silent = DivergedReport {
            reachable: false,
            kept: false,
            directory: None,
            transactions: vec![],
            transactions_total: 0,
            truncated: false,
            note: None,
            ..samples::diverged()
        };
        let expected = concat!(
            r#"{"id":3,"node":"n1","epoch":7,"fork":{"timeline":1,"lsn":"0/3000060"},"#,
            r#""end":{"timeline":2,"lsn":"0/4000060"},"bytes":16777216,"#,
            r#""at_unix_ms":1772323199999,"reachable":false,"kept":null,"directory":null,"#,
            r#""transactions":[],"transactions_total":null,"truncated":false,"note":null}"#,
            "\n"
        );
        assert_eq!(report(&silent, Layout::Line), expected);
    }
}
