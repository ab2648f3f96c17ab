//! The writer, in a process of its own.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use ha_raft::log_store::LogStore;
use ha_raft::types::{LogId, log_id, term_of};
use openraft::RaftLogReader;
use openraft::storage::RaftLogStorage;

use crate::{Dice, journal, number, size};

/// Says what this process is to do instead of the tests.
pub(crate) const MODE: &str = "HA_RAFT_CHILD";
const DIR: &str = "HA_RAFT_CHILD_DIR";
pub(crate) const SALT: &str = "HA_RAFT_CHILD_SALT";
pub(crate) const STEPS: &str = "HA_RAFT_CHILD_STEPS";
/// Keep the live log about this long.
const KEEP: u64 = 400;

/// Returns the command line that runs this binary as a child.
pub(crate) fn command(wrapper: &[&OsStr], mode: &str, dir: &Path) -> Command {
    let own = std::env::current_exe().unwrap();
    let mut line: Vec<&OsStr> = wrapper.to_vec();
    line.push(own.as_os_str());
    let mut command = Command::new(line[0]);
    command
        .args(&line[1..])
        .args(["child::does_what_it_is_told", "--exact", "--nocapture", "--test-threads=1"])
        .env(MODE, mode)
        .env(DIR, dir);
    command
}

/// Does nothing unless it is a child.
#[test]
fn does_what_it_is_told() {
    let Ok(mode) = std::env::var(MODE) else { return };
    let dir = PathBuf::from(std::env::var_os(DIR).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match mode.as_str() {
            "write" => write(&dir, false).await,
            "write and die" => {
                write(&dir, false).await;
                // Without closing anything, as a power cut or the kernel's memory killer would.
                rustix::process::kill_process(
                    rustix::process::getpid(),
                    rustix::process::Signal::KILL,
                )
                .unwrap();
            }
            "write trusting sled" => write(&dir, true).await,
            "size" => size::measure(&dir).await,
            other => panic!("a child cannot {other}"),
        }
    });
}

/// Says a line at once: whoever reads it must have it even if this process is killed right after.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Writes to the store, for ever or as many steps as it is told.
async fn write(dir: &Path, trust_sled: bool) {
    let mut store = journal::open(dir, trust_sled).await.unwrap();
    say("@open");
    let mut dice = Dice::new(number(SALT, 7));
    let steps = number(STEPS, u64::MAX);
    let (mut term, mut purged) = resume(&mut store).await;
    for _ in 0..steps {
        let state = store.get_log_state().await.unwrap();
        let next = state.last_log_id.map_or(0, |id| id.index + 1);
        let begin = purged.map_or(0, |index| index + 1);
        match dice.below(100) {
            0..80 => {
                let count = 1 + dice.below(12);
                journal::append(&mut store, term, next..next + count).await.unwrap();
                say(&format!("@append {term} {next} {}", next + count - 1));
            }
            80..88 => {
                term += 1;
                store.save_vote(&journal::vote(term)).await.unwrap();
                say(&format!("@vote {term}"));
            }
            88..94 => {
                store.save_committed(state.last_log_id).await.unwrap();
            }
            94..98 if next > begin => {
                let from = next.saturating_sub(1 + dice.below(40)).max(begin);
                say(&format!("@truncate {from}"));
                let keep = before(&mut store, from).await;
                store.truncate_after(keep).await.unwrap();
                term += 1;
            }
            _ if next > begin + KEEP => {
                let upto = next - KEEP / 2;
                say(&format!("@purge {upto}"));
                let id = before(&mut store, upto + 1).await.unwrap();
                store.purge(id).await.unwrap();
                purged = Some(upto);
            }
            _ => {}
        }
    }
    if std::env::var(MODE).unwrap() != "write and die" {
        store.close().await;
    }
    say("@end");
}

/// Returns a term for new entries, and up to where the log is purged.
async fn resume(store: &mut LogStore) -> (u64, Option<u64>) {
    let state = store.get_log_state().await.unwrap();
    let voted = store.read_vote().await.unwrap().map_or(0, |vote| vote.leader_id.term);
    let last = state.last_log_id.map_or(0, |id| term_of(&id));
    (voted.max(last) + 1, state.last_purged_log_id.map(|id| id.index))
}

/// Returns the log id right before an index.
async fn before(store: &mut LogStore, index: u64) -> Option<LogId> {
    let at = index.checked_sub(1)?;
    let found = store.try_get_log_entries(at..=at).await.unwrap();
    let purged = store.get_log_state().await.unwrap().last_purged_log_id;
    found.first().map(|entry| log_id(term_of(&entry.log_id), at)).or(purged)
}
