//! The permit and the guard, with and without agents.

use std::time::Duration;

use ha_core::permit::{Order, Permit, RunState};
use ha_core::{BootId, BootNanos, Epoch};
use ha_tests::{Plan, eventually, processes, scenario, status, wait, within};
use rustix::process::Signal;

use super::FAILOVER;

#[test]
fn a_permit_of_another_boot_starts_nothing() {
    let plan =
        Plan::within(120).announces(&FAILOVER).announces(&["the permit was damaged or gone"]);
    scenario(plan, async |c| {
        let (primary, _) = c.bootstrap().await;
        let permit = c.node(&primary).permit().expect("a permit");
        assert!(matches!(permit.order, Order::Primary { .. }));
        for node in c.nodes_mut() {
            node.kill_everything();
        }
        // As after a reboot without tmpfs: the old primary's permit lies there, of another boot.
        let far = BootNanos(u64::MAX / 4);
        let stale = Permit {
            boot: BootId(permit.boot.0 ^ 1),
            run: permit.run + 1,
            order: Order::Primary { epoch: Epoch(1), deadline: far },
            ..permit
        };
        let node = c.node_mut(&primary);
        node.put_permit(&stale.encode());
        // Alone, without a quorum: it may run as a standby of nobody at most.
        node.start();
        let node = c.node(&primary);
        wait::always("it accepts no writes", within(6), async || {
            !matches!(node.sql("select pg_is_in_recovery()").await.as_deref(), Ok("f"))
        })
        .await;
        let now = node.permit();
        assert!(now.is_none_or(|permit| !matches!(permit.order, Order::Primary { .. })));
        let other = c.other(&primary);
        c.node_mut(&other).start();
        c.node_mut("n3").start();
        let after = c.healthy(within(60)).await;
        assert!(after.epoch > 1, "a new grant, not the old permit");
    });
}

#[test]
fn a_guard_without_any_agent_kills_at_the_deadline() {
    scenario(Plan::within(90).announces(&FAILOVER).may_lose(20), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.write().await;
        let session = c.node(&primary).session().await.expect("a session from before");
        for node in c.nodes_mut() {
            node.kill_agent();
        }
        let acked = eventually("the guard kills at the deadline", within(10), async || {
            let status = c.node(&primary).guard_status()?;
            (status.state == RunState::KilledAtDeadline).then_some(c.writer().count())
        })
        .await;
        assert!(session.simple_query("insert into writes values (-1, 'x')").await.is_err());
        assert!(c.node(&primary).database_processes().iter().all(|p| p.program != "postgres"));
        let standby = c.node(&standby);
        assert_eq!(standby.sql("select pg_is_in_recovery()").await.as_deref(), Ok("t"));
        wait::always("nothing is acknowledged any more", within(2), async || {
            c.writer().count() == acked
        })
        .await;
        c.start_agents();
        c.more_writes(20, within(30)).await;
    });
}

#[test]
fn a_damaged_permit_never_lets_anything_run_longer_than_the_last_whole_one() {
    let plan = Plan::within(120).announces(&FAILOVER).may_lose(20);
    scenario(plan.announces(&["permit"]), async |c| {
        let (primary, _) = c.bootstrap().await;
        c.write().await;
        c.more_writes(20, within(10)).await;
        // A running agent mends it at its next renewal, nobody notices.
        c.node(&primary).put_permit("haclt permit 1\nrole primary\n");
        c.more_writes(300, within(20)).await;
        let gap = c.writer().so_far().longest_gap();
        assert!(gap < Duration::from_millis(1000), "a gap of {gap:?}");
        // Without an agent the guard holds Postgres to the last whole permit.
        c.node_mut(&primary).kill_agent();
        c.node(&primary).put_permit("not a permit at all");
        eventually("the guard kills at the old deadline", within(10), async || {
            c.node(&primary).postmaster().is_none().then_some(())
        })
        .await;
        c.node_mut(&primary).start();
        c.healthy(within(40)).await;
    });
}

#[test]
fn when_the_quorum_is_lost_the_primary_stops_by_itself_and_comes_back_with_it() {
    scenario(Plan::within(120).announces(&FAILOVER).announces(&["node fenced"]), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.write().await;
        c.more_writes(30, within(10)).await;
        let session = c.node(&primary).session().await.expect("a session from before");
        c.node_mut(&standby).kill_agent();
        c.node_mut("n3").kill_agent();
        eventually("the primary's database is down", within(10), async || {
            c.node(&primary).postmaster().is_none().then_some(())
        })
        .await;
        assert!(session.simple_query("insert into writes values (-1, 'x')").await.is_err());
        let status = eventually("the agent that is left says why", within(10), async || {
            c.node(&primary).status().await.filter(|s| s.state == "no_quorum")
        })
        .await;
        assert!(status.reason.contains("1 of 3"), "{}", status.reason);
        let told = c.haclt(&["status"]);
        c.say(&format!("haclt status exits with {:?} without a quorum", told.status.code()));
        let acked = c.writer().count();
        wait::always("nothing is acknowledged without a quorum", within(2), async || {
            c.writer().count() == acked
        })
        .await;
        c.node_mut("n3").start();
        c.more_writes(20, within(30)).await;
        c.node_mut(&standby).start();
        c.healthy(within(40)).await;
    });
}

#[test]
fn a_promotion_by_hand_is_fenced_and_comes_back() {
    let plan = Plan::within(120).announces(&FAILOVER).announces(&["node fenced"]);
    scenario(plan, async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.write().await;
        c.more_writes(30, within(10)).await;
        let before = c.healthy(within(10)).await;
        let promoted = c.node(&standby).sql("select pg_promote(false)").await;
        promoted.expect("an operator's mistake");
        eventually("the hand-made primary is stopped", within(15), async || {
            (ha_tests::logs::count(&c.node(&standby).log(), "event=\"node_fenced\"") > 0)
                .then_some(())
        })
        .await;
        let after = c.healthy(within(60)).await;
        assert_eq!((after.epoch, status::holder(&after)), (before.epoch, primary.as_str()));
        // The writer writes wherever it can: what the hand-made primary took is gone by rule.
        let acks = c.end_writing_unchecked().await;
        let theirs = acks.0.iter().filter(|ack| ack.node == standby).count();
        c.say(&format!("{theirs} writes were taken by the hand-made primary, and are gone"));
        let ours = acks.only(&primary);
        c.check_rows(&ours, None).await;
        let ghosts = format!("select count(*) from writes where node = '{standby}'");
        assert_eq!(c.node(&primary).sql(&ghosts).await.as_deref(), Ok("0"));
        c.same_rows(within(20)).await;
    });
}

#[test]
fn raft_leadership_moves_away_from_the_primarys_node() {
    let plan = Plan::within(120).announces(&FAILOVER).announces(&["leadership"]);
    scenario(plan, async |c| {
        let (primary, _) = c.bootstrap().await;
        let raft = |s: &ha_proto::v1::StatusReply| {
            s.raft.as_ref().map(|raft| raft.leader.clone()).unwrap_or_default()
        };
        c.await_status("the witness leads", within(15), |s| raft(s) == "n3").await;
        // With the witness gone, the standby leads; never the primary's node for long.
        c.node_mut("n3").kill_agent();
        let standby = c.other(&primary);
        c.await_status("the standby leads", within(20), |s| raft(s) == standby).await;
        let serving = c.primary_is(&primary, within(10)).await;
        assert_eq!(serving.epoch, 1, "a dead Raft leader demotes nobody");
        c.node_mut("n3").start();
        c.healthy(within(20)).await;
        assert!(processes::is_alive(c.node(&primary).agent_pid()));
        c.node(&primary).signal_agent(Signal::CONT);
    });
}
