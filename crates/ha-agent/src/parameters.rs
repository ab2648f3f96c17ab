//! PostgreSQL's parameters and login rules as the whole cluster sets them: their keys, and bringing the local
//! server in line with them.

mod keeper;
mod key;

pub use keeper::{condemn, run, tell, tell_as_it_ran};
pub use key::{Key, PREFIX, Scope, conf};

use ha_postgres::driver::{Pending, PendingChange};
use ha_proto::v1::ParametersReport;

/// What the local server has of the cluster's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The run of the server that this is about: what waited for a restart is past once there was one.
    pub run: u64,
    /// The version that it was last brought in line with.
    pub version: u64,
    /// What waits for a restart.
    pub pending: Vec<Pending>,
    /// Parameters that the agent's file sets otherwise.
    pub own: Vec<String>,
    /// Why the server runs with what it had before, if it does.
    pub fallen_back: Option<String>,
}

impl Applied {
    /// Returns it as other nodes are told.
    #[must_use]
    pub fn report(&self) -> ParametersReport {
        let names = |wanted: &dyn Fn(PendingChange) -> bool| {
            let some = self.pending.iter().filter(|pending| wanted(pending.change));
            some.map(|pending| pending.name.clone()).collect()
        };
        ParametersReport {
            version: self.version,
            pending: names(&|_| true),
            grows: names(&|change| change == PendingChange::Grows),
            shrinks: names(&|change| change == PendingChange::Shrinks),
            own: self.own.clone(),
            fallen_back: self.fallen_back.clone().unwrap_or_default(),
        }
    }
}
