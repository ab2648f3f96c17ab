//! The primary role handed over behind a real PgBouncer: clients wait, and see no error.

use std::time::Duration;

use ha_tests::{Bouncer, Cluster, Plan, admin, bouncer, eventually, scenario, status, within};

use super::FAULTS;

/// What is said of a switchover that does not come about.
const BROKEN: [&str; 4] = ["switchover", "killed", "right of epoch", "could not tell PgBouncer"];
/// PgBouncers that have time.
const PATIENT: &str = "pause_timeout = \"5s\"";
/// Switchovers under load.
const SWITCHOVERS: u32 = 6;
/// How long clients may have to wait in one of them.
const WAIT_MAX: Duration = Duration::from_secs(6);

fn switch(c: &Cluster, to: &str) -> (i32, String) {
    let output = c.haclt(&["switchover", "--to", to]);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().expect("not killed"), String::from_utf8_lossy(&text).into_owned())
}

async fn primary(c: &Cluster) -> (String, u64) {
    let status = c.healthy(within(60)).await;
    (status::holder(&status).to_owned(), status.epoch)
}

#[test]
fn clients_of_two_pgbouncers_see_no_error_in_any_of_six_switchovers() {
    scenario(Plan::within(200).quorum(), async |c| {
        let mut bouncer = Bouncer::new(c, "scram-sha-256", PATIENT);
        // Paused by the database's name.
        let mut other = Bouncer::new(c, "md5", "databases = [\"postgres\"]");
        // Nobody can come in through one that does not run.
        let absent = Bouncer::new(c, "md5", PATIENT);
        bouncer.start().await;
        other.start().await;
        let (mut old, _) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        bouncer::prepare(&c.node(&old).postgres());
        bouncer.writes(within(20)).await;
        other.writes(within(20)).await;
        let load = bouncer.load(6, 40);
        let more_load = other.load(4, 40);
        for number in 1..=SWITCHOVERS {
            c.quorum_in_force(1, within(20)).await;
            let new = c.other(&old);
            let (code, text) = switch(c, &new);
            assert_eq!(code, 0, "{text}");
            assert!(text.contains("resumed: 2 PgBouncer(s)"), "{text}");
            c.say(&format!("{number}: {}", text.replace('\n', "; ")));
            let host = c.node(&new).postgres();
            let host = host.rsplit_once(':').expect("host and port").0;
            for bouncer in [&bouncer, &other, &absent] {
                let points = bouncer.databases().contains(&format!("host={host} "));
                assert!(points, "it points at {new}: {}", bouncer.databases());
            }
            c.healthy(within(20)).await;
            old = new;
        }
        let mut done = 0;
        for load in [load, more_load] {
            let seen = load.end_without_error().await;
            let slowest = seen.slowest.as_millis();
            c.say(&format!(
                "{} transactions, none failed, slowest {slowest} ms",
                seen.transactions
            ));
            assert!(seen.slowest < WAIT_MAX, "{:?}", seen.slowest);
            assert!(seen.transactions > 100, "there was load: {}", seen.said);
            done += seen.transactions;
        }
        let rows = c.node(&old).sql("select count(*) from pgbench_history").await;
        assert_eq!(rows, Ok(done.to_string()), "each of them is there, and once");
    });
}

#[test]
fn a_transaction_that_stays_open_breaks_the_switchover_off() {
    scenario(Plan::within(120).quorum().announces(&BROKEN), async |c| {
        let mut bouncer = Bouncer::new(c, "md5", "pause_timeout = \"1500ms\"");
        bouncer.start().await;
        let (old, new) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        bouncer.writes(within(20)).await;
        let holds = bouncer.session().await.expect("PgBouncer lets us in");
        holds.batch_execute("begin; select 1").await.expect("an open transaction");
        let run = c.node(&old).guard_status().expect("a guard").run;
        let (code, text) = switch(c, &new);
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("could not pause PgBouncer"), "{text}");
        c.say(&text.replace('\n', "; "));
        assert_eq!(primary(c).await, (old.clone(), 1), "the same grant");
        assert_eq!(c.node(&old).guard_status().expect("a guard").run, run, "it was never stopped");
        bouncer.writes(within(3)).await;
        holds.batch_execute("select 1; commit").await.expect("the transaction goes on");
        let (code, text) = switch(c, &new);
        assert_eq!(code, 0, "{text}");
        bouncer.writes(within(5)).await;
        assert_eq!(primary(c).await, (new, 2));
    });
}

#[test]
fn a_pgbouncer_goes_on_by_itself_if_the_agent_that_paused_it_dies() {
    // Where the agent of the old primary dies, and whether it comes back at once.
    let places = [
        ("switchover: paused", true),
        ("switchover: paused", false),
        ("hand over: stopped", false),
        ("switchover: given up", true),
        ("switchover: transferred", false),
    ];
    let plan = Plan::within(240).quorum().announces(&FAULTS).announces(&BROKEN);
    scenario(plan, async |c| {
        let mut bouncer = Bouncer::new(c, "scram-sha-256", PATIENT);
        bouncer.start().await;
        c.bootstrap().await;
        for (place, back) in places {
            c.quorum_in_force(1, within(60)).await;
            bouncer.writes(within(20)).await;
            let (old, epoch) = primary(c).await;
            let new = c.other(&old);
            c.node(&old).crash_at(place);
            let (asked, from) = (c.node(&c.witness()).grpc(), old.clone());
            let order = tokio::spawn(async move {
                admin::switchover(&asked, &from, &new, epoch, Duration::from_secs(5)).await
            });
            c.node_mut(&old).crashed(within(40)).await;
            let died = std::time::Instant::now();
            if back {
                c.node_mut(&old).start();
            }
            // The ttl, an election, and no more.
            bouncer.writes(within(9)).await;
            let waited = died.elapsed().as_millis();
            c.say(&format!("{place}, back at once: {back}: clients went on after {waited} ms"));
            if !back {
                c.node_mut(&old).start();
            }
            drop(order.await.expect("no panic"));
        }
        c.healthy(within(60)).await;
    });
}

/// A failover is nothing that clients do not notice, but they need not be told where to go.
#[test]
fn after_a_failover_a_pgbouncer_points_at_the_new_primary() {
    scenario(Plan::within(120).quorum().announces(&FAULTS).announces(&BROKEN), async |c| {
        let mut bouncer = Bouncer::new(c, "scram-sha-256", PATIENT);
        let (old, new) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        // It was not there when the file was written.
        bouncer.start().await;
        bouncer.writes(within(20)).await;
        c.node_mut(&old).kill_everything();
        c.primary_is(&new, within(30)).await;
        bouncer.writes(within(20)).await;
        assert_eq!(bouncer.logged("got fatal error"), 0, "it is told in a way that it understands");
        c.node_mut(&old).start();
        c.healthy(within(60)).await;
        eventually("the file stays as it is", within(5), async || {
            let host = c.node(&new).postgres();
            let host = host.rsplit_once(':').expect("host and port").0;
            bouncer.databases().contains(&format!("host={host} ")).then_some(())
        })
        .await;
    });
}
