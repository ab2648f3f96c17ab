//! Former primaries that cannot simply be rewound from what is on their own disk.

use std::fs;
use std::time::Duration;

use ha_tests::{Cluster, Plan, eventually, logs, programs, scenario, status, within};
use tokio::time::sleep;

use super::FAULTS;
use super::slots::clones;

/// Longer than any lease, and a good deal of tries after that.
const PAST_THE_TTL: Duration = Duration::from_secs(5);

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
        // Or it might be started in place, under the epoch that it has.
        sleep(PAST_THE_TTL).await;
        c.node_mut(&new).start();
        // Nobody else is there: it is elected again.
        is_promoted_to(c, &new, before + 2).await;
        c.node(&new).sql("insert into writes values (3, 'kept')").await.expect("a primary");
        c.node_mut(&old).start();
        assert_rewound(c, &old, &new).await;
    });
}

/// Both began at one position after one timeline, so that PostgreSQL's histories cannot tell them apart: what is taken for
/// a part of the other would be kept (`ARCHITECTURE.md`, "Two timelines of one number").
#[test]
fn whose_wal_went_through_another_timeline_of_the_primary_s_number_is_cloned() {
    let plan = Plan::within(200).witness_without_programs().announces(&FAULTS);
    scenario(plan.announces(&["began with another promotion"]), async |c| {
        let (first, second) = c.bootstrap().await;
        c.same_rows(within(20)).await;
        let before = c.healthy(within(20)).await.timeline;
        c.node_mut(&first).kill_everything();
        c.primary_is(&second, within(40)).await;
        c.node(&second).sql("insert into writes values (-1, 'lost')").await.expect("a primary");
        c.node_mut(&second).kill_everything();
        // The witness is alone, and leads; what it cannot do it tries again and again, and tells once. Without that pause the
        // database might be started in place, under the epoch that it has.
        sleep(PAST_THE_TTL).await;
        let told = logs::count(&c.node(&c.witness()).log(), "event=\"lease_expired\" epoch=2 ");
        assert!(told <= 1, "told {told} times");
        c.node_mut(&second).start();
        is_promoted_to(c, &second, before + 2).await;
        c.node(&second).sql("insert into writes values (-2, 'lost')").await.expect("a primary");
        c.node_mut(&second).kill_everything();
        // It has seen nothing of the two promotions, and begins a timeline of the first one's number.
        c.node_mut(&first).start();
        c.rule(&first, "lease_vacant", within(20)).await;
        let output = c.haclt(&["failover", "--accept-data-loss", "--yes", "--timeout", "60"]);
        assert_eq!(output.status.code(), Some(0), "{}", programs::said(&output));
        is_promoted_to(c, &first, before + 1).await;
        c.node(&first).sql("insert into writes values (1, 'kept')").await.expect("a primary");
        let began = |node: &str, timeline: u32| {
            let file = format!("pg_wal/{timeline:08X}.history");
            let text = fs::read_to_string(c.node(node).pgdata().join(file)).expect("a history");
            let last = text.lines().rfind(|line| line.starts_with(&before.to_string()));
            last.and_then(|line| line.split_whitespace().nth(1)).map(ToOwned::to_owned)
        };
        let (one, other) = (began(&first, before + 1), began(&second, before + 1));
        assert!(one.is_some() && one == other, "no twins: {one:?} and {other:?}");
        let cloned = clones(c, &second);
        c.node_mut(&second).start();
        let status = c.healthy(within(60)).await;
        assert_eq!(status::holder(&status), first);
        assert_eq!(clones(c, &second), cloned + 1, "cloned, not rewound");
        c.same_rows(within(20)).await;
        let lost = c.node(&second).sql("select count(*) from writes where value < 0").await;
        assert_eq!(lost.as_deref(), Ok("0"), "what was lost stays lost");
    });
}

async fn is_promoted_to(c: &Cluster, node: &str, timeline: u32) {
    let reached = format!("select timeline_id = {timeline} from pg_control_checkpoint()");
    eventually(&format!("{node} was promoted to timeline {timeline}"), within(40), async || {
        let writable = c.node(node).sql("select not pg_is_in_recovery()").await;
        let there = c.node(node).sql(&reached).await;
        (writable.as_deref() == Ok("t") && there.as_deref() == Ok("t")).then_some(())
    })
    .await;
}
