//! Looking at what there is; nothing here changes anything.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bollard::models::ContainerInspectResponse;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::container::{self, Seen};
use super::journal::{self, Journal, OldContainer, Restart};
use super::plan::Facts;
use super::server::{Access, Told, pid_file};
use super::{Request, Source, stop};
use crate::control_file::ControlData;
use crate::docker::engine::Engine;
use crate::docker::own::own_container;
use crate::instance::RunAs;
use crate::instance::directory::{Layout, is_empty, read_whole};

const EXEC_LIMIT: Duration = Duration::from_secs(10);

/// What was found, and how to talk to the old server.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) facts: Facts,
    pub(super) access: Access,
    pub(super) mode: u32,
}

/// The old server's place: its files here, and how statements reach it.
struct Place {
    from: PathBuf,
    access: Access,
    container: Option<Seen>,
    /// Our own container, if this runs in one.
    own: Option<ContainerInspectResponse>,
    engine: Option<Arc<Engine>>,
}

impl Look {
    /// Returns what the journal has to know of the old container.
    pub(super) fn container(&self) -> Option<OldContainer> {
        let seen = self.facts.container.as_ref()?;
        let never = Restart { name: "no".to_owned(), count: None };
        Some(OldContainer {
            id: seen.id.clone(),
            name: seen.name.clone(),
            restart: seen.restart.clone().filter(|r| !r.name.is_empty()).unwrap_or(never),
            source: seen.source.clone().unwrap_or_default(),
        })
    }
}

/// Looks at everything.
pub(super) async fn look(request: &Request) -> Result<Look, String> {
    let to = resolved(&request.config.data_dir)?;
    let place = match &request.source {
        Some(Source::Container(name)) => in_container(request, name).await?,
        Some(Source::DataDir(dir)) => on_machine(request, dir)?,
        None => return Err("it is not said what to adopt".to_owned()),
    };
    let config = &request.config;
    let told = Told::ask(&place.access, [&config.superuser, &config.replication]).await?;
    let from = place.from.clone();
    let found = fs::metadata(&from).map_err(|e| format!("cannot read {}: {e}", from.display()))?;
    let owner = (found.uid(), found.gid());
    let data_major = major(&from)?;
    let unit = unit(&place, &from);
    let start_conf = start_conf(&place, &told);
    let facts = Facts {
        control: control(&from)?,
        data_major,
        agent_major: request.major.unwrap_or(data_major),
        same_mount: same_mount(&from, &to),
        in_the_way: in_the_way(&from, &to)?,
        links: links(&from)?,
        owner,
        new_owner: config.run_as.map_or(owner, |RunAs { uid, gid }| (uid, gid)),
        systems: systems(&place).await,
        unit: unit.map(|unit| {
            // Debian's file is what says so there, and is changed.
            let enabled = start_conf.is_none() && is_enabled(&unit);
            (unit, enabled)
        }),
        start_conf,
        busy: busy(&place).await?,
        agent_runs: request.agent_runs,
        missing_libraries: missing_libraries(request, &place, &told),
        container: place.container,
        told,
        from,
        to,
    };
    Ok(Look { facts, access: place.access, mode: found.permissions().mode() & 0o7777 })
}

async fn in_container(request: &Request, name: &str) -> Result<Place, String> {
    let engine = Arc::new(Engine::new(&request.socket));
    let found = container::look(&engine, name).await;
    let found = found.map_err(|error| format!("cannot look at container {name}: {error}"))?;
    let seen = container::read(&found);
    let own = own_container(&engine).await.map_err(|error| error.to_string())?;
    let source = seen.source.clone().ok_or_else(|| {
        format!("container {name}: its data directory {} is in no volume", seen.pgdata)
    })?;
    let from = container::seen_at(own.as_ref(), &source).ok_or_else(|| {
        let volume = seen.volume.as_deref().unwrap_or(&source);
        format!(
            "the data of container {name} is in {volume}, which is not mounted here: give haclt that \
             volume as this node's (deploy/compose.adopt.yaml)"
        )
    })?;
    if !seen.running {
        return Err(format!("container {name} is not running: start it, so that it can be asked"));
    }
    let superuser = request.superuser.clone().unwrap_or_else(|| seen.superuser.clone());
    let access = Access::Container { engine: Arc::clone(&engine), id: seen.id.clone(), superuser };
    let from = resolved(Path::new(&from))?;
    Ok(Place { from, access, container: Some(seen), own, engine: Some(engine) })
}

fn on_machine(request: &Request, dir: &Path) -> Result<Place, String> {
    let from = resolved(dir)?;
    let running = pid_file(&from).filter(|running| stop::runs_on(running, &from));
    let running = running.ok_or_else(|| {
        format!("no server runs on {}: start it, so that it can be asked", from.display())
    })?;
    let program = request.bin_dir.as_ref().map(|dir| dir.join("psql"));
    let access = Access::Local {
        psql: program.filter(|path| path.exists()).unwrap_or_else(|| "psql".into()),
        host: running.socket_dir,
        port: running.port,
        superuser: request.superuser.clone().unwrap_or_else(|| "postgres".to_owned()),
        run_as: request.config.run_as,
    };
    Ok(Place { from, access, container: None, own: None, engine: None })
}

/// Returns a data directory's path without links above it.
pub(super) fn resolved(dir: &Path) -> Result<PathBuf, String> {
    Layout::of(dir).map(|layout| layout.data_dir)
}

/// Reads the control file.
pub(super) fn control(data_dir: &Path) -> Result<ControlData, String> {
    read_whole(&data_dir.join("global/pg_control")).map_err(|error| error.to_string())
}

fn major(data_dir: &Path) -> Result<u32, String> {
    let path = data_dir.join("PG_VERSION");
    let text = fs::read_to_string(&path);
    let text = text.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    text.trim().parse().map_err(|_| format!("{} is unreadable", path.display()))
}

/// Returns whether a rename from the one to the other is possible: it is not between two mounts, not
/// even of one file system.
fn same_mount(from: &Path, to: &Path) -> bool {
    let there = to.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let mount = |path: &Path| {
        let found = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
        Some((found.stx_dev_major, found.stx_dev_minor, found.stx_mnt_id))
    };
    matches!((mount(from), mount(there)), (Some(a), Some(b)) if a == b)
}

fn in_the_way(from: &Path, to: &Path) -> Result<Option<String>, String> {
    let layout = Layout::of(to)?;
    let half_made = layout.half_made.display();
    if layout.half_made.exists() && Journal::load(to)?.is_none() {
        return Ok(Some(format!("{half_made} is there: something was begun and not finished")));
    }
    if from == to || !to.exists() {
        return Ok(None);
    }
    if from.parent().is_some_and(|above| above.starts_with(to)) {
        return Ok(Some(format!("{} lies in {}", from.display(), to.display())));
    }
    let empty = is_empty(to).map_err(|error| format!("cannot read {}: {error}", to.display()))?;
    Ok((!empty).then(|| format!("{} is not empty", to.display())))
}

/// Returns directories of the data directory that are elsewhere.
fn links(dir: &Path) -> Result<Vec<String>, String> {
    let fault = |error: std::io::Error| format!("cannot read {}: {error}", dir.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(fault)? {
        let entry = entry.map_err(fault)?;
        if entry.file_type().map_err(fault)?.is_symlink() && entry.path().is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Returns name and version of the old image's system and of ours, if both are containers.
async fn systems(place: &Place) -> Option<[(String, String); 2]> {
    let (engine, old) = (place.engine.as_ref()?, place.container.as_ref()?);
    place.own.as_ref()?;
    let words = ["cat", "/etc/os-release"].map(str::to_owned).to_vec();
    let said = container::exec(engine, &old.id, words, String::new(), EXEC_LIMIT).await;
    let (_, theirs, _) = said.ok()?;
    let ours = fs::read_to_string("/etc/os-release").ok()?;
    Some([system(&theirs), system(&ours)])
}

fn system(text: &str) -> (String, String) {
    let value = |name: &str| {
        let of = |line: &&str| line.split_once('=').is_some_and(|(key, _)| key == name);
        let line = text.lines().find(of).unwrap_or_default();
        line.split_once('=').map_or("", |(_, value)| value).trim_matches('"').to_owned()
    };
    (value("ID"), value("VERSION_ID"))
}

/// Returns containers that run on the directory, besides the old one and this.
async fn busy(place: &Place) -> Result<Vec<String>, String> {
    let (Some(engine), Some(old)) = (&place.engine, &place.container) else {
        return Ok(Vec::new());
    };
    let own = place.own.as_ref().and_then(|own| own.id.as_deref()).unwrap_or_default();
    let source = old.source.as_deref().unwrap_or_default();
    let found = container::users_of(engine, source, &[&old.id, own]).await;
    found.map_err(|error| error.to_string())
}

/// Returns containers that run on a data directory that was adopted from a container, besides this.
pub(super) async fn users(engine: &Engine, journal: &Journal) -> Result<Vec<String>, String> {
    let Some(old) = &journal.container else { return Ok(Vec::new()) };
    // Nothing was stopped or moved yet: the old server may run.
    let old_may_run = matches!(journal.phase, journal::Phase::Begun | journal::Phase::Stopping);
    let own = own_container(engine).await.map_err(|error| error.to_string())?;
    let own = own.and_then(|own| own.id).unwrap_or_default();
    let except: Vec<&str> = if old_may_run { vec![&own, &old.id] } else { vec![&own] };
    let found = container::users_of(engine, &old.source, &except).await;
    found.map_err(|error| error.to_string())
}

/// Returns libraries that the database uses and that are not where they would be looked for.
fn missing_libraries(request: &Request, place: &Place, told: &Told) -> Vec<String> {
    // On the machine itself nothing is known of what an image has.
    if place.own.is_none() && request.bin_dir.is_none() {
        return Vec::new();
    }
    let there = |name: &str| {
        let path = told.library_dir.join(name);
        path.exists() || path.with_added_extension("so").exists()
    };
    told.libraries.iter().filter(|name| !there(name)).cloned().collect()
}

/// Returns the unit of systemd that a server of this machine runs in.
fn unit(place: &Place, from: &Path) -> Option<String> {
    if place.container.is_some() {
        return None;
    }
    let running = pid_file(from)?;
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", running.pid)).ok()?;
    let last = groups.lines().filter_map(|line| line.rsplit('/').next());
    let mut units = last.filter(|name| name.ends_with(".service") && name.contains("postgres"));
    units.next().map(str::to_owned)
}

fn is_enabled(unit: &str) -> bool {
    let mut command = Command::new("systemctl");
    command.args(["--quiet", "is-enabled", unit]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Returns Debian's file that says whether the server starts with the machine.
fn start_conf(place: &Place, told: &Told) -> Option<PathBuf> {
    let dir = told.config_file.parent().filter(|dir| dir.starts_with("/etc/postgresql"))?;
    let path = dir.join("start.conf");
    (place.container.is_none() && path.exists()).then_some(path)
}
