//! `haclt restart`.

use ha_proto::v1::RestartReply;

use crate::agent::{Agent, Script};
use crate::{DONE, FAILED, UNKNOWN, WRONG, ask, assert_ran};

const OF_N2: &str = "n2: restart as primary, for shared_buffers\n\
                     warning: it is the primary: clients are cut off while it restarts\n";

#[tokio::test]
async fn one_database_is_restarted_and_that_is_said() {
    let agent = Agent::start(Script::default()).await;
    let ran = ask(&[agent.address], &["restart", "n1"]).await;
    let plan = "n1: restart as standby, no parameter waits for it\n";
    assert_ran(&ran, DONE, "n1: restarted, standby\n", plan);
    let orders = agent.restarts();
    assert_eq!((orders.len(), orders[0].node.as_str(), orders[0].run), (1, "n1", 4));
}

#[tokio::test]
async fn nothing_is_ordered_by_a_dry_run_or_if_nothing_is_pending() {
    let agent = Agent::start(Script::default()).await;
    let ran = ask(&[agent.address], &["restart", "n2", "--dry-run"]).await;
    assert_ran(&ran, DONE, OF_N2, "");
    let ran = ask(&[agent.address], &["restart", "n1", "--if-pending"]).await;
    assert_ran(&ran, DONE, "n1: not restarted, no parameter waits for it\n", "");
    assert!(agent.restarts().is_empty());
}

#[tokio::test]
async fn all_means_standbys_then_a_switchover_then_the_old_primary() {
    let agent = Agent::start(Script::default()).await;
    let ran = ask(&[agent.address], &["restart", "--all"]).await;
    let done = "n1: restarted, standby\ndone: n1 is primary, epoch 8\nn2: restarted, standby\n";
    assert_eq!((ran.code, ran.out.as_str()), (DONE, done), "{}", ran.err);
    let nodes: Vec<String> = agent.restarts().into_iter().map(|order| order.node).collect();
    assert_eq!(nodes, ["n1", "n2"]);
    assert_eq!(agent.switchovers().len(), 1);

    let agent = Agent::start(Script::default()).await;
    let ran = ask(&[agent.address], &["restart", "--all", "--if-pending"]).await;
    assert_eq!(ran.code, DONE, "{}", ran.err);
    let nodes: Vec<String> = agent.restarts().into_iter().map(|order| order.node).collect();
    assert_eq!(nodes, ["n2"], "only there a parameter waits");
}

#[tokio::test]
async fn the_exit_code_says_how_it_ended() {
    for (outcome, why, code, text) in [
        (
            "failed",
            "it is not back in time",
            FAILED,
            "could not restart n1: it is not back in time",
        ),
        ("running", "it is not back yet", UNKNOWN, "could not see it end within 300 s: it is not"),
    ] {
        let reply = RestartReply { outcome: outcome.into(), why: why.into(), role: "none".into() };
        let restart = Box::new(move |_, _| Ok(reply.clone()));
        let agent = Agent::start(Script { restart, ..Script::default() }).await;
        let ran = ask(&[agent.address], &["restart", "n1"]).await;
        assert_eq!(ran.code, code, "{}", ran.err);
        assert!(ran.err.contains(text), "{}", ran.err);
    }
    let agent = Agent::start(Script::default()).await;
    for wrong in [&["restart"][..], &["restart", "n1", "--all"]] {
        assert_eq!(ask(&[agent.address], wrong).await.code, WRONG, "{wrong:?}");
    }
}
