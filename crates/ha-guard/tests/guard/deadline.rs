//! What happens at the deadline.

use std::os::unix::process::CommandExt as _;
use std::process::Stdio;

use ha_core::permit::{ExitHow, Order, RunState};
use ha_core::{BootNanos, Epoch};
use ha_guard::tree;
use rustix::process::Signal;

use crate::world::{DOWN, POLITE, STUBBORN, TREE, World, in_ms, now, primary, until};

/// Waits for the killing, checks that it was not before the time and that nothing is left.
fn assert_killed(world: &World, deadline: BootNanos) {
    let status = world.wait_state(RunState::KilledAtDeadline);
    world.assert_nothing_alive();
    world.assert_no_children();
    let earliest = deadline.before(std::time::Duration::from_millis(world.margin_ms));
    assert!(status.heartbeat >= earliest, "killed too early");
    assert!(status.heartbeat < deadline, "killed too late: {:?}", status.heartbeat.since(deadline));
    assert_eq!((status.exit, status.postmaster), (Some(ExitHow::Signal(9)), None));
    assert_eq!(status.primary_epoch, Epoch(5));
    assert_eq!(status.reason, "the right of epoch 5 ended");
}

#[test]
fn the_whole_tree_is_gone_by_the_deadline_however_it_forks() {
    let mut world = World::new(TREE);
    world.margin_ms = 2000;
    world.start_guard();
    world.permit(1, 0, Order::Standby);
    world.wait_alive(12);
    let deadline = in_ms(3000);
    world.permit(1, 0, primary(5, deadline));
    assert_killed(&world, deadline);
}

#[test]
fn each_renewal_moves_the_deadline_also_backwards() {
    let mut world = World::new(STUBBORN);
    world.margin_ms = 1000;
    world.start_guard();
    world.permit(1, 0, Order::Standby);
    world.wait_state(RunState::Running);
    let first = in_ms(1600);
    world.permit(1, 0, primary(5, first));
    world.wait("a primary", |status| status.primary_epoch == Epoch(5));
    world.permit(1, 0, primary(5, in_ms(60_000)));
    until("the end of the first right", || (now() > first).then_some(()));
    assert_eq!(world.settle().state, RunState::Running);
    let last = in_ms(1500);
    world.permit(1, 0, primary(5, last));
    assert_killed(&world, last);
}

#[test]
fn an_agent_that_is_frozen_or_dead_changes_nothing() {
    for signal in [Signal::STOP, Signal::KILL, Signal::HUP] {
        let mut world = World::new(STUBBORN);
        world.margin_ms = 1500;
        world.permit(1, 0, Order::Standby);
        let guard = world.guard_command();
        let mut agent = std::process::Command::new("/bin/sh");
        agent
            .arg("-c")
            .arg("\"$@\" & while :; do wait; done")
            .arg("agent")
            .arg(guard.get_program());
        agent.args(guard.get_args()).stdin(Stdio::null()).process_group(0);
        agent.envs(guard.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut agent = agent.spawn().unwrap();
        let running = world.wait_state(RunState::Running);
        let deadline = in_ms(2000);
        world.permit(1, 0, primary(5, deadline));
        let group = rustix::process::Pid::from_raw(i32::try_from(agent.id()).unwrap()).unwrap();
        rustix::process::kill_process_group(group, signal).unwrap();
        let status = world.wait_state(RunState::KilledAtDeadline);
        assert!(status.heartbeat < deadline, "{signal:?}");
        assert_eq!(status.guard_pid, running.guard_pid);
        let postmaster = running.postmaster.unwrap();
        assert!(!world.alive().contains(&postmaster));
        agent.kill().unwrap();
        agent.wait().unwrap();
    }
}

#[test]
fn a_primary_whose_permit_is_damaged_or_gone_has_its_last_deadline() {
    for text in [None, Some("nonsense")] {
        let mut world = World::new(STUBBORN);
        world.margin_ms = 1000;
        world.start_guard();
        world.permit(1, 0, Order::Standby);
        world.wait_state(RunState::Running);
        let deadline = in_ms(1800);
        world.permit(1, 0, primary(5, deadline));
        world.wait("a primary", |status| status.primary_epoch == Epoch(5));
        match text {
            Some(text) => world.write_permit(text),
            None => std::fs::remove_file(world.permit_dir().join("permit")).unwrap(),
        }
        let status = world.wait("a complaint", |status| status.reason.contains("permit"));
        assert_eq!(status.state, RunState::Running);
        let status = world.wait_state(RunState::KilledAtDeadline);
        assert!(status.heartbeat < deadline && status.reason.starts_with("the right of epoch 5"));
        world.assert_nothing_alive();
    }
}

#[test]
fn a_standby_outlives_the_loss_of_its_permit() {
    let world = World::standby(POLITE);
    std::fs::remove_file(world.permit_dir().join("permit")).unwrap();
    assert_eq!(world.settle().state, RunState::Running);
    world.write_permit("nonsense");
    assert_eq!(world.settle().state, RunState::Running);
}

#[test]
fn a_stop_of_a_primary_does_not_outlast_its_right() {
    let mut world = World::new(STUBBORN);
    world.margin_ms = 1000;
    world.start_guard();
    world.permit(1, 0, Order::Standby);
    world.wait_state(RunState::Running);
    let deadline = in_ms(1800);
    world.permit(1, 0, primary(5, deadline));
    world.wait("a primary", |status| status.primary_epoch == Epoch(5));
    world.wait_alive(2);
    world.permit(1, 0, DOWN);
    world.wait_state(RunState::Stopping);
    assert_killed(&world, deadline);
}

#[test]
fn an_epoch_given_up_ends_the_run_at_once() {
    let world = World::standby(STUBBORN);
    world.permit(1, 0, primary(5, in_ms(60_000)));
    world.wait("a primary", |status| status.primary_epoch == Epoch(5));
    world.permit(1, 5, primary(6, in_ms(60_000)));
    let status = world.wait_state(RunState::KilledAtDeadline);
    assert_eq!(status.reason, "epoch 5 was given up by this node");
    world.assert_nothing_alive();
}

#[test]
fn a_promotion_under_an_epoch_given_up_is_taken_for_one_that_may_have_happened() {
    let world = World::standby(STUBBORN);
    world.permit(1, 5, primary(5, in_ms(60_000)));
    let status = world.wait_state(RunState::KilledAtDeadline);
    assert_eq!(status.primary_epoch, Epoch(5));
}

#[test]
fn the_guard_goes_on_when_it_cannot_write_its_status() {
    let mut world = World::new(STUBBORN);
    world.margin_ms = 1000;
    world.start_guard();
    world.permit(1, 0, Order::Standby);
    let postmaster = world.wait_state(RunState::Running).postmaster.unwrap();
    let deadline = in_ms(2000);
    world.permit(1, 0, primary(5, deadline));
    world.wait("a primary", |status| status.primary_epoch == Epoch(5));
    std::fs::remove_dir_all(world.permit_dir()).unwrap();
    until("the killing", || (!world.alive().contains(&postmaster)).then_some(()));
    assert!(now() < deadline);
}

#[test]
fn children_that_left_the_process_group_are_collected_before_the_run_is_over() {
    let mut world = World::new("for i in 1 2 3 4 5; do setsid sleep 1000 & done; sleep 1000");
    world.margin_ms = 2000;
    world.start_guard();
    world.permit(1, 0, Order::Standby);
    world.wait_alive(7);
    let deadline = in_ms(2500);
    world.permit(1, 0, primary(5, deadline));
    assert_killed(&world, deadline);
    world.permit(2, 0, Order::Standby);
    let status = world.wait("run 2", |status| status.run == 2 && status.postmaster.is_some());
    world.wait_alive(7);
    tree::send(status.postmaster.unwrap(), Signal::KILL);
    world.wait_state(RunState::Exited);
    world.assert_no_children();
}
