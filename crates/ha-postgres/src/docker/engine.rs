//! A Docker engine: every call has a limit, every failure a name.

use std::future::Future;
use std::time::Duration;

use bollard::errors::Error as BollardError;
use bollard::models::ContainerInspectResponse;
use bollard::{API_DEFAULT_VERSION, Docker};
use ha_core::clock::millis;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::attempt::one_line;

use super::tls::{self, PeerAddress};

/// The library's own limit, in seconds: ours are shorter, and a clone may take hours.
pub(super) const LIBRARY_LIMIT: u64 = 7 * 24 * 3600;
/// How long a question may take that the engine answers from memory, in 5 ms as measured.
pub(super) const LOOK_LIMIT: Duration = Duration::from_secs(2);
/// What an engine says when its disk is full.
const DISK_FULL: &str = "no space left on device";

/// Why the engine did not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EngineError {
    /// Nobody answers there.
    #[error("the Docker engine cannot be reached at {address}: {why}")]
    Gone { address: String, why: String },
    /// No answer in time. What was asked for may happen yet.
    #[error("the Docker engine did not answer within {waited_ms} ms")]
    Slow { waited_ms: u64 },
    /// What was asked about is not there.
    #[error("the Docker engine knows no such thing: {0}")]
    Missing(String),
    /// Its disk is full.
    #[error("the Docker engine's disk is full: {0}")]
    DiskFull(String),
    /// It said no.
    #[error("the Docker engine refused: {0}")]
    Refused(String),
    /// Its answer makes no sense: another program at the socket, or a broken connection.
    #[error("the Docker engine's answer makes no sense: {0}")]
    Nonsense(String),
}

/// A Docker engine. The connection is made when it is first needed, and again after it was lost.
#[derive(Debug)]
pub(crate) struct Engine {
    at: At,
    client: Mutex<Option<Docker>>,
}

/// Where an engine listens.
#[derive(Debug)]
enum At {
    /// On a socket of this machine, such as `unix:///var/run/docker.sock`.
    Socket(String),
    /// On another machine.
    Peer(PeerAddress),
}

impl Engine {
    /// Takes the socket, such as `unix:///var/run/docker.sock`; nothing is done yet.
    pub(crate) fn new(socket: &str) -> Self {
        Self { at: At::Socket(socket.to_owned()), client: Mutex::new(None) }
    }

    /// Takes the address of another machine's engine; nothing is done yet.
    pub(crate) fn of_peer(address: PeerAddress) -> Self {
        Self { at: At::Peer(address), client: Mutex::new(None) }
    }

    /// Returns a connected client whose version both sides speak.
    async fn client(&self) -> Result<Docker, EngineError> {
        let mut client = self.client.lock().await;
        if let Some(docker) = &*client {
            return Ok(docker.clone());
        }
        let connected = match &self.at {
            At::Socket(socket) => {
                Docker::connect_with_unix(socket, LIBRARY_LIMIT, API_DEFAULT_VERSION)
                    .map_err(|error| self.named(&error))?
            }
            At::Peer(address) => tls::connect(address).map_err(|why| self.gone(why))?,
        };
        let docker = connected.negotiate_version().await.map_err(|error| self.named(&error))?;
        Ok(client.insert(docker).clone())
    }

    /// Asks the engine for one thing, for `limit` at most.
    pub(crate) async fn call<T, F>(
        &self,
        limit: Duration,
        ask: impl FnOnce(Docker) -> F,
    ) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, BollardError>>,
    {
        let began = Instant::now();
        let answer = async {
            let docker = self.client().await?;
            ask(docker).await.map_err(|error| self.named(&error))
        };
        let answer = timeout(limit, answer)
            .await
            .unwrap_or_else(|_| Err(EngineError::Slow { waited_ms: millis(began.elapsed()) }));
        if matches!(answer, Err(EngineError::Gone { .. } | EngineError::Nonsense(_))) {
            // It may come back as another version.
            *self.client.lock().await = None;
        }
        answer
    }

    /// Returns what the engine knows of a container, by its name or id.
    pub(crate) async fn inspect(
        &self,
        name: &str,
    ) -> Result<ContainerInspectResponse, EngineError> {
        let name = name.to_owned();
        let found = self.call(LOOK_LIMIT, move |docker| async move {
            docker.inspect_container(&name, None).await
        });
        found.await
    }

    /// Names a failure of the library.
    pub(crate) fn named(&self, error: &BollardError) -> EngineError {
        let text = one_line(&chain(error));
        match error {
            BollardError::DockerResponseServerError { status_code, message } => {
                let message = one_line(message);
                if message.contains(DISK_FULL) {
                    EngineError::DiskFull(message)
                } else if *status_code == 404 {
                    EngineError::Missing(message)
                } else {
                    EngineError::Refused(message)
                }
            }
            BollardError::RequestTimeoutError => EngineError::Slow { waited_ms: 0 },
            BollardError::JsonDataError { .. }
            | BollardError::JsonSerdeError { .. }
            | BollardError::StrParseError { .. }
            | BollardError::APIVersionParseError { .. } => EngineError::Nonsense(text),
            // Everything else is about the connection: sockets, HTTP, streams.
            _ => self.gone(text),
        }
    }

    fn gone(&self, why: String) -> EngineError {
        let address = match &self.at {
            At::Socket(socket) => socket.clone(),
            At::Peer(peer) => peer.address.clone(),
        };
        EngineError::Gone { address, why }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
