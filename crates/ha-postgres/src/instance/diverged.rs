//! WAL that this node has beyond the cluster's history is copied aside and described; WAL that it
//! lacks is put back.

mod files;
mod reader;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ha_core::WalPosition;

use self::files::{Plan, Run};
use self::reader::Reader;
use super::directory::write_file;
use super::{Changing, Instance};
use crate::attempt::Attempt;
use crate::diverged::{Diverged, SUMMARY_FILE};
use crate::driver::ActionError;
use crate::tool::ToolError;

/// What stays free on the file system of the copies, in bytes: others write there too.
const SPARE_BYTES: u64 = 64 << 20;

impl Instance {
    /// Copies first and reads then, and writes the summary last: without it everything begins anew.
    pub(super) async fn keep_wal(
        &self,
        fork: WalPosition,
        end: WalPosition,
        into: &Path,
        attempt: &Attempt,
    ) -> Result<Diverged, ActionError> {
        if end.lsn <= fork.lsn || end.timeline < fork.timeline {
            return Err(attempt.cannot(format!("{end} is not after {fork}")));
        }
        let changing = self.change(attempt).await?;
        let place = into.to_owned();
        let kept = self.file_work(&changing, attempt, move |_, _| files::kept(&place)).await?;
        if let Some(kept) = kept {
            if (kept.fork, kept.end) == (fork, end) {
                return Ok(kept);
            }
            let what = format!("it holds the WAL from {} to {}", kept.fork, kept.end);
            return Err(attempt.cannot(what));
        }
        let segment_bytes = self.segment_bytes(attempt).await?;
        let plan = self.file_work(&changing, attempt, move |_, layout| {
            files::plan(layout, fork, end, segment_bytes)
        });
        let plan = plan.await?;
        let copied_bytes = self.copy_wal(&plan, into, &changing, attempt).await?;
        let (read, mut notes) = self.read_transactions(&plan.runs, attempt).await?;
        let (transactions, transactions_total, truncated) = read.finish();
        notes.splice(0..0, plan.notes);
        let note = (!notes.is_empty()).then(|| notes.join("; "));
        let bytes = end.lsn.bytes_after(fork.lsn);
        let kept = Diverged {
            fork,
            end,
            bytes,
            copied_bytes,
            transactions,
            transactions_total,
            truncated,
            note,
        };
        let text = serde_json::to_string_pretty(&kept).map_err(|error| attempt.cannot(error))?;
        let file = into.join(SUMMARY_FILE);
        self.file_work(&changing, attempt, move |_, _| write_file(&file, text, None)).await?;
        Ok(kept)
    }

    async fn segment_bytes(&self, attempt: &Attempt) -> Result<u64, ActionError> {
        match self.read_control(attempt).await?.segment_bytes {
            0 => Err(attempt.cannot("the control file gives no segment size")),
            bytes => Ok(bytes),
        }
    }

    /// Copies the files of the plan if there is room for all of them; returns their size.
    async fn copy_wal(
        &self,
        plan: &Plan,
        into: &Path,
        changing: &Changing,
        attempt: &Attempt,
    ) -> Result<u64, ActionError> {
        let place = into.to_owned();
        let free = self.file_work(changing, attempt, move |_, _| files::make_room(&place)).await?;
        let wanted: u64 = plan.files.iter().map(|(_, bytes)| bytes).sum();
        if free < wanted.saturating_add(SPARE_BYTES) {
            return Err(attempt.cannot(format!(
                "{free} bytes are free, {} are needed: {wanted} of WAL and {SPARE_BYTES} to spare",
                wanted.saturating_add(SPARE_BYTES)
            )));
        }
        let (place, files) = (into.to_owned(), plan.files.clone());
        let copied = self.file_work(changing, attempt, move |_, _| files::copy(&files, &place));
        copied.await.map(|()| wanted)
    }

    /// Reads what committed. WAL that cannot be read is no reason not to go on: it is kept.
    async fn read_transactions(
        &self,
        runs: &[Run],
        attempt: &Attempt,
    ) -> Result<(Reader, Vec<String>), ActionError> {
        let reader = Mutex::new(Reader::default());
        let on_answer =
            |line: &str| reader.lock().unwrap_or_else(PoisonError::into_inner).line(line);
        let mut notes = Vec::new();
        for Run { timeline, start, end } in runs {
            let wal_dir = self.layout.wal_dir().display().to_string();
            let args = [
                format!("--path={wal_dir}"),
                format!("--timeline={timeline}"),
                format!("--start={start}"),
                format!("--end={end}"),
            ];
            let tool = self.tool("pg_waldump").args(args).env("TZ", "UTC").on_answer(&on_answer);
            match tool.run(attempt.deadline()).await {
                Ok(_) => {}
                Err(ToolError::Failed { why, .. }) => {
                    notes.push(format!("timeline {timeline} up to {end}: {why}"));
                }
                Err(error) => return Err(error.during(attempt, crate::driver::Effect::None)),
            }
        }
        Ok((reader.into_inner().unwrap_or_else(PoisonError::into_inner), notes))
    }

    /// Copies segments into `pg_wal`, all checked before the first one is copied.
    pub(super) async fn take_wal(
        &self,
        segments: &[PathBuf],
        attempt: &Attempt,
    ) -> Result<(), ActionError> {
        let changing = self.change(attempt).await?;
        let control = self.read_control(attempt).await?;
        let segments = segments.to_vec();
        let adopted = self.file_work(&changing, attempt, move |config, layout| {
            // What is wrong with a segment is no failure of the disk: two kinds of errors.
            if let Err(why) = segments.iter().try_for_each(|file| files::check(file, &control)) {
                return Ok(Err(why));
            }
            segments.iter().try_for_each(|file| files::adopt(file, config, layout)).map(Ok)
        });
        adopted.await?.map_err(|why| attempt.cannot(why))
    }
}
