use std::time::Duration;

use ha_core::lease::Lease as RealLease;
use ha_core::policy::Durability;
use ha_core::state::{self as real, VacateReason};
use ha_core::{Epoch, NodeId, NodeKind, epoch::Incarnation};

use super::log::{Applied, Command, Log};

fn id(node: u8) -> NodeId {
    format!("n{node}").parse().expect("a valid name")
}

fn real_command(command: Command) -> Option<real::Command> {
    let ttl = Duration::from_secs(3);
    let evidence = String::new();
    let vacate = |epoch: u8, reason| {
        Some(real::Command::Vacate { epoch: Epoch(epoch.into()), reason, pauses: 0 })
    };
    match command {
        Command::Blank => None,
        Command::Grant { to, epoch, start } => Some(real::Command::Grant {
            to: id(to),
            incarnation: Incarnation(start.into()),
            epoch: Epoch(epoch.into()),
            ttl,
            catch_up: None,
            evidence,
        }),
        Command::Vacate { epoch } => vacate(epoch, VacateReason::Expired),
        Command::Release { epoch } => vacate(epoch, VacateReason::Released { why: evidence }),
        Command::Transfer { to, epoch, start } => Some(real::Command::Transfer {
            epoch: Epoch(epoch.into()),
            to: id(to),
            incarnation: Incarnation(start.into()),
            ttl,
            evidence,
        }),
    }
}

fn founded() -> real::State {
    let node = |kind| real::Node {
        kind,
        grpc: String::new(),
        postgres: String::new(),
        keeps_wal: true,
        sync: true,
    };
    let kinds = [NodeKind::Data, NodeKind::Data, NodeKind::Witness];
    let nodes = (0..).map(id).zip(kinds.map(node)).collect();
    let mut state = real::State::default();
    let durability = Durability::Quorum;
    let found =
        real::Command::Found { cluster: "orders".to_owned(), cluster_id: 1, nodes, durability };
    for command in [
        found,
        real::Command::AssignBootstrap { to: id(0), attempt: 1 },
        real::Command::RegisterSystem { attempt: 1, system_identifier: 7 },
    ] {
        assert_eq!(state.apply(&command), real::Outcome::Applied);
    }
    state
}

fn commands() -> Vec<Command> {
    let mut all = vec![Command::Blank];
    for epoch in 0..=3 {
        all.extend([Command::Vacate { epoch }, Command::Release { epoch }]);
        for (to, start) in [(0, 0), (1, 1)] {
            all.push(Command::Grant { to, epoch, start });
            all.push(Command::Transfer { to, epoch, start });
        }
    }
    all
}

fn seen(state: &real::State) -> (u64, Option<(NodeId, u64)>) {
    let held = match &state.lease {
        RealLease::Vacant => None,
        RealLease::Held(grant) => Some((grant.holder.clone(), grant.incarnation.0)),
    };
    (state.last_epoch.0, held)
}

/// All sequences of up to four commands, cut where a command does nothing.
fn compare(model: Applied, core: &real::State, left: u8) -> usize {
    let held = model.held.map(|(holder, start)| (id(holder), u64::from(start)));
    assert_eq!((u64::from(model.last), held), seen(core), "{model:?}");
    if left == 0 {
        return 1;
    }
    let mut count = 1;
    for command in commands() {
        let (mut next, mut real) = (model, core.clone());
        let changed = next.apply(command);
        let applied = real_command(command).map(|command| real.apply(&command));
        assert_eq!(changed, applied == Some(real::Outcome::Applied), "{command:?} at {model:?}");
        if changed {
            count += compare(next, &real, left - 1);
        }
    }
    count
}

#[test]
fn the_model_applies_commands_as_the_replicated_state_does() {
    let sequences = compare(Applied::default(), &founded(), 4);
    assert!(sequences > 50, "{sequences}");
}

#[test]
fn an_entry_says_what_was_put_into_it() {
    for command in commands() {
        let mut log = Log::default();
        log.push(1, Command::Blank);
        log.push(4, command);
        let text = format!("{log:?}");
        assert_eq!(text, format!("[(1, Blank), (4, {command:?})]"));
        assert_eq!(log.age(), (4, 2));
        assert_eq!(log.up_to_first_of(4), 2);
    }
}
