//! What a person who helps needs of this node: its logs, settings, permits, as files without secrets.
//!
//! Only files and what the agent has in memory are read, so that it works with a database that is down, frozen or
//! refuses logins. Secrets are removed here, before anything leaves the node (`ha_core::redact`); what users'
//! programs wrote into the database's log is left out ([`server_log`]).

mod collect;
mod machine;
mod secrets;
pub mod server_log;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ha_core::redact::Redactor;
use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::SupportChunk;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::agent::Agent;

/// How much goes into one message.
const CHUNK: usize = 64 << 10;
/// How many messages wait for a slow reader, and how long it may take for one.
const CHUNKS_WAITING: usize = 4;
const READER_LIMIT: Duration = Duration::from_secs(20);
/// How much one node sends in all, and in how many files.
const BYTES_MAX: usize = 64 << 20;
const FILES_MAX: usize = 1000;

/// Begins to send this node's files. It ends when the reader goes away.
///
/// # Errors
/// `ResourceExhausted` while another bundle is being collected here.
pub(crate) fn send<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    since_unix_ms: u64,
) -> Result<ReceiverStream<Result<SupportChunk, Status>>, Status> {
    let busy = |_| Status::resource_exhausted("another bundle is being collected on this node");
    let turn = Arc::clone(&agent.collecting).try_acquire_owned().map_err(busy)?;
    let (sender, receiver) = mpsc::channel(CHUNKS_WAITING);
    let agent = Arc::clone(agent);
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        let redactor = Redactor::knowing(secrets::known(&agent.config).iter().map(String::as_str));
        let mut sink = Sink { sender, runtime, redactor, files: 0, bytes: 0 };
        // The reader went away: there is nobody who could be told.
        collect::everything(&agent, since_unix_ms, &mut sink).ok();
        drop(turn);
    });
    Ok(ReceiverStream::new(receiver))
}

/// The reader went away, or takes nothing any more.
#[derive(Debug)]
struct ReaderGone;

/// What becomes of a file.
#[derive(Debug, Default)]
struct About<'a> {
    /// Where it comes from.
    origin: &'a str,
    /// What of it is left out, and why; empty for nothing.
    left_out: &'a str,
}

/// Takes files, removes secrets, and sends them.
struct Sink {
    sender: mpsc::Sender<Result<SupportChunk, Status>>,
    runtime: Handle,
    redactor: Redactor,
    files: usize,
    bytes: usize,
}

impl Sink {
    /// Sends a text as a file, without secrets.
    fn text(&mut self, file: &str, about: &About<'_>, text: &str) -> Result<(), ReaderGone> {
        let text = self.redactor.text(text);
        self.clean(file, about, text.as_bytes())
    }

    /// Says that there is no such file, and why.
    fn absent(&mut self, file: &str, origin: &str, why: &str) -> Result<(), ReaderGone> {
        let (origin, left_out) = (self.redactor.text(origin), self.redactor.text(why));
        let file = file.to_owned();
        self.put(SupportChunk { file, origin, left_out, absent: true, ..SupportChunk::default() })
    }

    fn clean(&mut self, file: &str, about: &About<'_>, data: &[u8]) -> Result<(), ReaderGone> {
        if self.files >= FILES_MAX || self.bytes + data.len() > BYTES_MAX {
            let max = BYTES_MAX >> 20;
            let why = format!("a node sends at most {FILES_MAX} files and {max} MiB");
            return self.absent(file, about.origin, &why);
        }
        self.files += 1;
        self.bytes += data.len();
        let mut parts = data.chunks(CHUNK);
        let file = file.to_owned();
        self.put(SupportChunk {
            file: file.clone(),
            data: parts.next().unwrap_or_default().to_vec(),
            origin: self.redactor.text(about.origin),
            left_out: self.redactor.text(about.left_out),
            absent: false,
        })?;
        parts.try_for_each(|part| {
            let (file, data) = (file.clone(), part.to_vec());
            self.put(SupportChunk { file, data, ..SupportChunk::default() })
        })
    }

    fn put(&self, chunk: SupportChunk) -> Result<(), ReaderGone> {
        let send = async { timeout(READER_LIMIT, self.sender.send(Ok(chunk))).await };
        let sent = self.runtime.block_on(send);
        if matches!(sent, Ok(Ok(()))) { Ok(()) } else { Err(ReaderGone) }
    }
}

/// Returns a path as an origin is shown.
fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests;
