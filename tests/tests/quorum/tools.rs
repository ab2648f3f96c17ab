//! A witness without PostgreSQL's client programs.

use ha_tests::{Plan, eventually, scenario, status, wait, within};

use super::FAULTS;

/// Rules 71 and 97: a quorum that shrinks is recorded first, and whoever cannot prove that it has
/// every acknowledged commit is not elected.
#[test]
fn without_client_programs_commits_go_on_and_nobody_is_elected_without_proof_rules_71_and_97() {
    let plan = Plan::within(180).quorum().witness_without_programs().patience(30);
    scenario(plan.announces(&FAULTS).announces(&["does not acknowledge commits"]), async |c| {
        let (primary, standby) = c.bootstrap().await;
        let witness = c.witness();
        let said = c.trouble(&witness, "install", within(20)).await;
        let said = status::node(&said, &witness).troubles.join("; ");
        assert!(said.contains("postgresql-client-"), "how to mend it: {said}");
        c.quorum_requires(1, within(20)).await;
        c.write().await;
        c.more_writes(50, within(10)).await;
        c.node_mut(&standby).kill_everything();
        c.more_writes(100, within(20)).await;
        let slowest = c.writer().so_far().longest_gap();
        c.say(&format!("writes waited {} ms for the quorum to shrink", slowest.as_millis()));
        assert!(slowest < within(8), "writes waited {slowest:?}");
        c.quorum_requires(0, within(10)).await;
        c.node_mut(&primary).kill_everything();
        c.node_mut(&standby).start();
        let told = eventually("the refusal is named", within(30), async || {
            let told = c.explained().await;
            told.contains("has to report").then_some(told)
        })
        .await;
        assert!(told.contains(&format!("node {primary} has to report")), "{told}");
        wait::always("nobody is elected", within(5), async || {
            c.node(&witness).status().await.is_none_or(|s| status::holder(&s).is_empty())
        })
        .await;
        let recovering = c.node(&standby).sql("select pg_is_in_recovery()").await;
        assert_ne!(recovering.as_deref(), Ok("f"), "nobody is primary");
        c.node_mut(&primary).start();
        // Either of the two may be it now: what the other one lacks it fetches.
        c.more_writes(50, within(40)).await;
        c.quorum_requires(1, within(60)).await;
        let status = c.streaming(within(40)).await;
        let acks = c.end_writing().await;
        c.assert_nothing_lost_on(status::holder(&status), &acks).await;
        c.same_rows(within(20)).await;
    });
}
