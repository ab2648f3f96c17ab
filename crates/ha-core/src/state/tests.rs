use proptest::prelude::*;

use super::journal::{EVENTS_MAX, EventKind, Note};
use super::*;
use crate::lsn::Lsn;
use crate::timeline::TimelineId;

fn id(name: &str) -> NodeId {
    name.parse().expect("a valid name")
}

fn node(kind: NodeKind) -> Node {
    Node { kind, grpc: String::new(), postgres: String::new(), keeps_wal: true, sync: true }
}

fn founded() -> State {
    let mut state = State::default();
    let nodes = BTreeMap::from([
        (id("n1"), node(NodeKind::Data)),
        (id("n2"), node(NodeKind::Data)),
        (id("n3"), node(NodeKind::Witness)),
    ]);
    let found = Command::Found {
        cluster: "orders".to_owned(),
        cluster_id: 1,
        nodes,
        durability: Durability::Quorum,
    };
    assert_eq!(state.apply(&found), Outcome::Applied);
    state
}

fn registered() -> State {
    let mut state = founded();
    let assign = Command::AssignBootstrap { to: id("n1"), attempt: 1 };
    let register = Command::RegisterSystem { attempt: 1, system_identifier: 77 };
    assert_eq!(state.apply(&assign), Outcome::Applied);
    assert_eq!(state.apply(&register), Outcome::Applied);
    state
}

fn grant(to: &str, epoch: u64) -> Command {
    Command::Grant {
        to: id(to),
        incarnation: Incarnation(9),
        epoch: Epoch(epoch),
        ttl: Duration::from_secs(3),
        catch_up: None,
        evidence: "test".to_owned(),
    }
}

fn vacate(epoch: u64) -> Command {
    Command::Vacate { epoch: Epoch(epoch), reason: VacateReason::Expired, pauses: 0 }
}

#[test]
fn the_lease_is_granted_only_when_vacant_and_only_for_the_next_epoch() {
    let mut state = registered();
    let stale = Refused::StaleEpoch { asked: Epoch(2), current: Epoch(0) };
    assert_eq!(state.apply(&grant("n1", 2)), Outcome::Refused(stale));
    assert_eq!(state.apply(&grant("n1", 1)), Outcome::Applied);
    assert_eq!(state.apply(&grant("n2", 2)), Outcome::Refused(Refused::LeaseHeld(id("n1"))));
    assert_eq!(state.apply(&vacate(1)), Outcome::Applied);
    assert_eq!(state.apply(&vacate(1)), Outcome::Refused(Refused::LeaseVacant));
    assert_eq!(state.apply(&grant("n2", 2)), Outcome::Applied);
    assert_eq!(state.lease.holder(), Some(&id("n2")));
}

#[test]
fn a_witness_or_a_stranger_never_holds_the_lease() {
    let mut state = registered();
    assert_eq!(state.apply(&grant("n3", 1)), Outcome::Refused(Refused::NotADataNode(id("n3"))));
    assert_eq!(state.apply(&grant("n9", 1)), Outcome::Refused(Refused::UnknownNode(id("n9"))));
}

#[test]
fn nobody_is_primary_of_a_database_that_does_not_exist() {
    assert_eq!(founded().apply(&grant("n1", 1)), Outcome::Refused(Refused::NoSystem));
}

#[test]
fn a_bootstrap_that_was_taken_back_cannot_register_its_database() {
    let mut state = founded();
    state.apply(&Command::AssignBootstrap { to: id("n1"), attempt: 1 });
    state.apply(&Command::EndBootstrap { attempt: 1 });
    state.apply(&Command::AssignBootstrap { to: id("n2"), attempt: 2 });
    let late = Command::RegisterSystem { attempt: 1, system_identifier: 5 };
    assert_eq!(state.apply(&late), Outcome::Refused(Refused::StaleBootstrap { asked: 1 }));
    assert_eq!(state.system_identifier, None);
}

#[test]
fn the_database_of_a_cluster_is_registered_once_for_ever() {
    let mut state = registered();
    let again = Command::AssignBootstrap { to: id("n2"), attempt: 2 };
    assert_eq!(state.apply(&again), Outcome::Refused(Refused::SystemRegistered(77)));
}

#[test]
fn a_promotion_is_recorded_once_and_only_by_the_current_grant() {
    let mut state = registered();
    state.apply(&grant("n1", 1));
    let begin = WalPosition { timeline: TimelineId(2), lsn: Lsn(100) };
    let record = |epoch| Command::RecordPromotion {
        epoch: Epoch(epoch),
        begin,
        follows: None,
        at_unix_ms: 0,
    };
    assert_eq!(state.apply(&record(1)), Outcome::Applied);
    let twice = Refused::AlreadyRecorded(Epoch(1));
    assert_eq!(state.apply(&record(1)), Outcome::Refused(twice));
    state.apply(&vacate(1));
    assert_eq!(state.apply(&record(1)), Outcome::Refused(Refused::LeaseVacant));
}

fn any_mode() -> impl Strategy<Value = Durability> {
    prop_oneof![Just(Durability::Quorum), Just(Durability::StrictStandby), Just(Durability::Async)]
}

fn quorum_command() -> impl Strategy<Value = Command> {
    let members = prop::collection::vec(1..5_u32, 0..3);
    let set = (0_u64..8, 0_u64..8, any_mode(), members, 0..3_u32, any::<bool>()).prop_map(
        |(epoch, version, mode, members, required, settled)| Command::SetQuorum {
            epoch: Epoch(epoch),
            version,
            mode,
            quorum: Quorum {
                members: members.into_iter().map(|n| id(&format!("n{n}"))).collect(),
                required,
            },
            settled,
        },
    );
    let mode = (0_u64..3, any_mode()).prop_map(|(version, durability)| Command::SetDurability {
        version,
        durability,
        by: String::new(),
    });
    prop_oneof![3 => set, 1 => mode]
}

fn drill(node: &str, epoch: u64, number: u64) -> operator::Drill {
    operator::Drill {
        number,
        what: "freeze of 8 s".to_owned(),
        node: id(node),
        epoch: Epoch(epoch),
        conductor: id("n3"),
        incarnation: Incarnation(4),
        by: "ann".to_owned(),
        until_unix_ms: 100,
    }
}

fn end_drill(number: u64) -> Command {
    let (text, log) = ("nothing was lost".to_owned(), "1-drill.log".to_owned());
    Command::EndDrill { number, node: id("n3"), text, took_ms: 7, log }
}

fn operator_command() -> impl Strategy<Value = Command> {
    let by = || "ann".to_owned();
    let name = prop_oneof![Just(id("n1")), Just(id("n2")), Just(id("n3")), Just(id("n4"))];
    prop_oneof![
        Just(Command::Pause { by: by(), why: String::new() }),
        any::<bool>().prop_map(move |forced| Command::EndPause { by: by(), forced }),
        (0_u64..12, 0_u64..3).prop_map(|(epoch, pause)| {
            let epoch = Epoch(epoch);
            Command::ConfirmResumed { epoch, pause }
        }),
        name.clone().prop_map(move |node| Command::Fence { node, by: by(), why: String::new() }),
        name.clone().prop_map(move |node| Command::Unfence { node, by: by() }),
        (0_u64..9, prop::option::of(name.clone()))
            .prop_map(move |(due_unix_ms, to)| { Command::Schedule { due_unix_ms, to, by: by() } }),
        (0_u64..4).prop_map(move |id| Command::Unschedule { id, by: by(), why: String::new() }),
        (0_u64..4, prop::option::of("[a-z]{1,4}")).prop_map(move |(version, value)| {
            let changes = BTreeMap::from([("postgres.parameters.x".to_owned(), value)]);
            Command::Configure { version, changes, by: by() }
        }),
        (name.clone(), any::<bool>()).prop_map(move |(n, data)| Command::Join {
            node: n,
            is: node(if data { NodeKind::Data } else { NodeKind::Witness }),
            by: by(),
        }),
        name.clone().prop_map(move |node| Command::Retire { node, by: by() }),
        name.prop_map(|node| Command::Leave { node }),
        (0_u64..12, 0_u64..3)
            .prop_map(|(epoch, number)| Command::BeginDrill { drill: drill("n1", epoch, number) }),
        (0_u64..3).prop_map(end_drill),
        Just(Command::Note { note: Note::new(EventKind::Rewound, "x".repeat(500)) }),
    ]
    .prop_map(|command| Command::At { at_unix_ms: 5, command: Box::new(command) })
}

fn any_command() -> impl Strategy<Value = Command> {
    let name = prop_oneof![Just(id("n1")), Just(id("n2")), Just(id("n3")), Just(id("n4"))];
    let ttl = (0_u64..3).prop_map(Duration::from_secs);
    prop_oneof![
        1 => (0_u128..3).prop_map(|cluster_id| Command::Found {
            cluster: "other".to_owned(),
            cluster_id,
            nodes: BTreeMap::new(),
            durability: Durability::Async,
        }),
        2 => (name.clone(), 0_u64..5)
            .prop_map(|(to, attempt)| Command::AssignBootstrap { to, attempt }),
        1 => (0_u64..5).prop_map(|attempt| Command::EndBootstrap { attempt }),
        2 => (0_u64..5, 1_u64..4).prop_map(|(attempt, system_identifier)| {
            Command::RegisterSystem { attempt, system_identifier }
        }),
        6 => (name.clone(), 0_u64..12, ttl.clone()).prop_map(|(to, epoch, ttl)| Command::Grant {
            to,
            incarnation: Incarnation(1),
            epoch: Epoch(epoch),
            ttl,
            catch_up: None,
            evidence: String::new(),
        }),
        4 => (0_u64..12).prop_map(vacate),
        3 => (name.clone(), 0_u64..12, ttl).prop_map(|(to, epoch, ttl)| Command::Transfer {
            epoch: Epoch(epoch),
            to,
            incarnation: Incarnation(2),
            ttl,
            evidence: String::new(),
        }),
        2 => (0_u64..12, 0_u32..4, 0_u64..100).prop_map(|(epoch, timeline, lsn)| {
            let begin = WalPosition { timeline: TimelineId(timeline), lsn: Lsn(lsn) };
            Command::RecordPromotion { epoch: Epoch(epoch), begin, follows: None, at_unix_ms: 0 }
        }),
        3 => quorum_command(),
        6 => operator_command(),
        1 => (name.clone(), 0_u64..3, 0_u64..3).prop_map(|(node, fork, end)| {
            let at = |lsn| WalPosition { timeline: TimelineId(1), lsn: Lsn(lsn) };
            Command::RecordDivergence { node, fork: at(fork), end: at(end), at_unix_ms: 0 }
        }),
        1 => (0_u64..6).prop_map(|id| Command::DropDivergence { id }),
        1 => (name, any::<bool>()).prop_map(|(node_id, data)| Command::Describe {
            node: node_id,
            is: node(if data { NodeKind::Data } else { NodeKind::Witness }),
        }),
    ]
}

#[test]
fn the_quorum_of_a_grant_is_recorded_in_the_same_step_rule_25() {
    let mut state = registered();
    state.apply(&grant("n1", 1));
    let recorded = state.recorded.clone().expect("recorded with the grant");
    assert_eq!((recorded.epoch, recorded.primary.as_str()), (Epoch(1), "n1"));
    assert_eq!(recorded.quorum, Quorum::new([id("n2"), id("n3")], 1));
    state.apply(&vacate(1));
    state.apply(&grant("n2", 2));
    assert_eq!(state.recorded.as_ref().map(|r| r.quorum.clone()), {
        Some(Quorum::new([id("n1"), id("n3")], 1))
    });
    assert_eq!(state.unsettled, [recorded], "until its commits are on the new members");
}

#[test]
fn the_quorum_is_changed_only_by_the_holder_and_only_from_what_it_knew() {
    let mut state = registered();
    let set = |epoch, version, members: &[&str], required| Command::SetQuorum {
        epoch: Epoch(epoch),
        version,
        mode: Durability::Quorum,
        quorum: Quorum { members: members.iter().map(|name| id(name)).collect(), required },
        settled: true,
    };
    let refused = Outcome::Refused;
    assert_eq!(state.apply(&set(1, 0, &["n2"], 1)), refused(Refused::LeaseVacant));
    state.apply(&grant("n1", 1));
    let version = state.quorum_version;
    let stale = Refused::StaleVersion { asked: 0, current: version };
    assert_eq!(state.apply(&set(1, 0, &["n2"], 1)), refused(stale));
    let own = Refused::NotAnAcknowledger(id("n1"));
    assert_eq!(state.apply(&set(1, version, &["n1"], 1)), refused(own));
    let impossible = Refused::ImpossibleQuorum { required: 2, members: 1 };
    assert_eq!(state.apply(&set(1, version, &["n2"], 2)), refused(impossible));
    assert_eq!(state.apply(&set(1, version, &["n2"], 1)), Outcome::Applied);
    assert_eq!(state.quorum_version, version + 1);
}

#[test]
fn a_state_of_the_first_format_stays_asynchronous() {
    let mut old = serde_json::to_value(registered()).expect("serialisable");
    let fields = old.as_object_mut().expect("an object");
    for new in ["durability", "recorded", "unsettled", "quorum_version", "diverged"] {
        fields.remove(new);
    }
    let read: State = serde_json::from_value(old).expect("format 1 is read");
    assert_eq!((read.durability, read.recorded), (Durability::Async, None));
}

fn apply_all(state: &mut State, commands: &[Command]) {
    for command in commands {
        assert_eq!(state.apply(command), Outcome::Applied, "{command:?}");
    }
}

fn pause() -> Command {
    Command::Pause { by: "ann".to_owned(), why: "new switches".to_owned() }
}

fn end_pause(forced: bool) -> Command {
    Command::EndPause { by: "ann".to_owned(), forced }
}

#[test]
fn a_pause_ends_only_once_the_holders_guard_has_a_deadline_again_rule_85() {
    let mut state = registered();
    apply_all(&mut state, &[grant("n1", 1), pause()]);
    let paused = Outcome::Refused(Refused::Paused);
    let confirm = Command::ConfirmResumed { epoch: Epoch(1), pause: 1 };
    assert_eq!(state.apply(&vacate(1)), paused);
    assert_eq!(state.apply(&confirm), paused, "nobody wants it to end");
    assert_eq!(state.apply(&end_pause(false)), Outcome::Applied);
    assert!(state.pause.as_ref().is_some_and(|pause| pause.ending));
    assert_eq!(state.apply(&vacate(1)), paused, "the holder has not said so");
    assert_eq!(state.apply(&confirm), Outcome::Applied);
    assert!(!state.is_paused());
    // Decided before the pause, arrived after it.
    let stale = Refused::StaleVersion { asked: 0, current: 1 };
    assert_eq!(state.apply(&vacate(1)), Outcome::Refused(stale));
    // What was said of that pause says nothing of the next.
    apply_all(&mut state, &[pause(), end_pause(false)]);
    let stale = Refused::StaleVersion { asked: 1, current: 2 };
    assert_eq!(state.apply(&confirm), Outcome::Refused(stale));
    assert!(state.is_paused());
}

#[test]
fn a_pause_without_a_holder_or_without_its_word_ends_at_once() {
    let mut state = registered();
    apply_all(&mut state, &[pause()]);
    assert_eq!(state.apply(&grant("n1", 1)), Outcome::Refused(Refused::Paused));
    apply_all(&mut state, &[end_pause(false), grant("n1", 1), pause()]);
    let why = "down".to_owned();
    let (epoch, reason) = (Epoch(1), VacateReason::Released { why });
    apply_all(&mut state, &[Command::Vacate { epoch, reason, pauses: 0 }, end_pause(false)]);
    assert!(!state.is_paused());
    apply_all(&mut state, &[grant("n2", 2), pause(), end_pause(true)]);
    assert!(!state.is_paused());
}

#[test]
fn what_happened_is_remembered_with_who_asked_and_when() {
    let mut state = registered();
    let at = |command| Command::At { at_unix_ms: 1_000, command: Box::new(command) };
    let fence = Command::Fence { node: id("n2"), by: "ann".to_owned(), why: "disk".to_owned() };
    apply_all(&mut state, &[at(grant("n1", 1)), at(fence)]);
    let kinds: Vec<EventKind> = state.events.iter().map(|event| event.what.kind).collect();
    let expected =
        [EventKind::Founded, EventKind::Bootstrapped, EventKind::Granted, EventKind::Fenced];
    assert_eq!(kinds, expected);
    let last = state.events.last().expect("four");
    assert_eq!((last.id, last.at_unix_ms, last.epoch), (4, 1_000, Epoch(1)));
    assert_eq!((last.what.by.as_str(), last.what.text.as_str()), ("ann", "disk"));
    assert_eq!(last.what.node, Some(id("n2")));
    assert_eq!(state.apply(&grant("n2", 2)), Outcome::Refused(Refused::LeaseHeld(id("n1"))));
    assert_eq!(state.events.len(), 4, "what was refused did not happen");
    apply_all(&mut state, &[vacate(1)]);
    assert_eq!(state.apply(&grant("n2", 2)), Outcome::Refused(Refused::Fenced(id("n2"))));
}

#[test]
fn the_changes_of_the_configuration_are_remembered_from_what_to_what() {
    let mut state = registered();
    let set = |version, value: Option<&str>| Command::Configure {
        version,
        changes: BTreeMap::from([("postgres.parameters.work_mem".into(), value.map(Into::into))]),
        by: "ann".to_owned(),
    };
    apply_all(&mut state, &[set(0, Some("8MB")), set(1, Some("9MB")), set(2, None)]);
    let stale = Refused::StaleVersion { asked: 0, current: 3 };
    assert_eq!(state.apply(&set(0, None)), Outcome::Refused(stale));
    let said: Vec<String> = state.config_log.iter().map(ToString::to_string).collect();
    let expected = [
        "postgres.parameters.work_mem: (unset) -> 8MB",
        "postgres.parameters.work_mem: 8MB -> 9MB",
        "postgres.parameters.work_mem: 9MB -> (unset)",
    ];
    assert_eq!(said, expected);
    assert!(state.settings.is_empty());
}

fn join(name: &str, kind: NodeKind) -> Command {
    Command::Join { node: id(name), is: node(kind), by: "ann".to_owned() }
}

fn retire(name: &str) -> Command {
    Command::Retire { node: id(name), by: "ann".to_owned() }
}

fn leave(name: &str) -> Command {
    Command::Leave { node: id(name) }
}

#[test]
fn a_node_is_out_only_once_no_quorum_that_has_a_say_names_it() {
    let mut state = registered();
    state.durability = Durability::Quorum;
    apply_all(&mut state, &[grant("n1", 1), join("n4", NodeKind::Data)]);
    let wanted = |state: &State| state.quorum_for(&id("n1"), |_| true);
    assert_eq!(wanted(&state).to_string(), "2 of n2, n3, n4");
    let record = |state: &mut State, settled| {
        let (version, quorum) = (state.quorum_version, wanted(state));
        let mode = Durability::Quorum;
        let set = Command::SetQuorum { epoch: Epoch(1), version, mode, quorum, settled };
        apply_all(state, &[set]);
    };
    record(&mut state, true);
    let refused = |state: &mut State, command| match state.apply(&command) {
        Outcome::Refused(why) => why,
        Outcome::Applied => panic!("{command:?} was carried out"),
    };
    assert_eq!(refused(&mut state, leave("n2")), Refused::NotLeaving(id("n2")));
    assert_eq!(refused(&mut state, retire("n1")), Refused::LeaseHeld(id("n1")));
    apply_all(&mut state, &[retire("n2")]);
    assert_eq!(refused(&mut state, leave("n2")), Refused::StillNeeded(id("n2")));
    assert_eq!(wanted(&state).to_string(), "1 of n3, n4");
    record(&mut state, false);
    apply_all(&mut state, &[leave("n2")]);
    assert!(!state.nodes.contains_key(&id("n2")));

    // An earlier primary is heard until what it acknowledged is known to be on others.
    apply_all(&mut state, &[vacate(1), grant("n4", 2), retire("n1")]);
    assert_eq!(refused(&mut state, leave("n1")), Refused::StillNeeded(id("n1")));
    assert_eq!(refused(&mut state, grant("n1", 3)), Refused::LeaseHeld(id("n4")));
}

#[test]
fn no_commit_waits_for_a_node_that_says_so() {
    let mut state = registered();
    state.durability = Durability::Quorum;
    let far = Node { sync: false, ..node(NodeKind::Data) };
    apply_all(&mut state, &[join("n4", NodeKind::Data), join("n5", NodeKind::Data)]);
    let wanted = |state: &State| state.quorum_for(&id("n1"), |_| true).to_string();
    assert_eq!(wanted(&state), "2 of n2, n3, n4, n5");
    apply_all(&mut state, &[Command::Describe { node: id("n4"), is: far }]);
    assert_eq!(wanted(&state), "2 of n2, n3, n5");
    state.durability = Durability::StrictStandby;
    assert_eq!(wanted(&state), "1 of n2, n5");
}

#[test]
fn a_leaving_node_is_granted_nothing_and_may_stay_after_all() {
    let mut state = registered();
    apply_all(&mut state, &[retire("n2")]);
    let refused = state.apply(&grant("n2", 1));
    assert_eq!(refused, Outcome::Refused(Refused::Leaving(id("n2"))));
    assert_eq!(state.apply(&retire("n1")), Outcome::Refused(Refused::LastDataNode(id("n1"))));
    assert_eq!(
        state.apply(&join("n2", NodeKind::Witness)),
        Outcome::Refused(Refused::KindChanged(id("n2")))
    );
    apply_all(&mut state, &[join("n2", NodeKind::Data), grant("n2", 1)]);
    for n in 4..=9 {
        apply_all(&mut state, &[join(&format!("n{n}"), NodeKind::Witness)]);
    }
    let too_many = state.apply(&join("n10", NodeKind::Witness));
    assert!(matches!(too_many, Outcome::Refused(Refused::TooMany { .. })), "{too_many:?}");
}

#[test]
fn a_survivor_makes_the_cluster_anew_with_epochs_that_the_others_did_not_reach() {
    let mut old = registered();
    old.durability = Durability::StrictStandby;
    apply_all(&mut old, &[grant("n1", 1), vacate(1), grant("n2", 2), pause()]);
    let new = old.survived_by(&id("n1"), 99, "ann", 5).expect("a data node");
    assert_eq!((new.cluster_id, new.generation), (99, 1));
    assert_eq!(new.nodes.keys().collect::<Vec<_>>(), [&id("n1")]);
    assert_eq!(new.lease, Lease::Vacant);
    assert!(new.last_epoch.0 > old.last_epoch.0 + 1000);
    assert_eq!(new.durability, Durability::Quorum, "nobody could acknowledge");
    assert!(!new.is_paused() && new.unsettled.is_empty());
    assert_eq!(new.demands().map(|known| &known.primary).collect::<Vec<_>>(), [&id("n1")]);
    assert_eq!(new.system_identifier, old.system_identifier);
    assert_eq!(old.survived_by(&id("n3"), 99, "", 0), Err(Refused::NotADataNode(id("n3"))));
    assert_eq!(State::default().survived_by(&id("n1"), 99, "", 0), Err(Refused::NotFounded));

    let what = &new.events.last().expect("an event").what;
    assert_eq!((what.kind, what.by.as_str()), (EventKind::Refounded, "ann"));
    let mut new = new;
    let next = new.last_epoch.0 + 1;
    apply_all(&mut new, &[grant("n1", next)]);
}

#[test]
fn there_is_one_drill_at_a_time_of_whoever_holds_the_lease_and_a_lost_one_ends_by_itself() {
    let at = |at_unix_ms, command| Command::At { at_unix_ms, command: Box::new(command) };
    let begin =
        |node: &str, epoch, number| Command::BeginDrill { drill: drill(node, epoch, number) };
    let mut state = registered();
    assert_eq!(state.apply(&begin("n1", 1, 1)), Outcome::Refused(Refused::LeaseVacant));
    apply_all(&mut state, &[grant("n1", 1)]);
    let held = Refused::LeaseHeld(id("n1"));
    assert_eq!(state.apply(&begin("n2", 1, 1)), Outcome::Refused(held));
    let stale = Refused::StaleEpoch { asked: Epoch(7), current: Epoch(1) };
    assert_eq!(state.apply(&begin("n1", 7, 1)), Outcome::Refused(stale));
    apply_all(&mut state, &[at(5, begin("n1", 1, 1))]);
    let busy = state.apply(&at(99, begin("n1", 1, 2)));
    assert!(matches!(busy, Outcome::Refused(Refused::DrillUnderWay { .. })), "{busy:?}");
    assert_eq!(state.apply(&end_drill(2)), Outcome::Refused(Refused::NoSuchDrill));
    apply_all(&mut state, &[end_drill(1)]);
    assert_eq!(state.apply(&end_drill(1)), Outcome::Refused(Refused::NoSuchDrill));
    let ended = state.events.last().expect("it is remembered");
    assert_eq!((ended.what.kind, ended.what.by.as_str()), (EventKind::Drill, "ann"));
    assert_eq!(ended.what.text, "ended: freeze of 8 s on n1: nothing was lost");
    // Whoever conducted the next one is lost: it is in nobody's way for ever.
    apply_all(&mut state, &[at(5, begin("n1", 1, 3)), at(100, begin("n1", 1, 4))]);
    assert_eq!(state.drill.as_ref().map(|drill| drill.number), Some(4));
}

proptest! {
    #[test]
    fn the_laws_of_apply_hold_for_any_commands(
        commands in prop::collection::vec(any_command(), 0..120),
        found: bool,
    ) {
        let mut state = if found { registered() } else { State::default() };
        for command in &commands {
            let before = state.clone();
            let outcome = state.apply(command);
            if matches!(outcome, Outcome::Refused(_)) {
                prop_assert_eq!(&state, &before, "a refused command changes nothing");
            }
            prop_assert!(state.last_epoch >= before.last_epoch, "epochs only grow");
            prop_assert!(state.last_epoch.0 <= before.last_epoch.0 + 1, "one at a time");
            if let (Some(old), Some(new)) = (before.lease.grant(), state.lease.grant()) {
                prop_assert!(old == new || new.epoch > old.epoch, "one holder for each epoch");
            }
            if let Some(grant) = state.lease.grant() {
                prop_assert_eq!(grant.epoch, state.last_epoch);
                prop_assert_eq!(state.nodes[&grant.holder].kind, NodeKind::Data);
                prop_assert!(!grant.ttl.is_zero());
                prop_assert!(state.system_identifier.is_some());
            }
            if before.system_identifier.is_some() {
                prop_assert_eq!(state.system_identifier, before.system_identifier);
            }
            if let Some(recorded) = &state.recorded {
                prop_assert_eq!(recorded.epoch, state.last_epoch, "a quorum with each grant");
                prop_assert!(!recorded.quorum.members.contains(&recorded.primary));
                prop_assert!(recorded.quorum.required as usize <= recorded.quorum.members.len());
            }
            let demanded = |of: &State| of.demands().cloned().collect::<Vec<_>>();
            if !matches!(command, Command::SetQuorum { .. }) {
                let kept = demanded(&state);
                let still = |old: &Recorded| {
                    kept.iter().any(|new| new.primary == old.primary && new.quorum == old.quorum)
                };
                prop_assert!(demanded(&before).iter().all(still), "a demand ends only when settled");
            }
            if before.is_paused() {
                let moved = state.last_epoch > before.last_epoch;
                prop_assert!(!moved, "nobody is given the lease in a pause");
            }
            let fenced = state.lease.holder().is_some_and(|holder| state.fenced.contains_key(holder));
            prop_assert!(!fenced, "whoever holds the lease is not fenced by order");
            let leaving = state.lease.holder().is_some_and(|holder| state.is_leaving(holder));
            prop_assert!(!leaving, "whoever holds the lease is not being taken out");
            for known in state.recorded.iter().chain(&state.unsettled) {
                let all = known.quorum.members.iter().chain([&known.primary]);
                for node in all {
                    prop_assert!(state.nodes.contains_key(node), "{node} may still have to be heard");
                }
            }
            let data = |of: &State| of.staying().any(|(_, is)| is.kind == NodeKind::Data);
            prop_assert!(!data(&before) || data(&state), "a data node stays");
            prop_assert!(state.events.len() <= EVENTS_MAX);
            prop_assert!(state.events.windows(2).all(|w| w[0].id + 1 == w[1].id));
            prop_assert!(state.diverged.len() <= DIVERGED_MAX);
            prop_assert!(state.history.len() <= HISTORY_MAX);
            prop_assert!(state.history.windows(2).all(|w| w[0].epoch < w[1].epoch));
        }
    }

    #[test]
    fn state_and_commands_survive_being_stored(
        commands in prop::collection::vec(any_command(), 0..40),
    ) {
        let mut state = registered();
        for command in &commands {
            let text = serde_json::to_string(command).expect("a command is serialisable");
            let read: Command = serde_json::from_str(&text).expect("and can be read");
            prop_assert_eq!(&read, command);
            state.apply(&read);
        }
        let text = serde_json::to_string(&state).expect("the state is serialisable");
        prop_assert_eq!(serde_json::from_str::<State>(&text).expect("and can be read"), state);
    }
}
