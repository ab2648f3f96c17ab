//! A process that is killed loses nothing.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::journal::{Journal, Verdict};
use crate::{Dice, child, number};

#[tokio::test]
async fn a_writer_killed_at_any_moment_loses_nothing_it_was_told_is_safe() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().join("node");
    let mut dice = Dice::new(0x6b69);
    let mut journal = Journal::default();
    let (rounds, begun) = (number("HA_RAFT_KILL_ROUNDS", 200), Instant::now());
    for round in 0..rounds {
        let mut writer = child::command(&[], "write", &root)
            .env(child::SALT, round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        // Some are killed while they open the store, most while they write.
        if !dice.chance(10) {
            while !journal.take(&lines.next().unwrap().unwrap()) {}
        }
        std::thread::sleep(Duration::from_micros(dice.below(60_000)));
        writer.kill().unwrap();
        for line in lines {
            journal.take(&line.unwrap());
        }
        writer.wait().unwrap();
        match journal.check(&root).await {
            Verdict::Whole => {}
            lost => panic!("round {round}: {lost:?}"),
        }
    }
    eprintln!(
        "figure: {rounds} kills, {} entries acknowledged, {:?}",
        journal.acknowledged(),
        begun.elapsed()
    );
    assert!(journal.acknowledged() > 1000, "it hardly wrote");
}
