//! `haclt drill`.

use std::process::Stdio;
use std::time::Duration;

use ha_proto::v1::drill_news::News;
use ha_proto::v1::{DrillNews, Finding};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tonic::Status;

use crate::agent::{self, Agent, End, Script};
use crate::{DONE, FAILED, HANGS, REFUSED, UNKNOWN, WRONG, ask, assert_ran, at_a_terminal, haclt};

const PLAN: &str = "\
drill: crash of n2, epoch 7, durability quorum
would take over: n1
measured by: n3
what happens:
  - a crash is made
note: 1 prepared transaction
";

/// Starts an agent whose drill goes so.
async fn telling(news: Vec<DrillNews>, end: End) -> Agent {
    let drill = Box::new(move |_, _| Ok((news.clone(), end.clone())));
    Agent::start(Script { drill, ..Script::default() }).await
}

/// Returns what is told of a drill that ended otherwise.
fn otherwise(change: impl Fn(&mut ha_proto::v1::DrillResult)) -> Vec<DrillNews> {
    let mut news = agent::drilled();
    for told in &mut news {
        if let Some(News::Result(result)) = &mut told.news {
            change(result);
        }
    }
    news
}

#[tokio::test]
async fn a_dry_run_shows_what_would_happen_and_orders_nothing() {
    let agent = Agent::start(Script::default()).await;
    let ran = ask(&[agent.address], &["drill", "crash", "--dry-run"]).await;
    assert_ran(&ran, DONE, PLAN, "");
    let ran = ask(&[agent.address], &["drill", "freeze", "--dry-run", "--seconds", "3"]).await;
    assert!(ran.out.starts_with("drill: freeze of n2 for 3 s, epoch 7"), "{}", ran.out);
    let ran = ask(&[agent.address], &["drill", "--dry-run", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &json["kind"], &json["epoch"]), (DONE, &"switchover".into(), &7.into()));
    assert!(agent.others().is_empty());
}

#[tokio::test]
async fn a_drill_needs_consent() {
    let agent = Agent::start(Script::default()).await;
    let ran = ask(&[agent.address], &["drill", "crash"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (WRONG, ""));
    let expected = "error: a drill cuts clients off, and without a terminal nobody can be asked \
                    whether it is meant\nhint: If it is meant, say so with `--yes`.\n";
    assert!(ran.err.ends_with(expected), "{}", ran.err);
    let address = agent.address.to_string();
    let args = ["--endpoint", &address, "drill", "crash"];
    let (code, shown) = at_a_terminal(&args, "payments").await;
    assert_eq!(code, FAILED, "{shown}");
    assert!(agent.others().is_empty(), "nothing was ordered");
    let (code, shown) = at_a_terminal(&args, "orders").await;
    assert_eq!(code, DONE, "{shown}");
    assert_eq!(agent.others().len(), 1);
}

#[tokio::test]
async fn what_was_seen_is_reported_as_text_as_json_and_as_a_picture() {
    let agent = Agent::start(Script::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let picture = dir.path().join("drill.svg");
    let args = ["drill", "crash", "--yes", "--output", picture.to_str().unwrap()];
    let ran = ask(&[agent.address], &args).await;
    assert_eq!((ran.code, ran.out.as_str()), (DONE, include_str!("drill.txt")), "{}", ran.err);
    assert!(ran.err.contains("  0.51 s  struck: crash\n"), "{}", ran.err);
    assert!(ran.err.contains("  0.62 s  n2  crashed: number 1 within a while\n"), "{}", ran.err);
    let drawn = std::fs::read_to_string(&picture).unwrap();
    assert!(drawn.starts_with("<svg ") && drawn.contains("write gap: 240 ms"), "{drawn}");
    let order = &agent.others()[0];
    for part in ["kind: \"crash\"", "node: \"n2\"", "to: \"\"", "epoch: 7", "cluster: \"orders\""] {
        assert!(order.contains(part), "{part}: {order}");
    }
    assert!(!order.contains("by: \"\"") && !order.contains("number: 0,"), "{order}");

    let page = dir.path().join("drill.html");
    let args = ["drill", "--yes", "--json", "--output", page.to_str().unwrap()];
    let ran = ask(&[agent.address], &args).await;
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &json["gap_ms"], &json["lost"]), (DONE, &240.into(), &0.into()));
    assert_eq!(json["gap_from_ms"], -5);
    assert_eq!(json["events"][0]["at_ms"], 110);
    assert_eq!(json["states"][3]["state"], "stopped");
    assert!(agent.others()[1].contains("to: \"n1\""), "a switchover names who takes over");
    let drawn = std::fs::read_to_string(&page).unwrap();
    assert!(drawn.starts_with("<!DOCTYPE html>") && drawn.contains("<pre>switchover of n2"));
}

#[tokio::test]
async fn a_picture_that_cannot_be_written_is_noticed_before() {
    let agent = Agent::start(Script::default()).await;
    let args = ["drill", "crash", "--yes", "--output", "/no/such/dir/drill.svg"];
    let ran = ask(&[agent.address], &args).await;
    assert_eq!(ran.code, FAILED, "{}", ran.err);
    assert!(ran.err.contains("error: could not write /no/such/dir/drill.svg: "), "{}", ran.err);
    assert!(agent.others().is_empty(), "nothing was ordered");
}

#[tokio::test]
async fn the_exit_code_says_what_it_came_to() {
    let lost = otherwise(|result| result.lost = Some(2));
    let ill = otherwise(|result| {
        result.healthy = false;
        result.awaited = "degraded: node n2 is rewinding".into();
    });
    let unread = otherwise(|result| result.lost = None);
    let broken = || End::Broken(Status::unavailable("gone"));
    let not_done = || End::Broken(Status::failed_precondition("the table could not be made"));
    #[rustfmt::skip]
    let table = [
        (lost,             End::Closed, FAILED,  "error: 2 of 30 acknowledged writes are lost\n"),
        (ill,              End::Closed, UNKNOWN, "error: the drill is over, and this is still awaited: degraded: node n2 is rewinding\n"),
        (unread,           End::Closed, UNKNOWN, "this is still awaited: that the rows can be read back\n"),
        (Vec::new(),       not_done(),  FAILED,  "error: the drill was not done: the table could not be made\n"),
        (Vec::new(),       broken(),    UNKNOWN, "error: could not see the crash of n2 to its end: gone\n"),
        (Vec::new(),       End::Closed, UNKNOWN, "to its end: the agent that measures ended\n"),
    ];
    for (news, end, code, said) in table {
        let agent = telling(news, end).await;
        let ran = ask(&[agent.address], &["drill", "crash", "--yes"]).await;
        assert_eq!(ran.code, code, "{said}: {}", ran.err);
        assert!(ran.err.contains(said), "{said}: {}", ran.err);
    }
}

#[tokio::test]
async fn what_speaks_against_it_ends_it_before_it_begins() {
    let refusal = Finding { severity: "refusal".into(), text: "the cluster is paused".into() };
    let drill_plan = Box::new(move |_, ask: ha_proto::v1::DrillPlanRequest| {
        let findings = vec![refusal.clone()];
        Ok(ha_proto::v1::DrillPlanReply { findings, ..agent::drill_plan(&ask) })
    });
    let agent = Agent::start(Script { drill_plan, ..Script::default() }).await;
    let ran = ask(&[agent.address], &["drill", "crash", "--dry-run"]).await;
    assert_eq!(ran.code, REFUSED);
    let ran = ask(&[agent.address], &["drill", "crash", "--yes"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (REFUSED, ""));
    assert!(ran.err.contains("error: could not begin the drill: the cluster is paused\n"));
    assert!(agent.others().is_empty());
}

#[tokio::test]
async fn an_agent_that_would_be_struck_itself_is_not_the_one_that_is_asked() {
    let drill =
        Box::new(|_, _| Err(Status::unavailable("node n2 is the one that the drill is of")));
    let struck = Agent::start(Script { drill, ..Script::default() }).await;
    let other = Agent::start(Script::default()).await;
    let args = ["drill", "crash", "--yes"];
    let ran = ask(&[struck.address, other.address], &args).await;
    assert_eq!(ran.code, DONE, "{}", ran.err);
    assert_eq!((struck.others().len(), other.others().len()), (1, 1));
    let ran = ask(&[struck.address], &args).await;
    assert_eq!(ran.code, FAILED, "{}", ran.err);
    assert!(ran.err.contains("node n2 is the one that the drill is of"), "{}", ran.err);
}

#[tokio::test]
async fn interrupted_it_says_that_the_fault_ends_by_itself() {
    let agent = telling(agent::drilled()[..5].to_vec(), End::Never).await;
    let address = agent.address.to_string();
    let mut command = haclt(&["--endpoint", &address, "drill", "freeze", "--yes"]);
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut said = Vec::new();
    while let Some(line) = tokio::time::timeout(HANGS, lines.next_line()).await.unwrap().unwrap() {
        if line.contains("struck") {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let pid = i32::try_from(child.id().unwrap()).unwrap();
            kill_process(Pid::from_raw(pid).unwrap(), Signal::INT).unwrap();
        }
        said.push(line);
    }
    assert_eq!(child.wait().await.unwrap().code(), Some(UNKNOWN), "{said:?}");
    let expected = "error: interrupted: the measuring of the freeze of n2 for 8 s ends, and its fault \
                    ends by itself";
    assert!(said.iter().any(|line| line == expected), "{said:?}");
}
