//! What a checkup measures in a [`FakeWorld`](super::FakeWorld).

use std::time::Duration;

use ha_core::NodeId;
use tokio::time::Instant;

use super::FakeDriver;
use crate::attempt::Attempt;
use crate::driver::{
    Checkup, Knock, KnockError, ProbeError, Purpose, Slot, Standby, Transactions, Upstream, Wal,
};

/// The settings of every fake server: those of one that haclt made.
const SETTINGS: [(&str, &str); 6] = [
    ("data_checksums", "on"),
    ("fsync", "on"),
    ("full_page_writes", "on"),
    ("max_connections", "100"),
    ("server_version", "15.0"),
    ("wal_log_hints", "on"),
];

impl FakeDriver {
    pub(super) async fn measure(&self, deadline: Instant) -> Result<Checkup, ProbeError> {
        self.answered("reading the state", deadline).await?;
        let mut world = self.world.lock();
        world.tick();
        let receivers = world.receivers_of(&self.node);
        let server = world.servers.get(&self.node).ok_or(ProbeError::Refused)?;
        let in_recovery = server.running.ok_or(ProbeError::Refused)?.in_recovery;
        let end = server.data.flushed;
        let streams = |node: &NodeId| receivers.iter().any(|(name, _)| name == node);
        let slots = server.slots.iter().map(|(node, kept)| Slot {
            name: node.to_string(),
            active: streams(node),
            status: "reserved".to_owned(),
            kept_bytes: Some(end.bytes_after(*kept)),
            left_bytes: None,
        });
        let standbys = receivers.iter().map(|(node, flushed)| Standby {
            name: node.to_string(),
            state: "streaming".to_owned(),
            lag_bytes: end.bytes_after(*flushed),
            replay_lag_ms: None,
        });
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Ok(Checkup {
            login: Duration::from_millis(1),
            in_recovery,
            synchronous: server.synchronous.setting(),
            settings: Ok(SETTINGS.into_iter().map(own).collect()),
            slots: Ok(slots.collect()),
            standbys: Ok(standbys.collect()),
            wal: Ok(Wal { bytes: 64 << 20, expected_bytes: 1 << 30 }),
            archiver: Ok(None),
            transactions: Ok(Transactions {
                prepared: 0,
                prepared_s: 0,
                oldest_database: "postgres".to_owned(),
                oldest_age: 100,
            }),
        })
    }

    pub(super) fn knock_at(&self, at: &Upstream, attempt: &Attempt) -> Vec<Knock> {
        let found = self.source(at, attempt).map(|(data, _)| data.flushed);
        [Purpose::Replication, Purpose::Rewind]
            .into_iter()
            .map(|purpose| Knock {
                purpose,
                user: "haclt_replication".to_owned(),
                answer: match &found {
                    Ok(end) => Ok((Duration::from_millis(1), Some(*end))),
                    Err(error) => Err(KnockError::Unreachable(error.to_string())),
                },
            })
            .collect()
    }
}
