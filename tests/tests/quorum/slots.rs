//! Slots that are lost and WAL that is gone.

use ha_tests::{Cluster, Mode, Plan, eventually, logs, scenario, status, within};

use super::FAULTS;

/// Has the primary keep as little WAL as it can.
pub(super) fn keep_little(c: &mut Cluster) {
    c.set_on_data_nodes("postgres.parameters.max_slot_wal_keep_size", "\"64MB\"");
    c.set_on_data_nodes("postgres.parameters.wal_keep_size", "\"0\"");
    c.set_on_data_nodes("postgres.parameters.min_wal_size", "\"32MB\"");
    c.set_on_data_nodes("postgres.parameters.max_wal_size", "\"64MB\"");
}

/// Writes 256 MB of WAL, with checkpoints, until the primary has removed what a standby would need that
/// is down since before.
pub(super) async fn move_on(c: &Cluster, primary: &str) {
    let needed = c.node(primary).sql("select pg_walfile_name(pg_current_wal_lsn())").await;
    let needed = needed.expect("a primary");
    // Each a transaction that waits for whoever acknowledges, so that nobody but the standby is late.
    let bulk = "select count(pg_logical_emit_message(true, 'bulk', repeat('x', 1000000))) \
                from generate_series(1, 16)";
    for _ in 0..16 {
        c.node(primary).sql(bulk).await.expect("a primary");
        c.node(primary).sql("checkpoint").await.expect("a primary");
    }
    c.node(primary).sql("select pg_switch_wal()").await.expect("a primary");
    let left = format!(
        "select count(*) from pg_ls_waldir() where length(name) = 24 and name <= '{needed}'"
    );
    eventually("the primary has given up the WAL", within(20), async || {
        c.node(primary).sql("checkpoint").await.ok()?;
        (c.node(primary).sql(&left).await.as_deref() == Ok("0")).then_some(())
    })
    .await;
}

pub(super) fn clones(c: &Cluster, node: &str) -> usize {
    logs::count(&c.node(node).log(), "step=\"clone\" took_ms")
}

/// Rule 78: a lost slot is catch-up from the witness.
#[test]
fn a_standby_whose_slot_was_lost_catches_up_from_the_witness_without_a_clone_rule_78() {
    let plan = Plan::within(180).quorum().announces(&FAULTS).patience(30);
    scenario(plan.announces(&["lost", "removed"]), async |c| {
        keep_little(c);
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        c.more_writes(30, within(10)).await;
        let before = clones(c, &standby);
        c.node_mut(&standby).kill_everything();
        move_on(c, &primary).await;
        c.node_mut(&standby).start();
        c.healthy(within(90)).await;
        assert_eq!(clones(c, &standby), before, "caught up, not cloned");
        c.end_writing_and_check(None).await;
        c.same_rows(within(20)).await;
    });
}

#[test]
fn without_anybody_who_has_the_wal_the_standby_is_cloned_by_itself() {
    let plan = Plan::within(180).quorum().announces(&FAULTS).patience(30);
    scenario(plan.announces(&["lost", "removed", "nowhere", "set aside"]), async |c| {
        keep_little(c);
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        let witness = c.witness();
        c.write().await;
        c.more_writes(30, within(10)).await;
        let before = clones(c, &standby);
        c.node_mut(&standby).kill_everything();
        move_on(c, &primary).await;
        // The witness lost its files: nobody has what the standby needs.
        c.node_mut(&witness).kill_everything();
        // Nobody acknowledges until it is back.
        std::fs::remove_dir_all(c.node(&witness).wal_dir()).expect("the witness's WAL");
        c.node_mut(&witness).start();
        c.node_mut(&standby).start();
        let status = c.healthy(within(90)).await;
        assert_eq!(status::holder(&status), primary);
        assert_eq!(clones(c, &standby), before + 1, "cloned once");
        c.end_writing_and_check(None).await;
        c.same_rows(within(20)).await;
    });
}

/// The same in `async`, where the witness keeps nothing at all.
#[test]
fn in_async_a_lost_slot_leads_to_a_clone_by_itself() {
    let plan = Plan::within(180).witness_without_programs().announces(&FAULTS);
    let plan = plan.announces(&["lost", "removed", "nowhere", "does not acknowledge commits"]);
    scenario(plan, async |c| {
        keep_little(c);
        let (primary, standby) = c.bootstrap().await;
        c.mode_in_force(Mode::Async, within(10)).await;
        let before = clones(c, &standby);
        c.node_mut(&standby).kill_everything();
        move_on(c, &primary).await;
        c.node_mut(&standby).start();
        eventually("it is cloned", within(60), async || {
            (clones(c, &standby) > before).then_some(())
        })
        .await;
        c.streaming(within(30)).await;
        c.same_rows(within(20)).await;
        assert_eq!(clones(c, &standby), before + 1, "cloned once");
    });
}
