//! `PostgreSQL` itself, with sessions that were open before the deadline.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use ha_core::permit::{ExitHow, Order, RunState};
use ha_core::{BootNanos, Epoch};

use crate::world::{DOWN, PATIENCE, World, in_ms, now, primary, until};

/// Returns the newest installed `PostgreSQL`'s programs.
fn bin_dir() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions
        .map(|version| version.path().join("bin"))
        .filter(|bin| bin.join("postgres").exists())
        .collect();
    found.sort();
    found.pop().expect("these tests need PostgreSQL's server programs in /usr/lib/postgresql")
}

/// Returns whom to run `PostgreSQL` as; it refuses to run as root.
fn identity() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let fields: Vec<&str> = line.expect("a user named postgres").split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

struct Postgres {
    world: World,
    port: u16,
}

impl Postgres {
    /// Makes a data directory and runs it as run 1, a standby of nobody.
    fn standby(margin_ms: u64) -> Self {
        let mut world = World::new("");
        world.margin_ms = margin_ms;
        world.identity = identity();
        fs::remove_dir_all(world.pgdata()).unwrap();
        if let Some((uid, gid)) = world.identity {
            std::os::unix::fs::chown(world.path(), Some(uid), Some(gid)).unwrap();
        }
        let mut initdb = Command::new(bin_dir().join("initdb"));
        initdb.args(["-A", "trust", "-U", "postgres", "-N", "-E", "UTF8", "-D"]);
        initdb.arg(world.pgdata()).current_dir("/").stdout(Stdio::null());
        if let Some((uid, gid)) = world.identity {
            initdb.uid(uid).gid(gid);
        }
        assert!(initdb.status().unwrap().success());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        world.command = vec![
            bin_dir().join("postgres").display().to_string(),
            "-D".to_owned(),
            world.pgdata().display().to_string(),
        ];
        for setting in [
            format!("port={port}"),
            format!("unix_socket_directories={}", world.path().display()),
            "listen_addresses=127.0.0.1".to_owned(),
            "shared_buffers=16MB".to_owned(),
            "max_connections=250".to_owned(),
            "archive_mode=on".to_owned(),
            "archive_command=sleep 1000".to_owned(),
        ] {
            world.command.extend(["-c".to_owned(), setting]);
        }
        let postgres = Self { world, port };
        postgres.sign_as_standby();
        let mut postgres = postgres;
        postgres.world.start_guard();
        postgres.world.permit(1, 0, Order::Standby);
        postgres.wait_for_answers();
        postgres
    }

    fn sign_as_standby(&self) {
        let signal = self.world.pgdata().join("standby.signal");
        fs::write(&signal, "").unwrap();
        if let Some((uid, gid)) = self.world.identity {
            std::os::unix::fs::chown(&signal, Some(uid), Some(gid)).unwrap();
        }
    }

    fn psql(&self) -> Command {
        let mut psql = Command::new(bin_dir().join("psql"));
        let address = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port);
        psql.args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &address]);
        psql.stdin(Stdio::null()).stderr(Stdio::null());
        psql
    }

    fn ask(&self, sql: &str) -> Option<String> {
        let output = self.psql().args(["-c", sql]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        output.status.success().then(|| text.trim().to_owned())
    }

    fn wait_for_answers(&self) {
        until("answers", || (self.ask("SELECT 1").as_deref() == Some("1")).then_some(()));
    }

    fn promote(&self, deadline: BootNanos) {
        self.world.permit(1, 0, primary(5, deadline));
        self.world.wait("a primary", |status| status.primary_epoch == Epoch(5));
        assert_eq!(self.ask("SELECT pg_promote()").as_deref(), Some("t"));
    }

    fn session(&self) -> Session {
        let mut child = self.psql().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if send.send((now(), line)).is_err() {
                    return;
                }
            }
        });
        Session { child, input, lines }
    }
}

/// A client that stays connected, and when it was told what.
struct Session {
    child: Child,
    input: ChildStdin,
    lines: Receiver<(BootNanos, String)>,
}

impl Session {
    fn say(&mut self, sql: &str) -> std::io::Result<()> {
        self.input.write_all(sql.as_bytes())?;
        self.input.flush()
    }

    fn expect(&self, expected: &str) {
        until(expected, || {
            let (_, line) = self.lines.recv_timeout(PATIENCE).expect("a line from the server");
            (line == expected).then_some(())
        });
    }

    /// Ends the session and returns all lines it still got, with their times.
    fn end(self) -> Vec<(BootNanos, String)> {
        let Self { mut child, input, lines } = self;
        drop(input);
        let rest = lines.iter().collect();
        child.wait().unwrap();
        rest
    }
}

#[test]
fn sessions_that_were_open_before_the_deadline_cannot_commit_after_it() {
    let postgres = Postgres::standby(700);
    postgres.promote(in_ms(60_000));
    assert!(postgres.ask("CREATE TABLE t (who text, n serial)").is_some());
    let mut idle = postgres.session();
    idle.say("BEGIN;\nINSERT INTO t VALUES ('idle');\n").unwrap();
    idle.expect("INSERT 0 1");
    let busy = postgres.session();
    let mut input = File::from(busy.input.as_fd().try_clone_to_owned().unwrap());
    let writer = std::thread::spawn(move || {
        let inserts = "INSERT INTO t VALUES ('busy');\n".repeat(1000);
        while input.write_all(inserts.as_bytes()).is_ok() {}
    });
    busy.expect("INSERT 0 1");
    let mut computing = postgres.session();
    computing
        .say("DO $$ BEGIN LOOP INSERT INTO t VALUES ('loop'); COMMIT; END LOOP; END $$;\n")
        .unwrap();
    let deadline = in_ms(1500);
    postgres.world.permit(1, 0, primary(5, deadline));
    let status = postgres.world.wait_state(RunState::KilledAtDeadline);
    let killed = status.heartbeat;
    assert!(killed < deadline);
    postgres.world.assert_nothing_alive();
    postgres.world.assert_no_children();
    let _cut_off = idle.say("COMMIT;\n");
    assert_eq!(idle.end(), [], "an open transaction was answered after the deadline");
    computing.end();
    writer.join().unwrap();
    let acknowledged = busy.end();
    let last = acknowledged.last().map_or(BootNanos(0), |(at, _)| *at);
    assert!(last < deadline, "acknowledged after the deadline");
    assert!(acknowledged.iter().all(|(_, line)| line == "INSERT 0 1"));

    postgres.sign_as_standby();
    postgres.world.permit(2, 0, Order::Standby);
    postgres.wait_for_answers();
    assert_eq!(postgres.ask("SELECT count(*) FROM t WHERE who = 'idle'").as_deref(), Some("0"));
    let kept = postgres.ask("SELECT count(*) FROM t WHERE who = 'busy'").unwrap();
    assert!(kept.parse::<usize>().unwrap() > acknowledged.len(), "lost what it had acknowledged");
}

#[test]
fn a_fast_stop_is_a_clean_shutdown_and_a_restart_in_place_serves_again() {
    let postgres = Postgres::standby(500);
    postgres.promote(in_ms(60_000));
    // The archiver would wait for its command, which never ends.
    assert!(postgres.ask("ALTER SYSTEM SET archive_command = 'true'").is_some());
    assert!(postgres.ask("SELECT pg_reload_conf()").is_some());
    postgres.world.permit(1, 0, DOWN);
    let status = postgres.world.wait_state(RunState::Exited);
    assert_eq!(status.exit, Some(ExitHow::Code(0)));
    postgres.world.assert_nothing_alive();
    postgres.world.assert_no_children();
    let control = Command::new(bin_dir().join("pg_controldata"))
        .env("LC_ALL", "C")
        .arg(postgres.world.pgdata())
        .output()
        .unwrap();
    let control = String::from_utf8(control.stdout).unwrap();
    let state = control.lines().find(|line| line.starts_with("Database cluster state:"));
    assert!(state.is_some_and(|line| line.ends_with(" shut down")), "{state:?}");
    postgres.world.permit(2, 0, primary(5, in_ms(60_000)));
    postgres.wait_for_answers();
    assert_eq!(postgres.ask("SELECT pg_is_in_recovery()").as_deref(), Some("f"));
}

#[test]
fn a_backend_that_computes_on_after_its_guard_died_is_killed_by_the_next_guard() {
    let mut postgres = Postgres::standby(500);
    let mut computing = postgres.session();
    computing.say("SELECT 'begun';\nDO $$ BEGIN LOOP END LOOP; END $$;\n").unwrap();
    computing.expect("begun");
    until("the loop", || {
        let active = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DO %' \
                      AND state = 'active' AND pid <> pg_backend_pid()";
        (postgres.ask(active).as_deref() == Some("1")).then_some(())
    });
    let postmaster = postgres.world.status().unwrap().postmaster.unwrap();
    postgres.world.kill_guard();
    until("the postmaster's end", || (!postgres.world.alive().contains(&postmaster)).then_some(()));
    assert!(!postgres.world.alive().is_empty(), "a busy backend does not notice by itself");
    postgres.world.start_guard();
    postgres.world.assert_nothing_alive();
    postgres.world.assert_no_children();
    computing.end();
    postgres.world.permit(2, 0, Order::Standby);
    postgres.wait_for_answers();
}

/// Opens a session without a client program: the start-up packet, then all answers until ready.
fn bare_session(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let body = b"\0\x03\0\0user\0postgres\0database\0postgres\0\0";
    stream.write_all(&u32::try_from(body.len() + 4).unwrap().to_be_bytes()).unwrap();
    stream.write_all(body).unwrap();
    loop {
        let mut head = [0; 5];
        stream.read_exact(&mut head).unwrap();
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let mut rest = vec![0; usize::try_from(length).unwrap() - 4];
        stream.read_exact(&mut rest).unwrap();
        match head[0] {
            b'Z' => return stream,
            b'E' => panic!("refused: {}", String::from_utf8_lossy(&rest)),
            _ => {}
        }
    }
}

/// A process that computes until it is dropped.
struct Busy(Child);

impl Busy {
    fn start() -> Self {
        Self(Command::new("/bin/sh").args(["-c", "while :; do :; done"]).spawn().unwrap())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _ended_already = self.0.wait();
    }
}

/// For `cargo test -p ha-guard --test guard -- --ignored --nocapture`; `HA_GUARD_BUSY=8` keeps that
/// many processes computing beside it.
#[test]
#[ignore = "a measurement, a minute long"]
#[expect(clippy::print_stdout, reason = "its result is for people")]
fn how_long_from_the_killing_to_the_last_process_gone() {
    const RUNS: usize = 20;
    let busy = std::env::var("HA_GUARD_BUSY").map_or(0, |text| text.parse().unwrap());
    let _load: Vec<Busy> = (0..busy).map(|_| Busy::start()).collect();
    let postgres = Postgres::standby(2000);
    let mut run = 1;
    for backends in [1, 20, 200] {
        let mut took = Vec::new();
        for _ in 0..RUNS {
            run += 1;
            postgres.world.permit(run, 0, Order::Standby);
            postgres.world.wait("the run", |status| status.run == run);
            postgres.wait_for_answers();
            let sessions: Vec<_> = (0..backends).map(|_| bare_session(postgres.port)).collect();
            let deadline = in_ms(2400);
            postgres.world.permit(run, 0, primary(run, deadline));
            let status = postgres.world.wait_state(RunState::KilledAtDeadline);
            let begun = deadline.before(std::time::Duration::from_secs(2));
            postgres.world.assert_no_children();
            took.push(status.heartbeat.since(begun));
            drop(sessions);
        }
        took.sort();
        let (min, median, max) = (took[0], took[RUNS / 2], took[RUNS - 1]);
        println!("{backends} backends, {busy} busy: min {min:?} median {median:?} max {max:?}");
    }
}
