//! What an election makes sure of: pledges, and that the old primary gets no more acknowledgements.

use std::time::Duration;

use ha_tests::{Mode, Plan, eventually, processes, scenario, status, within};
use rustix::process::Signal;

use super::FAULTS;

/// Rules 95 and 104: receivers are stopped before positions are compared, and the pledge is persisted
/// before it is given: not even restarted agents acknowledge WAL of a revoked epoch.
#[test]
fn a_pledge_outlives_its_agent_and_the_old_primary_is_acknowledged_by_nobody_rules_95_and_104() {
    scenario(Plan::within(150).quorum().announces(&FAULTS).patience(60), async |c| {
        let (primary, standby) = c.bootstrap().await;
        let witness = c.witness();
        let first = c.quorum_in_force(1, within(20)).await.epoch;
        let session = c.node(&primary).session().await.expect("a session from before");
        c.write().await;
        c.more_writes(50, within(10)).await;
        c.node(&primary).freeze();
        c.writes_on(&standby, within(20)).await;
        for name in [&standby, &witness] {
            let pledge = std::fs::read_to_string(c.node(name).pledge()).expect("a pledge");
            assert!(pledge.contains(&first.to_string()), "epoch {first} in {pledge:?}");
            c.node_mut(name).kill_agent();
            c.node_mut(name).start();
            let pledged = eventually("the agent answers", within(20), async || {
                status::report(&c.node(name).grpc(), ha_tests::cluster::CLUSTER, &standby).await
            })
            .await
            .pledged;
            assert!(pledged >= first, "{name} forgot its pledge for epoch {first}: {pledged}");
        }
        // The old server alone: nobody is there to end it, and nobody may acknowledge to it.
        c.node(&primary).thaw_server();
        let insert = session.simple_query("insert into writes values (-7, 'x')");
        let answer = tokio::time::timeout(Duration::from_secs(5), insert).await;
        assert!(!matches!(answer, Ok(Ok(_))), "the revoked epoch acknowledged a commit");
        c.node(&primary).thaw();
        c.more_writes(50, within(30)).await;
        let after = c.healthy(within(60)).await;
        assert_eq!(status::holder(&after), standby);
        assert!(after.epoch > first);
        c.end_writing_and_check(None).await;
        let ghost = c.node(&standby).sql("select count(*) from writes where value = -7").await;
        assert_eq!(ghost.as_deref(), Ok("0"));
    });
}

/// What is committed is noted on disk with the next write only: an agent that was killed may not know of the
/// latest change of the quorum, and if it is cut off nobody tells it. Found in simulation (`ha-sim`).
#[test]
fn an_agent_that_does_not_know_the_latest_quorum_lets_no_commit_pass_by_an_older_one() {
    let plan = Plan::within(150).quorum().witness_without_programs().announces(&FAULTS);
    scenario(plan.patience(30), async |c| {
        let (primary, standby) = c.bootstrap().await;
        let witness = c.witness();
        c.quorum_requires(1, within(20)).await;
        // A change of the quorum is the last thing that is committed.
        c.set_mode(Mode::Async, within(20)).await;
        c.set_mode(Mode::Quorum, within(20)).await;
        c.quorum_requires(1, within(20)).await;
        c.write().await;
        c.more_writes(20, within(10)).await;

        // Nobody receives from the primary any more, and no agent answers it.
        for name in [&standby, &witness] {
            c.node(name).signal_agent(Signal::STOP);
        }
        for process in c.node(&standby).database_processes() {
            processes::send(process.pid, Signal::KILL);
        }
        c.node_mut(&primary).kill_agent();
        c.node_mut(&primary).start();
        // Until its lease has ended.
        tokio::time::sleep(Duration::from_secs(4)).await;
        c.node_mut(&primary).kill_everything();
        for name in [&standby, &witness] {
            c.node(name).signal_agent(Signal::CONT);
        }
        c.writes_on(&standby, within(40)).await;
        c.node_mut(&primary).start();
        c.streaming(within(60)).await;
        // Never quite healthy: the witness keeps no WAL.
        let acks = c.end_writing().await;
        c.assert_nothing_lost_on(&standby, &acks).await;
        c.same_rows(within(20)).await;
    });
}
