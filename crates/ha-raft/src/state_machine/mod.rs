//! The applied state, and its snapshots.
//!
//! The state is small and lives in memory; what survives a restart is the last snapshot plus the
//! committed entries after it, which openraft applies again. Whoever wants to see it subscribes:
//! after every batch the whole state is published, *before* the proposers get their answers and
//! before openraft counts the entries as applied. So who was told that entry 7 is applied finds a
//! state that is at least that new.

use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use ha_core::state::{Outcome, State};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::watch;

use crate::types::{LogId, SnapshotMeta, StoredMembership, TypeConfig};

pub mod snapshot;

use snapshot::{Content, Snapshots};

/// A snapshot with its content, as openraft passes it around.
pub type Snapshot = openraft::alias::SnapshotOf<TypeConfig, String>;

/// The replicated state at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The state.
    pub state: State,
    /// The log index of the last entry that is in it. 0 before the first: entry 0 is the
    /// membership, which carries no command.
    pub index: u64,
}

/// What openraft applies entries to.
#[derive(Debug)]
pub struct StateMachine {
    last_applied: Option<LogId>,
    membership: StoredMembership,
    state: State,
    publish: watch::Sender<Arc<Applied>>,
    snapshots: Arc<Snapshots>,
}

impl StateMachine {
    /// Returns the state machine as the current snapshot has it, and where its state is published.
    #[must_use]
    pub fn new(snapshots: Snapshots) -> (Self, watch::Receiver<Arc<Applied>>) {
        let (publish, published) = watch::channel(Arc::default());
        let mut machine = Self {
            last_applied: None,
            membership: StoredMembership::default(),
            state: State::default(),
            publish,
            snapshots: Arc::new(snapshots),
        };
        if let Some(content) = machine.snapshots.content() {
            machine.replace(content);
        }
        (machine, published)
    }

    fn replace(&mut self, content: Content) {
        self.last_applied = content.last_log_id;
        self.membership = content.membership;
        self.state = content.state;
        self.publish();
    }

    fn publish(&self) {
        let index = self.last_applied.map_or(0, |id| id.index);
        self.publish.send_replace(Arc::new(Applied { state: self.state.clone(), index }));
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = String;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<Entries>(&mut self, mut entries: Entries) -> io::Result<()>
    where
        Entries: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut answers = Vec::new();
        let mut result = Ok(());
        while let Some(item) = entries.next().await {
            let (entry, responder) = match item {
                Ok(item) => item,
                Err(e) => {
                    result = Err(e);
                    break;
                }
            };
            let outcome = match entry.payload {
                EntryPayload::Blank => Outcome::Applied,
                EntryPayload::Normal(proposal) => self.state.apply(&proposal.0),
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Outcome::Applied
                }
            };
            self.last_applied = Some(entry.log_id);
            answers.extend(responder.map(|responder| (responder, outcome)));
        }
        self.publish();
        for (responder, outcome) in answers {
            responder.send(outcome);
        }
        result
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            content: Content::new(self.last_applied, self.membership.clone(), self.state.clone()),
            snapshots: Arc::clone(&self.snapshots),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, text: String) -> io::Result<()> {
        let content = snapshot::decode(&text)
            .map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what))?;
        if content.last_log_id != meta.last_log_id {
            let what = "the snapshot does not reach as far as its sender says";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        save(&self.snapshots, content.clone(), text).await?;
        self.replace(content);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.snapshots.current())
    }
}

/// Writes one state as a snapshot.
#[derive(Debug)]
pub struct Builder {
    content: Content,
    snapshots: Arc<Snapshots>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = String;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let text = snapshot::encode(&self.content);
        save(&self.snapshots, self.content.clone(), text.clone()).await?;
        Ok(Snapshot { meta: self.content.meta(), snapshot: text })
    }
}

/// Saves a snapshot on a thread that may block.
async fn save(snapshots: &Arc<Snapshots>, content: Content, text: String) -> io::Result<()> {
    let snapshots = Arc::clone(snapshots);
    tokio::task::spawn_blocking(move || snapshots.put(content, text))
        .await
        .map_err(io::Error::other)?
        .map_err(io::Error::other)
}
