//! What a rehearsed fault needs of an instance.

use std::future::Future;

use tokio::time::Instant;

use super::ActionError;
use crate::instance::Role;

/// What a drill does to one instance: a table to write to, and a crash.
pub trait DrillDriver: Send + Sync {
    /// Returns the internal user that writes during a drill, from another node.
    fn drill_role(&self) -> Option<Role>;

    /// Makes the drill's table on the running primary, empty, in a schema of its own. What an earlier drill left
    /// is dropped first; a schema of that name that is not haclt's is left alone.
    ///
    /// # Errors
    /// [`ActionError`] if the schema is somebody else's, or the server does not do it in time.
    fn make_drill_table(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), ActionError>> + Send;

    /// Drops the drill's schema on the running primary, if it is there and haclt's.
    ///
    /// # Errors
    /// As [`Self::make_drill_table`].
    fn drop_drill_table(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), ActionError>> + Send;

    /// Kills the postmaster as a crash does: SIGKILL, without a word to the guard, which finds it dead.
    ///
    /// # Errors
    /// [`ActionError`] if no server runs, or it could not be signalled: then nothing was done.
    fn crash_server(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), ActionError>> + Send;
}
