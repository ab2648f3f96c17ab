//! The guard's own life: one per directory, unimpressed by signals, mourned by its postmaster.

use std::process::Command;

use ha_core::permit::{Order, RunState};
use rustix::process::Signal;

use crate::world::{POLITE, STUBBORN, World, guard_program, in_ms, primary, until};

fn guard_says(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(guard_program()).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn wrong_usage_is_one_clear_line_and_exit_code_2() {
    for arguments in [&[][..], &["fly"], &["run"], &["run", "--margin-ms", "x", "--", "y"]] {
        let (code, stdout, stderr) = guard_says(arguments);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{stderr:?}");
    }
    let (code, stdout, _) = guard_says(&["--version"]);
    assert_eq!((code, stdout), (Some(0), format!("ha-guard {}\n", env!("CARGO_PKG_VERSION"))));
    let (code, stdout, _) = guard_says(&["--help"]);
    assert!(code == Some(0) && stdout.contains("--permit-dir"));
}

#[test]
fn a_directory_that_is_not_there_is_named() {
    let world = World::new(POLITE);
    std::fs::remove_dir_all(world.permit_dir()).unwrap();
    let output = world.guard_command().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("error: could not lock permit directory"), "{stderr}");
}

#[test]
fn a_second_guard_on_the_same_directory_is_refused() {
    let mut world = World::standby(POLITE);
    let output = world.guard_command().output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("is guarded by another guard"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1);
    assert_eq!(world.settle().state, RunState::Running);
    world.kill_guard();
    world.start_guard();
}

#[test]
fn a_guard_that_is_killed_takes_its_postmaster_with_it() {
    let mut world = World::standby(STUBBORN);
    let postmaster = world.status().unwrap().postmaster.unwrap();
    world.kill_guard();
    until("the postmaster's end", || (!world.alive().contains(&postmaster)).then_some(()));
}

#[test]
fn a_new_guard_does_not_start_a_used_run_again() {
    let mut world = World::standby(STUBBORN);
    world.kill_guard();
    world.start_guard();
    let status = world.settle();
    assert_eq!((status.state, status.run, status.postmaster), (RunState::Idle, 1, None));
    world.permit(2, 0, Order::Standby);
    world.wait_state(RunState::Running);
}

#[test]
fn signals_that_are_not_for_the_guard_do_not_end_it() {
    let world = World::standby(POLITE);
    for signal in [
        Signal::HUP,
        Signal::PIPE,
        Signal::QUIT,
        Signal::ALARM,
        Signal::USR1,
        Signal::USR2,
        Signal::CHILD,
    ] {
        world.signal_guard(signal);
    }
    let status = world.settle();
    assert_eq!((status.state, status.guard_pid), (RunState::Running, world.guard_pid()));
}

#[test]
fn the_heart_beats_four_times_a_second_and_no_oftener_than_needed() {
    let world = World::standby(POLITE);
    let mut heartbeats = vec![world.settle().heartbeat];
    until("twelve heartbeats", || {
        let heartbeat = world.status()?.heartbeat;
        if heartbeats.last() != Some(&heartbeat) {
            heartbeats.push(heartbeat);
        }
        (heartbeats.len() > 12).then_some(())
    });
    let mut pauses: Vec<_> = heartbeats.windows(2).map(|two| two[1].since(two[0])).collect();
    pauses.sort();
    let median = pauses[pauses.len() / 2];
    assert!(median.as_millis() >= 190 && median.as_millis() <= 250, "{pauses:?}");
}

#[test]
fn postgres_inherits_neither_priority_nor_locked_memory() {
    let world = World::standby(POLITE);
    let status = world.status().unwrap();
    let read =
        |pid: i32, file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let policy = |pid: i32| {
        let stat = read(pid, "stat");
        let (_, rest) = stat.rsplit_once(") ").unwrap();
        rest.split(' ').nth(38).unwrap().to_owned()
    };
    let locked = |pid: i32| {
        let status = read(pid, "status");
        let line = status.lines().find(|line| line.starts_with("VmLck:")).unwrap();
        !line.contains(" 0 kB")
    };
    let postmaster = status.postmaster.unwrap();
    until("the postmaster in place of its second stage", || {
        (read(postmaster, "comm") == "sh\n").then_some(())
    });
    assert_eq!(policy(postmaster), "0", "SCHED_OTHER");
    assert!(!locked(postmaster));
    assert_eq!(status.realtime, policy(world.guard_pid()) == "1" && locked(world.guard_pid()));
    assert_eq!(status.realtime, rustix::process::geteuid().is_root());
}

#[test]
fn a_log_that_has_grown_long_is_set_aside_before_a_start() {
    let mut world = World::new("echo started; sleep 1000");
    let log = world.path().join("log");
    std::fs::File::create(&log).unwrap().set_len(16 * 1024 * 1024 + 1).unwrap();
    world.start_guard();
    world.permit(1, 0, Order::Standby);
    until("the new log", || (std::fs::read(&log).ok()? == b"started\n").then_some(()));
    assert!(world.path().join("log.1").exists());
}

#[test]
fn as_process_1_of_a_container_the_guard_kills_everything_in_it() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut world = World::new("sleep 1000 & while :; do sleep 1; done");
    world.margin_ms = 1000;
    world.permit(1, 0, Order::Standby);
    let guard = world.guard_command();
    let inner = "mount -t proc proc /proc; exec \"$@\"";
    let mut container = Command::new("unshare");
    container.args(["--pid", "--mount", "--fork", "--kill-child", "--", "sh", "-c", inner, "sh"]);
    container.arg(guard.get_program()).args(guard.get_args());
    container.envs(guard.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut container = container.stdin(std::process::Stdio::null()).spawn().unwrap();
    let running = world.wait_state(RunState::Running);
    assert_eq!(running.guard_pid, 1);
    let outside = until("process 1 of the container", || {
        let children = format!("/proc/{0}/task/{0}/children", container.id());
        std::fs::read_to_string(children).ok()?.split_whitespace().next()?.parse::<i32>().ok()
    });
    // Inside, but no child of the guard, as `docker exec` makes them.
    let mut visitor = Command::new("nsenter");
    visitor.args(["-t", &outside.to_string(), "-p", "-m", "sleep", "1000"]);
    let mut visitor = visitor.spawn().unwrap();
    until("the visitor inside", || {
        let children = format!("/proc/{0}/task/{0}/children", visitor.id());
        (!std::fs::read_to_string(children).ok()?.is_empty()).then_some(())
    });
    world.permit(1, 0, primary(5, in_ms(1500)));
    world.wait_state(RunState::KilledAtDeadline);
    assert!(!visitor.wait().unwrap().success(), "the visitor lives on");
    container.kill().unwrap();
    container.wait().unwrap();
}
