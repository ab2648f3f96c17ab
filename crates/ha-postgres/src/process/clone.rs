//! A new copy of the upstream's data directory.

use std::fs;
use std::io;

use super::directory::{self, make_dir, remove_tree, sync_parent, write_file};
use super::{ProcessDriver, settings};
use crate::attempt::Attempt;
use crate::driver::{ActionError, Effect, HalfMade, Upstream};

impl ProcessDriver {
    /// Copies beside the data directory and puts the copy in its place at the end, so that what was
    /// there stays usable until then. A copy that was not finished is removed by the next one.
    pub(super) async fn make_clone(
        &self,
        upstream: &Upstream,
        progress: &(dyn Fn(u64, Option<u64>) + Send + Sync),
        attempt: &Attempt,
    ) -> Result<(), ActionError> {
        let changing = self.change(attempt).await?;
        self.ensure_slot_on(upstream, attempt).await?;
        let begun = self.file_work(&changing, attempt, |config, layout| {
            write_file(&layout.pass_file(), settings::pass_file(config), config.run_as)?;
            remove_tree(&layout.cloning)?;
            make_dir(&layout.cloning, config.run_as, 0o700)
        });
        begun.await?;
        self.run_basebackup(upstream, progress, attempt).await?;
        let placed = self.file_work(&changing, attempt, |config, layout| {
            layout.set_mark(HalfMade::Clone)?;
            match directory::is_empty(&layout.data_dir) {
                Ok(true) => {}
                Ok(false) => drop(directory::move_aside(layout, config.run_as, "reclone")?),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(format!("cannot read the data directory: {error}")),
            }
            // An empty directory may be renamed over.
            fs::rename(&layout.cloning, &layout.data_dir).map_err(|error| match error.kind() {
                io::ErrorKind::ResourceBusy => format!(
                    "{} is a mount point: mount the volume one level above it",
                    layout.data_dir.display()
                ),
                _ => format!("cannot rename {}: {error}", layout.cloning.display()),
            })?;
            sync_parent(&layout.data_dir)
        });
        placed.await?;
        self.configure(Some(upstream), true, &changing, attempt).await?;
        self.file_work(&changing, attempt, |_, layout| layout.clear_mark()).await
    }

    async fn run_basebackup(
        &self,
        upstream: &Upstream,
        progress: &(dyn Fn(u64, Option<u64>) + Send + Sync),
        attempt: &Attempt,
    ) -> Result<(), ActionError> {
        let report = |line: &str| match parse_progress(line) {
            Some((done, total)) => {
                progress(done, total);
                true
            }
            None => false,
        };
        let args = [
            format!("--pgdata={}", self.layout.cloning.display()),
            format!("--dbname={}", settings::tool_conninfo(&self.config, &self.layout, upstream)),
            format!("--slot={}", self.config.node),
            "--wal-method=stream".to_owned(),
            "--checkpoint=fast".to_owned(),
            "--label=haclt".to_owned(),
            "--no-password".to_owned(),
            "--progress".to_owned(),
        ];
        let tool = self.tool("pg_basebackup").args(args).pass_file(&self.layout.pass_file());
        let done = tool.on_line(&report).run(attempt.deadline()).await;
        // The data directory was not touched yet.
        done.map(drop).map_err(|error| error.during(attempt, Effect::None))
    }
}

/// Reads a line such as ` 23456/34567 kB (67%), 0/1 tablespace`: bytes done and in total.
fn parse_progress(line: &str) -> Option<(u64, Option<u64>)> {
    let (numbers, _) = line.trim_start().split_once(" kB (")?;
    let (done, total) = numbers.split_once('/')?;
    let bytes = |text: &str| text.parse::<u64>().ok()?.checked_mul(1024);
    Some((bytes(done)?, bytes(total)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_in_bytes() {
        let line = " 23456/34567 kB (67%), 0/1 tablespace (/x/base/1  )";
        assert_eq!(parse_progress(line), Some((23456 * 1024, Some(34567 * 1024))));
        assert_eq!(parse_progress("pg_basebackup: error: could not connect"), None);
    }
}
