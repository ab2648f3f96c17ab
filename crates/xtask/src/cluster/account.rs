//! Accounts and permissions: PostgreSQL does not run as root.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::exec;
use crate::failure::{Doing as _, Failure, Outcome};

/// The account the distribution's packages make for PostgreSQL.
pub(crate) const SERVER_ACCOUNT: &str = "postgres";

/// An account other than ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    /// Its name.
    pub(crate) name: String,
    uid: u32,
    gid: u32,
}

/// Returns whether we are root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns the account PostgreSQL is to run under: none but ours unless we are root.
pub(crate) fn for_server() -> Outcome<Option<Account>> {
    if !is_root() {
        return Ok(None);
    }
    let id = |flag: &str| {
        let mut command = Command::new("id");
        exec::output(command.args([flag, SERVER_ACCOUNT]), Duration::from_secs(10))
            .ok()
            .and_then(|text| text.trim().parse::<u32>().ok())
    };
    match (id("-u"), id("-g")) {
        (Some(uid), Some(gid)) => Ok(Some(Account { name: SERVER_ACCOUNT.to_owned(), uid, gid })),
        _ => Err(Failure::new(format!(
            "cannot run PostgreSQL as root, and there is no account `{SERVER_ACCOUNT}`"
        ))
        .hint("Install the distribution's PostgreSQL package, or run as another user than root.")),
    }
}

impl Account {
    /// Returns whether this account may go through `folder` and everything above it.
    ///
    /// Asks the kernel by trying, as ACLs and mounts count too.
    pub(crate) fn can_enter(&self, folder: &Path) -> bool {
        let mut command = Command::new("setpriv");
        command.args(switches(self)).args(["test", "-x"]).arg(folder).current_dir("/");
        exec::output(&mut command, Duration::from_secs(10)).is_ok()
    }

    /// Gives a file or directory to this account.
    pub(crate) fn own(&self, path: &Path) -> Outcome<()> {
        chown(path, Some(self.uid), Some(self.gid))
            .doing(|| format!("could not give {} to {}", path.display(), self.name))
    }
}

/// Returns the arguments by which `setpriv` runs a program under an account.
pub(crate) fn switches(account: &Account) -> [String; 4] {
    let Account { uid, gid, .. } = account;
    [format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into(), "--".into()]
}

/// Makes a directory, with those above it, and sets its mode.
pub(crate) fn folder(path: &Path, mode: u32) -> Outcome<()> {
    fs::create_dir_all(path).doing(|| format!("could not create directory {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .doing(|| format!("could not set the mode of {}", path.display()))
}

/// Returns the mode bits of a file, for a check that a secret is one.
pub(crate) fn mode(path: &Path) -> Outcome<u32> {
    let metadata = fs::metadata(path).doing(|| format!("could not look at {}", path.display()))?;
    Ok(metadata.mode() & 0o7777)
}
