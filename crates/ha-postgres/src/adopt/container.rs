//! The old server's container: what it is, and stopping it for good.

use std::collections::HashMap;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::models::{
    ContainerInspectResponse, ContainerUpdateBody, MountPoint, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::{KillContainerOptions, ListContainersOptions};
use futures::StreamExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, sleep};

use super::journal::{OldContainer, Restart};
use super::server::Ran;
use crate::docker::engine::{Engine, EngineError};
use crate::docker::examine::uses;
use crate::docker::own::{is_in, mount_of, source_of};

/// How long a question may take.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// How long starting, stopping and the like may take.
const CHANGE_LIMIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// No answer of ours is longer.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// What is known of the old container.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) running: bool,
    pub(crate) restart: Option<Restart>,
    pub(crate) auto_remove: bool,
    /// The data directory in the container.
    pub(crate) pgdata: String,
    /// The data directory on the machine.
    pub(crate) source: Option<String>,
    /// The volume's name, or the directory that is mounted.
    pub(crate) volume: Option<String>,
    pub(crate) superuser: String,
    /// Published ports, as Compose writes them.
    pub(crate) ports: Vec<String>,
    /// Compose's project and service.
    pub(crate) compose: Option<(String, String)>,
    /// Other mounts: where from, and where to.
    pub(crate) mounts: Vec<(String, String)>,
}

/// Looks at a container.
pub(crate) async fn look(
    engine: &Engine,
    name: &str,
) -> Result<ContainerInspectResponse, EngineError> {
    engine.call(ASK_LIMIT, async |docker| docker.inspect_container(name, None).await).await
}

/// Reads what counts here from what the engine says.
pub(crate) fn read(found: &ContainerInspectResponse) -> Seen {
    let config = found.config.clone().unwrap_or_default();
    let host = found.host_config.clone().unwrap_or_default();
    let env: HashMap<&str, &str> =
        config.env.iter().flatten().filter_map(|line| line.split_once('=')).collect();
    let set = |name: &str| env.get(name).filter(|value| !value.is_empty()).copied();
    let pgdata = set("PGDATA").unwrap_or("/var/lib/postgresql/data").trim_end_matches('/');
    let mounts = found.mounts.as_deref().unwrap_or_default();
    let holds = mount_of(mounts, pgdata);
    let label = |name: &str| config.labels.as_ref().and_then(|labels| labels.get(name)).cloned();
    let compose = label("com.docker.compose.project").zip(label("com.docker.compose.service"));
    let others = mounts.iter().filter(|mount| Some(*mount) != holds);
    let restart = host.restart_policy.map(|policy| Restart {
        name: policy.name.map_or_else(|| "no".to_owned(), |name| name.to_string()),
        count: policy.maximum_retry_count,
    });
    let ports = host.port_bindings.iter().flatten().flat_map(|(inside, bindings)| {
        bindings.iter().flatten().map(move |binding| {
            let ip = binding.host_ip.as_deref().filter(|ip| !ip.is_empty());
            let port = binding.host_port.as_deref().unwrap_or_default();
            let inside = inside.trim_end_matches("/tcp");
            ip.map_or_else(|| format!("{port}:{inside}"), |ip| format!("{ip}:{port}:{inside}"))
        })
    });
    Seen {
        id: found.id.clone().unwrap_or_default(),
        name: found.name.clone().unwrap_or_default().trim_start_matches('/').to_owned(),
        image: config.image.clone().unwrap_or_default(),
        running: found.state.as_ref().and_then(|state| state.running) == Some(true),
        restart,
        auto_remove: host.auto_remove == Some(true),
        pgdata: pgdata.to_owned(),
        source: source_of(mounts, pgdata),
        volume: holds.and_then(|mount| mount.name.clone().or_else(|| mount.source.clone())),
        superuser: set("POSTGRES_USER").unwrap_or("postgres").to_owned(),
        ports: ports.collect(),
        compose,
        mounts: others
            .filter_map(|mount| Some((mount.source.clone()?, mount.destination.clone()?)))
            .collect(),
    }
}

/// Returns where this process sees a directory of the machine: in its own container's mounts, or at
/// the same place if it is in none.
pub(crate) fn seen_at(own: Option<&ContainerInspectResponse>, source: &str) -> Option<String> {
    let Some(own) = own else { return Some(source.to_owned()) };
    let mounts = own.mounts.as_deref().unwrap_or_default();
    let holds = |mount: &&MountPoint| {
        mount.source.as_deref().is_some_and(|place| !place.is_empty() && is_in(source, place))
    };
    let mount = mounts.iter().filter(holds).max_by_key(|m| m.source.as_ref().map(String::len))?;
    let rest = source.strip_prefix(mount.source.as_deref()?.trim_end_matches('/'))?;
    Some(format!("{}{rest}", mount.destination.as_deref()?.trim_end_matches('/')))
}

/// Returns the names of running containers that can write to a directory of the machine.
pub(crate) async fn users_of(
    engine: &Engine,
    source: &str,
    except: &[&str],
) -> Result<Vec<String>, EngineError> {
    let running = engine.call(ASK_LIMIT, async |docker| {
        docker.list_containers(Some(ListContainersOptions::default())).await
    });
    let mut names = Vec::new();
    for container in running.await? {
        let id = container.id.unwrap_or_default();
        if except.contains(&id.as_str()) || !uses(&container.mounts.unwrap_or_default(), source) {
            continue;
        }
        let name = container.names.unwrap_or_default().into_iter().next().unwrap_or(id);
        names.push(name.trim_start_matches('/').to_owned());
    }
    Ok(names)
}

/// Gives the container another restart policy.
pub(crate) async fn set_restart(
    engine: &Engine,
    id: &str,
    restart: &Restart,
) -> Result<(), EngineError> {
    let name = restart.name.parse().unwrap_or(RestartPolicyNameEnum::NO);
    let policy = RestartPolicy { name: Some(name), maximum_retry_count: restart.count };
    let body = ContainerUpdateBody { restart_policy: Some(policy), ..Default::default() };
    engine.call(CHANGE_LIMIT, async |docker| docker.update_container(id, body).await).await
}

/// Stops the server in a container in order: a fast shutdown, however long its checkpoint takes, and
/// never a kill. The restart policy goes first: the engine must not start it again.
pub(crate) async fn stop(
    engine: &Engine,
    container: &OldContainer,
    limit: Duration,
) -> Result<(), String> {
    let OldContainer { id, name, .. } = container;
    let fault = |error: EngineError| format!("could not stop container {name}: {error}");
    let never = Restart { name: "no".to_owned(), count: None };
    set_restart(engine, id, &never).await.map_err(fault)?;
    let deadline = Instant::now() + limit;
    let mut told = false;
    while read(&look(engine, id).await.map_err(fault)?).running {
        if !told {
            let interrupt = Some(KillContainerOptions { signal: "SIGINT".to_owned() });
            engine
                .call(CHANGE_LIMIT, async |docker| docker.kill_container(id, interrupt).await)
                .await
                .map_err(fault)?;
            told = true;
        }
        if Instant::now() >= deadline {
            return Err(format!(
                "container {name} has not stopped within {} s; it has been told to",
                limit.as_secs()
            ));
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Runs a program in a container as the database's account.
pub(crate) async fn exec(
    engine: &Engine,
    id: &str,
    words: Vec<String>,
    input: String,
    limit: Duration,
) -> Result<Ran, String> {
    let ran = engine.call(limit, async |docker| {
        let options = CreateExecOptions {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            user: Some("postgres".to_owned()),
            cmd: Some(words),
            ..Default::default()
        };
        let made = docker.create_exec(id, options).await?;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        if let StartExecResults::Attached { output: mut said, input: mut pipe } =
            docker.start_exec(&made.id, None).await?
        {
            let feed = async {
                // It may end without reading all; its exit status says what that means.
                let _all_read = pipe.write_all(input.as_bytes()).await;
                let _closed = pipe.shutdown().await;
            };
            let hear = async {
                while let Some(chunk) = said.next().await {
                    match chunk? {
                        LogOutput::StdErr { message } => err.extend_from_slice(&message),
                        LogOutput::StdOut { message } | LogOutput::Console { message } => {
                            out.extend_from_slice(&message);
                        }
                        LogOutput::StdIn { .. } => {}
                    }
                    if out.len() + err.len() > ANSWER_BYTES_MAX {
                        break;
                    }
                }
                Ok::<(), bollard::errors::Error>(())
            };
            let ((), heard) = tokio::join!(feed, hear);
            heard?;
        }
        let code = docker.inspect_exec(&made.id).await?.exit_code.unwrap_or(-1);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((code, text(out), text(err)))
    });
    ran.await.map_err(|error| error.to_string())
}
