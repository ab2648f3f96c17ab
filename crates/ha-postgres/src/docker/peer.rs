//! A kill from outside: the container of a node that is not heard of, through the engine of its host.

use std::time::Duration;

use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::KillContainerOptions;
use tokio::time::{Instant, sleep};

use super::engine::{Engine, EngineError};
use super::examine::lives;
use super::tls::PeerAddress;

/// How long the order itself may take.
const KILL_LIMIT: Duration = Duration::from_secs(2);
/// How long the engine may take to say that the container is dead.
const DEATH_LIMIT: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Why nothing is confirmed. The container may be dead all the same, unless it says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KillError {
    /// The engine did not do it, or did not say so.
    #[error("{0}")]
    Engine(String),
    /// Another container has the name now: not the one that the holder's guard was in.
    #[error("container {0} is not the one that the holder runs in")]
    Other(String),
    /// It does not run: then it may have been about to.
    #[error("container {0} does not run")]
    NotRunning(String),
    /// Its processes can be outside of it, so that its death is not theirs.
    #[error("container {0} has no process ids of its own: its death would prove nothing")]
    SharedProcesses(String),
    /// The caller said no: nothing was ordered.
    #[error("not ordered: it was heard of meanwhile")]
    Moot,
    /// It was ordered, and some process of it is left, in uninterruptible input or output perhaps.
    #[error("container {0} is not dead yet")]
    Alive(String),
}

impl From<EngineError> for KillError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error.to_string())
    }
}

/// A container and the Docker engine of another host.
#[derive(Debug)]
pub struct PeerEngine {
    /// By its name, because that is what a proxy before the engine can go by.
    name: String,
    engine: Engine,
}

impl PeerEngine {
    /// Takes the container's name, and where its engine is; nothing is done yet.
    #[must_use]
    pub fn new(name: &str, address: PeerAddress) -> Self {
        Self { name: name.to_owned(), engine: Engine::of_peer(address) }
    }

    /// Kills the container if it still has that id, and returns when the engine says that no process of it is left.
    ///
    /// `go` is called once, right before the order is sent, if all speaks for it; it may still say no.
    /// A container that does not run is not confirmed: a start may be on its way.
    ///
    /// The kernel ends a process id namespace whole: it reports the end of its first process, here the
    /// guard, only after every other one is gone (`pid_namespaces(7)`).
    ///
    /// # Errors
    /// [`KillError`]. Cancelling is safe at any time; what was ordered may happen.
    pub async fn kill(&self, id: &str, go: impl FnOnce() -> bool) -> Result<(), KillError> {
        let name = || self.name.clone();
        let found = self.engine.inspect(&self.name).await?;
        if found.id.as_deref() != Some(id) {
            return Err(KillError::Other(name()));
        }
        if !lives(found.state.as_ref()) {
            return Err(KillError::NotRunning(name()));
        }
        if shares_processes(&found) {
            return Err(KillError::SharedProcesses(name()));
        }
        if !go() {
            return Err(KillError::Moot);
        }
        let (target, options) = (name(), KillContainerOptions { signal: "SIGKILL".to_owned() });
        let order = self.engine.call(KILL_LIMIT, move |docker| async move {
            docker.kill_container(&target, Some(options)).await
        });
        // Whether it died is to be seen, not to be believed.
        let ordered = order.await;
        let until = Instant::now() + DEATH_LIMIT;
        loop {
            if is_dead(&self.engine.inspect(&self.name).await?, &found) {
                return Ok(());
            }
            ordered.clone()?;
            if Instant::now() >= until {
                return Err(KillError::Alive(name()));
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// Whether this is the end of the very run of the container that was looked at before.
fn is_dead(now: &ContainerInspectResponse, before: &ContainerInspectResponse) -> bool {
    let same = now.id.is_some() && now.id == before.id;
    let Some((now, before)) = now.state.as_ref().zip(before.state.as_ref()) else { return false };
    same && now.started_at.is_some()
        && now.started_at == before.started_at
        && now.running == Some(false)
        && now.restarting != Some(true)
        && now.pid == Some(0)
}

fn shares_processes(found: &ContainerInspectResponse) -> bool {
    let mode = found.host_config.as_ref().and_then(|host| host.pid_mode.as_deref());
    mode.is_none_or(|mode| !mode.is_empty() && mode != "private")
}

#[cfg(test)]
mod tests {
    use bollard::models::{ContainerState, HostConfig};

    use super::*;

    fn of(started: &str, running: bool, pid: i64) -> ContainerInspectResponse {
        let state = ContainerState {
            running: Some(running),
            restarting: Some(false),
            pid: Some(pid),
            started_at: Some(started.to_owned()),
            ..ContainerState::default()
        };
        ContainerInspectResponse {
            id: Some("7a".to_owned()),
            state: Some(state),
            ..ContainerInspectResponse::default()
        }
    }

    #[test]
    fn only_the_end_of_the_same_run_is_a_death() {
        let before = of("first", true, 7);
        let dead = |now: &ContainerInspectResponse| is_dead(now, &before);
        assert!(dead(&of("first", false, 0)));
        assert!(!dead(&of("first", true, 7)));
        assert!(!dead(&of("first", false, 7)));
        // It was started anew meanwhile, and ended: somebody starts it.
        assert!(!dead(&of("second", false, 0)));
        let other = ContainerInspectResponse { id: Some("7b".to_owned()), ..of("first", false, 0) };
        assert!(!dead(&other));
        assert!(!dead(&ContainerInspectResponse::default()));
        assert!(!is_dead(
            &ContainerInspectResponse::default(),
            &ContainerInspectResponse::default()
        ));
    }

    #[test]
    fn a_container_whose_processes_are_not_its_own_proves_nothing() {
        let with = |mode: Option<&str>| ContainerInspectResponse {
            host_config: Some(HostConfig {
                pid_mode: mode.map(str::to_owned),
                ..HostConfig::default()
            }),
            ..ContainerInspectResponse::default()
        };
        for mode in [Some("host"), Some("container:4711"), None] {
            assert!(shares_processes(&with(mode)), "{mode:?}");
        }
        assert!(!shares_processes(&with(Some(""))));
        assert!(!shares_processes(&with(Some("private"))));
        assert!(shares_processes(&ContainerInspectResponse::default()));
    }
}
