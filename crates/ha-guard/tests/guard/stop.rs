//! Stopping in order.

use ha_core::Epoch;
use ha_core::permit::{ExitHow, Order, RunState, StopMode};
use rustix::process::Signal;

use crate::world::{DOWN, POLITE, STUBBORN, TREE, World, in_ms, primary};

const SAYS_WHICH: &str = "trap 'exit 11' INT; trap 'exit 12' QUIT; while :; do sleep 0.05; done";

#[test]
fn down_is_a_fast_stop_and_down_immediate_an_immediate_one() {
    for (stop, code) in [(StopMode::Fast, 11), (StopMode::Immediate, 12)] {
        let world = World::standby(SAYS_WHICH);
        world.permit(1, 0, Order::Down { stop });
        let status = world.wait_state(RunState::Exited);
        assert_eq!(status.exit, Some(ExitHow::Code(code)), "{stop:?}");
        assert_eq!(status.reason, "stopped as ordered");
        world.assert_nothing_alive();
    }
}

#[test]
fn a_process_that_ignores_every_request_is_killed_with_all_it_started() {
    let mut world = World::new(&format!("trap '' INT QUIT; {TREE}"));
    world.fast_stop_ms = 300;
    world.immediate_stop_ms = 300;
    world.start_guard();
    world.permit(1, 0, Order::Standby);
    world.wait_alive(8);
    world.permit(1, 0, DOWN);
    world.wait_state(RunState::Stopping);
    let status = world.wait_state(RunState::Exited);
    assert_eq!(status.exit, Some(ExitHow::Signal(9)));
    world.assert_nothing_alive();
}

#[test]
fn a_changed_permit_does_not_undo_a_stop() {
    let world = World::standby(STUBBORN);
    world.permit(1, 0, DOWN);
    world.wait_state(RunState::Stopping);
    world.permit(1, 0, Order::Standby);
    assert_eq!(world.settle().state, RunState::Stopping);
    world.permit(1, 0, primary(5, in_ms(60_000)));
    assert_eq!(world.settle().state, RunState::Stopping);
}

#[test]
fn a_run_that_was_primary_is_stopped_at_once_when_it_may_only_be_standby() {
    let world = World::standby(SAYS_WHICH);
    world.permit(1, 0, primary(5, in_ms(60_000)));
    world.wait("a primary", |status| status.primary_epoch == Epoch(5));
    world.permit(1, 0, Order::Standby);
    let status = world.wait_state(RunState::Exited);
    assert_eq!(status.exit, Some(ExitHow::Code(12)));
    assert!(status.reason.contains("no longer primary under epoch 5"), "{}", status.reason);
}

#[test]
fn a_newer_run_replaces_the_older_one() {
    let world = World::standby(POLITE);
    let first = world.status().unwrap().postmaster;
    world.permit(2, 0, Order::Standby);
    let second = world.wait("run 2", |status| status.run == 2 && status.postmaster.is_some());
    assert_ne!(second.postmaster, first);
    world.wait_alive(2);
    assert_eq!(second.state, RunState::Running);
}

#[test]
fn the_guard_stops_postgres_and_ends_when_told_to() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut world = World::standby(SAYS_WHICH);
        world.signal_guard(signal);
        assert_eq!(world.guard_exit(), Some(0));
        let status = world.status().unwrap();
        assert_eq!((status.state, status.exit), (RunState::Exited, Some(ExitHow::Code(11))));
        world.assert_nothing_alive();
    }
}

#[test]
fn a_guard_told_to_end_escalates_too() {
    let mut world = World::new(STUBBORN);
    world.fast_stop_ms = 100;
    world.immediate_stop_ms = 100;
    world.start_guard();
    world.permit(1, 0, Order::Standby);
    world.wait_alive(2);
    world.signal_guard(Signal::TERM);
    assert_eq!(world.guard_exit(), Some(0));
    assert_eq!(world.status().unwrap().exit, Some(ExitHow::Signal(9)));
    world.assert_nothing_alive();
}
