//! What a data node's decision sees: everything refined so far that no arm needs a condition.

use crate::epoch::Epoch;
use crate::node::NodeId;

/// One look at the world, made by the agent before each decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// What the lease means to this node now.
    pub lease: LeaseView,
    /// The epoch of the lease; of the latest one if it is vacant.
    pub epoch: Epoch,
    /// Who holds it.
    pub holder: Option<NodeId>,
    /// The local database.
    pub instance: Instance,
    /// The bootstrap that was assigned to this node, if any.
    pub bootstrap: Option<u64>,
    /// Whether the database has everything that its grant demands.
    pub catch_up: CatchUp,
    /// What an operator has ordered.
    pub order: Order,
}

/// What an operator has ordered about this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Order {
    /// Nothing.
    None,
    /// Its database is to be down.
    Fenced,
    /// Its database is to be down: it is being taken out.
    Leave,
    /// Its database is to be left alone.
    Paused,
}

/// Whether a future primary has replayed everything that its grant demands (rule 96).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CatchUp {
    /// It has, or nothing was demanded.
    Done,
    /// Another node has WAL that it must fetch first.
    Needed,
    /// It could not be fetched, or not be replayed.
    Failed,
}

/// What the lease means to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeaseView {
    /// The replicated state of this node is older than its own permit, or there is none yet.
    Unknown,
    /// Nobody holds it.
    Vacant,
    /// Another node holds it.
    Theirs,
    /// Granted to this start of the agent, and not proven by a renewal yet.
    Granted,
    /// Proven, with more than the guard's margin left.
    Ours,
    /// Ours by the replicated state; the right was proven once and has ended, or ends within the margin.
    Lapsed,
    /// Ours by the replicated state, but given up for good, or granted to an earlier start of the agent
    /// of which no permit is left. It may only be vacated.
    Forfeited,
}

/// The local database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Instance {
    /// Nothing is known yet: the guard is silent, or the first look is still to come.
    Unseen,
    /// The data directory is empty.
    Empty,
    /// A clone, an `initdb` or a rewind was not finished.
    HalfMade,
    /// The data directory is missing, unreadable or of another database cluster.
    Broken,
    /// A usable data directory, and no process on it.
    Stopped(Stopped),
    /// The guard is stopping it.
    Stopping,
    /// The server runs and does not accept connections yet.
    Starting(Starting),
    /// In recovery.
    Standby(Upstream),
    /// It accepts writes, or may do so.
    Primary(Health),
    /// A long job is under way on the stopped or starting database.
    Working(Job),
}

/// What to make of a stopped database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stopped {
    /// What the crash of a primary calls for; [`Crash::None`] if it did not crash under our lease.
    pub crash: Crash,
    /// How its WAL relates to the holder's.
    pub relation: Relation,
    /// Whether the wait for a new primary is over.
    pub grace: Grace,
}

/// What a crash of the primary calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Crash {
    /// It did not crash under the lease that we hold.
    None,
    /// Whether the standby has everything is still to be found out.
    Unassessed,
    /// A fit standby has every byte, or restarting was tried too often.
    FailOver,
    /// The standby lacks WAL, or there is none: crash recovery in place loses nothing.
    RestartInPlace,
}

/// How the local WAL relates to the history of the lease's holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Relation {
    /// Not compared under this epoch.
    Uncompared,
    /// The local WAL is part of it.
    Ancestor,
    /// The local WAL has bytes that it lacks: rewind.
    Diverged,
    /// A rewind is impossible: clone.
    CloneOnly,
    /// Diverged, and the operator wants to decide.
    Manual,
}

/// Whether a stopped node has waited long enough for a new primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Grace {
    /// Not yet.
    Waiting,
    /// It has.
    Over,
}

/// A server that does not accept connections yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Starting {
    /// As a standby.
    Standby,
    /// As a primary after a crash, and within its time.
    InPlace,
    /// As a primary after a crash, for too long, while another node is fit.
    InPlaceTooLong,
}

/// Whom a standby follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Upstream {
    /// The holder, and it streams or just began to.
    Right,
    /// Somebody else, or nobody.
    Wrong,
    /// The holder, but nothing streams and the histories were not compared.
    Stuck,
    /// The holder, whose history this is, but it has removed WAL that this standby still needs.
    Starved,
    /// The holder's history lacks WAL that this standby has.
    Diverged,
}

/// How a primary is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    /// It answers, or missed less than what counts.
    Fine,
    /// It failed as often in a row as the policy says, and another node is fit to take over.
    SickReplaceable,
    /// It failed as often, but nobody is fit to take over.
    SickAlone,
}

/// A long job on the local database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Job {
    /// Ending recovery under our lease.
    Promote,
    /// Making the database cluster.
    Initdb,
    /// Cloning the holder.
    Clone,
    /// Rewinding.
    Rewind,
    /// Comparing histories, reading the end of WAL, starting.
    Prepare,
    /// Handing the primary role over because the agent is leaving.
    HandOver,
}
