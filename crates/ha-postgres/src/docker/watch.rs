//! Watching the engine: its events as they come, and a look at everything now and then, because events
//! are lost while a connection is.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bollard::query_parameters::EventsOptions;
use futures::StreamExt as _;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::engine::EngineError;
use super::examine::{Places, faults, lives};
use super::{ASK_LIMIT, Shared, own};

/// How often everything is looked at, whatever the events say.
const FULL_LOOK_EVERY: Duration = Duration::from_secs(10);
/// The pause before an engine that does not answer is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// What may happen to a container that concerns us.
const EVENTS: [&str; 7] = ["start", "die", "oom", "pause", "unpause", "destroy", "rename"];

/// What was seen of engine and container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// What is wrong with the engine.
    engine: Option<String>,
    /// What is wrong with the container.
    container: Option<String>,
    /// The container's id, if it ran and nothing was wrong with it.
    pub(crate) well: Option<String>,
    /// Which other container uses the data directory.
    pub(crate) foreign: Option<String>,
    /// Grows with every event: the container may have died and come back between two looks.
    events: u64,
}

impl Seen {
    pub(crate) fn at_start(trouble: Option<String>) -> Self {
        Self { engine: trouble, ..Self::default() }
    }

    pub(crate) fn trouble(&self) -> Option<String> {
        let troubles = [&self.foreign, &self.container, &self.engine];
        troubles.into_iter().find_map(Clone::clone)
    }
}

/// Watches until the driver is dropped.
pub(crate) async fn run(shared: Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        shared.look_at_all().await;
        let ended = shared.follow_events().await;
        if let Err(error) = ended {
            shared.note(|seen| seen.engine = Some(error.to_string()));
        }
        drop(shared);
        sleep(RETRY).await;
    }
}

impl Shared {
    /// Returns whether the engine does not do what it should.
    pub(crate) fn is_engine_away(&self) -> bool {
        self.seen.borrow().engine.is_some()
    }

    /// Follows events for as long as the connection holds; looks at everything at its beginning, after
    /// each event, and now and then. Returns for a fresh connection at least once a minute of silence.
    async fn follow_events(self: &Arc<Self>) -> Result<(), EngineError> {
        let docker = self.engine.call(ASK_LIMIT, |docker| async move { Ok(docker) }).await?;
        let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let filters = HashMap::from([
            ("type".to_owned(), list(&["container"])),
            ("event".to_owned(), list(&EVENTS)),
        ]);
        let options = EventsOptions { filters: Some(filters), ..Default::default() };
        let mut events = Box::pin(docker.events(Some(options)));
        let began = Instant::now();
        loop {
            match timeout(FULL_LOOK_EVERY, events.next()).await {
                Ok(Some(Ok(event))) => {
                    let actor = event.actor.unwrap_or_default();
                    let ours = self.remembered().container.id;
                    if actor.id == ours && ours.is_some() {
                        let action = event.action.unwrap_or_default();
                        info!(container = self.docker.container, action, "container event");
                        self.note(|seen| seen.events += 1);
                    }
                }
                Ok(Some(Err(error))) => return Err(self.engine.named(&error)),
                Ok(None) => return Ok(()),
                Err(_) => {}
            }
            // Whoever dropped the driver is not kept waiting for the engine.
            if Arc::strong_count(self) == 1 && began.elapsed() >= FULL_LOOK_EVERY {
                return Ok(());
            }
            self.look_at_all().await;
        }
    }

    /// Looks at the container and at who else uses its volume.
    async fn look_at_all(&self) {
        let name = &self.docker.container;
        let (engine, container, id) = match self.container().await {
            Ok(found) => {
                let state = found.state.clone().unwrap_or_default();
                let own = own::own_container(&self.engine).await;
                let wrong = own.as_ref().map_or_else(
                    |_| Vec::new(),
                    |own| faults(name, &found, own.as_ref(), &Places::of(&self.config)),
                );
                let container = if state.paused == Some(true) {
                    Some(format!("container {name} is paused"))
                } else if !wrong.is_empty() {
                    Some(wrong.join("; "))
                } else if lives(Some(&state)) {
                    None
                } else {
                    Some(format!("container {name} is not running"))
                };
                (own.err().map(|error| error.to_string()), container, found.id)
            }
            Err(EngineError::Missing(_)) => (None, Some(self.docker.missing()), None),
            Err(error) => {
                // What was known of the container stays known.
                self.note(|seen| seen.engine = Some(error.to_string()));
                return;
            }
        };
        let foreign = match self.running().await {
            Ok(running) => self.foreign_of(&running).await,
            Err(_) => self.seen.borrow().foreign.clone(),
        };
        self.note(|seen| {
            seen.well = id.filter(|_| container.is_none() && foreign.is_none());
            (seen.engine, seen.container, seen.foreign) = (engine, container, foreign);
        });
    }

    /// Notes what was seen; whoever waits for a change is woken only by one.
    fn note(&self, change: impl FnOnce(&mut Seen)) {
        self.seen.send_if_modified(|seen| {
            let before = seen.clone();
            change(seen);
            if before.trouble() != seen.trouble() {
                if let Some(reason) = seen.trouble() {
                    warn!(reason, "something is wrong with the Postgres container or its engine");
                } else {
                    info!("the Postgres container and its engine are well again");
                }
            }
            before != *seen
        });
    }
}
