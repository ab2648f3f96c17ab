//! WAL from node to node: what one has kept, and another needs.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use ha_core::{NodeId, WalPosition};
use ha_postgres::driver::PostgresDriver;
use ha_postgres::wal::files::{self, Piece, serve};
use ha_proto::v1::{FetchWalRequest, ListWalRequest, WalChunk, WalPiece};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::agent::Agent;

/// How much of a file goes into one message.
const CHUNK: usize = 256 << 10;
/// How many messages wait for a slow reader.
const CHUNKS_WAITING: usize = 4;
/// How long listing what a node has may take.
pub const LIST_LIMIT: Duration = Duration::from_secs(5);
/// How long one file may take.
const FILE_LIMIT: Duration = Duration::from_secs(60);
/// A file longer than any segment.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// The stream of one file.
pub type Chunks =
    Pin<Box<dyn tokio_stream::Stream<Item = Result<WalChunk, Status>> + Send + 'static>>;

/// Returns this node's directory with WAL that may be given away.
fn source<D: PostgresDriver>(agent: &Agent<D>) -> Option<PathBuf> {
    match (&agent.database, &agent.witness) {
        (Some(database), _) => Some(database.driver.wal_dir()),
        (None, Some(witness)) => Some(witness.settings.wal_dir.clone()),
        (None, None) => None,
    }
}

/// Lists the files that a node at `from` needs to replay up to `to`.
///
/// # Errors
/// `NotFound` if some are not here, in one line.
pub async fn list<D: PostgresDriver>(
    agent: &Agent<D>,
    from: WalPosition,
    to: WalPosition,
) -> Result<Vec<Piece>, Status> {
    let Some(dir) = source(agent) else {
        return Err(Status::not_found(format!("node {} keeps no WAL", agent.node())));
    };
    let listed = tokio::task::spawn_blocking(move || {
        let history = files::read_history(&dir, to.timeline)?;
        serve(&dir, from, to, &history)
    });
    let listed = listed.await.map_err(|error| Status::internal(error.to_string()))?;
    listed.map_err(|error| Status::not_found(error.to_string()))
}

/// Turns a piece into what travels.
#[must_use]
pub fn to_wire(piece: &Piece) -> WalPiece {
    WalPiece { name: piece.name.clone(), bytes: piece.bytes, file_bytes: piece.segment_bytes }
}

/// Sends one file of this node's WAL.
///
/// # Errors
/// `InvalidArgument` for a name that is none, `NotFound` if there is no such file.
pub fn send<D: PostgresDriver>(
    agent: &Agent<D>,
    request: &FetchWalRequest,
) -> Result<Chunks, Status> {
    let plain = |b: u8| b.is_ascii_hexdigit() && !b.is_ascii_lowercase();
    let stem = request.name.strip_suffix(".history").unwrap_or(&request.name);
    if !matches!(stem.len(), 8 | 24) || !stem.bytes().all(plain) {
        return Err(Status::invalid_argument(format!("{:?} is no WAL file", request.name)));
    }
    let Some(dir) = source(agent) else {
        return Err(Status::not_found(format!("node {} keeps no WAL", agent.node())));
    };
    let names = [request.name.clone(), format!("{}.partial", request.name)];
    let opened = names.iter().find_map(|name| std::fs::File::open(dir.join(name)).ok());
    let file = opened.ok_or_else(|| {
        Status::not_found(format!("node {} has no {}", agent.node(), request.name))
    })?;
    let (sender, receiver) = mpsc::channel(CHUNKS_WAITING);
    let bytes = request.bytes;
    tokio::task::spawn_blocking(move || {
        let mut file = file.take(bytes);
        let mut buffer = vec![0; CHUNK];
        loop {
            let chunk = match file.read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => Ok(WalChunk { data: buffer.get(..read).unwrap_or(&[]).to_vec() }),
                Err(error) => Err(Status::internal(error.to_string())),
            };
            let failed = chunk.is_err();
            // The reader went away: nothing is left to do.
            if sender.blocking_send(chunk).is_err() || failed {
                return;
            }
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

/// Asks `source` for the files between two positions.
///
/// # Errors
/// Why it has none, in one line.
pub async fn list_at<D: PostgresDriver>(
    agent: &Agent<D>,
    source: &NodeId,
    from: WalPosition,
    to: WalPosition,
) -> Result<Vec<WalPiece>, String> {
    let request = ListWalRequest {
        cluster: agent.config.cluster.clone(),
        from_node: agent.node().to_string(),
        from: Some(from.into()),
        to: Some(to.into()),
    };
    let listed = agent.peers.list_wal(source, request, LIST_LIMIT).await;
    Ok(listed.map_err(|error| error.to_string())?.pieces)
}

/// Fetches one file from `source` and puts it into `dir` under its name, whole or not at all: zeros
/// follow what the source has of it. A file that is there already is replaced.
///
/// # Errors
/// Why it could not be had, in one line.
pub async fn fetch<D: PostgresDriver>(
    agent: &Agent<D>,
    source: &NodeId,
    piece: &WalPiece,
    dir: &Path,
) -> Result<PathBuf, String> {
    if piece.file_bytes > FILE_BYTES_MAX || piece.bytes > piece.file_bytes {
        return Err(format!("{source} gave {} an impossible size", piece.name));
    }
    if piece.name.contains(['/', '\\']) || piece.name.starts_with('.') {
        return Err(format!("{source} gave {:?} as the name of a WAL file", piece.name));
    }
    let request = FetchWalRequest {
        cluster: agent.config.cluster.clone(),
        from_node: agent.node().to_string(),
        name: piece.name.clone(),
        bytes: piece.bytes,
    };
    let place = dir.to_owned();
    blocking(move || std::fs::create_dir_all(place)).await?;
    let target = dir.join(&piece.name);
    let temporary = dir.join(format!(".{}.new", piece.name));
    let work = write(agent, source, request, piece, &temporary);
    let done = tokio::time::timeout(FILE_LIMIT, work).await;
    done.map_err(|_| format!("{source} did not send {} in time", piece.name))??;
    let renamed = target.clone();
    blocking(move || std::fs::rename(&temporary, &renamed)).await?;
    Ok(target)
}

/// Moves a fetched file to where a server takes it from, as that server's own.
///
/// # Errors
/// If it cannot be moved, in one line.
pub async fn place(file: &Path, dir: &Path) -> Result<(), String> {
    let (file, dir) = (file.to_owned(), dir.to_owned());
    blocking(move || {
        own_like(&file, &dir)?;
        std::fs::rename(&file, dir.join(file.file_name().unwrap_or_default()))
    })
    .await
}

/// Fetches everything between two positions from `source` into `dir`, made empty first. Returns the
/// segments.
///
/// # Errors
/// Why it could not be had, in one line.
pub async fn fetch_all<D: PostgresDriver>(
    agent: &Agent<D>,
    source: &NodeId,
    from: WalPosition,
    to: WalPosition,
    dir: &Path,
) -> Result<Vec<PathBuf>, String> {
    let pieces = list_at(agent, source, from, to).await?;
    let place = dir.to_owned();
    blocking(move || {
        if place.exists() {
            std::fs::remove_dir_all(&place)?;
        }
        std::fs::create_dir_all(&place)
    })
    .await?;
    let mut files = Vec::new();
    // The last one holds the fork: there the local file goes on differently.
    for piece in pieces.iter().filter(|piece| piece.bytes == piece.file_bytes) {
        let path = fetch(agent, source, piece, dir).await?;
        if !piece.name.ends_with(".history") {
            files.push(path);
        }
    }
    Ok(files)
}

async fn write<D: PostgresDriver>(
    agent: &Agent<D>,
    source: &NodeId,
    request: FetchWalRequest,
    piece: &WalPiece,
    temporary: &Path,
) -> Result<(), String> {
    let mut stream =
        agent.peers.fetch_wal(source, request, LIST_LIMIT).await.map_err(|e| e.to_string())?;
    let path = temporary.to_owned();
    let mut file = blocking(move || std::fs::File::create(path)).await?;
    let mut received = 0_u64;
    while let Some(chunk) = stream.message().await.map_err(|status| status.message().to_owned())? {
        received += chunk.data.len() as u64;
        file = blocking(move || {
            file.write_all(&chunk.data)?;
            Ok(file)
        })
        .await?;
    }
    if received != piece.bytes {
        return Err(format!(
            "{source} sent {received} bytes of {}, promised were {}",
            piece.name, piece.bytes
        ));
    }
    let whole = piece.file_bytes;
    blocking(move || {
        file.set_len(whole)?;
        file.sync_all()
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

/// The server that reads it may run as somebody else.
fn own_like(path: &Path, dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let (wanted, own) = (std::fs::metadata(dir)?, std::fs::metadata(path)?);
    if (own.uid(), own.gid()) == (wanted.uid(), wanted.gid()) {
        return Ok(());
    }
    std::os::unix::fs::chown(path, Some(wanted.uid()), Some(wanted.gid()))
}
