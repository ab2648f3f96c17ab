use std::time::Duration;

use proptest::prelude::*;

use super::super::{Database, Directory, Election, elect, elect_by_order};
use super::*;
use crate::ancestry::TimelineSwitch;
use crate::epoch::{Epoch, Incarnation};
use crate::lsn::{Lsn, WalPosition};
use crate::node::NodeKind;
use crate::policy::{Durability, Policy};
use crate::state::{Command, Node, Outcome, VacateReason};
use crate::timeline::TimelineId;
use crate::wal_quorum::Quorum;

const SYSTEM: u64 = 77;

fn id(name: &str) -> NodeId {
    name.parse().expect("a valid name")
}

fn at(timeline: u32, lsn: u64) -> WalPosition {
    WalPosition { timeline: TimelineId(timeline), lsn: Lsn(lsn) }
}

/// A cluster in `quorum` mode whose primary of epoch 1 was the first data node and is gone.
fn after_the_loss(data: &[&str], witnesses: &[&str]) -> State {
    let node = |kind| Node {
        kind,
        grpc: String::new(),
        postgres: String::new(),
        keeps_wal: true,
        sync: true,
    };
    let nodes = data
        .iter()
        .map(|name| (id(name), node(NodeKind::Data)))
        .chain(witnesses.iter().map(|name| (id(name), node(NodeKind::Witness))))
        .collect();
    let durability = Durability::Quorum;
    let found = Command::Found { cluster: "orders".to_owned(), cluster_id: 1, nodes, durability };
    let mut state = State::default();
    let mut apply = |command| assert_eq!(state.apply(&command), Outcome::Applied);
    apply(found);
    apply(Command::AssignBootstrap { to: id(data[0]), attempt: 1 });
    apply(Command::RegisterSystem { attempt: 1, system_identifier: SYSTEM });
    apply(grant(data[0], 1));
    apply(Command::Vacate { epoch: Epoch(1), reason: VacateReason::Expired, pauses: 0 });
    state
}

fn grant(to: &str, epoch: u64) -> Command {
    Command::Grant {
        to: id(to),
        incarnation: Incarnation(9),
        epoch: Epoch(epoch),
        ttl: Duration::from_secs(3),
        catch_up: None,
        evidence: "test".to_owned(),
    }
}

fn standby(end: WalPosition) -> Report {
    let database = Database {
        system_identifier: Some(SYSTEM),
        directory: Directory::Other,
        standby: true,
        flushed: end,
        upstream_end: Lsn::ZERO,
        unfit: None,
        promotable: true,
        priority: 0,
    };
    Report {
        incarnation: Incarnation(3),
        primary_epoch: None,
        database: Some(database),
        pledged: Epoch(1),
        wal: Some(Tip { end, history: Vec::new(), oldest: Lsn(0) }),
    }
}

fn witness(end: WalPosition) -> Report {
    Report { database: None, ..standby(end) }
}

fn run(state: &State, reports: &[(&str, Report)]) -> Election {
    let reports = reports.iter().map(|(name, report)| (id(name), report.clone())).collect();
    elect(state, &reports, None, &Policy::default())
}

fn unproven(need: usize, missing: &[&str]) -> Refusal {
    let missing = missing.iter().map(|name| id(name)).collect();
    Refusal::Unproven { epoch: Epoch(1), primary: id("n1"), need, missing }
}

#[test]
fn with_three_voters_any_two_prove_it_and_one_does_not_rule_97() {
    let state = after_the_loss(&["n1", "n2"], &["n3"]);
    let (n2, n3) = (standby(at(1, 100)), witness(at(1, 100)));
    let both = run(&state, &[("n2", n2.clone()), ("n3", n3)]);
    assert_eq!(both.winner.expect("a winner").proven_by, [id("n2"), id("n3")]);
    let alone = run(&state, &[("n2", n2.clone())]);
    assert_eq!(alone.winner, None);
    assert_eq!(alone.refusals[&id("n2")], unproven(1, &["n3"]));
    let with_old_primary = run(&state, &[("n1", standby(at(1, 120))), ("n2", n2)]);
    let winner = with_old_primary.winner.expect("the old primary has everything");
    assert_eq!((winner.node, winner.proven_by), (id("n1"), vec![id("n1")]));
}

#[test]
fn with_five_voters_three_of_the_four_acknowledgers_prove_it() {
    let state = after_the_loss(&["n1", "n2", "n3"], &["n4", "n5"]);
    let three =
        [("n2", standby(at(1, 90))), ("n4", witness(at(1, 100))), ("n5", witness(at(1, 80)))];
    let winner = run(&state, &three).winner.expect("three of four");
    let catch_up = CatchUp { from: id("n4"), to: at(1, 100) };
    assert_eq!((winner.node, winner.catch_up), (id("n2"), Some(catch_up)));
    let two = run(&state, &three[..2]);
    assert_eq!(two.refusals[&id("n2")], unproven(1, &["n3", "n5"]));
    let most = [("n3", standby(at(1, 95))), three[0].clone(), three[1].clone()];
    assert_eq!(run(&state, &most).winner.expect("three of four").node, id("n3"), "most WAL");
}

#[test]
fn who_has_not_pledged_proves_nothing_and_is_not_promoted_rules_95_and_104() {
    let state = after_the_loss(&["n1", "n2"], &["n3"]);
    let loose = |report| Report { pledged: Epoch(0), ..report };
    let got = run(&state, &[("n2", standby(at(1, 100))), ("n3", loose(witness(at(1, 100))))]);
    assert_eq!(got.refusals[&id("n2")], unproven(1, &["n3"]));
    let got = run(&state, &[("n2", loose(standby(at(1, 100)))), ("n3", witness(at(1, 100)))]);
    assert_eq!(got.refusals[&id("n2")], Refusal::NotPledged(Epoch(1)));
}

#[test]
fn a_member_that_lost_its_wal_proves_nothing() {
    let state = after_the_loss(&["n1", "n2"], &["n3"]);
    let wiped = Report { wal: None, ..witness(at(1, 0)) };
    let got = run(&state, &[("n2", standby(at(1, 100))), ("n3", wiped)]);
    assert_eq!(got.refusals[&id("n2")], unproven(1, &["n3"]));
}

#[test]
fn a_winner_that_lacks_wal_fetches_it_from_whoever_has_more_rule_96() {
    let state = after_the_loss(&["n1", "n2"], &["n3"]);
    let tip = |end, oldest| Tip { end, history: Vec::new(), oldest: Lsn(oldest) };
    let keeper = |oldest| Report { wal: Some(tip(at(1, 100), oldest)), ..witness(at(1, 100)) };
    let got = run(&state, &[("n2", standby(at(1, 60))), ("n3", keeper(50))]);
    let catch_up = CatchUp { from: id("n3"), to: at(1, 100) };
    assert_eq!(got.winner.expect("a winner").catch_up, Some(catch_up));
    // There is a gap: acknowledged commits lie in it.
    let got = run(&state, &[("n2", standby(at(1, 60))), ("n3", keeper(64))]);
    let missing = Refusal::MissingWal { has: at(1, 60), end: at(1, 100) };
    assert_eq!(got.refusals[&id("n2")], missing);
}

#[test]
fn wal_that_left_the_history_excludes_from_election_and_a_later_timeline_is_fetched() {
    let state = after_the_loss(&["n1", "n2"], &["n3"]);
    let history = vec![TimelineSwitch { timeline: TimelineId(1), end: Lsn(80) }];
    let keeper =
        Report { wal: Some(Tip { end: at(2, 120), history, oldest: Lsn(0) }), ..witness(at(2, 0)) };
    let past = run(&state, &[("n2", standby(at(1, 90))), ("n3", keeper.clone())]);
    let diverged = Refusal::Diverged { fork: at(1, 80), node: id("n3") };
    assert_eq!(past.refusals[&id("n2")], diverged);
    let before = run(&state, &[("n2", standby(at(1, 70))), ("n3", keeper)]);
    let catch_up = CatchUp { from: id("n3"), to: at(2, 120) };
    assert_eq!(before.winner.expect("a winner").catch_up, Some(catch_up));
}

#[test]
fn what_only_the_old_primary_has_does_not_hold_up_a_proven_election_rule_15() {
    let state = after_the_loss(&["n1", "n2"], &["n3"]);
    let stopped = |report: Report| Report {
        database: report.database.map(|database| Database { standby: false, ..database }),
        ..report
    };
    let old = ("n1", stopped(standby(at(1, 150))));
    let reports = [old, ("n2", standby(at(1, 100))), ("n3", witness(at(1, 100)))];
    let winner = run(&state, &reports).winner.expect("proven without the old primary");
    assert_eq!((winner.node, winner.catch_up), (id("n2"), None));
    // Without the witness its word is needed, and so are its bytes.
    let winner = run(&state, &reports[..2]).winner.expect("proven by the old primary");
    assert_eq!(winner.catch_up, Some(CatchUp { from: id("n1"), to: at(1, 150) }));
}

#[test]
fn an_earlier_quorum_keeps_its_say_until_the_new_primary_has_spread_its_commits() {
    let mut state = after_the_loss(&["n1", "n2"], &[]);
    let alone = Quorum::alone();
    let apply = |state: &mut State, command| assert_eq!(state.apply(&command), Outcome::Applied);
    apply(&mut state, grant("n1", 2));
    let version = state.quorum_version;
    let mode = Durability::Quorum;
    let quorum = alone;
    let shrink = Command::SetQuorum { epoch: Epoch(2), version, mode, quorum, settled: true };
    apply(&mut state, shrink);
    apply(
        &mut state,
        Command::Vacate { epoch: Epoch(2), reason: VacateReason::Expired, pauses: 0 },
    );
    // n1 went on alone: nobody else can know what it acknowledged.
    let pledged = |report: Report| Report { pledged: state.last_epoch, ..report };
    let got = run(&state, &[("n2", pledged(standby(at(1, 500))))]);
    let lone =
        Refusal::Unproven { epoch: Epoch(2), primary: id("n1"), need: 0, missing: Vec::new() };
    assert_eq!(got.refusals[&id("n2")], lone);
    // n1 itself is granted the lease again and dies before it has spread anything.
    apply(&mut state, grant("n1", 3));
    assert_eq!(state.unsettled.len(), 1);
    apply(
        &mut state,
        Command::Vacate { epoch: Epoch(3), reason: VacateReason::Expired, pauses: 0 },
    );
    let report = Report { pledged: Epoch(3), ..standby(at(1, 500)) };
    assert_eq!(run(&state, &[("n2", report)]).winner, None);
}

#[test]
fn an_operator_may_accept_a_loss_but_not_a_second_primary_rule_97() {
    let state = after_the_loss(&["n1", "n2"], &["n3"]);
    let order = |reports: &[(&str, Report)], to: Option<&str>, accept| {
        let reports = reports.iter().map(|(name, report)| (id(name), report.clone())).collect();
        let to = to.map(id);
        elect_by_order(&state, &reports, Some(at(1, 160)), &Policy::default(), to.as_ref(), accept)
    };
    // Neither the old primary nor the witness is heard of: n2 may lack what they acknowledged.
    let alone = [("n2", standby(at(1, 100)))];
    let refused = order(&alone, Some("n2"), false);
    assert_eq!(refused.winner, None);
    assert!(matches!(refused.refusals[&id("n2")], Refusal::Unproven { .. }), "{refused:?}");
    let winner = order(&alone, None, true).winner.expect("the loss is accepted");
    assert_eq!((winner.node, winner.lost_bytes), (id("n2"), Some(60)));
    assert_eq!(order(&alone, Some("n1"), true).winner, None, "it does not answer");
    // It could still receive, and acknowledge, more than it is counted with.
    let receives = Report { pledged: Epoch::NONE, ..standby(at(1, 100)) };
    let refused = order(&[("n2", receives)], None, true);
    assert_eq!(refused.refusals[&id("n2")], Refusal::NotPledged(Epoch(1)));
    // Another one may still accept writes.
    let primary = Report { primary_epoch: Some(Epoch(1)), ..standby(at(1, 160)) };
    let refused = order(&[("n1", primary), ("n2", standby(at(1, 100)))], None, true);
    assert_eq!(refused.winner, None);
    assert_eq!(refused.refusals[&id("n2")], Refusal::PermitElsewhere);
    // What can be proven is proven, whatever was accepted.
    let reports = [("n2", standby(at(1, 100))), ("n3", witness(at(1, 160)))];
    let winner = order(&reports, None, true).winner.expect("proven");
    assert_eq!(winner.catch_up, Some(CatchUp { from: id("n3"), to: at(1, 160) }));
}

/// What a node has: its WAL is a prefix of the primary's.
#[derive(Debug, Clone)]
struct Has {
    end: u64,
    oldest: u64,
    reports: bool,
    pledges: bool,
    data: bool,
}

fn has() -> impl Strategy<Value = Has> {
    (0..100_u64, 0..100_u64, any::<bool>(), prop::bool::weighted(0.8), any::<bool>()).prop_map(
        |(end, oldest, reports, pledges, data)| Has {
            end: end + 1,
            oldest: oldest.min(end),
            reports,
            pledges,
            data,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    /// Any number of nodes, any quorum: whatever was acknowledged, the winner has it or fetches it.
    #[test]
    fn no_winner_lacks_an_acknowledged_commit(
        nodes in prop::collection::vec(has(), 1..7),
        mask in any::<u8>(),
        required in 1..4_u32,
        primary_reports in prop::bool::weighted(0.2),
    ) {
        let name = |index: usize| format!("n{}", index + 2);
        let (mut data, mut witnesses) = (vec!["n1".to_owned()], Vec::new());
        for (index, node) in nodes.iter().enumerate() {
            if node.data { data.push(name(index)) } else { witnesses.push(name(index)) }
        }
        let borrow = |names: &[String]| names.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        let (data, witnesses) = (borrow(&data), borrow(&witnesses));
        let list = |text: &'_ str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let (data, witnesses) = (list(&data), list(&witnesses));
        let data: Vec<&str> = data.iter().map(String::as_str).collect();
        let witnesses: Vec<&str> = witnesses.iter().map(String::as_str).collect();
        let mut state = after_the_loss(&data, &witnesses);
        let members = (0..nodes.len()).filter(|bit| mask >> bit & 1 == 1).map(|bit| id(&name(bit)));
        let quorum = Quorum::new(members, required);
        if let Some(recorded) = &mut state.recorded {
            recorded.quorum = quorum.clone();
        }
        let mut ends: Vec<u64> = quorum
            .members
            .iter()
            .map(|member| nodes.iter().enumerate().find(|(i, _)| *member == id(&name(*i))))
            .map(|found| found.expect("a member").1.end)
            .collect();
        ends.sort_unstable_by_key(|end| Reverse(*end));
        // Alone, the primary acknowledges whatever it has.
        let acknowledged = match quorum.required as usize {
            0 => 100,
            required => ends[required - 1],
        };
        let mut reports = BTreeMap::new();
        if primary_reports {
            reports.insert(id("n1"), standby(at(1, 100)));
        }
        for (index, node) in nodes.iter().enumerate().filter(|(_, node)| node.reports) {
            let full = if node.data { standby(at(1, node.end)) } else { witness(at(1, node.end)) };
            let tip = Tip { end: at(1, node.end), history: Vec::new(), oldest: Lsn(node.oldest) };
            let pledged = Epoch(u64::from(node.pledges));
            reports.insert(id(&name(index)), Report { wal: Some(tip), pledged, ..full });
        }
        let got = elect(&state, &reports, None, &Policy::default());
        if let Some(winner) = got.winner {
            let own = reports[&winner.node].wal.as_ref().expect("WAL").end.lsn.0;
            let reaches = winner.catch_up.as_ref().map_or(own, |it| it.to.lsn.0);
            prop_assert!(reaches >= acknowledged, "{winner:?}, acknowledged {acknowledged}");
            if let Some(fetch) = winner.catch_up {
                let from = reports[&fetch.from].wal.as_ref().expect("WAL");
                prop_assert!(from.oldest.0 <= own && from.end.lsn.0 >= reaches);
            }
        }
    }
}
