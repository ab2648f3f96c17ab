//! What the product costs: pgbench on a haclt cluster in quorum mode, and on the same two servers and
//! receiver set up by hand, in turns.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::bench::floor::tool;
use crate::bench::rig::{Folder, Rig};
use crate::bench::stats::spread;
use crate::bench::stop;
use crate::bench::subject::{Subject as _, sql};
use crate::bench::world::{self, Place};
use crate::bench::writer::Target;
use crate::cluster::{SUPERUSER, prepare};
use crate::failure::{Doing as _, Failure, Outcome};
use crate::{exec, note};

const LIMIT: Duration = Duration::from_mins(2);
const PASSWORD: &str = "plain";
/// Scale of pgbench's tables, and how many clients there are.
const SCALE: &str = "10";
const CLIENTS: &str = "8";
/// How long each measurement takes, seconds.
const SECONDS: u64 = 15;
/// The plain servers' hosts, and the receiver's.
const PRIMARY: usize = 0;
const STANDBY: usize = 1;
const RECEIVER: usize = 2;
/// What haclt may cost (issue 3, "Bars").
const RATIO_MIN: f64 = 0.97;

/// Settings that are made the same: whatever the haclt primary has.
const SETTINGS: &str = "'shared_buffers','max_connections','wal_level','wal_log_hints',\
    'full_page_writes','max_wal_size','min_wal_size','checkpoint_timeout','wal_keep_size',\
    'max_slot_wal_keep_size','max_wal_senders','max_replication_slots','wal_sender_timeout',\
    'wal_receiver_timeout','wal_receiver_status_interval','hot_standby_feedback','wal_compression',\
    'synchronous_commit','fsync','dynamic_shared_memory_type','log_line_prefix','password_encryption'";

/// Transactions per second of one round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Round {
    pub(crate) haclt: f64,
    pub(crate) plain: f64,
}

impl Round {
    /// Returns the raw numbers.
    pub(crate) fn json(&self) -> Value {
        json!({ "haclt_tps": self.haclt, "plain_tps": self.plain })
    }
}

/// Returns the table.
pub(crate) fn table(rounds: &[Round]) -> String {
    let mut out = format!(
        "\npgbench, scale {SCALE}, {CLIENTS} clients, {SECONDS} s a time, in turns: a haclt cluster in \
         quorum mode, and plain PostgreSQL with `synchronous_standby_names = 'ANY 1 (n2, n3)'` (the \
         same servers and `pg_receivewal`, by hand, with the same settings).\n\n\
         | | rounds | transactions a second min / median / max |\n|---|---|---|\n"
    );
    let haclt = spread(rounds.iter().map(|round| round.haclt));
    let plain = spread(rounds.iter().map(|round| round.plain));
    for (name, found) in [("haclt", haclt), ("plain", plain)] {
        let shown = found.map_or_else(String::new, |spread| spread.shown());
        let _ = writeln!(out, "| {name} | {} | {shown} |", rounds.len());
    }
    if let (Some(haclt), Some(plain)) = (haclt, plain) {
        let ratio = haclt.median / plain.median;
        let met = if ratio >= RATIO_MIN { "✓" } else { "✗" };
        let _ = writeln!(out, "\nRatio of the medians: {ratio:.3}, at least {RATIO_MIN} {met}.");
    }
    out
}

/// Measures; the cluster runs at the beginning and at the end.
pub(crate) fn measure(rig: &mut Rig, rounds: u32, mut found: impl FnMut(Round)) -> Outcome<()> {
    let primary = rig.primary(&rig.wait_acknowledging()?)?;
    let settings = rig.sql(
        primary,
        &format!(
            "select name || ' = ' || quote_literal(current_setting(name)) from pg_settings \
             where name in ({SETTINGS})"
        ),
    )?;
    let haclt = rig.targets()?[primary].clone();
    initialise(rig, &haclt)?;
    let plain = Plain::create(rig, &settings)?;
    for round in 0..rounds {
        let primary = rig.primary(&rig.wait_acknowledging()?)?;
        let target = rig.targets()?[primary].clone();
        let of_haclt = pgbench(rig, &target)?;
        rig.stop();
        let of_plain = plain.measure(rig)?;
        for node in 0..rig.cluster.nodes.len() {
            rig.start_agent(node);
        }
        let measured = Round { haclt: of_haclt, plain: of_plain };
        note!(
            "throughput {}/{rounds}: haclt {of_haclt:.0}, plain {of_plain:.0} transactions a second",
            round + 1
        );
        found(measured);
    }
    rig.wait_acknowledging().map(|_| ())
}

/// Two plain servers and a receiver on the hosts of the cluster, which does not run meanwhile.
struct Plain {
    folder: Folder,
}

impl Plain {
    /// Makes both servers; they do not run yet.
    fn create(rig: &mut Rig, settings: &[String]) -> Outcome<Self> {
        rig.stop();
        let folder = Folder::create(rig.folder().parent().unwrap_or(rig.folder()), "haclt-plain")?;
        rig.account.own(folder.path())?;
        let plain = Self { folder };
        let made = plain.make(rig, settings);
        // Also after a failure nothing may be left for the cluster to meet.
        plain.stop(rig)?;
        for node in 0..rig.cluster.nodes.len() {
            rig.start_agent(node);
        }
        made.map(|()| plain)
    }

    fn make(&self, rig: &Rig, settings: &[String]) -> Outcome<()> {
        let password_file = self.folder.path().join("password");
        prepare::write(&password_file, PASSWORD, 0o600)?;
        rig.account.own(&password_file)?;
        let mut initdb = Self::tool(rig, PRIMARY, "initdb");
        initdb.arg("-D").arg(self.pgdata(PRIMARY)).args(["-U", SUPERUSER, "-A", "scram-sha-256"]);
        initdb.args(["--no-sync", "--data-checksums"]).arg("--pwfile").arg(&password_file);
        exec::output(&mut initdb, LIMIT)?;
        let hba = self.pgdata(PRIMARY).join("pg_hba.conf");
        prepare::write(&hba, "host all,replication all 10.77.0.0/24 scram-sha-256\n", 0o600)?;
        rig.account.own(&hba)?;
        let file = self.pgdata(PRIMARY).join("postgresql.conf");
        let doing = || format!("could not write {}", file.display());
        let mut conf = OpenOptions::new().append(true).open(&file).doing(doing)?;
        writeln!(conf, "{}", settings.join("\n")).doing(doing)?;
        self.start(rig, PRIMARY, "")?;
        let mut clone = Self::tool(rig, STANDBY, "pg_basebackup");
        clone
            .args(["-R", "-c", "fast", "-X", "stream", "--no-sync", "-d"])
            .arg(Self::conninfo("n2"))
            .arg("-D")
            .arg(self.pgdata(STANDBY))
            .env("PGPASSWORD", PASSWORD);
        exec::output(&mut clone, LIMIT)?;
        initialise(rig, &Self::target())
    }

    /// Starts everything, measures, stops everything.
    fn measure(&self, rig: &Rig) -> Outcome<f64> {
        let found = self.run(rig);
        self.stop(rig)?;
        found
    }

    fn run(&self, rig: &Rig) -> Outcome<f64> {
        self.start(rig, PRIMARY, "-c synchronous_standby_names='ANY 1 (n2, n3)'")?;
        self.start(rig, STANDBY, "")?;
        let wal = self.folder.path().join("wal");
        fs::create_dir_all(&wal).doing(|| format!("could not create {}", wal.display()))?;
        rig.account.own(&wal)?;
        let mut receiver = Running(self.receive(rig, &wal)?);
        stop::until("both acknowledge", LIMIT, || {
            if let Ok(Some(status)) = receiver.0.try_wait() {
                return Err(Failure::new(format!("pg_receivewal ended with {status}")));
            }
            let query = "select count(*) from pg_stat_replication where sync_state = 'quorum' \
                         and state = 'streaming'";
            Ok(sql(&rig.world.network(Place::Hub), &Self::target(), query)? == ["2"])
        })?;
        pgbench(rig, &Self::target())
    }

    fn receive(&self, rig: &Rig, wal: &std::path::Path) -> Outcome<Child> {
        let doing = || "could not start pg_receivewal".to_owned();
        let log = self.folder.path().join("receiver.log");
        let log = OpenOptions::new().create(true).append(true).open(log).doing(doing)?;
        let mut receiver = Self::tool(rig, RECEIVER, "pg_receivewal");
        receiver.args(["--synchronous", "--no-loop", "--no-password", "--status-interval=1", "-d"]);
        receiver.arg(Self::conninfo("n3")).arg("-D").arg(wal).env("PGPASSWORD", PASSWORD);
        receiver.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().doing(doing)
    }

    /// Stops whatever runs on the hosts.
    fn stop(&self, rig: &Rig) -> Outcome<()> {
        for host in [STANDBY, PRIMARY] {
            if self.pgdata(host).join("postmaster.pid").exists() {
                let mut stop = Self::tool(rig, host, "pg_ctl");
                stop.args(["stop", "--wait", "--silent", "-m", "fast", "-D"]);
                exec::output(stop.arg(self.pgdata(host)), LIMIT)?;
            }
        }
        rig.world.kill_all(Place::Host(RECEIVER))
    }

    fn start(&self, rig: &Rig, host: usize, more: &str) -> Outcome<()> {
        let options = format!(
            "-c listen_addresses={} -c port=5432 -c unix_socket_directories='' {more}",
            world::address(u16::try_from(host).unwrap_or(0))
        );
        let mut start = Self::tool(rig, host, "pg_ctl");
        start.args(["start", "--wait", "--silent", "-o", &options, "-D"]).arg(self.pgdata(host));
        // The server must not hold our pipe open: it keeps running when pg_ctl is done.
        start.arg("-l").arg(self.folder.path().join(format!("server{host}.log")));
        exec::output(&mut start, LIMIT).map(|_| ())
    }

    fn pgdata(&self, host: usize) -> PathBuf {
        self.folder.path().join(format!("data{host}"))
    }

    fn tool(rig: &Rig, host: usize, name: &str) -> Command {
        tool(&rig.world, &rig.account, &rig.postgres, host, name)
    }

    fn target() -> Target {
        let ip = world::address(u16::try_from(PRIMARY).unwrap_or(0));
        Target { node: PRIMARY, address: (ip, 5432).into(), password: PASSWORD.to_owned() }
    }

    fn conninfo(name: &str) -> String {
        let at = Self::target().address;
        format!("host={} port={} user={SUPERUSER} application_name={name}", at.ip(), at.port())
    }
}

/// A child that is ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn client(rig: &Rig, target: &Target) -> Command {
    let mut pgbench = rig.world.command(Place::Hub, &rig.postgres.program("pgbench"));
    pgbench
        .args(["-h", &target.address.ip().to_string()])
        .args(["-p", &target.address.port().to_string(), "-U", SUPERUSER])
        .env("PGPASSWORD", &target.password)
        .env("PGCONNECT_TIMEOUT", "5");
    pgbench
}

fn initialise(rig: &Rig, target: &Target) -> Outcome<()> {
    let mut pgbench = client(rig, target);
    exec::output(pgbench.args(["-i", "-q", "-s", SCALE, "postgres"]), LIMIT).map(|_| ())
}

fn pgbench(rig: &Rig, target: &Target) -> Outcome<f64> {
    // Both begin with an empty stretch to the next checkpoint.
    sql(&rig.world.network(Place::Hub), target, "checkpoint")?;
    let mut pgbench = client(rig, target);
    pgbench.args(["-n", "-c", CLIENTS, "-j", "2", "-T", &SECONDS.to_string(), "postgres"]);
    let said = exec::output(&mut pgbench, LIMIT)?;
    transactions(&said).doing(|| format!("pgbench named no rate: {said}"))
}

fn transactions(said: &str) -> Option<f64> {
    let line = said.lines().find_map(|line| line.strip_prefix("tps = "))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_read_from_what_pgbench_says() {
        let said = "latency average = 4.1 ms\ntps = 946.512345 (without initial connection time)\n";
        assert_eq!(transactions(said), Some(946.512_345));
        assert_eq!(transactions("pgbench: error"), None);
    }

    #[test]
    fn the_ratio_is_that_of_the_medians() {
        let rounds = [(97.0, 100.0), (1.0, 100.0), (99.0, 100.0)];
        let rounds = rounds.map(|(haclt, plain)| Round { haclt, plain });
        assert!(table(&rounds).ends_with("0.970, at least 0.97 ✓.\n"), "{}", table(&rounds));
    }
}
