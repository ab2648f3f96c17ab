//! The secrets that this agent itself knows.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use ha_postgres::credentials::SecretFile;

use crate::config::Config;

/// Longer files hold no password.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Lines of a key that are shorter stand elsewhere too.
const KEY_LINE_LEAST: usize = 16;

/// Reads every secret that the configuration names. What cannot be read the agent does not know either.
pub(super) fn known(config: &Config) -> Vec<String> {
    let mut secrets = Vec::new();
    let mut passwords = Vec::new();
    if let Some(postgres) = &config.postgres {
        passwords.push(&postgres.superuser_password_file);
        passwords.push(&postgres.replication_password_file);
    }
    if let Some(witness) = &config.witness {
        passwords.extend(&witness.replication_password_file);
    }
    passwords.extend(config.bouncers.iter().filter_map(|bouncer| bouncer.password_file.as_ref()));
    // While a password is changed there is the next one beside it.
    let next = passwords.iter().map(|path| SecretFile::new(path).next_path());
    let all: Vec<_> = next.chain(passwords.iter().map(|path| (*path).clone())).collect();
    for text in all.iter().filter_map(|path| read(path)) {
        secrets.push(text.trim().to_owned());
        secrets.extend(text.lines().map(|line| line.trim().to_owned()));
    }
    for peer in config.fencing.peers.values() {
        let Some(text) = read(&peer.engine.key) else { continue };
        let lines = text.lines().filter(|line| !line.starts_with("-----"));
        secrets.extend(lines.filter(|line| line.len() >= KEY_LINE_LEAST).map(str::to_owned));
    }
    secrets
}

fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
