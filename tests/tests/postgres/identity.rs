//! Names and ports that somebody else has.

use std::net::TcpListener;

use ha_tests::{Plan, eventually, logs, scenario, status, within};

use super::FAILOVER;

#[test]
fn a_second_agent_of_one_name_is_refused() {
    let plan =
        Plan::within(120).announces(&["cannot join cluster", "cannot use the Raft store of"]);
    scenario(plan.announces(&["cannot listen on"]), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.write().await;
        let before = c.healthy(within(10)).await;
        // The same machine, started twice: the first has the port and the store.
        let mut twin = c.node(&standby).spawn();
        let end = eventually("the twin ends", within(20), async || twin.try_wait().ok()?).await;
        assert_eq!(end.code(), Some(1));
        let said = logs::read(&c.node(&standby).log());
        assert!(said.contains("error: cannot listen on"), "{said}");
        // On another port, but with the same directory: the store is locked.
        let config = c.node(&standby).config.clone();
        let elsewhere = c.node(&standby).grpc().replace(":7431", ":7432");
        c.node_mut(&standby).config.text("listen.grpc", &elsewhere);
        let mut twin = c.node(&standby).spawn();
        let end = eventually("the twin ends", within(20), async || twin.try_wait().ok()?).await;
        assert_eq!(end.code(), Some(1));
        let said = logs::read(&c.node(&standby).log());
        assert!(said.contains("it is in use by process"), "{said}");
        // A twin with directories of its own: the cluster knows another store under this name.
        let own = c.node(&standby).dir.join("twin");
        c.node_mut(&standby).config.text("data_dir", own.join("agent").display());
        c.node_mut(&standby).config.text("postgres.data_dir", own.join("pg").display());
        c.node_mut(&standby).config.text("postgres.permit_dir", own.join("permits").display());
        c.node_mut(&standby).config.text("postgres.log_dir", own.join("log").display());
        let listen = c.node(&standby).postgres().replace(":5431", ":5432");
        c.node_mut(&standby).config.text("postgres.listen", listen);
        std::fs::create_dir_all(own.join("pg")).expect("a writable directory");
        let mut twin = c.node(&standby).spawn();
        let end = eventually("the twin ends", within(30), async || twin.try_wait().ok()?).await;
        assert_eq!(end.code(), Some(3), "refused by a rule");
        let said = logs::read(&c.node(&standby).log());
        let line = "error: cannot join cluster orders as node";
        assert!(said.contains(line) && said.contains("hint:"), "{said}");
        assert!(std::fs::read_dir(own.join("pg")).is_ok_and(|mut dir| dir.next().is_none()));
        c.node_mut(&standby).config = config;
        // Nobody noticed.
        let after = c.healthy(within(20)).await;
        assert_eq!((after.epoch, status::holder(&after)), (before.epoch, primary.as_str()));
        let gap = c.writer().so_far().longest_gap();
        assert!(gap < std::time::Duration::from_secs(1), "a gap of {gap:?}");
    });
}

#[test]
fn a_node_that_lost_its_raft_store_must_not_come_back_under_its_name() {
    let plan = Plan::within(120).announces(&["cannot join cluster"]);
    scenario(plan, async |c| {
        let (primary, _) = c.bootstrap().await;
        c.node_mut("n3").kill_agent();
        std::fs::remove_dir_all(c.node("n3").raft_dir()).expect("its store");
        c.node_mut("n3").start();
        let end = c.node_mut("n3").agent_end(within(30)).await;
        assert_eq!(end.code(), Some(3), "a voter that forgot its votes could elect twice");
        let said = logs::read(&c.node("n3").log());
        assert!(said.contains("hint: If this node's disk was lost"), "{said}");
        let status = c.primary_is(&primary, within(10)).await;
        assert_eq!(status.epoch, 1);
    });
}

#[test]
fn a_taken_grpc_port_ends_the_agent_with_one_clear_line() {
    scenario(Plan::within(60).announces(&["cannot listen on"]), async |c| {
        let address = c.node("n3").grpc();
        let held = TcpListener::bind(&address).expect("a free port");
        c.node_mut("n3").start();
        let end = c.node_mut("n3").agent_end(within(20)).await;
        assert_eq!(end.code(), Some(1));
        let said = logs::read(&c.node("n3").log());
        let line = format!("error: cannot listen on {address}: Address already in use");
        assert!(said.contains(&line) && said.contains("hint:"), "{said}");
        drop(held);
    });
}

#[test]
fn a_taken_postgres_port_is_named_in_the_status() {
    let plan = Plan::within(120).announces(&FAILOVER).announces(&["step failed"]);
    scenario(plan, async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.node_mut(&standby).kill_everything();
        let held = TcpListener::bind(c.node(&standby).postgres()).expect("a free port");
        c.node_mut(&standby).start();
        let status = c.trouble(&standby, "ddress already in use", within(40)).await;
        c.say(&status::node(&status, &standby).troubles.join("; "));
        assert_eq!((status.epoch, status::holder(&status)), (1, primary.as_str()));
        drop(held);
        c.healthy(within(60)).await;
    });
}
