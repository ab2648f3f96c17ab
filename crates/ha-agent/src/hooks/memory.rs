//! How the database stood when its hooks were last run to the end, kept over restarts of the agent: what
//! an agent did not live to do, the next one does.

use std::fs;
use std::io;
use std::path::Path;

use super::change::Standing;

const FILE: &str = "hooks";
const HEADER: &str = "haclt hooks 1";

/// Returns what was remembered; a file that cannot be read counts as none.
pub(super) fn read(dir: &Path) -> Standing {
    let text = fs::read_to_string(dir.join(FILE)).unwrap_or_default();
    let json = text.strip_prefix(HEADER).unwrap_or_default();
    serde_json::from_str(json.trim()).unwrap_or_default()
}

/// Remembers it. Not synced: after a power cut hooks may run once more.
///
/// # Errors
/// If the file cannot be replaced.
pub(super) fn write(dir: &Path, standing: Standing) -> io::Result<()> {
    let json = serde_json::to_string(&standing).map_err(io::Error::other)?;
    let temporary = dir.join("hooks.new");
    fs::write(&temporary, format!("{HEADER}\n{json}\n"))?;
    fs::rename(&temporary, dir.join(FILE))
}

#[cfg(test)]
mod tests {
    use ha_core::Epoch;

    use super::*;

    #[test]
    fn what_is_remembered_is_read_and_nonsense_is_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(read(dir.path()), Standing::Stopped);
        let primary = Standing::Primary { epoch: Epoch(3), run: 7 };
        for standing in [primary, Standing::Fenced, Standing::Standby { run: 1 }] {
            write(dir.path(), standing).expect("a writable directory");
            assert_eq!(read(dir.path()), standing);
        }
        for text in ["", "haclt hooks 2\n\"fenced\"", "haclt hooks 1\n{"] {
            fs::write(dir.path().join(FILE), text).expect("a writable directory");
            assert_eq!(read(dir.path()), Standing::Stopped, "{text}");
        }
    }
}
