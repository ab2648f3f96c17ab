//! A note of which PgBouncers this node has paused, for the agent that comes after one that was killed.

use std::fs;
use std::io;
use std::path::Path;

use ha_core::Epoch;

const FILE: &str = "paused";
const HEADER: &str = "haclt paused 1";

/// Returns the grant under which they were paused, and their consoles; `None` if none is.
pub(super) fn read(dir: &Path) -> Option<(Epoch, Vec<String>)> {
    let text = fs::read_to_string(dir.join(FILE)).ok()?;
    let mut lines = text.strip_prefix(HEADER)?.trim().lines();
    let epoch = Epoch(lines.next()?.parse().ok()?);
    Some((epoch, lines.map(str::to_owned).collect()))
}

/// Writes it; without any the file goes. Not synced: it is for a killed agent, and after a power cut the agent
/// of the next primary resumes.
///
/// # Errors
/// If the file cannot be replaced.
pub(super) fn write(dir: &Path, paused: &[(Epoch, String)]) -> io::Result<()> {
    let file = dir.join(FILE);
    let Some((epoch, _)) = paused.first() else {
        return match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        };
    };
    let consoles: Vec<&str> = paused.iter().map(|(_, console)| console.as_str()).collect();
    let temporary = dir.join("paused.new");
    fs::write(&temporary, format!("{HEADER}\n{}\n{}\n", epoch.0, consoles.join("\n")))?;
    fs::rename(temporary, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written_and_nonsense_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(read(dir.path()), None);
        write(dir.path(), &[]).expect("nothing to remove");
        let two = [(Epoch(4), "10.0.0.1:6432".to_owned()), (Epoch(4), "/run/x".to_owned())];
        write(dir.path(), &two).expect("a writable directory");
        let consoles = two.map(|(_, console)| console).to_vec();
        assert_eq!(read(dir.path()), Some((Epoch(4), consoles)));
        write(dir.path(), &[]).expect("a file to remove");
        assert_eq!(read(dir.path()), None);
        fs::write(dir.path().join(FILE), "haclt paused 2\n4\nx\n").expect("a writable directory");
        assert_eq!(read(dir.path()), None);
    }
}
