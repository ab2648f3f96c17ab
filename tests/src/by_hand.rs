//! Database servers as an operator runs them: without any agent.

use std::path::Path;
use std::process::Command;

use crate::node::{Node, SUPERUSER_PASSWORD, chown};
use crate::programs;

/// Makes a database cluster whose superuser has the tests' password.
pub fn initdb(pgdata: &Path, password_file: &Path) {
    std::fs::write(password_file, format!("{SUPERUSER_PASSWORD}\n")).expect("writable");
    std::fs::create_dir_all(pgdata).expect("a writable directory");
    chown(password_file);
    chown(pgdata);
    let password = format!("--pwfile={}", password_file.display());
    let flags = ["-U", "postgres", "-A", "scram-sha-256", "--data-checksums", "--no-sync"];
    let mut initdb = tool("initdb");
    run(initdb.args(flags).arg(password).arg("-D").arg(pgdata));
}

/// Copies the data directory of a stopped server to another node, over the empty one there.
pub fn copy(from: &Node, to: &Node) {
    let target = to.pgdata();
    std::fs::remove_dir(&target).expect("an empty directory");
    run(Command::new("cp").arg("-a").arg(from.pgdata()).arg(target));
}

/// Starts the server of a node where its agent will later have it listen.
pub fn start(node: &Node) {
    let address = node.postgres();
    let (host, port) = address.rsplit_once(':').expect("host and port");
    let options = format!(
        "-c listen_addresses={host} -c port={port} -c unix_socket_directories='' \
         -c dynamic_shared_memory_type=mmap -c shared_buffers=16MB"
    );
    let pgdata = node.pgdata();
    let log = pgdata.parent().expect("a directory above").join("by-hand.log");
    let mut start = tool("pg_ctl");
    run(start
        .args(["start", "--wait", "--silent", "-o", &options, "-l"])
        .arg(log)
        .arg("-D")
        .arg(pgdata));
}

/// Ends recovery of a node's server.
pub fn promote(node: &Node) {
    run(tool("pg_ctl").args(["promote", "--wait", "--silent", "-D"]).arg(node.pgdata()));
}

/// Stops the server of a node in order.
pub fn stop(node: &Node) {
    run(tool("pg_ctl").args(["stop", "--wait", "--silent", "-m", "fast", "-D"]).arg(node.pgdata()));
}

/// Returns what `pg_controldata` says of a node's data directory.
pub fn control_data(node: &Node) -> String {
    let program = programs::postgres_dir().join("pg_controldata");
    programs::said(&programs::run(&program, &[&node.pgdata().display().to_string()]))
}

/// Returns the system identifier in a node's data directory.
pub fn system_identifier(node: &Node) -> String {
    let text = control_data(node);
    let line = text.lines().find_map(|line| line.strip_prefix("Database system identifier:"));
    line.expect("a control file").trim().to_owned()
}

/// Has the server start as a standby of nobody, which can be promoted.
pub fn make_standby(node: &Node) {
    let signal = node.pgdata().join("standby.signal");
    std::fs::write(&signal, "").expect("a writable directory");
    chown(&signal);
}

fn tool(name: &str) -> Command {
    let program = programs::postgres_dir().join(name);
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.current_dir("/");
    command
}

/// Runs a program to its end. Its output goes nowhere: a server that it starts would hold a pipe open.
fn run(command: &mut Command) {
    let quiet = command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    let status = quiet.status().expect("the program can be run");
    assert!(status.success(), "{command:?} failed with {status}");
}
