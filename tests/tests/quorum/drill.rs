//! Faults that the agents make themselves, for a rehearsal: measured, bounded, and over by themselves.

use std::fs;
use std::time::{Duration, Instant};

use ha_tests::{Cluster, Plan, eventually, processes, scenario, status, within};
use rustix::process::Signal;
use serde_json::Value;

use super::FAULTS;

/// What is said of a drill, beside what is said of its fault.
const DRILLS: [&str; 4] =
    ["a fault is made, for a drill", "peer does not answer", "switchover", "renew"];

/// What the table of a drill is in.
const SCHEMA: &str = "select count(*)::text from pg_namespace where nspname = 'haclt_drill'";

/// Runs a drill with `haclt`; returns its exit code, what it measured, and all that it printed.
fn drill(c: &Cluster, arguments: &[&str]) -> (i32, Value, String) {
    let output = c.haclt(&[&["drill", "--yes", "--json"], arguments].concat());
    let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.code().expect("not killed"), json, text)
}

fn number(json: &Value, key: &str) -> i64 {
    json[key].as_i64().unwrap_or_else(|| panic!("{key} is a number in {json}"))
}

/// Returns whether the process stands still.
fn is_stopped(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// Runs a drill of which nothing may be lost, and checks what it must leave behind.
async fn rehearse(c: &mut Cluster, arguments: &[&str], moves: bool) -> Value {
    let before = c.healthy(within(60)).await;
    let (code, json, text) = drill(c, arguments);
    assert_eq!(code, 0, "{arguments:?}: {text}");
    assert_eq!(json["lost"], 0, "{text}");
    assert!(number(&json, "gap_ms") > 0 && number(&json, "acknowledged") > 50, "{text}");
    assert_eq!((&json["healthy"], &json["cleaned"]), (&true.into(), &true.into()), "{text}");
    assert_eq!(json["primary_before"], status::holder(&before), "{text}");
    let after = c.healthy(within(20)).await;
    assert_eq!(json["primary_after"], status::holder(&after), "{text}");
    if moves {
        assert!(after.epoch > before.epoch, "{text}");
        assert_ne!(status::holder(&after), status::holder(&before), "{text}");
    }
    let left = c.node(status::holder(&after)).sql(SCHEMA).await;
    assert_eq!(left.as_deref(), Ok("0"), "the table is dropped");
    let gap = number(&json, "gap_ms");
    let (acknowledged, failed) = (number(&json, "acknowledged"), number(&json, "failed"));
    c.say(&format!("{arguments:?}: gap {gap} ms, {acknowledged} acknowledged, {failed} failed"));
    json
}

#[test]
fn each_kind_of_drill_is_measured_loses_nothing_and_ends_by_itself() {
    let plan = Plan::within(280).quorum().announces(&FAULTS).announces(&DRILLS);
    scenario(plan, async |c| {
        c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        c.more_writes(20, within(10)).await;

        let json = rehearse(c, &["switchover"], true).await;
        assert!(number(&json, "gap_ms") < 3000, "quicker than a failover: {json}");
        rehearse(c, &["crash"], false).await;

        let picture = c.base.join("freeze.svg");
        let picture = picture.to_str().expect("a path");
        let json = rehearse(c, &["freeze", "--output", picture], true).await;
        let kinds: Vec<&str> = json["events"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|event| event["kind"].as_str())
            .collect();
        for kind in ["silent", "vacated", "granted", "promoted", "answers"] {
            assert!(kinds.contains(&kind), "{kind}: {kinds:?}");
        }
        // The database goes on until its guard ends it, before the lease does; nobody is granted it before that.
        let from = number(&json, "gap_from_ms");
        assert!(from > 500 && number(&json, "gap_ms") > 300, "{json}");
        let drawn = fs::read_to_string(picture).expect("it is drawn");
        assert!(drawn.starts_with("<svg") && drawn.ends_with("</svg>\n"), "{drawn}");

        rehearse(c, &["partition", "--seconds", "7"], true).await;
        // Shorter than the lease: nobody takes over.
        let before = c.healthy(within(20)).await;
        let json = rehearse(c, &["partition", "--seconds", "1"], false).await;
        assert_eq!(number(&json, "epoch_after").unsigned_abs(), before.epoch, "{json}");

        let output = c.haclt(&["events", "--json"]);
        let events = String::from_utf8_lossy(&output.stdout).into_owned();
        let ended = events.matches("ended: ").count();
        assert!(ended >= 5 && events.contains("acknowledged writes lost, healthy"), "{events}");
        c.end_writing_and_check(Some(0)).await;
        c.same_rows(within(20)).await;
    });
}

/// Waits until the record says that no drill is under way.
async fn drill_ended(c: &Cluster, so_many: usize, limit: Duration) {
    eventually("the end of the drill is on record", limit, async || {
        let output = c.haclt(&["events", "--json"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (text.matches("ended: ").count() >= so_many).then_some(())
    })
    .await;
}

#[test]
fn a_fault_ends_by_itself_when_haclt_is_killed_in_the_middle_of_it() {
    let plan = Plan::within(200).quorum().announces(&FAULTS).announces(&DRILLS);
    scenario(plan, async |c| {
        c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        c.more_writes(20, within(10)).await;
        for (kind, so_many) in [("freeze", 1), ("partition", 2)] {
            let before = c.healthy(within(60)).await;
            let primary = status::holder(&before).to_owned();
            let agent = c.node(&primary).agent_pid();
            let began = Instant::now();
            let mut haclt = c.haclt_child(&["drill", kind, "--seconds", "12", "--yes"]);
            eventually(&format!("the {kind} of {primary} is noticed"), within(30), async || {
                let witness = c.witness();
                let seen = c.node(&witness).status().await?;
                (!status::node(&seen, &primary).reachable).then_some(())
            })
            .await;
            assert_eq!(is_stopped(agent), kind == "freeze", "{kind}");
            let (code, _, text) = drill(c, &["crash"]);
            assert_eq!(code, 3, "one drill at a time: {text}");
            haclt.kill().expect("it runs");
            haclt.wait().expect("it ends");
            let noticed = began.elapsed();
            // Nobody orders its end.
            eventually(&format!("the {kind} is over"), Duration::from_secs(20), async || {
                let witness = c.witness();
                let seen = c.node(&witness).status().await?;
                (!is_stopped(agent) && status::node(&seen, &primary).reachable).then_some(())
            })
            .await;
            let over = began.elapsed();
            assert_eq!(c.node(&primary).agent_pid(), agent, "it is the same agent");
            let after = c.healthy(within(60)).await;
            assert!(after.epoch > before.epoch, "{kind}");
            drill_ended(c, so_many, within(60)).await;
            let left = c.node(status::holder(&after)).sql(SCHEMA).await;
            assert_eq!(left.as_deref(), Ok("0"), "the table is dropped");
            c.say(&format!("{kind}: noticed after {noticed:.1?}, over after {over:.1?}"));
        }
        c.end_writing_and_check(Some(0)).await;
        c.same_rows(within(20)).await;
    });
}

/// Returns the helpers that continue this agent.
fn helpers(agent: i32) -> Vec<(i32, String)> {
    let all = fs::read_dir("/proc").expect("/proc is mounted");
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<String> = line
            .split(|b| *b == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        let [_, thaw, part, of, ..] = words.as_slice() else { return None };
        (thaw == "thaw" && *of == agent.to_string()).then(|| (pid, part.clone()))
    })
    .collect()
}

/// Begins a drill that nobody watches; returns the primary's name and its agent.
async fn begin(c: &Cluster, arguments: &[&str]) -> (String, i32, std::process::Child) {
    let before = c.healthy(within(60)).await;
    let primary = status::holder(&before).to_owned();
    let agent = c.node(&primary).agent_pid();
    let haclt = c.haclt_child(&[&["drill", "--yes"], arguments].concat());
    (primary, agent, haclt)
}

/// One of the two is enough, and one that is told to end continues the agent at once.
#[test]
fn a_frozen_agent_goes_on_whichever_of_its_helpers_dies() {
    let plan = Plan::within(200).quorum().announces(&FAULTS).announces(&DRILLS);
    scenario(plan, async |c| {
        c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        let cases =
            [("stop", Signal::KILL, 7), ("keep", Signal::KILL, 7), ("keep", Signal::TERM, 0)];
        for (part, signal, at_least_s) in cases {
            let (_, agent, mut haclt) = begin(c, &["freeze", "--seconds", "8"]).await;
            eventually("the agent stands still", within(20), async || {
                is_stopped(agent).then_some(())
            })
            .await;
            let began = Instant::now();
            let known = helpers(agent);
            assert_eq!(known.len(), 2, "{known:?}");
            let (victim, _) = known.iter().find(|(_, is)| is == part).expect("a helper");
            processes::send(*victim, signal);
            eventually("the agent goes on", within(15), async || {
                (!is_stopped(agent)).then_some(())
            })
            .await;
            let took = began.elapsed();
            c.say(&format!("{part} {signal:?}: on after {took:.1?}"));
            assert!(took < Duration::from_secs(10) && took.as_secs() >= at_least_s, "{took:?}");
            assert_eq!(haclt.wait().expect("it ends").code(), Some(0), "{part}");
        }
    });
}

/// What it leaves behind is cleared away by whoever leads then.
#[test]
fn a_drill_whose_conductor_dies_ends_all_the_same() {
    let plan = Plan::within(200).quorum().announces(&FAULTS).announces(&DRILLS);
    scenario(plan.announces(&["a drill was left unfinished"]), async |c| {
        c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        let settled = c.settled(within(30)).await;
        let conductor = settled.raft.as_ref().expect("a leader").leader.clone();
        let (primary, _, mut haclt) = begin(c, &["partition", "--seconds", "4"]).await;
        eventually("the partition is noticed", within(20), async || {
            let seen = c.node(&conductor).status().await?;
            (!status::node(&seen, &primary).reachable).then_some(())
        })
        .await;
        c.node_mut(&conductor).kill_agent();
        assert_eq!(haclt.wait().expect("it ends").code(), Some(4), "nobody knows how it ended");
        c.node_mut(&conductor).start();
        let after = c.healthy(within(60)).await;
        drill_ended(c, 1, within(40)).await;
        let left = c.node(status::holder(&after)).sql(SCHEMA).await;
        assert_eq!(left.as_deref(), Ok("0"), "the table is dropped");
        let (code, json, text) = drill(c, &["switchover"]);
        assert_eq!((code, &json["lost"]), (0, &0.into()), "the next one may begin: {text}");
    });
}

#[test]
fn what_is_not_as_it_should_be_is_a_reason_not_to_begin() {
    let plan = Plan::within(150).quorum().announces(&FAULTS).announces(&DRILLS);
    scenario(plan, async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        let refused = |arguments: &[&str], expected: i32, why: &str| {
            let (code, _, text) = drill(c, arguments);
            assert_eq!(code, expected, "{arguments:?}: {text}");
            assert!(text.contains(why), "{arguments:?}: {text}");
        };
        refused(&["crash", "--node", &standby], 3, "a drill is of the primary");
        refused(&["crash", "--to", &standby], 2, "only a switchover has a target");
        refused(&["crash", "--seconds", "5"], 2, "a crash has no duration");
        refused(&["freeze", "--seconds", "61"], 2, "--seconds");
        let output = c.haclt(&["drill", "freeze"]);
        assert_eq!(output.status.code(), Some(2), "nobody was asked");
        let output = c.haclt(&["drill", "freeze", "--dry-run"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(text.contains(&format!("the agent of {primary} is stopped (SIGSTOP) for 8 s")));

        // A schema of that name that is not haclt's is left alone.
        let node = c.node(&primary);
        node.sql("create schema haclt_drill").await.expect("a schema");
        refused(&["crash"], 1, "was not made by haclt");
        node.sql("drop schema haclt_drill").await.expect("it is there still");

        let done = c.haclt(&["pause"]);
        assert_eq!(done.status.code(), Some(0));
        refused(&["crash"], 3, "the cluster is paused");
        let done = c.haclt(&["resume"]);
        assert_eq!(done.status.code(), Some(0));
        let ready = c.healthy(within(30)).await;
        assert_eq!(ready.epoch, 1, "nothing was done");
    });
}

#[test]
fn in_async_mode_a_fault_needs_a_word_about_loss() {
    let plan = Plan::within(150).announces(&FAULTS).announces(&DRILLS);
    scenario(plan, async |c| {
        c.bootstrap().await;
        for kind in ["crash", "freeze", "partition"] {
            let (code, _, text) = drill(c, &[kind]);
            assert_eq!(code, 3, "{kind}: {text}");
            assert!(text.contains("--accept-data-loss"), "{kind}: {text}");
        }
        rehearse(c, &["switchover"], true).await;
        let (code, json, text) = drill(c, &["crash", "--accept-data-loss"]);
        // A crash takes the standby only if it has every byte.
        assert_eq!((code, &json["lost"]), (0, &0.into()), "{text}");
        c.healthy(within(30)).await;
    });
}
