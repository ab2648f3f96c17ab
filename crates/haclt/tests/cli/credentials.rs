//! `haclt credentials`: what is shown, and how an order that is half-way ends.

use ha_proto::v1::{CredentialEntry, CredentialsShowReply};
use tonic::Status;

use crate::agent::{Agent, Script};
use crate::{DONE, REFUSED, UNKNOWN, WRONG, ask, assert_ran};

#[tokio::test]
async fn it_is_shown_where_passwords_are_and_who_disagrees() {
    let agent = Agent::start(Script::default()).await;
    let ran = ask(&[agent.address], &["credentials", "show"]).await;
    assert_ran(&ran, DONE, include_str!("credentials.txt"), "");
    let ran = ask(&[agent.address], &["credentials", "show", "--json"]).await;
    assert_ran(&ran, DONE, include_str!("credentials.json"), "");
    assert_eq!(agent.others(), Vec::<String>::new(), "a question is no order");
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_not_shown() {
    let credentials_show = Box::new(|_, _| {
        let entry = CredentialEntry { node: "n1".into(), ..CredentialEntry::default() };
        Ok(CredentialsShowReply { entries: vec![entry] })
    });
    let agent = Agent::start(Script { credentials_show, ..Script::default() }).await;
    let ran = ask(&[agent.address], &["credentials", "show"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{}", ran.err);
}

#[tokio::test]
async fn the_exit_code_says_whether_anything_was_changed() {
    #[rustfmt::skip]
    let table = [
        (Status::failed_precondition("node n2 does not answer; nothing was changed"), REFUSED, "nothing was changed"),
        (Status::invalid_argument("\"app\" is no internal user"),                     WRONG,   "is no internal user"),
        (Status::deadline_exceeded("half-way: node n2 does not answer"),              UNKNOWN, "half-way: node n2"),
    ];
    for (status, code, words) in table {
        let said = status.clone();
        let order = Box::new(move |_, _| Err(said.clone()));
        let agent = Agent::start(Script { order, ..Script::default() }).await;
        let ran = ask(&[agent.address], &["credentials", "rotate", "app"]).await;
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{status:?}: {}", ran.err);
        assert!(ran.err.contains(words), "{}", ran.err);
    }
}
