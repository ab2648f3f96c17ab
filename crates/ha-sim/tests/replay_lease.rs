//! The ways that the model of the lease finds, taken step by step with the real code.
//!
//! Each test asks the model for a shortest way to where a mistake has somebody active under an epoch that is
//! over. With the real code the way goes as far as the decisive step, which is refused, and nothing is violated;
//! with the mistake in the agent every step is taken, and the world says what is wrong. What the real code
//! refuses is exactly what the model without the mistake does not allow.

use ha_sim::model::lease::{Action, Lease, NAMES, NOT_VACATED};
use ha_sim::model::{self, sooner, way};
use ha_sim::world::{Ended, Mutation, Replayed, replay_lease};

const OVER: &str = "n1 can acknowledge under epoch 1, which is over";
const OUTLIVES: &str = "the permit of n1 outlives the lease of epoch 1";

/// Steps that end most ways.
const ANSWER: &str = "the answer to renewal 0 arrives";
const BEGINS: &str = "n0 begins to accept writes";
const CONFIRMED: &str = "renewal 0 is confirmed";

fn found(letter: &str) -> (Lease, Mutation) {
    let known = NAMES.into_iter().find(|(_, known, ..)| *known == letter);
    let (mistake, _, name, bounds) = known.expect("a mistake of the model");
    let mutation = Mutation::named(name).expect("the world knows it, too");
    (Lease { bounds, mistake: Some(mistake) }, mutation)
}

/// The trace of the step of that name, as far as it was taken or refused.
fn during(replayed: &Replayed, told: &str) -> String {
    let step = replayed.steps.iter().find(|step| step.told == told);
    step.unwrap_or_else(|| panic!("no step {told}: {:#?}", replayed.trace)).trace.join("\n")
}

fn lines(replayed: &Replayed) -> String {
    let line = |step: &ha_sim::world::Step| {
        format!("{} {}", if step.taken { "+" } else { "-" }, step.told)
    };
    let all: Vec<String> = replayed.steps.iter().map(line).collect();
    format!("{}\n{}\n{:?}", all.join("\n"), replayed.trace.join("\n"), replayed.ended)
}

/// Takes the way to a mistake as it is found. The real code refuses these steps, and no others; with the
/// mistake none is refused. Returns what became of it with the real code.
fn replay(letter: &str, refused: &[&str], violation: &str) -> Replayed {
    let (model, mutation) = found(letter);
    let way = way(&model, NOT_VACATED).expect("the model finds it");
    let real = replay_lease(&way, None);
    let not_taken = real.steps.iter().filter(|step| !step.taken);
    let not_taken: Vec<&str> = not_taken.map(|step| step.told.as_str()).collect();
    assert_eq!(not_taken, refused, "{}", lines(&real));
    let allowed = model::refused(&Lease { mistake: None, ..model }, &way);
    let indices = (0..).zip(&real.steps).filter(|(_, step)| !step.taken).map(|(at, _)| at);
    assert_eq!(indices.collect::<Vec<usize>>(), allowed, "{}", lines(&real));
    assert_eq!((real.steps.len(), &real.ended), (way.len(), &Ended::Well), "{}", lines(&real));
    let wrong = replay_lease(&way, Some(mutation));
    assert!(wrong.steps.iter().all(|step| step.taken), "{}", lines(&wrong));
    assert_eq!(wrong.ended, Ended::Violated(violation.to_owned()), "{}", lines(&wrong));
    real
}

/// The same with a database that begins as early as the model allows: then the guard has to end it in time.
fn replay_sooner(letter: &str, violation: &str) -> Replayed {
    let (model, mutation) = found(letter);
    let way = way(&model, NOT_VACATED).expect("the model finds it");
    let early = |it: &Action| matches!(it, Action::Answer { .. } | Action::Promote { .. });
    let way = sooner(&model, &way, NOT_VACATED, early);
    let begins = way.iter().position(|it| matches!(it, Action::Promote { .. }));
    let ticks = way.iter().rposition(|it| matches!(it, Action::Tick));
    assert!(begins < ticks, "it begins before time passes: {way:#?}");
    let real = replay_lease(&way, None);
    assert_eq!(real.refused(), None, "{}", lines(&real));
    assert_eq!(real.ended, Ended::Well, "{}", lines(&real));
    let wrong = replay_lease(&way, Some(mutation));
    assert_eq!(wrong.ended, Ended::Violated(violation.to_owned()), "{}", lines(&wrong));
    real
}

#[test]
fn a_an_answer_that_comes_a_tick_late_gives_a_right_that_ends_no_later() {
    let real = replay("a", &[BEGINS], OVER);
    assert!(
        during(&real, ANSWER).contains("the answer to renewal 1 is taken in"),
        "{}",
        lines(&real)
    );
    assert!(during(&real, BEGINS).contains("decides awaiting_proof"), "{}", lines(&real));
    let real = replay_sooner("a", OUTLIVES);
    let trace = real.trace.join("\n");
    let killed = trace.find("guard kills the server: its right has ended");
    let expired = trace.find("committed: epoch 1 expired");
    assert!(killed.is_some() && killed < expired, "{trace}");
}

#[test]
fn b_a_leader_that_was_just_elected_lets_nothing_expire() {
    let real = replay("b", &["n1 appends Vacate"], OVER);
    assert!(during(&real, BEGINS).contains("promoted"), "under a right that is good");
}

#[test]
fn b2_a_leader_that_leads_again_does_not_go_by_what_it_noted_before() {
    let real = replay("b2", &["n2 appends Vacate"], OVER);
    assert!(during(&real, BEGINS).contains("promoted"), "under a right that is good");
}

#[test]
fn c_a_leader_confirms_nothing_by_the_majority_that_it_had() {
    let real = replay("c", &[CONFIRMED, ANSWER, BEGINS], OVER);
    assert!(during(&real, CONFIRMED).contains("no majority answered"), "{}", lines(&real));
}

#[test]
fn d_a_renewal_that_comes_after_the_decision_to_vacate_is_refused() {
    let real = replay("d", &[CONFIRMED, ANSWER, BEGINS], OVER);
    let why = "the lease of that epoch has expired";
    assert!(during(&real, CONFIRMED).contains(why), "{}", lines(&real));
}

#[test]
fn e_a_slow_holder_and_a_fast_granter_do_not_overlap() {
    let real = replay_sooner("e", OUTLIVES);
    let trace = real.trace.join("\n");
    assert!(trace.contains("guard kills the server: its right has ended"), "{trace}");
}

#[test]
fn f_a_database_has_stopped_before_its_lease_is_given_back() {
    let real = replay("f", &[], OVER);
    let gives = during(&real, "n0 gives its lease back");
    assert!(gives.contains("n1: server is gone"), "{gives}");
}

#[test]
fn g_a_grant_alone_gives_no_right() {
    let real = replay("g", &[BEGINS], OVER);
    assert!(during(&real, BEGINS).contains("decides awaiting_proof"), "{}", lines(&real));
}

#[test]
fn h_a_decision_to_vacate_is_good_in_its_own_term_only() {
    let real = replay("h", &["n1 appends another's Vacate"], OVER);
    assert!(during(&real, BEGINS).contains("promoted"), "under a right that is good");
}

#[test]
fn i_a_leader_answers_nothing_before_its_first_entry_is_applied() {
    let real = replay("i", &[CONFIRMED, ANSWER, BEGINS], OVER);
    let why = "its first entry is not applied";
    assert!(during(&real, CONFIRMED).contains(why), "{}", lines(&real));
}

#[test]
fn j_a_late_answer_gives_no_right_to_an_epoch_that_was_given_back() {
    let real = replay("j", &[ANSWER, BEGINS], OVER);
    assert!(
        during(&real, ANSWER).contains("the answer to renewal 1 is ignored"),
        "{}",
        lines(&real)
    );
}

#[test]
fn k_an_answer_counts_for_its_own_request() {
    let real = replay("k", &[BEGINS], OVER);
    let why = "the answer to renewal 1 is taken in: 0 ms left";
    assert!(during(&real, ANSWER).contains(why), "{}", lines(&real));
}

#[test]
fn l_a_renewal_is_refused_if_the_lease_ended_during_its_round() {
    let real = replay("l", &[CONFIRMED, ANSWER, BEGINS], OVER);
    let why = "the lease is not held under that epoch";
    assert!(during(&real, CONFIRMED).contains(why), "{}", lines(&real));
}

#[test]
fn m_a_node_that_rebooted_does_not_renew_what_it_may_have_given_back() {
    let renewal =
        ["n0 sends renewal 0", "n2 gets renewal 0, asks", "n0 acknowledges the round of 0"];
    let refused = [&renewal[..], &[CONFIRMED, ANSWER, BEGINS]].concat();
    let real = replay("m", &refused, OVER);
    assert!(during(&real, "n0 reboots").contains("n1: server is up"), "{}", lines(&real));
}

#[test]
fn n_a_leader_that_was_deposed_has_not_forgotten_its_decision() {
    let real = replay("n", &[CONFIRMED, ANSWER, BEGINS], OUTLIVES);
    let why = "the lease of that epoch has expired";
    assert!(during(&real, CONFIRMED).contains(why), "{}", lines(&real));
}

#[test]
fn o_a_leader_whose_agent_was_started_anew_does_not_lead_on() {
    let lost = ["n2 gets renewal 0, asks", "n0 acknowledges the round of 0", CONFIRMED];
    let refused = [&lost[..], &["n1 has n2's log, and says so", ANSWER, BEGINS]].concat();
    replay("o", &refused, OVER);
}
