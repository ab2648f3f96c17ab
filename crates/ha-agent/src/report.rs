//! What this node tells of itself, and what it makes of others' reports.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ha_core::candidate::{Database as CoreDatabase, Directory, Report};
use ha_core::clock::millis;
use ha_core::decide::Rule;
use ha_core::permit::Order;
use ha_core::view::Instance;
use ha_core::{Epoch, Incarnation, Lsn, NodeKind};
use ha_postgres::driver::{DataDir, GuardSeen, HalfMade, PostgresDriver};
use ha_proto::v1::{PostgresReport, ReportReply, ReportRequest, WalTip, WitnessReport};

use crate::agent::{Agent, Database, lock};
use crate::clock;
use crate::control_loop;
use crate::founding;
use crate::observe;
use crate::parameters::Applied;
use crate::permit_book::UNBOUND;
use crate::prober;
use crate::revoke;
use crate::witness::Witness;

/// How old the answer of a database may be to count as "just now" without asking again.
const FRESH: Duration = Duration::from_millis(50);
/// How long an election waits for a fresh answer of the local database.
const PROBE_LIMIT: Duration = Duration::from_millis(400);
/// How old an answer may be, in health intervals, to say that the server answers.
const ANSWER_INTERVALS: u32 = 4;

/// Returns a request for a peer's report; `fresh` asks for a WAL position read just now.
pub fn request<D>(agent: &Agent<D>, fresh: bool) -> ReportRequest {
    ReportRequest { cluster: agent.config.cluster.clone(), from: agent.node().to_string(), fresh }
}

/// Reports with a database position read just now.
pub async fn fresh<D: PostgresDriver>(agent: &Agent<D>) -> ReportReply {
    if let Some(database) = &agent.database {
        prober::refresh(agent, database, FRESH, PROBE_LIMIT).await;
    }
    local(agent)
}

/// Reports from memory: answers although the database is slow (rule 87).
pub fn local<D: PostgresDriver>(agent: &Agent<D>) -> ReportReply {
    let status = agent.raft.status();
    let mut reply = ReportReply {
        cluster: agent.config.cluster.clone(),
        node: agent.node().to_string(),
        kind: agent.config.kind.to_string(),
        incarnation: agent.incarnation.0,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        state: "running".to_owned(),
        role: if agent.config.kind == NodeKind::Witness { "witness" } else { "none" }.to_owned(),
        raft_term: status.term,
        raft_leader: status.leader.map(String::from).unwrap_or_default(),
        raft_applied: agent.raft.state().borrow().index,
        pledged: agent.pledge.epoch().0,
        quorum: lock(&agent.quorum).clone(),
        ..ReportReply::default()
    };
    if agent.is_stranger.load(Ordering::Relaxed) {
        reply.troubles.push(founding::new_store(agent.node()));
    }
    if let Some(witness) = &agent.witness {
        describe_witness(witness, &mut reply);
    }
    if let Some(database) = &agent.database {
        describe(agent, database, &mut reply);
    }
    reply
}

fn describe_witness(witness: &Witness, reply: &mut ReportReply) {
    let facts = lock(&witness.facts);
    let keeps_wal = witness.unable.is_none();
    if keeps_wal {
        let state = if facts.receiving { "receiving" } else { "catching_up" };
        state.clone_into(&mut reply.state);
    }
    reply.troubles.extend(facts.trouble.clone());
    reply.troubles.extend(facts.damaged.as_ref().map(|why| format!("kept WAL: {why}")));
    reply.troubles.extend(facts.dropped_up_to.map(|up_to| {
        format!(
            "kept WAL reached witness.wal_bytes_max: what is before {up_to} was removed although a \
             data node may need it"
        )
    }));
    reply.witness = Some(WitnessReport {
        keeps_wal,
        why: witness.unable.clone().unwrap_or_default(),
        receiving: facts.receiving,
        tip: facts.tip.as_ref().map(revoke::to_wire),
        bytes: facts.bytes,
        bytes_max: witness.settings.wal_bytes_max,
        dropped_up_to: facts.dropped_up_to.map_or(0, |up_to| up_to.0),
    });
}

fn describe<D: PostgresDriver>(agent: &Agent<D>, database: &Database<D>, reply: &mut ReportReply) {
    let guard = database.driver.guard();
    let view = control_loop::view(agent, database, &guard);
    let now = clock::now();
    if let Order::Primary { epoch, deadline } = database.permits.current().order {
        let left = deadline.since(now.boottime);
        if !left.is_zero() {
            reply.primary_epoch = epoch.0;
            reply.left_ms = millis(left);
            reply.unbound = deadline == UNBOUND;
        }
    }
    let facts = database.facts();
    let decision = facts.decision.as_ref().map(|(decision, _)| decision);
    let (role, state) = observe::shown(view.instance, decision);
    role.clone_into(&mut reply.role);
    state.clone_into(&mut reply.state);
    if let Some((rule, lasts)) = facts.rule() {
        rule.name().clone_into(&mut reply.rule);
        reply.rule_for_ms = millis(lasts);
    }
    // The last decision may be of before the stop: whoever waits for its end must not take it for done.
    if view.instance == Instance::Stopping {
        Rule::Stopping.name().clone_into(&mut reply.rule);
    }
    reply.troubles.extend(facts.troubles.values().cloned());
    if let GuardSeen::Alive(status) = &guard {
        reply.parameters = facts.applied(status.run).map(Applied::report);
    }
    let Some(settings) = &agent.config.postgres else { return };
    let mut postgres = PostgresReport {
        address: format!("{}:{}", settings.advertise.0, settings.advertise.1),
        promotable: settings.promotable,
        priority: settings.priority,
        ..PostgresReport::default()
    };
    match facts.data_dir.as_ref().map(|(_, found)| found) {
        None => {}
        Some(DataDir::Missing) => "missing".clone_into(&mut postgres.data_dir),
        Some(DataDir::Unreadable(_)) => "unreadable".clone_into(&mut postgres.data_dir),
        // What an unfinished initdb left is nobody's data.
        Some(DataDir::Empty | DataDir::HalfMade(HalfMade::Initdb)) => {
            "empty".clone_into(&mut postgres.data_dir);
        }
        Some(DataDir::HalfMade(_)) => "half_made".clone_into(&mut postgres.data_dir),
        Some(DataDir::Present(control)) => {
            "present".clone_into(&mut postgres.data_dir);
            postgres.system_identifier = control.system_identifier;
            postgres.major = control.major;
            let end = facts.wal_end.map_or(control.checkpoint, |(_, end)| end);
            postgres.flushed = Some(end.into());
        }
    }
    if let GuardSeen::Alive(status) = &guard
        && let Some(probe) = facts.answer(status.run).filter(|_| !status.state.is_gone())
    {
        let age = facts.server.answer.as_ref().map_or(Duration::MAX, |(_, at)| at.elapsed());
        let stale = agent.config.policy.health.interval * ANSWER_INTERVALS;
        postgres.answering = age < stale;
        postgres.age_ms = millis(age);
        postgres.in_recovery = probe.in_recovery;
        "present".clone_into(&mut postgres.data_dir);
        postgres.system_identifier = probe.system_identifier;
        postgres.major = probe.version_num / 10_000;
        postgres.flushed =
            Some(ha_core::WalPosition { timeline: probe.timeline, lsn: probe.flushed }.into());
        postgres.replayed = probe.replayed.0;
        postgres.streaming = probe.streaming;
        let heard = facts.server.upstream_end.filter(|end| end.timeline == probe.timeline);
        postgres.upstream_end = heard.map_or(Lsn::ZERO, |end| end.lsn).max(probe.upstream_end).0;
        postgres.attached = probe.attached.iter().map(|(name, _)| name.clone()).collect();
        let history = facts.history.as_ref().filter(|(of, _)| *of == probe.timeline);
        reply.tip = history.map(|(_, history)| WalTip {
            end: postgres.flushed,
            history: history.iter().map(revoke::switch_to_wire).collect(),
            oldest: probe.flushed.0,
        });
    }
    if reply.state == "streaming" && !postgres.streaming {
        "catching_up".clone_into(&mut reply.state);
    }
    postgres.unfit = unfit(agent, &facts, &guard).unwrap_or_default();
    reply.postgres = Some(postgres);
}

/// Why this node must not be promoted now.
fn unfit<D>(agent: &Agent<D>, facts: &crate::facts::Facts, guard: &GuardSeen) -> Option<String> {
    let policy = &agent.config.policy.health;
    if agent.is_leaving() {
        return Some("its agent is stopping".to_owned());
    }
    if agent.state().fenced.contains_key(agent.node()) {
        return Some("it is fenced by order".to_owned());
    }
    if agent.state().is_leaving(agent.node()) {
        return Some("it is being taken out of the cluster".to_owned());
    }
    if !matches!(guard, GuardSeen::Alive(_)) {
        return Some("its guard does not answer".to_owned());
    }
    if facts.server.misses >= policy.failures {
        let why = facts.server.error.as_ref().map(ToString::to_string).unwrap_or_default();
        return Some(format!("its database failed {} probes: {why}", facts.server.misses));
    }
    if let Some(free) = facts.free_bytes.filter(|free| *free < policy.free_bytes_min) {
        return Some(format!(
            "{free} bytes are free under its data directory, at least {} are needed",
            policy.free_bytes_min
        ));
    }
    None
}

/// Turns a report into what an election sees. What it knows of WAL comes with a pledge, not with this.
#[must_use]
pub fn to_core(reply: &ReportReply) -> Report {
    Report {
        incarnation: Incarnation(reply.incarnation),
        primary_epoch: (reply.primary_epoch != 0).then_some(Epoch(reply.primary_epoch)),
        database: reply.postgres.as_ref().map(|postgres| CoreDatabase {
            system_identifier: (postgres.data_dir == "present")
                .then_some(postgres.system_identifier),
            directory: match postgres.data_dir.as_str() {
                "" => Directory::Unseen,
                "empty" => Directory::Empty,
                _ => Directory::Other,
            },
            standby: postgres.answering && postgres.in_recovery,
            flushed: postgres.flushed.unwrap_or_default().into(),
            upstream_end: Lsn(postgres.upstream_end),
            unfit: (!postgres.unfit.is_empty()).then(|| postgres.unfit.clone()),
            promotable: postgres.promotable,
            priority: postgres.priority,
        }),
        pledged: Epoch::NONE,
        wal: None,
    }
}

/// The same as it would be if the node pledged now: for `haclt explain`.
#[must_use]
pub fn as_if_pledged(reply: &ReportReply, epoch: Epoch) -> Report {
    let kept = reply.witness.as_ref().and_then(|witness| witness.tip.as_ref());
    let wal = kept.or(reply.tip.as_ref()).map(revoke::from_wire);
    Report { pledged: epoch, wal, ..to_core(reply) }
}
