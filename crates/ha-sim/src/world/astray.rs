//! What an agent remembers, and does, if it makes one of the mistakes that only a replayed way shows
//! ([`Mutation::REPLAYED`](super::mutation::Mutation::REPLAYED)). Without a mistake all of this does nothing.

use std::rc::Rc;
use std::time::Duration;

use ha_core::granter::{Expiry, Granter};
use ha_core::state::{Command, State};

use super::kernel::Ctx;
use super::mutation::Mutation;
use super::state::World;

/// How long a decision may take that is carried out in a later term.
const SUBMIT_LIMIT: Duration = Duration::from_secs(2);

/// What no agent should remember.
#[derive(Debug, Default)]
pub(crate) struct Astray {
    /// The granter of an earlier term.
    kept: Option<Granter>,
    /// What it decided in an earlier term.
    decided: Option<Command>,
    /// The number of the renewal that it sent last.
    pub(crate) newest_renewal: u64,
}

/// A record of an earlier term is kept.
pub(crate) fn keep_record(world: &mut World, at: usize, leading: Option<u64>) {
    if world.mutation != Some(Mutation::RecordKeptPerNode) {
        return;
    }
    let agent = world.agent(at);
    if agent.granter.arrived().is_ok_and(|term| Some(term) != leading) {
        agent.astray.kept = Some(agent.granter.clone());
    }
}

/// The lease expires by what was noted in an earlier term.
pub(crate) fn expired_by_old_record(world: &mut World, at: usize) -> Option<Expiry> {
    let clock = world.clock(at);
    let agent = world.agent(at);
    let term = agent.raft.leads()?;
    let kept = agent.astray.kept.as_mut()?;
    kept.expire(&agent.state.lease, clock).map(|expiry| Expiry { term, ..expiry })
}

/// A leader that is deposed begins its record anew, in the term that it does not lead any more.
pub(crate) fn deposed(world: &mut World, at: usize, noted: u64) {
    let drift = world.policy.drift;
    if world.mutation != Some(Mutation::VacatingForgotten) {
        return;
    }
    let agent = world.agent(at);
    if agent.raft.leads() != Some(noted) {
        agent.granter = Granter::new(drift);
    }
}

/// A decision is kept until it is carried out.
pub(crate) fn note_decision(world: &mut World, at: usize, decided: &Command) {
    if world.mutation == Some(Mutation::VacateNotBoundToTerm) {
        world.agent(at).astray.decided = Some(decided.clone());
    }
}

/// A decision of an earlier term is carried out by whoever leads now.
pub(crate) async fn carry_decision(ctx: &Ctx) {
    let decided = {
        let mut agent = ctx.agent();
        let leads = agent.raft.leads().is_some();
        if leads { None } else { agent.astray.decided.take() }
    };
    if let Some(command) = decided {
        ctx.submit(command, SUBMIT_LIMIT).await;
    }
}

/// The state as an election goes by it: quorums of earlier epochs may be forgotten.
pub(crate) fn remembered(world: &World, state: &Rc<State>) -> Rc<State> {
    let mut state = Rc::clone(state);
    if world.mutation == Some(Mutation::EarlierQuorumForgotten) {
        Rc::make_mut(&mut state).unsettled.clear();
    }
    state
}
