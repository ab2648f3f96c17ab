//! Agents that start for the first time and find databases that somebody made before.

use ha_tests::{Cluster, Plan, by_hand, logs, scenario, status, wait, within};

use super::FAULTS;

const TABLE: &str = "create table writes (value bigint primary key, node text)";

/// Makes a database on n1 with 100 rows, stopped.
async fn found(c: &Cluster) {
    let n1 = c.node("n1");
    by_hand::initdb(&n1.pgdata(), &c.base.join("password-for-initdb"));
    by_hand::start(n1);
    n1.sql(TABLE).await.expect("a table");
    insert(c, "n1", 1, 100).await;
    by_hand::stop(n1);
}

async fn insert(c: &Cluster, node: &str, from: u32, to: u32) {
    let rows =
        format!("insert into writes select g, '{node}' from generate_series({from}, {to}) g");
    c.node(node).sql(&rows).await.expect("rows");
}

/// Makes a node's server a primary of its own, on a new timeline.
fn promote(c: &Cluster, node: &str) {
    by_hand::make_standby(c.node(node));
    by_hand::start(c.node(node));
    by_hand::promote(c.node(node));
}

/// Starts all agents and checks who won, what both have, and that the loser's WAL is listed.
async fn assert_winner(c: &mut Cluster, winner: &str, lost: &str) {
    let loser = c.other(winner);
    c.start_agents();
    let status = c.healthy(within(60)).await;
    assert_eq!(status::holder(&status), winner, "the higher (timeline, LSN) is kept");
    c.same_rows(within(20)).await;
    for name in ["n1", "n2"] {
        let gone = c.node(name).sql(&format!("select count(*) from writes where {lost}")).await;
        assert_eq!(gone.as_deref(), Ok("0"), "rows of the lower one on {name}");
    }
    let entries = c.diverged(1, within(20)).await;
    let entry = entries.first().expect("one entry");
    assert_eq!(entry.node, loser);
    assert!(entry.bytes > 0, "{entry:?}");
    let shown = c.diverged_show(entry.id).await;
    assert!(shown.kept && shown.reachable, "{shown:?}");
    assert!(shown.transactions_total >= 1, "{shown:?}");
}

#[test]
fn of_two_writable_databases_the_one_promoted_by_hand_wins_over_the_one_left_behind() {
    scenario(Plan::within(150).quorum().announces(&FAULTS), async |c| {
        found(c).await;
        by_hand::copy(c.node("n1"), c.node("n2"));
        // What was the primary goes on without noticing; more rows, but an older timeline.
        by_hand::start(c.node("n1"));
        insert(c, "n1", 1000, 1500).await;
        by_hand::stop(c.node("n1"));
        promote(c, "n2");
        insert(c, "n2", 2000, 2009).await;
        by_hand::stop(c.node("n2"));
        assert_winner(c, "n2", "value between 1000 and 1999").await;
    });
}

/// Rule 57: the same timeline number says nothing; what counts is where it was forked.
#[test]
fn of_two_databases_that_were_both_promoted_the_higher_wins_rule_57() {
    scenario(Plan::within(150).quorum().announces(&FAULTS), async |c| {
        found(c).await;
        by_hand::copy(c.node("n1"), c.node("n2"));
        by_hand::start(c.node("n1"));
        insert(c, "n1", 1000, 1999).await;
        by_hand::stop(c.node("n1"));
        promote(c, "n1");
        insert(c, "n1", 3000, 3010).await;
        by_hand::stop(c.node("n1"));
        promote(c, "n2");
        insert(c, "n2", 2000, 2009).await;
        by_hand::stop(c.node("n2"));
        assert_winner(c, "n1", "value between 2000 and 2999").await;
    });
}

#[test]
fn equal_histories_just_follow() {
    scenario(Plan::within(120).quorum().announces(&FAULTS), async |c| {
        found(c).await;
        by_hand::copy(c.node("n1"), c.node("n2"));
        by_hand::start(c.node("n1"));
        insert(c, "n1", 1000, 1500).await;
        by_hand::stop(c.node("n1"));
        c.start_agents();
        let status = c.healthy(within(60)).await;
        assert_eq!(status::holder(&status), "n1", "it has more");
        c.same_rows(within(20)).await;
        let log = logs::read(&c.node("n2").log());
        let rebuilt =
            ["clone", "rewind"].map(|step| log.contains(&format!("step=\"{step}\" took")));
        assert_eq!(rebuilt, [false, false], "neither cloned nor rewound");
        c.diverged(0, within(5)).await;
    });
}

#[test]
fn two_different_databases_are_refused_with_both_identifiers() {
    let plan = Plan::within(120).quorum().announces(&FAULTS);
    scenario(plan.announces(&["cannot use the data directory", "database"]), async |c| {
        for name in ["n1", "n2"] {
            by_hand::initdb(&c.node(name).pgdata(), &c.base.join("password-for-initdb"));
        }
        let ids = ["n1", "n2"].map(|name| by_hand::system_identifier(c.node(name)));
        assert_ne!(ids[0], ids[1]);
        c.start_agents();
        let told = ha_tests::eventually("both identifiers are named", within(40), async || {
            let mut told = c.explained().await;
            for node in c.nodes() {
                let Some(status) = node.status().await else { continue };
                let all = status.nodes.iter().flat_map(|n| n.troubles.iter());
                told.push_str(&all.cloned().collect::<Vec<_>>().join("\n"));
                told.push_str(&status.reason);
            }
            ids.iter().all(|id| told.contains(id)).then_some(told)
        })
        .await;
        c.say(&told.replace('\n', " | "));
        wait::always("no directory is replaced", within(4), async || {
            let now = ["n1", "n2"].map(|name| by_hand::system_identifier(c.node(name)));
            now == ids
        })
        .await;
    });
}
