//! Passwords under change: new ones, the files that hold them, and the server that takes them.
//!
//! A role has one password, and every node must be able to offer it at any time. So a new one is first put
//! beside the old one on every node, as `FILE.next`, then told to the server, then put in the old one's
//! place. In between both are tried.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use postgres_protocol::password::scram_sha_256;
use rustix::fs::{Access, access};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::adopt::verifier::{keyed, salted};
use crate::attempt::Attempt;
use crate::driver::{ActionError, Effect, Upstream};
use crate::instance::directory::{remove_file, sync_parent};
use crate::instance::{Role, RunAs, pass_line, write_file};
use crate::sql::{self, WRONG_PASSWORD, identifier, literal};
use crate::wire::WireError;
use crate::{Password, Secret};

/// As many rounds as PostgreSQL gives its verifiers: to guess by a fingerprint is as hard as by one of those.
const ROUNDS: u32 = 4096;

/// "The group reads": of a witness in a container, which is not root.
const GROUP_READ: u32 = 0o040;

/// What a new password is made with: drawn at random by whoever begins.
pub type Salt = [u8; 32];

/// Makes the new password of a role from the one that every node has.
///
/// So none ever travels: only the salt does, and is worth nothing without the old password.
#[must_use]
pub fn derive(current: &Secret, user: &str, salt: &Salt) -> Secret {
    let label = b"haclt: next password of role\0";
    let mac = keyed(current.expose().as_bytes(), &[label, user.as_bytes(), b"\0", salt]);
    let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    Secret::new(format!("{}.{}", text(salt), text(&mac)))
}

/// Returns the salt that [`derive()`] made a password with; `None` of any other.
#[must_use]
pub fn salt_of(secret: &Secret) -> Option<Salt> {
    let (salt, _) = secret.expose().split_once('.')?;
    BASE64_URL_SAFE_NO_PAD.decode(salt).ok()?.try_into().ok()
}

/// Returns what tells whether two nodes have the same password, by a key that was drawn for this once.
#[must_use]
pub fn fingerprint(secret: &Secret, key: &[u8]) -> [u8; 32] {
    salted(secret.expose().as_bytes(), key, ROUNDS)
}

/// A file with one password, and the one beside it that is to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFile(PathBuf);

impl SecretFile {
    /// Takes the path of the password in use; links are followed.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self(fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()))
    }

    /// Returns the path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the path of the one to follow.
    #[must_use]
    pub fn next_path(&self) -> PathBuf {
        let mut path = self.0.as_os_str().to_owned();
        path.push(".next");
        path.into()
    }

    /// Reads the password in use.
    ///
    /// # Errors
    /// If it cannot be read, or is not one line; one line that names the file.
    pub fn current(&self) -> Result<Secret, String> {
        read(&self.0)
    }

    /// Reads the one to follow; `None` if there is none.
    ///
    /// # Errors
    /// As [`Self::current`].
    pub fn next(&self) -> Result<Option<Secret>, String> {
        let path = self.next_path();
        match path.try_exists() {
            Ok(false) => Ok(None),
            Ok(true) => read(&path).map(Some),
            Err(error) => Err(format!("cannot read {}: {error}", path.display())),
        }
    }

    /// Returns when the password in use was written, seconds of Unix time, if that is known.
    #[must_use]
    pub fn written_unix_s(&self) -> Option<u64> {
        fs::metadata(&self.0).ok().and_then(|found| u64::try_from(found.mtime()).ok())
    }

    /// Returns why the file cannot be replaced, in one line that names it. Changes nothing.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        let path = self.0.display();
        if is_mounted(&self.0) {
            return Some(format!("{path} is mounted as a single file and cannot be replaced"));
        }
        let dir = self.0.parent().unwrap_or(Path::new("/"));
        access(dir, Access::WRITE_OK | Access::EXEC_OK)
            .err()
            .map(|why| format!("{path} cannot be replaced, its directory is not writable: {why}"))
    }

    /// Puts a password beside the one in use, durably, for nobody to read but its owner, and the group that
    /// may read that one.
    ///
    /// # Errors
    /// One line that names the file.
    pub fn put_next(&self, next: &Secret) -> Result<(), String> {
        let found = fs::metadata(&self.0)
            .map_err(|error| format!("cannot read {}: {error}", self.0.display()))?;
        // Only root can give files away; of anybody else it is the own one, which is what the agent needs.
        let owner = RunAs { uid: found.uid(), gid: found.gid() };
        let owner = rustix::process::geteuid().is_root().then_some(owner);
        let path = self.next_path();
        write_file(&path, format!("{}\n", next.expose()), owner)?;
        let mode = fs::Permissions::from_mode(0o600 | (found.mode() & GROUP_READ));
        fs::set_permissions(&path, mode)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
    }

    /// Puts the one to follow into the place of the one in use, durably.
    ///
    /// # Errors
    /// One line that names the file.
    pub fn promote_next(&self) -> Result<(), String> {
        let done = fs::rename(self.next_path(), &self.0);
        done.map_err(|error| format!("cannot replace {}: {error}", self.0.display()))?;
        sync_parent(&self.0)
    }

    /// Removes the one to follow, durably.
    ///
    /// # Errors
    /// One line that names the file.
    pub fn drop_next(&self) -> Result<(), String> {
        remove_file(&self.next_path())?;
        sync_parent(&self.0)
    }
}

fn read(path: &Path) -> Result<Secret, String> {
    let text = fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() || text.contains('\n') {
        return Err(format!("{} must hold one line that is not empty", path.display()));
    }
    Ok(Secret::new(text))
}

/// Returns whether the file itself is a mount point, as secrets of containers are: it cannot be renamed over.
///
/// # Sources
/// proc(5), `/proc/pid/mountinfo`: the fifth field, in which blanks are written as octal numbers.
fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let name = path.to_string_lossy().replace('\\', "\\134").replace(' ', "\\040");
    table.lines().any(|line| line.split(' ').nth(4) == Some(&name))
}

/// What a server said to a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It let us in.
    Yes,
    /// It is another one.
    No,
    /// It let us in without asking for one.
    Unasked,
}

/// The ways in to a node's server.
#[derive(Debug, Clone)]
pub struct Logins {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) roles: [Role; 2],
    pub(crate) pass_file: PathBuf,
    pub(crate) run_as: Option<RunAs>,
    pub(crate) changing: Arc<Mutex<()>>,
}

impl Logins {
    /// Returns the superuser and the replication user; a change of their passwords is seen everywhere.
    #[must_use]
    pub const fn roles(&self) -> &[Role; 2] {
        &self.roles
    }

    /// Asks whether the server takes a password.
    ///
    /// # Errors
    /// [`ActionError`] if it gave no answer to that; nothing was changed.
    pub async fn takes(
        &self,
        role: &Role,
        secret: &Secret,
        deadline: Instant,
    ) -> Result<Taken, ActionError> {
        let attempt = Attempt::new(format!("log in as {}", role.name), deadline);
        let Self { host, port, .. } = self;
        taken(role, secret, host, *port, deadline)
            .await
            .map_err(|error| sql::action_error(&attempt, &error, Effect::None))
    }

    /// Gives a role a password, as the superuser; the server sees its verifier only.
    ///
    /// # Errors
    /// [`ActionError`], which says whether it may have been given.
    pub async fn give(
        &self,
        role: &Role,
        secret: &Secret,
        deadline: Instant,
    ) -> Result<(), ActionError> {
        let attempt = Attempt::new(format!("change the password of {}", role.name), deadline);
        // Kept from every log. It does not wait for acknowledgements: whether it reached the others is
        // asked of each, and until then the old one is kept.
        let quiet = [
            ("log_statement", "none"),
            ("log_min_error_statement", "panic"),
            ("log_min_duration_statement", "-1"),
            ("synchronous_commit", "local"),
        ];
        let Self { host, port, roles: [superuser, _], .. } = self;
        let mut session = sql::open(host, *port, superuser, &quiet, deadline)
            .await
            .map_err(|error| sql::action_error(&attempt, &error, Effect::None))?;
        let verifier = literal(&scram_sha_256(secret.expose().as_bytes()));
        let statement = format!("ALTER ROLE {} PASSWORD {verifier}", identifier(&role.name));
        session
            .query(&statement, "changing a password", deadline)
            .await
            .map(drop)
            .map_err(|error| sql::action_error(&attempt, &error, Effect::Unknown))
    }

    /// Writes the pass file anew, if there is one: with the password that `upstream` takes, or with the
    /// preferred one. A WAL receiver that runs keeps its connection; the next one reads the file. Returns
    /// whether it was wrong.
    ///
    /// # Errors
    /// [`ActionError`] if the upstream takes neither, or the file cannot be written.
    pub async fn renew_pass_file(
        &self,
        upstream: Option<&Upstream>,
        deadline: Instant,
    ) -> Result<bool, ActionError> {
        let attempt = Attempt::new("renew the pass file", deadline);
        let [_, role] = &self.roles;
        if let Some(Upstream { host, port, .. }) = upstream {
            let settings = [("replication", "true")];
            let session = sql::open(host, *port, role, &settings, deadline).await;
            session.map_err(|error| sql::action_error(&attempt, &error, Effect::None))?;
        }
        let changing = Arc::clone(&self.changing).lock_owned();
        let changing = timeout_at(deadline, changing).await.map_err(|_| attempt.timed_out())?;
        let (path, run_as) = (self.pass_file.clone(), self.run_as);
        let line = pass_line(role, &role.password.preferred());
        // Where it was taken away nothing may be received (rule 95).
        let written = tokio::task::spawn_blocking(move || {
            let written = match path.try_exists() {
                Ok(true) => write_file(&path, line, run_as),
                Ok(false) => Ok(false),
                Err(error) => Err(format!("cannot read {}: {error}", path.display())),
            };
            drop(changing);
            written
        });
        written
            .await
            .unwrap_or_else(|ended| Err(ended.to_string()))
            .map_err(|why| attempt.failed(why, Effect::Unknown))
    }
}

async fn taken(
    role: &Role,
    secret: &Secret,
    host: &str,
    port: u16,
    deadline: Instant,
) -> Result<Taken, WireError> {
    match sql::open_with(host, port, role, secret, &[], deadline).await {
        Ok(session) if session.asked() => Ok(Taken::Yes),
        Ok(_) => Ok(Taken::Unasked),
        Err(error) if error.code() == Some(WRONG_PASSWORD) => Ok(Taken::No),
        Err(error) => Err(error),
    }
}

/// Returns the two passwords to try, as the files say.
///
/// What is wrong with the one to follow is no reason not to begin: the examination tells.
///
/// # Errors
/// As [`SecretFile::current`].
pub fn password_of(path: &Path) -> Result<Password, String> {
    SecretFile::new(path).current().map(|current| with_next(current, path))
}

/// Returns the password in use, and the one to follow if there is one beside its file.
#[must_use]
pub fn with_next(current: Secret, path: &Path) -> Password {
    let password = Password::from(current.clone());
    password.set(current, SecretFile::new(path).next().unwrap_or_default());
    password
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_password_needs_the_old_one_and_the_salt() {
        let old = Secret::new("old");
        let one = derive(&old, "a", &[7; 32]);
        assert_eq!(one, derive(&old, "a", &[7; 32]), "every node makes the same one");
        for other in [
            derive(&Secret::new("other"), "a", &[7; 32]),
            derive(&old, "b", &[7; 32]),
            derive(&old, "a", &[8; 32]),
        ] {
            assert_ne!(one.expose(), other.expose());
        }
        assert_eq!(one.expose().len(), 87);
        assert_eq!(salt_of(&one), Some([7; 32]));
        assert_eq!([salt_of(&old), salt_of(&Secret::new("a.b"))], [None, None]);
    }

    #[test]
    fn a_fingerprint_says_the_same_only_under_the_same_key() {
        let [one, other] = ["one", "other"].map(Secret::new);
        assert_eq!(fingerprint(&one, b"k"), fingerprint(&one, b"k"));
        assert_ne!(fingerprint(&one, b"k"), fingerprint(&one, b"l"));
        assert_ne!(fingerprint(&one, b"k"), fingerprint(&other, b"k"));
    }

    #[test]
    fn the_next_password_is_put_beside_and_then_takes_the_place() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("secret");
        fs::write(&path, "old\n").expect("writable");
        let file = SecretFile::new(&path);
        assert_eq!((file.next(), file.obstacle()), (Ok(None), None));
        for (mode, next_mode) in [(0o600, 0o600), (0o640, 0o640), (0o644, 0o640), (0o400, 0o600)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
            file.put_next(&Secret::new("new")).expect("writable");
            let found = fs::metadata(file.next_path()).expect("there").permissions().mode();
            assert_eq!(found & 0o777, next_mode, "{mode:o}");
        }
        let both = password_of(&path).expect("readable");
        assert_eq!(both.preferred().expose(), "old");
        assert_eq!(both.other().map(|next| next.expose().to_owned()), Some("new".to_owned()));
        file.drop_next().expect("writable");
        assert_eq!(file.next(), Ok(None));
        file.put_next(&Secret::new("new")).expect("writable");
        file.promote_next().expect("writable");
        let now = file.current().expect("readable");
        assert_eq!((now.expose(), file.next()), ("new", Ok(None)));
    }

    #[test]
    fn what_is_mounted_alone_cannot_be_replaced() {
        // Every machine has this one, and every container.
        let why = SecretFile(PathBuf::from("/proc")).obstacle().expect("a mount point");
        assert!(why.contains("/proc is mounted"), "{why}");
        assert!(!is_mounted(Path::new("/proc/self")));
    }

    #[test]
    fn a_file_that_holds_no_password_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("secret");
        for text in ["", "\n", "a\nb\n"] {
            fs::write(&path, text).expect("writable");
            let why = SecretFile::new(&path).current().map(|_| ()).unwrap_err();
            assert!(why.contains("secret must hold one line"), "{why}");
        }
    }
}
