//! Which files there are, and how much of each.

use std::fmt::Write as _;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use ha_core::clock::millis;
use ha_postgres::driver::PostgresDriver;

use super::{About, ReaderGone, Sink, machine, server_log, shown};
use crate::agent::{Agent, lock};
use crate::config::PostgresSettings;
use crate::{oplog, recent_log, report};

/// How much of all server logs together, and of any other log.
const SERVER_LOG_BYTES_MAX: usize = 2 << 20;
const LOG_BYTES_MAX: usize = 512 << 10;
/// How much of a file of settings or the like.
const SMALL_BYTES_MAX: usize = 256 << 10;
/// What is read beyond that, so that a secret is not cut from what tells it.
const MARGIN: usize = 64 << 10;
/// How many entries of a directory are looked at.
const ENTRIES_MAX: usize = 5000;
/// How many logs of operations, the latest.
const OPERATIONS_MAX: usize = 200;

/// What users wrote is no help, and nobody else's business.
const NO_USER_DATA: &str =
    "what users' programs wrote: statements, parameters, messages with their values";
/// Of the data directory beside `*.conf`: what says how the server was started and will start.
const DATA_FILES: [&str; 6] = [
    "PG_VERSION",
    "postmaster.pid",
    "postmaster.opts",
    "standby.signal",
    "recovery.signal",
    "backup_label",
];

type Sent = Result<(), ReaderGone>;

/// Sends everything.
pub(super) fn everything<D: PostgresDriver>(
    agent: &Agent<D>,
    since_unix_ms: u64,
    sink: &mut Sink,
) -> Sent {
    memory(agent, since_unix_ms, sink)?;
    operations(&agent.config.data_dir, since_unix_ms, sink)?;
    if let Some(settings) = &agent.config.postgres {
        permits(&settings.permit_dir, sink)?;
        configuration(settings, sink)?;
        logs(settings, since_unix_ms, sink)?;
    }
    if let Some(database) = &agent.database {
        listing("postgres/pg_wal.txt", &database.driver.wal_dir(), sink)?;
    }
    if let Some(witness) = &agent.config.witness {
        listing("witness/wal.txt", &witness.wal_dir, sink)?;
    }
    Ok(())
}

/// What the agent knows.
fn memory<D: PostgresDriver>(agent: &Agent<D>, since_unix_ms: u64, sink: &mut Sink) -> Sent {
    let from = |origin| About { origin, left_out: "" };
    sink.text("versions.txt", &from("the agent, and the kernel"), &machine::versions(agent))?;
    sink.text("time.txt", &from("the clocks of the machine"), &machine::clocks())?;
    sink.text("machine.txt", &from("statvfs, and /proc"), &machine::resources(agent))?;
    let settings = machine::settings(agent);
    let origin = "the configuration that the agent runs with, environment included";
    sink.text("agent/configuration.txt", &from(origin), &settings)?;
    let state = format!("{:#?}\n", agent.state());
    let origin = "the replicated state as applied on this node, parameters and events included";
    sink.text("agent/state.txt", &from(origin), &state)?;
    let raft = format!("{:#?}\n{:#?}\n", agent.raft.status(), *agent.raft.state().borrow());
    sink.text("agent/raft.txt", &from("the node's place in the Raft group"), &raft)?;
    let mut report = format!("{:#?}\n", report::local(agent));
    for (node, sighting) in lock(&agent.sightings).iter() {
        // Writing to a text cannot fail.
        writeln!(report, "\nthe latest of {node}:\n{sighting:#?}").ok();
    }
    let origin = "what the node reports of itself, and last heard of the others";
    sink.text("agent/reports.txt", &from(origin), &report)?;
    let (records, dropped) = recent_log::since(since_unix_ms);
    let origin = "the agent's log of this run, as kept in memory";
    let left_out = match dropped {
        0 => String::new(),
        dropped => format!("{dropped} older records, which are not kept in memory"),
    };
    let about = About { origin, left_out: &left_out };
    sink.text("agent/log.txt", &about, &records.concat())
}

/// The logs of operations that ran on this node.
fn operations(data_dir: &Path, since_unix_ms: u64, sink: &mut Sink) -> Sent {
    let dir = oplog::directory(data_dir);
    let found = match entries(&dir) {
        Ok(found) => found,
        // Nothing ever ran here.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return sink.absent("operations", &shown(&dir), &error.to_string()),
    };
    // The names begin with the time.
    let recent = |name: &str| {
        let began = name.split('-').next().and_then(|began| began.parse::<u64>().ok());
        began.is_some_and(|began| began >= since_unix_ms)
    };
    let wanted: Vec<_> = found.iter().rev().filter(|(name, ..)| recent(name)).collect();
    for (name, path, _) in wanted.into_iter().take(OPERATIONS_MAX) {
        small(&format!("operations/{name}"), path, sink)?;
    }
    Ok(())
}

/// What agent and guard say to each other.
fn permits(dir: &Path, sink: &mut Sink) -> Sent {
    let found = match entries(dir) {
        Ok(found) => found,
        Err(error) => return sink.absent("guard", &shown(dir), &error.to_string()),
    };
    for (name, path, about) in found {
        if about.is_file() {
            small(&format!("guard/{name}"), &path, sink)?;
        }
    }
    Ok(())
}

/// The server's own settings.
fn configuration(settings: &PostgresSettings, sink: &mut Sink) -> Sent {
    let dir = &settings.data_dir;
    listing("postgres/data_dir.txt", dir, sink)?;
    let found = match entries(dir) {
        Ok(found) => found,
        Err(error) => return sink.absent("postgres", &shown(dir), &error.to_string()),
    };
    for (name, path, about) in found {
        let is_conf = Path::new(&name).extension().is_some_and(|extension| extension == "conf");
        if about.is_file() && (is_conf || DATA_FILES.contains(&name.as_str())) {
            small(&format!("postgres/{name}"), &path, sink)?;
        }
    }
    Ok(())
}

/// The logs of the server, and of the guard beside it.
fn logs(settings: &PostgresSettings, since_unix_ms: u64, sink: &mut Sink) -> Sent {
    let dirs =
        [("logs", settings.log_dir.clone()), ("postgres/log", settings.log_dir.join("postgresql"))];
    for (folder, dir) in dirs {
        let mut found = match entries(&dir) {
            Ok(found) => found,
            Err(error) => {
                sink.absent(folder, &shown(&dir), &error.to_string())?;
                continue;
            }
        };
        found.retain(|(_, _, about)| about.is_file());
        found.sort_by_key(|(_, _, about)| std::cmp::Reverse(changed_unix_ms(about)));
        let is_server = folder == "postgres/log";
        let mut left = SERVER_LOG_BYTES_MAX;
        for (name, path, about) in found {
            let file = format!("{folder}/{name}");
            let extension = path.extension().unwrap_or_default();
            if extension == "csv" || extension == "json" {
                let why = format!("of this format nothing is taken: it holds {NO_USER_DATA}");
                sink.absent(&file, &shown(&path), &why)?;
            } else if changed_unix_ms(&about) < since_unix_ms {
                sink.absent(&file, &shown(&path), "nothing was added since then")?;
            } else if left == 0 {
                let why =
                    format!("of the server's log at most {SERVER_LOG_BYTES_MAX} bytes are taken");
                sink.absent(&file, &shown(&path), &why)?;
            } else {
                let most = if is_server { left } else { LOG_BYTES_MAX };
                let sent = log(&file, &path, most, sink)?;
                if is_server {
                    left = left.saturating_sub(sent);
                }
            }
        }
    }
    Ok(())
}

/// Sends the end of a log that PostgreSQL may have written to. Returns how much.
fn log(file: &str, path: &Path, most: usize, sink: &mut Sink) -> Result<usize, ReaderGone> {
    let (text, cut) = match tail(path, most + MARGIN) {
        Ok(read) => read,
        Err(error) => {
            sink.absent(file, &shown(path), &error.to_string())?;
            return Ok(0);
        }
    };
    let text = sink.redactor.text(&server_log::without_data(from_a_record(&text, cut)));
    let kept = text
        .get(text.len().saturating_sub(most)..)
        .map_or(text.as_str(), |end| from_a_record(end, end.len() < text.len()));
    let mut left_out = NO_USER_DATA.to_owned();
    if cut || kept.len() < text.len() {
        write!(left_out, "; all but the last {} bytes", kept.len()).ok();
    }
    sink.text(file, &About { origin: &shown(path), left_out: &left_out }, kept)?;
    Ok(kept.len().max(1))
}

/// Drops what is left of a record whose beginning was cut off.
fn from_a_record(text: &str, cut: bool) -> &str {
    if !cut {
        return text;
    }
    let mut rest = text;
    while let Some((_, next)) = rest.split_once('\n') {
        rest = next;
        if !rest.starts_with('\t') {
            return rest;
        }
    }
    ""
}

/// Sends a file that is small; of a large one its end.
fn small(file: &str, path: &Path, sink: &mut Sink) -> Sent {
    match tail(path, SMALL_BYTES_MAX) {
        Err(error) => sink.absent(file, &shown(path), &error.to_string()),
        Ok((text, cut)) => {
            let left_out = if cut { "its beginning" } else { "" };
            let about = About { origin: &shown(path), left_out };
            sink.text(file, &about, from_a_record(&text, cut))
        }
    }
}

/// Sends the names and sizes of a directory's entries.
fn listing(file: &str, dir: &Path, sink: &mut Sink) -> Sent {
    let found = match entries(dir) {
        Ok(found) => found,
        Err(error) => return sink.absent(file, &shown(dir), &error.to_string()),
    };
    let mut text = String::new();
    for (name, _, about) in &found {
        let kind = if about.is_dir() { "/" } else { "" };
        writeln!(text, "{} {} {name}{kind}", changed_unix_ms(about), about.len()).ok();
    }
    let left_out = if found.len() < ENTRIES_MAX { "" } else { "further entries" };
    let origin = format!("{}: changed (milliseconds of Unix time), bytes, name", dir.display());
    sink.text(file, &About { origin: &origin, left_out }, &text)
}

/// Returns a directory's entries with names that may be told, by name.
fn entries(dir: &Path) -> io::Result<Vec<(String, PathBuf, Metadata)>> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)?.take(ENTRIES_MAX) {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Ok(about) = fs::symlink_metadata(entry.path()) else { continue };
        if name.chars().all(plain) && !name.starts_with('.') {
            found.push((name, entry.path(), about));
        }
    }
    found.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    Ok(found)
}

fn changed_unix_ms(about: &Metadata) -> u64 {
    let changed = about.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    changed.map_or(0, millis)
}

/// Reads at most so much of a file's end. Also returns whether there is more before it.
fn tail(path: &Path, most: usize) -> io::Result<(String, bool)> {
    // A pipe would never end.
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let start = bytes.saturating_sub(most as u64);
    file.seek(SeekFrom::Start(start))?;
    let mut read = Vec::new();
    file.take(most as u64).read_to_end(&mut read)?;
    Ok((String::from_utf8_lossy(&read).into_owned(), start > 0))
}
