//! Two faults in a row, each of which the cluster has to survive with every acknowledged row.

use std::time::{Duration, Instant};

use ha_tests::{Cluster, Plan, eventually, logs, scenario, status, wait, within};

use super::FAULTS;

/// Ends writing while one node is primary, perhaps alone, and checks that it has everything.
async fn check_alone(c: &mut Cluster, primary: &str) {
    let acks = c.end_writing().await;
    c.assert_nothing_lost_on(primary, &acks).await;
    let gap = acks.longest_gap().as_millis();
    c.say(&format!("{} acknowledged, all on {primary}, longest gap {gap} ms", acks.0.len()));
}

/// Brings a node back that was gone, and checks that everybody has the same.
async fn come_back(c: &mut Cluster, node: &str) {
    c.node_mut(node).start();
    c.healthy(within(60)).await;
    c.same_rows(within(20)).await;
}

/// Rule 96: a candidate that lacks WAL which another node holds pulls it first.
#[test]
fn a_standby_that_was_down_gets_every_acknowledged_row_from_the_witness_rule_96() {
    scenario(Plan::within(120).quorum().announces(&FAULTS), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        c.more_writes(50, within(10)).await;
        c.node_mut(&standby).kill_everything();
        // Only the witness acknowledges these.
        c.more_writes(200, within(20)).await;
        c.node_mut(&primary).kill_everything();
        c.node_mut(&standby).start();
        c.primary_is(&standby, within(40)).await;
        c.writes_on(&standby, within(10)).await;
        let fetched = logs::count(&c.node(&standby).log(), "fast_forwarding");
        assert!(fetched > 0, "it lacked what the witness had");
        check_alone(c, &standby).await;
        come_back(c, &primary).await;
    });
}

/// What is fetched before it is replayed is bounded, and one record may be longer than that.
#[test]
fn a_record_longer_than_a_batch_is_fetched_whole() {
    scenario(Plan::within(180).quorum().announces(&FAULTS).patience(60), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.node_mut(&standby).kill_everything();
        let long = "select pg_logical_emit_message(true, 'long', repeat('x', 400000000))";
        c.node(&primary).sql(long).await.expect("the witness acknowledges it");
        c.node(&primary).sql("insert into writes values (1, 'kept')").await.expect("a primary");
        c.node_mut(&primary).kill_everything();
        c.node_mut(&standby).start();
        c.primary_is(&standby, within(90)).await;
        let kept = c.node(&standby).sql("select count(*) from writes").await;
        assert_eq!(kept.as_deref(), Ok("1"));
        let grown = logs::count(&c.node(&standby).log(), "fetching more at once");
        assert!(grown > 0, "one batch was enough: the record is too short for this test");
        come_back(c, &primary).await;
    });
}

/// Rule 77: there is no window after a member's loss in which nobody could be elected.
#[test]
fn a_primary_lost_right_after_its_standby_leaves_somebody_to_elect_rule_77() {
    scenario(Plan::within(150).quorum().announces(&FAULTS), async |c| {
        let (mut primary, mut standby) = c.bootstrap().await;
        c.write().await;
        // From at once to after every patience of whoever watches the members.
        for pause_ms in [0, 150, 2500] {
            c.quorum_in_force(1, within(40)).await;
            c.more_writes(30, within(10)).await;
            c.node_mut(&standby).kill_everything();
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            c.node_mut(&primary).kill_everything();
            c.node_mut(&standby).start();
            c.writes_on(&standby, within(40)).await;
            let acks = c.writer().so_far().only(&primary);
            let lost = acks.missing(&c.rows(&standby).await).len();
            assert_eq!(lost, 0, "acknowledged by {primary}, and not on {standby}");
            c.node_mut(&primary).start();
            c.healthy(within(60)).await;
            (primary, standby) = (standby, primary);
        }
    });
}

#[test]
fn a_witness_that_was_down_and_is_back_does_not_make_the_election_forget_anything() {
    scenario(Plan::within(120).quorum().announces(&FAULTS), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        let witness = c.witness();
        c.write().await;
        c.more_writes(50, within(10)).await;
        c.node_mut(&witness).kill_everything();
        // Only the standby acknowledges these.
        c.more_writes(200, within(20)).await;
        c.node_mut(&witness).start();
        eventually("the witness's agent answers", within(20), async || {
            c.node(&witness).status().await.map(|_| ())
        })
        .await;
        c.node_mut(&primary).kill_everything();
        c.writes_on(&standby, within(20)).await;
        check_alone(c, &standby).await;
        come_back(c, &primary).await;
    });
}

#[test]
fn a_primary_that_dies_while_the_standby_catches_up_costs_nothing() {
    scenario(Plan::within(150).quorum().announces(&FAULTS), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        c.more_writes(50, within(10)).await;
        c.node_mut(&standby).kill_everything();
        // Enough that catching up takes a while: 60 MB.
        let bulk = "select count(pg_logical_emit_message(false, 'bulk', repeat('x', 1000000))) \
                    from generate_series(1, 60)";
        c.node(&primary).sql(bulk).await.expect("a primary");
        c.more_writes(100, within(20)).await;
        c.node_mut(&standby).start();
        eventually("the standby's server runs", within(20), async || {
            c.node(&standby).sql("select pg_is_in_recovery()").await.ok()
        })
        .await;
        c.node_mut(&primary).kill_everything();
        c.writes_on(&standby, within(40)).await;
        check_alone(c, &standby).await;
        come_back(c, &primary).await;
    });
}

/// Rule 91: a fence is tested by sessions that were open before the fault and try to commit.
#[test]
fn a_primary_thawed_after_30_s_acknowledges_nothing_to_sessions_from_before_rule_91() {
    let plan = Plan::within(180).quorum().announces(&FAULTS).patience(60);
    scenario(plan, async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        c.more_writes(50, within(10)).await;
        let open = c.node(&primary).session().await.expect("a session from before");
        open.simple_query("begin; insert into writes values (-7, 'x')").await.expect("open");
        let idle = c.node(&primary).session().await.expect("another one");
        let frozen = Instant::now();
        c.node(&primary).freeze();
        c.writes_on(&standby, within(20)).await;
        c.say(&format!("{standby} writes {} ms after the freeze", frozen.elapsed().as_millis()));
        wait::always(
            "the new primary stays",
            within(30).saturating_sub(frozen.elapsed()),
            async || {
                tokio::time::sleep(Duration::from_millis(200)).await;
                c.node(&standby).status().await.is_none_or(|s| status::holder(&s) == standby)
            },
        )
        .await;
        c.node(&primary).thaw();
        // Both at once: whoever is slower must not profit from the other's end.
        let insert = idle.simple_query("insert into writes values (-8, 'x')");
        let (commit, insert) = tokio::join!(open.simple_query("commit"), insert);
        assert!(commit.is_err(), "an open transaction was acknowledged");
        assert!(insert.is_err(), "an idle session was acknowledged");
        c.more_writes(50, within(20)).await;
        let after = c.healthy(within(60)).await;
        assert_eq!(status::holder(&after), standby);
        let ghosts = c.node(&standby).sql("select count(*) from writes where value < 0").await;
        assert_eq!(ghosts.as_deref(), Ok("0"));
        c.end_writing_and_check(None).await;
        c.same_rows(within(20)).await;
    });
}
