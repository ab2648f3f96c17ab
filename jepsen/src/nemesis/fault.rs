//! The faults by name, and what is expected of the cluster after each.

use std::time::Duration;

use clap::ValueEnum;

/// What can be done to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Fault {
    /// SIGKILL to an agent; started again at the end.
    KillAgent,
    /// SIGSTOP to an agent; SIGCONT at the end.
    PauseAgent,
    /// SIGKILL to a guard.
    KillGuard,
    /// SIGSTOP to a guard; SIGCONT at the end.
    PauseGuard,
    /// SIGKILL to a postmaster.
    KillPostmaster,
    /// SIGSTOP to a postmaster; SIGCONT at the end.
    PausePostmaster,
    /// SIGKILL to one backend of a client on the primary.
    KillBackend,
    /// SIGSTOP to one backend of a client on the primary; SIGCONT at the end.
    PauseBackend,
    /// SIGKILL to one walsender of the primary.
    KillWalsender,
    /// SIGSTOP to one walsender of the primary; SIGCONT at the end.
    PauseWalsender,
    /// SIGKILL to what receives WAL: a standby's receiver, the witness's `pg_receivewal`.
    KillReceiver,
    /// SIGSTOP to the same; SIGCONT at the end.
    PauseReceiver,
    /// SIGKILL to every process of a node at once; its agent is started at the end.
    KillNode,
    /// SIGSTOP to every process of a node; SIGCONT at the end, sessions first.
    FreezeNode,
    /// The primary's node is cut off from the other nodes, not from clients.
    IsolatePrimary,
    /// Some node is cut off from the other nodes, not from clients.
    IsolateNode,
    /// The primary's node is cut off from the other nodes and from clients.
    IsolateAll,
    /// One node is cut off from two, who is by chance; clients reach all.
    Halves,
    /// Each node hears only one of the others.
    Ring,
    /// What one node sends to another is lost, in that direction only.
    OneWay,
    /// Traffic of databases between nodes is lost, that of agents is not.
    PostgresOnly,
    /// Traffic of databases between data nodes is lost: witnesses receive and acknowledge alone.
    DataLink,
    /// Traffic of agents between nodes is lost, that of databases is not.
    AgentsOnly,
    /// The primary's node is cut off and joined again, several times a second to every few seconds.
    Flapping,
    /// A tenth to a third of all packets between nodes is lost.
    Loss,
    /// Every packet to and from a node waits for 50 to 300 ms.
    Delay,
    /// A node's line carries no more than 4 to 64 kB in a second each way.
    SlowLink,
    /// `haclt switchover`.
    Switchover,
    /// `haclt pause`; `haclt resume` at the end.
    PauseCluster,
    /// `haclt config set` of a parameter.
    ConfigSet,
    /// `haclt restart --all`.
    RollingRestart,
    /// The wall clock of a node, or of all, jumps by up to an hour; right again at the end.
    ClockStep,
    /// The wall clock of a node, or of all, is up to a tenth too fast or too slow; right again at the end.
    ClockSkew,
    /// The wall clock of a node, or of all, jumps there and back several times a second to once.
    ClockStrobe,
    /// `pg_cancel_backend` on every commit that waits for its quorum.
    CancelWaits,
    /// Each write and each sync of a node's database, or of a witness's WAL, takes long.
    SlowDiskData,
    /// Each write and each sync of an agent's own files takes long.
    SlowDiskRaft,
    /// There is no room for a node's database, or for a witness's WAL.
    FullDiskData,
    /// There is no room for an agent's own files.
    FullDiskRaft,
    /// SIGKILL to every process of a node at once, and what it did not sync is lost; its agent is started at the end.
    PowerCut,
    /// `docker kill` of a database's container, guard and all.
    KillContainer,
    /// `docker pause` of a database's container; `docker unpause` at the end.
    PauseContainer,
    /// `docker restart` of an agent's or a database's container.
    RestartContainer,
    /// `docker stop` of an agent's or a database's container; `docker start` at the end.
    StopContainer,
    /// SIGTERM or SIGKILL to the Docker engine; started again at the end.
    RestartEngine,
    /// A node leaves the cluster for good, and another one joins it: `haclt node remove`, `haclt node add`.
    ChangeMembers,
}

impl Fault {
    /// Returns the name that the command line and histories have for it.
    pub fn name(self) -> String {
        let value = self.to_possible_value();
        value.map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Returns whether each node must have a network of its own.
    pub const fn needs_networks(self) -> bool {
        matches!(
            self,
            Self::IsolatePrimary
                | Self::IsolateNode
                | Self::IsolateAll
                | Self::Halves
                | Self::Ring
                | Self::OneWay
                | Self::PostgresOnly
                | Self::DataLink
                | Self::AgentsOnly
                | Self::Flapping
                | Self::Loss
                | Self::Delay
                | Self::SlowLink
        )
    }

    /// Returns whether a wall clock is put off.
    pub const fn puts_off_clocks(self) -> bool {
        matches!(self, Self::ClockStep | Self::ClockSkew | Self::ClockStrobe)
    }

    /// Returns whether each node must have disks of its own.
    pub const fn needs_disks(self) -> bool {
        matches!(
            self,
            Self::SlowDiskData
                | Self::SlowDiskRaft
                | Self::FullDiskData
                | Self::FullDiskRaft
                | Self::PowerCut
        )
    }

    /// Returns whether nodes must be in containers.
    pub const fn needs_containers(self) -> bool {
        matches!(
            self,
            Self::KillContainer
                | Self::PauseContainer
                | Self::RestartContainer
                | Self::StopContainer
                | Self::RestartEngine
        )
    }

    /// Returns whether nodes come and go by it.
    pub const fn changes_members(self) -> bool {
        matches!(self, Self::ChangeMembers)
    }

    /// Returns whether a server that nobody could end may answer reads for a moment although another node has
    /// taken over: it cannot acknowledge a commit, but what it reads is old. The design says so.
    pub const fn allows_stale_reads(self) -> bool {
        matches!(self, Self::FreezeNode | Self::PauseGuard | Self::PauseContainer)
    }

    /// Returns whether what clients read may be lost: commits whose wait was cancelled are visible.
    pub const fn shows_unacknowledged(self) -> bool {
        matches!(self, Self::CancelWaits)
    }

    /// Returns whether nobody can lose the lease by it.
    pub const fn is_harmless(self) -> bool {
        matches!(
            self,
            Self::PauseReceiver | Self::PauseWalsender | Self::ConfigSet | Self::CancelWaits
        )
    }

    /// Returns how long it lasts at least and at most, in milliseconds.
    pub const fn span_ms(self) -> (u64, u64) {
        match self {
            Self::KillGuard
            | Self::KillPostmaster
            | Self::KillBackend
            | Self::KillWalsender
            | Self::KillContainer
            | Self::RestartContainer => (500, 2000),
            Self::KillReceiver | Self::ConfigSet | Self::Switchover => (500, 4000),
            Self::PauseAgent | Self::PauseGuard | Self::PausePostmaster => (500, 9000),
            Self::RollingRestart => (5000, 15_000),
            // Some shorter than the lease, most longer.
            Self::RestartEngine => (1000, 12_000),
            Self::ChangeMembers => (8000, 25_000),
            _ => (1000, 9000),
        }
    }

    /// Returns how soon after its end a client must have a write acknowledged, if nothing else is wrong.
    ///
    /// The time budget of the design (`ttl` 3 s and half a second), and what a restart or a rewind takes on a
    /// machine of two cores that does other things too.
    pub const fn recovery(self) -> Duration {
        match self {
            Self::KillNode
            | Self::FreezeNode
            | Self::RollingRestart
            | Self::PowerCut
            | Self::FullDiskData
            | Self::FullDiskRaft
            | Self::PauseContainer
            | Self::RestartContainer
            | Self::StopContainer
            | Self::RestartEngine => Duration::from_secs(30),
            Self::PauseCluster | Self::PauseGuard => Duration::from_secs(20),
            _ => Duration::from_secs(15),
        }
    }
}

/// Names for several faults at once.
const GROUPS: [(&str, &[Fault]); 11] = [
    (
        "kill",
        &[
            Fault::KillAgent,
            Fault::KillGuard,
            Fault::KillPostmaster,
            Fault::KillBackend,
            Fault::KillWalsender,
            Fault::KillReceiver,
            Fault::KillNode,
        ],
    ),
    (
        "pause",
        &[
            Fault::PauseAgent,
            Fault::PauseGuard,
            Fault::PausePostmaster,
            Fault::PauseBackend,
            Fault::PauseWalsender,
            Fault::PauseReceiver,
            Fault::FreezeNode,
        ],
    ),
    (
        "partition",
        &[
            Fault::IsolatePrimary,
            Fault::IsolateNode,
            Fault::IsolateAll,
            Fault::Halves,
            Fault::Ring,
            Fault::OneWay,
            Fault::PostgresOnly,
            Fault::DataLink,
            Fault::AgentsOnly,
            Fault::Flapping,
            Fault::Loss,
        ],
    ),
    ("network", &[Fault::Delay, Fault::SlowLink]),
    ("clock", &[Fault::ClockStep, Fault::ClockSkew, Fault::ClockStrobe]),
    ("orders", &[Fault::Switchover, Fault::PauseCluster, Fault::ConfigSet, Fault::RollingRestart]),
    (
        "disk",
        &[
            Fault::SlowDiskData,
            Fault::SlowDiskRaft,
            Fault::FullDiskData,
            Fault::FullDiskRaft,
            Fault::PowerCut,
        ],
    ),
    (
        "container",
        &[
            Fault::KillContainer,
            Fault::PauseContainer,
            Fault::RestartContainer,
            Fault::StopContainer,
        ],
    ),
    ("engine", &[Fault::RestartEngine]),
    ("members", &[Fault::ChangeMembers]),
    ("none", &[]),
];

/// Every fault but the one after which clients read what is lost.
const ALL_BUT_CANCEL: &str = "all-but-cancel";

/// Reads a list such as `kill,isolate-primary`: names of faults and of groups, or `all`.
///
/// # Errors
/// The name that is neither.
pub fn parse_list(text: &str) -> Result<Vec<Fault>, String> {
    let mut found = Vec::new();
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        // Disks of their own make a whole cluster slow, most clusters are in no containers, and nodes that come need a
        // place of their own: whoever wants those names them.
        let named_only = |fault: &Fault| {
            fault.needs_disks() || fault.needs_containers() || fault.changes_members()
        };
        let all = Fault::value_variants().iter().filter(|fault| !named_only(fault));
        if name == "all" {
            found.extend(all);
        } else if name == ALL_BUT_CANCEL {
            found.extend(all.filter(|fault| !fault.shows_unacknowledged()));
        } else if let Some((_, group)) = GROUPS.iter().find(|(group, _)| *group == name) {
            found.extend(*group);
        } else {
            found.push(parse(name)?);
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Reads the name of one fault.
///
/// # Errors
/// What may be said instead.
pub fn parse(name: &str) -> Result<Fault, String> {
    Fault::from_str(name, false).map_err(|_| {
        let groups: Vec<&str> = GROUPS.iter().map(|(group, _)| *group).collect();
        let faults: Vec<String> = Fault::value_variants().iter().map(|f| f.name()).collect();
        format!(
            "no fault {name:?}; there are {}, and {}, all, {ALL_BUT_CANCEL}",
            faults.join(", "),
            groups.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_names_faults_groups_or_all_and_nothing_twice() {
        assert_eq!(parse_list("none"), Ok(vec![]));
        assert_eq!(parse_list("switchover,orders").unwrap().len(), 4);
        let all = parse_list("all,disk,container,engine,members").unwrap();
        assert_eq!(all, Fault::value_variants());
        assert!(all.len() > parse_list("all").unwrap().len());
        for list in ["all", ALL_BUT_CANCEL] {
            assert!(!parse_list(list).unwrap().iter().any(|fault| fault.needs_containers()));
        }
        assert_eq!(parse_list("kill-agent, ring"), Ok(vec![Fault::KillAgent, Fault::Ring]));
        assert!(parse_list("kill,nothing-such").unwrap_err().contains("no fault \"nothing-such\""));
    }

    #[test]
    fn every_fault_but_cancelled_waits_is_in_exactly_one_group() {
        for fault in Fault::value_variants() {
            let times = GROUPS.iter().filter(|(_, group)| group.contains(fault)).count();
            assert_eq!(times, usize::from(*fault != Fault::CancelWaits), "{fault:?}");
            let (low, high) = fault.span_ms();
            assert!(low <= high && fault.recovery() > Duration::ZERO);
        }
    }

    #[test]
    fn whatever_needs_networks_is_a_partition_or_a_slow_line_and_what_needs_disks_a_fault_of_them()
    {
        let of = |group| GROUPS.iter().find(|(name, _)| *name == group).unwrap().1;
        let partitions = [of("partition"), of("network")].concat();
        for fault in Fault::value_variants() {
            assert_eq!(fault.needs_networks(), partitions.contains(fault), "{fault:?}");
        }
        let containers = [of("container"), of("engine")].concat();
        for fault in Fault::value_variants() {
            assert_eq!(fault.needs_disks(), of("disk").contains(fault), "{fault:?}");
            assert_eq!(fault.needs_containers(), containers.contains(fault), "{fault:?}");
        }
    }
}
