//! Former primaries that cannot simply be rewound from what is on their own disk.

use std::fs;

use ha_tests::{Cluster, Plan, eventually, logs, scenario, status, within};

use super::FAULTS;
use super::slots::clones;

/// Ends the standby, has the primary go on alone, ends it too, and lets the standby take over. What the
/// old primary wrote alone has left the history then.
async fn diverge(c: &mut Cluster, old: &str, new: &str, alone: &[&str]) {
    c.same_rows(within(20)).await;
    c.node_mut(new).kill_everything();
    for statement in alone {
        c.node(old).sql(statement).await.expect("async: the primary acknowledges alone");
    }
    c.node_mut(old).kill_everything();
    c.node_mut(new).start();
    c.primary_is(new, within(40)).await;
}

async fn assert_rewound(c: &Cluster, old: &str, new: &str) {
    let status = c.healthy(within(60)).await;
    assert_eq!(status::holder(&status), new);
    assert_eq!(status::node(&status, old).timeline, status.timeline, "on the new timeline");
    let lost = c.node(old).sql("select count(*) from writes where value < 0").await;
    assert_eq!(lost.as_deref(), Ok("0"), "what was lost stays lost");
    assert_eq!(clones(c, old), 0, "rewound, not cloned");
    c.same_rows(within(20)).await;
}

#[test]
fn wal_that_a_rewind_lacks_is_fetched_from_the_witness() {
    scenario(Plan::within(150).announces(&FAULTS), async |c| {
        let (old, new) = c.bootstrap().await;
        // The last checkpoint that both share lies in a segment of its own.
        for statement in ["checkpoint", "insert into writes values (1, 'kept')"] {
            c.node(&old).sql(statement).await.expect("a primary");
        }
        let segment = "select pg_walfile_name(pg_current_wal_lsn())";
        let needed = c.node(&old).sql(segment).await.expect("a primary");
        for _ in 0..2 {
            c.node(&old).sql("select pg_switch_wal()").await.expect("a primary");
            c.node(&old)
                .sql("insert into writes select max(value) + 1, 'kept' from writes")
                .await
                .expect("a primary");
        }
        // Crash recovery needs none of it, since the old primary has a later checkpoint of its own.
        diverge(c, &old, &new, &["insert into writes values (-1, 'lost')", "checkpoint"]).await;
        fs::remove_file(c.node(&old).pgdata().join("pg_wal").join(&needed)).expect("it was there");
        c.node_mut(&old).start();
        assert_rewound(c, &old, &new).await;
        let log = c.node(&old).log();
        assert_eq!(logs::count(&log, "the rewind needs WAL that is not here any more"), 1);
    });
}

#[test]
fn a_primary_that_missed_two_promotions_is_rewound_over_both() {
    scenario(Plan::within(150).announces(&FAULTS), async |c| {
        let (old, new) = c.bootstrap().await;
        let before = c.healthy(within(10)).await.timeline;
        diverge(c, &old, &new, &["insert into writes values (-1, 'lost')"]).await;
        c.node(&new).sql("insert into writes values (2, 'kept')").await.expect("a primary");
        c.node_mut(&new).kill_everything();
        c.node_mut(&new).start();
        // Nobody else is there: it is elected again.
        let again = format!("select timeline_id >= {} from pg_control_checkpoint()", before + 2);
        eventually("it was promoted a second time", within(40), async || {
            let writable = c.node(&new).sql("select not pg_is_in_recovery()").await;
            let promoted = c.node(&new).sql(&again).await;
            (writable.as_deref() == Ok("t") && promoted.as_deref() == Ok("t")).then_some(())
        })
        .await;
        c.node(&new).sql("insert into writes values (3, 'kept')").await.expect("a primary");
        c.node_mut(&old).start();
        assert_rewound(c, &old, &new).await;
    });
}
