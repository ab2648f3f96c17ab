//! Which permits start something.

use std::fs;

use ha_core::permit::{ExitHow, Order, Permit, RunState};
use ha_core::{BootId, Epoch};

use crate::world::{DOWN, POLITE, World, boot, in_ms, primary, until};

#[test]
fn nothing_starts_without_a_whole_permit_of_this_boot() {
    let mut world = World::new(POLITE);
    world.start_guard();
    let good = Permit { boot: boot(), run: 1, burnt: Epoch::NONE, order: Order::Standby };
    let other_boot = Permit { boot: BootId(1), ..good }.encode();
    let damaged = good.encode().replace("run 1", "run 2");
    let short = good.encode()[..20].to_owned();
    let long = "x".repeat(100_000);
    for text in ["", "\0", "nonsense", &other_boot, &damaged, &short, &long] {
        world.write_permit(text);
        let status = world.settle();
        assert_eq!((status.state, status.run), (RunState::Idle, 0), "{text:?}");
        assert!(status.reason.contains("permit"), "{status:?}");
    }
    fs::write(world.permit_dir().join("permit"), [0xff, 0xfe]).unwrap();
    assert_eq!(world.settle().state, RunState::Idle);
    fs::remove_file(world.permit_dir().join("permit")).unwrap();
    fs::create_dir(world.permit_dir().join("permit")).unwrap();
    assert_eq!(world.settle().state, RunState::Idle);
    fs::remove_dir(world.permit_dir().join("permit")).unwrap();
    let elsewhere = world.path().join("elsewhere");
    fs::write(&elsewhere, good.encode()).unwrap();
    std::os::unix::fs::symlink(&elsewhere, world.permit_dir().join("permit")).unwrap();
    assert_eq!(world.settle().state, RunState::Idle);
    world.permit(1, 0, DOWN);
    assert_eq!(world.settle().state, RunState::Idle);
    world.assert_nothing_alive();
    world.write_permit(&good.encode());
    assert_eq!(world.wait_state(RunState::Running).reason, "");
}

#[test]
fn a_pipe_in_place_of_the_permit_does_not_hold_up_the_guard() {
    let mut world = World::new(POLITE);
    world.start_guard();
    let pipe = world.permit_dir().join("permit");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    assert_eq!(world.settle().state, RunState::Idle);
}

#[test]
fn a_standby_needs_its_signal_file() {
    let mut world = World::new(POLITE);
    let signal = world.pgdata().join("standby.signal");
    fs::remove_file(&signal).unwrap();
    world.start_guard();
    world.permit(1, 0, Order::Standby);
    let status = world.wait_state(RunState::Refused);
    assert_eq!((status.run, status.postmaster), (1, None));
    assert!(status.reason.contains("standby.signal"), "{}", status.reason);
    fs::write(&signal, "").unwrap();
    assert_eq!(world.settle().state, RunState::Refused, "the run is used up");
    world.permit(2, 0, Order::Standby);
    world.wait_state(RunState::Running);
}

#[test]
fn a_primary_is_not_started_without_proof() {
    let mut world = World::new(POLITE);
    world.start_guard();
    world.permit(1, 0, primary(5, in_ms(60_000)));
    let status = world.wait_state(RunState::Refused);
    assert!(status.reason.contains("was not primary under epoch 5"), "{}", status.reason);
    world.permit(2, 0, Order::Standby);
    world.wait_state(RunState::Running);
    world.permit(2, 0, DOWN);
    world.wait_state(RunState::Exited);
    world.permit(3, 0, primary(5, in_ms(60_000)));
    world.wait("a refusal", |status| status.run == 3 && status.state == RunState::Refused);
    world.assert_nothing_alive();
}

#[test]
fn a_crash_is_reported_and_not_followed_by_a_restart() {
    let mut world = World::new("sleep 1000 & echo x >> $HA_GUARD_TEST/starts; kill -9 $$");
    world.start_guard();
    world.permit(1, 0, Order::Standby);
    let status = world.wait_state(RunState::Exited);
    assert_eq!((status.exit, status.postmaster), (Some(ExitHow::Signal(9)), None));
    world.assert_nothing_alive();
    world.permit(1, 0, Order::Standby);
    world.permit(0, 0, Order::Standby);
    assert_eq!(world.settle().state, RunState::Exited);
    assert_eq!(fs::read_to_string(world.path().join("starts")).unwrap(), "x\n");
    world.permit(2, 0, Order::Standby);
    until("a second start", || {
        let starts = fs::read_to_string(world.path().join("starts")).unwrap();
        (starts == "x\nx\n").then_some(())
    });
}

#[test]
fn a_crashed_primary_may_be_restarted_in_place_while_its_right_lasts() {
    let world = World::standby(POLITE);
    world.permit(1, 0, primary(5, in_ms(60_000)));
    let crash = |run| {
        let status = world.wait("a primary", |status| {
            status.run == run && status.primary_epoch == Epoch(5) && status.postmaster.is_some()
        });
        ha_guard::tree::send(status.postmaster.unwrap(), rustix::process::Signal::KILL);
        world.wait("its end", |status| status.run == run && status.state == RunState::Exited);
    };
    crash(1);
    world.permit(2, 0, primary(5, in_ms(60_000)));
    crash(2);
    world.permit(3, 5, primary(5, in_ms(60_000)));
    let burnt = world.wait("a refusal", |status| status.run == 3);
    assert_eq!(burnt.state, RunState::Refused);
    assert!(burnt.reason.contains("given up"), "{}", burnt.reason);
    world.permit(4, 0, primary(5, in_ms(60_000)));
    let burnt = world.wait("a refusal", |status| status.run == 4);
    assert_eq!(burnt.state, RunState::Refused, "what was given up stays given up");
    world.assert_nothing_alive();
}

#[test]
fn a_restart_in_place_is_refused_once_the_right_is_over() {
    let world = World::standby(POLITE);
    world.permit(1, 0, primary(5, in_ms(60_000)));
    let status = world.wait("a primary", |status| status.primary_epoch == Epoch(5));
    ha_guard::tree::send(status.postmaster.unwrap(), rustix::process::Signal::KILL);
    world.wait_state(RunState::Exited);
    world.permit(2, 0, primary(5, in_ms(world.margin_ms)));
    let status = world.wait_state(RunState::Refused);
    assert_eq!((status.run, status.reason.as_str()), (2, "the right of epoch 5 ended"));
}

#[test]
fn a_program_that_cannot_be_started_is_reported() {
    let mut world = World::new(POLITE);
    world.command = vec!["/nonexistent/postgres".to_owned()];
    world.start_guard();
    world.permit(1, 0, Order::Standby);
    let status = world.wait_state(RunState::Exited);
    assert_eq!(status.exit, Some(ExitHow::Code(127)));
    let log = fs::read_to_string(world.path().join("log")).unwrap();
    assert!(log.starts_with("error: cannot start \"/nonexistent/postgres\""), "{log}");
}
