//! A power cut loses nothing; and would, without our own sync.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::journal::{Journal, Verdict};
use crate::trace::{CALLS, Disk, Event, MODELS, Model, parse};
use crate::{Dice, child, number};

/// How often each thing happened.
#[derive(Debug, Default)]
struct Count {
    whole: u64,
    /// Cut before there was a store: there is none, and one can be made.
    fresh: u64,
    refused: u64,
    silent: u64,
}

/// Records the system calls of writers, one after the other on the same store; nothing if that is
/// not possible here.
fn record(modes: &[&str], steps: u64) -> Option<Vec<Event>> {
    let home = tempfile::tempdir().unwrap();
    // What strace shows is the path without links.
    let root = home.path().canonicalize().unwrap().join("node");
    let probe = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    if !probe.as_ref().is_ok_and(|out| out.status.success()) {
        eprintln!("SKIPPED: power cuts need strace and the right to use it: {probe:?}");
        return None;
    }
    let calls = format!("trace={}", CALLS.replace(' ', ""));
    let mut events = Vec::new();
    for (session, mode) in modes.iter().enumerate() {
        let log = home.path().join("trace");
        let mut wrapper =
            ["strace", "-f", "-y", "-xx", "-s", "4194304", "-e"].map(OsStr::new).to_vec();
        wrapper.extend([OsStr::new(&calls), OsStr::new("-o"), log.as_os_str()]);
        // How it ends is its own affair; that it came to its end, it says.
        child::command(&wrapper, mode, &root)
            .env(child::STEPS, steps.to_string())
            .env(child::SALT, session.to_string())
            .stdout(Stdio::null())
            .status()
            .unwrap();
        events.extend(parse(&std::fs::read_to_string(&log).unwrap(), &root));
        let ended = |event: &Event| matches!(event, Event::Said(line) if line == "@end");
        assert!(events.iter().rev().take(50).any(ended), "session {session} did not end");
    }
    Some(events)
}

/// Cuts the power at `cuts` moments, each under the next model, and looks at what is left.
async fn cut(events: &[Event], cuts: usize, dice: &mut Dice) -> BTreeMap<&'static str, Count> {
    let shm = Path::new("/dev/shm");
    let home = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
    // A third of the cuts right after the writer was told that something is safe, a twelfth while
    // the store is made or opened, the others anywhere.
    let said: Vec<_> = events
        .iter()
        .enumerate()
        .filter(|(_, event)| matches!(event, Event::Said(line) if line.starts_with('@')))
        .map(|(at, _)| at)
        .collect();
    // From the end of one session, or the very beginning, until the next has opened the store.
    let opening: Vec<_> = {
        let is = |at: &usize, word: &str| matches!(&events[*at], Event::Said(l) if l == word);
        let opened = said.iter().filter(|at| is(at, "@open"));
        let ended = std::iter::once(&0).chain(said.iter().filter(|at| is(at, "@end")));
        ended.zip(opened).flat_map(|(from, to)| *from..*to).collect()
    };
    let mut moments: Vec<_> = (0..cuts)
        .map(|number| match number % 12 {
            0..4 => said[dice.index(said.len())],
            4 => opening[dice.index(opening.len())],
            _ => dice.index(events.len()),
        })
        .collect();
    moments.sort_unstable();
    let mut moments = moments.into_iter().enumerate().peekable();
    let mut counts = BTreeMap::<_, Count>::new();
    let (mut disk, mut journal) = (Disk::default(), Journal::default());
    for (at, event) in events.iter().enumerate() {
        disk.take(event);
        if let Event::Said(line) = event {
            journal.take(line);
        }
        while let Some((number, _)) = moments.next_if(|(_, moment)| *moment == at) {
            let model = MODELS[number % MODELS.len()];
            let root = home.path().join(number.to_string());
            disk.image(model, dice, &root);
            let fresh = !root.join("store").exists();
            assert!(!(fresh && journal.opened), "the store itself is gone");
            let count = counts.entry(name(model)).or_default();
            match journal.check(&root).await {
                Verdict::Whole if fresh => count.fresh += 1,
                Verdict::Whole => count.whole += 1,
                Verdict::Refused(e) => {
                    count.refused += 1;
                    let line =
                        std::iter::successors(Some(&e as &dyn std::error::Error), |e| e.source());
                    let line: Vec<_> = line.map(ToString::to_string).collect();
                    eprintln!("cut {number} at event {at}, {model:?}: {}", line.join(": "));
                }
                Verdict::Silent(what) => {
                    count.silent += 1;
                    eprintln!("cut {number} at event {at}, {model:?}: SILENT: {what}");
                }
            }
            std::fs::remove_dir_all(&root).unwrap();
        }
    }
    counts
}

fn name(model: Model) -> &'static str {
    match model {
        Model::Drop => "drop",
        Model::Prefix => "prefix",
        Model::Torn => "torn",
        Model::Random => "random",
    }
}

#[tokio::test]
async fn a_power_cut_loses_nothing_that_was_acknowledged() {
    let sessions = ["write and die", "write", "write and die", "write and die"];
    let Some(events) = record(&sessions, number("HA_RAFT_POWER_STEPS", 250)) else { return };
    let cuts = usize::try_from(number("HA_RAFT_POWER_CUTS", 600)).unwrap();
    let begun = Instant::now();
    let counts = cut(&events, cuts, &mut Dice::new(0x7077)).await;
    eprintln!(
        "figure: {cuts} power cuts in {} events in {:?}: {counts:?}",
        events.len(),
        begun.elapsed()
    );
    let lost: u64 = counts.values().map(|count| count.refused + count.silent).sum();
    assert_eq!(lost, 0, "{counts:?}");
    assert!(counts.len() == 4 && counts.values().all(|count| count.whole > 0), "{counts:?}");
}

#[tokio::test]
async fn without_our_own_sync_the_same_cuts_lose_entries_and_the_witness_says_so() {
    let Some(events) = record(&["write trusting sled"], 200) else { return };
    let counts = cut(&events, 60, &mut Dice::new(0x7078)).await;
    eprintln!("figure: 60 power cuts without our sync: {counts:?}");
    let refused: u64 = counts.values().map(|count| count.refused).sum();
    let silent: u64 = counts.values().map(|count| count.silent).sum();
    assert!(refused > 20, "the harness cannot fail: {counts:?}");
    assert_eq!(silent, 0, "every loss is noticed: {counts:?}");
}
