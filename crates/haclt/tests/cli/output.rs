//! Output that goes on, ends early, or cannot be written.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use ha_proto::v1::StatusReply;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Child;
use tokio::time::timeout;
use tonic::Status;

use crate::agent::{self, Agent};
use crate::{DONE, FAILED, HANGS, REFUSED, ask, haclt};

/// Reads lines until one begins with `begin`.
async fn read_until(
    lines: &mut tokio::io::Lines<impl tokio::io::AsyncBufRead + Unpin>,
    begin: &str,
) {
    let found = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.starts_with(begin) {
                return;
            }
        }
        panic!("no line begins with {begin:?}");
    };
    timeout(HANGS, found).await.expect("haclt goes on");
}

async fn ended(child: &mut Child) -> ExitStatus {
    timeout(HANGS, child.wait()).await.expect("haclt ends").unwrap()
}

/// Starts an agent whose epoch is the number of times it was asked, and fails at the second time.
async fn counting() -> Agent {
    Agent::scripted(|call, _| match call {
        2 => Err(Status::unavailable("starting")),
        epoch => Ok(StatusReply { epoch, ..agent::healthy() }),
    })
    .await
}

#[tokio::test]
async fn a_watched_status_goes_on_until_it_is_interrupted() {
    let agent = counting().await;
    let address = agent.address.to_string();
    let mut child = haclt(&["status", "--watch", "0.1", "--endpoint", &address]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    read_until(&mut lines, "cluster orders   epoch 1 ").await;
    read_until(&mut lines, "n3    witness").await;
    // Frames stand apart, and what lies between them is no end.
    let gap = timeout(HANGS, lines.next_line()).await.expect("haclt goes on").unwrap();
    assert_eq!(gap.as_deref(), Some(""));
    read_until(&mut lines, "cluster orders   epoch 3 ").await;
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(ended(&mut child).await.signal(), Some(2));
    let mut notes = String::new();
    child.stderr.take().unwrap().read_to_string(&mut notes).await.unwrap();
    let begin = "error: could not get an answer from any agent: ";
    assert!(notes.starts_with(&format!("{begin}{address}: starting\nhint: ")), "{notes}");
}

#[tokio::test]
async fn a_watched_status_as_json_is_one_object_per_line() {
    let agent = counting().await;
    let address = agent.address.to_string();
    let args = ["status", "--json", "--watch", "0.1", "--endpoint", &address];
    let mut child = haclt(&args).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for epoch in [1, 3, 4] {
        let line = timeout(HANGS, lines.next_line()).await.expect("haclt goes on").unwrap();
        let json: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert_eq!(json["epoch"], epoch);
    }
    child.kill().await.unwrap();
}

#[tokio::test]
async fn a_watched_status_ends_if_it_is_refused() {
    let agent = Agent::answering(agent::healthy()).await;
    let ran = ask(&[agent.address], &["status", "--watch", "--cluster", "payments"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (REFUSED, ""));
}

#[tokio::test]
async fn a_reader_that_leaves_is_no_error() {
    let agent = Agent::answering(agent::healthy()).await;
    let address = agent.address.to_string();
    let table: [&[&str]; 7] = [
        &["status", "--endpoint", &address],
        &["status", "--json", "--endpoint", &address],
        &["status", "--watch", "0.1", "--endpoint", &address],
        &["explain", "--endpoint", &address],
        &["completions", "bash"],
        &["man"],
        &["--help"],
    ];
    for args in table {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = haclt(args);
        let child = command.stdout(writer).spawn().unwrap();
        let output = timeout(HANGS, child.wait_with_output()).await.expect("haclt ends").unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), err.as_str()), (Some(DONE), ""), "{args:?}");
    }
}

#[tokio::test]
async fn output_that_cannot_be_written_is_an_error() {
    let agent = Agent::answering(agent::healthy()).await;
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = haclt(&["status", "--endpoint", &agent.address.to_string()]);
    let child = command.stdout(full).spawn().unwrap();
    let output = timeout(HANGS, child.wait_with_output()).await.expect("haclt ends").unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(FAILED));
    assert!(err.starts_with("error: could not write to standard output: No space left"), "{err}");
}
