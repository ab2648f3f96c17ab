//! What `pg_waldump` prints, summed up by transactions: bounded, however much WAL there is.
//!
//! # Sources
//! PostgreSQL, `pg_waldump.c: XLogDumpDisplayRecord`, `xactdesc.c: xact_desc_commit, xact_desc_abort`,
//! `smgrdesc.c: smgr_desc`, `relpath.c: GetRelationPath`; unchanged from 15 to 18 in what is read here.

use std::collections::HashMap;
use std::fmt;

use ha_core::Lsn;

use crate::diverged::{CATALOG, DivergedTransaction, RELATIONS_MAX, TRANSACTIONS_MAX};
use crate::tool::LINE_BYTES_MAX;

/// How many transactions are followed at once, subtransactions counted.
const OPEN_MAX: usize = 50_000;

/// The lowest number of a relation that `initdb` did not make (`FirstNormalObjectId`).
const FIRST_NORMAL: u32 = 16_384;
/// Tablespaces `pg_default` and `pg_global`.
const DEFAULT_SPACE: u32 = 1663;
const GLOBAL_SPACE: u32 = 1664;

/// A relation's file: tablespace, database, relfilenode; all zero for any system catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Relation(u32, u32, u32);

impl Relation {
    const CATALOG: Self = Self(0, 0, 0);

    const fn of(space: u32, database: u32, file: u32) -> Self {
        if file < FIRST_NORMAL { Self::CATALOG } else { Self(space, database, file) }
    }

    /// Reads `1663/5/16384`.
    fn from_numbers(text: &str) -> Option<Self> {
        let mut numbers = text.split('/').map(str::parse::<u32>);
        let (space, database, file) = (numbers.next()?, numbers.next()?, numbers.next()?);
        Some(Self::of(space.ok()?, database.ok()?, file.ok()?))
    }

    /// Reads `base/5/16384`, `global/1262` or `pg_tblspc/16390/PG_15_202209061/5/16391`; the name of a
    /// fork may follow. Temporary ones (`base/5/t3_16384`) count for nothing.
    fn from_path(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.split('/').collect();
        let (space, database, file) = match parts[..] {
            ["base", database, file] => (DEFAULT_SPACE, database, file),
            ["global", file] => (GLOBAL_SPACE, "0", file),
            ["pg_tblspc", space, _, database, file] => (space.parse().ok()?, database, file),
            _ => return None,
        };
        let file = file.split('_').next()?;
        Some(Self::of(space, database.parse().ok()?, file.parse().ok()?))
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::CATALOG => f.write_str(CATALOG),
            Self(space, database, file) => write!(f, "{space}/{database}/{file}"),
        }
    }
}

/// What is known of a transaction before it ends.
#[derive(Debug, Default)]
struct Open {
    relations: Vec<Relation>,
    /// There were more of them.
    more: bool,
    records: u64,
}

impl Open {
    fn touch(&mut self, relation: Relation) {
        if self.relations.contains(&relation) {
        } else if self.relations.len() < RELATIONS_MAX {
            self.relations.push(relation);
        } else {
            self.more = true;
        }
    }

    fn absorb(&mut self, other: Self) {
        other.relations.into_iter().for_each(|relation| self.touch(relation));
        self.more |= other.more;
        self.records += other.records;
    }
}

/// Reads records one by one.
#[derive(Debug, Default)]
pub(super) struct Reader {
    open: HashMap<u32, Open>,
    committed: Vec<DivergedTransaction>,
    total: u64,
    truncated: bool,
}

/// The parts of a line that matter.
struct Record<'a> {
    manager: &'a str,
    xid: u32,
    lsn: Lsn,
    description: &'a str,
}

impl Reader {
    /// Takes one line of output; one that is no record is passed over.
    pub(super) fn line(&mut self, line: &str) {
        // A commit may name more subtransactions than a line holds here.
        self.truncated |= line.len() >= LINE_BYTES_MAX;
        let Some(record) = parse(line) else { return };
        match record.manager {
            "Transaction" => self.end(&record),
            // Its text is a user's.
            "LogicalMessage" => self.count(&record, []),
            "Storage" => {
                let path = record.description.split(' ').nth(1);
                self.count(&record, path.and_then(Relation::from_path));
            }
            _ => self.count(&record, blocks(record.description)),
        }
    }

    fn count(&mut self, record: &Record<'_>, touched: impl IntoIterator<Item = Relation>) {
        if record.xid == 0 {
            return;
        }
        if self.open.len() >= OPEN_MAX && !self.open.contains_key(&record.xid) {
            self.truncated = true;
            return;
        }
        let open = self.open.entry(record.xid).or_default();
        open.records += 1;
        touched.into_iter().for_each(|relation| open.touch(relation));
    }

    /// A record of a transaction's end, or of something before it.
    fn end(&mut self, record: &Record<'_>) {
        let Some((kind, rest)) = record.description.split_once(' ') else { return };
        let commits = match kind {
            "COMMIT" | "COMMIT_PREPARED" => true,
            "ABORT" | "ABORT_PREPARED" => false,
            _ => return self.count(record, []),
        };
        let mut fields = rest.split(';');
        let head = fields.next().unwrap_or_default().trim();
        // Of a prepared transaction the number comes first; the record itself belongs to none.
        let (xid, time) = match head.split_once(": ") {
            Some((xid, time)) => (xid.parse().unwrap_or(record.xid), time),
            None => (record.xid, head),
        };
        let mut whole = self.open.remove(&xid).unwrap_or_default();
        whole.records += 1;
        for (name, list) in fields.filter_map(|field| field.split_once(':')) {
            match name.trim() {
                "subxacts" => {
                    let numbers = list.split_whitespace().filter_map(|it| it.parse().ok());
                    let parts = numbers.filter_map(|sub: u32| self.open.remove(&sub));
                    parts.for_each(|part| whole.absorb(part));
                }
                // Files that go with the commit: of dropped and rewritten relations.
                "rels" => {
                    let files = list.split_whitespace().filter_map(Relation::from_path);
                    files.for_each(|relation| whole.touch(relation));
                }
                _ => {}
            }
        }
        if commits {
            self.commit(xid, record.lsn, time, &whole);
        }
    }

    fn commit(&mut self, xid: u32, lsn: Lsn, time: &str, whole: &Open) {
        self.total += 1;
        if self.committed.len() == TRANSACTIONS_MAX {
            self.truncated = true;
            return;
        }
        self.truncated |= whole.more;
        self.committed.push(DivergedTransaction {
            xid: u64::from(xid),
            commit_lsn: lsn,
            committed_at: time.to_owned(),
            relations: whole.relations.iter().map(Relation::to_string).collect(),
            records: whole.records,
        });
    }

    /// Returns the transactions, how many there were, and whether something was left out.
    pub(super) fn finish(self) -> (Vec<DivergedTransaction>, u64, bool) {
        (self.committed, self.total, self.truncated)
    }
}

/// Reads `rmgr: Heap  len (rec/tot): 59/ 59, tx: 735, lsn: 0/1535A78, prev …, desc: INSERT off 1, …`.
fn parse(line: &str) -> Option<Record<'_>> {
    let rest = line.strip_prefix("rmgr: ")?;
    let (manager, rest) = rest.split_once(' ')?;
    let (_, rest) = rest.split_once(", tx:")?;
    let (xid, rest) = rest.split_once(", lsn: ")?;
    let (lsn, rest) = rest.split_once(',')?;
    let (_, description) = rest.split_once(", desc: ")?;
    let (xid, lsn) = (xid.trim().parse().ok()?, lsn.parse().ok()?);
    Some(Record { manager, xid, lsn, description })
}

/// Reads each `blkref #0: rel 1663/5/16384 blk 0`.
fn blocks(description: &str) -> impl Iterator<Item = Relation> {
    let references = description.split("blkref #").skip(1);
    references.filter_map(|reference| {
        let (_, rest) = reference.split_once("rel ")?;
        Relation::from_numbers(rest.split([' ', ',']).next()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(manager: &str, xid: u32, lsn: &str, description: &str) -> String {
        format!(
            "rmgr: {manager:<11} len (rec/tot):     59/    59, tx: {xid:>10}, lsn: {lsn}, \
             prev 0/01535A40, desc: {description}"
        )
    }

    fn insert(xid: u32, relation: &str) -> String {
        let description = format!("INSERT off 1 flags 0x00, blkref #0: rel {relation} blk 0 FPW");
        record("Heap", xid, "0/01535A78", &description)
    }

    fn read(lines: &[String]) -> (Vec<DivergedTransaction>, u64, bool) {
        let mut reader = Reader::default();
        for line in lines {
            reader.line(line);
        }
        assert!(reader.open.len() <= OPEN_MAX);
        reader.finish()
    }

    #[test]
    fn committed_transactions_count_and_others_do_not() {
        let time = "2026-01-31 12:00:00.123456 UTC";
        let (transactions, total, truncated) = read(&[
            insert(735, "1663/5/16384"),
            insert(736, "1663/5/16390"),
            insert(737, "1663/5/16391"),
            insert(738, "1663/5/1259"),
            insert(738, "1663/5/1259"),
            record("Transaction", 736, "0/01535B00", &format!("ABORT {time}")),
            record("Transaction", 735, "1/A0", &format!("COMMIT {time}; inval msgs: catcache 7")),
            record("Transaction", 738, "1/B0", &format!("COMMIT {time}; rels: base/5/16400")),
        ]);
        assert_eq!((total, truncated), (2, false));
        let first = DivergedTransaction {
            xid: 735,
            commit_lsn: Lsn(0x1_0000_00A0),
            committed_at: time.to_owned(),
            relations: vec!["1663/5/16384".to_owned()],
            records: 2,
        };
        assert_eq!(transactions.first(), Some(&first));
        let last = transactions.last().unwrap();
        assert_eq!((last.xid, last.records), (738, 3));
        assert_eq!(last.relations, ["catalog", "1663/5/16400"]);
    }

    #[test]
    fn subtransactions_and_prepared_ones_belong_to_the_whole() {
        let (transactions, total, _) = read(&[
            insert(740, "1663/5/16384"),
            insert(741, "1663/5/16385"),
            insert(742, "1663/5/16386"),
            record("Transaction", 742, "0/1", "ABORT 2026-01-31 12:00:00 UTC"),
            record("Transaction", 740, "0/2", "PREPARE gid COMMIT 740: x: 2026-01-31 12:00:00 UTC"),
            record(
                "Transaction",
                0,
                "0/3",
                "COMMIT_PREPARED 740: 2026-01-31 12:00:01 UTC; subxacts: 741 742; sync",
            ),
            insert(750, "1663/5/16384"),
            record("Transaction", 0, "0/4", "ABORT_PREPARED 750: 2026-01-31 12:00:00 UTC"),
            record("Transaction", 750, "0/5", "COMMIT 2026-01-31 12:00:02 UTC"),
        ]);
        assert_eq!(total, 2);
        let first = transactions.first().unwrap();
        assert_eq!((first.xid, first.commit_lsn, first.records), (740, Lsn(3), 4));
        assert_eq!(first.committed_at, "2026-01-31 12:00:01 UTC");
        assert_eq!(first.relations, ["1663/5/16384", "1663/5/16385"]);
        assert_eq!(transactions.last().map(|last| last.records), Some(1));
    }

    #[test]
    fn paths_of_relations_are_read() {
        #[rustfmt::skip]
        let table = [
            ("base/5/16384",                         Some(Relation(1663, 5, 16384))),
            ("base/5/16384_init",                    Some(Relation(1663, 5, 16384))),
            ("base/5/1259",                          Some(Relation::CATALOG)),
            ("global/1262",                          Some(Relation::CATALOG)),
            ("pg_tblspc/16390/PG_15_2022/5/16391",   Some(Relation(16390, 5, 16391))),
            ("base/5/t3_16384",                      None),
            ("base/5",                               None),
            ("",                                     None),
        ];
        for (path, expected) in table {
            assert_eq!(Relation::from_path(path), expected, "{path}");
        }
        let created = record("Storage", 735, "0/1", "CREATE base/5/16384");
        let (transactions, ..) =
            read(&[created, record("Transaction", 735, "0/2", "COMMIT 2026-01-31 12:00:00 UTC")]);
        assert_eq!(transactions.first().unwrap().relations, ["1663/5/16384"]);
    }

    #[test]
    fn however_much_there_is_the_memory_is_bounded() {
        let mut lines = Vec::new();
        for xid in 1..=100_000 {
            lines.push(insert(xid, "1663/5/16384"));
        }
        assert!(read(&lines).2);
        let commits = (1..=1500).map(|xid| record("Transaction", xid, "0/1", "COMMIT 2026 UTC"));
        let (transactions, total, truncated) = read(&commits.collect::<Vec<_>>());
        assert_eq!((transactions.len(), total, truncated), (TRANSACTIONS_MAX, 1500, true));
        let mut lines: Vec<String> =
            (0..30).map(|file| insert(7, &format!("1663/5/{}", 16384 + file))).collect();
        lines.push(record("Transaction", 7, "0/1", "COMMIT 2026 UTC"));
        let (transactions, _, truncated) = read(&lines);
        assert_eq!(transactions.first().unwrap().relations.len(), RELATIONS_MAX);
        assert!(truncated);
    }

    #[test]
    fn what_is_no_record_is_passed_over() {
        let odd = ["", "rmgr: ", "rmgr: Heap", "pg_waldump: first record is after 0/1", "\u{fffd}"];
        let whole = record("Transaction", 735, "0/1", "COMMIT 2026-01-31; subxacts: 1 x; rels: y");
        let cut = (0..whole.len()).map(|at| whole[..at].to_owned());
        let lines: Vec<String> = odd.into_iter().map(str::to_owned).chain(cut).collect();
        // The last cuts are still commits.
        assert!(read(&lines).1 > 0);
        // A message of a user that looks like a block reference.
        let message = r#"MESSAGE transactional, prefix "blkref #0: rel 1663/5/99999"; payload"#;
        let (transactions, ..) = read(&[
            record("LogicalMessage", 9, "0/1", message),
            record("Transaction", 9, "0/2", "COMMIT 2026 UTC"),
        ]);
        assert_eq!(transactions.first().unwrap().relations, Vec::<String>::new());
    }
}
