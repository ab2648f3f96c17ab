//! What agents answer in these tests.

use ha_proto::v1::drill_news::News;
use ha_proto::v1::{
    ConfigChangeReply, ConfigChangeRequest, ConfigDifference, ConfigHistoryEntry,
    ConfigHistoryReply, ConfigItem, ConfigSetReply, ConfigShowReply, CredentialEntry,
    CredentialsShowReply, DivergedEntry, DivergedShowReply, DivergedTransaction, DoctorFinding,
    DoctorReply, DrillCounts, DrillNews, DrillNoticed, DrillPhase, DrillPlanReply,
    DrillPlanRequest, DrillResult, DrillSight, Event, EventShowReply, EventsReply, ExplainReply,
    FailoverPlanReply, FailoverPlanRequest, Finding, HistoryReply, IfPrimaryDied, LeaseStatus,
    NodeEntry, NodeExplanation, NodeListReply, NodeStatus, NodeTags, PromotionEntry, RaftStatus,
    RestartPlanReply, ScheduleEntry, ScheduleListReply, StatusReply, SupportBundleRequest,
    SupportChunk, SwitchoverPlanReply, SwitchoverReply, SwitchoverRequest, SwitchoverStep,
    WalQuorumStatus,
};
use tonic::Status;

/// Returns the cluster of DESIGN §11, which is healthy.
pub fn healthy() -> StatusReply {
    let node = |name: &str, kind: &str, role: &str, state: &str| NodeStatus {
        name: name.into(),
        kind: kind.into(),
        role: role.into(),
        state: state.into(),
        flushed_lsn: "0/5A3C9F0".into(),
        reachable: true,
        agent_version: "0.1.0".into(),
        rule: "following".into(),
        ..Default::default()
    };
    let list = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    StatusReply {
        cluster: "orders".into(),
        state: "healthy".into(),
        epoch: 7,
        timeline: 4,
        durability: "quorum".into(),
        lease: Some(LeaseStatus { holder: "n2".into(), left_ms: 2400, ttl_ms: 3000 }),
        raft: Some(RaftStatus {
            leader: "n3".into(),
            term: 12,
            voters: list(&["n1", "n2", "n3"]),
            quorum: true,
        }),
        wal_quorum: Some(WalQuorumStatus {
            members: list(&["n1", "n3"]),
            required: 1,
            acknowledging: list(&["n1", "n3"]),
        }),
        nodes: vec![
            NodeStatus {
                postgres: "10.77.0.1:5432".into(),
                timeline: 4,
                replayed_lsn: "0/5A3C9F0".into(),
                lag_bytes: Some(0),
                wal_ack: true,
                ..node("n1", "data", "standby", "streaming")
            },
            NodeStatus {
                postgres: "10.77.0.2:5432".into(),
                timeline: 4,
                ..node("n2", "data", "primary", "running")
            },
            NodeStatus {
                lag_bytes: Some(0),
                wal_ack: true,
                ..node("n3", "witness", "witness", "receiving")
            },
        ],
        answered_by: "n3".into(),
        ..Default::default()
    }
}

/// Returns the same cluster as seen by a node that is cut off.
pub fn cut_off() -> StatusReply {
    StatusReply {
        state: "no_quorum".into(),
        reason: "1 of 3 voters answers".into(),
        lease: None,
        raft: Some(RaftStatus { term: 12, ..Default::default() }),
        nodes: vec![],
        answered_by: "n1".into(),
        ..healthy()
    }
}

pub fn explanation() -> ExplainReply {
    ExplainReply {
        summary: "the cluster is healthy".into(),
        nodes: vec![
            NodeExplanation {
                node: "n1".into(),
                rule: "following".into(),
                why: "Node n2 holds the lease, so n1 streams from it and acknowledges its \
                      commits as a member of the WAL quorum."
                    .into(),
                waiting_for: String::new(),
            },
            NodeExplanation {
                node: "n2".into(),
                rule: "serving".into(),
                why: "It holds the lease.".into(),
                waiting_for: "the backup to end".into(),
            },
        ],
        if_primary_died: Some(IfPrimaryDied {
            successor: "n1".into(),
            why: "it has all acknowledged WAL".into(),
            refusals: vec!["n4 is 20 MiB behind".into()],
            lost_bytes: Some(0),
            lost: "Every acknowledged commit is on n1 or n3.".into(),
            expected_ms: 3500,
        }),
        answered_by: "n3".into(),
    }
}

/// Returns a configuration in which a change is under way.
pub fn configuration() -> ConfigShowReply {
    ConfigShowReply {
        version: 8,
        items: vec![ConfigItem {
            key: "durability.mode".into(),
            value: "quorum".into(),
            in_force: "async".into(),
            about: "who acknowledges a commit: quorum, strict-standby or async".into(),
            awaited: String::new(),
        }],
        nodes: vec![],
    }
}

/// Returns the answer to a change that is in force.
pub fn done() -> ConfigSetReply {
    ConfigSetReply {
        outcome: "done".into(),
        detail: "any 1 of n1, n3 acknowledges".into(),
        before: "async".into(),
        version: 9,
    }
}

pub fn diverged_entry() -> DivergedEntry {
    DivergedEntry {
        id: 3,
        node: "n1".into(),
        epoch: 7,
        fork_timeline: 1,
        fork_lsn: "0/3000060".into(),
        end_timeline: 1,
        end_lsn: "0/4000060".into(),
        bytes: 16 << 20,
        at_unix_ms: 1_772_323_199_999,
    }
}

pub fn diverged() -> DivergedShowReply {
    DivergedShowReply {
        entry: Some(diverged_entry()),
        reachable: true,
        kept: true,
        directory: "/var/lib/haclt/diverged/7-1-0_3000060".into(),
        transactions: vec![DivergedTransaction {
            xid: 743,
            commit_lsn: "0/3000100".into(),
            committed_at: "2026-02-28 23:59:58 UTC".into(),
            relations: vec!["1663/5/16384".into(), "catalog".into()],
            records: 21,
        }],
        transactions_total: 12,
        truncated: true,
        note: String::new(),
    }
}

pub fn switchover_plan() -> SwitchoverPlanReply {
    let text =
        "2 transactions have been open for more than 30 s, the oldest for 312 s: they are cut off";
    SwitchoverPlanReply {
        from: "n2".into(),
        to: "n1".into(),
        epoch: 7,
        findings: vec![Finding { severity: "warning".into(), text: text.into() }],
    }
}

/// Returns the end of a switchover that went well.
pub fn switched(order: &SwitchoverRequest) -> SwitchoverReply {
    let step = |name: &str, detail: &str, at_ms| SwitchoverStep {
        name: name.into(),
        detail: detail.into(),
        at_ms,
    };
    SwitchoverReply {
        outcome: "done".into(),
        why: String::new(),
        primary: order.to.clone(),
        epoch: order.epoch + 1,
        steps: vec![
            step("checkpoint", "while clients are served", 1),
            step("stop", "clients are disconnected", 420),
            step("primary", "n1, timeline 5", 990),
        ],
    }
}

/// Returns what a restart of the healthy cluster's n1, the standby, or n2 would mean.
pub fn restart_plan(node: &str) -> RestartPlanReply {
    let warning = "it is the primary: clients are cut off while it restarts";
    let primary = node == "n2";
    RestartPlanReply {
        role: if primary { "primary" } else { "standby" }.into(),
        run: 4,
        pending: if primary { vec!["shared_buffers".into()] } else { Vec::new() },
        findings: primary
            .then(|| Finding { severity: "warning".into(), text: warning.into() })
            .into_iter()
            .collect(),
        grows: vec![],
        shrinks: vec![],
    }
}

/// Three things that happened: nobody's order, an operator's, one with a log.
pub fn events() -> EventsReply {
    let at = 1_772_323_199_000;
    let granted = Event {
        id: 15,
        at_unix_ms: at,
        epoch: 8,
        kind: "granted".into(),
        node: "n1".into(),
        text: "n1 has 2/0/5A3C9F0, every acknowledged commit by n1 and n3".into(),
        ..Default::default()
    };
    let paused = Event {
        id: 16,
        at_unix_ms: at + 61_000,
        epoch: 8,
        kind: "paused".into(),
        by: "ann@desk".into(),
        text: "new switches".into(),
        ..Default::default()
    };
    EventsReply { events: vec![granted, paused, switched_over()], last: 17 }
}

fn switched_over() -> Event {
    Event {
        id: 17,
        at_unix_ms: 1_772_323_300_000,
        epoch: 9,
        kind: "switchover".into(),
        node: "n1".into(),
        by: "ann@desk".into(),
        text: "handed over to n2".into(),
        timeline: 3,
        lsn: "0/6000028".into(),
        took_ms: Some(412),
        logged: true,
    }
}

/// One of them with its log.
pub fn event() -> EventShowReply {
    EventShowReply {
        event: Some(switched_over()),
        lines: vec!["       0 ms  from n1 to n2".into(), "     412 ms  handed over to n2".into()],
        note: String::new(),
    }
}

/// Two promotions, of which the first has ended.
pub fn history() -> HistoryReply {
    let promoted =
        |epoch, node: &str, timeline, lsn: &str, why: &str, ended: &str| PromotionEntry {
            epoch,
            node: node.into(),
            timeline,
            lsn: lsn.into(),
            at_unix_ms: 1_772_323_199_000 + epoch * 1000,
            why: why.into(),
            ended: ended.into(),
        };
    let first = promoted(1, "n2", 2, "0/3000000", "", "nobody renewed it for a whole ttl");
    let second = promoted(2, "n1", 3, "0/5000098", "n1 has 2/0/5000098", "");
    HistoryReply { promotions: vec![first, second] }
}

/// Nobody holds the lease; only with a loss can somebody be chosen.
pub fn failover_plan(ask: &FailoverPlanRequest) -> FailoverPlanReply {
    let reply = FailoverPlanReply { epoch: 7, expected_ms: 300, ..Default::default() };
    if !ask.accept_data_loss {
        return FailoverPlanReply {
            refusals: vec!["n2: commits of epoch 7 may be missing".into()],
            lost: "nothing while nobody is promoted".into(),
            ..reply
        };
    }
    FailoverPlanReply {
        winner: "n2".into(),
        evidence: "n2 has 2/0/5000098, 60 bytes short of the last known WAL".into(),
        refusals: vec!["n1: its agent did not answer".into()],
        lost_bytes: Some(60),
        lost: "at least 60 bytes".into(),
        ..reply
    }
}

/// One switchover to come.
pub fn schedule() -> ScheduleListReply {
    let entry = ScheduleEntry {
        id: 3,
        due_unix_ms: 1_772_323_199_000,
        to: "n2".into(),
        by: "ann@desk".into(),
    };
    ScheduleListReply { entries: vec![entry] }
}
/// Returns what is found on a cluster without its witness; of one node, or of all.
pub fn examined(node: &str) -> DoctorReply {
    let finding =
        |severity: &str, id: &str, node: &str, evidence: &str, mend: &str| DoctorFinding {
            id: id.into(),
            node: node.into(),
            severity: severity.into(),
            evidence: evidence.into(),
            mend: mend.into(),
        };
    let all = vec![
        finding("ok", "disk-low", "n1", "data_dir /var/lib/haclt: 9.0 GiB of 20.0 GiB free", ""),
        finding(
            "warning",
            "standby-missing",
            "n2",
            "n3 receives no WAL from here",
            "`haclt explain` says what n3 is waiting for",
        ),
        finding(
            "critical",
            "peer-unreachable",
            "n2",
            "to the agent of n3: connection refused",
            "start the agent of n3",
        ),
        finding(
            "critical",
            "peer-unreachable",
            "n1",
            "to the agent of n3: connection refused",
            "start the agent of n3",
        ),
        finding(
            "note",
            "fsync-slow",
            "n1",
            "could not check: data_dir: a mount point\u{1b}[2J",
            "",
        ),
    ];
    let wanted = |finding: &DoctorFinding| node.is_empty() || finding.node == node;
    DoctorReply {
        findings: all.into_iter().filter(wanted).collect(),
        answered_by: "n1".into(),
        ..Default::default()
    }
}

/// A change that was cut short, and a node that is away.
pub fn credentials() -> CredentialsShowReply {
    let entry = |user: &str, node: &str, takes: &str| CredentialEntry {
        user: user.into(),
        purpose: if user == "postgres" { "superuser" } else { "replication" }.into(),
        node: node.into(),
        file: format!("/etc/haclt/{user}"),
        age_s: Some(90_000),
        takes: takes.into(),
        agrees: "yes".into(),
        ..Default::default()
    };
    let silent = |user: &str, node: &str| CredentialEntry {
        file: String::new(),
        age_s: None,
        agrees: "unknown".into(),
        trouble: format!("node {node} does not answer: connection refused"),
        ..entry(user, node, "unknown")
    };
    let waits = |entry| CredentialEntry { half_way: true, ..entry };
    let entries = vec![
        entry("postgres", "n1", "current"),
        silent("postgres", "n2"),
        waits(entry("haclt_replication", "n1", "next")),
        silent("haclt_replication", "n2"),
        CredentialEntry { agrees: "no".into(), ..entry("haclt_replication", "n3", "none") },
    ];
    CredentialsShowReply { entries }
}

/// Three nodes, of which one lost its store.
pub fn nodes() -> NodeListReply {
    let entry = |name: &str, kind: &str, digit: &str| NodeEntry {
        name: name.into(),
        kind: kind.into(),
        grpc: format!("10.77.0.{}:7400", &name[1..]),
        postgres: if kind == "data" {
            format!("10.77.0.{}:5432", &name[1..])
        } else {
            String::new()
        },
        raft: "voter".into(),
        store: digit.repeat(32),
        reachable: true,
        ..Default::default()
    };
    let tags = NodeTags { promotable: true, sync: true, read: false, priority: 5 };
    let leader = NodeEntry { leads: true, tags: Some(tags), ..entry("n1", "data", "a") };
    let silent = NodeEntry { reachable: false, ..entry("n2", "data", "b") };
    let lost = NodeEntry { other_store: "d".repeat(32), ..entry("n3", "witness", "c") };
    NodeListReply { nodes: vec![leader, silent, lost] }
}

/// Carries every change of several keys out, or says that it could.
pub fn config_changed(order: ConfigChangeRequest) -> ConfigChangeReply {
    let needs = |key: &str| if key.ends_with("max_connections") { "restart" } else { "reload" };
    let changes = order.changes.into_iter().map(|change| ConfigDifference {
        before: Some("4MB".into()),
        needs: needs(&change.key).into(),
        ..change
    });
    let (outcome, detail, version) =
        if order.check_only { ("possible", "", 8) } else { ("done", "on n1, n2", 9) };
    let (outcome, detail) = (outcome.into(), detail.into());
    ConfigChangeReply { outcome, detail, version, changes: changes.collect() }
}

pub fn config_history() -> ConfigHistoryReply {
    let change = |key: &str, before: Option<&str>, after: Option<&str>| ConfigDifference {
        key: key.into(),
        before: before.map(str::to_owned),
        after: after.map(str::to_owned),
        needs: String::new(),
    };
    let entry = |version, by: &str, changes| ConfigHistoryEntry {
        version,
        at_unix_ms: 1_772_323_199_000,
        by: by.into(),
        changes,
    };
    let set = vec![change("postgres.parameters.work_mem", None, Some("64MB"))];
    let unset = vec![change("postgres.parameters.work_mem", Some("64MB"), None)];
    ConfigHistoryReply { entries: vec![entry(8, "ann@host", set), entry(9, "", unset)] }
}

/// Returns the plan of a drill that may be done.
pub fn drill_plan(ask: &DrillPlanRequest) -> DrillPlanReply {
    let lasts = matches!(ask.kind.as_str(), "freeze" | "partition");
    let seconds = if ask.seconds == 0 { 8 } else { u64::from(ask.seconds) };
    DrillPlanReply {
        kind: ask.kind.clone(),
        node: "n2".into(),
        to: "n1".into(),
        epoch: 7,
        fault_ms: if lasts { seconds * 1000 } else { 0 },
        durability: "quorum".into(),
        measured_by: "n3".into(),
        address: "127.0.0.1:1".into(),
        findings: vec![Finding { severity: "note".into(), text: "1 prepared transaction".into() }],
        happens: vec![format!("a {} is made", ask.kind)],
        nodes: ["n1", "n2", "n3"].map(Into::into).to_vec(),
    }
}

/// Returns what is told of a drill that went well.
pub fn drilled() -> Vec<DrillNews> {
    let told = |at_ms, news| DrillNews { at_ms, news: Some(news) };
    let sight = |node: &str, role: &str, state: &str| {
        News::Sight(DrillSight { node: node.into(), role: role.into(), state: state.into() })
    };
    let counts = |acknowledged, unknown| {
        let node = "n2".into();
        News::Counts(DrillCounts { acknowledged, failed: 0, unknown, node })
    };
    vec![
        told(10, sight("n2", "primary", "running")),
        told(10, sight("n1", "standby", "streaming")),
        told(10, sight("n3", "witness", "receiving")),
        told(500, counts(25, 0)),
        told(510, News::Phase(DrillPhase { name: "struck".into(), detail: "crash".into() })),
        told(600, sight("n2", "none", "stopped")),
        told(
            620,
            News::Noticed(DrillNoticed {
                kind: "crashed".into(),
                node: "n2".into(),
                text: "number 1 within a while".into(),
            }),
        ),
        told(700, sight("n1", "primary", "running")),
        told(800, counts(5, 1)),
        told(
            3000,
            News::Result(DrillResult {
                acknowledged: 30,
                failed: 3,
                unknown: 1,
                lost: Some(0),
                surfaced: 1,
                gap_ms: 240,
                gap_from_ms: 505,
                resumed: true,
                struck_ms: 510,
                over_ms: 510,
                primary_before: "n2".into(),
                primary_after: "n1".into(),
                epoch_before: 7,
                epoch_after: 8,
                healthy: true,
                healthy_ms: 2510,
                awaited: String::new(),
                cleaned: true,
                trouble: String::new(),
            }),
        ),
    ]
}

/// The files of a node: a log in two parts, and a server's log that is not there.
pub fn support(ask: &SupportBundleRequest) -> Vec<Result<SupportChunk, Status>> {
    let part = |data: &str, origin: &str| SupportChunk {
        file: "agent/log.txt".into(),
        data: data.as_bytes().to_vec(),
        origin: origin.into(),
        ..Default::default()
    };
    let absent = SupportChunk {
        file: "postgres/log".into(),
        origin: "/var/log/x".into(),
        left_out: "permission denied".into(),
        absent: true,
        ..Default::default()
    };
    let begin = format!("node {} since {}\n", ask.node, ask.since_unix_ms);
    vec![Ok(part(&begin, "its memory")), Ok(part("second part\n", "")), Ok(absent)]
}
