//! Diverged WAL that this node keeps: where it is, what is in it, for how long.

use std::path::{Path, PathBuf};

use ha_core::WalPosition;
use ha_core::state::{Command, Divergence};
use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::DivergedReply;
use tokio::time::Duration;
use tonic::Status;
use tracing::{debug, info};

use crate::agent::Agent;
use crate::config::DivergedSettings;

/// The file that says what is in a kept piece; it is written last.
const SUMMARY: &str = "summary.json";
/// How long a copy stays that the cluster does not know.
const STRAY_AGE: Duration = Duration::from_secs(24 * 3600);
/// How long telling the cluster may take.
const SUBMIT_LIMIT: Duration = Duration::from_secs(5);

/// Returns the record of a piece of this node's WAL.
pub fn find<D: PostgresDriver>(
    agent: &Agent<D>,
    fork: WalPosition,
    end: WalPosition,
) -> Option<Divergence> {
    let state = agent.state();
    let same =
        |kept: &&Divergence| kept.node == *agent.node() && kept.fork == fork && kept.end == end;
    state.diverged.iter().find(same).cloned()
}

/// Returns where a piece is kept on its node.
#[must_use]
pub fn dir<D>(agent: &Agent<D>, kept: &Divergence) -> PathBuf {
    let Divergence { epoch, fork, end, .. } = kept;
    let name = format!("{epoch}-{}-{:X}-{:X}", end.timeline, fork.lsn.0, end.lsn.0);
    agent.config.data_dir.join("diverged").join(name)
}

/// Describes a piece that this node keeps, or drops it.
///
/// # Errors
/// `NotFound` if it is not this node's, `Internal` if the disk refuses.
pub async fn answer<D: PostgresDriver>(
    agent: &Agent<D>,
    id: u64,
    drop_it: bool,
) -> Result<DivergedReply, Status> {
    let state = agent.state();
    let kept = state.diverged.iter().find(|kept| kept.id == id && kept.node == *agent.node());
    let kept = kept.ok_or_else(|| {
        Status::not_found(format!("node {} keeps no diverged WAL with number {id}", agent.node()))
    })?;
    let place = dir(agent, kept);
    let shown = place.display().to_string();
    let done = tokio::task::spawn_blocking(move || {
        let there = place.is_dir();
        if drop_it {
            if there {
                std::fs::remove_dir_all(&place)?;
            }
            return Ok((there, String::new()));
        }
        let summary = match std::fs::read_to_string(place.join(SUMMARY)) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        Ok::<(bool, String), std::io::Error>((there, summary))
    });
    let (there, summary) = done
        .await
        .map_err(|error| Status::internal(error.to_string()))?
        .map_err(|error| Status::internal(format!("cannot use {shown}: {error}")))?;
    Ok(DivergedReply { kept: there, directory: shown, summary })
}

/// Removes what exceeds the bounds, the oldest first, and copies that the cluster does not know any more.
pub async fn tidy<D: PostgresDriver>(agent: &Agent<D>) {
    let state = agent.state();
    let own: Vec<(u64, PathBuf)> = state
        .diverged
        .iter()
        .filter(|kept| kept.node == *agent.node())
        .map(|kept| (kept.id, dir(agent, kept)))
        .collect();
    let root = agent.config.data_dir.join("diverged");
    let bounds = agent.config.diverged;
    let done = tokio::task::spawn_blocking(move || surplus(&root, &own, bounds)).await;
    let dropped = match done {
        Ok(Ok(dropped)) => dropped,
        Ok(Err(error)) => return debug!(%error, "could not look after the diverged WAL"),
        Err(error) => return debug!(%error, "could not look after the diverged WAL"),
    };
    for id in dropped {
        info!(id, "diverged WAL was dropped: it exceeds what is kept");
        if let Err(error) = agent.submit(Command::DropDivergence { id }, SUBMIT_LIMIT).await {
            debug!(id, %error, "could not drop the record of diverged WAL");
        }
    }
}

/// Removes copies beyond the bounds; returns the numbers of those that were known.
fn surplus(
    root: &Path,
    own: &[(u64, PathBuf)],
    bounds: DivergedSettings,
) -> std::io::Result<Vec<u64>> {
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        // Forgotten by the cluster: newer ones have taken its place. An agent that has just started may
        // know less than the cluster does.
        let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
        if age >= STRAY_AGE && !own.iter().any(|(_, known)| *known == path) {
            std::fs::remove_dir_all(&path)?;
        }
    }
    let (mut kept, mut bytes, mut dropped) = (0, 0_u64, Vec::new());
    for (id, path) in own.iter().rev() {
        let size = size(path)?;
        kept += 1;
        bytes = bytes.saturating_add(size);
        // The newest stays, however large it is.
        if kept > 1 && (kept > bounds.keep_max || bytes > bounds.bytes_max) {
            if path.is_dir() {
                std::fs::remove_dir_all(path)?;
            }
            dropped.push(*id);
        }
    }
    Ok(dropped)
}

fn size(dir: &Path) -> std::io::Result<u64> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    entries.map(|entry| Ok(entry?.metadata()?.len())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_copies_are_dropped_first_and_the_newest_never() {
        let root = tempfile::tempdir().expect("a directory");
        let make = |name: &str, bytes: usize| {
            let dir = root.path().join(name);
            std::fs::create_dir(&dir).expect("writable");
            std::fs::write(dir.join("wal"), vec![0; bytes]).expect("writable");
            dir
        };
        let own = [(1, make("a", 10)), (2, make("b", 10)), (3, make("c", 500))];
        let (stray, young) = (make("stray", 1), make("young", 1));
        let long_ago = std::time::SystemTime::UNIX_EPOCH;
        std::fs::File::open(&stray).and_then(|dir| dir.set_modified(long_ago)).expect("ours");
        let bounds = |keep_max, bytes_max| DivergedSettings { keep_max, bytes_max };
        let done = surplus(root.path(), &own, bounds(8, 10_000)).expect("readable");
        assert_eq!(done, Vec::<u64>::new());
        assert!(!stray.exists() && young.exists(), "nobody has known it for a day");
        assert_eq!(surplus(root.path(), &own, bounds(2, 10_000)).expect("readable"), [1]);
        assert!(!own[0].1.exists() && own[1].1.exists());
        assert_eq!(surplus(root.path(), &own[1..], bounds(8, 100)).expect("readable"), [2]);
        assert!(own[2].1.exists(), "the newest stays");
        let missing = root.path().join("none");
        assert_eq!(
            surplus(&missing, &own, bounds(1, 1)).expect("nothing there"),
            Vec::<u64>::new()
        );
    }
}
