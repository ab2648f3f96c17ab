//! The faults: how each is brought about, what ends it, and what counts as its end.

use std::time::Duration;

use clap::ValueEnum;
use rustix::process::Signal;

use crate::bench::rig::Rig;
use crate::bench::world;
use crate::failure::Outcome;

/// What is done to the primary's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// SIGKILL to the postmaster
    Postmaster,
    /// SIGKILL to agent, guard and PostgreSQL at once
    Node,
    /// SIGKILL to the agent; its supervisor starts it again at once
    AgentKill,
    /// SIGSTOP to the agent; resumed after the other node took over
    AgentStop,
    /// All traffic from and to the host vanishes
    Network,
}

impl Fault {
    /// All of them.
    pub(crate) const ALL: [Self; 5] =
        [Self::Postmaster, Self::Node, Self::AgentKill, Self::AgentStop, Self::Network];

    /// Returns its name, as on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Postmaster => "postmaster",
            Self::Node => "node",
            Self::AgentKill => "agent-kill",
            Self::AgentStop => "agent-stop",
            Self::Network => "network",
        }
    }

    /// Returns what it is, for the table.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Postmaster => "postmaster SIGKILL",
            Self::Node => "whole node SIGKILL",
            Self::AgentKill => "agent SIGKILL, restarted",
            Self::AgentStop => "agent SIGSTOP",
            Self::Network => "network cut",
        }
    }

    /// Returns whether the other node has to take over.
    pub(crate) const fn moves_primary(self) -> bool {
        match self {
            Self::Node | Self::AgentStop | Self::Network => true,
            // May be restarted in place, within the same epoch.
            Self::Postmaster | Self::AgentKill => false,
        }
    }

    /// Returns how long to watch at least. A fault that must change nothing needs watching beyond
    /// the lease's time to live.
    pub(crate) fn watch(self, ttl: Duration) -> Duration {
        match self {
            Self::AgentKill => ttl + Duration::from_secs(2),
            Self::Postmaster | Self::Node | Self::AgentStop | Self::Network => {
                Duration::from_secs(1)
            }
        }
    }

    /// Returns the longest gap that is good enough (issue 2, "Bars"); `usual` is the longest one
    /// without any fault.
    pub(crate) fn bar(self, ttl: Duration, usual: Duration) -> Duration {
        match self {
            Self::Postmaster => Duration::from_millis(800),
            Self::Node | Self::AgentStop | Self::Network => ttl + Duration::from_millis(700),
            Self::AgentKill => usual.max(Duration::from_millis(100)),
        }
    }

    /// Brings it about on a node.
    pub(crate) fn inject(self, rig: &mut Rig, node: usize) -> Outcome<()> {
        match self {
            Self::Postmaster => world::kill(&rig.postmaster(node)?),
            Self::Node => rig.kill_node(node)?,
            Self::AgentKill => world::kill(&rig.agent(node)?),
            Self::AgentStop => rig.agent(node)?.signal(Signal::STOP),
            Self::Network => rig.world.cut(node)?,
        }
        Ok(())
    }

    /// Ends it: from here on the node can come back.
    pub(crate) fn end(self, rig: &mut Rig, node: usize) -> Outcome<()> {
        match self {
            Self::Postmaster | Self::AgentKill => {}
            Self::Node => rig.start_agent(node),
            Self::AgentStop => rig.agent(node)?.signal(Signal::CONT),
            Self::Network => rig.world.heal(node)?,
        }
        Ok(())
    }
}
