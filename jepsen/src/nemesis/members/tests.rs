use ha_proto::v1::{NodeStatus, StatusReply};

use super::orders::{Meaning, follows, meaning_of_add, meaning_of_remove};
use super::*;

fn drawn() -> Vec<VecDeque<Step>> {
    (0..200).map(|seed| steps(&mut Random::new(seed, 1))).collect()
}

#[test]
fn every_way_to_leave_is_drawn_and_somebody_comes_back_each_time() {
    let all = drawn();
    let any =
        |wanted: &[Step]| wanted.iter().all(|step| all.iter().any(|steps| steps.contains(step)));
    assert!(any(&[
        Step::Leave(Kind::Data, State::Running),
        Step::Leave(Kind::Data, State::Down),
        Step::Leave(Kind::Witness, State::Running),
        Step::Leave(Kind::Witness, State::Down),
        Step::Join(Kind::Data, false),
        Step::Join(Kind::Witness, false),
    ]));
    for steps in &all {
        let place = |wanted: fn(&Step) -> bool| steps.iter().position(wanted).unwrap();
        let leaves = place(|step| matches!(step, Step::Leave(..)));
        let rests = place(|step| *step == Step::Rest);
        assert!(matches!(steps[0], Step::Join(..)), "three are never made two: {steps:?}");
        assert!(leaves < rests && matches!(steps[rests + 1], Step::Join(_, true)), "{steps:?}");
    }
}

#[test]
fn two_witnesses_do_not_stay_and_three_databases_may() {
    for steps in drawn() {
        let shrinks = steps.contains(&Step::Shrink(Kind::Witness));
        assert_eq!(shrinks, steps.contains(&Step::Join(Kind::Witness, true)), "{steps:?}");
    }
    let ends = |steps: &VecDeque<Step>| steps.contains(&Step::Shrink(Kind::Data));
    let data: Vec<_> =
        drawn().into_iter().filter(|s| s.contains(&Step::Join(Kind::Data, true))).collect();
    assert!(data.iter().any(ends) && !data.iter().all(ends));
}

#[test]
fn an_answer_is_taken_for_what_it_says_and_no_more() {
    let unknown = "node n4 is not a node of this cluster";
    assert_eq!(meaning_of_remove(Some(2), unknown, true), Meaning::Done);
    assert_eq!(meaning_of_remove(Some(2), unknown, false), Meaning::Nonsense);
    assert_eq!(meaning_of_remove(Some(3), "2 nodes would be left", false), Meaning::Refused);
    assert_eq!(meaning_of_remove(Some(4), "", false), Meaning::Unknown);
    assert_eq!(meaning_of_remove(None, "", false), Meaning::Nonsense);
    let early = "the agent of node n4 at 10.78.0.4:7431 cannot be taken in: refused";
    assert_eq!(meaning_of_add(Some(3), early), Meaning::NotYet);
    assert_eq!(meaning_of_add(Some(3), "this is node n2"), Meaning::Refused);
    assert_eq!(meaning_of_add(Some(1), "no leader"), Meaning::NotYet);
}

#[test]
fn a_node_follows_once_it_receives_what_the_primary_writes() {
    let status = |role: &str, state: &str| {
        let (role, state) = (role.to_owned(), state.to_owned());
        let node = NodeStatus { name: "n4".to_owned(), role, state, ..NodeStatus::default() };
        StatusReply { nodes: vec![node], ..StatusReply::default() }
    };
    assert!(follows(&status("standby", "streaming"), "n4"));
    assert!(follows(&status("witness", "receiving"), "n4"));
    assert!(!follows(&status("standby", "cloning"), "n4"));
    assert!(!follows(&status("witness", "-"), "n4"));
    assert!(!follows(&status("standby", "streaming"), "n5"));
}
