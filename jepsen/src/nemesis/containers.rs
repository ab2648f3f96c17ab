//! Faults that are made with Docker.

use std::process::Command;
use std::sync::Arc;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use ha_tests::compose::bounded;
use rustix::process::Signal;
use tokio::sync::watch;

use super::inflict::{Active, Undo, installed};
use super::{Fault, Outcome};
use crate::env::busy::{Busy, Held};
use crate::env::containers::{self, Containers, ENGINE, busy_name, database_of, services_of};
use crate::harness::Harness;
use crate::random::Random;

/// How often somebody who waits looks whether his time is over.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a fault came to.
pub type Made = (Outcome, Option<Active>);

/// Makes a fault of a node's containers; none if it is not made with Docker.
pub fn hurt(
    containers: &mut Containers,
    busy: &Busy,
    fault: Fault,
    name: &str,
    random: &mut Random,
) -> Option<Made> {
    let agent = name.to_owned();
    let made = match fault {
        Fault::KillAgent => {
            containers.let_go(name);
            let killed = containers.order(&["kill"], std::slice::from_ref(&agent));
            lasting(fault, name, killed, Undo::StartAgent(agent))
        }
        Fault::KillNode => {
            containers.let_go(name);
            let killed = containers.order(&["kill"], &containers.all_of(name));
            lasting(fault, name, killed, Undo::StartAgent(agent))
        }
        Fault::KillContainer => {
            let killed = containers.order(&["kill"], &[database_of(name)]);
            lasting(fault, name, killed, Undo::Nothing)
        }
        Fault::PauseAgent => pause(containers, busy, fault, name, vec![agent]),
        Fault::PauseContainer => pause(containers, busy, fault, name, vec![database_of(name)]),
        Fault::FreezeNode => {
            let all = containers.all_of(name);
            pause(containers, busy, fault, name, all)
        }
        Fault::IsolatePrimary | Fault::IsolateNode | Fault::IsolateAll => {
            let Some(held) = busy.take(&format!("network of {name}")) else {
                return Some((Outcome::Skipped(format!("{name} is cut off already")), None));
            };
            let cut = containers.disconnect(name);
            lasting(fault, name, cut, Undo::Connect(name.to_owned(), held))
        }
        Fault::RestartContainer | Fault::StopContainer => {
            let all = services_of(name);
            let service = random.pick(&all).cloned().unwrap_or(agent);
            restart(containers, busy, fault, name, &service)
        }
        _ => return None,
    };
    Some(made)
}

/// A fault that has to be undone even if nobody knows whether it was made.
fn lasting(fault: Fault, name: &str, outcome: Outcome, undo: Undo) -> Made {
    let active = Active { fault, node: Some(name.to_owned()), undo };
    match outcome {
        Outcome::Skipped(_) => (outcome, None),
        Outcome::Installed(text) => (Outcome::Installed(format!("{name}: {text}")), Some(active)),
        Outcome::Indeterminate(_) => (outcome, Some(active)),
    }
}

/// Each container that is paused is somebody's: an engine that ends in order would wait for it for minutes.
fn pause(
    containers: &Containers,
    busy: &Busy,
    fault: Fault,
    name: &str,
    services: Vec<String>,
) -> Made {
    let taken = services.iter().map(|service| busy.take(&format!("pause of {service}"))).collect();
    let Some(held): Option<Vec<Held>> = taken else {
        return (Outcome::Skipped(format!("{name} is paused already")), None);
    };
    let paused = containers.order(&["pause"], &services);
    lasting(fault, name, paused, Undo::Unpause(services, held))
}

/// `docker restart`, or `docker stop` and then `docker start`: beside everything else, as they wait for an end in
/// order.
fn restart(
    containers: &mut Containers,
    busy: &Busy,
    fault: Fault,
    name: &str,
    service: &str,
) -> Made {
    let Some(held) = busy.take(&busy_name(service)) else {
        return (Outcome::Skipped(format!("{service} is stopped already")), None);
    };
    if !containers.engine_is_there() {
        return (Outcome::Skipped("the engine is away".to_owned()), None);
    }
    containers.let_go(service);
    let container = containers.container(service);
    let words: &[&str] =
        if fault == Fault::RestartContainer { &["restart"] } else { &["stop", "start"] };
    let (commands, holds): (Vec<(String, Command)>, Vec<Arc<()>>) = words
        .iter()
        .map(|word| {
            let (command, hold) = containers.beside(&[word, &container]);
            ((format!("docker {word} {service}"), command), hold)
        })
        .unzip();
    let (stop, stopped) = watch::channel(false);
    let task = tokio::task::spawn_blocking(move || {
        let mut told = Vec::new();
        for (at, (text, mut command)) in commands.into_iter().enumerate() {
            if at > 0 {
                wait(&stopped);
            }
            let began = Instant::now();
            match containers::outcome(&text, &bounded(&mut command)) {
                Outcome::Installed(_) => {
                    told.push(format!("{text} took {} ms", began.elapsed().as_millis()));
                }
                Outcome::Skipped(text) if told.is_empty() => return Ok(Outcome::Skipped(text)),
                other => return Ok(Outcome::Indeterminate(other.detail().to_owned())),
            }
        }
        drop((held, holds));
        Ok(Outcome::Installed(told.join("; ")))
    });
    installed(
        fault,
        Some(name),
        &format!("docker {} {service}", words.join(", ")),
        Undo::End(task, stop),
    )
}

/// Ends the Docker engine, by SIGTERM or SIGKILL, and starts it again at the end.
pub fn restart_engine(containers: &mut Containers, busy: &Busy, random: &mut Random) -> Made {
    let skipped = |why: &str| (Outcome::Skipped(why.to_owned()), None);
    let (signal, word) =
        if random.percent(50) { (Signal::TERM, "SIGTERM") } else { (Signal::KILL, "SIGKILL") };
    if busy.has_any("pause of ") {
        return skipped("a container is paused, and the engine would wait for it");
    }
    if containers.is_ordered() {
        return skipped("docker is at work");
    }
    let Some(held) = busy.take(ENGINE) else { return skipped("the engine is away already") };
    if !containers.live_restore() {
        containers.names().iter().for_each(|name| containers.let_go(name));
    }
    let engine = containers.engine();
    let (stop, stopped) = watch::channel(false);
    let (locked, is_locked) = std::sync::mpsc::channel::<()>();
    let task = tokio::task::spawn_blocking(move || {
        let mut engine = engine.lock().unwrap_or_else(PoisonError::into_inner);
        drop(locked);
        let began = Instant::now();
        engine.end(signal);
        let gone = began.elapsed().as_millis();
        wait(&stopped);
        let away = began.elapsed().as_millis();
        engine.run();
        let back = began.elapsed().as_millis() - away;
        drop(held);
        let text =
            format!("{word}: gone after {gone} ms, started after {away} ms, {back} ms later there");
        Ok::<_, Harness>(Outcome::Installed(text))
    });
    // Nobody asks the engine for anything from here on: the other end is dropped once it is locked.
    while is_locked.recv().is_ok() {}
    let lives = if containers.live_restore() { "live on" } else { "end with it" };
    let text = format!("{word} to the engine, containers {lives}");
    installed(Fault::RestartEngine, None, &text, Undo::End(task, stop))
}

/// Waits until somebody wants an end.
fn wait(stopped: &watch::Receiver<bool>) {
    // That the sender is gone means the same.
    while !*stopped.borrow() && stopped.has_changed().is_ok() {
        std::thread::sleep(LOOK_EVERY);
    }
}
