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
        let line = "cannot join cluster orders: its Raft store is new";
        let log = c.node(&standby).log();
        eventually("the twin waits", within(30), async || {
            logs::read(&log).contains(line).then_some(())
        })
        .await;
        // It is not what the others know, as long as that one is at work.
        let refused = c.haclt(&["node", "replace", &standby]);
        assert!(refused.status.success(), "the node that is known answers: nothing is replaced");
        assert!(String::from_utf8_lossy(&refused.stdout).contains("(as before)"));
        twin.kill().expect("a child");
        twin.wait().expect("a child");
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
fn a_node_that_lost_its_raft_store_takes_part_in_nothing_until_it_is_taken_in() {
    let plan = Plan::within(150).announces(&FAILOVER);
    let plan = plan.announces(&["cannot join cluster", "cannot take a message"]);
    scenario(plan, async |c| {
        let (primary, _) = c.bootstrap().await;
        c.node_mut("n3").kill_agent();
        let old = c.node("n3").raft_dir().with_extension("old");
        std::fs::rename(c.node("n3").raft_dir(), &old).expect("its store");
        c.node_mut("n3").start();
        c.trouble("n3", "its Raft store is new", within(30)).await;
        let status = c.node(&primary).status().await.expect("an answer");
        assert_eq!((status.epoch, status::holder(&status)), (1, primary.as_str()));
        let listed = c.haclt(&["node", "list"]);
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(text.contains("with another store"), "{text}");
        // A voter that forgot its votes could elect twice: its vote does not count.
        let other = c.other(&primary);
        c.node_mut(&other).kill_everything();
        eventually("without a majority the primary is stopped", within(30), async || {
            c.node(&primary).postmaster().is_none().then_some(())
        })
        .await;
        c.node_mut(&other).start();
        let status = c.streaming(within(60)).await;
        let primary = status::holder(&status).to_owned();
        let other = c.other(&primary);
        let replaced = c.haclt(&["node", "replace", "n3", "--timeout", "60"]);
        let said = [replaced.stdout, replaced.stderr].concat();
        assert!(replaced.status.success(), "{}", String::from_utf8_lossy(&said));
        c.healthy(within(60)).await;
        // Its vote counts again.
        c.node_mut(&other).kill_everything();
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        let kept = c.node(&primary).sql("insert into writes values (1, 'kept')").await;
        assert!(kept.is_ok(), "with its vote there is a majority: {kept:?}");
        c.node_mut(&other).start();
        c.healthy(within(60)).await;
        // The old host comes back.
        c.node_mut("n3").kill_agent();
        std::fs::remove_dir_all(c.node("n3").raft_dir()).expect("its new store");
        std::fs::rename(&old, c.node("n3").raft_dir()).expect("its old store");
        c.node_mut("n3").start();
        let end = c.node_mut("n3").agent_end(within(30)).await;
        assert_eq!(end.code(), Some(3), "refused by a rule");
        let said = logs::read(&c.node("n3").log());
        assert!(said.contains("hint: This store was a voter once"), "{said}");
        // It may have led: then the others elect first.
        eventually("it is refused", within(20), async || {
            let refused = c.haclt(&["node", "replace", "n3"]);
            (refused.status.code() == Some(3)).then_some(())
        })
        .await;
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
