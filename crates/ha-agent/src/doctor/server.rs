//! Judges what was measured of this node's server.

use std::collections::BTreeMap;

use ha_core::NodeId;
use ha_postgres::driver::{Archiver, Checkup, Measured, Slot, Standby, Survey, Transactions, Wal};

use super::finding::{Finding, size};

/// How far behind a receiver's replay may be.
const REPLAY_LAG_MS: u64 = 10_000;
/// What a slot may keep where nothing bounds it.
const SLOT_KEEPS: u64 = 8 << 30;
/// A prepared transaction that old was forgotten.
const PREPARED_S: u64 = 3600;
/// A transaction that old keeps VACUUM from its work.
const LONG_S: u64 = 3600;
/// Files that wait to be archived.
const BACKLOG: u32 = 64;
/// Transaction ids: autovacuum begins at 0.2 billion, the server stops at 2.1.
const AGE_WARNING: u64 = 1_500_000_000;
const AGE_CRITICAL: u64 = 1_900_000_000;

/// What the cluster has of this server to expect.
#[derive(Debug)]
pub(super) struct Expected {
    /// Whether this node holds the lease.
    pub(super) primary: bool,
    /// Who is to receive WAL from the primary.
    pub(super) receivers: Vec<NodeId>,
    /// How far behind they may be.
    pub(super) lag_bytes_max: u64,
}

/// Judges everything but who acknowledges.
pub(super) fn judge(checkup: &Checkup, expected: &Expected) -> Vec<Finding> {
    let serves = expected.primary && !checkup.in_recovery;
    let mut findings = part("fsync-off", &checkup.settings, durable);
    findings
        .extend(part("slot-lost", &checkup.slots, |all| slots(all, serves, &expected.receivers)));
    if serves {
        let judged = |all: &Vec<Standby>| standbys(all, expected);
        findings.extend(part("standby-missing", &checkup.standbys, judged));
    }
    findings.extend(part("wal-large", &checkup.wal, |wal| vec![size_of(*wal)]));
    // A standby archives nothing, and says what the primary did when it was cloned.
    if !checkup.in_recovery {
        findings.extend(part("archive-failing", &checkup.archiver, |a| vec![archiver(a.as_ref())]));
    }
    findings.extend(part("transaction-age", &checkup.transactions, transactions));
    findings
}

fn part<T>(
    id: &'static str,
    measured: &Measured<T>,
    judge: impl FnOnce(&T) -> Vec<Finding>,
) -> Vec<Finding> {
    match measured {
        Ok(value) => judge(value),
        Err(why) => vec![Finding::unchecked(id, why)],
    }
}

/// Judges the settings that a crash or a rewind depends on.
fn durable(settings: &BTreeMap<String, String>) -> Vec<Finding> {
    let says = |name: &str| settings.get(name).map_or("unknown", String::as_str);
    let on = |name: &str| says(name) == "on";
    let mut findings = Vec::new();
    for (id, name) in [("fsync-off", "fsync"), ("full-page-writes-off", "full_page_writes")] {
        findings.push(Finding::graded(
            id,
            !on(name),
            false,
            format!("{name} is {}", says(name)),
            format!("a crash may destroy the database: set {name} to on, `haclt restart` the node"),
        ));
    }
    let (hints, sums) = (says("wal_log_hints"), says("data_checksums"));
    findings.push(Finding::graded(
        "rewind-impossible",
        false,
        !on("wal_log_hints") && !on("data_checksums"),
        format!("wal_log_hints is {hints}, data checksums are {sums}"),
        "without either a former primary is cloned instead of rewound: `haclt restart` the node",
    ));
    findings.push(if on("data_checksums") {
        Finding::ok("checksums-off", "data checksums are on")
    } else {
        Finding::note(
            "checksums-off",
            format!("data checksums are {sums}: what a disk damages is not noticed"),
            "pg_checksums --enable, on each stopped node",
        )
    });
    findings
}

fn slots(slots: &[Slot], serves: bool, receivers: &[NodeId]) -> Vec<Finding> {
    let kept = |slot: &Slot| slot.kept_bytes.map_or("nothing".to_owned(), size);
    let is_ours = |name: &str| receivers.iter().any(|node| node.as_str() == name);
    // Without its slot a node may have to be cloned: ours are never dropped.
    let mend = |slot: &Slot, how: &str| match &slot.name {
        node if is_ours(node) => format!("{how}: node {node}"),
        name => {
            format!("{how}; if nobody needs it: select pg_drop_replication_slot('{name}')")
        }
    };
    let mut findings = Vec::new();
    for slot in slots {
        let name = &slot.name;
        if slot.status == "lost" {
            findings.push(Finding::warning(
                "slot-lost",
                format!("slot {name} has lost its WAL"),
                mend(
                    slot,
                    "a node's own is made anew by itself, and who used it is caught up or cloned",
                ),
            ));
            continue;
        }
        // A standby keeps a slot for every other node, for the day on which it is primary.
        if serves && !slot.active {
            findings.push(Finding::warning(
                "slot-inactive",
                format!("nobody uses slot {name}, which keeps {}", kept(slot)),
                mend(slot, "start what receives by it"),
            ));
        }
        let kept_bytes = slot.kept_bytes.unwrap_or(0);
        let bound = slot.left_bytes.map_or(SLOT_KEEPS, |left| kept_bytes.saturating_add(left) / 2);
        if kept_bytes > bound {
            let left = slot.left_bytes.map_or("without a bound".to_owned(), |left| {
                format!("it is lost after {} more", size(left))
            });
            findings.push(Finding::warning(
                "slot-behind",
                format!("slot {name} keeps {}, {left}", kept(slot)),
                mend(slot, "find out why its receiver does not get on"),
            ));
        }
    }
    for node in receivers.iter().filter(|_| serves) {
        if !slots.iter().any(|slot| slot.name == node.as_str()) {
            findings.push(Finding::warning(
                "slot-missing",
                format!("{node} has no slot: nothing keeps the WAL that it needs"),
                "the agent makes it within seconds; max_replication_slots may be used up",
            ));
        }
    }
    let most = slots.iter().filter_map(|slot| slot.kept_bytes).max().unwrap_or(0);
    let evidence = format!("{} slots, the furthest behind keeps {}", slots.len(), size(most));
    fill(findings, &["slot-lost", "slot-inactive", "slot-behind", "slot-missing"], &evidence)
}

/// Adds that all is well for each check that found nothing.
fn fill(mut findings: Vec<Finding>, ids: &[&'static str], evidence: &str) -> Vec<Finding> {
    for id in ids {
        if !findings.iter().any(|finding| finding.id == *id) {
            findings.push(Finding::ok(id, evidence));
        }
    }
    findings
}

fn standbys(standbys: &[Standby], expected: &Expected) -> Vec<Finding> {
    let mut findings = Vec::new();
    for node in &expected.receivers {
        let Some(seen) = standbys.iter().find(|standby| standby.name == node.as_str()) else {
            findings.push(Finding::warning(
                "standby-missing",
                format!("{node} receives no WAL from here"),
                format!("`haclt explain` says what {node} is waiting for"),
            ));
            continue;
        };
        let Standby { state, lag_bytes, replay_lag_ms, .. } = seen;
        let replay = replay_lag_ms.unwrap_or(0);
        let late = *lag_bytes > expected.lag_bytes_max || replay > REPLAY_LAG_MS;
        findings.push(Finding::graded(
            "standby-lag",
            false,
            late || state != "streaming",
            format!("{node}: {state}, lag {}, replay lag {replay} ms", size(*lag_bytes)),
            format!("look at network and disk of {node}; long queries there hold replay up"),
        ));
    }
    let evidence = format!("{} receivers, all of {}", standbys.len(), expected.receivers.len());
    fill(findings, &["standby-missing"], &evidence)
}

fn size_of(wal: Wal) -> Finding {
    let Wal { bytes, expected_bytes } = wal;
    Finding::graded(
        "wal-large",
        false,
        bytes > expected_bytes.saturating_mul(2).saturating_add(1 << 30),
        format!("pg_wal has {}, usual are up to {}", size(bytes), size(expected_bytes)),
        "slots (slot-inactive, slot-behind) or the archiver (archive-failing) hold it back",
    )
}

fn archiver(archiver: Option<&Archiver>) -> Finding {
    let id = "archive-failing";
    match archiver {
        None => Finding::ok(id, "archive_mode is off"),
        Some(Archiver { failing: Some(file), failed_s, failures }) => Finding::warning(
            id,
            format!("{file} could not be archived {failed_s} s ago; {failures} failures in all"),
            "the server's log has the error of archive_command; WAL is kept until it succeeds",
        ),
        Some(Archiver { failures, .. }) => {
            Finding::ok(id, format!("the latest file was archived; {failures} failures in all"))
        }
    }
}

fn transactions(transactions: &Transactions) -> Vec<Finding> {
    let Transactions { prepared, prepared_s, oldest_database, oldest_age } = transactions;
    vec![
        Finding::graded(
            "prepared-old",
            false,
            *prepared > 0 && *prepared_s > PREPARED_S,
            format!("{prepared} prepared transactions, the oldest of {prepared_s} s ago"),
            "select * from pg_prepared_xacts; then COMMIT PREPARED or ROLLBACK PREPARED",
        ),
        Finding::graded(
            "transaction-age",
            *oldest_age > AGE_CRITICAL,
            *oldest_age > AGE_WARNING,
            format!(
                "database {oldest_database}: {oldest_age} transactions old, 2146483647 stop it"
            ),
            format!(
                "vacuumdb --freeze {oldest_database}; end what holds it up (prepared-old, slots)"
            ),
        ),
    ]
}

/// Judges what a planned stop would run into, as far as it is of interest at other times.
pub(super) fn judge_survey(survey: &Survey, node: &NodeId) -> Vec<Finding> {
    let waiting = survey.pending_restart.join(", ");
    let pending = if survey.pending_restart.is_empty() {
        Finding::ok("pending-restart", "no parameter waits for a restart")
    } else {
        let mend = format!("`haclt restart {node} --if-pending`");
        Finding::warning("pending-restart", format!("waiting for a restart: {waiting}"), mend)
    };
    let long = if survey.oldest_s > LONG_S {
        Finding::note(
            "transaction-long",
            format!("a transaction has been open for {} s", survey.oldest_s),
            "select * from pg_stat_activity order by xact_start; it holds VACUUM up",
        )
    } else {
        let many = survey.long_transactions;
        let evidence = format!(
            "{many} have been open for more than 30 s, the oldest for {} s",
            survey.oldest_s
        );
        Finding::ok("transaction-long", evidence)
    };
    let backlog = Finding::graded(
        "archive-backlog",
        false,
        survey.archive_backlog > BACKLOG,
        format!("{} files wait to be archived", survey.archive_backlog),
        "archive_command fails or is too slow; a planned stop waits for all of them",
    );
    vec![pending, long, backlog]
}

/// Judges who acknowledges commits; `recorded` is what the cluster recorded of this node's grant.
pub(super) fn synchronous(setting: &str, recorded: Option<&str>, in_recovery: bool) -> Finding {
    let id = "synchronous-differs";
    match recorded {
        Some(recorded) if !in_recovery => Finding::graded(
            id,
            setting != recorded,
            false,
            format!("synchronous_standby_names is '{setting}', recorded is '{recorded}'"),
            "the agent sets it again by itself; if it does not, its log says why (ALTER SYSTEM, ALTER \
             ROLE or ALTER DATABASE in the way)",
        ),
        Some(_) | None => {
            Finding::ok(id, format!("not the primary; the setting here is '{setting}'"))
        }
    }
}

#[cfg(test)]
mod tests;
