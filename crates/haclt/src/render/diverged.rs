//! Diverged WAL, for people.

use std::fmt::Write as _;

use ha_core::WalPosition;

use crate::render::grid::grid;
use crate::render::units;
use crate::reply::diverged::{DivergedDropped, DivergedEntry, DivergedReport};

const LIST: [&str; 7] = ["ID", "NODE", "EPOCH", "FORK", "END", "BYTES", "FOUND"];

const TRANSACTIONS: [&str; 4] = ["XID", "COMMITTED", "RECORDS", "RELATIONS"];

/// Returns a line for each entry, or says that there is none.
#[must_use]
pub fn list(entries: &[DivergedEntry]) -> String {
    if entries.is_empty() {
        return "no diverged WAL is known\n".to_owned();
    }
    let rows: Vec<_> = entries
        .iter()
        .map(|entry| {
            [
                entry.id.to_string(),
                entry.node.to_string(),
                entry.epoch.to_string(),
                place(entry.fork),
                place(entry.end),
                units::size(entry.bytes),
                units::utc(entry.at_unix_ms),
            ]
        })
        .collect();
    grid(LIST, &[0, 2], &rows)
}

fn place(position: WalPosition) -> String {
    format!("{}@{}", position.lsn, position.timeline)
}

/// Returns what is recorded of one, and the transactions in it as far as they are known.
#[must_use]
pub fn report(report: &DivergedReport) -> String {
    let DivergedEntry { id, node, epoch, fork, end, bytes, at_unix_ms } = &report.entry;
    let found = units::utc(*at_unix_ms);
    let copy = match (report.reachable, report.kept, &report.directory) {
        (false, _, _) => "unknown: the node does not answer",
        (true, false, _) => "none: the node no longer keeps it",
        (true, true, None) => "kept",
        (true, true, Some(directory)) => directory,
    };
    let mut text = format!(
        "diverged WAL {id} of node {node}, epoch {epoch}, found {found}\n\
         fork          {fork}\n\
         end           {end}\n\
         size          {}\n\
         directory     {copy}\n",
        units::bytes(*bytes),
    );
    if report.reachable && report.kept {
        writeln!(text, "transactions  {}", total(report)).expect(INFALLIBLE);
        text.push_str(&transactions(report));
    }
    if let Some(note) = &report.note {
        writeln!(text, "note: {note}").expect(INFALLIBLE);
    }
    text
}

const INFALLIBLE: &str = "writing to a string cannot fail";

/// Returns how many transactions there are, never fewer than are listed.
fn total(report: &DivergedReport) -> u64 {
    report.transactions_total.max(u64::try_from(report.transactions.len()).unwrap_or(u64::MAX))
}

fn transactions(report: &DivergedReport) -> String {
    if report.transactions.is_empty() {
        return String::new();
    }
    let rows: Vec<_> = report
        .transactions
        .iter()
        .map(|one| {
            [
                one.xid.to_string(),
                one.committed_at.clone().unwrap_or_else(|| "-".to_owned()),
                one.records.to_string(),
                one.relations.join(", "),
            ]
        })
        .collect();
    let mut text = grid(TRANSACTIONS, &[0, 2], &rows);
    let listed = u64::try_from(rows.len()).unwrap_or(u64::MAX);
    match total(report).saturating_sub(listed) {
        0 if report.truncated => text.push_str("and more that is not listed\n"),
        0 => {}
        more => writeln!(text, "and {more} more").expect(INFALLIBLE),
    }
    text
}

/// Returns that a copy is gone.
#[must_use]
pub fn dropped(id: u64, dropped: &DivergedDropped) -> String {
    let from = dropped.directory.as_ref().map_or(String::new(), |dir| format!(": {dir}"));
    format!("diverged WAL {id} is removed{from}\n")
}

/// Returns what is lost for good when the copy is removed.
#[must_use]
pub fn cost_of_drop(cluster: &str, report: &DivergedReport) -> String {
    let DivergedEntry { id, node, bytes, .. } = &report.entry;
    let transactions = if report.reachable && report.kept {
        let at_least = if report.truncated { "at least " } else { "" };
        format!("{at_least}{} committed transactions", total(report))
    } else {
        "an unknown number of committed transactions".to_owned()
    };
    let place = report.directory.as_ref().map_or(String::new(), |dir| format!(", in {dir}"));
    format!(
        "Diverged WAL {id} of cluster {cluster} is the only copy of {} of WAL with {transactions} \
         that node {node} had and the cluster has not{place}.",
        units::size(*bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::samples;

    #[test]
    fn diverged_wal_is_a_table() {
        let expected = "\
ID  NODE  EPOCH  FORK         END          BYTES     FOUND
 3  n1        7  0/3000060@1  0/4000060@2  16.0 MiB  2026-02-28T23:59:59Z
";
        assert_eq!(list(&[samples::diverged().entry]), expected);
        assert_eq!(list(&[]), "no diverged WAL is known\n");
    }

    #[test]
    fn a_report_lists_the_transactions_that_the_cluster_does_not_have() {
        let expected = "\
diverged WAL 3 of node n1, epoch 7, found 2026-02-28T23:59:59Z
fork          0/3000060 on timeline 1
end           0/4000060 on timeline 2
size          16.0 MiB (16777216 B)
directory     /var/lib/haclt/diverged/7-1-0_3000060
transactions  12
XID  COMMITTED                RECORDS  RELATIONS
743  2026-02-28 23:59:58 UTC       21  1663/5/16384, catalog
800  -                              1
and 10 more
note: names are of the old primary
";
        assert_eq!(report(&samples::diverged()), expected);
    }

    #[test]
    fn a_report_never_claims_to_be_complete_when_it_is_cut() {
        let mut cut = samples::diverged();
        cut.transactions_total = 0;
        assert!(report(&cut).contains("transactions  2\n"), "{}", report(&cut));
        assert!(report(&cut).contains("\nand more that is not listed\n"));
        cut.truncated = false;
        assert!(!report(&cut).contains("\nand "));
        cut.transactions.clear();
        assert!(report(&cut).contains("transactions  0\nnote: "), "{}", report(&cut));
    }

    #[test]
    fn what_cannot_be_asked_is_unknown_and_what_is_gone_is_gone() {
        let silent = DivergedReport { reachable: false, ..samples::diverged() };
        assert!(report(&silent).contains("directory     unknown: the node does not answer\nnote"));
        let gone = DivergedReport { kept: false, ..samples::diverged() };
        assert!(report(&gone).contains("directory     none: the node no longer keeps it\nnote"));
        let somewhere = DivergedReport { directory: None, ..samples::diverged() };
        assert!(report(&somewhere).contains("directory     kept\ntransactions  12\n"));
    }

    #[test]
    fn the_cost_of_a_removal_is_said_in_bytes_and_transactions() {
        let expected = "Diverged WAL 3 of cluster orders is the only copy of 16.0 MiB of WAL with \
                        at least 12 committed transactions that node n1 had and the cluster has \
                        not, in /var/lib/haclt/diverged/7-1-0_3000060.";
        assert_eq!(cost_of_drop("orders", &samples::diverged()), expected);
        let silent = DivergedReport { reachable: false, ..samples::diverged() };
        assert!(cost_of_drop("orders", &silent).contains("with an unknown number of committed"));
    }
}
