use Action::{Kill, Start, Stay, Stop};
use StopMode::{Fast, Immediate};

use super::*;

const BOOT: BootId = BootId(7);
const NOW: BootNanos = BootNanos(1_000_000);
const SETTINGS: Settings = Settings {
    boot: BOOT,
    margin: Duration::from_nanos(100),
    fast_stop: Duration::from_nanos(50),
    immediate_stop: Duration::from_nanos(20),
};
/// The last deadline that is over by [`NOW`], and the first that is not.
const ENDED: BootNanos = BootNanos(NOW.0 + 100);
const VALID: BootNanos = BootNanos(NOW.0 + 101);
const STANDBY: Order = Order::Standby;
const DOWN: Order = Order::Down { stop: Fast };
const DOWN_NOW: Order = Order::Down { stop: Immediate };

const fn primary(epoch: u64, deadline: BootNanos) -> Order {
    Order::Primary { epoch: Epoch(epoch), deadline }
}

const fn permit(run: u64, burnt: u64, order: Order) -> Permit {
    Permit { boot: BOOT, run, burnt: Epoch(burnt), order }
}

const fn right(epoch: u64, deadline: BootNanos) -> Right {
    Right { epoch: Epoch(epoch), deadline }
}

/// Run 3 in `phase`, under `right`; epoch 2 was given up.
fn run_3(phase: Phase, right: Option<Right>) -> Memory {
    let epoch = right.map_or(Epoch::NONE, |right| right.epoch);
    Memory {
        phase,
        right,
        primary_epoch: epoch,
        epoch_max: Epoch(epoch.0.max(5)),
        burnt: Epoch(2),
        ..Memory::after(3, Epoch::NONE)
    }
}

fn facts(permit: Permit, processes: Processes) -> Facts {
    Facts {
        now: NOW,
        permit: Some(permit),
        standby_signal: true,
        launchable: true,
        processes,
        quit: false,
    }
}

const OVER: Phase = Phase::Over { killed: None };
const HELD: Option<Right> = Some(right(5, VALID));

#[test]
fn a_run_starts_once_and_only_under_a_permit_that_proves_its_role() {
    let crashed = run_3(OVER, HELD);
    let killed = run_3(Phase::Over { killed: Some(Cause::RightEnded) }, HELD);
    let was_standby = run_3(OVER, None);
    let fresh = Memory::after(0, Epoch::NONE);
    let restarted_guard = Memory::after(3, Epoch(5));
    let refused = run_3(Phase::Refused, None);
    #[rustfmt::skip]
    let table = [
        // memory           permit                              action  state               why
        (fresh,           permit(1, 0, STANDBY),              Start, RunState::Running, Why::Nothing),
        (fresh,           permit(0, 0, STANDBY),              Stay,  RunState::Idle,    Why::Nothing),
        (fresh,           permit(1, 0, DOWN),                 Stay,  RunState::Idle,    Why::Nothing),
        (fresh,           permit(1, 0, primary(5, VALID)),    Stay,  RunState::Refused, Why::NotInPlace(Epoch(5))),
        (restarted_guard, permit(3, 0, STANDBY),              Stay,  RunState::Idle,    Why::Nothing),
        (restarted_guard, permit(4, 0, STANDBY),              Start, RunState::Running, Why::Nothing),
        (restarted_guard, permit(4, 0, primary(5, VALID)),    Stay,  RunState::Refused, Why::NotInPlace(Epoch(5))),
        (crashed,         permit(3, 0, primary(5, VALID)),    Stay,  RunState::Exited,  Why::Nothing),
        (crashed,         permit(2, 0, STANDBY),              Stay,  RunState::Exited,  Why::Nothing),
        (crashed,         permit(4, 0, STANDBY),              Start, RunState::Running, Why::Nothing),
        (crashed,         permit(4, 0, primary(5, VALID)),    Start, RunState::Running, Why::Nothing),
        (killed,          permit(4, 0, primary(5, VALID)),    Start, RunState::Running, Why::Nothing),
        (crashed,         permit(4, 0, primary(5, ENDED)),    Stay,  RunState::Refused, Why::RightEnded(Epoch(5))),
        (crashed,         permit(4, 5, primary(5, VALID)),    Stay,  RunState::Refused, Why::Burnt(Epoch(5))),
        (crashed,         permit(4, 0, primary(6, VALID)),    Stay,  RunState::Refused, Why::NotInPlace(Epoch(6))),
        (crashed,         permit(4, 0, primary(4, VALID)),    Stay,  RunState::Refused, Why::OldEpoch(Epoch(4))),
        (was_standby,     permit(4, 0, primary(5, VALID)),    Stay,  RunState::Refused, Why::NotInPlace(Epoch(5))),
        (refused,         permit(3, 0, STANDBY),              Stay,  RunState::Refused, Why::Nothing),
        (refused,         permit(4, 0, STANDBY),              Start, RunState::Running, Why::Nothing),
    ];
    for (memory, permit, action, state, why) in table {
        let (after, got) = decide(memory, &facts(permit, Processes::None), &SETTINGS);
        assert_eq!((got, after.state(), after.why), (action, state, why), "{memory:?}, {permit:?}");
    }
}

#[test]
fn a_standby_without_its_signal_file_is_refused_and_the_run_used_up() {
    let unsigned = |permit| Facts { standby_signal: false, ..facts(permit, Processes::None) };
    let (refused, action) = decide(run_3(OVER, None), &unsigned(permit(4, 0, STANDBY)), &SETTINGS);
    assert_eq!((action, refused.phase, refused.run), (Stay, Phase::Refused, 4));
    assert_eq!(refused.why, Why::NoStandbySignal);
    for order in [STANDBY, primary(5, VALID)] {
        let untold = Facts { launchable: false, ..facts(permit(4, 0, order), Processes::None) };
        let (refused, action) = decide(run_3(OVER, HELD), &untold, &SETTINGS);
        assert_eq!((action, refused.phase, refused.run), (Stay, Phase::Refused, 4));
        assert_eq!(refused.why, Why::NoLaunch);
    }
    let (_, action) = decide(refused, &facts(permit(4, 0, STANDBY), Processes::None), &SETTINGS);
    assert_eq!(action, Stay);
}

#[test]
fn a_running_postmaster_is_left_alone_only_while_the_permit_covers_it() {
    let standby = run_3(Phase::Running, None);
    let writable = run_3(Phase::Running, HELD);
    let late = run_3(Phase::Running, Some(right(5, ENDED)));
    #[rustfmt::skip]
    let table = [
        // memory    permit                            action           right afterwards
        (standby,  permit(3, 0, STANDBY),            Stay,            None),
        (standby,  permit(2, 0, STANDBY),            Stay,            None),
        (standby,  permit(4, 0, STANDBY),            Stop(Fast),      None),
        (standby,  permit(4, 0, primary(5, VALID)),  Stop(Fast),      None),
        (standby,  permit(3, 0, DOWN),               Stop(Fast),      None),
        (standby,  permit(2, 0, DOWN),               Stop(Fast),      None),
        (standby,  permit(3, 0, DOWN_NOW),           Stop(Immediate), None),
        (standby,  permit(3, 0, primary(5, VALID)),  Stay,            HELD),
        (standby,  permit(2, 0, primary(5, VALID)),  Stay,            None),
        // The agent may have promoted it under a right that it does not have.
        (standby,  permit(3, 0, primary(5, ENDED)),  Kill,            Some(right(5, ENDED))),
        (standby,  permit(3, 5, primary(5, VALID)),  Kill,            Some(right(5, BootNanos(0)))),
        (standby,  permit(3, 0, primary(4, VALID)),  Kill,            Some(right(4, BootNanos(0)))),
        (standby,  permit(3, 0, primary(0, VALID)),  Kill,            Some(right(0, BootNanos(0)))),
        (writable, permit(3, 0, primary(5, VALID)),  Stay,            HELD),
        (writable, permit(3, 0, primary(5, ENDED)),  Kill,            Some(right(5, ENDED))),
        (writable, permit(3, 0, primary(6, VALID)),  Stay,            Some(right(6, VALID))),
        (writable, permit(3, 0, primary(4, ENDED)),  Stay,            HELD),
        (writable, permit(3, 5, primary(5, VALID)),  Kill,            HELD),
        (writable, permit(3, 5, primary(6, VALID)),  Kill,            HELD),
        (writable, permit(3, 5, DOWN),               Kill,            HELD),
        (writable, permit(3, 0, DOWN),               Stop(Fast),      HELD),
        (writable, permit(3, 0, STANDBY),            Stop(Immediate), HELD),
        (writable, permit(4, 0, STANDBY),            Stop(Immediate), HELD),
        (writable, permit(4, 0, primary(5, VALID)),  Stop(Fast),      HELD),
        (writable, permit(4, 0, primary(6, VALID)),  Stop(Immediate), HELD),
        (writable, permit(2, 0, primary(5, ENDED)),  Stay,            HELD),
        (late,     permit(3, 0, primary(5, VALID)),  Stay,            HELD),
        (late,     permit(3, 0, primary(4, VALID)),  Kill,            Some(right(5, ENDED))),
        (late,     permit(2, 0, primary(5, VALID)),  Kill,            Some(right(5, ENDED))),
        (late,     permit(3, 0, DOWN),               Kill,            Some(right(5, ENDED))),
        (late,     permit(3, 0, STANDBY),            Kill,            Some(right(5, ENDED))),
    ];
    for (memory, permit, action, right) in table {
        let (after, got) = decide(memory, &facts(permit, Processes::Postmaster), &SETTINGS);
        assert_eq!((got, after.right), (action, right), "{memory:?}, {permit:?}");
        let other_boot = Permit { boot: BootId(8), ..permit };
        let unseen = Facts { permit: None, ..facts(permit, Processes::Postmaster) };
        assert_eq!(
            decide(memory, &facts(other_boot, Processes::Postmaster), &SETTINGS),
            decide(memory, &unseen, &SETTINGS),
            "a permit of another boot is none"
        );
    }
}

#[test]
fn without_a_permit_a_standby_stays_and_a_primary_has_its_last_deadline() {
    let unseen = Facts { permit: None, ..facts(permit(3, 0, STANDBY), Processes::Postmaster) };
    for (right, action) in [(None, Stay), (HELD, Stay), (Some(right(5, ENDED)), Kill)] {
        let (_, got) = decide(run_3(Phase::Running, right), &unseen, &SETTINGS);
        assert_eq!(got, action, "{right:?}");
    }
    let asleep = Memory::after(0, Epoch::NONE);
    let unseen = Facts { processes: Processes::None, ..unseen };
    assert_eq!(decide(asleep, &unseen, &SETTINGS), (asleep, Stay));
}

#[test]
fn a_stop_only_ever_gets_harder() {
    let stopping = |mode, since| Phase::Stopping { mode, since: BootNanos(since) };
    let fast = stopping(Fast, NOW.0 - 49);
    let fast_due = stopping(Fast, NOW.0 - 50);
    let immediate = stopping(Immediate, NOW.0 - 19);
    let immediate_due = stopping(Immediate, NOW.0 - 20);
    let killing = Phase::Killing { cause: Cause::Overdue };
    for order in [DOWN, STANDBY] {
        for (phase, action) in [
            (fast, Stay),
            (fast_due, Stop(Immediate)),
            (immediate, Stay),
            (immediate_due, Kill),
            (killing, Kill),
        ] {
            let facts = facts(permit(3, 0, order), Processes::Postmaster);
            let (_, got) = decide(run_3(phase, None), &facts, &SETTINGS);
            assert_eq!(got, action, "{phase:?}, {order:?}");
        }
    }
    let harder = facts(permit(3, 0, DOWN_NOW), Processes::Postmaster);
    assert_eq!(decide(run_3(fast, None), &harder, &SETTINGS).1, Stop(Immediate));
    let renewed = facts(permit(3, 0, primary(5, VALID)), Processes::Postmaster);
    let (after, action) = decide(run_3(fast, Some(right(5, ENDED))), &renewed, &SETTINGS);
    assert_eq!((action, after.phase, after.right), (Stay, fast, HELD), "more time, no way back");
}

#[test]
fn what_outlives_its_postmaster_is_killed_before_the_run_is_over() {
    let left = facts(permit(3, 0, STANDBY), Processes::Leftovers);
    let (killing, action) = decide(run_3(Phase::Running, None), &left, &SETTINGS);
    assert_eq!((action, killing.state()), (Kill, RunState::Killing));
    let gone = facts(permit(3, 0, STANDBY), Processes::None);
    let (over, action) = decide(killing, &gone, &SETTINGS);
    assert_eq!((action, over.state(), over.why), (Stay, RunState::Exited, Why::EndedByItself));
}

#[test]
fn a_guard_told_to_end_stops_first_and_leaves_when_nothing_is_left() {
    let quit = |processes| Facts { quit: true, ..facts(permit(4, 0, STANDBY), processes) };
    let running = run_3(Phase::Running, None);
    let (stopping, action) = decide(running, &quit(Processes::Postmaster), &SETTINGS);
    assert_eq!(action, Stop(Fast));
    let (over, action) = decide(stopping, &quit(Processes::None), &SETTINGS);
    assert_eq!((action, over.state()), (Stay, RunState::Exited));
    assert_eq!(decide(over, &quit(Processes::None), &SETTINGS).1, Action::Quit);
}

#[test]
fn the_next_look_is_no_later_than_the_end_of_the_right_or_of_a_stage() {
    let stopping = Phase::Stopping { mode: Fast, since: NOW };
    let end = Some(BootNanos(NOW.0 + 1));
    assert_eq!(run_3(Phase::Running, HELD).next_check(&SETTINGS), end);
    assert_eq!(run_3(stopping, HELD).next_check(&SETTINGS), end);
    assert_eq!(run_3(stopping, None).next_check(&SETTINGS), Some(BootNanos(NOW.0 + 50)));
    assert_eq!(run_3(Phase::Running, None).next_check(&SETTINGS), None);
}

/// Every memory that small numbers can make.
fn memories() -> Vec<Memory> {
    let mut all = Vec::new();
    let phases = [
        Phase::Idle,
        Phase::Running,
        Phase::Stopping { mode: Fast, since: NOW },
        Phase::Stopping { mode: Fast, since: BootNanos(0) },
        Phase::Stopping { mode: Immediate, since: NOW },
        Phase::Stopping { mode: Immediate, since: BootNanos(0) },
        Phase::Killing { cause: Cause::RightEnded },
        Phase::Killing { cause: Cause::Overdue },
        Phase::Over { killed: None },
        Phase::Over { killed: Some(Cause::RightEnded) },
        Phase::Refused,
    ];
    for phase in phases {
        for held in [None, Some(right(1, VALID)), Some(right(2, VALID)), Some(right(2, ENDED))] {
            for burnt in 0..3 {
                for above in 0..2 {
                    let epoch = held.map_or(Epoch::NONE, |right| right.epoch);
                    all.push(Memory {
                        phase,
                        right: held,
                        primary_epoch: epoch,
                        epoch_max: Epoch(epoch.0 + above),
                        burnt: Epoch(burnt),
                        ..Memory::after(1, Epoch::NONE)
                    });
                }
            }
        }
    }
    all
}

/// Everything that small numbers can make be seen.
fn sights() -> Vec<Facts> {
    let mut all = Vec::new();
    let mut orders = vec![DOWN, DOWN_NOW, STANDBY];
    for epoch in 0..4 {
        orders.extend([primary(epoch, VALID), primary(epoch, ENDED), primary(epoch, BootNanos(0))]);
    }
    let mut permits = vec![None];
    for order in orders {
        for run in 0..3 {
            for burnt in 0..3 {
                for boot in [BOOT, BootId(8)] {
                    permits.push(Some(Permit { boot, ..permit(run, burnt, order) }));
                }
            }
        }
    }
    for permit in permits {
        for processes in [Processes::None, Processes::Postmaster, Processes::Leftovers] {
            for (standby_signal, quit) in
                [(false, false), (false, true), (true, false), (true, true)]
            {
                let launchable = standby_signal;
                all.push(Facts { now: NOW, permit, standby_signal, launchable, processes, quit });
            }
        }
    }
    all
}

/// Asserts what must hold for one decision, whatever came before.
fn check(before: Memory, facts: &Facts, after: Memory, action: Action) {
    let there = before.is_busy() && facts.processes != Processes::None;
    let covered = facts.permit.filter(|permit| permit.boot == BOOT);
    let over = |right: Right| right.is_over(NOW, &SETTINGS) || right.epoch <= after.burnt;
    if there && after.right.is_some_and(over) {
        assert!(matches!(after.phase, Phase::Killing { .. }), "runs past the end of its right");
        assert_eq!(action, Kill);
    }
    if let (true, Some(Permit { run: 1, order: Order::Primary { .. }, .. })) = (there, covered) {
        assert!(after.right.is_some(), "a run permitted to be primary counts as writable");
    }
    if before.right.is_some() && after.run == before.run && after.phase != Phase::Refused {
        assert!(after.right.is_some(), "forgot that the run may be writable");
    }
    if action == Start {
        assert!(!before.is_busy(), "starts beside what is there");
        assert!(!facts.quit);
        let permit = covered.expect("starts without a permit of this boot");
        assert!(permit.run > before.run && after.run == permit.run, "starts a run twice");
        match permit.order {
            Order::Down { .. } => panic!("starts what must be down"),
            Order::Standby => assert!(facts.standby_signal && after.right.is_none()),
            Order::Primary { epoch, deadline } => {
                assert_eq!(after.right, Some(Right { epoch, deadline }));
                assert!(before.right.is_some_and(|before| before.epoch == epoch), "no proof");
                assert!(epoch > after.burnt && epoch >= before.epoch_max);
                assert!(deadline.before(SETTINGS.margin) > NOW);
            }
        }
    }
    if action == Action::Quit {
        assert!(facts.quit && !after.is_busy(), "leaves something behind");
    }
    if there {
        assert!(after.is_busy(), "reports what is there as gone");
        assert_eq!(after.run, before.run, "takes up a new run beside the old one");
        let rank = |phase| match phase {
            Phase::Running => 0,
            Phase::Stopping { mode: Fast, .. } => 1,
            Phase::Stopping { mode: Immediate, .. } => 2,
            _ => 3,
        };
        assert!(rank(after.phase) >= rank(before.phase), "a stop got gentler");
    }
    if let (true, Some(Permit { order: Order::Down { .. }, .. })) = (there, covered) {
        assert_ne!(after.phase, Phase::Running, "runs although it must be down");
    }
    assert!(after.run >= before.run && after.burnt >= before.burnt);
    assert!(after.epoch_max >= before.epoch_max);
}

#[test]
fn no_decision_breaks_an_invariant() {
    let sights = sights();
    for before in memories() {
        for facts in &sights {
            let (after, action) = decide(before, facts, &SETTINGS);
            check(before, facts, after, action);
        }
    }
}

#[test]
fn a_run_that_is_over_or_refused_settles() {
    for before in memories() {
        for facts in sights().iter().filter(|facts| facts.processes == Processes::None) {
            let (after, _) = decide(before, facts, &SETTINGS);
            if !after.is_busy() {
                let (settled, action) = decide(after, facts, &SETTINGS);
                let (again, _) = decide(settled, facts, &SETTINGS);
                assert!(again == settled || action == Start, "{before:?}, {facts:?}");
            }
        }
    }
}
