//! What may be told of a server's log: what the server says of itself, not what its users wrote.
//!
//! PostgreSQL puts statements, their parameters and values from tables into its log. Records are told apart by
//! their severity; what is not known to be the server's own is left out.
//!
//! # Sources
//! PostgreSQL 15 to 18, src/backend/utils/error/elog.c, `send_message_to_server_log`: `SEVERITY:  text`, with two
//! blanks, lines of the same record after a tab; then `DETAIL:  ` and others, each as a record of its own.

use std::fmt::Write as _;

/// Words before a record's text, and what they introduce.
const SEVERITIES: [&str; 11] = [
    "LOG", "FATAL", "PANIC", "ERROR", "WARNING", "NOTICE", "INFO", "DEBUG1", "DEBUG2", "DEBUG3",
    "DEBUG4",
];
const ADDITIONS: [&str; 7] =
    ["DETAIL", "HINT", "CONTEXT", "STATEMENT", "QUERY", "LOCATION", "BACKTRACE"];

/// Where a record of the severity LOG begins to hold a statement.
const STATEMENTS: [&str; 8] = [
    "statement: ",
    "execute ",
    "parse ",
    "bind ",
    "fastpath function call",
    "plan:",
    "AUDIT: ",
    "parameters: ",
];
/// Errors and warnings about replication, files and sessions: they hold no values.
const OWN_MESSAGES: [&str; 24] = [
    "requested WAL segment",
    "requested starting point",
    "requested timeline",
    "replication slot",
    "replication terminated",
    "could not receive",
    "could not send",
    "could not open file",
    "could not read",
    "could not write",
    "could not fsync",
    "could not extend file",
    "could not connect to the primary",
    "canceling statement due to",
    "canceling wait for synchronous replication",
    "canceling authentication",
    "terminating ",
    "recovery is",
    "invalid page",
    "page verification failed",
    "out of memory",
    "out of shared memory",
    "too many ",
    "cannot execute",
];
/// What a standby asks its primary for.
const REPLICATION: [&str; 7] = [
    "START_REPLICATION",
    "IDENTIFY_SYSTEM",
    "BASE_BACKUP",
    "CREATE_REPLICATION_SLOT",
    "READ_REPLICATION_SLOT",
    "DROP_REPLICATION_SLOT",
    "TIMELINE_HISTORY",
];
/// Additions that hold values, whatever they are added to.
const VALUES: [&str; 3] = ["parameters", "key (", "failing row"];

/// Returns the log without what users wrote; what is left out is said in its place.
#[must_use]
pub fn without_data(log: &str) -> String {
    let mut out = String::with_capacity(log.len());
    let mut own = false;
    let mut lines = log.split_inclusive('\n').peekable();
    while let Some(line) = lines.next() {
        let mut record = line.to_owned();
        while let Some(more) = lines.next_if(|next| next.starts_with('\t')) {
            record.push_str(more);
        }
        let Some((head, word, text)) = parted(&record) else {
            // The output of a program that the server ran, or of its start.
            out.push_str(&record);
            continue;
        };
        out.push_str(head);
        let kept = kept(word, text, &mut own);
        out.push_str(text.get(..kept).unwrap_or_default());
        let left_out = text.trim_end_matches('\n').len().saturating_sub(kept);
        if left_out > 0 {
            // Writing to a text cannot fail.
            writeln!(out, "[left out: {left_out} bytes]").ok();
        }
    }
    out
}

/// Parts a record into what stands before its text, its severity, and its text.
fn parted(record: &str) -> Option<(&str, &str, &str)> {
    let line = record.split('\n').next()?;
    let known =
        |word: &str| SEVERITIES.contains(&word) || ADDITIONS.contains(&word) || word == "DEBUG5";
    let mut foreign = None;
    for (at, _) in line.match_indices(":  ") {
        let word = line.get(..at)?.rsplit([' ', ']', '\t']).next()?;
        let parts = (record.get(..at + 3)?, word, record.get(at + 3..)?);
        if known(word) {
            return Some(parts);
        }
        foreign = foreign.or(Some(parts));
    }
    // Of a server that speaks another language.
    foreign
}

/// Returns how much of a text may be told. `own` says whether the last message was the server's own, and what is
/// added to it may be told too.
fn kept(word: &str, text: &str, own: &mut bool) -> usize {
    let begins = |beginnings: &[&str]| beginnings.iter().any(|begin| text.starts_with(begin));
    let lower = text.to_ascii_lowercase();
    match word {
        "LOG" => {
            let begin =
                STATEMENTS.iter().filter_map(|mark| Some(text.find(mark)? + mark.len())).min();
            *own = begin.is_none();
            begin.unwrap_or(text.len())
        }
        "FATAL" | "PANIC" => {
            *own = true;
            text.len()
        }
        "DETAIL" | "HINT" | "CONTEXT" => {
            let values = VALUES.iter().any(|begin| lower.starts_with(begin));
            if *own && !values { text.len() } else { 0 }
        }
        "STATEMENT" if begins(&REPLICATION) => text.len(),
        "LOCATION" => text.len(),
        _ if SEVERITIES.contains(&word) => {
            *own = begins(&OWN_MESSAGES);
            if *own { text.len() } else { 0 }
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_says_of_itself_is_kept_and_what_users_wrote_is_not() {
        #[rustfmt::skip]
        let table = [
            ("LOG:  checkpoint starting: time\n",                   "LOG:  checkpoint starting: time\n"),
            ("FATAL:  terminating walreceiver\nDETAIL:  End of WAL.\n", "FATAL:  terminating walreceiver\nDETAIL:  End of WAL.\n"),
            ("LOG:  statement: select 'Jane'\n\tfrom x\nLOG:  a\n",  "LOG:  statement: [left out: 21 bytes]\nLOG:  a\n"),
            ("LOG:  duration: 7 ms  execute s: select 1\n",         "LOG:  duration: 7 ms  execute [left out: 11 bytes]\n"),
            ("LOG:  AUDIT: SESSION,1,Jane\n",                       "LOG:  AUDIT: [left out: 14 bytes]\n"),
            ("LOG:  execute s: x\nDETAIL:  y Jane\n",               "LOG:  execute [left out: 4 bytes]\nDETAIL:  [left out: 6 bytes]\n"),
            ("LOG:  slow\nDETAIL:  Parameters: $1 = 'Jane'\n",      "LOG:  slow\nDETAIL:  [left out: 23 bytes]\n"),
            ("ERROR:  duplicate key\nDETAIL:  Key (a)=(Jane)\nSTATEMENT:  insert Jane\n",
             "ERROR:  [left out: 13 bytes]\nDETAIL:  [left out: 14 bytes]\nSTATEMENT:  [left out: 11 bytes]\n"),
            ("ERROR:  Jane has no credit\n",                        "ERROR:  [left out: 18 bytes]\n"),
            ("ERROR:  requested WAL segment 00 has already been removed\nSTATEMENT:  START_REPLICATION 0/3 TIMELINE 2\n",
             "ERROR:  requested WAL segment 00 has already been removed\nSTATEMENT:  START_REPLICATION 0/3 TIMELINE 2\n"),
            ("ANWEISUNG:  select 'Jane'\n",                         "ANWEISUNG:  [left out: 13 bytes]\n"),
            ("cp: no such file\n",                                  "cp: no such file\n"),
            ("LOG:  no end",                                        "LOG:  no end"),
            ("",                                                    ""),
        ];
        for (log, expected) in table {
            assert_eq!(without_data(log), expected, "{log}");
            let prefix = "2026-11-28 03:00:00.123 UTC [77] app=x ";
            let prefixed: String = log
                .split_inclusive('\n')
                .map(|line| {
                    if line.starts_with('\t') { line.to_owned() } else { format!("{prefix}{line}") }
                })
                .collect();
            assert_eq!(without_data(&prefixed).replace(prefix, ""), expected, "{prefixed}");
        }
    }
}
