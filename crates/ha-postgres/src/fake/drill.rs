//! A fake instance has no tables, and crashes when told to.

use tokio::time::Instant;

use super::FakeDriver;
use crate::attempt::Attempt;
use crate::driver::{ActionError, DrillDriver};
use crate::instance::Role;

impl DrillDriver for FakeDriver {
    /// Nobody can log in to a fake server.
    fn drill_role(&self) -> Option<Role> {
        None
    }

    async fn make_drill_table(&self, deadline: Instant) -> Result<(), ActionError> {
        self.reached(&Attempt::new("make the drill's table", deadline)).await
    }

    async fn drop_drill_table(&self, deadline: Instant) -> Result<(), ActionError> {
        self.reached(&Attempt::new("drop the drill's table", deadline)).await
    }

    async fn crash_server(&self, deadline: Instant) -> Result<(), ActionError> {
        self.reached(&Attempt::new("crash the server", deadline)).await?;
        self.world.crash(&self.node);
        Ok(())
    }
}
