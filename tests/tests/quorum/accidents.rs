//! What a superuser can do to the quorum from inside the database.

use std::time::Instant;

use ha_tests::{Plan, eventually, scenario, status, within};

use super::FAULTS;

/// Rule 73: the live setting is verified, and both sides are repaired.
#[test]
fn a_setting_that_a_superuser_emptied_is_put_back_and_nothing_is_lost_rule_73() {
    scenario(Plan::within(120).quorum().announces(&FAULTS).announces(&["setting"]), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        c.more_writes(50, within(10)).await;
        let before = c.node(&primary).sql("show synchronous_standby_names").await;
        let session = c.node(&primary).session().await.expect("a superuser");
        let emptied = Instant::now();
        let alter = session.simple_query("alter system set synchronous_standby_names = ''").await;
        alter.expect("a superuser may");
        session.simple_query("select pg_reload_conf()").await.expect("a superuser may");
        let auto = c.node(&primary).pgdata().join("postgresql.auto.conf");
        eventually("the setting is back", within(10), async || {
            let now = c.node(&primary).sql("show synchronous_standby_names").await;
            let text = std::fs::read_to_string(&auto).ok()?;
            let overridden = text.lines().any(|line| line.starts_with("synchronous_standby_names"));
            (now == before && !overridden).then_some(())
        })
        .await;
        c.say(&format!("put back after {} ms", emptied.elapsed().as_millis()));
        let status = c.quorum_in_force(1, within(10)).await;
        assert_eq!(status.epoch, 1);
        c.more_writes(50, within(10)).await;
        c.node_mut(&primary).kill_everything();
        c.writes_on(&standby, within(20)).await;
        let acks = c.end_writing().await;
        c.assert_nothing_lost_on(&standby, &acks).await;
        c.node_mut(&primary).start();
        let status = c.healthy(within(60)).await;
        assert_eq!(status::holder(&status), standby);
    });
}
