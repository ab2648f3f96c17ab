//! Rewinding a diverged data directory.

use std::time::Duration;

use ha_core::ancestry::{Relation, compare};
use tokio::time::sleep;
use tracing::info;

use super::directory::{local_history, remove_file, write_file};
use super::{Changing, ProcessDriver, settings};
use crate::attempt::Attempt;
use crate::driver::{
    ActionError, ControlState, DataDir, Effect, HalfMade, Upstream, UpstreamHistory,
};

const LOOK_EVERY: Duration = Duration::from_millis(100);

impl ProcessDriver {
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
        self.run_rewind(upstream, &changing, attempt).await?;
        self.ensure_slot_on(upstream, attempt).await?;
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
    /// Archiving must fail meanwhile: no segment of the abandoned branch may leave (rule 46).
    async fn recover(&self, changing: &Changing, attempt: &Attempt) -> Result<(), ActionError> {
        if self.layout.in_data("backup_label").exists() {
            return Err(attempt.cannot("it is a clone that was never started"));
        }
        let removed = self.file_work(changing, attempt, |_, layout| {
            remove_file(&layout.in_data("standby.signal"))?;
            remove_file(&layout.in_data("recovery.signal"))
        });
        removed.await?;
        let no_archive = ["archive_mode=on", "archive_command=false", "archive_library="];
        self.single_user(String::new(), &no_archive, changing, attempt).await
    }

    async fn run_rewind(
        &self,
        upstream: &Upstream,
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
        let done = tool.run(attempt.deadline()).await;
        done.map(drop).map_err(|error| error.during(attempt, Effect::Unknown))
    }
}
