//! Who may read what is nobody else's business.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ha_postgres::credentials::SecretFile;

use super::disks::away;
use super::finding::Finding;
use crate::config::Config;

/// The check for a change of a password that was not finished.
const HALF_WAY: &str = "credentials-half-way";
/// "Others may read", "others may write".
const OTHERS_READ: u32 = 0o004;
const OTHERS_WRITE: u32 = 0o002;
/// Files of a directory that are looked at: enough to see what is usual there.
const FILES_MAX: usize = 1000;
/// Below `data_dir`: what holds users' data.
const PRECIOUS: [&str; 2] = ["diverged", "wal"];

/// Looks at the files with passwords and keys, and at what the agent keeps.
pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let files = files(config);
    let secrets = away(move || Ok(modes(&files))).await;
    let dir = config.data_dir.clone();
    let kept = away(move || look(&dir)).await;
    let mut findings = match secrets {
        Ok(modes) => judge_secrets(&modes),
        Err(why) => vec![Finding::unchecked("secret-readable", why)],
    };
    let passwords = passwords(config);
    let half_way = away(move || Ok(passwords.into_iter().map(half_way).collect())).await;
    findings.extend(half_way.unwrap_or_else(|why: String| vec![Finding::unchecked(HALF_WAY, why)]));
    findings.push(match kept {
        Ok(found) => judge_dir(&config.data_dir, &found),
        Err(why) => Finding::unchecked("data-dir-open", why),
    });
    findings
}

fn files(config: &Config) -> Vec<PathBuf> {
    let mut files = Vec::new();
    if let Some(postgres) = &config.postgres {
        files.push(postgres.superuser_password_file.clone());
        files.push(postgres.replication_password_file.clone());
    }
    if let Some(witness) = &config.witness {
        files.extend(witness.replication_password_file.clone());
    }
    files.extend(config.fencing.peers.values().map(|peer| peer.engine.key.clone()));
    files
}

/// The internal users of this node, and the files with their passwords.
fn passwords(config: &Config) -> Vec<(String, PathBuf)> {
    let mut all = Vec::new();
    if let Some(postgres) = &config.postgres {
        all.push((postgres.superuser.clone(), postgres.superuser_password_file.clone()));
        all.push((postgres.replication_user.clone(), postgres.replication_password_file.clone()));
    }
    if let Some(witness) = &config.witness
        && let Some(file) = &witness.replication_password_file
    {
        all.push((witness.replication_user.clone(), file.clone()));
    }
    all
}

/// Whether the change of a password was begun and not finished.
fn half_way((user, path): (String, PathBuf)) -> Finding {
    let file = SecretFile::new(&path);
    let next = file.next_path();
    match file.next() {
        Ok(None) => Finding::ok(HALF_WAY, format!("no new password of {user} waits")),
        Ok(Some(_)) => Finding::warning(
            HALF_WAY,
            format!("{} is there: the password of {user} is being changed", next.display()),
            format!("if nobody is just doing that: haclt credentials rotate {user}, to finish it"),
        ),
        Err(why) => Finding::warning(
            HALF_WAY,
            why,
            format!("make {} readable to the agent, then restart the agent", next.display()),
        ),
    }
}

type Modes = Vec<(PathBuf, Result<u32, String>)>;

fn modes(files: &[PathBuf]) -> Modes {
    let mode = |path: &PathBuf| fs::metadata(path).map(|found| found.mode() & 0o7777);
    files.iter().map(|path| (path.clone(), mode(path).map_err(|e| e.to_string()))).collect()
}

fn judge_secrets(modes: &Modes) -> Vec<Finding> {
    let id = "secret-readable";
    let judged = modes.iter().map(|(path, mode)| match mode {
        Err(why) => Finding::unchecked(id, format!("{}: {why}", path.display())),
        Ok(mode) => Finding::graded(
            id,
            mode & (OTHERS_READ | OTHERS_WRITE) != 0,
            false,
            format!("{} has mode {mode:04o}", path.display()),
            format!("chmod o-rwx {}, and replace the secret in it", path.display()),
        ),
    });
    judged.collect()
}

/// What others may do in `data_dir`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Open {
    mode: u32,
    /// The first of the files with users' data that others may read.
    readable: Option<PathBuf>,
}

fn look(dir: &Path) -> io::Result<Open> {
    let mode = fs::metadata(dir)?.mode() & 0o7777;
    let readable = PRECIOUS.iter().find_map(|name| first_readable(&dir.join(name)));
    Ok(Open { mode, readable })
}

/// Finds a file below `dir`, or one level deeper, that others may read if they know its name.
fn first_readable(dir: &Path) -> Option<PathBuf> {
    let open =
        |path: &Path, bit: u32| fs::metadata(path).is_ok_and(|found| found.mode() & bit != 0);
    if !open(dir, 0o001) {
        return None;
    }
    let entries = |dir: &Path| -> Vec<PathBuf> {
        let read = fs::read_dir(dir).into_iter().flatten().take(FILES_MAX);
        read.filter_map(|entry| Some(entry.ok()?.path())).collect()
    };
    let mut all = entries(dir);
    let deeper = all.iter().filter(|path| path.is_dir() && open(path, 0o001));
    let deeper: Vec<PathBuf> = deeper.flat_map(|path| entries(path)).take(FILES_MAX).collect();
    all.extend(deeper);
    all.into_iter().find(|path| path.is_file() && open(path, OTHERS_READ))
}

fn judge_dir(dir: &Path, found: &Open) -> Finding {
    let id = "data-dir-open";
    let evidence = format!("data_dir {} has mode {:04o}", dir.display(), found.mode);
    if found.mode & OTHERS_WRITE != 0 {
        let mend = format!("chmod o-w {}", dir.display());
        return Finding::critical(id, evidence, mend);
    }
    match &found.readable {
        Some(file) if found.mode & 0o001 != 0 => Finding::warning(
            id,
            format!("{evidence}, and others may read {}", file.display()),
            format!("chmod -R o-rwx {}", file.parent().unwrap_or(dir).display()),
        ),
        _ => Finding::ok(id, evidence),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::finding::Severity::{Critical, Note, Ok as Fine, Warning};
    use super::*;

    #[test]
    fn a_password_that_others_may_read_is_critical() {
        #[rustfmt::skip]
        let table = [
            (Ok(0o600),              Fine),
            (Ok(0o640),              Fine),
            (Ok(0o644),              Critical),
            (Ok(0o602),              Critical),
            (Err("gone".to_owned()), Note),
        ];
        for (mode, expected) in table {
            let found = judge_secrets(&vec![("/s".into(), mode.clone())]);
            assert_eq!(found[0].severity, expected, "{mode:?}");
        }
    }

    #[test]
    fn a_password_that_waits_to_be_used_is_a_warning() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let seen = || half_way(("u".to_owned(), path.clone())).severity;
        fs::write(&path, "old").expect("writable");
        assert_eq!(seen(), Fine);
        fs::write(dir.path().join("s.next"), "new").expect("writable");
        assert_eq!(seen(), Warning);
        fs::write(dir.path().join("s.next"), "").expect("writable");
        assert_eq!(seen(), Warning, "a useless one");
    }

    #[test]
    fn the_agents_directory_may_be_entered_and_nothing_precious_read() {
        let file = || Some(PathBuf::from("/d/wal/1"));
        #[rustfmt::skip]
        let table = [
            (0o700, None,    Fine),
            (0o755, None,    Fine),
            (0o755, file(),  Warning),
            (0o750, file(),  Fine),
            (0o757, None,    Critical),
        ];
        for (mode, readable, expected) in table {
            let found = judge_dir(Path::new("/d"), &Open { mode, readable });
            assert_eq!(found.severity, expected, "{mode:o}: {}", found.evidence);
        }
    }

    #[test]
    fn a_readable_file_is_found_where_its_directory_can_be_entered() {
        let dir = tempfile::tempdir().expect("a directory");
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
        };
        let kept = dir.path().join("diverged/1");
        fs::create_dir_all(&kept).expect("a directory");
        fs::write(kept.join("file"), "x").expect("a file");
        for (outer, inner, file, found) in [
            (0o755, 0o755, 0o644, true),
            (0o755, 0o755, 0o600, false),
            (0o755, 0o700, 0o644, false),
            (0o700, 0o755, 0o644, false),
        ] {
            set(&kept.join("file"), file);
            set(&kept, inner);
            set(&dir.path().join("diverged"), outer);
            let seen = look(dir.path()).expect("readable").readable.is_some();
            assert_eq!(seen, found, "{outer:o} {inner:o} {file:o}");
        }
    }
}
