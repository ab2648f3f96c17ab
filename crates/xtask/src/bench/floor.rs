//! The floor: two plain PostgreSQL, the primary's postmaster killed, `pg_ctl promote` at once. No
//! program that has to notice first can be faster on this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bench::rig::Folder;
use crate::bench::stats::{self, Client};
use crate::bench::stop;
use crate::bench::subject::sql;
use crate::bench::world::{self, Place, World};
use crate::bench::writer::{Journal, TABLE, Target, Writers};
use crate::cluster::account::{self, Account};
use crate::cluster::process::{self, Process};
use crate::cluster::{SUPERUSER, prepare};
use crate::exec;
use crate::failure::{Doing as _, Outcome};
use crate::note;
use crate::paths::Postgres;

const LIMIT: Duration = Duration::from_mins(1);
const PASSWORD: &str = "floor";

/// What one run showed, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Floor {
    /// The longest time between two acknowledgements to the application.
    pub(crate) gap_ms: f64,
    /// How long `pg_ctl promote --wait` took.
    pub(crate) promote_ms: f64,
}

impl Floor {
    /// Returns the raw numbers.
    pub(crate) fn json(&self) -> Value {
        json!({ "gap_ms": self.gap_ms, "promote_ms": self.promote_ms })
    }
}

/// Two plain servers on the hosts of the two data nodes.
struct Pair<'a> {
    world: &'a World,
    postgres: &'a Postgres,
    account: &'a Account,
    folder: PathBuf,
}

/// Measures it.
pub(crate) fn measure(
    world: &World,
    postgres: &Postgres,
    account: &Account,
    below: &Path,
    runs: u32,
) -> Outcome<Vec<Floor>> {
    let folder = Folder::create(below, "floor")?;
    account.own(folder.path())?;
    let pair = Pair { world, postgres, account, folder: folder.path().to_path_buf() };
    let outcome = pair.measure(runs);
    // Also after a failure nothing may be left for the cluster to meet.
    for host in 0..2 {
        world.wipe(Place::Host(host))?;
    }
    outcome
}

impl Pair<'_> {
    fn measure(&self, runs: u32) -> Outcome<Vec<Floor>> {
        let password_file = self.folder.join("password");
        prepare::write(&password_file, PASSWORD, 0o600)?;
        self.account.own(&password_file)?;
        let mut initdb = self.tool(0, "initdb");
        initdb.arg("-D").arg(self.pgdata(0)).args(["-U", SUPERUSER, "-A", "scram-sha-256"]);
        initdb.args(["--no-sync", "--data-checksums"]).arg("--pwfile").arg(&password_file);
        exec::output(&mut initdb, LIMIT)?;
        let hba = self.pgdata(0).join("pg_hba.conf");
        prepare::write(&hba, "host all,replication all 10.77.0.0/24 scram-sha-256\n", 0o600)?;
        self.account.own(&hba)?;
        self.start(0)?;
        sql(&self.world.network(Place::Hub), &Self::target(0), TABLE)?;
        let mut found = Vec::new();
        for run in 0..runs {
            let primary = usize::from(run % 2 == 1);
            self.clone_from(primary)?;
            let floor = self.once(primary)?;
            note!(
                "floor {}/{runs}: gap {:.0} ms, of which pg_ctl promote {:.0} ms",
                run + 1,
                floor.gap_ms,
                floor.promote_ms
            );
            found.push(floor);
        }
        Ok(found)
    }

    fn once(&self, primary: usize) -> Outcome<Floor> {
        let journal = Journal::new();
        let mut writers = Writers::none();
        let targets = [Self::target(0), Self::target(1)];
        writers.start_app(&journal, self.world.network(Place::Hub), &targets);
        let wrote = |since: Duration, node: usize, wanted: usize| {
            let is_new = |ack: &&stats::Ack| ack.at > since && ack.node == node;
            journal.acks().iter().filter(is_new).count() >= wanted
        };
        stop::until("the client writes", LIMIT, || Ok(wrote(Duration::ZERO, primary, 75)))?;
        let fault_at = journal.now();
        let postmaster = self.postmaster(primary)?;
        let segments = process::segments(&postmaster);
        world::kill(&postmaster);
        let promoting = Instant::now();
        let mut promote = self.tool(1 - primary, "pg_ctl");
        promote.args(["promote", "--wait", "--silent", "-D"]).arg(self.pgdata(1 - primary));
        exec::output(&mut promote, LIMIT)?;
        let promote_ms = promoting.elapsed().as_secs_f64() * 1000.0;
        stop::until("writes went on", LIMIT, || Ok(wrote(fault_at, 1 - primary, 25)))?;
        let ended_at = journal.now();
        process::remove_segments(&segments);
        writers.stop()?;
        let acks = journal.acks();
        debug_assert!(stats::count(&acks, Client::App) > 0);
        let gap = stats::longest_gap(&acks, fault_at, ended_at).unwrap_or_default();
        Ok(Floor { gap_ms: gap.as_secs_f64() * 1000.0, promote_ms })
    }

    /// Makes the other server a streaming standby of this one.
    fn clone_from(&self, primary: usize) -> Outcome<()> {
        let standby = 1 - primary;
        self.world.wipe(Place::Host(standby))?;
        drop(fs::remove_dir_all(self.pgdata(standby)));
        let from = Self::target(primary).address;
        let mut clone = self.tool(standby, "pg_basebackup");
        clone
            .args(["-R", "-c", "fast", "-X", "stream", "--no-sync", "-U", SUPERUSER])
            .args(["-h", &from.ip().to_string(), "-p", &from.port().to_string(), "-D"])
            .arg(self.pgdata(standby))
            .env("PGPASSWORD", PASSWORD);
        exec::output(&mut clone, LIMIT)?;
        self.start(standby)?;
        stop::until("the standby streams", LIMIT, || {
            let query = "select count(*) from pg_stat_replication where state = 'streaming'";
            let lines = sql(&self.world.network(Place::Hub), &Self::target(primary), query)?;
            Ok(lines == ["1"])
        })
    }

    fn start(&self, host: usize) -> Outcome<()> {
        // The one setting that matters here, as haclt sets it: otherwise a promotion that follows a
        // lost connection at once may sleep for its default of 5 s (seen here).
        let options = format!(
            "-c wal_retrieve_retry_interval=200ms -c listen_addresses={} -c port=5432 -c unix_socket_directories=''",
            Self::target(host).address.ip()
        );
        let mut start = self.tool(host, "pg_ctl");
        start.args(["start", "--wait", "--silent", "-o", &options, "-D"]).arg(self.pgdata(host));
        // The server must not hold our pipe open: it keeps running when pg_ctl is done.
        start.arg("-l").arg(self.folder.join(format!("server{host}.log")));
        exec::output(&mut start, LIMIT).map(|_| ())
    }

    fn postmaster(&self, host: usize) -> Outcome<Process> {
        let file = self.pgdata(host).join("postmaster.pid");
        let text = fs::read_to_string(&file).doing(|| format!("could not read {}", file.display()));
        let pid = text?.lines().next().and_then(|line| line.trim().parse().ok());
        pid.and_then(Process::look).doing(|| "there is no postmaster".to_owned())
    }

    fn pgdata(&self, host: usize) -> PathBuf {
        self.folder.join(format!("data{host}"))
    }

    fn target(host: usize) -> Target {
        let ip = world::address(u16::try_from(host).unwrap_or(0));
        Target { node: host, address: (ip, 5432).into(), password: PASSWORD.to_owned() }
    }

    /// Returns one of PostgreSQL's programs, to be run on a host under the server's account.
    fn tool(&self, host: usize, name: &str) -> Command {
        tool(self.world, self.account, self.postgres, host, name)
    }
}

/// Returns one of PostgreSQL's programs, to be run on a host under the server's account.
pub(crate) fn tool(
    world: &World,
    account: &Account,
    postgres: &Postgres,
    host: usize,
    name: &str,
) -> Command {
    let mut command = world.command(Place::Host(host), Path::new("setpriv"));
    command.args(account::switches(account)).arg(postgres.program(name)).current_dir("/");
    command
}
