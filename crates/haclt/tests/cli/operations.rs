//! Pauses, fences, failovers, clones, reloads, schedules, and what happened.

use ha_proto::v1::{FailoverPlanReply, OrderReply};
use tonic::Status;

use crate::agent::{Agent, Script};
use crate::{DONE, FAILED, REFUSED, UNKNOWN, WRONG, ask, assert_ran};

fn answering(outcome: &'static str, detail: &'static str) -> Script {
    let order =
        Box::new(move |_, _| Ok(OrderReply { outcome: outcome.into(), detail: detail.into() }));
    Script { order, ..Script::default() }
}

#[tokio::test]
async fn an_order_is_given_with_who_asks_and_its_end_is_said() {
    #[rustfmt::skip]
    let table: [(&[&str], &str, &[&str]); 19] = [
        (&["pause", "--reason", "new switches"], "pause is done\n", &["PauseRequest", "why: \"new switches\""]),
        (&["resume"],                       "resume is done\n", &["ResumeRequest", "without: \"\""]),
        (&["resume", "--without", "n1", "--yes"], "resume is done\n", &["without: \"n1\""]),
        (&["fence", "n2", "--reason", "disk"], "fence is done\n", &["FenceRequest", "node: \"n2\"", "why: \"disk\""]),
        (&["unfence", "n2"],                "unfence is done\n", &["UnfenceRequest", "node: \"n2\""]),
        (&["reclone", "n2", "--max-rate", "2", "--from", "n1"], "reclone is done\n", &["what: \"clone\"", "from: \"n1\"", "max_rate_kib: 2048"]),
        (&["reclone", "n2", "--cancel"],    "reclone is done\n", &["what: \"cancel\""]),
        (&["rejoin", "n1"],                 "reclone is done\n", &["what: \"rejoin\"", "node: \"n1\""]),
        (&["node", "add", "n4", "h:7400"], "node_add is done\n",     &["NodeAddRequest", "node: \"n4\"", "grpc: \"h:7400\""]),
        (&["node", "add", "n4"],         "node_add is done\n",     &["grpc: \"\""]),
        (&["node", "remove", "n4"],      "node_remove is done\n",  &["NodeRemoveRequest", "node: \"n4\""]),
        (&["node", "replace", "n3"],     "node_replace is done\n", &["NodeReplaceRequest", "node: \"n3\""]),
        (&["credentials", "rotate", "postgres"], "credentials_rotate is done\n", &["CredentialsRotateRequest", "user: \"postgres\"", "dry_run: false"]),
        (&["credentials", "rotate", "--dry-run"], "credentials_rotate is done\n", &["user: \"\"", "dry_run: true"]),
        (&["credentials", "rotate", "--wait", "3s"], "credentials_rotate is done\n", &["dry_run: false"]),
        (&["reload", "n1"],                 "reload is done\n", &["ReloadRequest", "node: \"n1\""]),
        (&["switchover", "--at", "2h", "--to", "n2"], "schedule_add is done\n", &["ScheduleAddRequest", "to: \"n2\""]),
        (&["switchover", "--cancel", "3"],  "schedule_cancel is done\n", &["ScheduleCancelRequest", "id: 3"]),
        (&["failover", "--accept-data-loss", "--yes", "--to", "n2"], "failover is done\n", &["FailoverRequest", "accept_data_loss: true", "epoch: 7"]),
    ];
    for (args, out, asked) in table {
        let agent = Agent::start(Script::default()).await;
        let ran = ask(&[agent.address], args).await;
        assert_eq!((ran.code, ran.out.as_str()), (DONE, out), "{args:?}: {}", ran.err);
        let orders = agent.others();
        assert_eq!(orders.len(), 1, "{args:?}");
        for part in asked {
            assert!(orders[0].contains(part), "{args:?}: {}", orders[0]);
        }
        assert!(orders[0].contains("by: \"") && !orders[0].contains("by: \"\""), "{}", orders[0]);
    }
}

#[tokio::test]
async fn the_exit_code_says_how_far_an_order_got() {
    let commands: [&[&str]; 5] =
        [&["credentials", "rotate"], &["pause"], &["resume"], &["fence", "n2"], &["unfence", "n2"]];
    for args in commands {
        let agent = Agent::start(answering("accepted", "n1 has to say so")).await;
        let ran = ask(&[agent.address], args).await;
        assert_eq!((ran.code, ran.out.as_str()), (UNKNOWN, ""), "{args:?}");
        assert!(ran.err.contains("n1 has to say so"), "{}", ran.err);
        let agent = Agent::start(answering("unchanged", "it is so")).await;
        assert_ran(&ask(&[agent.address], args).await, DONE, "it is so (as before)\n", "");
        let order = Box::new(|_, _| Err(Status::failed_precondition("node n2 holds the lease")));
        let agent = Agent::start(Script { order, ..Script::default() }).await;
        let ran = ask(&[agent.address], args).await;
        assert_eq!(ran.code, REFUSED, "{}", ran.err);
        assert!(ran.err.contains("node n2 holds the lease"), "{}", ran.err);
        let order = Box::new(|_, _| Err(Status::invalid_argument("node n9 is no node")));
        let agent = Agent::start(Script { order, ..Script::default() }).await;
        assert_eq!(ask(&[agent.address], args).await.code, WRONG);
    }
    let agent = Agent::start(answering("done", "paused")).await;
    let expected = "{\n  \"outcome\": \"done\",\n  \"detail\": \"paused\"\n}\n";
    assert_ran(&ask(&[agent.address], &["pause", "--json"]).await, DONE, expected, "");
}

#[tokio::test]
async fn what_may_lose_data_needs_the_clusters_name_or_yes() {
    let agent = Agent::start(Script::default()).await;
    let commands: [&[&str]; 2] =
        [&["resume", "--without", "n1"], &["failover", "--accept-data-loss"]];
    for args in commands {
        let ran = ask(&[agent.address], args).await;
        assert_eq!(ran.code, WRONG, "{args:?}: {}", ran.err);
        assert!(ran.err.contains("--yes"), "{}", ran.err);
    }
    assert!(agent.others().is_empty());
}

#[tokio::test]
async fn a_failover_says_who_would_win_and_at_which_cost() {
    let agent = Agent::start(Script::default()).await;
    let ran = ask(&[agent.address], &["failover", "--dry-run"]).await;
    let nobody = "lease     nobody\nwinner    nobody\nlost      nothing while nobody is promoted\n\
                  refused   n2: commits of epoch 7 may be missing\n";
    assert_ran(&ran, REFUSED, nobody, "");
    let ran = ask(&[agent.address], &["failover", "--dry-run", "--accept-data-loss"]).await;
    let somebody = "lease     nobody\nwinner    n2\n\
                    why       n2 has 2/0/5000098, 60 bytes short of the last known WAL\n\
                    expected  writes again after 0.3 s\nlost      at least 60 bytes\n\
                    refused   n1: its agent did not answer\n";
    assert_ran(&ran, DONE, somebody, "");
    let ran = ask(&[agent.address], &["failover", "--dry-run", "--json"]).await;
    assert!(ran.out.contains("\"winner\": null") && ran.out.contains("\"proven\": false"));
    let ran = ask(&[agent.address], &["failover"]).await;
    assert_eq!(ran.code, REFUSED, "{}", ran.err);
    assert!(ran.err.contains("error: could not fail over: nobody can be chosen\nhint: "));

    let failover_plan = Box::new(|_, _| {
        let (holder, winner) = ("n1".to_owned(), "n2".to_owned());
        Ok(FailoverPlanReply { holder, winner, serving: true, ..Default::default() })
    });
    let agent = Agent::start(Script { failover_plan, ..Script::default() }).await;
    let ran = ask(&[agent.address], &["failover"]).await;
    assert_eq!(ran.code, REFUSED, "{}", ran.err);
    assert!(ran.err.contains("node n1 is primary and serves: use haclt switchover"), "{}", ran.err);
    assert!(agent.others().is_empty());
}

#[tokio::test]
async fn what_happened_is_shown_with_who_asked() {
    let agent = Agent::start(Script::default()).await;
    let ran = ask(&[agent.address], &["events"]).await;
    assert_ran(&ran, DONE, include_str!("events.txt"), "");
    let ran = ask(&[agent.address], &["events", "--since", "2026-03-01T00:01:30Z"]).await;
    let last: Vec<&str> = ran.out.lines().collect();
    assert_eq!(last.len(), 2, "{}", ran.out);
    assert!(last[1].starts_with("*17"), "{}", ran.out);
    let ran = ask(&[agent.address], &["events", "--json"]).await;
    assert!(ran.out.contains("\"kind\": \"paused\"") && ran.out.contains("\"by\": \"ann@desk\""));
    let ran = ask(&[agent.address], &["events", "show", "17"]).await;
    assert_ran(&ran, DONE, include_str!("event.txt"), "");
    let ran = ask(&[agent.address], &["history"]).await;
    assert_ran(&ran, DONE, include_str!("history.txt"), "");
    let ran = ask(&[agent.address], &["switchover", "--scheduled"]).await;
    let expected = "ID  DUE                   TO  BY\n 3  2026-02-28T23:59:59Z  n2  ann@desk\n";
    assert_ran(&ran, DONE, expected, "");

    let event_show = Box::new(|_, _| Err(Status::not_found("no event has the number 99")));
    let agent = Agent::start(Script { event_show, ..Script::default() }).await;
    let ran = ask(&[agent.address], &["events", "show", "99"]).await;
    assert_eq!(ran.code, FAILED, "{}", ran.err);
    assert!(ran.err.contains("no event has the number 99"), "{}", ran.err);
}

#[tokio::test]
async fn a_clone_is_asked_about_until_it_has_ended() {
    let order = Box::new(|_, _| {
        Ok(OrderReply { outcome: "accepted".into(), detail: "clone: 5 of 10 bytes".into() })
    });
    let agent = Agent::start(Script { order, ..Script::default() }).await;
    let ran = ask(&[agent.address], &["reclone", "n2", "--timeout", "1"]).await;
    assert_eq!(ran.code, UNKNOWN, "{}", ran.err);
    assert!(ran.err.starts_with("clone: 5 of 10 bytes\nerror: "), "{}", ran.err);
    let number = |order: &String| order.split("number: ").nth(1).unwrap().to_owned();
    let numbers: Vec<String> = agent.others().iter().map(number).collect();
    assert!(
        numbers.len() > 1 && numbers.windows(2).all(|w| w[0] == w[1]),
        "one order: {numbers:?}"
    );
}

#[tokio::test]
async fn the_nodes_are_listed_with_their_stores() {
    let agent = Agent::start(Script::default()).await;
    let ran = ask(&[agent.address], &["node", "list"]).await;
    let expected = "\
NODE  KIND     AGENT           POSTGRES        RAFT          STORE     TAGS                   ANSWERS
n1    data     10.77.0.1:7400  10.77.0.1:5432  voter, leads  aaaaaaaa  read=false priority=5  yes
n2    data     10.77.0.2:7400  10.77.0.2:5432  voter         bbbbbbbb  -                      no
n3    witness  10.77.0.3:7400  -               voter         cccccccc  -                      with another store, dddddddd
";
    assert_ran(&ran, DONE, expected, "");
    let ran = ask(&[agent.address], &["node", "list", "--json"]).await;
    assert!(ran.out.contains("\"raft\": \"voter\"") && ran.out.contains("\"other_store\": null"));
    assert!(ran.out.contains("\"read\": false") && ran.out.contains("\"tags\": null"));
}
