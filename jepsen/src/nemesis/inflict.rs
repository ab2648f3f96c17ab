//! Faults are made here, and undone.

use std::collections::BTreeSet;
use std::time::Duration;

use ha_tests::Cluster;
use ha_tests::processes::send;
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::containers::{self, Made};
use super::disks;
use super::links::{self, Link, Present};
use super::members::Members;
use super::orders;
use super::plan::Target;
use super::slow::Slow;
use super::{Fault, Outcome, Planned, clocks, members, targets, victims};
use crate::env::Env;
use crate::env::busy::Held;
use crate::env::containers::{Containers, together};
use crate::env::disks::{Ill, Use};
use crate::env::place::Place;
use crate::env::world::Change;
use crate::harness::{Harness, Trying as _};
use crate::random::Random;
use crate::workload::cancel::cancel_waits;
use crate::workload::client::Access;

/// What has to be undone.
#[derive(Debug)]
pub enum Undo {
    /// Nothing.
    Nothing,
    /// An agent is started.
    StartAgent(String),
    /// A process goes on.
    Continue(i32),
    /// All processes of a node go on.
    Thaw(String),
    /// Containers that are paused go on, in that order.
    Unpause(Vec<String>, Vec<Held>),
    /// The containers of a node are put on their network again.
    Connect(String, Held),
    /// Links work again.
    Join(Vec<Link>),
    /// A task that cuts links and joins them is ended, and the links work again.
    StopFlapping(u8, Vec<Link>, Random, bool),
    /// A line is fast again.
    Hasten(Slow),
    /// A disk of a node is well again.
    Mend(String, Use, Ill),
    /// Nodes that come and go are brought to an end.
    Settle(Box<Members>),
    /// A task is told to end, and waited for.
    End(JoinHandle<Result<Outcome, Harness>>, watch::Sender<bool>),
}

/// A fault that lasts.
#[derive(Debug)]
pub struct Active {
    /// Which.
    pub fault: Fault,
    /// The node that it is about, if it is about one.
    pub node: Option<String>,
    /// How it is undone.
    pub undo: Undo,
}

/// Makes a fault. `killed` are nodes whose agents are down on purpose.
///
/// # Errors
/// If the suite could not do what it must be able to do.
pub async fn start(env: &mut Env, planned: &Planned, access: &Access) -> Result<Made, Harness> {
    let mut random = Random::new(planned.seed, 1);
    let fault = planned.fault;
    if let Some(why) = env.kind().cannot(fault) {
        return Ok((Outcome::Skipped(why.to_owned()), None));
    }
    match fault {
        Fault::Switchover | Fault::ConfigSet | Fault::RollingRestart | Fault::PauseCluster => {
            let (stop, stopped) = watch::channel(false);
            let task = orders::give(fault, &env.place, &mut random, stopped);
            Ok(installed(fault, None, "order given", Undo::End(task, stop)))
        }
        Fault::CancelWaits => {
            let (stop, stopped) = watch::channel(false);
            let task = tokio::spawn(cancel_waits(access.clone(), stopped));
            Ok(installed(fault, None, "waits are cancelled", Undo::End(task, stop)))
        }
        Fault::RestartEngine => match &mut env.place {
            Place::Containers(place) => {
                Ok(containers::restart_engine(place, &env.busy, &mut random))
            }
            Place::Processes(_) => Err(Harness::new("there is no engine")),
        },
        Fault::ChangeMembers => Ok(match Members::begin(env, random) {
            Ok(members) => {
                let text = members.intent();
                installed(fault, None, &text, Undo::Settle(Box::new(members)))
            }
            Err(why) => (Outcome::Skipped(why), None),
        }),
        _ => on_node(env, planned, access, &mut random).await,
    }
}

async fn on_node(
    env: &mut Env,
    planned: &Planned,
    access: &Access,
    random: &mut Random,
) -> Result<Made, Harness> {
    let fault = planned.fault;
    let first = env.place.names().into_iter().next().unwrap_or_default();
    let (target, data) = narrowed(fault, &planned.target, &first, random);
    let name = match targets::resolve(&env.place, &target, data, random).await {
        Ok(name) => name,
        Err(why) => return Ok((Outcome::Skipped(why), None)),
    };
    if let Place::Containers(place) = &mut env.place
        && let Some(made) = containers::hurt(place, &env.busy, fault, &name, random)
    {
        return Ok(made);
    }
    if fault.puts_off_clocks() {
        return put_off(env, fault, &name, (access, random));
    }
    if matches!(fault, Fault::Delay | Fault::SlowLink) {
        return slow_down(env, fault, &name, random).await;
    }
    if fault.needs_networks() {
        return cut(env, fault, &name, random);
    }
    if fault.needs_disks() {
        return disks::hurt(env, fault, &name, random);
    }
    match fault {
        Fault::KillNode => {
            processes(env)?.node_mut(&name).kill_everything();
            Ok(installed(fault, Some(&name), "killed", Undo::StartAgent(name.clone())))
        }
        Fault::FreezeNode => match victims::freeze(&mut env.place, &name) {
            Ok(count) => {
                let text = format!("{count} processes stand still");
                Ok(installed(fault, Some(&name), &text, Undo::Thaw(name.clone())))
            }
            Err(why) => {
                let active = Active { fault, node: Some(name.clone()), undo: Undo::Thaw(name) };
                Ok((Outcome::Indeterminate(why), Some(active)))
            }
        },
        _ => one_process(env, fault, &name, random),
    }
}

fn containers(env: &mut Env) -> Result<&mut Containers, Harness> {
    match &mut env.place {
        Place::Containers(containers) => Ok(containers),
        Place::Processes(_) => Err(Harness::new("the nodes are in no containers")),
    }
}

fn processes(env: &mut Env) -> Result<&mut Cluster, Harness> {
    match &mut env.place {
        Place::Processes(cluster) => Ok(cluster),
        Place::Containers(_) => Err(Harness::new("the nodes are in containers")),
    }
}

/// Some faults are about somebody in particular, whatever was drawn.
fn narrowed(fault: Fault, target: &Target, first: &str, random: &mut Random) -> (Target, bool) {
    let named = matches!(target, Target::Named(_));
    match fault {
        Fault::KillAgent
        | Fault::PauseAgent
        | Fault::KillNode
        | Fault::FreezeNode
        | Fault::IsolateNode
        | Fault::Halves
        | Fault::OneWay
        | Fault::Delay
        | Fault::SlowLink
        | Fault::ClockStep
        | Fault::ClockSkew
        | Fault::ClockStrobe
        | Fault::SlowDiskData
        | Fault::SlowDiskRaft
        | Fault::FullDiskData
        | Fault::FullDiskRaft
        | Fault::PowerCut
        | Fault::RestartContainer
        | Fault::StopContainer => (target.clone(), false),
        Fault::KillReceiver | Fault::PauseReceiver => match target {
            // A primary receives nothing.
            Target::Primary => (Target::Standby, false),
            Target::Any if random.percent(50) => (Target::Standby, false),
            Target::Any => (Target::Witness, false),
            other => (other.clone(), false),
        },
        Fault::KillBackend
        | Fault::PauseBackend
        | Fault::KillWalsender
        | Fault::PauseWalsender
        | Fault::IsolatePrimary
        | Fault::IsolateAll
        | Fault::Flapping
            if !named =>
        {
            (Target::Primary, true)
        }
        Fault::Ring | Fault::PostgresOnly | Fault::DataLink | Fault::AgentsOnly | Fault::Loss => {
            (Target::Named(first.to_owned()), false)
        }
        _ => (target.clone(), true),
    }
}

fn one_process(
    env: &mut Env,
    fault: Fault,
    name: &str,
    random: &mut Random,
) -> Result<Made, Harness> {
    let pid = match victims::find(fault, &mut env.place, name, random) {
        Ok(pid) => pid,
        Err(why) => return Ok((Outcome::Skipped(why), None)),
    };
    let text = format!("process {pid}");
    Ok(match fault {
        Fault::KillAgent => {
            processes(env)?.node_mut(name).kill_agent();
            installed(fault, Some(name), &text, Undo::StartAgent(name.to_owned()))
        }
        Fault::PauseAgent
        | Fault::PauseGuard
        | Fault::PausePostmaster
        | Fault::PauseBackend
        | Fault::PauseWalsender
        | Fault::PauseReceiver => {
            send(pid, Signal::STOP);
            installed(fault, Some(name), &text, Undo::Continue(pid))
        }
        _ => {
            send(pid, Signal::KILL);
            installed(fault, Some(name), &text, Undo::Nothing)
        }
    })
}

pub(super) fn installed(fault: Fault, node: Option<&str>, text: &str, undo: Undo) -> Made {
    let text = node.map_or_else(|| text.to_owned(), |node| format!("{node}: {text}"));
    let active = Active { fault, node: node.map(str::to_owned), undo };
    (Outcome::Installed(text), Some(active))
}

fn cut(env: &Env, fault: Fault, name: &str, random: &mut Random) -> Result<Made, Harness> {
    let numbers = |names: Vec<String>| {
        let mut numbers: Vec<u8> = names.iter().map(|name| number(name)).collect();
        numbers.sort_unstable();
        numbers
    };
    let nodes = numbers(env.place.names());
    let present = Present { nodes, data: numbers(env.place.data_nodes()) };
    let chosen = number(name);
    let links = links::cut_by(fault, &present, chosen, random);
    change(env, &links, Change::Add)?;
    let told: Vec<String> =
        links.iter().map(|link| format!("{}>{} {:?}", link.from, link.to, link.traffic)).collect();
    let undo = if fault == Fault::Flapping {
        Undo::StopFlapping(chosen, links, random.clone(), true)
    } else {
        Undo::Join(links)
    };
    Ok(installed(fault, Some(name), &told.join(", "), undo))
}

fn number(name: &str) -> u8 {
    name.trim_start_matches('n').parse().unwrap_or(1)
}

async fn slow_down(
    env: &Env,
    fault: Fault,
    name: &str,
    random: &mut Random,
) -> Result<Made, Harness> {
    let (Some(world), Some(held)) = (&env.world, env.busy.take(&format!("line {name}"))) else {
        return Ok((Outcome::Skipped(format!("the line of {name} is slow already")), None));
    };
    let Place::Processes(cluster) = &env.place else {
        return Err(Harness::new("a line of a container"));
    };
    let at = (world, number(name));
    match Slow::begin(fault, at, cluster.node(name), held, random).await? {
        Ok((slow, text)) => Ok(installed(fault, Some(name), &text, Undo::Hasten(slow))),
        Err(why) => Ok((Outcome::Skipped(why), None)),
    }
}

fn put_off(
    env: &Env,
    fault: Fault,
    name: &str,
    (access, random): (&Access, &mut Random),
) -> Result<Made, Harness> {
    let clocks = match &env.clocks {
        Some(Ok(clocks)) => clocks,
        Some(Err(why)) => return Ok((Outcome::Skipped(why.clone()), None)),
        None => {
            return Err(Harness::new("the nodes were started with clocks that cannot be put off"));
        }
    };
    let whose = clocks::whose(clocks, name, random);
    let Some(held) = whose.iter().map(|n| env.busy.take(&format!("clock {n}"))).collect() else {
        return Ok((Outcome::Skipped(format!("a clock of {} is off", whose.join(", "))), None));
    };
    let Place::Processes(cluster) = &env.place else {
        return Err(Harness::new("a clock of a container"));
    };
    let place = (clocks, cluster.as_ref(), held);
    let (text, task, stop) = clocks::put_off(fault, place, &whose, access, random);
    // Whether there was a fault is known in the end: as of an order.
    Ok(installed(fault, None, &text, Undo::End(task, stop)))
}

fn change(env: &Env, links: &[Link], change: Change) -> Result<(), Harness> {
    let Some(world) = &env.world else { return Ok(()) };
    // A node may be gone meanwhile; its network is there still.
    let places: BTreeSet<u8> = links.iter().map(|link| link.rules().0).collect();
    for node in places {
        let here = links.iter().map(|link| link.rules()).filter(|(at, _)| *at == node);
        let rules: Vec<String> = here.flat_map(|(_, rules)| rules).collect();
        world.filter(node, change, &rules)?;
    }
    Ok(())
}

impl Active {
    /// Does what a fault does again and again; returns after how long it wants that once more.
    ///
    /// # Errors
    /// If the packet filter refuses, or what was begun cannot be followed.
    pub async fn again(&mut self, env: &mut Env) -> Result<Option<Duration>, Harness> {
        if let Undo::Settle(members) = &mut self.undo {
            members.go_on(env).await?;
            return Ok(Some(members::EVERY));
        }
        let Undo::StopFlapping(_, links, random, down) = &mut self.undo else { return Ok(None) };
        change(env, links, if *down { Change::Remove } else { Change::Add })?;
        *down = !*down;
        Ok(Some(Duration::from_millis(random.between(150, 2500))))
    }

    /// Undoes it.
    ///
    /// # Errors
    /// If the suite cannot.
    pub async fn stop(self, env: &mut Env) -> Result<Outcome, Harness> {
        match self.undo {
            Undo::Nothing => Ok(Outcome::Installed("over".to_owned())),
            // One that left meanwhile has nothing to be undone.
            Undo::StartAgent(name) | Undo::Thaw(name) if !env.knows(&name) => {
                Ok(Outcome::Installed(format!("{name} is no part of the cluster any more")))
            }
            Undo::StartAgent(name) => Ok(env.place.start_agent(&name)),
            Undo::Continue(pid) => {
                send(pid, Signal::CONT);
                Ok(Outcome::Installed(format!("process {pid} goes on")))
            }
            Undo::Thaw(name) => Ok(env.place.thaw(&name)),
            Undo::Unpause(services, _held) => {
                let place = containers(env)?;
                let told: Vec<Outcome> = services.iter().map(|s| place.unpause(s)).collect();
                Ok(together(&told))
            }
            Undo::Connect(name, _held) => Ok(containers(env)?.connect(&name)),
            Undo::Join(links) => {
                change(env, &links, Change::Remove)?;
                Ok(Outcome::Installed("joined".to_owned()))
            }
            Undo::StopFlapping(_, links, _, down) => {
                if down {
                    change(env, &links, Change::Remove)?;
                }
                Ok(Outcome::Installed("joined".to_owned()))
            }
            Undo::Hasten(slow) => Ok(Outcome::Installed(slow.end(env.world.as_ref()).await?)),
            Undo::Mend(name, used, ill) => disks::mend(env, &name, used, ill),
            Undo::Settle(members) => Ok(members.outcome()),
            Undo::End(task, stop) => {
                stop.send_replace(true);
                task.await.trying(|| format!("end {}", self.fault.name()))?
            }
        }
    }

    /// Tells what goes on beside to end; returns whether it has, and whether what else is to be undone can be.
    pub fn ends(&mut self, place: &Place) -> bool {
        match &mut self.undo {
            Undo::Settle(members) => members.ends(),
            Undo::End(task, stop) => {
                stop.send_replace(true);
                task.is_finished()
            }
            Undo::StartAgent(_) | Undo::Unpause(..) | Undo::Connect(..) => place.obeys(),
            _ => true,
        }
    }
}
