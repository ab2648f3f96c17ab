//! `haclt doctor`.

use ha_proto::v1::DoctorReply;

use crate::agent::{self, Agent, Script};
use crate::{DONE, FAILED, REFUSED, WRONG, ask, assert_ran};

const SHOWN: &str = "\
critical  peer-unreachable
  n1  to the agent of n3: connection refused
      mend: start the agent of n3
  n2  to the agent of n3: connection refused
      mend: start the agent of n3
warning  standby-missing
  n2  n3 receives no WAL from here
      mend: `haclt explain` says what n3 is waiting for
note  fsync-slow
  n1  could not check: data_dir: a mount point [2J
";

#[tokio::test]
async fn findings_are_shown_the_worst_first_and_what_is_well_is_counted() {
    let agent = Agent::start(Script::default()).await;
    let end = "\n5 checks: 2 critical, 1 warning, 1 note\n";
    let ran = ask(&[agent.address], &["doctor"]).await;
    assert_ran(&ran, FAILED, &format!("{SHOWN}{end}"), "");
    let well = "ok  disk-low\n  n1  data_dir /var/lib/haclt: 9.0 GiB of 20.0 GiB free\n";
    for verbose in ["--verbose", "-v"] {
        let ran = ask(&[agent.address], &["doctor", verbose]).await;
        assert_ran(&ran, FAILED, &format!("{SHOWN}{well}{end}"), "");
    }
}

#[tokio::test]
async fn findings_as_json_are_all_of_them() {
    let agent = Agent::start(Script::default()).await;
    let ran = ask(&[agent.address], &["doctor", "--json"]).await;
    assert_ran(&ran, FAILED, include_str!("doctor.json"), "");
}

#[tokio::test]
async fn one_node_is_asked_about_by_its_name() {
    let agent = Agent::start(Script::default()).await;
    let ran = ask(&[agent.address], &["doctor", "n1", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &json["checks"]), (FAILED, &3.into()));
    assert_eq!(ask(&[agent.address], &["doctor", "N 1"]).await.code, WRONG);
    let refused = Box::new(|_, _| {
        Err(tonic::Status::invalid_argument("node \"n9\" is not a node of this cluster"))
    });
    let agent = Agent::start(Script { doctor: refused, ..Script::default() }).await;
    let ran = ask(&[agent.address], &["doctor", "n9"]).await;
    assert_eq!(ran.code, WRONG, "{}", ran.err);
    assert!(ran.err.contains("is not a node of this cluster"), "{}", ran.err);
}

#[tokio::test]
async fn notes_are_no_reason_to_fail_and_a_view_without_a_leader_is_enough() {
    let notes = |_, _| {
        let mut reply = agent::examined("");
        reply.findings.retain(|found| ["ok", "note"].contains(&found.severity.as_str()));
        Ok(reply)
    };
    let status = Box::new(|_, _| Ok(agent::cut_off()));
    let script = Script { status, doctor: Box::new(notes), ..Script::default() };
    let agent = Agent::start(script).await;
    let ran = ask(&[agent.address], &["doctor"]).await;
    assert_eq!(ran.code, DONE, "{}", ran.err);
    assert!(ran.out.ends_with("\n2 checks: 0 critical, 0 warnings, 1 note\n"), "{}", ran.out);
    assert!(ran.err.contains("no agent that answered knows a leader"), "{}", ran.err);

    let empty = Box::new(|_, _| Ok(DoctorReply::default()));
    let agent = Agent::start(Script { doctor: empty, ..Script::default() }).await;
    let ran = ask(&[agent.address], &["doctor"]).await;
    assert_ran(&ran, DONE, "0 checks: 0 critical, 0 warnings, 0 notes\n", "");
    let other = ask(&[agent.address], &["doctor", "--cluster", "payments"]).await;
    assert_eq!(other.code, REFUSED);
}
