//! The commands of the documentation that only look, on a real cluster.

use ha_tests::{Plan, docs, programs, scenario, within};

use super::FAULTS;

#[test]
fn what_the_documentation_tells_people_to_look_at_can_be_looked_at() {
    let plan = Plan::within(180).quorum().announces(&FAULTS).patience(30);
    scenario(plan.announces(&["slot"]), async |c| {
        c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        let mut run = 0;
        for command in docs::PAGES.into_iter().flat_map(docs::commands) {
            if !docs::only_looks(&command.words) {
                continue;
            }
            let words: Vec<&str> = command.words.iter().skip(1).map(String::as_str).collect();
            let output = c.haclt(&words);
            let code = output.status.code();
            let shown = format!("{}: {}", command.place, command.words.join(" "));
            // A machine of tests gives the doctor something to find; an order may be refused for a node that
            // is primary already. What is never right is a command that is wrong.
            let fine = match words.first().copied() {
                Some("doctor") => matches!(code, Some(0 | 1)),
                Some("switchover" | "failover") => matches!(code, Some(0 | 3)),
                _ => code == Some(0),
            };
            assert!(fine, "{shown}: {code:?} {}", programs::said(&output));
            run += 1;
        }
        c.say(&format!("{run} commands"));
        assert!(run > 25, "only {run} commands were run");
    });
}
