//! `haclt switchover`.

use std::sync::atomic::{AtomicUsize, Ordering};

use ha_proto::v1::{Finding, SwitchoverPlanReply, SwitchoverReply};
use tonic::Status;

use crate::agent::{self, Agent, Script};
use crate::{DONE, FAILED, REFUSED, UNKNOWN, WRONG, ask, assert_ran};

const WARNING: &str = "warning: 2 transactions have been open for more than 30 s, the oldest for \
                       312 s: they are cut off\n";

/// Starts an agent that ends a switchover so.
async fn ending(outcome: &str, why: &str, primary: &str) -> Agent {
    let reply = SwitchoverReply {
        outcome: outcome.into(),
        why: why.into(),
        primary: primary.into(),
        epoch: 7,
        steps: Vec::new(),
    };
    Agent::start(Script {
        switchover: Box::new(move |_, _| Ok(reply.clone())),
        ..Script::default()
    })
    .await
}

#[tokio::test]
async fn a_dry_run_shows_the_plan_and_orders_nothing() {
    let agent = Agent::start(Script::default()).await;
    let ran = ask(&[agent.address], &["switchover", "--dry-run"]).await;
    assert_ran(&ran, DONE, &format!("n2 -> n1, epoch 7\n{WARNING}"), "");
    let ran = ask(&[agent.address], &["switchover", "--dry-run", "--json"]).await;
    assert_ran(&ran, DONE, include_str!("switchover-plan.json"), "");
    assert!(agent.switchovers().is_empty());
}

#[tokio::test]
async fn what_speaks_against_it_ends_it_before_it_begins() {
    let refusal = Finding { severity: "refusal".into(), text: "node n1 is catching_up".into() };
    let plan = SwitchoverPlanReply { findings: vec![refusal], ..agent::switchover_plan() };
    let script =
        Script { switchover_plan: Box::new(move |_, _| Ok(plan.clone())), ..Script::default() };
    let agent = Agent::start(script).await;
    let shown = "n2 -> n1, epoch 7\nrefusal: node n1 is catching_up\n";
    let ran = ask(&[agent.address], &["switchover", "--dry-run"]).await;
    assert_ran(&ran, REFUSED, shown, "");
    let ran = ask(&[agent.address], &["switchover", "--to", "n1"]).await;
    let expected = format!(
        "{shown}error: could not switch over: node n1 is catching_up\n\
         hint: `haclt switchover --dry-run` shows all that speaks against it.\n"
    );
    assert_ran(&ran, REFUSED, "", &expected);
    assert!(agent.switchovers().is_empty());
}

#[tokio::test]
async fn each_step_is_told_once_and_the_end_is_the_answer() {
    // Asked three times: under way with one step, then the agent is silent, then it is done.
    let asked = AtomicUsize::new(0);
    let switchover = move |_, order| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => {
            let done = agent::switched(&order);
            let steps = done.steps.into_iter().take(1).collect();
            Ok(SwitchoverReply { outcome: "running".into(), steps, ..done })
        }
        1 => Err(Status::unavailable("node n2: connection refused")),
        _ => Ok(agent::switched(&order)),
    };
    let agent =
        Agent::start(Script { switchover: Box::new(switchover), ..Script::default() }).await;
    let ran = ask(&[agent.address], &["switchover"]).await;
    let expected = format!(
        "n2 -> n1, epoch 7\n{WARNING}  0.00 s  checkpoint: while clients are served\n  \
         0.42 s  stop: clients are disconnected\n  0.99 s  primary: n1, timeline 5\n"
    );
    assert_ran(&ran, DONE, "done: n1 is primary, epoch 8\n", &expected);
    // The same order each time: given again, it is done once.
    let orders = agent.switchovers();
    assert_eq!(orders.len(), 3);
    for order in &orders {
        assert_eq!((order.from.as_str(), order.to.as_str(), order.epoch), ("n2", "n1", 7));
        assert_eq!(order.number, orders[0].number);
    }
    assert_eq!(orders[1].known_steps, 1);
}

#[tokio::test]
async fn the_exit_code_says_how_it_ended() {
    let agent = ending("not_done", "node n1 has not received the end of WAL", "n2").await;
    let ran = ask(&[agent.address], &["switchover"]).await;
    let error = "error: could not switch over, n2 is still primary: node n1 has not received the \
                 end of WAL\n";
    assert_eq!(ran.code, FAILED);
    assert!(ran.err.contains(error), "{}", ran.err);

    let agent = ending("elsewhere", "node n2 was elected instead", "n2").await;
    let ran = ask(&[agent.address], &["switchover"]).await;
    assert_eq!(ran.code, UNKNOWN);
    let error =
        "error: could not switch over in order: node n2 was elected instead; n2 is primary\n";
    assert!(ran.err.contains(error), "{}", ran.err);

    let agent = ending("running", "the nodes elect a primary", "").await;
    let ran = ask(&[agent.address], &["switchover", "--timeout", "1"]).await;
    assert_eq!(ran.code, UNKNOWN);
    let error = "error: could not see it end within 1 s: the nodes elect a primary\n";
    assert!(ran.err.contains(error), "{}", ran.err);

    let refusing = Box::new(|_, _| Err(Status::aborted("a switchover to node n3 is under way")));
    let agent = Agent::start(Script { switchover: refusing, ..Script::default() }).await;
    let ran = ask(&[agent.address], &["switchover"]).await;
    assert_eq!(ran.code, REFUSED);
    assert!(ran.err.contains("refuses: a switchover to node n3 is under way\n"), "{}", ran.err);

    let ran = ask(&[agent.address], &["switchover", "--to", "N 1"]).await;
    assert_eq!(ran.code, WRONG);
}

#[tokio::test]
async fn a_program_gets_one_object() {
    let agent = Agent::start(Script::default()).await;
    let ran = ask(&[agent.address], &["switchover", "--to", "n1", "--json"]).await;
    assert_eq!(ran.code, DONE);
    assert_eq!(ran.out, include_str!("switchover.json"));
}
