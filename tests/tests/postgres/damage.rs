//! Files that are damaged, gone, or of somebody else; wrong passwords.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use ha_tests::by_hand::initdb;
use ha_tests::{Plan, logs, scenario, status, wait, within};

use super::FAILOVER;

#[test]
fn a_wrong_superuser_password_is_named_and_demotes_nobody() {
    let plan = Plan::within(120).announces(&["cannot look at the database"]);
    scenario(plan.announces(&FAILOVER), async |c| {
        let (primary, _) = c.bootstrap().await;
        c.write().await;
        let before = c.healthy(within(10)).await;
        // Somebody changed it in the database, and not in the file.
        let change = "alter role postgres password 'changed-by-somebody'";
        c.node(&primary).sql(change).await.expect("a primary");
        c.trouble(&primary, "password authentication failed", within(30)).await;
        wait::always("it stays primary", within(6), async || {
            let Some(now) = c.node("n3").status().await else { return true };
            now.epoch == before.epoch && status::holder(&now) == primary
        })
        .await;
        c.more_writes(20, within(10)).await;
        let session = c.node(&primary).session_as("postgres", "changed-by-somebody").await;
        let back = format!("alter role postgres password '{}'", ha_tests::node::SUPERUSER_PASSWORD);
        session.expect("the new one").simple_query(&back).await.expect("a primary");
        c.healthy(within(30)).await;
    });
}

#[test]
fn a_wrong_replication_password_on_the_standby_is_named_and_mended_by_the_right_one() {
    let plan = Plan::within(150).announces(&FAILOVER).announces(&["step failed"]);
    scenario(plan, async |c| {
        let (primary, standby) = c.bootstrap().await;
        let wrong = c.base.join("wrong");
        fs::write(&wrong, "not-the-password\n").expect("a writable directory");
        let right = c.base.join("replication");
        c.node_mut(&standby).kill_everything();
        c.node_mut(&standby).config.text("postgres.replication_password_file", wrong.display());
        c.node_mut(&standby).start();
        c.trouble(&standby, "password authentication failed", within(40)).await;
        let status = c.primary_is(&primary, within(10)).await;
        assert_eq!((status.state.as_str(), status.epoch), ("degraded", 1));
        c.node_mut(&standby).kill_everything();
        c.node_mut(&standby).config.text("postgres.replication_password_file", right.display());
        c.node_mut(&standby).start();
        c.healthy(within(60)).await;
    });
}

#[test]
fn a_data_directory_of_another_cluster_is_refused_and_not_touched() {
    let plan = Plan::within(150).announces(&FAILOVER);
    scenario(plan.announces(&["cannot use the data directory"]), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.node_mut(&standby).kill_everything();
        let pgdata = c.node(&standby).pgdata();
        let own = pgdata.with_extension("own");
        fs::rename(&pgdata, &own).expect("its own directory");
        initdb(&pgdata, &c.base.join("foreign-password"));
        let before = listing(&pgdata);
        c.node_mut(&standby).start();
        let said = "belongs to another database cluster";
        let status = c.trouble(&standby, said, within(30)).await;
        assert_eq!(status::node(&status, &standby).rule, "data_broken");
        wait::always("nothing starts on it", within(4), async || {
            c.node(&standby).postmaster().is_none()
        })
        .await;
        assert_eq!(listing(&pgdata), before, "not a byte is touched");
        let status = c.primary_is(&primary, within(10)).await;
        assert_eq!(status.epoch, 1);
        // Its own directory comes back, and nobody has to restart anything.
        fs::rename(&pgdata, pgdata.with_extension("foreign")).expect("the foreign one");
        fs::rename(&own, &pgdata).expect("its own directory");
        c.healthy(within(60)).await;
    });
}

#[test]
fn a_data_directory_that_vanished_while_stopped_is_not_made_anew() {
    let plan = Plan::within(150).announces(&FAILOVER);
    scenario(plan.announces(&["cannot use the data directory", "guard ended"]), async |c| {
        let (_, standby) = c.bootstrap().await;
        c.node_mut(&standby).kill_everything();
        let pgdata = c.node(&standby).pgdata();
        let aside = pgdata.with_extension("away");
        fs::rename(&pgdata, &aside).expect("its own directory");
        c.node_mut(&standby).start();
        c.trouble(&standby, "data directory is missing", within(30)).await;
        wait::always("no clone over a mount that is away (rule 52)", within(4), async || {
            !pgdata.exists()
        })
        .await;
        fs::rename(&aside, &pgdata).expect("its own directory");
        c.healthy(within(60)).await;
    });
}

#[test]
fn a_data_directory_that_vanishes_under_a_running_standby_is_named() {
    let plan = Plan::within(150).announces(&FAILOVER);
    let plan = plan.announces(&[
        "cannot use the data directory",
        "database did not answer",
        "step failed",
    ]);
    scenario(plan, async |c| {
        let (primary, standby) = c.bootstrap().await;
        let pgdata = c.node(&standby).pgdata();
        let aside = pgdata.with_extension("away");
        fs::rename(&pgdata, &aside).expect("its own directory");
        // Within seconds its server notices that its lock file is gone, and ends.
        let status = c.await_status("it is said", within(100), |s| {
            !status::node(s, &standby).troubles.is_empty()
        });
        let status = status.await;
        c.say(&status::node(&status, &standby).troubles.join("; "));
        assert_eq!((status.epoch, status::holder(&status)), (1, primary.as_str()));
        assert!(!pgdata.exists(), "nothing is made in its place");
        fs::rename(&aside, &pgdata).expect("its own directory");
        c.healthy(within(60)).await;
    });
}

#[test]
fn a_damaged_raft_store_is_refused_with_its_name_and_the_cluster_goes_on_with_two() {
    let plan = Plan::within(120).announces(&["cannot use", "agent ended"]);
    scenario(plan, async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.write().await;
        let before = c.healthy(within(10)).await;
        c.node_mut("n3").kill_agent();
        let log = c.node("n3").raft_dir().join("store/log");
        let victims: Vec<PathBuf> = files(&log).into_iter().filter(|p| p.ends_with("db")).collect();
        assert!(!victims.is_empty(), "sled's file in {}", log.display());
        for path in victims {
            flip(&path);
        }
        c.node_mut("n3").start();
        let end = c.node_mut("n3").agent_end(within(30)).await;
        assert_eq!(end.code(), Some(1));
        let said = logs::read(&c.node("n3").log());
        let error = said.lines().rfind(|l| l.starts_with("error:")).expect("one clear line");
        assert!(error.contains("raft/store"), "it names the file: {error}");
        let hint = said.lines().rfind(|l| l.starts_with("hint:")).expect("and what to do");
        assert!(hint.contains("new name"), "{hint}");
        c.announce("error: could not open the Raft store");
        c.more_writes(50, within(20)).await;
        let status = c.primary_is(&primary, within(10)).await;
        assert_eq!(status.epoch, before.epoch);
        assert!(status::streams(&status, &standby));
        assert_eq!(status.state, "degraded", "{}", status.reason);
        c.end_writing().await;
    });
}

/// Inverts some bytes in the middle of a file.
fn flip(path: &Path) {
    let mut file = fs::OpenOptions::new().read(true).write(true).open(path).expect("a file");
    let length = file.metadata().expect("a file").len();
    // sled's file is larger than what it has written: damage the part that holds something.
    let mut content = Vec::new();
    file.read_to_end(&mut content).expect("a readable file");
    let used = content.iter().rposition(|byte| *byte != 0).unwrap_or(0);
    assert!(length > 0 && used > 0, "an empty file: {}", path.display());
    for at in (0..used).step_by(used / 20 + 1) {
        if let Some(byte) = content.get_mut(at) {
            *byte ^= 0xff;
        }
    }
    file.seek(SeekFrom::Start(0)).expect("a file");
    file.write_all(&content).expect("a writable file");
    file.sync_all().expect("a writable file");
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Returns every file with its size and time of change.
fn listing(dir: &Path) -> Vec<(PathBuf, u64, std::time::SystemTime)> {
    let mut found: Vec<_> = files(dir)
        .into_iter()
        .filter_map(|path| {
            let is = fs::metadata(&path).ok()?;
            Some((path, is.len(), is.modified().ok()?))
        })
        .collect();
    found.sort();
    found
}
