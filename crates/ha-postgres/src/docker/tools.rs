//! Tools as containers that run once: the image, the volumes and the user of the Postgres container.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::container::{AttachContainerResults, LogOutput};
use bollard::errors::Error as BollardError;
use bollard::models::{
    ContainerCreateBody, ContainerSummary, HostConfig, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    AttachContainerOptions, CreateContainerOptions, ListContainersOptions, RemoveContainerOptions,
};
use futures::StreamExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, info, warn};

use super::engine::{Engine, EngineError};
use super::{ASK_LIMIT, CHANGE_LIMIT, Shared};
use crate::attempt::Attempt;
use crate::driver::ActionError;
use crate::instance::RunAs;
use crate::tool::{Lines, Output, Tool, ToolError, started_by};

/// The label of every container of ours that runs a tool; its value is the tool's name.
pub(crate) const TOOL_LABEL: &str = "org.haclt.tool";
/// The label with the node.
const NODE_LABEL: &str = "org.haclt.node";
/// The label with where the data directory is on the machine: the path inside is the same on each node.
const DATA_DIR_LABEL: &str = "org.haclt.data-dir";
/// The label with the agent that started it.
const STARTED_BY_LABEL: &str = "org.haclt.started-by";

/// More processes than any tool has.
const PIDS_MAX: i64 = 128;
/// How long an engine may take to remove a container that nobody waits for.
const REMOVE_LIMIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The tools of this agent and of earlier ones.
#[derive(Debug, Default)]
pub(crate) struct Tools {
    /// Containers that this agent made or is about to make, until they are removed.
    ours: Mutex<BTreeSet<String>>,
    /// Whether nothing is left of what earlier agents ran: nobody else starts anything for this one.
    cleared: AtomicBool,
    /// Whether this agent goes: nothing is started any more.
    closed: AtomicBool,
}

impl Tools {
    fn ours(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.ours.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Ends all tools of this agent, starts no other, and returns once their containers are gone: one
    /// that stays would hold the database's volumes.
    pub(crate) async fn end_tools(&self, deadline: Instant) {
        self.tools.closed.store(true, Ordering::SeqCst);
        let ending = async {
            loop {
                let ours = self.tools.ours().clone();
                if ours.is_empty() {
                    return;
                }
                for name in ours {
                    // Whoever waits for it removes it too, and says so if that fails.
                    let _gone = remove(&self.engine, &name).await;
                }
                sleep(LOOK_EVERY).await;
            }
        };
        if timeout_at(deadline, ending).await.is_err() {
            warn!("the container of a tool may be left behind");
        }
    }

    /// Runs a tool to its end. Dropping the future kills and removes its container.
    pub(crate) async fn run_tool(
        self: &Arc<Self>,
        tool: &Tool<'_>,
        deadline: Instant,
    ) -> Result<Output, ToolError> {
        match timeout_at(deadline, self.run_once(tool)).await {
            Ok(ended) => ended,
            Err(_) => Err(ToolError::TimedOut),
        }
    }

    async fn run_once(self: &Arc<Self>, tool: &Tool<'_>) -> Result<Output, ToolError> {
        let began = Instant::now();
        let program = tool.name();
        let failed = |error: EngineError| ToolError::Start {
            program: program.to_owned(),
            error: error.to_string(),
        };
        let name = format!("haclt-{}-{:016x}", program.replace('_', "-"), self.random());
        // From here on whatever happens it goes: creating it may have an effect although it failed.
        let going = Going::new(self, &name);
        if self.tools.closed.load(Ordering::SeqCst) {
            return Err(ToolError::Start {
                program: program.to_owned(),
                error: "the agent is leaving".to_owned(),
            });
        }
        let network = self.network().await.map_err(failed)?;
        let (body, named) = (self.tool_body(tool, network), name.clone());
        let created = self.engine.call(CHANGE_LIMIT, move |docker| async move {
            let options = CreateContainerOptions { name: Some(named), ..Default::default() };
            docker.create_container(Some(options), body).await
        });
        created.await.map_err(failed)?;
        let named = name.clone();
        let attached = self.engine.call(ASK_LIMIT, move |docker| async move {
            let options = AttachContainerOptions {
                stream: true,
                stdin: true,
                stdout: true,
                stderr: true,
                ..Default::default()
            };
            docker.attach_container(&named, Some(options)).await
        });
        let attached = attached.await.map_err(failed)?;
        let named = name.clone();
        let started = self.engine.call(CHANGE_LIMIT, move |docker| async move {
            docker.start_container(&named, None).await
        });
        started.await.map_err(failed)?;
        debug!(tool = program, container = name, "tool started");
        let output = watch(tool, attached, &self.engine).await.map_err(failed)?;
        let code = self.exit_code(&name).await.map_err(failed)?;
        debug!(tool = program, code, took_ms = began.elapsed().as_millis(), "tool ended");
        drop(going);
        if code == 0 {
            Ok(output)
        } else {
            Err(tool.failed(format_args!("exit status: {code}"), output.errors))
        }
    }

    /// Returns the network that tools have: the agent's own.
    async fn network(&self) -> Result<String, EngineError> {
        let own = self.own().await?;
        Ok(own.map_or_else(|| "host".to_owned(), |id| format!("container:{id}")))
    }

    fn tool_body(&self, tool: &Tool<'_>, network: String) -> ContainerCreateBody {
        let remembered = self.remembered();
        let RunAs { uid, gid } = remembered.run_as();
        let text = |word: &std::ffi::OsString| word.to_string_lossy().into_owned();
        let mut env = vec!["LC_ALL=C".to_owned(), "PGCONNECT_TIMEOUT=5".to_owned()];
        env.extend(
            tool.environment().iter().map(|(name, value)| format!("{name}={}", text(value))),
        );
        let labels = [
            (TOOL_LABEL, tool.name().to_owned()),
            (NODE_LABEL, self.config.node.to_string()),
            (DATA_DIR_LABEL, remembered.source.clone()),
            (STARTED_BY_LABEL, started_by()),
        ];
        let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
        ContainerCreateBody {
            image: Some(remembered.image()),
            entrypoint: words(&[tool.name()]),
            cmd: Some(tool.arguments().iter().map(text).collect()),
            env: Some(env),
            user: Some(format!("{uid}:{gid}")),
            working_dir: Some("/".to_owned()),
            labels: Some(labels.map(|(name, value)| (name.to_owned(), value)).into()),
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            open_stdin: Some(true),
            stdin_once: Some(true),
            tty: Some(false),
            host_config: Some(HostConfig {
                volumes_from: Some(vec![self.docker.container.clone()]),
                network_mode: Some(network),
                restart_policy: Some(RestartPolicy {
                    name: Some(RestartPolicyNameEnum::NO),
                    maximum_retry_count: None,
                }),
                pids_limit: Some(PIDS_MAX),
                security_opt: words(&["no-new-privileges"]),
                cap_drop: words(&["ALL"]),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        }
    }

    /// Waits for the end of a container whose output has ended.
    async fn exit_code(&self, name: &str) -> Result<i64, EngineError> {
        let named = name.to_owned();
        let ended = self.engine.call(CHANGE_LIMIT, move |docker| async move {
            let mut waiting = Box::pin(docker.wait_container(&named, None));
            match waiting.next().await {
                Some(Ok(ended)) => Ok(ended.status_code),
                // The library's way to say that it ended with an error.
                Some(Err(BollardError::DockerContainerWaitError { code, .. })) => Ok(code),
                Some(Err(error)) => Err(error),
                None => Err(BollardError::RequestTimeoutError),
            }
        });
        ended.await
    }

    /// Returns the tools on our data directory, running or not, but not those of `spared`.
    async fn left_tools(&self, spared: &str) -> Result<Vec<ContainerSummary>, EngineError> {
        let source = self.remembered().source;
        let found = self.engine.call(ASK_LIMIT, move |docker| async move {
            let labels = vec![TOOL_LABEL.to_owned(), format!("{DATA_DIR_LABEL}={source}")];
            let filters = HashMap::from([("label".to_owned(), labels)]);
            let options =
                ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
            docker.list_containers(Some(options)).await
        });
        let mut found = found.await?;
        found.retain(|tool| {
            let by = tool.labels.as_ref().and_then(|labels| labels.get(STARTED_BY_LABEL));
            by.is_none_or(|by| by != spared)
        });
        Ok(found)
    }

    /// Removes tools that an earlier agent left behind on the data directory (rule 63), also those
    /// that it created and did not start. Done once: then the engine is not asked any more.
    pub(crate) async fn end_leftover_tools(&self, attempt: &Attempt) -> Result<(), ActionError> {
        if self.tools.cleared.load(Ordering::Relaxed) {
            return Ok(());
        }
        let us = started_by();
        loop {
            let left = self.left_tools(&us).await.map_err(|error| attempt.refused(error))?;
            if left.is_empty() {
                self.tools.cleared.store(true, Ordering::Relaxed);
                return Ok(());
            }
            for tool in left {
                let labels = tool.labels.unwrap_or_default();
                let name = labels.get(TOOL_LABEL).cloned().unwrap_or_default();
                let id = tool.id.unwrap_or_default();
                info!(tool = name, container = id, "removing a tool that was left behind");
                if let Err(error) = remove(&self.engine, &id).await {
                    warn!(tool = name, %error, "could not remove a tool that was left behind");
                }
            }
            if attempt.left().is_zero() {
                return Err(attempt.timed_out());
            }
            sleep(LOOK_EVERY.min(attempt.left())).await;
        }
    }
}

/// Feeds the standard input and takes in what the tool writes, until that ends.
async fn watch(
    tool: &Tool<'_>,
    attached: AttachContainerResults,
    engine: &Engine,
) -> Result<Output, EngineError> {
    let AttachContainerResults { output: mut said, mut input } = attached;
    let mut output = Output::default();
    let (mut answers, mut complaints) = (Lines::default(), Lines::default());
    let feed = async {
        // It may end without reading all; its exit status says what that means.
        let _all_read = input.write_all(tool.standard_input()).await;
        let _closed = input.shutdown().await;
    };
    let hear = async {
        while let Some(chunk) = said.next().await {
            match chunk.map_err(|error| engine.named(&error))? {
                LogOutput::StdOut { message } | LogOutput::Console { message } => {
                    answers.take(&message, |line| tool.answered(line, &mut output.lines));
                }
                LogOutput::StdErr { message } => {
                    complaints.take(&message, |line| tool.complained(line, &mut output.errors));
                }
                LogOutput::StdIn { .. } => {}
            }
        }
        Ok(())
    };
    let ((), heard) = tokio::join!(feed, hear);
    answers.end(|line| tool.answered(line, &mut output.lines));
    complaints.end(|line| tool.complained(line, &mut output.errors));
    heard.map(|()| output)
}

async fn remove(engine: &Engine, name: &str) -> Result<(), EngineError> {
    let name = name.to_owned();
    let removed = engine.call(REMOVE_LIMIT, move |docker| async move {
        // Anonymous volumes of the image go with it; those taken from others stay.
        let options = RemoveContainerOptions { force: true, v: true, ..Default::default() };
        docker.remove_container(&name, Some(options)).await
    });
    match removed.await {
        Ok(()) | Err(EngineError::Missing(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A container that is killed and removed when this is dropped, in a task of its own.
struct Going {
    shared: Arc<Shared>,
    name: String,
}

impl Going {
    fn new(shared: &Arc<Shared>, name: &str) -> Self {
        shared.tools.ours().insert(name.to_owned());
        Self { shared: Arc::clone(shared), name: name.to_owned() }
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let (shared, name) = (Arc::clone(&self.shared), std::mem::take(&mut self.name));
        let removing = async move {
            if let Err(error) = remove(&shared.engine, &name).await {
                // Found by its label before the next change, and at the next start.
                warn!(container = name, %error, "could not remove the container of a tool");
            }
            shared.tools.ours().remove(&name);
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(removing);
        }
    }
}
