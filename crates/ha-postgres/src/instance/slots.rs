//! Replication slots: one for each peer, on every node, so that after a failover the new primary has
//! kept the WAL that the others still need (rules 78 to 82).

use ha_core::{Lsn, NodeId};
use tracing::{info, warn};

use super::Instance;
use crate::attempt::Attempt;
use crate::driver::{ActionError, Effect};
use crate::sql::{self, literal};
use crate::wire::{Connection, Row, WireError};

const STATE: &str = "\
SELECT pg_is_in_recovery(), coalesce(pg_last_wal_replay_lsn(), '0/0'); \
SELECT slot_name, slot_type, active, coalesce(restart_lsn, '0/0'), coalesce(wal_status, 'lost') \
 FROM pg_replication_slots";

/// What keeps a slot from being dropped or advanced just now: it is in use.
const IN_USE: &str = "55006";
/// The slot is there already.
const DUPLICATE: &str = "42710";

#[derive(Debug)]
struct Slot {
    name: String,
    physical: bool,
    active: bool,
    restart: Lsn,
    lost: bool,
}

impl Slot {
    fn read(row: &Row) -> Result<Self, WireError> {
        let restart = row.value(3)?;
        Ok(Self {
            name: row.value(0)?,
            physical: row.value::<String>(1)? == "physical",
            active: row.flag(2)?,
            restart,
            lost: restart == Lsn::ZERO || row.value::<String>(4)? == "lost",
        })
    }
}

/// What to do about one peer's slot.
#[derive(Debug, PartialEq, Eq)]
enum Mend {
    Nothing,
    Create,
    Recreate,
    Advance(Lsn),
}

/// Decides what one peer's slot needs. `replayed` is given on a standby only: on a primary the
/// peer's own connection advances the slot.
fn mend(slot: Option<&Slot>, position: Option<Lsn>, replayed: Option<Lsn>) -> Mend {
    let Some(slot) = slot else { return Mend::Create };
    if slot.active || !slot.physical {
        return Mend::Nothing;
    }
    if slot.lost {
        return Mend::Recreate;
    }
    match (position, replayed) {
        (Some(position), Some(replayed)) if position.min(replayed) > slot.restart => {
            Mend::Advance(position.min(replayed))
        }
        _ => Mend::Nothing,
    }
}

impl Instance {
    /// Only slots named like a peer, or like a node that is gone, are touched; all others belong to somebody else. Returns the peers
    /// whose slot had lost its WAL.
    pub(super) async fn mend_slots(
        &self,
        peers: &[NodeId],
        positions: &[(NodeId, Lsn)],
        gone: &[NodeId],
        attempt: &Attempt,
    ) -> Result<Vec<NodeId>, ActionError> {
        let answer = self.mend_each(peers, positions, gone, attempt).await;
        answer.map_err(|error| sql::action_error(attempt, &error, Effect::Unknown))
    }

    async fn mend_each(
        &self,
        peers: &[NodeId],
        positions: &[(NodeId, Lsn)],
        gone: &[NodeId],
        attempt: &Attempt,
    ) -> Result<Vec<NodeId>, WireError> {
        let deadline = attempt.deadline();
        let mut remade = Vec::new();
        let mut session = self.connect(&[], deadline).await?;
        let rows = session.query(STATE, "reading the slots", deadline).await?;
        let missing = || WireError::Protocol("no row".to_owned());
        let (state, slots) = rows.split_first().ok_or_else(missing)?;
        let replayed = if state.flag(0)? { Some(state.value(1)?) } else { None };
        let slots: Vec<Slot> = slots.iter().map(Slot::read).collect::<Result<_, _>>()?;
        for peer in peers.iter().filter(|peer| **peer != self.config.node) {
            let slot = slots.iter().find(|slot| slot.name == peer.as_str());
            if slot.is_some_and(|slot| !slot.physical) {
                warn!(%peer, "the slot with the peer's name is a logical one");
            }
            let position = positions.iter().find(|(node, _)| node == peer).map(|(_, lsn)| *lsn);
            let name = literal(peer.as_str());
            let create = format!("SELECT pg_create_physical_replication_slot({name}, true)");
            match mend(slot, position, replayed) {
                Mend::Nothing => {}
                Mend::Create => {
                    run(&mut session, &create, attempt).await?;
                    info!(%peer, "replication slot made");
                }
                Mend::Recreate => {
                    let drop = format!("SELECT pg_drop_replication_slot({name})");
                    run(&mut session, &drop, attempt).await?;
                    run(&mut session, &create, attempt).await?;
                    remade.push(peer.clone());
                    warn!(%peer, "replication slot made anew: it had lost its WAL");
                }
                Mend::Advance(to) => {
                    let sql = format!("SELECT pg_replication_slot_advance({name}, '{to}')");
                    run(&mut session, &sql, attempt).await?;
                }
            }
        }
        let left = |slot: &&Slot| gone.iter().any(|node| slot.name == node.as_str());
        for slot in slots.iter().filter(left).filter(|slot| slot.physical && !slot.active) {
            let drop = format!("SELECT pg_drop_replication_slot({})", literal(&slot.name));
            run(&mut session, &drop, attempt).await?;
            info!(node = slot.name, "replication slot dropped: its node was taken out");
        }
        Ok(remade)
    }
}

/// Runs a statement; that the slot is in use, or was made meanwhile, is no error.
async fn run(session: &mut Connection, sql: &str, attempt: &Attempt) -> Result<(), WireError> {
    match session.query(sql, "changing a slot", attempt.deadline()).await {
        Err(error) if matches!(error.code(), Some(IN_USE | DUPLICATE)) => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_made_mended_and_only_moved_forward() {
        let slot = |active, restart, lost| Slot {
            name: "n2".to_owned(),
            physical: true,
            active,
            restart: Lsn(restart),
            lost,
        };
        let (at, standby) = (|lsn| Some(Lsn(lsn)), |lsn| Some(Lsn(lsn)));
        #[rustfmt::skip]
        let table = [
            // slot                        position  replayed      what
            (None,                         None,     None,         Mend::Create),
            (Some(slot(false, 50, false)), at(80),   None,         Mend::Nothing),
            (Some(slot(false, 50, false)), at(80),   standby(90),  Mend::Advance(Lsn(80))),
            (Some(slot(false, 50, false)), at(80),   standby(70),  Mend::Advance(Lsn(70))),
            (Some(slot(false, 50, false)), at(40),   standby(70),  Mend::Nothing),
            (Some(slot(false, 50, false)), at(80),   standby(50),  Mend::Nothing),
            (Some(slot(true, 50, false)),  at(80),   standby(90),  Mend::Nothing),
            (Some(slot(false, 0, true)),   at(80),   standby(90),  Mend::Recreate),
            (Some(slot(false, 50, true)),  None,     None,         Mend::Recreate),
        ];
        for (slot, position, replayed, expected) in table {
            assert_eq!(mend(slot.as_ref(), position, replayed), expected, "{slot:?}");
        }
        let logical = Slot { physical: false, ..slot(false, 0, true) };
        assert_eq!(mend(Some(&logical), at(80), standby(90)), Mend::Nothing);
    }
}
