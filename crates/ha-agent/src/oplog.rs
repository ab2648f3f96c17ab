//! The log of one operation: a file of its own on the node that runs it, which `haclt events show` finds.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use ha_core::clock::millis;
use tracing::warn;

use crate::agent::lock;
use crate::clock;

/// The directory under the agent's own.
const DIR: &str = "operations";
/// How many are kept; the oldest are removed first.
const FILES_MAX: usize = 200;
/// How many lines of one are shown.
const LINES_MAX: usize = 2000;

/// One operation's log. A disk that takes no line does not hinder the operation.
#[derive(Debug)]
pub struct OperationLog {
    name: String,
    began: Instant,
    file: Mutex<Option<File>>,
}

impl OperationLog {
    /// Begins a log for an operation of that kind.
    #[must_use]
    pub fn begin(data_dir: &Path, kind: &str, what: &str) -> Self {
        let name = format!("{}-{kind}.log", clock::wall_unix_ms());
        let opened = open(&data_dir.join(DIR), &name);
        let file = opened.map_err(|error| warn!(name, %error, "cannot log the operation")).ok();
        let log = Self { name, began: Instant::now(), file: Mutex::new(file) };
        log.line(what);
        log
    }

    /// Adds a line, with how long after the beginning.
    pub fn line(&self, text: &str) {
        let at_ms = millis(self.began.elapsed());
        if let Some(file) = &mut *lock(&self.file)
            && let Err(error) = writeln!(file, "{at_ms} ms  {}", text.replace('\n', " "))
        {
            warn!(name = self.name, %error, "cannot log the operation");
        }
    }

    /// Returns the file's name, by which [`read`] finds it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Returns where the logs of operations are, below the agent's own directory.
#[must_use]
pub fn directory(data_dir: &Path) -> PathBuf {
    data_dir.join(DIR)
}

fn open(dir: &Path, name: &str) -> io::Result<File> {
    fs::create_dir_all(dir)?;
    let mut known: Vec<PathBuf> =
        fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    // The names begin with the time.
    known.sort();
    let surplus = (known.len() + 1).saturating_sub(FILES_MAX);
    for old in known.iter().take(surplus) {
        fs::remove_file(old)?;
    }
    File::create(dir.join(name))
}

/// Reads the log of that name; none if it is not kept any more, or the name is none.
///
/// # Errors
/// If it is there and cannot be read.
pub fn read(data_dir: &Path, name: &str) -> io::Result<Option<Vec<String>>> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Ok(None);
    }
    match File::open(data_dir.join(DIR).join(name)) {
        Ok(file) => {
            BufReader::new(file).lines().take(LINES_MAX).collect::<io::Result<_>>().map(Some)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_logged_can_be_read_by_name_and_the_oldest_go_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = OperationLog::begin(dir.path(), "switchover", "from n1 to n2");
        log.line("checkpoint\nwhile clients are served");
        let lines = read(dir.path(), log.name()).expect("readable").expect("kept");
        assert_eq!(lines.len(), 2);
        assert!(lines[1].ends_with("ms  checkpoint while clients are served"), "{lines:?}");
        for number in 0..FILES_MAX + 5 {
            fs::write(dir.path().join(DIR).join(format!("1-{number:04}.log")), "")
                .expect("written");
        }
        drop(OperationLog::begin(dir.path(), "restart", "n1"));
        let kept = fs::read_dir(dir.path().join(DIR)).expect("readable").count();
        assert_eq!(kept, FILES_MAX);
    }

    #[test]
    fn a_name_leads_nowhere_else() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("secret"), "x").expect("written");
        for name in ["", ".", "..", "../secret", "/etc/passwd", "no-such.log"] {
            assert_eq!(read(dir.path(), name).expect("no error"), None, "{name}");
        }
    }
}
