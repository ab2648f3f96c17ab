use std::time::Duration;

use ha_core::lease::{Drift, Grant, Lease};
use ha_core::permit::StopMode;
use ha_core::{BootId, Lsn, TimelineId, WalPosition};
use ha_postgres::driver::Probe;

use super::*;
use crate::facts::Server;

const RUN: u64 = 5;
const MS: u64 = 1_000_000;
const OWN: Incarnation = Incarnation(1);
const NOW: ClockReading =
    ClockReading { boottime: BootNanos(100_000 * MS), monotonic_raw: 100_000 * MS };

fn id(name: &str) -> NodeId {
    name.parse().expect("a valid name")
}

fn state(holder: Option<&str>, epoch: u64) -> State {
    let grant = |holder: &str| Grant {
        holder: id(holder),
        incarnation: OWN,
        epoch: Epoch(epoch),
        ttl: Duration::from_secs(3),
        catch_up: None,
    };
    State {
        format: 1,
        system_identifier: Some(77),
        last_epoch: Epoch(epoch),
        lease: holder.map_or(Lease::Vacant, |holder| Lease::Held(grant(holder))),
        ..State::default()
    }
}

fn permit(order: Order) -> Permit {
    Permit { boot: BootId(1), run: RUN, burnt: Epoch::NONE, order }
}

/// A primary permit that ends `ms` after now.
fn primary(epoch: u64, ms: u64) -> Permit {
    let deadline = BootNanos(NOW.boottime.0 + ms * MS);
    permit(Order::Primary { epoch: Epoch(epoch), deadline })
}

fn guard(state: RunState, primary_epoch: u64) -> GuardStatus {
    GuardStatus {
        boot: BootId(1),
        guard_pid: 1,
        heartbeat: NOW.boottime,
        run: RUN,
        state,
        postmaster: None,
        exit: None,
        primary_epoch: Epoch(primary_epoch),
        realtime: true,
        margin: None,
        deadline: None,
        reason: String::new(),
    }
}

fn control(state: ControlState, standby_signal: bool) -> DataDir {
    let at = WalPosition { timeline: TimelineId(2), lsn: Lsn(100) };
    DataDir::Present(ControlFile {
        system_identifier: 77,
        major: 15,
        state,
        checkpoint: at,
        redo: at.lsn,
        min_recovery_end: at,
        checksums: true,
        standby_signal,
    })
}

fn answered(in_recovery: bool) -> Facts {
    let probe = Probe {
        in_recovery,
        system_identifier: 77,
        version_num: 150_000,
        timeline: TimelineId(2),
        flushed: Lsn(100),
        replayed: Lsn(100),
        streaming: false,
        upstream_end: Lsn::ZERO,
        pending_restart: false,
        attached: Vec::new(),
        busy_clients: 0,
        checkpoint_on_timeline: true,
        synchronous: String::new(),
        wal_receiver: false,
    };
    let server = Server { run: RUN, answer: Some((probe, Instant::now())), ..Server::default() };
    Facts { server, ..Facts::default() }
}

fn renewed(epoch: u64, sent_ms_ago: u64) -> Holder {
    let state = state(Some("n1"), epoch);
    let mut holder = Holder::new(state.lease.grant().expect("held"), Drift::DEFAULT);
    let sent = |clock: u64| clock - sent_ms_ago * MS;
    let at = ClockReading {
        boottime: BootNanos(sent(NOW.boottime.0)),
        monotonic_raw: sent(NOW.monotonic_raw),
    };
    assert!(holder.sending(1, at) && holder.confirmed(1));
    holder
}

struct Case<'a> {
    state: &'a State,
    holder: Option<&'a Holder>,
    permit: Permit,
    guard: GuardStatus,
    facts: &'a Facts,
}

fn view(case: Case<'_>) -> View {
    view_after_pledge(case, Epoch::NONE)
}

fn view_after_pledge(case: Case<'_>, pledged: Epoch) -> View {
    observe(&Seen {
        pledged,
        node: &id("n1"),
        policy: &Policy::default(),
        state: case.state,
        holder: case.holder,
        permit: case.permit,
        guard: &GuardSeen::Alive(case.guard),
        facts: case.facts,
        replaceable: false,
        now: NOW,
        at: Instant::now(),
    })
}

#[test]
fn a_grant_that_this_node_helped_to_end_is_followed_no_more_rule_104() {
    let theirs = state(Some("n2"), 4);
    let facts = Facts::default();
    let case = || Case {
        state: &theirs,
        holder: None,
        permit: permit(Order::Standby),
        guard: guard(RunState::Idle, 0),
        facts: &facts,
    };
    assert_eq!(view_after_pledge(case(), Epoch(3)).lease, LeaseView::Theirs);
    assert_eq!(view_after_pledge(case(), Epoch(4)).lease, LeaseView::Unknown);
}

#[test]
fn what_a_grant_demands_is_needed_until_it_was_replayed_under_that_grant() {
    use ha_core::lease::CatchUp as Demand;
    let mut state = state(Some("n1"), 4);
    let to = WalPosition { timeline: TimelineId(1), lsn: Lsn(9) };
    if let Lease::Held(grant) = &mut state.lease {
        grant.catch_up = Some(Demand { from: id("n3"), to });
    }
    let told = |caught_up| {
        let facts = Facts { caught_up, ..Facts::default() };
        let (permit, guard) = (permit(Order::Standby), guard(RunState::Idle, 0));
        view(Case { state: &state, holder: None, permit, guard, facts: &facts }).catch_up
    };
    assert_eq!(told(None), CatchUp::Needed);
    assert_eq!(told(Some((Epoch(3), true))), CatchUp::Needed, "of an earlier grant");
    assert_eq!(told(Some((Epoch(4), true))), CatchUp::Done);
    assert_eq!(told(Some((Epoch(4), false))), CatchUp::Failed);
}

#[test]
fn what_the_lease_means_is_told_by_state_count_and_permit_together() {
    let fresh = Holder::new(state(Some("n1"), 4).lease.grant().expect("held"), Drift::DEFAULT);
    let (good, late, old) = (renewed(4, 500), renewed(4, 2600), renewed(3, 500));
    let none = permit(Order::Standby);
    let burnt = Permit { burnt: Epoch(9), ..none };
    #[rustfmt::skip]
    let table = [
        // lease            holder's count  permit            what it means
        (None,              None,         none,             LeaseView::Vacant),
        (Some("n2"),        None,         none,             LeaseView::Theirs),
        (Some("n2"),        Some(&old),   primary(3, 2000), LeaseView::Theirs),
        (Some("n1"),        Some(&fresh), none,             LeaseView::Granted),
        (Some("n1"),        Some(&good),  primary(4, 2400), LeaseView::Ours),
        // Less than the guard's margin is left.
        (Some("n1"),        Some(&late),  primary(4, 370),  LeaseView::Lapsed),
        // An earlier start of the agent proved it; this one has not yet.
        (Some("n1"),        Some(&fresh), primary(4, 2000), LeaseView::Ours),
        (Some("n1"),        Some(&fresh), primary(4, 400),  LeaseView::Lapsed),
        // It may not be renewed by this start of the agent, or a count of another grant is left.
        (Some("n1"),        None,         none,             LeaseView::Forfeited),
        (Some("n1"),        Some(&old),   none,             LeaseView::Forfeited),
        // This node knew more than it has applied since it started.
        (Some("n1"),        None,         primary(9, 2000), LeaseView::Unknown),
        (None,              None,         burnt,            LeaseView::Unknown),
    ];
    for (holder, count, permit, expected) in table {
        let (state, facts) = (state(holder, 4), Facts::default());
        let guard = guard(RunState::Running, 0);
        let case = Case { state: &state, holder: count, permit, guard, facts: &facts };
        assert_eq!(view(case).lease, expected, "{holder:?}, {permit:?}");
    }
}

#[test]
fn a_grant_is_renewed_only_by_the_start_it_was_made_to_or_with_its_permit_at_hand() {
    let state = state(Some("n1"), 4);
    let grant = state.lease.grant().expect("held");
    let other = Incarnation(2);
    let burnt = Permit { burnt: Epoch(4), ..primary(4, 2000) };
    #[rustfmt::skip]
    let table = [
        ("n1", OWN,   permit(Order::Standby), true),
        ("n1", other, permit(Order::Standby), false),
        ("n1", other, primary(4, 2000),       true),
        ("n1", other, primary(3, 2000),       false),
        ("n1", OWN,   burnt,                  false),
        ("n2", OWN,   primary(4, 2000),       false),
    ];
    for (node, incarnation, permit, expected) in table {
        let got = may_renew(grant, &id(node), incarnation, &permit);
        assert_eq!(got, expected, "{node}, {incarnation}, {permit:?}");
    }
}

#[test]
fn only_what_a_primary_left_is_recovered_in_place() {
    let (state, holder) = (state(Some("n1"), 4), renewed(4, 500));
    #[rustfmt::skip]
    let table = [
        // left behind as                  signal  ended as                  crash
        (ControlState::InProduction,       false, RunState::Exited,           Crash::Unassessed),
        (ControlState::ShutDown,           false, RunState::Exited,           Crash::Unassessed),
        // A standby that died before its promotion ended: the permit said primary, the disk does not.
        (ControlState::InRecovery,         true,  RunState::Exited,           Crash::None),
        (ControlState::InRecovery,         false, RunState::Exited,           Crash::None),
        (ControlState::InProduction,       true,  RunState::Exited,           Crash::None),
        // It did not end by itself.
        (ControlState::InProduction,       false, RunState::KilledAtDeadline, Crash::None),
    ];
    for (left, signal, ended, expected) in table {
        let data_dir = Some((RUN, control(left, signal)));
        let facts = Facts { data_dir, ..Facts::default() };
        let (permit, guard) = (primary(4, 2400), guard(ended, 4));
        let case = Case { state: &state, holder: Some(&holder), permit, guard, facts: &facts };
        let Instance::Stopped(stopped) = view(case).instance else { panic!("it is stopped") };
        assert_eq!(stopped.crash, expected, "{left:?}, {signal}, {ended:?}");
    }
}

#[test]
fn whatever_may_write_without_the_lease_counts_as_a_primary() {
    let standby = Instance::Standby(Upstream::Stuck);
    let fine = Instance::Primary(Health::Fine);
    let none = permit(Order::Standby);
    #[rustfmt::skip]
    let table = [
        // lease       permit             was permitted  in recovery  instance
        (Some("n2"), none,               0, true,  standby),
        // Promoted by hand.
        (Some("n2"), none,               0, false, fine),
        // Permitted once, and its last answer is older than a promotion may be.
        (Some("n2"), primary(3, 2000),   3, true,  fine),
        (None,       none,               3, true,  fine),
    ];
    for (holder, permit, permitted, in_recovery, expected) in table {
        let (state, facts) = (state(holder, 4), answered(in_recovery));
        let guard = guard(RunState::Running, permitted);
        let case = Case { state: &state, holder: None, permit, guard, facts: &facts };
        assert_eq!(view(case).instance, expected, "{holder:?}, {permit:?}, {in_recovery}");
    }
}

#[test]
fn another_upstream_is_followed_only_after_a_comparison() {
    let state = state(Some("n2"), 4);
    #[rustfmt::skip]
    let table = [
        (None,                       Upstream::Stuck),
        (Some((3, Relation::Ancestor)), Upstream::Stuck), // of an earlier grant
        (Some((4, Relation::Ancestor)), Upstream::Wrong),
        (Some((4, Relation::Diverged)), Upstream::Diverged),
        (Some((4, Relation::CloneOnly)), Upstream::Diverged),
    ];
    for (compared, expected) in table {
        let mut facts = answered(true);
        facts.compared = compared.map(|(epoch, is)| (Epoch(epoch), is, Instant::now()));
        let (permit, guard) = (permit(Order::Standby), guard(RunState::Running, 0));
        let case = Case { state: &state, holder: None, permit, guard, facts: &facts };
        assert_eq!(view(case).instance, Instance::Standby(expected), "{compared:?}");
    }
}

#[test]
fn what_is_on_disk_decides_what_a_stopped_node_may_become() {
    let state = state(None, 4);
    let foreign = State { system_identifier: Some(5), ..state.clone() };
    let whole = || control(ControlState::ShutDownInRecovery, true);
    #[rustfmt::skip]
    let table = [
        (&state,   Some((RUN, DataDir::Missing)),                       Instance::Broken),
        (&state,   Some((RUN, DataDir::Unreadable(String::new()))),     Instance::Broken),
        (&foreign, Some((RUN, whole())),                                Instance::Broken),
        (&state,   Some((RUN, DataDir::Empty)),                         Instance::Empty),
        (&state,   Some((RUN, DataDir::HalfMade(HalfMade::Clone))),     Instance::HalfMade),
        // Looked at before the run that has ended since.
        (&state,   Some((RUN - 1, whole())),                            Instance::Unseen),
        (&state,   None,                                                Instance::Unseen),
    ];
    for (state, data_dir, expected) in table {
        let told = format!("{data_dir:?}");
        let facts = Facts { data_dir, ..Facts::default() };
        let permit = permit(Order::Down { stop: StopMode::Fast });
        let guard = guard(RunState::Exited, 0);
        let case = Case { state, holder: None, permit, guard, facts: &facts };
        assert_eq!(view(case).instance, expected, "{told}");
    }
}

#[test]
fn a_rewind_that_was_cut_short_is_never_started_as_it_is() {
    let state = state(Some("n2"), 4);
    for relation in [Relation::Uncompared, Relation::Ancestor, Relation::Diverged] {
        let facts = Facts {
            data_dir: Some((RUN, DataDir::HalfMade(HalfMade::Rewind))),
            compared: Some((Epoch(4), relation, Instant::now())),
            ..Facts::default()
        };
        let permit = permit(Order::Down { stop: StopMode::Fast });
        let guard = guard(RunState::Exited, 0);
        let case = Case { state: &state, holder: None, permit, guard, facts: &facts };
        let Instance::Stopped(stopped) = view(case).instance else { panic!("it is stopped") };
        assert_eq!((stopped.relation, stopped.grace), (Relation::Diverged, Grace::Waiting));
    }
}
