//! What an election makes sure of: pledges, and that the old primary gets no more acknowledgements.

use std::time::Duration;

use ha_tests::{Plan, eventually, scenario, status, within};

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
