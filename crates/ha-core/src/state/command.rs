//! Commands, and what may become of them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::journal::Note;
use super::operator::Drill;
use super::{Node, VacateReason, async_mode};
use crate::epoch::{Epoch, Incarnation};
use crate::lease::CatchUp;
use crate::lsn::WalPosition;
use crate::node::NodeId;
use crate::policy::Durability;
use crate::wal_quorum::Quorum;

/// A change of the replicated state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// A command as the Raft leader took it in.
    At {
        /// When, milliseconds of Unix time by the leader's wall clock: for people only.
        at_unix_ms: u64,
        /// Which.
        command: Box<Self>,
    },
    /// Something happened, for the record.
    Note {
        /// What.
        note: Note,
    },
    /// The agents are to leave the databases alone.
    Pause {
        /// Who wants it.
        by: String,
        /// Why.
        why: String,
    },
    /// They are to look after them again, once the holder of the lease says that its guard has a deadline.
    EndPause {
        /// Who wants it.
        by: String,
        /// Whether an operator vouches for it that the holder's database is down for good, so that its word is
        /// not waited for.
        forced: bool,
    },
    /// The guard of the holder of `epoch` has a deadline again: the pause is over.
    ConfirmResumed {
        /// Under which grant.
        epoch: Epoch,
        /// Must be the current [`super::State::pauses`]: what was said of an earlier pause says nothing of this.
        pause: u64,
    },
    /// A node's database is to be down; refused for the holder of the lease.
    Fence {
        /// Which.
        node: NodeId,
        /// Who wants it.
        by: String,
        /// Why.
        why: String,
    },
    /// Takes that back.
    Unfence {
        /// Which.
        node: NodeId,
        /// Who wants it.
        by: String,
    },
    /// A node is part of the cluster from now on, or stays in it after all.
    Join {
        /// Which.
        node: NodeId,
        /// What it is.
        is: Node,
        /// Who wants it.
        by: String,
    },
    /// A node is to leave: nobody's next quorum counts it. Refused for the holder of the lease.
    Retire {
        /// Which.
        node: NodeId,
        /// Who wants it.
        by: String,
    },
    /// A leaving node is gone. Refused while an election may have to hear it.
    Leave {
        /// Which.
        node: NodeId,
    },
    /// A switchover is to begin at that time.
    Schedule {
        /// When, milliseconds of Unix time.
        due_unix_ms: u64,
        /// To whom; `None` for the fittest standby.
        to: Option<NodeId>,
        /// Who wants it.
        by: String,
    },
    /// It is not to begin any more, or has begun.
    Unschedule {
        /// Which.
        id: u64,
        /// Who wants it; empty if its time has come.
        by: String,
        /// Why.
        why: String,
    },
    /// A fault is to be rehearsed on the holder of the lease; refused while another drill is under way.
    BeginDrill {
        /// What is done to whom, and until when it counts as under way.
        drill: Drill,
    },
    /// The drill of that number is over.
    EndDrill {
        /// Which.
        number: u64,
        /// On which node its log is.
        node: NodeId,
        /// How it ended, in words.
        text: String,
        /// How long it took, milliseconds.
        took_ms: u64,
        /// The name of its log file there; empty if there is none.
        log: String,
    },
    /// Changes settings that all nodes share.
    Configure {
        /// Must be the current [`super::State::config_version`].
        version: u64,
        /// The new values by key; `None` to unset.
        changes: BTreeMap<String, Option<String>>,
        /// Who wants it.
        by: String,
    },
    /// Founds the cluster; refused if there is one.
    Found {
        /// The cluster's name.
        cluster: String,
        /// Random identity, drawn by the proposer.
        cluster_id: u128,
        /// Every node.
        nodes: BTreeMap<NodeId, Node>,
        /// What clients are promised, until it is changed.
        #[serde(default = "async_mode")]
        durability: Durability,
    },
    /// A node of the cluster says where its services listen now.
    Describe {
        /// The node.
        node: NodeId,
        /// What is true now. Its kind cannot change.
        is: Node,
    },
    /// Gives a node the right to make the database cluster.
    AssignBootstrap {
        /// The node.
        to: NodeId,
        /// Must be one more than [`super::State::bootstraps`].
        attempt: u64,
    },
    /// Takes that right back: it failed, or its holder is gone.
    EndBootstrap {
        /// Which one.
        attempt: u64,
    },
    /// The bootstrap's holder has a database cluster of this identity: it is the cluster's for good.
    RegisterSystem {
        /// Under which right.
        attempt: u64,
        /// `pg_controldata`'s "Database system identifier".
        system_identifier: u64,
    },
    /// Grants the vacant lease.
    Grant {
        /// The future primary: a data node.
        to: NodeId,
        /// Its agent's current start.
        incarnation: Incarnation,
        /// Must be one more than [`super::State::last_epoch`].
        epoch: Epoch,
        /// For how long a renewal is good.
        ttl: Duration,
        /// What it has to fetch before it accepts writes.
        #[serde(default)]
        catch_up: Option<CatchUp>,
        /// Why this node, for people and the log.
        evidence: String,
    },
    /// Ends the grant of that epoch.
    Vacate {
        /// Which grant.
        epoch: Epoch,
        /// Why.
        reason: VacateReason,
        /// Must be the current [`super::State::pauses`], unless the holder gives it back by itself.
        #[serde(default)]
        pauses: u64,
    },
    /// Ends the grant of `epoch` and makes the next one, in one step.
    Transfer {
        /// Which grant ends.
        epoch: Epoch,
        /// The future primary: a data node.
        to: NodeId,
        /// Its agent's current start.
        incarnation: Incarnation,
        /// For how long a renewal is good.
        ttl: Duration,
        /// Why this node.
        evidence: String,
    },
    /// The holder of `epoch` has ended recovery on a new timeline.
    RecordPromotion {
        /// Under which grant.
        epoch: Epoch,
        /// Where the new timeline begins.
        begin: WalPosition,
        /// The promotion that the timeline before it came from, if the promoted node knows it.
        #[serde(default)]
        follows: Option<Epoch>,
        /// Wall clock of the promoted node, for people only.
        at_unix_ms: u64,
    },
    /// Promises clients something else from now on. The holder of the lease changes the quorum.
    SetDurability {
        /// Must be the current [`super::State::config_version`].
        version: u64,
        /// The new mode.
        durability: Durability,
        /// Who wants it.
        #[serde(default)]
        by: String,
    },
    /// The holder of `epoch` has changed, or is about to change, who acknowledges commits.
    SetQuorum {
        /// Under which grant.
        epoch: Epoch,
        /// Must be the current [`super::State::quorum_version`].
        version: u64,
        /// What clients are promised with it.
        mode: Durability,
        /// The quorum that elections go by from now on.
        quorum: Quorum,
        /// Whether every commit of earlier epochs is on enough of its members: then the quorums of
        /// those epochs have no say any more.
        settled: bool,
    },
    /// A node found that it has WAL which is not part of the cluster's history.
    RecordDivergence {
        /// Which node.
        node: NodeId,
        /// The last shared position.
        fork: WalPosition,
        /// The end of its WAL.
        end: WalPosition,
        /// Wall clock of the node, for people only.
        at_unix_ms: u64,
    },
    /// The kept copy of that number is gone.
    DropDivergence {
        /// Which.
        id: u64,
    },
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was carried out.
    Applied,
    /// It changed nothing.
    Refused(Refused),
}

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refused {
    /// There is a cluster already.
    #[error("the cluster is founded already")]
    AlreadyFounded,
    /// There is no cluster yet, or it has a name this agent does not serve.
    #[error("the cluster is not founded yet")]
    NotFounded,
    /// Not a node of this cluster.
    #[error("{0} is not a node of this cluster")]
    UnknownNode(NodeId),
    /// A witness cannot be primary or make a database.
    #[error("{0} is not a data node")]
    NotADataNode(NodeId),
    /// A node's kind is for ever.
    #[error("node {0} cannot change its kind")]
    KindChanged(NodeId),
    /// The compare-and-swap number is not the current one.
    #[error("it is for epoch {asked}, the latest epoch is {current}")]
    StaleEpoch {
        /// The command's.
        asked: Epoch,
        /// The state's.
        current: Epoch,
    },
    /// A grant needs a vacant lease.
    #[error("the lease is held by {0}")]
    LeaseHeld(NodeId),
    /// Vacating and promoting need a held one.
    #[error("the lease is vacant")]
    LeaseVacant,
    /// A ttl of zero is no right at all.
    #[error("a lease cannot have a ttl of zero")]
    ZeroTtl,
    /// The bootstrap of that number is not the current one.
    #[error("bootstrap {asked} is not the current one")]
    StaleBootstrap {
        /// The command's.
        asked: u64,
    },
    /// There is a database cluster already.
    #[error("the database cluster {0} is registered already")]
    SystemRegistered(u64),
    /// Nobody is primary of a database that does not exist.
    #[error("no database cluster is registered yet")]
    NoSystem,
    /// Somebody changed it meanwhile.
    #[error("it is for version {asked}, the current one is {current}")]
    StaleVersion {
        /// The command's.
        asked: u64,
        /// The state's.
        current: u64,
    },
    /// A mode that needs a standby in a cluster that has none.
    #[error("durability mode {0} needs at least two data nodes")]
    NoStandby(Durability),
    /// A quorum that cannot be: it names the holder or a stranger, or needs more than it has.
    #[error("the quorum names {0}, who cannot acknowledge")]
    NotAnAcknowledger(NodeId),
    /// More acknowledgements than acknowledgers.
    #[error("the quorum needs {required} of {members} members")]
    ImpossibleQuorum {
        /// How many it needs.
        required: u32,
        /// How many there are.
        members: usize,
    },
    /// No diverged WAL has that number.
    #[error("no diverged WAL has the number {0}")]
    NoSuchDivergence(u64),
    /// A command says when it was taken in twice.
    #[error("it was taken in twice")]
    TwoTimes,
    /// The agents leave the databases alone.
    #[error("the cluster is paused: haclt resume ends that")]
    Paused,
    /// They do not.
    #[error("the cluster is not paused")]
    NotPaused,
    /// A node whose database is down by order.
    #[error("node {0} is fenced by order: haclt unfence {0} ends that")]
    Fenced(NodeId),
    /// A node whose database is not.
    #[error("node {0} is not fenced by order")]
    NotFenced(NodeId),
    /// A node that is being taken out.
    #[error("node {0} is being taken out of the cluster: haclt node add {0} keeps it")]
    Leaving(NodeId),
    /// A node that nobody wanted to take out.
    #[error("node {0} is not being taken out")]
    NotLeaving(NodeId),
    /// A quorum that has a say names it.
    #[error("node {0} may have acknowledged commits that are not on enough others yet")]
    StillNeeded(NodeId),
    /// No database would be left.
    #[error("node {0} is the last data node")]
    LastDataNode(NodeId),
    /// It is making the database.
    #[error("node {0} is making the database cluster")]
    Bootstraps(NodeId),
    /// The same switchover is scheduled already.
    #[error("it is scheduled already, as number {0}")]
    AlreadyScheduled(u64),
    /// No scheduled switchover has that number.
    #[error("no scheduled switchover has the number {0}")]
    NoSuchSchedule(u64),
    /// One at a time.
    #[error("a drill is under way: {what} on node {node}, ordered by {by}")]
    DrillUnderWay {
        /// What is rehearsed.
        what: String,
        /// On whom.
        node: NodeId,
        /// Who wanted it.
        by: String,
    },
    /// No drill of that number is under way.
    #[error("no drill of that number is under way")]
    NoSuchDrill,
    /// A bound on what is kept.
    #[error("there are at most {max} {what}")]
    TooMany {
        /// Of what.
        what: String,
        /// How many.
        max: usize,
    },
    /// That epoch's promotion is recorded.
    #[error("the promotion of epoch {0} is recorded already")]
    AlreadyRecorded(Epoch),
}
