//! `haclt config edit`.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use super::lines;
use super::several::carry_out;
use crate::client::AdminClient;
use crate::commands::order::Waiting;
use crate::render::prose;
use crate::reply::config::ConfigItem;
use crate::{CliError, ExitCode, Streams};

/// The keys that can be edited together: each other one has an order of its own.
const EDITABLE: &str = "postgres.";

/// Edit the keys of PostgreSQL in an editor, and change them together
///
/// Opens `$VISUAL`, else `$EDITOR`, else vi on lines `key = value`. Nothing is changed if nothing was edited, or
/// if somebody else changed the configuration meanwhile: then exit code 3, and the file stays.
#[derive(Debug, Args)]
pub(super) struct Edit {
    #[command(flatten)]
    waiting: Waiting,
}

impl Edit {
    pub(super) async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        let answer = client.configuration().await?;
        prose::tell(&answer, streams);
        let version = answer.reply.version;
        let before: BTreeMap<String, String> = answer
            .reply
            .items
            .into_iter()
            .filter(|item| item.key.starts_with(EDITABLE))
            .map(|ConfigItem { key, value, .. }| (key, value))
            .collect();
        let path = place();
        let after = edited(&path, &text(&answer.cluster, version, &before))?;
        let changes = lines::difference(&before, &after);
        if changes.is_empty() {
            let _gone = fs::remove_file(&path);
            streams.emit("unchanged: nothing was edited\n")?;
            return Ok(ExitCode::Done);
        }
        let done = carry_out(client, streams, &changes, Some(version), &self.waiting).await;
        match done {
            Ok(_) => {
                let _gone = fs::remove_file(&path);
            }
            Err(_) => streams.note(&format!("note: what was edited is in {}", path.display())),
        }
        done
    }
}

fn text(cluster: &str, version: u64, values: &BTreeMap<String, String>) -> String {
    let mut text = format!(
        "# Cluster {cluster}, version {version} of its configuration. One `key = value` a line:\n\
         # postgres.parameters.NAME  of every server\n\
         # postgres.primary.NAME     of the primary\n\
         # postgres.standby.NAME     of a standby\n\
         # postgres.hba.NNN          a rule of pg_hba.conf, in the order of the numbers\n\
         # A line that is taken out is unset.\n\n"
    );
    text.extend(values.iter().map(|(key, value)| lines::line(key, value)));
    text
}

/// A name that nobody else can guess.
fn place() -> PathBuf {
    let number = RandomState::new().build_hasher().finish();
    std::env::temp_dir().join(format!("haclt-config-{number:016x}.conf"))
}

/// Has the user edit a text; returns what it says then.
fn edited(path: &Path, text: &str) -> Result<BTreeMap<String, String>, CliError> {
    let named = |name| std::env::var(name).ok().filter(|program| !program.trim().is_empty());
    let program = named("VISUAL").or_else(|| named("EDITOR")).unwrap_or_else(|| "vi".to_owned());
    let failed = |why: String| CliError::Editor { program: program.clone(), why };
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())
    };
    write().map_err(|error| failed(format!("{}: {error}", path.display())))?;
    // As every program does: the variable may hold options, too.
    let command = format!("{program} \"$1\"");
    let status = Command::new("/bin/sh").args(["-c", &command, "sh"]).arg(path).status();
    let status = status.map_err(|error| failed(error.to_string()))?;
    if !status.success() {
        let _gone = fs::remove_file(path);
        return Err(failed(status.to_string()));
    }
    let what = path.display().to_string();
    let read = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    lines::parse(&read).map_err(|faults| CliError::BadLines { what, faults })
}
