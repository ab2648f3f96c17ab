//! What a node tells of itself.

use ha_core::candidate::{Database, Directory, Report, Tip};
use ha_core::decide::Rule;
use ha_core::permit::Order;
use ha_core::{Epoch, WalPosition};

use super::kernel::{Ctx, MS};
use super::observe;
use super::state::World;
use super::wal::Wal;

/// The identity of the one database cluster there is.
pub(crate) const SYSTEM: u64 = 4711;

/// What a node reports.
#[derive(Debug, Clone)]
pub(crate) struct Reported {
    pub(crate) report: Report,
    pub(crate) knows_leader: bool,
    /// Whether it could take over at once.
    pub(crate) fit: bool,
}

/// What a node answers to an election's question.
#[derive(Debug, Clone)]
pub(crate) struct Revoked {
    pub(crate) reported: Reported,
    pub(crate) pledged: Epoch,
    pub(crate) tip: Option<Tip>,
}

impl Reported {
    /// Up to where it has WAL.
    pub(crate) fn flushed(&self) -> Option<WalPosition> {
        self.report.database.as_ref().map(|database| database.flushed)
    }
}

/// Returns what an election is told of a node's WAL.
pub(crate) fn tip_of(wal: &Wal) -> Tip {
    Tip {
        end: wal.end(),
        history: wal.history_at(wal.flushed),
        oldest: super::wal::lsn(wal.base()),
    }
}

/// Reports with a position read just now.
pub(crate) async fn fresh(ctx: &Ctx) -> Reported {
    let span = ctx.world().rng.range(1, 4);
    ctx.sleep(std::time::Duration::from_millis(span)).await;
    super::agent::probe(&mut ctx.world(), ctx.host);
    local(&mut ctx.world(), ctx.host)
}

/// Reports from memory.
pub(crate) fn local(world: &mut World, at: usize) -> Reported {
    let now = world.now;
    let clock = world.clock(at).boottime;
    let host = &world.hosts[at];
    let agent = host.agent.as_ref().expect("it answers");
    let primary_epoch = match agent.permit.order {
        Order::Primary { epoch, deadline } if deadline > clock => Some(epoch),
        Order::Primary { .. } | Order::Standby | Order::Down { .. } => None,
    };
    let rule = agent.facts.decision.as_ref().map(|decision| decision.rule);
    let database = host.pg.as_ref().map(|pg| {
        let status = observe::guard(host);
        let answer = status.and_then(|status| agent.facts.answer(status.run));
        let answers = answer.filter(|probe| now.saturating_sub(probe.at) < 4000 * MS);
        let running = status.is_some_and(|status| !status.state.is_gone());
        Database {
            system_identifier: pg.data.half.is_none().then_some(SYSTEM),
            directory: Directory::Other,
            standby: running && answers.is_some_and(|probe| probe.recovery),
            flushed: match answer {
                Some(probe) if running => probe.flushed,
                _ => pg.data.wal.end(),
            },
            upstream_end: super::wal::lsn(pg.data.wal.len()),
            unfit: status.is_none().then(|| "its guard does not answer".to_owned()),
            promotable: true,
            priority: 0,
        }
    });
    let fit = rule == Some(Rule::Following)
        && database.as_ref().is_some_and(|database| database.standby && database.unfit.is_none());
    Reported {
        report: Report {
            incarnation: agent.incarnation,
            primary_epoch,
            database,
            pledged: Epoch::NONE,
            wal: None,
        },
        knows_leader: agent.raft.leader.is_some(),
        fit,
    }
}
