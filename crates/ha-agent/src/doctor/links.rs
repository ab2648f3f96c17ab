//! From this node to the others: agents, clocks, databases.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use ha_core::lease::Drift;
use ha_core::{NodeId, NodeKind};
use ha_postgres::driver::{Knock, KnockError, PostgresDriver, Purpose, Upstream};
use ha_postgres::instance::knock;
use ha_proto::v1::{DoctorClocks, DoctorRequest};
use tokio::time::{Instant, sleep};
use tonic::Status;

use super::finding::{Finding, ms};
use crate::agent::Agent;
use crate::clock;

/// How long an agent may take to tell its clocks.
const PING_LIMIT: Duration = Duration::from_secs(1);
/// Between the two readings that a rate is computed from.
const SPAN: Duration = Duration::from_secs(1);
/// How long a login may take.
const KNOCK_LIMIT: Duration = Duration::from_secs(3);
/// Wall clocks: logs cannot be read side by side; points in time for a restore mean something else.
const OFFSET_NOTE: Duration = Duration::from_millis(250);
const OFFSET_WARNING: Duration = Duration::from_secs(5);

/// One answer of a peer, and what our clocks said before and after it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reading {
    pub(crate) before: DoctorClocks,
    pub(crate) theirs: DoctorClocks,
    pub(crate) after: DoctorClocks,
}

impl Reading {
    fn round_trip_ns(&self) -> u64 {
        self.after.monotonic_raw_ns.saturating_sub(self.before.monotonic_raw_ns)
    }

    fn round_trip(&self) -> Duration {
        Duration::from_nanos(self.round_trip_ns())
    }
}

/// Reads this node's clocks.
pub(crate) fn own_clocks() -> DoctorClocks {
    let now = clock::now();
    DoctorClocks {
        boottime_ns: now.boottime.0,
        monotonic_raw_ns: now.monotonic_raw,
        wall_unix_ms: clock::wall_unix_ms(),
    }
}

/// Asks every other agent twice.
pub(super) async fn examine<D: PostgresDriver>(agent: &Arc<Agent<D>>) -> Vec<Finding> {
    let policy = &agent.config.policy;
    let others = agent.others();
    let asked = others.iter().map(|node| async move {
        match ask_clocks(agent, node).await {
            Err(why) => vec![unreachable(node, &why)],
            Ok(first) => {
                sleep(SPAN).await;
                let second = ask_clocks(agent, node).await;
                let mut findings = vec![match &second {
                    Ok(_) => reached(node, &first),
                    Err(why) => unreachable(node, why),
                }];
                let best = match &second {
                    Ok(second) if second.round_trip() < first.round_trip() => second,
                    _ => &first,
                };
                findings.push(slow(node, best.round_trip(), policy.heartbeat));
                findings.push(offset(node, best));
                findings.extend(second.ok().map(|s| rate(node, &first, &s, policy.drift)));
                findings
            }
        }
    });
    join_all(asked).await.concat()
}

async fn ask_clocks<D>(agent: &Agent<D>, node: &NodeId) -> Result<Reading, String> {
    let cluster = agent.config.cluster.clone();
    let request = DoctorRequest { cluster, clocks: true, ..DoctorRequest::default() };
    let before = own_clocks();
    let answer = agent.peers.doctor(node, request, PING_LIMIT).await;
    let after = own_clocks();
    let reply = answer.map_err(|status| said(node, &status))?;
    if reply.answered_by != node.as_str() {
        return Err(format!("node {} answers at the address of {node}", reply.answered_by));
    }
    let theirs = reply.clocks.ok_or("its answer has no clocks")?;
    Ok(Reading { before, theirs, after })
}

/// Returns why a peer did not answer, without its name, which is said once already.
pub(crate) fn said(node: &NodeId, status: &Status) -> String {
    let text = status.message();
    text.strip_prefix(&format!("node {node}: ")).unwrap_or(text).to_owned()
}

fn unreachable(node: &NodeId, why: &str) -> Finding {
    Finding::critical(
        "peer-unreachable",
        format!("to the agent of {node}: {why}"),
        format!("start the agent of {node}, or mend network, firewall or peers.{node}"),
    )
}

fn reached(node: &NodeId, reading: &Reading) -> Finding {
    let took = ms(reading.round_trip());
    Finding::ok("peer-unreachable", format!("to the agent of {node}: {took}"))
}

fn slow(node: &NodeId, round_trip: Duration, heartbeat: Duration) -> Finding {
    Finding::graded(
        "peer-slow",
        false,
        round_trip > heartbeat,
        format!("to the agent of {node}: {}, raft.heartbeat {}", ms(round_trip), ms(heartbeat)),
        "lengthen raft.heartbeat, raft.election_min and _max and lease.ttl, or shorten the way",
    )
}

fn offset(node: &NodeId, reading: &Reading) -> Finding {
    let Reading { before, theirs, after } = reading;
    // Half of the round trip is what we cannot know.
    let middle = u64::midpoint(before.wall_unix_ms, after.wall_unix_ms);
    let apart = Duration::from_millis(middle.abs_diff(theirs.wall_unix_ms));
    let certain = apart.saturating_sub(reading.round_trip() / 2);
    let ahead = if theirs.wall_unix_ms < middle { "behind" } else { "ahead" };
    let evidence = format!(
        "the wall clock of {node} is {} {ahead} (± {})",
        ms(apart),
        ms(reading.round_trip() / 2)
    );
    let mend = "synchronise the clocks (chrony, systemd-timesyncd); haclt itself does not need it";
    match certain {
        far if far >= OFFSET_WARNING => Finding::warning("clock-offset", evidence, mend),
        far if far >= OFFSET_NOTE => Finding::note("clock-offset", evidence, mend),
        _ => Finding::ok("clock-offset", evidence),
    }
}

/// Compares the rates of both clocks that leases are counted on. Nobody knows when within a round trip
/// the other side read its clocks: that much is granted.
fn rate(node: &NodeId, first: &Reading, second: &Reading, drift: Drift) -> Finding {
    let id = "clock-rate";
    let doubt = u64::midpoint(first.round_trip_ns(), second.round_trip_ns());
    let differences = [
        |clocks: &DoctorClocks| clocks.boottime_ns,
        |clocks: &DoctorClocks| clocks.monotonic_raw_ns,
    ]
    .map(|of| {
        let middle = |reading: &Reading| u64::midpoint(of(&reading.before), of(&reading.after));
        let ours = middle(second).saturating_sub(middle(first));
        let theirs = of(&second.theirs).saturating_sub(of(&first.theirs));
        (ours, ours.abs_diff(theirs))
    });
    let ppm = |part: u64, of: u64| part.saturating_mul(1_000_000) / of.max(1);
    let bound = u64::from(drift.per_mille) * 1000;
    let certain = differences.map(|(ours, apart)| ppm(apart.saturating_sub(doubt), ours));
    let (span, _) = differences[0];
    let doubt = ppm(doubt, span);
    let worst = certain.into_iter().max().unwrap_or_default();
    let evidence = format!("the clocks of {node} run {worst} ppm apart from ours (± {doubt} ppm)");
    if worst > bound {
        let mend = "this is outside of lease.drift_per_mille, which leases rely on: look at the \
                    host's clock source (/sys/devices/system/clocksource), move the node elsewhere";
        return Finding::critical(id, evidence, mend);
    }
    if doubt > bound {
        return Finding::unchecked(
            id,
            format!("the round trips to {node} take too long: {evidence}"),
        );
    }
    Finding::ok(id, evidence)
}

/// Logs in to every other node's database.
pub(super) async fn knock_at_all<D: PostgresDriver>(agent: &Arc<Agent<D>>) -> Vec<Finding> {
    let state = agent.state();
    let data = state.nodes.iter().filter(|(_, is)| is.kind == NodeKind::Data);
    let others = data.filter(|(node, _)| *node != agent.node()).map(|(node, _)| node.clone());
    let asked = others.map(|node| async move {
        let Some(at) = agent.upstream(&node) else {
            let why = format!("the address of {node}'s database is not known");
            return vec![Finding::unchecked("database-unreachable", why)];
        };
        let deadline = Instant::now() + KNOCK_LIMIT;
        let knocks = match (&agent.database, &agent.witness) {
            (Some(database), _) => database.driver.knock(&at, deadline).await,
            (None, Some(witness)) => match witness.role() {
                // A witness rewinds nothing.
                Some(role) => {
                    let all = knock(role, &at, deadline).await;
                    all.into_iter().filter(|k| k.purpose == Purpose::Replication).collect()
                }
                None => Vec::new(),
            },
            (None, None) => Vec::new(),
        };
        answers(&at, &knocks)
    });
    join_all(asked).await.concat()
}

/// Judges what came of all logins to one server.
fn answers(at: &Upstream, knocks: &[Knock]) -> Vec<Finding> {
    let Upstream { node, host, port } = at;
    let place = format!("the database of {node} at {host}:{port}");
    let mut findings = Vec::new();
    let silent = knocks.iter().find_map(|knock| match &knock.answer {
        Err(KnockError::Unreachable(why)) => Some(why),
        _ => None,
    });
    if let Some(why) = silent {
        findings.push(Finding::critical(
            "database-unreachable",
            format!("to {place}: {why}"),
            format!(
                "`haclt status` says whether it runs; else mend network, firewall or \
                     postgres.advertise of {node}"
            ),
        ));
    } else if !knocks.is_empty() {
        findings.push(Finding::ok("database-unreachable", format!("to {place}: it answers")));
    }
    findings.extend(knocks.iter().filter_map(|knock| {
        let id = match knock.purpose {
            Purpose::Replication => "replication-refused",
            Purpose::Rewind => "rewind-refused",
        };
        let user = &knock.user;
        match &knock.answer {
            Ok((took, _)) => {
                Some(Finding::ok(id, format!("{place} let user {user} in after {}", ms(*took))))
            }
            Err(KnockError::Unreachable(_)) => None,
            Err(error @ (KnockError::Refused(_) | KnockError::Lacks(_))) => {
                let evidence = format!("{place} refused user {user}: {error}");
                Some(Finding::critical(id, evidence, mend_login(node, user, error)))
            }
        }
    }));
    findings
}

fn mend_login(node: &NodeId, user: &str, error: &KnockError) -> String {
    match error {
        KnockError::Refused(text) if text.contains("28P01") => {
            "put the same password into postgres.replication_password_file of all nodes, then restart \
             the agents: the primary's sets it"
                .to_owned()
        }
        KnockError::Refused(text) if text.contains("53300") => {
            format!("free connections on {node}, or raise max_connections and max_wal_senders there")
        }
        KnockError::Refused(_) => {
            format!("haclt_hba.conf of {node} was changed, or the role: `haclt restart {node}` writes the file anew")
        }
        KnockError::Lacks(functions) => {
            format!("grant execute on function {functions} to {user}, as the superuser on the primary")
        }
        KnockError::Unreachable(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity::{self, Critical, Note, Ok as Fine, Warning};
    use super::*;

    const MS: u64 = 1_000_000;

    fn clocks(at_ms: u64, wall: u64) -> DoctorClocks {
        let ns = at_ms * MS;
        DoctorClocks { boottime_ns: ns, monotonic_raw_ns: ns, wall_unix_ms: wall }
    }

    fn n2() -> NodeId {
        "n2".parse().expect("a name")
    }

    fn severities(findings: &[Finding]) -> Vec<(&'static str, Severity)> {
        findings.iter().map(|finding| (finding.id, finding.severity)).collect()
    }

    #[test]
    fn wall_clocks_apart_are_told_beyond_what_the_round_trip_hides() {
        #[rustfmt::skip]
        let table = [
            // theirs   round trip  found
            (10_000_u64, 2_u64,     Fine),
            (10_200,     2,         Fine),
            (10_300,     2,         Note),
            (9_700,      2,         Note),
            (10_300,     200,       Fine),
            (16_000,     2,         Warning),
            (4_000,      2,         Warning),
        ];
        for (theirs, round_trip, expected) in table {
            let reading = Reading {
                before: clocks(1_000, 10_000 - round_trip / 2),
                theirs: clocks(77, theirs),
                after: clocks(1_000 + round_trip, 10_000 + round_trip / 2),
            };
            assert_eq!(offset(&n2(), &reading).severity, expected, "{theirs} {round_trip}");
        }
    }

    #[test]
    fn a_clock_that_runs_outside_of_the_drift_is_critical() {
        let at = |ours: u64, theirs: u64, round_trip: u64| Reading {
            before: clocks(ours, 0),
            theirs: clocks(theirs, 0),
            after: clocks(ours + round_trip, 0),
        };
        #[rustfmt::skip]
        let table = [
            // their span  round trip  found
            (1_000_u64,    1_u64,      Fine),
            (1_010,        1,          Fine),
            (1_013,        1,          Critical),
            (986,          1,          Critical),
            (1_013,        8,          Fine),
            (1_000,        30,         Note),
        ];
        for (span, round_trip, expected) in table {
            let (first, second) = (at(5_000, 900, round_trip), at(6_000, 900 + span, round_trip));
            let found = rate(&n2(), &first, &second, Drift::DEFAULT);
            assert_eq!(found.severity, expected, "{span} {round_trip}: {}", found.evidence);
        }
    }

    #[test]
    fn a_round_trip_longer_than_a_heartbeat_is_slow() {
        let ms = Duration::from_millis;
        assert_eq!(slow(&n2(), ms(1), ms(100)).severity, Fine);
        assert_eq!(slow(&n2(), ms(101), ms(100)).severity, Warning);
        assert_eq!(unreachable(&n2(), "no answer").severity, Critical);
    }

    #[test]
    fn a_login_is_judged_by_what_the_other_server_said() {
        let at = Upstream { node: n2(), host: "h".to_owned(), port: 5432 };
        let knock = |purpose, answer| Knock { purpose, user: "r".to_owned(), answer };
        let fine = || Ok((Duration::from_millis(2), None));
        let refused = |text: &str| Err(KnockError::Refused(text.to_owned()));
        let silent = || Err(KnockError::Unreachable("connection refused".to_owned()));
        let (stream, rewind) = (Purpose::Replication, Purpose::Rewind);
        #[rustfmt::skip]
        let table = [
            (vec![knock(stream, fine()), knock(rewind, fine())],
             vec![("database-unreachable", Fine), ("replication-refused", Fine), ("rewind-refused", Fine)]),
            (vec![knock(stream, refused("no entry (SQLSTATE 28000)")), knock(rewind, fine())],
             vec![("database-unreachable", Fine), ("replication-refused", Critical), ("rewind-refused", Fine)]),
            (vec![knock(stream, fine()), knock(rewind, Err(KnockError::Lacks("f".to_owned())))],
             vec![("database-unreachable", Fine), ("replication-refused", Fine), ("rewind-refused", Critical)]),
            (vec![knock(stream, silent()), knock(rewind, silent())],
             vec![("database-unreachable", Critical)]),
            (vec![], vec![]),
        ];
        for (knocks, expected) in table {
            assert_eq!(severities(&answers(&at, &knocks)), expected, "{knocks:?}");
        }
        let hba = answers(&at, &[knock(stream, refused("no entry (SQLSTATE 28000)"))]);
        let expected = "the database of n2 at h:5432 refused user r: no entry (SQLSTATE 28000)";
        assert_eq!(hba[1].evidence, expected);
        assert!(hba[1].mend.contains("haclt restart n2"), "{}", hba[1].mend);
        let password = answers(&at, &[knock(stream, refused("wrong (SQLSTATE 28P01)"))]);
        assert!(password[1].mend.contains("replication_password_file"), "{}", password[1].mend);
    }
}
