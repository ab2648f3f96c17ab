//! The model's small values, and the real ones of `ha-core` that rules are asked with.
//!
//! The rules cost microseconds, and are asked the same again and again: answers are kept.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::time::Duration;

use ha_core::ancestry::TimelineSwitch;
use ha_core::candidate::{Database, Directory, Report, Tip, elect};
use ha_core::epoch::Incarnation;
use ha_core::lease::Grant;
use ha_core::policy::{Durability, Policy};
use ha_core::state::{self as real, Command, Node, Outcome, VacateReason};
use ha_core::wal_quorum::{self, Change, Live, Quorum, Recorded};
use ha_core::{Epoch, Lease, Lsn, NodeId, NodeKind, TimelineId, WalPosition};

use super::state::{DATA, NODES};

const SYSTEM: u64 = 7;
/// Records are this long, in bytes.
const RECORD: u64 = 16;

/// A quorum: bit i of `members` is node i.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Few {
    pub members: u8,
    pub required: u8,
}

impl Few {
    pub(super) fn has(self, node: u8) -> bool {
        self.members >> node & 1 == 1
    }

    fn index(self) -> u32 {
        u32::from(self.members) << 1 | u32::from(self.required / 2)
    }

    fn real(self) -> Quorum {
        let members = NODES.into_iter().filter(|node| self.has(*node)).map(id);
        Quorum::new(members, self.required.into())
    }

    fn from(quorum: &Quorum) -> Self {
        let bit = |name: &NodeId| NODES.into_iter().find(|node| id(*node) == *name);
        let members = quorum.members.iter().filter_map(bit).fold(0, |all, node| all | 1 << node);
        Self { members, required: u8::try_from(quorum.required).unwrap_or(u8::MAX) }
    }

    /// `Quorum::covered_by`.
    pub(super) fn covered_by(self, live: Self) -> bool {
        thread_local!(static KNOWN: Known<(Few, Few), bool> = Known::default());
        KNOWN.with(|known| ask(known, (self, live), |_| self.real().covered_by(&live.real())))
    }
}

impl fmt::Display for Few {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> =
            NODES.into_iter().filter(|node| self.has(*node)).map(|n| format!("n{n}")).collect();
        if names.is_empty() {
            f.write_str("alone")
        } else {
            write!(f, "{} of {}", self.required, names.join("+"))
        }
    }
}

/// A set of quorums: those that a server may go by. None: it acknowledges nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct InForce(u16);

impl InForce {
    pub(super) fn only(quorum: Few) -> Self {
        Self(1 << quorum.index())
    }

    pub(super) fn and(self, quorum: Few) -> Self {
        Self(self.0 | 1 << quorum.index())
    }

    pub(super) fn all(self) -> impl Iterator<Item = Few> {
        (0..16_u8).filter(move |index| self.0 >> index & 1 == 1).map(|index| {
            let members = index >> 1;
            let required = if members == 0 { 0 } else { 1 + (index & 1) };
            Few { members, required }
        })
    }
}

/// A node's WAL: each record is the epoch in which it was written, four bits each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Wal {
    records: u32,
    len: u8,
}

impl Wal {
    pub(super) fn len(self) -> u8 {
        self.len
    }

    pub(super) fn record(self, at: u8) -> u8 {
        u8::try_from(self.records >> (4 * at) & 15).unwrap_or(0)
    }

    /// The epoch of the last record.
    pub(super) fn last(self) -> u8 {
        if self.len == 0 { 0 } else { self.record(self.len - 1) }
    }

    pub(super) fn with(self, epoch: u8) -> Self {
        let records = self.records | u32::from(epoch) << (4 * self.len);
        Self { records, len: self.len + 1 }
    }

    pub(super) fn first(self, len: u8) -> Self {
        let len = len.min(self.len);
        Self { records: self.records & ((1 << (4 * len)) - 1), len }
    }

    /// What both have in common.
    pub(super) fn shared(self, other: Self) -> Self {
        let len = self.len.min(other.len);
        let same = (0..len).take_while(|at| self.record(*at) == other.record(*at)).count();
        self.first(u8::try_from(same).unwrap_or(len))
    }

    pub(super) fn is_part_of(self, other: Self) -> bool {
        self.shared(other) == self
    }

    fn tip(self) -> Tip {
        let lsn = |records: u8| Lsn(u64::from(records) * RECORD);
        let timeline = |at: u8| TimelineId(u32::from(self.record(at)));
        let ends = (1..self.len).filter(|at| self.record(*at) != self.record(*at - 1));
        let history = ends.map(|at| TimelineSwitch { timeline: timeline(at - 1), end: lsn(at) });
        let end = WalPosition { timeline: TimelineId(self.last().into()), lsn: lsn(self.len) };
        Tip { end, history: history.collect(), oldest: Lsn(0) }
    }
}

impl fmt::Display for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (0..self.len).try_for_each(|at| write!(f, "{}", self.record(at)))
    }
}

/// A recorded quorum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Entry {
    pub epoch: u8,
    pub primary: u8,
    pub quorum: Few,
}

/// What the replicated state says, as far as this model goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Raft {
    pub last_epoch: u8,
    pub holder: Option<u8>,
    pub recorded: Entry,
    pub unsettled: [Option<Entry>; 3],
    pub version: u8,
}

/// A command to the replicated state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Order {
    Vacate,
    Grant { to: u8 },
    SetQuorum { epoch: u8, version: u8, quorum: Few, settled: bool },
}

/// The winner of an election, and what it must have before it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Winner {
    pub node: u8,
    pub from: Option<u8>,
}

/// What a node said in an election: up to which epoch it has pledged, and its WAL.
pub(super) type Said = Option<(u8, Wal)>;

type Known<K, V> = RefCell<HashMap<K, V>>;

fn ask<K: Copy + Eq + Hash, V: Copy>(known: &Known<K, V>, key: K, rule: impl FnOnce(K) -> V) -> V {
    if let Some(answer) = known.borrow().get(&key) {
        return *answer;
    }
    let answer = rule(key);
    known.borrow_mut().insert(key, answer);
    answer
}

fn id(node: u8) -> NodeId {
    format!("n{node}").parse().expect("a valid name")
}

fn number(name: &NodeId) -> u8 {
    NODES.into_iter().find(|node| id(*node) == *name).expect("one of the three")
}

impl Entry {
    fn real(self) -> Recorded {
        Recorded {
            epoch: Epoch(self.epoch.into()),
            primary: id(self.primary),
            mode: Durability::Quorum,
            quorum: self.quorum.real(),
        }
    }

    fn from(recorded: &Recorded) -> Self {
        Self {
            epoch: u8::try_from(recorded.epoch.0).unwrap_or(u8::MAX),
            primary: number(&recorded.primary),
            quorum: Few::from(&recorded.quorum),
        }
    }
}

impl Raft {
    fn real(self) -> real::State {
        let node = |node: u8| {
            let kind = if DATA.contains(&node) { NodeKind::Data } else { NodeKind::Witness };
            let (grpc, postgres) = (String::new(), String::new());
            (id(node), Node { kind, grpc, postgres, keeps_wal: true, sync: true })
        };
        let epoch = Epoch(self.last_epoch.into());
        let lease = self.holder.map_or(Lease::Vacant, |holder| {
            let ttl = Duration::from_secs(3);
            let holder = id(holder);
            let incarnation = Incarnation(1);
            Lease::Held(Grant { holder, incarnation, epoch, ttl, catch_up: None })
        });
        real::State {
            format: real::STATE_FORMAT,
            cluster: "orders".to_owned(),
            nodes: NODES.into_iter().map(node).collect(),
            system_identifier: Some(SYSTEM),
            lease,
            last_epoch: epoch,
            vacated: self.holder.is_none().then_some(VacateReason::Expired),
            durability: Durability::Quorum,
            recorded: Some(self.recorded.real()),
            unsettled: self.unsettled.into_iter().flatten().map(Entry::real).collect(),
            quorum_version: self.version.into(),
            ..real::State::default()
        }
    }

    fn from(state: &real::State) -> Self {
        let mut unsettled = [None; 3];
        assert!(state.unsettled.len() <= unsettled.len(), "as many as epochs before");
        for (place, entry) in unsettled.iter_mut().zip(&state.unsettled) {
            *place = Some(Entry::from(entry));
        }
        Self {
            last_epoch: u8::try_from(state.last_epoch.0).unwrap_or(u8::MAX),
            holder: state.lease.holder().map(number),
            recorded: state.recorded.as_ref().map(Entry::from).unwrap_or_default(),
            unsettled,
            version: u8::try_from(state.quorum_version).unwrap_or(u8::MAX),
        }
    }

    /// `State::apply`; nothing if it refuses.
    pub(super) fn apply(self, order: Order) -> Option<Self> {
        thread_local!(static KNOWN: Known<(Raft, Order), Option<Raft>> = Known::default());
        KNOWN.with(|known| {
            ask(known, (self, order), |_| {
                let mut state = self.real();
                let outcome = state.apply(&self.command(order));
                (outcome == Outcome::Applied).then(|| Self::from(&state))
            })
        })
    }

    fn command(self, order: Order) -> Command {
        match order {
            Order::Vacate => Command::Vacate {
                epoch: Epoch(self.last_epoch.into()),
                reason: VacateReason::Expired,
                pauses: 0,
            },
            Order::Grant { to } => Command::Grant {
                to: id(to),
                incarnation: Incarnation(1),
                epoch: Epoch(u64::from(self.last_epoch) + 1),
                ttl: Duration::from_secs(3),
                catch_up: None,
                evidence: String::new(),
            },
            Order::SetQuorum { epoch, version, quorum, settled } => Command::SetQuorum {
                epoch: Epoch(epoch.into()),
                version: version.into(),
                mode: Durability::Quorum,
                quorum: quorum.real(),
                settled,
            },
        }
    }

    /// `elect`, on these reports.
    pub(super) fn elect(self, said: [Said; 3]) -> Option<Winner> {
        thread_local!(static KNOWN: Known<(Raft, [Said; 3]), Option<Winner>> = Known::default());
        KNOWN.with(|known| {
            ask(known, (self, said), |_| {
                let reports: BTreeMap<NodeId, Report> = NODES
                    .into_iter()
                    .zip(said)
                    .filter_map(|(node, said)| Some((id(node), report(node, said?))))
                    .collect();
                let winner = elect(&self.real(), &reports, None, &Policy::default()).winner?;
                let from = winner.catch_up.map(|fetch| number(&fetch.from));
                Some(Winner { node: number(&winner.node), from })
            })
        })
    }
}

fn report(node: u8, (pledged, wal): (u8, Wal)) -> Report {
    let tip = wal.tip();
    let database = DATA.contains(&node).then_some(Database {
        system_identifier: Some(SYSTEM),
        directory: Directory::Other,
        standby: true,
        flushed: tip.end,
        upstream_end: Lsn::ZERO,
        unfit: None,
        promotable: true,
        priority: 0,
    });
    let (incarnation, pledged) = (Incarnation(1), Epoch(pledged.into()));
    Report { incarnation, primary_epoch: None, database, pledged, wal: Some(tip) }
}

/// What the keeper of a primary is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Next {
    Nothing,
    Set(Few),
    Settle(Few),
    Record(Few),
    Grow(Few),
}

/// `wal_quorum::next`.
pub(super) fn next(recorded: Few, set: Option<Few>, proven: Option<Few>, wanted: Few) -> Next {
    type Key = (Few, Option<Few>, Option<Few>, Few);
    thread_local!(static KNOWN: Known<Key, Next> = Known::default());
    KNOWN.with(|known| {
        ask(known, (recorded, set, proven, wanted), |_| {
            let live = Live { set: set.map(Few::real), proven: proven.map(Few::real) };
            match wal_quorum::next(&recorded.real(), &live, &wanted.real()) {
                Change::Nothing => Next::Nothing,
                Change::Set(quorum) => Next::Set(Few::from(&quorum)),
                Change::Settle(quorum) => Next::Settle(Few::from(&quorum)),
                Change::Record(quorum) => Next::Record(Few::from(&quorum)),
                Change::Grow(quorum) => Next::Grow(Few::from(&quorum)),
            }
        })
    })
}
