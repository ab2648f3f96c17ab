//! What a fake data directory's control file says.

use ha_core::WalPosition;

use super::{Data, Server};
use crate::driver::{ControlFile, ControlState};

pub(super) fn control(server: &Server) -> ControlFile {
    let Data { system_identifier, timeline, flushed, checkpointed, .. } = server.data;
    let standby = server.set_up.as_ref().is_some_and(|set_up| set_up.standby);
    ControlFile {
        system_identifier,
        major: 15,
        state: match (server.running.map(|running| running.in_recovery), server.data.clean) {
            (Some(true), _) => ControlState::InRecovery,
            (Some(false), _) | (None, false) => ControlState::InProduction,
            (None, true) => ControlState::ShutDown,
        },
        checkpoint: WalPosition { timeline: checkpointed, lsn: flushed },
        redo: flushed,
        min_recovery_end: WalPosition { timeline, lsn: flushed },
        checksums: true,
        standby_signal: standby,
    }
}
