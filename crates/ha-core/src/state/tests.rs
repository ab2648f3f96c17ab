use proptest::prelude::*;

use super::*;
use crate::lsn::Lsn;
use crate::timeline::TimelineId;

fn id(name: &str) -> NodeId {
    name.parse().expect("a valid name")
}

fn node(kind: NodeKind) -> Node {
    Node { kind, grpc: String::new(), postgres: String::new(), keeps_wal: true }
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
    Command::Vacate { epoch: Epoch(epoch), reason: VacateReason::Expired }
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
    let record = |epoch| Command::RecordPromotion { epoch: Epoch(epoch), begin, at_unix_ms: 0 };
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
    let mode = (0_u64..3, any_mode())
        .prop_map(|(version, durability)| Command::SetDurability { version, durability });
    prop_oneof![3 => set, 1 => mode]
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
            Command::RecordPromotion { epoch: Epoch(epoch), begin, at_unix_ms: 0 }
        }),
        3 => quorum_command(),
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
