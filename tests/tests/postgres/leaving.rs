//! Agents that are told to stop, and agents that start again.

use ha_tests::{Plan, eventually, logs, processes, scenario, status, within};

use super::FAILOVER;

/// How long an agent may take to leave.
const LEAVE: std::time::Duration = within(40);

#[test]
fn a_primarys_agent_told_to_stop_hands_over_without_a_rewind() {
    scenario(Plan::within(120), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.write().await;
        c.more_writes(30, within(10)).await;
        let before = c.healthy(within(10)).await;
        let end = c.node_mut(&primary).stop_agent(LEAVE).await;
        assert_eq!(end.code(), Some(0), "it leaves in order");
        assert_eq!(c.node(&primary).database_processes(), [], "guard and Postgres are gone");
        c.writes_on(&standby, within(10)).await;
        let gap = c.writer().so_far().longest_gap();
        c.say(&format!("gap {} ms", gap.as_millis()));
        let held = c.primary_is(&standby, within(10)).await;
        assert_eq!(held.epoch, before.epoch + 1);
        assert_eq!(held.timeline, before.timeline + 1);
        c.node_mut(&primary).start();
        let after = c.healthy(within(40)).await;
        assert_eq!(status::holder(&after), standby);
        let log = logs::read(&c.node(&primary).log());
        assert!(!log.contains("diverges") && !log.contains("step=\"rewind\""), "no divergence");
        c.end_writing_and_check(None).await;
        c.same_rows(within(20)).await;
    });
}

#[test]
fn on_agent_stop_leave_keeps_postgres_running_for_the_next_agent() {
    scenario(Plan::within(90), async |c| {
        c.set_on_data_nodes("postgres.on_agent_stop", "\"leave\"");
        let (primary, standby) = c.bootstrap().await;
        c.write().await;
        let before = c.healthy(within(10)).await;
        let masters = [&primary, &standby].map(|name| c.node(name).postmaster());
        let session = c.node(&primary).session().await.expect("a session from before");
        for name in [&standby, &primary] {
            let end = c.node_mut(name).stop_agent(LEAVE).await;
            assert_eq!(end.code(), Some(0));
            c.node_mut(name).start();
            c.healthy(within(20)).await;
        }
        let after = c.healthy(within(20)).await;
        assert_eq!((after.epoch, status::holder(&after)), (before.epoch, primary.as_str()));
        assert_eq!([&primary, &standby].map(|name| c.node(name).postmaster()), masters);
        session
            .simple_query("insert into writes values (-1, 'x')")
            .await
            .expect("the same session");
    });
}

#[test]
fn a_whole_cluster_told_to_stop_leaves_nothing_and_starts_again() {
    scenario(Plan::within(150).announces(&["no other node has taken over yet"]), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.write().await;
        c.more_writes(30, within(10)).await;
        let acks = c.end_writing().await;
        for name in [&standby, &primary, &"n3".to_owned()] {
            let end = c.node_mut(name).stop_agent(LEAVE).await;
            assert_eq!(end.code(), Some(0), "{name}");
        }
        assert_eq!(c.processes(), [], "no process is left");
        c.start_agents();
        c.healthy(within(60)).await;
        c.check_rows(&acks, None).await;
        c.same_rows(within(20)).await;
    });
}

#[test]
fn agents_killed_and_restarted_in_every_order_interrupt_no_session() {
    scenario(Plan::within(180).announces(&["could not renew lease"]), async |c| {
        let (primary, _) = c.bootstrap().await;
        c.write().await;
        let before = c.healthy(within(10)).await;
        let postmaster = c.node(&primary).postmaster();
        let session = c.node(&primary).session().await.expect("a session from before");
        let orders = [
            ["n1", "n2", "n3"],
            ["n1", "n3", "n2"],
            ["n2", "n1", "n3"],
            ["n2", "n3", "n1"],
            ["n3", "n1", "n2"],
            ["n3", "n2", "n1"],
        ];
        for order in orders {
            // Each alone…
            for name in order {
                c.node_mut(name).kill_agent();
                c.node_mut(name).start();
                c.settled(within(20)).await;
            }
            // …and all of them, started again in this order.
            for node in c.nodes_mut() {
                node.kill_agent();
            }
            for name in order {
                c.node_mut(name).start();
            }
            c.settled(within(20)).await;
            let one = session.simple_query("select 1").await;
            one.unwrap_or_else(|error| panic!("the session ended with {order:?}: {error}"));
        }
        let after = c.healthy(within(10)).await;
        assert_eq!((after.epoch, status::holder(&after)), (before.epoch, primary.as_str()));
        assert_eq!(c.node(&primary).postmaster(), postmaster);
    });
}

#[test]
fn a_stopped_cluster_comes_back_in_every_order() {
    scenario(
        Plan::within(240).announces(&FAILOVER).announces(&["could not"]).may_lose(100),
        async |c| {
            c.bootstrap().await;
            let orders = [["n1", "n2", "n3"], ["n3", "n2", "n1"], ["n2", "n3", "n1"]];
            for order in orders {
                c.write().await;
                c.more_writes(20, within(20)).await;
                let acks = c.end_writing().await;
                for node in c.nodes_mut() {
                    node.kill_everything();
                }
                for name in order {
                    c.node_mut(name).start();
                    let node = c.node(name);
                    eventually("the agent answers", within(20), async || node.status().await).await;
                }
                let status = c.healthy(within(60)).await;
                c.say(&format!("{order:?}: {} primary", status::holder(&status)));
                c.check_rows(&acks, Some(100)).await;
            }
            for node in c.nodes() {
                assert!(processes::is_alive(node.agent_pid()));
            }
        },
    );
}
