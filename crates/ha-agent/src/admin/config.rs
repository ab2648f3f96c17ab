//! The replicated configuration, as operators see and change it.

mod change;
mod check;
mod durability;
mod view;

pub(super) use change::{change, set};
pub(super) use check::check;
pub(super) use view::{history, show};

use ha_core::state::State;
use ha_postgres::driver::PostgresDriver;
use tonic::Status;

use crate::agent::Agent;

/// The key of the durability mode.
const DURABILITY: &str = "durability.mode";

fn founded<D: PostgresDriver>(agent: &Agent<D>) -> Result<State, Status> {
    let state = agent.state();
    if state.is_founded() {
        Ok(state)
    } else {
        Err(Status::failed_precondition("the cluster is not founded yet"))
    }
}
