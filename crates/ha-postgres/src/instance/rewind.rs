//! Rewinding a diverged data directory.

use std::time::Duration;

use ha_core::ancestry::{Relation, compare};
use tokio::time::sleep;
use tracing::info;

use super::directory::{local_history, remove_file, write_file};
use super::{Changing, Instance, settings};
use crate::attempt::Attempt;
use crate::driver::{
    ActionError, ControlState, DataDir, Effect, HalfMade, Upstream, UpstreamHistory,
};
use crate::tool::ToolError;

const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Instance {
    /// Compares first: what is not diverged is only configured to follow.
    pub(super) async fn rewind_to(
        &self,
        upstream: &Upstream,
        attempt: &Attempt,
    ) -> Result<(), ActionError> {
        let changing = self.change(attempt).await?;
        let repeated = match self.look(attempt.deadline()).await {
            DataDir::Present(_) => false,
            DataDir::HalfMade(HalfMade::Rewind) => true,
            other => return Err(attempt.cannot(format!("the data directory is {other:?}"))),
        };
        if repeated && !self.layout.in_data("global/pg_control").exists() {
            return Err(
                attempt.cannot("the directory that was being rewound is not there any more")
            );
        }
        let control = self.read_control(attempt).await?;
        let source = self.rewindable_source(upstream, attempt).await?;
        if source.system_identifier != control.system_identifier {
            return Err(attempt.cannot(format!(
                "it is another database cluster: {} there, {} here",
                source.system_identifier, control.system_identifier
            )));
        }
        if !repeated {
            match self.relation(&source, attempt).await? {
                Relation::Ancestor => {
                    info!(upstream = %upstream.node, "nothing to rewind");
                    self.ensure_slot_on(upstream, attempt).await?;
                    return self.configure(Some(upstream), true, &changing, attempt).await;
                }
                Relation::Unrelated => return Err(attempt.cannot("the histories share nothing")),
                Relation::Diverged { fork } => {
                    info!(upstream = %upstream.node, %fork, "diverged data directory to be rewound");
                }
            }
            if control.state != ControlState::ShutDown {
                self.recover(&changing, attempt).await?;
            }
        }
        // Before it takes long: from here on the upstream keeps the WAL that is needed afterwards. And
        // once the rewind is done, nothing is left that needs the upstream.
        self.ensure_slot_on(upstream, attempt).await?;
        self.run_rewind(upstream, repeated, &changing, attempt).await?;
        self.configure(Some(upstream), true, &changing, attempt).await?;
        self.file_work(&changing, attempt, |_, layout| layout.clear_mark()).await
    }

    /// Waits until the upstream is a primary that was checkpointed after its promotion: before that
    /// its control file still tells of the old timeline (rules 54 and 59).
    async fn rewindable_source(
        &self,
        upstream: &Upstream,
        attempt: &Attempt,
    ) -> Result<UpstreamHistory, ActionError> {
        loop {
            let source = self.ask_history(upstream, attempt).await?;
            if source.writable && source.checkpoint_on_timeline {
                return Ok(source);
            }
            if attempt.left().is_zero() {
                return Err(attempt.timed_out());
            }
            sleep(LOOK_EVERY.min(attempt.left())).await;
        }
    }

    async fn relation(
        &self,
        source: &UpstreamHistory,
        attempt: &Attempt,
    ) -> Result<Relation, ActionError> {
        let end = self.find_end_of_wal(attempt).await?;
        let history = local_history(&self.layout).map_err(|why| attempt.cannot(why))?;
        let relation = compare(end, &history, source.timeline, &source.switches, source.flushed);
        // pg_rewind believes that equal numbers mean one timeline, and would do nothing.
        let same_number = end.timeline == source.timeline;
        if same_number && matches!(relation, Relation::Diverged { .. }) {
            return Err(attempt.cannot(format!("both wrote a timeline {}", end.timeline)));
        }
        Ok(relation)
    }

    /// Recovers in single-user mode, so that everything that is to be rewound is seen.
    ///
    /// A directory that last ran as a standby is recovered too, as if it had crashed: `pg_rewind`
    /// looks at what such a one has *replayed*, but it would replay all that it has received.
    /// Archiving must fail meanwhile: no segment of the abandoned branch may leave (rule 46). And no
    /// segment may go: `pg_rewind` reads back to the last checkpoint before the fork.
    async fn recover(&self, changing: &Changing, attempt: &Attempt) -> Result<(), ActionError> {
        if self.layout.in_data("backup_label").exists() {
            return Err(attempt.cannot("it is a clone that was never started"));
        }
        let removed = self.file_work(changing, attempt, |_, layout| {
            remove_file(&layout.in_data("standby.signal"))?;
            remove_file(&layout.in_data("recovery.signal"))
        });
        removed.await?;
        let keep = [
            "archive_mode=on",
            "archive_command=false",
            "archive_library=",
            "wal_keep_size=1000000GB",
        ];
        self.single_user(String::new(), &keep, changing, attempt).await
    }

    async fn run_rewind(
        &self,
        upstream: &Upstream,
        repeated: bool,
        changing: &Changing,
        attempt: &Attempt,
    ) -> Result<(), ActionError> {
        let marked = self.file_work(changing, attempt, |config, layout| {
            write_file(&layout.pass_file(), settings::pass_file(config), config.run_as)?;
            layout.set_mark(HalfMade::Rewind)
        });
        marked.await?;
        let source = settings::tool_conninfo(&self.config, &self.layout, upstream);
        let args = [
            format!("--target-pgdata={}", self.layout.data_dir.display()),
            format!("--source-server={source} dbname=postgres"),
            "--no-ensure-shutdown".to_owned(),
        ];
        let tool = self.tool("pg_rewind").args(args).pass_file(&self.layout.pass_file());
        match tool.run(attempt.deadline()).await {
            Ok(_) => Ok(()),
            Err(ToolError::Failed { why, errors, .. }) => {
                let why = told(&why, &errors);
                // A first run that fails may have changed nothing. Once a run was cut off while it
                // changed the directory, the WAL and the control file that the next one reads may be
                // those of the upstream already.
                if repeated && said_why(&errors) && is_of_target(&why) {
                    return Err(attempt.cannot(format!("pg_rewind, run again: {why}")));
                }
                Err(attempt.failed(format!("pg_rewind: {why}"), Effect::Unknown))
            }
            Err(error) => Err(error.during(attempt, Effect::Unknown)),
        }
    }
}

/// Adds to the last error the files that could not be opened before: `pg_rewind` names them apart.
fn told(why: &str, errors: &[String]) -> String {
    let files = errors.iter().filter_map(|line| {
        let at = line.find("could not open file")?;
        line.get(at..).filter(|text| !why.contains(text))
    });
    let all: Vec<&str> = files.chain([why]).collect();
    if errors.is_empty() || said_why(errors) {
        return all.join("; ");
    }
    // What stands there then is only how far it came.
    format!("it was ended after: {}", why.trim_start_matches("pg_rewind: "))
}

/// Returns whether the tool gave a reason: one that was killed has none.
fn said_why(errors: &[String]) -> bool {
    errors.iter().any(|line| ["error: ", "fatal: "].iter().any(|word| line.contains(word)))
}

/// Returns whether `pg_rewind` failed because of the directory, not because of the upstream or of a
/// full disk.
///
/// # Sources
/// PostgreSQL, `pg_rewind/libpq_source.c`, and the messages of libpq and of a server that ends.
fn is_of_target(why: &str) -> bool {
    let elsewhere = [
        "connect",
        "source server",
        "remote file",
        "from source",
        "could not send",
        "could not receive",
        "SSL",
        "the database system is",
        "No space left on device",
        "canceling statement",
    ];
    !elsewhere.iter().any(|words| why.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::missing_wal;

    #[test]
    fn the_file_that_is_missing_is_named_with_the_last_error() {
        let file = "could not open file \"/data/pg_wal/000000010000000000000003\": No such file \
                    or directory";
        let last = "could not find previous WAL record at 0/3000028";
        let errors = [format!("pg_rewind: error: {file}"), format!("pg_rewind: error: {last}")];
        let why = told(last, &errors);
        assert_eq!(why, format!("{file}; {last}"));
        let attempt = Attempt::new("rewind", tokio::time::Instant::now());
        assert!(missing_wal(&attempt.failed(&why, Effect::Unknown)));
        assert!(missing_wal(&attempt.cannot(file)));
        for other in [
            "could not open file \"/data/global/pg_control\": No such file or directory",
            "could not open file \"/data/pg_wal/000000010000000000000003\": Permission denied",
            "connection to server failed: Connection refused",
        ] {
            assert!(!missing_wal(&attempt.failed(other, Effect::Unknown)), "{other}");
        }
    }

    #[test]
    fn a_vanished_upstream_is_told_from_a_directory_that_is_past_rewinding() {
        for of_target in [
            "target server must be shut down cleanly",
            "could not read WAL record at 0/5000148: invalid record length",
            "could not find common ancestor of the source and target cluster's timelines",
        ] {
            assert!(is_of_target(of_target), "{of_target}");
        }
        for elsewhere in [
            "server closed the connection unexpectedly",
            "connection to server at \"127.0.0.1\", port 5432 failed: Connection refused",
            "could not fetch remote file \"global/pg_control\": FATAL: terminating connection",
            "could not write file \"base/5/16384\": No space left on device",
        ] {
            assert!(!is_of_target(elsewhere), "{elsewhere}");
        }
    }
}
