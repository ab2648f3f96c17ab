//! The ways that the model of the WAL quorum finds, taken step by step with the real code, as `replay_lease` does
//! with those of the lease: a shortest way to where an acknowledged write is lost.

use ha_sim::model::wal::{Mistake, NAMES, NOTHING_LOST, WalQuorum};
use ha_sim::model::{self, way};
use ha_sim::world::{Ended, Mutation, Replayed, Step, replay_wal};

const LOST: &str = "n2 begins to serve without 1 acknowledged writes";

/// Steps that ways have in common.
const ACKNOWLEDGES: &str = "n0 acknowledges what it may";
const CARRIED_OUT: &str = "the order is carried out";
const ELECTED: &str = "the election has a winner: the lease is granted";
const PROMOTED: &str = "n1 is promoted";
const RECEIVES: &str = "n2 receives a record";
const KEEPS: &str = "n0's keeper takes its next step";

fn lines(replayed: &Replayed) -> String {
    let line = |step: &Step| format!("{} {}", if step.taken { "+" } else { "-" }, step.told);
    let all: Vec<String> = replayed.steps.iter().map(line).collect();
    format!("{}\n{}\n{:?}", all.join("\n"), replayed.trace.join("\n"), replayed.ended)
}

/// The traces of all steps of that name.
fn during(replayed: &Replayed, told: &str) -> Vec<String> {
    let steps = replayed.steps.iter().filter(|step| step.told == told);
    let traces: Vec<String> = steps.map(|step| step.trace.join("\n")).collect();
    assert!(!traces.is_empty(), "no step {told}: {}", lines(replayed));
    traces
}

/// Takes the way to a mistake. The real code refuses these steps, and no others, and they are those that the
/// model without the mistake does not allow; with the mistake none is refused. Returns what became of it with the
/// real code.
fn replay(mistake: Mistake, mutation: Mutation, refused: &[&str]) -> Replayed {
    let known = NAMES.into_iter().find(|(known, ..)| *known == mistake);
    let (_, name, bounds) = known.expect("a mistake of the model");
    let model = WalQuorum { bounds, mistake: Some(mistake) };
    let way = way(&model, NOTHING_LOST).expect("the model finds it");
    // Where a setting that is not in force matters, it comes into force late: in the model it does so in one step.
    let late = mistake == Mistake::GrownUnproven;
    let real = replay_wal(&way, bounds.first[0], late, None);
    let not_taken = (0..).zip(&real.steps).filter(|(_, step)| !step.taken);
    let (indices, not_taken): (Vec<usize>, Vec<&str>) =
        not_taken.map(|(at, step)| (at, step.told.as_str())).unzip();
    assert_eq!(not_taken, refused, "{name}: {}", lines(&real));
    let allowed = model::refused(&WalQuorum { mistake: None, ..model }, &way);
    assert!(late || indices == allowed, "{name}: {allowed:?} {}", lines(&real));
    assert_eq!((real.steps.len(), &real.ended), (way.len(), &Ended::Well), "{}", lines(&real));
    let wrong = replay_wal(&way, bounds.first[0], late, Some(mutation));
    assert!(wrong.steps.iter().all(|step| step.taken), "{name}: {}", lines(&wrong));
    assert_eq!(wrong.ended, Ended::Violated(LOST.to_owned()), "{name}: {}", lines(&wrong));
    real
}

#[test]
fn a_server_is_told_of_a_weaker_quorum_only_once_that_is_recorded() {
    let (mistake, mutation) = (Mistake::ShrunkBeforeRecorded, Mutation::ShrunkBeforeRecorded);
    let real = replay(mistake, mutation, &[ACKNOWLEDGES]);
    let keeps = during(&real, KEEPS).concat();
    assert!(keeps.contains("keeper: confirmed true, Record("), "{keeps}");
}

#[test]
fn a_stronger_quorum_is_recorded_only_once_it_is_true_of_earlier_commits() {
    let (mistake, mutation) = (Mistake::GrownTooEarly, Mutation::GrownTooEarly);
    let refused = [KEEPS, CARRIED_OUT, ELECTED, PROMOTED];
    let real = replay(mistake, mutation, &refused);
    let keeps = during(&real, KEEPS);
    assert!(keeps.iter().all(|trace| trace.contains("keeper: confirmed true, Grow(")), "{keeps:?}");
}

#[test]
fn a_stronger_quorum_is_recorded_only_once_nothing_weaker_is_in_force() {
    let (mistake, mutation) = (Mistake::GrownUnproven, Mutation::GrownUnproven);
    // The second look finds that the first setting is not in force yet.
    let refused = [KEEPS, CARRIED_OUT, ELECTED, PROMOTED];
    let real = replay(mistake, mutation, &refused);
    let keeps = during(&real, KEEPS);
    assert!(keeps.iter().all(|trace| trace.contains("keeper: confirmed true, Grow(")), "{keeps:?}");
}

#[test]
fn a_pledge_is_kept_by_an_agent_that_was_started_anew() {
    let (mistake, mutation) = (Mistake::PledgeNotPersisted, Mutation::PledgeNotPersisted);
    let follows = "n2 follows the primary of epoch 1";
    let real = replay(mistake, mutation, &[follows, RECEIVES, ACKNOWLEDGES]);
    let restarted = during(&real, "n2's agent dies and starts again").concat();
    assert!(restarted.contains("n3: agent starts"), "{restarted}");
}

#[test]
fn an_election_that_hears_too_few_members_has_no_winner() {
    let (mistake, mutation) = (Mistake::TooFewReports, Mutation::TooFewReports);
    let real = replay(mistake, mutation, &[ELECTED, PROMOTED]);
    let why = "commits that were acknowledged under epoch 1 may be missing";
    assert!(during(&real, ELECTED).concat().contains(why), "{}", lines(&real));
}

#[test]
fn whoever_has_reported_receives_nothing_more_of_that_epoch() {
    let (mistake, mutation) = (Mistake::ReceiverNotStopped, Mutation::ReceiversNotStopped);
    replay(mistake, mutation, &[RECEIVES, ACKNOWLEDGES]);
}

#[test]
fn a_server_is_told_nothing_that_is_not_known_to_be_recorded() {
    let (mistake, mutation) = (Mistake::QuorumUnconfirmed, Mutation::QuorumUnconfirmed);
    let real = replay(mistake, mutation, &[ACKNOWLEDGES]);
    let keeps = during(&real, KEEPS);
    let last = keeps.last().expect("it took steps");
    assert!(last.contains("keeper: confirmed false, Set("), "{last}");
}

#[test]
fn an_earlier_quorum_keeps_its_say_until_it_is_settled() {
    let (mistake, mutation) = (Mistake::EarlierQuorumForgotten, Mutation::EarlierQuorumForgotten);
    let real = replay(mistake, mutation, &[ELECTED, PROMOTED]);
    let elections = during(&real, ELECTED);
    assert!(elections[0].contains("committed: grant 2 to n2"), "{elections:?}");
    let why = "commits that were acknowledged under epoch 1 may be missing";
    assert!(elections[1].contains(why), "{elections:?}");
}

#[test]
fn a_winner_fetches_what_it_lacks_before_it_begins() {
    let (mistake, mutation) = (Mistake::CatchUpSkipped, Mutation::CatchUpSkipped);
    let real = replay(mistake, mutation, &[]);
    let promoted = during(&real, PROMOTED).concat();
    let fetched = promoted.find("n2: fetched up to").expect("it fetches");
    assert!(promoted[fetched..].contains("n2: promoted"), "{promoted}");
}
