//! Orders whose giver, or an agent, is killed at a random moment: the cluster becomes healthy by itself, or says
//! by name what it waits for, and nothing that was acknowledged is lost.
//!
//! A few rounds in each run of the tests; `HA_TEST_ROUNDS=50` for as many as the measurements were made with.

use std::time::{Duration, Instant};

use ha_tests::{Cluster, Plan, scenario, status, within};
use tokio::time::sleep;

use super::FAULTS;

/// What is said of orders that were cut short, beside the faults that are made.
const CUT_SHORT: [&str; 8] = [
    "switchover",
    "killed",
    "right of epoch",
    "killing an orphaned",
    "the stop was not",
    "kept WAL",
    "a fault is made, for a drill",
    "a drill was left unfinished",
];

/// Small numbers that look random, the same in each run: xorshift (G. Marsaglia, 2003).
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

pub(super) fn rounds() -> u64 {
    std::env::var("HA_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2)
}

/// Gives an order; kills `haclt`, or the agent of some node, after up to so many milliseconds. Returns who was
/// killed, and when.
async fn cut_short(c: &mut Cluster, dice: &mut Dice, order: &[&str], up_to_ms: u64) -> String {
    let after = dice.below(up_to_ms);
    let victim = dice.below(4);
    let mut haclt = c.haclt_child(order);
    sleep(Duration::from_millis(after)).await;
    let who = if victim == 3 {
        haclt.kill().expect("a child");
        "haclt".to_owned()
    } else {
        let name = c.nodes()[usize::try_from(victim).expect("three")].name.clone();
        let node = c.node_mut(&name);
        node.kill_agent();
        node.start();
        format!("the agent of {name}")
    };
    // Whatever it says: its exit code is no promise that the cluster has to keep.
    haclt.wait().expect("a child");
    format!("{who} killed after {after} ms")
}

async fn each(c: &mut Cluster, order: impl Fn(&str, &str) -> Vec<String>, up_to_ms: u64) {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ up_to_ms << 32);
    for round in 0..rounds() {
        let status = c.healthy(within(60)).await;
        let primary = status::holder(&status).to_owned();
        let standby = c.other(&primary);
        let order = order(&primary, &standby);
        let words: Vec<&str> = order.iter().map(String::as_str).collect();
        let told = cut_short(c, &mut dice, &words, up_to_ms).await;
        // An order that was taken is in force: it is ended, as an operator would.
        for ends in [&["resume", "--timeout", "60"][..], &["unfence", &standby, "--timeout", "60"]]
        {
            let ended = c.haclt(ends);
            let text = String::from_utf8_lossy(&ended.stderr).into_owned();
            assert!(ended.status.success(), "{ends:?} after {told}: {text}");
        }
        c.healthy(within(90)).await;
        c.more_writes(5, within(20)).await;
        c.say(&format!("round {round}: {}, {told}", order.join(" ")));
    }
}

fn plan() -> Plan {
    let limit = 60 + 45 * rounds();
    Plan::within(limit).quorum().announces(&FAULTS).announces(&CUT_SHORT)
}

fn words(all: &[&str]) -> Vec<String> {
    all.iter().map(|word| (*word).to_owned()).collect()
}

macro_rules! killed {
    ($($name:ident, $up_to_ms:literal, $order:expr;)*) => {
        $(#[test]
        fn $name() {
            scenario(plan(), async |c| {
                c.bootstrap().await;
                c.quorum_in_force(1, within(20)).await;
                c.write().await;
                let order: fn(&str, &str) -> Vec<String> = $order;
                each(c, order, $up_to_ms).await;
                c.end_writing_and_check(Some(0)).await;
                c.same_rows(within(20)).await;
            });
        })*
    };
}

killed! {
    a_switchover_that_is_cut_short, 600, |_, _| words(&["switchover"]);
    a_restart_of_the_primary_that_is_cut_short, 800, |primary, _| words(&["restart", primary]);
    a_restart_of_all_that_is_cut_short, 3000, |_, _| words(&["restart", "--all"]);
    a_pause_that_is_cut_short, 400, |_, _| words(&["pause"]);
    a_fence_that_is_cut_short, 600, |_, standby| words(&["fence", standby]);
    a_clone_that_is_cut_short, 1500, |_, standby| words(&["reclone", standby]);
    a_parameter_whose_change_is_cut_short, 400, |_, standby| {
        // Another value each time, so that there is something to change.
        let value = if standby == "n1" { "5MB" } else { "6MB" };
        words(&["config", "set", "postgres.parameters.work_mem", value])
    };
    a_drill_that_is_cut_short, 3000, |_, _| words(&["drill", "crash", "--yes"]);
}

/// The primary is lost, and an operator does not wait for the agents to see to it.
#[test]
fn a_failover_that_is_cut_short() {
    let plan = Plan::within(60 + 60 * rounds()).quorum().announces(&FAULTS).announces(&CUT_SHORT);
    scenario(plan, async |c| {
        c.bootstrap().await;
        c.write().await;
        let mut dice = Dice(0x2545_f491_4f6c_dd1d);
        for round in 0..rounds() {
            let status = c.healthy(within(60)).await;
            c.quorum_in_force(1, within(40)).await;
            let primary = status::holder(&status).to_owned();
            c.node_mut(&primary).kill_everything();
            let order = ["failover", "--timeout", "30"];
            let told = cut_short(c, &mut dice, &order, 4000).await;
            // Killed once more, it was started again.
            if !told.starts_with(&format!("the agent of {primary} ")) {
                c.node_mut(&primary).start();
            }
            c.healthy(within(90)).await;
            c.more_writes(5, within(20)).await;
            c.say(&format!("round {round}: {primary} lost, failover, {told}"));
        }
        c.end_writing_and_check(Some(0)).await;
        c.same_rows(within(20)).await;
    });
}

/// Half-way both passwords work; the same order, given again, goes on.
#[test]
fn a_change_of_passwords_that_is_cut_short() {
    scenario(plan(), async |c| {
        c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        each(c, |_, _| words(&["credentials", "rotate"]), 1200).await;
        let done = c.haclt(&["credentials", "rotate", "--wait", "60s"]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        c.healthy(within(60)).await;
        c.end_writing_and_check(Some(0)).await;
        c.same_rows(within(20)).await;
    });
}

/// One after the other under a load: none is stuck, none needs a rewind, nothing is lost.
#[test]
fn switchovers_in_a_row_lose_nothing_and_rewind_nobody() {
    let times = 5 * rounds();
    let plan = Plan::within(60 + 15 * times).quorum().announces(&FAULTS);
    scenario(plan, async |c| {
        c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        let mut gaps = Vec::new();
        for _ in 0..times {
            let began = Instant::now();
            let done = c.haclt(&["switchover", "--timeout", "60"]);
            let text = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(done.status.success(), "{text}");
            c.healthy(within(40)).await;
            c.more_writes(1, within(10)).await;
            gaps.push(c.writer().so_far().longest_gap_since(began).as_millis());
        }
        gaps.sort_unstable();
        let rewinds: usize = c
            .data_nodes()
            .map(|node| ha_tests::logs::count(&node.log(), "step=\"rewind\" took_ms"))
            .sum();
        assert_eq!(rewinds, 0);
        let (least, median, most) = (gaps[0], gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
        c.say(&format!("{times} switchovers, write gap {least} / {median} / {most} ms"));
        c.end_writing_and_check(Some(0)).await;
        c.same_rows(within(20)).await;
    });
}
