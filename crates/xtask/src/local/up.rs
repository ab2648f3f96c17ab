//! `up`: build, put in place, start, wait until healthy.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::binaries::Programs;
use crate::cluster::process::{self, Process};
use crate::cluster::status::Status;
use crate::cluster::{Cluster, Kind, Node, account, prepare};
use crate::failure::{Doing as _, Failure, Outcome};
use crate::local::{self, Record};
use crate::{data, exec, note, paths, ports};

/// How long a cluster may take to become healthy.
const PATIENCE: Duration = Duration::from_secs(90);

/// Starts what is missing and waits until the cluster is healthy.
pub(crate) fn up(no_build: bool) -> Outcome<()> {
    let began = Instant::now();
    let programs = if no_build {
        Programs::built()?
    } else {
        note!("building the agent, haclt and the guard");
        Programs::build()?
    };
    let account = account::for_server()?;
    let means = local::means(programs.guard.clone(), account.as_ref())?;
    let _lock = lock()?;
    let (record, is_new) = match Record::read()? {
        Some(record) => (record, false),
        None => (Record::decide(account.as_ref())?, true),
    };
    record.agrees_with_environment()?;
    let cluster = record.cluster(means);
    let roots = record.roots();
    let roots: Vec<&Path> = roots.iter().map(PathBuf::as_path).collect();
    let ours = process::of_cluster(&roots);
    let missing: Vec<&Node> =
        cluster.nodes.iter().filter(|node| agent_of(node, &ours).is_none()).collect();
    for node in &missing {
        ports_are_free(node, &roots)?;
    }
    if is_new {
        record.write()?;
    }
    if cluster.postgres_root != cluster.root {
        note!(
            "note: user {} cannot enter {}, so the data directories are in {} (`make down PURGE=1` \
             removes them too)",
            account::SERVER_ACCOUNT,
            cluster.root.display(),
            cluster.postgres_root.display()
        );
    }
    prepare::prepare(&cluster, account.as_ref())?;
    report_running(&cluster, &ours);
    let mut started = Vec::new();
    for node in missing {
        note!("starting agent {} ({})", node.name, node.kind.word());
        started.push(Started { node, child: start(&programs.agent, node)? });
    }
    wait_until_healthy(&cluster, &programs, &mut started, began)?;
    show(&cluster, &programs)
}

/// Prints what `haclt status` says of the local cluster.
pub(crate) fn status() -> Outcome<()> {
    let record = Record::read()?.ok_or_else(|| {
        Failure::new("there is no local cluster").hint("Run `make up` to start one.")
    })?;
    let guard = crate::binaries::guard_path()?;
    let cluster = record.cluster(local::means(guard, None)?);
    let haclt = paths::target()?.join("release").join("haclt");
    exec::run(Command::new(haclt).args(["--endpoint", &cluster.endpoints(), "status"]))
}

/// An agent that this run started.
struct Started<'a> {
    node: &'a Node,
    child: Child,
}

/// Holds off a second `up` or `down` until dropped.
pub(crate) fn lock() -> Outcome<File> {
    account::folder(&local::root(), 0o755)?;
    let path = local::root().join("lock");
    let file = OpenOptions::new().create(true).append(true).open(&path);
    let file = file.doing(|| format!("could not open {}", path.display()))?;
    file.try_lock().doing(|| {
        "cannot go on: another `make up` or `make down` of this checkout is running".to_owned()
    })?;
    Ok(file)
}

/// Finds a node's agent among processes.
pub(crate) fn agent_of<'a>(node: &Node, among: &'a [Process]) -> Option<&'a Process> {
    let config = node.config().to_string_lossy().into_owned();
    among.iter().find(|process| process.program == "ha-agent" && process.command.ends_with(&config))
}

fn report_running(cluster: &Cluster, ours: &[Process]) {
    let running: Vec<&Process> =
        cluster.nodes.iter().filter_map(|node| agent_of(node, ours)).collect();
    if running.len() == cluster.nodes.len() {
        note!("all three agents are running already");
    } else if !running.is_empty() {
        note!("{} of {} agents are running already", running.len(), cluster.nodes.len());
    }
    if running.iter().any(|process| process.outdated) {
        note!("note: they are of an older build; `make down && make up` changes to the new one");
    }
}

/// Refuses if somebody else listens where the node's agent or PostgreSQL is to.
fn ports_are_free(node: &Node, roots: &[&Path]) -> Outcome<()> {
    let mut wanted =
        vec![("gRPC", node.grpc, "HACLT_GRPC_PORT"), ("HTTP", node.http, "HACLT_HTTP_PORT")];
    if node.kind == Kind::Data {
        wanted.push(("PostgreSQL", node.postgres, "HACLT_POSTGRES_PORT"));
    }
    for (purpose, address, variable) in wanted {
        if ports::is_free(address) {
            continue;
        }
        let owner = ports::owner(address.port());
        // Our own PostgreSQL outlives its agent for a while; the new agent takes it over.
        if owner.as_ref().is_some_and(|process| process.belongs_to(roots)) {
            continue;
        }
        let by = owner.map_or_else(
            || "another program, or by an outgoing connection".to_owned(),
            |process| format!("{} (pid {}: {})", process.program, process.pid, process.command),
        );
        return Err(Failure::new(format!(
            "cannot start node {}: its {purpose} port {address} is taken by {by}",
            node.name
        ))
        .hint(format!(
            "Stop that program, or choose another first port by {variable}=… (a row of three)."
        )));
    }
    Ok(())
}

fn start(agent: &Path, node: &Node) -> Outcome<Child> {
    let doing = || format!("could not start the agent of node {}", node.name);
    let log = OpenOptions::new().create(true).append(true).open(node.log()).doing(doing)?;
    let errors = log.try_clone().doing(doing)?;
    let child = agent_command(Command::new("setsid").arg(agent), node)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .doing(doing)?;
    // `setsid` becomes the agent: the id stays the same.
    prepare::write(&node.pid_file(), &format!("{}\n", child.id()), 0o644)?;
    Ok(child)
}

/// Adds an agent's arguments, and keeps variables out that were meant for somebody else.
pub(crate) fn agent_command<'a>(command: &'a mut Command, node: &Node) -> &'a mut Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HA_") {
            command.env_remove(name);
        }
    }
    command.arg("--config").arg(node.config()).current_dir("/")
}

fn wait_until_healthy(
    cluster: &Cluster,
    programs: &Programs,
    started: &mut [Started<'_>],
    began: Instant,
) -> Outcome<()> {
    let waiting = Instant::now();
    let mut shown = String::new();
    loop {
        let (line, healthy) = match Status::ask(Command::new(&programs.haclt), &cluster.endpoints())
        {
            Ok(status) => (status.line(), status.is_healthy()),
            Err(failure) => (format!("no answer yet ({failure})"), false),
        };
        if line != shown {
            note!("{:6.1} s  {line}", waiting.elapsed().as_secs_f64());
            shown = line;
        }
        if healthy {
            note!("healthy after {:.1} s, {:.1} s in all", secs(waiting), secs(began));
            return Ok(());
        }
        for agent in &mut *started {
            if let Ok(Some(status)) = agent.child.try_wait() {
                show_log(agent.node);
                return Err(Failure::new(format!(
                    "the agent of node {} ended with {status}",
                    agent.node.name
                ))
                .hint("The others are still running; `make down` stops them."));
            }
        }
        if waiting.elapsed() > PATIENCE {
            cluster.nodes.iter().for_each(show_log);
            return Err(Failure::new(format!(
                "the cluster is not healthy after {} s: {shown}",
                PATIENCE.as_secs()
            ))
            .hint("It is still running; `make status` shows it, `make down` stops it."));
        }
        thread::sleep(Duration::from_millis(200));
    }
}

fn secs(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

/// Shows the end of an agent's log.
fn show_log(node: &Node) {
    note!("the last lines of {}:", node.log().display());
    for line in last_lines(&fs::read_to_string(node.log()).unwrap_or_default(), 8) {
        note!("    {line}");
    }
}

/// Returns the last lines of a text.
pub(crate) fn last_lines(text: &str, count: usize) -> impl Iterator<Item = &str> {
    text.lines().skip(text.lines().count().saturating_sub(count))
}

fn show(cluster: &Cluster, programs: &Programs) -> Outcome<()> {
    let endpoints = cluster.endpoints();
    data!("");
    exec::run(Command::new(&programs.haclt).args(["--endpoint", &endpoints, "status"]))?;
    let status = Status::ask(Command::new(&programs.haclt), &endpoints)?;
    let primary = status.primary().and_then(|name| cluster.node(name));
    let primary = primary.doing(|| "the status names no primary".to_owned())?;
    let haclt = format!("{} --endpoint {endpoints}", quoted(&programs.haclt));
    let pid_file = quoted(&primary.pgdata().join("postmaster.pid"));
    let log = quoted(&cluster.root.join("n*").join("agent.log"));
    data!("\nConnect to whichever server is the primary:");
    data!("  psql \"{}\"", cluster.dsn());
    data!("\nThings to try:");
    data!("  1. kill the primary's PostgreSQL ({}):", primary.name);
    data!("       kill -9 $(head -n 1 {pid_file})");
    data!("  2. watch the other one take over (in a second terminal, before the kill):");
    data!("       {haclt} status --watch");
    data!("  3. look again, and ask why:");
    data!("       {haclt} explain");
    data!("\nLogs: {log}    Stop: make down    Remove: make down PURGE=1");
    Ok(())
}

/// Quotes a path for a shell, if it needs that. A `*` is meant.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+*:".contains(c);
    if text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_to_copy_survive_odd_paths() {
        assert_eq!(quoted(Path::new("/a/b-1.c")), "/a/b-1.c");
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }

    #[test]
    fn the_end_of_a_log_is_its_end() {
        assert_eq!(last_lines("a\nb\nc\n", 2).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(last_lines("a", 5).collect::<Vec<_>>(), ["a"]);
    }
}
