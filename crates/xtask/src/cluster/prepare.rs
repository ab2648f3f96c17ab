//! Putting a cluster's directories, secrets and configuration files in place.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::rand::{GetRandomFlags, getrandom};

use crate::cluster::account::{Account, folder, mode};
use crate::cluster::{Cluster, Kind};
use crate::failure::{Doing as _, Failure, Outcome};

/// Makes what is missing; changes nothing that an agent may have made since.
///
/// The (empty) data directory is made together with the node's home and never again: a data
/// directory that vanished later is for the agent to notice, not for us to paper over.
pub(crate) fn prepare(cluster: &Cluster, account: Option<&Account>) -> Outcome<()> {
    folder(&cluster.root, 0o755)?;
    folder(&cluster.root.join("secrets"), 0o700)?;
    let password = secret(&cluster.secret("superuser"))?;
    secret(&cluster.secret("replication"))?;
    write(&cluster.secret("pgpass"), &cluster.pgpass(&password), 0o600)?;
    folder(&cluster.permit_root, 0o755)?;
    for node in &cluster.nodes {
        let is_new = !node.config().exists();
        folder(&node.home, 0o755)?;
        if is_new {
            folder(&node.state(), 0o700)?;
        }
        if node.kind == Kind::Data {
            folder(&node.permits, 0o700)?;
            if is_new {
                folder(node.postgres_home.parent().unwrap_or(&cluster.postgres_root), 0o755)?;
                // The socket's directory will be in the first: everybody may go through.
                for (place, mode) in [(node.postgres_home.clone(), 0o755), (node.pgdata(), 0o700)] {
                    folder(&place, mode)?;
                    if let Some(account) = account {
                        account.own(&place)?;
                    }
                }
            }
        }
        write(&node.config(), &cluster.agent_toml(node), 0o644)?;
    }
    Ok(())
}

/// Returns a password: the one in the file, or a new random one that is put there.
fn secret(path: &Path) -> Outcome<String> {
    if path.exists() {
        let mode = mode(path)?;
        if mode & 0o077 != 0 {
            return Err(Failure::new(format!(
                "cannot use the password in {}: others may read it (mode {mode:03o})",
                path.display()
            ))
            .hint(format!("Run `chmod 600 {}`, then try again.", path.display())));
        }
        return read_secret(path);
    }
    let password = random_hex()?;
    write(path, &format!("{password}\n"), 0o600)?;
    Ok(password)
}

/// Reads a password.
pub(crate) fn read_secret(path: &Path) -> Outcome<String> {
    let text = fs::read_to_string(path).doing(|| format!("could not read {}", path.display()))?;
    Ok(text.trim_end().to_owned())
}

fn random_hex() -> Outcome<String> {
    let mut bytes = [0u8; 24];
    let read = getrandom(&mut bytes[..], GetRandomFlags::empty())
        .doing(|| "could not draw a random password".to_owned())?;
    if read != bytes.len() {
        return Err(Failure::new("could not draw a random password: too few bytes"));
    }
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// Writes a file whole or not at all; it never has wider permissions than `mode`.
pub(crate) fn write(path: &Path, content: &str, mode: u32) -> Outcome<()> {
    let doing = || format!("could not write {}", path.display());
    let beside = path.with_extension("new");
    drop(fs::remove_file(&beside));
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside).doing(doing)?;
    file.write_all(content.as_bytes()).doing(doing)?;
    fs::rename(&beside, path).doing(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_and_only_its_owner_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("superuser");
        let first = secret(&path).unwrap();
        assert_eq!(first.len(), 48);
        assert_eq!(mode(&path).unwrap(), 0o600);
        assert_eq!(secret(&path).unwrap(), first);
    }

    #[test]
    fn a_secret_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("superuser");
        write(&path, "x\n", 0o644).unwrap();
        let text = secret(&path).map_err(|failure| failure.to_string()).unwrap_err();
        assert!(text.contains("others may read it (mode 644)"), "{text}");
    }
}
