//! What goes wrong, and when: a schedule made from the seed before the world begins, so that parts of
//! it can be left out.

use std::fmt;

use ha_core::policy::Durability;
use ha_core::state::Command;

use super::agent;
use super::event::{Event, Request};
use super::handle;
use super::host::Freeze;
use super::kernel::{Ctx, MS, Sim};
use super::rng::Rng;
use super::state::World;

/// One thing that goes wrong, or that an operator wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The way from one node to another is cut, not the way back.
    CutOneWay { from: usize, to: usize },
    /// A node is cut from all others, not from clients.
    Isolate { node: usize },
    /// Datagrams get lost.
    Loss { per_mille: u64 },
    /// Everything is late.
    SlowNetwork { up_to_ms: u64 },
    /// An agent dies, and is started again.
    AgentCrash { node: usize },
    /// An agent stands still.
    AgentFreeze { node: usize },
    /// A server dies.
    ServerCrash { node: usize },
    /// A guard dies, and its server with it.
    GuardCrash { node: usize },
    /// A machine loses power.
    HostCrash { node: usize },
    /// A machine is suspended, or paused with its clocks.
    HostFreeze { node: usize, how: Freeze },
    /// A disk is slow.
    SlowDisk { node: usize },
    /// A disk takes nothing.
    FullDisk { node: usize },
    /// An operator wants the primary elsewhere.
    Switchover,
    /// An operator promises clients something else.
    Promise { mode: Durability },
}

/// A fault, when it begins and how long it lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) at_ms: u64,
    pub(crate) for_ms: u64,
}

/// What an operator has an agent do.
#[derive(Debug, Clone)]
pub(crate) enum Operator {
    Switchover,
    Submit(Box<Command>),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = |node: &usize| node + 1;
        match &self.kind {
            Kind::CutOneWay { from, to } => write!(f, "cut n{} to n{}", n(from), n(to))?,
            Kind::Isolate { node } => write!(f, "isolate n{}", n(node))?,
            Kind::Loss { per_mille } => write!(f, "loss {per_mille} per mille")?,
            Kind::SlowNetwork { up_to_ms } => write!(f, "slow network {up_to_ms} ms")?,
            Kind::AgentCrash { node } => write!(f, "crash agent n{}", n(node))?,
            Kind::AgentFreeze { node } => write!(f, "freeze agent n{}", n(node))?,
            Kind::ServerCrash { node } => write!(f, "crash server n{}", n(node))?,
            Kind::GuardCrash { node } => write!(f, "crash guard n{}", n(node))?,
            Kind::HostCrash { node } => write!(f, "crash host n{}", n(node))?,
            Kind::HostFreeze { node, how: Freeze::Suspend } => write!(f, "suspend n{}", n(node))?,
            Kind::HostFreeze { node, how: Freeze::Pause } => write!(f, "pause n{}", n(node))?,
            Kind::SlowDisk { node } => write!(f, "slow disk n{}", n(node))?,
            Kind::FullDisk { node } => write!(f, "full disk n{}", n(node))?,
            Kind::Switchover => write!(f, "switchover")?,
            Kind::Promise { mode } => write!(f, "promise {mode}")?,
        }
        write!(f, " at {} for {}", self.at_ms, self.for_ms)
    }
}

/// Draws the faults of a seed: some at random times, some close together.
pub(crate) fn schedule(rng: &mut Rng, nodes: usize, from_ms: u64, to_ms: u64) -> Vec<Fault> {
    let count = rng.range(1, 7);
    let mut at_ms = rng.range(from_ms, from_ms + 2500);
    let mut faults = Vec::new();
    for _ in 0..count {
        if at_ms > to_ms {
            break;
        }
        let for_ms = match rng.below(4) {
            0 => rng.range(20, 500),
            1 => rng.range(500, 3000),
            2 => rng.range(2500, 4500),
            _ => rng.range(3000, 9000),
        };
        if rng.chance(40) {
            // A link that comes and goes.
            let node = rng.index(nodes);
            for _ in 0..rng.range(3, 8) {
                faults.push(Fault {
                    kind: Kind::Isolate { node },
                    at_ms,
                    for_ms: rng.range(30, 700),
                });
                at_ms += rng.range(100, 1200);
            }
        } else {
            faults.push(Fault { kind: draw(rng, nodes), at_ms, for_ms });
        }
        at_ms += if rng.chance(600) { rng.range(0, 900) } else { rng.range(900, 6000) };
    }
    faults
}

fn draw(rng: &mut Rng, nodes: usize) -> Kind {
    let node = rng.index(nodes);
    let to = (node + 1 + rng.index(nodes - 1)) % nodes;
    match rng.below(26) {
        0 | 1 => Kind::CutOneWay { from: node, to },
        2..=5 => Kind::Isolate { node },
        6 => Kind::Loss { per_mille: rng.range(50, 500) },
        7 => Kind::SlowNetwork { up_to_ms: rng.range(20, 400) },
        8 | 9 => Kind::AgentCrash { node },
        10 | 11 => Kind::AgentFreeze { node },
        12 | 13 => Kind::ServerCrash { node },
        14 => Kind::GuardCrash { node },
        15..=18 => Kind::HostCrash { node },
        19 => Kind::HostFreeze { node, how: Freeze::Suspend },
        20 => Kind::HostFreeze { node, how: Freeze::Pause },
        21 => Kind::SlowDisk { node },
        22 => Kind::FullDisk { node },
        23 | 24 => Kind::Switchover,
        _ => Kind::Promise { mode: Durability::ALL[rng.index(Durability::ALL.len())] },
    }
}

impl World {
    /// A fault begins, or ends.
    pub(crate) fn fault(&mut self, index: usize, fault: &Fault, ends: bool) {
        let after = fault.for_ms * MS;
        let lasts = !matches!(
            fault.kind,
            Kind::ServerCrash { .. }
                | Kind::GuardCrash { .. }
                | Kind::Switchover
                | Kind::Promise { .. }
        );
        if ends {
            let text = format!("{fault}");
            self.note(&format!("fault ends: {}", text.split(" at ").next().unwrap_or_default()));
        } else {
            let text = format!("{fault}");
            self.note(&format!("FAULT: {}", text.split(" at ").next().unwrap_or_default()));
            if lasts {
                self.after(after, Event::Fault { index, ends: true });
            }
        }
        match fault.kind {
            Kind::CutOneWay { from, to } if ends => self.net.mend(from, to),
            Kind::CutOneWay { from, to } => self.net.cut(from, to),
            Kind::Isolate { node } => self.isolate(node, ends),
            Kind::Loss { per_mille } => self.net.loss = if ends { 0 } else { per_mille },
            Kind::SlowNetwork { up_to_ms } => self.net.slow = if ends { 0 } else { up_to_ms },
            Kind::AgentCrash { node } if ends => self.start(node, true),
            Kind::AgentCrash { node } => self.kill_agent(node),
            Kind::AgentFreeze { node } => self.freeze_agent(node, ends),
            Kind::ServerCrash { node } => self.server_gone(node, "server crashes"),
            Kind::GuardCrash { node } => {
                if let Some(pg) = &mut self.hosts[node].pg {
                    pg.guard.alive = false;
                }
                self.server_gone(node, "guard dies, and its server with it");
                self.wake_agent(node);
            }
            Kind::HostCrash { node } if ends => self.start(node, false),
            Kind::HostCrash { node } => self.crash(node),
            Kind::HostFreeze { node, how } => self.freeze(node, how, ends),
            Kind::SlowDisk { node } => {
                let disk = &mut self.hosts[node].disk;
                disk.slow = if ends { disk.slow.saturating_sub(1) } else { disk.slow + 1 };
            }
            Kind::FullDisk { node } => {
                let disk = &mut self.hosts[node].disk;
                disk.full = if ends { disk.full.saturating_sub(1) } else { disk.full + 1 };
            }
            Kind::Switchover => self.order(Operator::Switchover),
            Kind::Promise { mode } => {
                let version = self.oracle.state().map_or(0, |state| state.config_version);
                let command = Command::SetDurability {
                    version,
                    durability: mode,
                    by: "a schedule".to_owned(),
                };
                self.order(Operator::Submit(Box::new(command)));
            }
        }
    }

    fn start(&mut self, host: usize, agent_only: bool) {
        self.after(0, Event::Start { host, agent_only });
    }

    fn isolate(&mut self, node: usize, ends: bool) {
        for other in (0..self.hosts.len()).filter(|other| *other != node) {
            for (from, to) in [(node, other), (other, node)] {
                if ends {
                    self.net.mend(from, to);
                } else {
                    self.net.cut(from, to);
                }
            }
        }
    }

    fn freeze_agent(&mut self, node: usize, ends: bool) {
        let host = &mut self.hosts[node];
        if !ends {
            host.agent_frozen += u32::from(host.agent.is_some());
            return;
        }
        host.agent_frozen = host.agent_frozen.saturating_sub(1);
        self.go_on(node);
    }

    /// What arrived while it stood still is handled now.
    fn go_on(&mut self, node: usize) {
        let stalled = std::mem::take(&mut self.hosts[node].stalled);
        for event in stalled {
            self.after(0, event);
        }
    }

    pub(crate) fn crash(&mut self, node: usize) {
        if !self.hosts[node].up {
            return;
        }
        self.kill_agent(node);
        self.hosts[node].up = false;
        self.hosts[node].frozen = None;
        self.hosts[node].unproven = None;
        self.hosts[node].tainted = false;
        if let Some(pg) = &mut self.hosts[node].pg {
            pg.guard.alive = false;
        }
        // Nobody is told: the machine is silent.
        self.server_gone(node, "host is gone");
        if self.hosts[node].kept.is_some() {
            self.end_kept_receiver(node);
        }
        let mut rng = self.rng.clone();
        self.hosts[node].lose_power(&mut rng);
        self.rng = rng;
        self.hosts[node].boots += 1;
    }

    pub(crate) fn freeze(&mut self, node: usize, how: Freeze, ends: bool) {
        let now = self.now;
        let host = &mut self.hosts[node];
        if !ends {
            if host.up && host.frozen.is_none() {
                host.frozen = Some((how, now));
            }
            return;
        }
        let Some((was, since)) = host.frozen.filter(|(was, _)| *was == how) else { return };
        host.frozen = None;
        host.clock.stood_still(was, now - since);
        host.tainted = host.pg.is_some();
        if was == Freeze::Pause && host.pg.is_some() {
            host.unproven = Some(now);
        }
        // The guard is one process among others: it may be the last to go on.
        host.stalled.retain(|event| !matches!(event, Event::Guard { .. }));
        let boots = host.boots;
        let late = self.rng.range(1, 20) * MS;
        self.after(late, Event::Guard { host: node, boots });
        self.go_on(node);
    }

    fn order(&mut self, what: Operator) {
        let holder = self.oracle.state().and_then(|state| state.lease.holder().cloned());
        let Some(holder) = holder else { return };
        let host = self.index_of(&holder);
        let stands = self.hosts[host].agent_frozen > 0 || self.hosts[host].frozen.is_some();
        if self.hosts[host].agent.is_some() && !stands {
            self.orders_to.push((host, what));
        }
    }
}

/// Carries out what operators ordered.
pub(crate) fn carry_out(sim: &Sim) {
    let orders = std::mem::take(&mut sim.world().orders_to);
    for (host, what) in orders {
        let ctx = Ctx { sim: sim.clone(), host };
        if ctx.host().agent.is_none() {
            continue;
        }
        let own = ctx.clone();
        ctx.spawn(async move {
            match what {
                Operator::Submit(command) => {
                    own.submit(*command, std::time::Duration::from_secs(2)).await;
                }
                Operator::Switchover => {
                    let (epoch, to) = {
                        let mut world = own.world();
                        let epoch = world.agent(own.host).state.last_epoch;
                        let others: Vec<usize> = (0..world.hosts.len())
                            .filter(|at| *at != own.host && world.hosts[*at].pg.is_some())
                            .collect();
                        let at = world.rng.index(others.len());
                        (epoch, others[at])
                    };
                    let request = Request::Switchover { epoch, to };
                    handle::answer(&own, own.host, request).await;
                }
            }
        });
    }
}

/// A machine, or its agent, comes back.
pub(crate) fn come_back(sim: &Sim, host: usize, agent_only: bool) {
    {
        let mut world = sim.world();
        if agent_only && !world.hosts[host].up {
            return;
        }
        if !agent_only && !world.hosts[host].up {
            let now = world.now;
            world.hosts[host].up = true;
            world.hosts[host].clock.since = now;
            world.hosts[host].clock.boottime_lost = 0;
            world.hosts[host].clock.raw_lost = 0;
            let run = 0;
            if let Some(pg) = &mut world.hosts[host].pg {
                pg.guard = super::guard::Guard::after(run);
                pg.guard.alive = false;
            }
            world.tell(host, "host is up");
        }
    }
    agent::start(sim, host);
}
