//! Examines this node: what an operator would look at when something is wrong, as a program.
//!
//! It measures, judges, and changes nothing; it needs no Raft round, hence no quorum and no leader.
//! Measuring and judging are apart: the judging functions are pure, and under test as tables. Every
//! measurement has a limit of its own, and one that could not be made is a finding too.

pub mod compare;
pub(crate) mod disks;
pub(crate) mod engine;
pub mod finding;
pub(crate) mod guard;
pub(crate) mod links;
pub(crate) mod secrets;
pub(crate) mod server;

use std::sync::Arc;
use std::time::Duration;

use ha_core::policy::Durability;
use ha_core::{Lsn, NodeId, NodeKind};
use ha_postgres::driver::{Checkup, PostgresDriver, ProbeError};
use tokio::time::{Instant, sleep};

use crate::agent::{Agent, Database, lock};
use crate::config::DriverSettings;
use crate::quorum_keeper;
use crate::report;
use compare::Facts;
use finding::Finding;

/// How long a node takes to examine itself, at most.
pub(crate) const EXAMINATION_LIMIT: Duration = Duration::from_secs(5);
/// How long its parts may take: each, beside the others.
const SERVER_LIMIT: Duration = Duration::from_secs(3);
/// A change of who acknowledges may be under way: it is looked at again after so long.
const SETTLING: Duration = Duration::from_secs(1);

/// Examines this node. Also returns what has to be alike on all nodes.
///
/// It ends within [`EXAMINATION_LIMIT`], more or less, and may be cancelled.
pub(crate) async fn examine<D: PostgresDriver>(agent: &Arc<Agent<D>>) -> (Vec<Finding>, Facts) {
    let mut facts = compare::configured(&agent.config);
    let report = report::local(agent);
    let (links, disks, secrets, database, knocks) = tokio::join!(
        links::examine(agent),
        disks::examine(agent),
        secrets::examine(&agent.config),
        async {
            match &agent.database {
                Some(database) => examine_database(agent, database, &report).await,
                None => (Vec::new(), Facts::new()),
            }
        },
        links::knock_at_all(agent),
    );
    let (database, more) = database;
    facts.extend(more);
    let mut findings = vec![troubles(&report.troubles)];
    if let Some(witness) = &agent.witness {
        let quorum = agent.state().durability == Durability::Quorum;
        findings.push(witness_keeps(witness.unable.as_deref(), kept(agent), quorum));
    }
    for part in [links, knocks, database, disks, secrets] {
        findings.extend(part);
    }
    (findings, facts)
}

async fn examine_database<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    database: &Database<D>,
    report: &ha_proto::v1::ReportReply,
) -> (Vec<Finding>, Facts) {
    let Some(settings) = &agent.config.postgres else { return (Vec::new(), Facts::new()) };
    let driver = &database.driver;
    let deadline = Instant::now() + SERVER_LIMIT;
    let docker = match &settings.driver {
        DriverSettings::Docker { socket, .. } => Some(socket.as_str()),
        DriverSettings::Process { .. } => None,
    };
    let (checkup, survey, engine) = tokio::join!(
        driver.checkup(deadline),
        driver.survey(deadline),
        engine::examine(docker, driver.trouble()),
    );
    let mut findings = guard::judge(&driver.guard(), driver.margin(), docker.is_none());
    findings.extend(engine);
    let mut facts = Facts::new();
    match &checkup {
        Err(error) => findings.push(no_session(&settings.superuser, error)),
        Ok(checkup) => {
            findings.push(Finding::ok(
                "superuser-refused",
                format!("{} logged in after {}", settings.superuser, finding::ms(checkup.login)),
            ));
            findings.extend(server::judge(checkup, &expected(agent)));
            findings.push(synchronous(agent, database, checkup).await);
            facts.extend(compare::of_server(checkup));
        }
    }
    match survey {
        Ok(survey) => findings.extend(server::judge_survey(&survey, agent.node())),
        // Said once already.
        Err(_) if checkup.is_err() => {}
        Err(error) => findings.push(Finding::unchecked("pending-restart", error)),
    }
    if report.role == "standby" {
        let postgres = report.postgres.as_ref();
        findings.push(streams(postgres.is_some_and(|postgres| postgres.streaming), &report.rule));
    }
    (findings, facts)
}

/// What the cluster has of this node's server to expect.
fn expected<D: PostgresDriver>(agent: &Agent<D>) -> server::Expected {
    let state = agent.state();
    let others = state.nodes.iter().filter(|(node, _)| *node != agent.node());
    let receives = |(node, is): (&NodeId, &ha_core::state::Node)| {
        (is.kind == NodeKind::Data || is.keeps_wal).then(|| node.clone())
    };
    server::Expected {
        primary: state.lease.holder() == Some(agent.node()),
        receivers: others.filter_map(receives).collect(),
        lag_bytes_max: agent.config.policy.lag_bytes_max,
    }
}

/// Returns what `synchronous_standby_names` is to be by the record, if this node is to serve.
fn recorded<D: PostgresDriver>(agent: &Agent<D>) -> Option<String> {
    let state = agent.state();
    let grant = state.lease.grant().filter(|grant| grant.holder == *agent.node())?;
    let recorded = state.recorded.as_ref().filter(|recorded| recorded.epoch == grant.epoch)?;
    Some(quorum_keeper::synchronous(&recorded.quorum).setting())
}

async fn synchronous<D: PostgresDriver>(
    agent: &Agent<D>,
    database: &Database<D>,
    checkup: &Checkup,
) -> Finding {
    let wanted = recorded(agent);
    let first = server::synchronous(&checkup.synchronous, wanted.as_deref(), checkup.in_recovery);
    if first.severity == finding::Severity::Ok {
        return first;
    }
    // Recorded before or after it is in force, by some hundred milliseconds.
    sleep(SETTLING).await;
    match database.driver.receivers(Instant::now() + SETTLING).await {
        Ok(seen) => {
            server::synchronous(&seen.setting, recorded(agent).as_deref(), seen.in_recovery)
        }
        Err(error) => Finding::unchecked("synchronous-differs", error),
    }
}

fn no_session(user: &str, error: &ProbeError) -> Finding {
    match error {
        ProbeError::Authentication(_) | ProbeError::Full(_) => Finding::critical(
            "superuser-refused",
            format!("{user} was refused: {error}"),
            "compare postgres.superuser_password_file with the role's password; \
             `haclt restart` of the node writes pg_hba.conf anew",
        ),
        ProbeError::Refused
        | ProbeError::NotReady(_)
        | ProbeError::TimedOut { .. }
        | ProbeError::CannotWrite(_)
        | ProbeError::Other(_) => Finding::critical(
            "database-silent",
            format!("the database does not answer: {error}"),
            "`haclt explain` says why it is down and what is awaited; its log is in postgres.log_dir",
        ),
    }
}

fn troubles(troubles: &[String]) -> Finding {
    let id = "agent-trouble";
    if troubles.is_empty() {
        return Finding::ok(id, "the agent has nothing to complain of");
    }
    Finding::warning(id, troubles.join("; "), "`haclt explain` says what is awaited")
}

/// Only in the mode `quorum` anybody waits for a witness.
fn witness_keeps(unable: Option<&str>, kept: Option<(u64, Lsn)>, quorum: bool) -> Finding {
    let id = "witness-keeps-no-wal";
    match (unable, kept) {
        (None, None) => Finding::ok(id, "the witness can keep WAL, and has none yet"),
        (None, Some((bytes, end))) => Finding::ok(
            id,
            format!("the witness keeps {} of WAL, up to {end}", finding::size(bytes)),
        ),
        (Some(why), _) => {
            let found = if quorum { Finding::warning } else { Finding::note };
            let mend = "install the client programs of the database's major and set \
                        witness.replication_password_file, then restart the agent";
            found(id, why, mend)
        }
    }
}

fn streams(streaming: bool, rule: &str) -> Finding {
    let id = "standby-not-streaming";
    if streaming {
        return Finding::ok(id, "the standby streams");
    }
    Finding::warning(
        id,
        format!("the standby does not stream, rule {rule}"),
        "`haclt explain` says what it is waiting for",
    )
}

/// Returns how much WAL this witness keeps, bytes, and up to where.
fn kept<D>(agent: &Agent<D>) -> Option<(u64, Lsn)> {
    let facts = lock(&agent.witness.as_ref()?.facts);
    Some((facts.bytes, facts.tip.as_ref()?.end.lsn))
}

#[cfg(test)]
mod tests {
    use super::finding::Severity;
    use super::*;

    #[test]
    fn a_refused_login_is_told_apart_from_a_silent_database() {
        #[rustfmt::skip]
        let table = [
            (ProbeError::Authentication("no".to_owned()), "superuser-refused"),
            (ProbeError::Full("no".to_owned()),           "superuser-refused"),
            (ProbeError::Refused,                         "database-silent"),
            (ProbeError::NotReady("starting".to_owned()), "database-silent"),
            (ProbeError::TimedOut { during: "connecting", waited_ms: 3 }, "database-silent"),
        ];
        for (error, id) in table {
            let found = no_session("postgres", &error);
            assert_eq!((found.id, found.severity), (id, Severity::Critical), "{error}");
        }
    }

    #[test]
    fn what_the_agent_complains_of_is_repeated() {
        assert_eq!(troubles(&[]).severity, Severity::Ok);
        let found = troubles(&["a".to_owned(), "b".to_owned()]);
        assert_eq!((found.severity, found.evidence.as_str()), (Severity::Warning, "a; b"));
        assert_eq!(witness_keeps(None, None, true).severity, Severity::Ok);
        assert_eq!(witness_keeps(Some("keeps no WAL"), None, true).severity, Severity::Warning);
        assert_eq!(witness_keeps(Some("keeps no WAL"), None, false).severity, Severity::Note);
        assert_eq!(streams(true, "following").severity, Severity::Ok);
        assert_eq!(streams(false, "no_proof").severity, Severity::Warning);
    }
}
