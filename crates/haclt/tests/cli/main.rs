//! Runs the real `haclt` against agents of our own: what users and scripts get to see.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(unreachable_pub, reason = "a test has no users")]

mod agent;
mod agents;
mod arguments;
mod config;
mod credentials;
mod diverged;
mod docs;
mod doctor;
mod drill;
mod operations;
mod output;
mod parameters;
mod restart;
mod support;
mod switchover;
mod views;

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

/// Longer than anything here may take.
const HANGS: Duration = Duration::from_mins(1);

const TABLE: &str = "\
cluster orders   epoch 7   lease n2, 2.4 s left   raft leader n3, term 12
NODE  ROLE     STATE      TIMELINE  FLUSHED    LAG  SYNC
n1    standby  streaming         4  0/5A3C9F0  0 B  sync
n2    primary  running           4  0/5A3C9F0  -    -
n3    witness  receiving         -  0/5A3C9F0  0 B  ack
";

const DONE: i32 = 0;
const FAILED: i32 = 1;
const WRONG: i32 = 2;
const REFUSED: i32 = 3;
const UNKNOWN: i32 = 4;

struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn haclt(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_haclt"));
    command.args(args).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn run_to_end(mut command: Command) -> Ran {
    let output = timeout(HANGS, command.output()).await.expect("haclt ends").unwrap();
    Ran {
        code: output.status.code().expect("haclt ends by itself"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

async fn run(args: &[&str]) -> Ran {
    run_to_end(haclt(args)).await
}

/// Asks these addresses, in this order.
async fn ask(addresses: &[SocketAddr], args: &[&str]) -> Ran {
    run(&[&["--endpoint", &list(addresses)], args].concat()).await
}

fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[track_caller]
fn assert_ran(ran: &Ran, code: i32, out: &str, err: &str) {
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (code, out, err));
}

/// Runs `haclt` at a terminal of its own, where `answer` is typed; returns its exit code and all
/// that the terminal showed.
async fn at_a_terminal(args: &[&str], answer: &str) -> (i32, String) {
    let program = [env!("CARGO_BIN_EXE_haclt")];
    let quoted: Vec<_> = program.iter().chain(args).map(|arg| format!("'{arg}'")).collect();
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command"]);
    command.arg(quoted.join(" ")).arg("/dev/null");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    keyboard.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
    let output = timeout(HANGS, child.wait_with_output()).await.expect("haclt ends").unwrap();
    drop(keyboard);
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}
