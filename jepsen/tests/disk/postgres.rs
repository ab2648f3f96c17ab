use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ha_tests::{node, processes, programs};
use jepsen::disk::{Loss, Order};
use rustix::process::Signal;

use crate::support::Mounted;

/// A server on a disk; nobody reaches it but by its socket beside the disk.
struct Server<'a> {
    disk: &'a mut Mounted,
    sockets: tempfile::TempDir,
}

impl<'a> Server<'a> {
    fn new(disk: &'a mut Mounted) -> Self {
        let sockets = tempfile::tempdir().unwrap();
        node::chown(sockets.path());
        // Everybody may look for the way to the disk.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(disk.behind().parent().unwrap(), open).unwrap();
        fs::create_dir(disk.path("data")).unwrap();
        node::chown(&disk.path("data"));
        let server = Self { disk, sockets };
        let data = server.disk.path("data");
        let made = Self::run("initdb", &["-A", "trust", "-U", "postgres", "-D", text(&data)]);
        assert!(made.is_ok(), "{made:?}");
        server
    }

    fn command(program: &str) -> Command {
        let mut command = Command::new(programs::postgres_dir().join(program));
        if let Some((uid, gid)) = node::postgres_user() {
            command.uid(uid).gid(gid);
        }
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
        let output = Self::command(program).args(arguments).output().unwrap();
        let said = programs::said(&output).trim().to_owned();
        if output.status.success() { Ok(said) } else { Err(said) }
    }

    fn sql(&self, statement: &str) -> Result<String, String> {
        let host = text(self.sockets.path());
        Self::run("psql", &["-h", host, "-U", "postgres", "-XAtqc", statement])
    }

    /// Starts the server and waits until it answers.
    fn start(&self, fsync: &str) -> std::process::Child {
        let mut command = Self::command("postgres");
        command.arg("-D").arg(self.disk.path("data")).arg("-k").arg(self.sockets.path());
        // A commit is only in the WAL, and the WAL only on the disk if the server sees to that.
        let settings = [
            "listen_addresses=",
            "shared_buffers=16MB",
            "dynamic_shared_memory_type=mmap",
            "checkpoint_timeout=1h",
        ];
        for setting in settings.into_iter().chain([format!("fsync={fsync}").as_str()]) {
            command.args(["-c", setting]);
        }
        let log = fs::File::create(self.sockets.path().join("log")).unwrap();
        let child = command.stderr(log).stdout(Stdio::null()).spawn().unwrap();
        let began = Instant::now();
        while let Err(error) = self.sql("select 1") {
            let log = fs::read_to_string(self.sockets.path().join("log")).unwrap();
            assert!(began.elapsed() < Duration::from_secs(120), "{error}\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
        child
    }

    /// Cuts the power, and returns what the disk says.
    fn cut(&mut self, mut child: std::process::Child, loss: Loss) -> String {
        for process in processes::under(&self.disk.path("data")) {
            processes::send(process.pid, Signal::KILL);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        while !processes::under(&self.disk.path("data")).is_empty() {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.disk.lose(loss)
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn with_fsync_no_commit_is_lost_however_the_power_is_cut() {
    let mut disk = Mounted::new();
    let mut server = Server::new(&mut disk);
    let mut child = server.start("on");
    server.sql("create table t (n bigint primary key, filler text)").unwrap();
    let mut committed = 0;
    for loss in [Loss::All, Loss::Some(1), Loss::Some(2), Loss::Some(3)] {
        for _ in 0..10 {
            committed += 1;
            server.sql(&format!("insert into t values ({committed}, repeat('x', 3000))")).unwrap();
        }
        // Pages that are half written, beside those that nobody wrote.
        server.sql("checkpoint").unwrap();
        server.sql("update t set filler = repeat('y', 2900)").unwrap();
        let said = server.cut(child, loss.clone());
        child = server.start("on");
        let have = "select count(*), sum(n), min(left(filler, 1)) from t";
        let sum = committed * (committed + 1) / 2;
        assert_eq!(server.sql(have), Ok(format!("{committed}|{sum}|y")), "{loss:?}: {said}");
    }
    server.cut(child, Loss::All);
}

#[test]
fn without_fsync_or_on_a_disk_that_lies_commits_are_lost() {
    for (fsync, lying) in [("off", false), ("on", true)] {
        let mut disk = Mounted::new();
        let mut server = Server::new(&mut disk);
        let child = server.start("on");
        server.sql("create table t (n bigint)").unwrap();
        server.sql("checkpoint").unwrap();
        server.cut(child, Loss::All);
        server.disk.order(&Order::Lying(lying));
        let child = server.start(fsync);
        for n in 0..10 {
            server.sql(&format!("insert into t values ({n})")).unwrap();
        }
        let said = server.cut(child, Loss::All);
        let child = server.start("on");
        assert_eq!(server.sql("select count(*) from t"), Ok("0".to_owned()), "{fsync}: {said}");
        server.cut(child, Loss::All);
    }
}
