use proptest::prelude::*;

use super::*;
use crate::TimelineId;
use crate::policy::Durability;
use crate::state::{Command, Node, Promotion};

const SYSTEM: u64 = 77;

fn id(name: &str) -> NodeId {
    name.parse().expect("a valid name")
}

fn state() -> State {
    let node = |kind| Node {
        kind,
        grpc: String::new(),
        postgres: String::new(),
        keeps_wal: true,
        sync: true,
    };
    let nodes = BTreeMap::from([
        (id("n1"), node(NodeKind::Data)),
        (id("n2"), node(NodeKind::Data)),
        (id("n3"), node(NodeKind::Witness)),
    ]);
    let mut state = State::default();
    state.apply(&Command::Found {
        cluster: "orders".to_owned(),
        cluster_id: 1,
        nodes,
        durability: Durability::Async,
    });
    state
}

fn registered() -> State {
    State { system_identifier: Some(SYSTEM), ..state() }
}

fn standby(timeline: u32, lsn: u64) -> Database {
    Database {
        system_identifier: Some(SYSTEM),
        directory: Directory::Other,
        standby: true,
        flushed: WalPosition { timeline: TimelineId(timeline), lsn: Lsn(lsn) },
        upstream_end: Lsn::ZERO,
        unfit: None,
        promotable: true,
        priority: 0,
    }
}

fn report(database: Database) -> Report {
    Report {
        incarnation: Incarnation(3),
        primary_epoch: None,
        database: Some(database),
        pledged: Epoch::NONE,
        wal: None,
    }
}

fn run(reports: &[(&str, Report)], last_known: Option<(u32, u64)>) -> Election {
    let reports = reports.iter().map(|(name, report)| (id(name), report.clone())).collect();
    let known = last_known.map(|(t, lsn)| WalPosition { timeline: TimelineId(t), lsn: Lsn(lsn) });
    elect(&registered(), &reports, known, &Policy::default())
}

fn winner(election: &Election) -> Option<&str> {
    election.winner.as_ref().map(|winner| winner.node.as_str())
}

#[test]
fn most_wal_wins_then_priority_then_name() {
    let same = || report(standby(2, 100));
    let more = || report(standby(2, 101));
    let dear = || report(Database { priority: 5, ..standby(2, 100) });
    assert_eq!(winner(&run(&[("n1", same()), ("n2", more())], None)), Some("n2"));
    assert_eq!(winner(&run(&[("n1", same()), ("n2", dear())], None)), Some("n2"));
    assert_eq!(winner(&run(&[("n1", more()), ("n2", dear())], None)), Some("n1"));
    let tie = run(&[("n1", same()), ("n2", same())], None);
    assert_eq!(winner(&tie), Some("n1"));
    assert_eq!(tie.refusals[&id("n2")], Refusal::Outranked(id("n1")));
}

#[test]
fn every_node_that_may_not_be_promoted_is_refused_by_name() {
    let base = || standby(2, 100);
    let max = Policy::default().lag_bytes_max;
    let lagging = Refusal::LagsTooFar { lag_bytes: max + 1, max };
    let foreign = Refusal::Foreign { found: 5, expected: SYSTEM };
    #[rustfmt::skip]
    let table = [
        (Database { system_identifier: None, ..base() },           Refusal::NoDatabase),
        (Database { system_identifier: Some(5), ..base() },        foreign),
        (Database { standby: false, ..base() },                    Refusal::NotRunning),
        (Database { promotable: false, ..base() },                 Refusal::NotPromotable),
        (Database { unfit: Some("disk full".to_owned()), ..base() }, Refusal::Unfit("disk full".to_owned())),
        (standby(2, 0),                                            Refusal::NoWal),
        (Database { upstream_end: Lsn(101 + max), ..base() },      lagging),
    ];
    for (database, refusal) in table {
        let got = run(&[("n2", report(database))], None);
        assert_eq!(got.winner, None, "{refusal}");
        assert_eq!(got.refusals[&id("n2")], refusal);
        assert_eq!(got.refusals[&id("n1")], Refusal::Unreachable);
    }
}

#[test]
fn nobody_is_promoted_while_a_node_says_that_its_permit_has_not_ended() {
    let still = Report { primary_epoch: Some(Epoch(4)), ..report(standby(2, 500)) };
    let got = run(&[("n1", still), ("n2", report(standby(2, 100)))], None);
    assert_eq!(got.winner, None);
    assert_eq!(got.refusals[&id("n1")], Refusal::StillPrimary(Epoch(4)));
    assert_eq!(got.refusals[&id("n2")], Refusal::PermitElsewhere);
}

#[test]
fn the_newest_timeline_wins_over_more_bytes() {
    let got = run(&[("n1", report(standby(2, 900))), ("n2", report(standby(3, 100)))], None);
    assert_eq!(winner(&got), Some("n2"));
    let (has, newest) = (TimelineId(2), TimelineId(3));
    assert_eq!(got.refusals[&id("n1")], Refusal::OldTimeline { has, newest, node: id("n2") });
}

#[test]
fn the_bound_on_loss_is_exact_and_the_loss_is_reported() {
    let max = Policy::default().lag_bytes_max;
    let at_bound = run(&[("n2", report(standby(2, 100)))], Some((2, 100 + max)));
    assert_eq!(at_bound.winner.and_then(|w| w.lost_bytes), Some(max));
    assert_eq!(run(&[("n2", report(standby(2, 100)))], Some((2, 101 + max))).winner, None);
    let unknown = run(&[("n2", report(standby(2, 100)))], None);
    assert_eq!(unknown.winner.and_then(|w| w.lost_bytes), None);
}

#[test]
fn the_database_is_made_only_when_every_data_node_was_heard() {
    let none = || Database {
        system_identifier: None,
        directory: Directory::Empty,
        standby: false,
        ..standby(0, 0)
    };
    let broken = || Database { directory: Directory::Other, ..none() };
    let has = |system, lsn| Database { system_identifier: Some(system), ..standby(1, lsn) };
    let choose = |list: &[(&str, Database)]| {
        let reports = list.iter().map(|(n, d)| (id(n), report(d.clone()))).collect();
        choose_bootstrap(&state(), &reports)
    };
    let assign = |name| BootstrapChoice::Assign(id(name));
    assert_eq!(choose(&[("n1", none())]), BootstrapChoice::WaitFor(vec![id("n2")]));
    // Its agent has just begun: what it has not looked at is no unusable directory yet.
    let unseen = || Database { directory: Directory::Unseen, ..broken() };
    let wait = BootstrapChoice::WaitFor(vec![id("n2")]);
    assert_eq!(choose(&[("n1", none()), ("n2", unseen())]), wait);
    assert_eq!(choose(&[("n1", has(5, 9)), ("n2", unseen())]), wait);
    assert_eq!(choose(&[("n1", none()), ("n2", none())]), assign("n1"));
    assert_eq!(choose(&[("n1", none()), ("n2", has(5, 9))]), assign("n2"));
    assert_eq!(choose(&[("n1", has(5, 9)), ("n2", has(5, 10))]), assign("n2"));
    let conflict = BTreeMap::from([(id("n1"), 5), (id("n2"), 6)]);
    let both = choose(&[("n1", has(5, 1)), ("n2", has(6, 1))]);
    assert_eq!(both, BootstrapChoice::Conflict(conflict));
    let unusable = BootstrapChoice::Unusable(vec![id("n2")]);
    assert_eq!(choose(&[("n1", none()), ("n2", broken())]), unusable);
}

fn promoted(holder: &str, timeline: u32, lsn: u64) -> State {
    let begin = WalPosition { timeline: TimelineId(timeline), lsn: Lsn(lsn) };
    let (epoch, holder) = (Epoch(3), id(holder));
    let history = vec![Promotion { epoch, holder, begin, follows: None, at_unix_ms: 0 }];
    State { history, ..registered() }
}

fn run_after(state: &State, reports: &[(&str, Report)], known: Option<(u32, u64)>) -> Election {
    let reports = reports.iter().map(|(name, report)| (id(name), report.clone())).collect();
    let known = known.map(|(t, lsn)| WalPosition { timeline: TimelineId(t), lsn: Lsn(lsn) });
    elect(state, &reports, known, &Policy::default())
}

#[test]
fn a_node_on_an_abandoned_timeline_is_not_elected_while_the_last_primary_is_away() {
    let state = promoted("n2", 3, 100);
    // n1 has its own end of timeline 2, past the fork: what n2 wrote since is unknown to it.
    let got = run_after(&state, &[("n1", report(standby(2, 500)))], None);
    let (has, newest) = (TimelineId(2), TimelineId(3));
    let refusal = Refusal::NeverFollowed { has, newest, holder: id("n2") };
    assert_eq!((got.winner, &got.refusals[&id("n1")]), (None, &refusal));
    // Not past the fork, and the loss is known and within the bound.
    let got = run_after(&state, &[("n1", report(standby(2, 90)))], Some((3, 190)));
    assert_eq!(got.winner.and_then(|w| w.lost_bytes), Some(100));
    // Not past the fork, but nobody knows how much is missing.
    let got = run_after(&state, &[("n1", report(standby(2, 90)))], None);
    assert_eq!(got.winner, None);
}

#[test]
fn nobody_is_elected_while_nobody_knows_how_far_the_last_primary_got() {
    let state = promoted("n2", 3, 100);
    let follower = || report(standby(3, 150));
    let got = run_after(&state, &[("n1", follower())], None);
    assert_eq!(got.refusals[&id("n1")], Refusal::LossUnknown { holder: id("n2") });
    // It reported itself, its renewals told, or the standby heard it.
    let own = report(standby(3, 160));
    assert_eq!(winner(&run_after(&state, &[("n1", follower()), ("n2", own)], None)), Some("n2"));
    assert_eq!(winner(&run_after(&state, &[("n1", follower())], Some((3, 160)))), Some("n1"));
    let heard = report(Database { upstream_end: Lsn(160), ..standby(3, 150) });
    assert_eq!(winner(&run_after(&state, &[("n1", heard)], None)), Some("n1"));
    // The last primary itself lacks nothing.
    assert_eq!(winner(&run_after(&state, &[("n2", follower())], None)), Some("n2"));
    // A position of an older timeline says nothing of what came after.
    assert_eq!(run_after(&state, &[("n1", follower())], Some((2, 999))).winner, None);
}

#[test]
fn an_election_waits_for_the_last_primary_only_if_it_can_come_back() {
    let last_epoch = Epoch(5);
    let vacated = Some(VacateReason::Expired);
    let expired = State { last_epoch, vacated, ..promoted("n1", 3, 100) };
    let down = || Database { standby: false, ..standby(3, 150) };
    let waits = |state: &State, database: Database| {
        let reports = BTreeMap::from([(id("n1"), report(database))]);
        worth_waiting_for(state, &reports) == Some(&id("n1"))
    };
    assert!(waits(&expired, down()));
    assert!(!waits(&expired, standby(3, 150)), "it is electable already");
    assert!(!waits(&expired, Database { unfit: Some("disk full".to_owned()), ..down() }));
    assert!(!waits(&expired, Database { system_identifier: None, ..down() }));
    let released = VacateReason::Released { why: "crashed_replaceable".to_owned() };
    assert!(!waits(&State { vacated: Some(released), ..expired.clone() }, down()));
    assert_eq!(worth_waiting_for(&expired, &BTreeMap::new()), None, "it does not answer");
}

#[test]
fn the_first_election_waits_for_a_database_that_reaches_further_than_those_that_run() {
    let first = registered();
    let down = |lsn| Database { standby: false, ..standby(2, lsn) };
    let waits = |n1: Database, n2: Database| {
        let reports = BTreeMap::from([(id("n1"), report(n1)), (id("n2"), report(n2))]);
        worth_waiting_for(&first, &reports).cloned()
    };
    assert_eq!(waits(down(200), standby(2, 100)), Some(id("n1")));
    assert_eq!(waits(down(100), standby(2, 200)), None);
    assert_eq!(waits(down(100), down(200)), None, "nobody could be elected anyway");
    assert_eq!(waits(down(50), standby(1, 200)), Some(id("n1")), "a later timeline");
}

fn any_database() -> impl Strategy<Value = Database> {
    (
        prop_oneof![Just(None), Just(Some(SYSTEM)), Just(Some(5))],
        any::<bool>(),
        (1_u32..4, 0_u64..40 << 20),
        0_u64..40 << 20,
        any::<bool>(),
        any::<bool>(),
        -2_i32..2,
    )
        .prop_map(
            |(system, standby_now, (t, lsn), upstream_end, fit, promotable, priority)| Database {
                system_identifier: system,
                standby: standby_now,
                upstream_end: Lsn(upstream_end),
                unfit: (!fit).then(|| "test".to_owned()),
                promotable,
                priority,
                ..standby(t, lsn)
            },
        )
}

proptest! {
    #[test]
    fn whoever_wins_is_fit_and_nobody_fit_has_more(
        first in any_database(),
        second in any_database(),
        known in prop::option::of(0_u64..40 << 20),
    ) {
        let databases = [("n1", first), ("n2", second)];
        let reports: Vec<_> =
            databases.iter().map(|(name, d)| (*name, report(d.clone()))).collect();
        let got = run(&reports, known.map(|lsn| (2, lsn)));
        let total = got.refusals.len() + usize::from(got.winner.is_some());
        prop_assert_eq!(total, 2, "everybody wins or is refused");
        if let Some(winner) = &got.winner {
            let find = |node: &NodeId| databases.iter().find(|(n, _)| *n == node.as_str());
            let chosen = &find(&winner.node).expect("a data node").1;
            prop_assert!(chosen.standby && chosen.promotable && chosen.unfit.is_none());
            prop_assert_eq!(chosen.system_identifier, Some(SYSTEM));
            if let Some(lost) = winner.lost_bytes {
                prop_assert!(lost <= Policy::default().lag_bytes_max);
            }
            for (node, refusal) in &got.refusals {
                if matches!(refusal, Refusal::Outranked(_)) {
                    prop_assert!(find(node).expect("a data node").1.flushed <= chosen.flushed);
                }
            }
        }
    }
}
