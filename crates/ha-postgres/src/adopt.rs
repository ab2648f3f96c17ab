//! Taking over a database that exists: an official container's or a plain server's data directory becomes
//! the one that haclt runs, by renaming, after one stop of the old server; and the way back.
//!
//! First everything is looked at and a [`Plan`] is made, which is all that a dry run does. Carrying it out
//! writes a [`Journal`] first: cut off at any point, it is repeated or undone.

pub(crate) mod container;
pub mod journal;
mod kept;
mod look;
mod moving;
pub mod plan;
mod server;
mod stop;
pub(crate) mod verifier;

use std::path::PathBuf;
use std::sync::Arc;

use ha_core::NodeId;

pub use self::journal::{Journal, Origin, Phase};
use self::look::Look;
use self::moving::Step;
pub use self::plan::{Change, Fault, Plan};
use crate::control_file::ControlData;
use crate::docker::engine::Engine;
use crate::driver::{ControlFile, ControlState};
use crate::instance::InstanceConfig;

/// What is to be adopted, and by whom.
#[derive(Debug)]
pub struct Request {
    /// How this node's PostgreSQL will be run.
    pub config: InstanceConfig,
    /// Where the old server is; not needed to undo.
    pub source: Option<Source>,
    /// Major version of the programs that will run it, if known.
    pub major: Option<u32>,
    /// Where this machine's PostgreSQL programs are, if they will run it.
    pub bin_dir: Option<PathBuf>,
    /// The Docker engine's socket, such as `unix:///var/run/docker.sock`.
    pub socket: String,
    /// The role to look at the old server with, if not the usual one.
    pub superuser: Option<String>,
    /// The cluster's other nodes.
    pub peers: Vec<NodeId>,
    /// Whether this node's agent answers.
    pub agent_runs: bool,
    /// Is told between any two steps; tests end the process there.
    pub between: fn(&str),
}

/// Where the old server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In a container.
    Container(String),
    /// On this machine, with this data directory.
    DataDir(PathBuf),
}

/// Why nothing came of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdoptError {
    /// It could not be looked at, or not be begun: nothing was changed.
    #[error("{0}")]
    Nothing(String),
    /// It was cut off: repeat it, or undo it.
    #[error("{0}")]
    Halfway(String),
}

/// What an undo would do.
#[derive(Debug, Clone)]
pub struct Undo {
    /// What is known of the adoption.
    pub journal: Journal,
    /// What the database is now; none if it was not moved, or is half back.
    pub control: Option<ControlFile>,
    /// Why it cannot be undone now.
    pub faults: Vec<Fault>,
}

/// A plan, and what was found for it.
#[derive(Debug)]
pub struct Prepared {
    /// What will be done.
    pub plan: Plan,
    look: Look,
}

/// Looks at the old server and says what would be done; changes nothing.
///
/// # Errors
/// [`AdoptError::Nothing`] if it cannot be looked at.
pub async fn prepare(request: &Request) -> Result<Prepared, AdoptError> {
    let look = look::look(request).await.map_err(AdoptError::Nothing)?;
    let plan = plan::plan(&look.facts, &request.config);
    Ok(Prepared { plan, look })
}

/// Returns how far an adoption of this node's data directory has come; none if there is none.
///
/// # Errors
/// [`AdoptError::Nothing`] if its journal is unreadable.
pub fn journal(request: &Request) -> Result<Option<Journal>, AdoptError> {
    let to = look::resolved(&request.config.data_dir).map_err(AdoptError::Nothing)?;
    Journal::load(&to).map_err(AdoptError::Nothing)
}

/// Adopts as planned. The plan must be without faults.
///
/// # Errors
/// [`AdoptError::Halfway`] once something was changed.
pub async fn carry_out(request: &Request, prepared: &Prepared) -> Result<Journal, AdoptError> {
    let Prepared { plan, look } = prepared;
    let facts = &look.facts;
    let mut journal = Journal::new(plan.origin, facts.from.clone(), facts.to.clone());
    journal.system_identifier = facts.control.system_identifier;
    (journal.owner, journal.new_owner) = (facts.owner, facts.new_owner);
    journal.mode = look.mode;
    let lowest = facts.control.lowest.iter();
    journal.lowest = lowest.map(|(name, lowest)| ((*name).to_owned(), *lowest)).collect();
    journal.container = look.container();
    journal.unit = facts.unit.as_ref().map(|(unit, _)| unit.clone());
    journal.start_conf = facts.start_conf.as_ref().and_then(|path| {
        let text = std::fs::read_to_string(path).ok()?;
        Some((path.clone(), text))
    });
    journal.files.clone_from(&plan.files);
    journal.slots = facts.told.slots.iter().map(|slot| slot.name.clone()).collect();
    let halfway = AdoptError::Halfway;
    journal.save().map_err(halfway)?;
    (request.between)("journal");
    moving::apply(&Step::Mark, &journal).map_err(halfway)?;
    (request.between)("mark");
    if plan.makes_superuser {
        let role = &request.config.superuser;
        server::make_superuser(&look.access, role).await.map_err(halfway)?;
        journal.roles.push(role.name.clone());
    }
    server::checkpoint(&look.access).await.map_err(halfway)?;
    journal.phase = Phase::Stopping;
    journal.save().map_err(halfway)?;
    (request.between)("stopping");
    resume(request, journal).await
}

/// Goes on with an adoption that was cut off after the old server had all that haclt needs.
///
/// # Errors
/// [`AdoptError::Halfway`].
pub async fn resume(request: &Request, mut journal: Journal) -> Result<Journal, AdoptError> {
    let halfway = AdoptError::Halfway;
    if journal.phase == Phase::Stopping {
        if let Some((path, _)) = &journal.start_conf {
            write_whole(path, "disabled\n").map_err(halfway)?;
        }
        stop::stop(&engine(request), &journal).await.map_err(halfway)?;
        (request.between)("stopped");
        expect_stopped(&journal).map_err(halfway)?;
        journal.entries = moving::entries(&journal).map_err(halfway)?;
        journal.phase = Phase::Moving;
        journal.save().map_err(halfway)?;
        (request.between)("moving");
    }
    for step in moving::forward(&journal) {
        moving::apply(&step, &journal).map_err(halfway)?;
        (request.between)(&format!("{step:?}"));
    }
    journal.phase = Phase::Adopted;
    journal.save().map_err(halfway)?;
    Ok(journal)
}

/// Looks at what an undo would find; changes nothing.
///
/// # Errors
/// [`AdoptError::Nothing`] if there is nothing to undo, or it cannot be looked at.
pub async fn prepare_undo(request: &Request) -> Result<Undo, AdoptError> {
    let nothing = AdoptError::Nothing;
    let data_dir = request.config.data_dir.display();
    let journal = journal(request)?.ok_or_else(|| {
        AdoptError::Nothing(format!("{data_dir} was not adopted: nothing to undo"))
    })?;
    let mut faults = Vec::new();
    if request.agent_runs {
        faults.push(Fault::new(
            "the agent of this node is running",
            "Stop it first, and its database.",
        ));
    }
    let users = look::users(&engine(request), &journal).await.map_err(nothing)?;
    faults.extend(users.into_iter().map(|name| {
        let hint = format!("Stop it: docker stop {name}");
        Fault::new(format!("container {name} runs on the data directory"), hint)
    }));
    let mut control = None;
    if matches!(journal.phase, Phase::Moving | Phase::Adopted) {
        if let Some(pid) = server::pid_file(&journal.to).filter(|_| journal.container.is_none()) {
            let what = format!("a server runs on {data_dir} (process {})", pid.pid);
            faults.push(Fault::new(what, "Stop haclt on this node first."));
        }
        if journal.phase == Phase::Adopted {
            let found = look::control(&journal.to).map_err(nothing)?;
            faults.extend(unsafe_state(&journal, &found));
            control = Some(found.describe(0, false));
        }
    }
    Ok(Undo { journal, control, faults })
}

/// Returns why the state that the database was left in is not one to go back from.
fn unsafe_state(journal: &Journal, control: &ControlData) -> Option<Fault> {
    let node = "Stop the agents of the other data nodes first: this node's then becomes primary; stop it last.";
    match (journal.origin, control.state) {
        // What becomes a standby again loses nothing by it, whoever has the newest data.
        (Origin::Primary, ControlState::ShutDown)
        | (Origin::Standby, ControlState::ShutDown | ControlState::ShutDownInRecovery) => None,
        (Origin::Primary, ControlState::ShutDownInRecovery) => Some(Fault::new(
            "this node's database is a standby: the newest data is on another node",
            node,
        )),
        (_, ControlState::InProduction | ControlState::InRecovery) => Some(Fault::new(
            "this node's database was not shut down in order",
            "Start haclt once more, and stop it in order.",
        )),
    }
}

/// Puts everything back. There must be no faults.
///
/// # Errors
/// [`AdoptError::Halfway`]: repeat it.
pub async fn undo(request: &Request, mut journal: Journal) -> Result<Journal, AdoptError> {
    let halfway = AdoptError::Halfway;
    let untouched = matches!(journal.phase, Phase::Begun | Phase::Stopping);
    let (engine, before) = (engine(request), journal.clone());
    if let Some((path, text)) = &journal.start_conf {
        write_whole(path, text).map_err(halfway)?;
    }
    if untouched {
        stop::allow_restarts(&engine, &journal).await.map_err(halfway)?;
        moving::forget(&journal).map_err(halfway)?;
        return Ok(before);
    }
    if journal.phase == Phase::Adopted && journal.origin == Origin::Standby {
        let now = look::control(&journal.to).map_err(halfway)?.lowest;
        let before = |name: &str| journal.lowest.get(name).copied().unwrap_or_default();
        let raised = now.into_iter().filter(|(name, lowest)| *lowest > before(name));
        journal.raised = raised.map(|(name, lowest)| (name.to_owned(), lowest)).collect();
    }
    journal.phase = Phase::Undoing;
    journal.save().map_err(halfway)?;
    (request.between)("undoing");
    let ours = request.peers.iter().map(ToString::to_string);
    let slots: Vec<String> = ours.filter(|name| !journal.slots.contains(name)).collect();
    for step in moving::restoring(&journal, &slots) {
        moving::apply(&step, &journal).map_err(halfway)?;
        (request.between)(&format!("{step:?}"));
    }
    for step in moving::returning(&journal).map_err(halfway)? {
        if step == Step::Tidy {
            stop::allow_restarts(&engine, &journal).await.map_err(halfway)?;
        }
        moving::apply(&step, &journal).map_err(halfway)?;
        (request.between)(&format!("{step:?}"));
    }
    Ok(before)
}

fn engine(request: &Request) -> Arc<Engine> {
    Arc::new(Engine::new(&request.socket))
}

/// A shutdown that was cut short is no end: crash recovery would be needed first.
fn expect_stopped(journal: &Journal) -> Result<(), String> {
    let control = look::control(&journal.from)?;
    let wanted = match journal.origin {
        Origin::Primary => ControlState::ShutDown,
        Origin::Standby => ControlState::ShutDownInRecovery,
    };
    if server::pid_file(&journal.from).is_some() {
        return Err(format!("{} still has a postmaster.pid", journal.from.display()));
    }
    if control.state != wanted {
        return Err(format!(
            "the old server did not shut down in order: the control file says {:?}; start it once more, \
             and repeat this",
            control.state
        ));
    }
    Ok(())
}

/// Replaces the content of a file that is not ours, and keeps its owner and mode.
fn write_whole(path: &std::path::Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}
