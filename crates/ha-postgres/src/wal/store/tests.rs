use std::fmt::Write as _;
use std::fs;

use tempfile::TempDir;

use super::super::files;
use super::super::made::{SEGMENT, Writer};
use super::*;

fn switch(timeline: u32, end: u64) -> TimelineSwitch {
    TimelineSwitch { timeline: TimelineId(timeline), end: Lsn(end) }
}

fn at(timeline: u32, lsn: u64) -> WalPosition {
    WalPosition { timeline: TimelineId(timeline), lsn: Lsn(lsn) }
}

fn store() -> (TempDir, WalStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = WalStore::open(dir.path().join("wal")).unwrap();
    (dir, store)
}

fn names(store: &WalStore) -> Vec<String> {
    let entries = fs::read_dir(store.dir()).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Timeline 1 from segment 2 on, with records that cross segments, up to `end` at least.
fn fill(store: &WalStore, end: u64) -> Writer {
    let mut writer = Writer::new(2, 1);
    while writer.at() < end {
        writer.record(7000);
    }
    writer.files(store.dir(), true);
    writer
}

/// Timeline `to`, which begins at the end of `from`: its first segment begins as that of `from` ends.
fn branch(store: &WalStore, from: &Writer, to: u32, records: usize) -> Writer {
    let fork = from.at();
    let mut writer = from.clone();
    let begin = fork / SEGMENT * SEGMENT;
    writer.bytes.drain(..usize::try_from(begin - from.begin).unwrap());
    writer.begin = begin;
    writer.timeline = to;
    for _ in 0..records {
        writer.record(7000);
    }
    writer.files(store.dir(), true);
    let mut history =
        fs::read_to_string(store.dir().join(format!("{:08X}.history", from.timeline)))
            .unwrap_or_default();
    writeln!(history, "{}\t{}\tno reason", from.timeline, Lsn(fork)).unwrap();
    fs::write(store.dir().join(format!("{to:08X}.history")), history).unwrap();
    writer
}

#[test]
fn an_empty_store_has_no_tip() {
    let (_dir, store) = store();
    assert_eq!(store.tip().unwrap(), None);
    assert_eq!(store.prune(Lsn(u64::MAX)).unwrap(), Pruned::default());
    assert_eq!(store.enforce(0).unwrap(), None);
    // Just made by the receiver.
    fs::write(store.dir().join("000000010000000000000002.partial"), vec![0; 1 << 20]).unwrap();
    assert_eq!(store.tip().unwrap(), None);
}

#[test]
fn the_tip_is_the_end_of_the_whole_records_and_tells_how_far_back_they_go() {
    let (_dir, store) = store();
    let writer = fill(&store, 5 * SEGMENT + 9000);
    let end = at(1, writer.at());
    let tip = store.tip().unwrap().unwrap();
    let oldest = Lsn(2 * SEGMENT);
    let expected = Tip { end, written: end, history: vec![], oldest, damaged: None };
    assert_eq!(tip, expected);
    // A gap: what lies before it does not count.
    fs::remove_file(store.dir().join("000000010000000000000003")).unwrap();
    assert_eq!(store.tip().unwrap().unwrap().oldest, Lsn(4 * SEGMENT));
}

#[test]
fn a_cut_or_damaged_last_segment_is_told_and_no_error() {
    let (_dir, store) = store();
    let writer = fill(&store, 5 * SEGMENT + 90_000);
    let file = store.dir().join("000000010000000000000005.partial");
    let bytes = fs::read(&file).unwrap();
    for length in [1, 10, 39, 40, 41, 100, 8192, 8200, 50_001, 80_000] {
        fs::write(&file, &bytes[..length]).unwrap();
        let tip = store.tip().unwrap().unwrap();
        assert!(tip.damaged.is_some(), "cut at {length}: {tip:?}");
        assert!(tip.end.lsn.0 <= 5 * SEGMENT + length as u64, "cut at {length}: {tip:?}");
        assert!(tip.end.lsn.0 >= 5 * SEGMENT - 7100, "cut at {length}: {tip:?}");
        assert!(tip.written >= tip.end);
    }
    for index in [0, 9, 33, 60_000] {
        let mut bytes = bytes.clone();
        bytes[index] ^= 0xFF;
        fs::write(&file, &bytes).unwrap();
        let tip = store.tip().unwrap().unwrap();
        let said = tip.damaged.clone().unwrap_or_default();
        assert!(said.contains("0005.partial"), "byte {index}: {tip:?}");
        assert!(tip.end.lsn.0 < writer.at());
        assert!(tip.end.lsn.0 >= 5 * SEGMENT - 7100, "byte {index}: {tip:?}");
    }
    // Alone and unreadable.
    let (_other, store) = self::store();
    fs::write(store.dir().join("000000010000000000000005"), &bytes[..20]).unwrap();
    let tip = store.tip().unwrap().unwrap();
    assert_eq!(tip.end, at(1, 0));
    assert!(tip.damaged.is_some());
}

#[test]
fn a_new_timeline_counts_once_there_is_more_of_it_than_of_the_old_one() {
    let (_dir, store) = store();
    let old = fill(&store, 4 * SEGMENT + 90_000);
    let new = branch(&store, &old, 2, 3);
    let tip = store.tip().unwrap().unwrap();
    let fork = old.at();
    assert_eq!((tip.end, tip.history), (at(2, new.at()), vec![switch(1, fork)]));
    assert_eq!(tip.oldest, Lsn(2 * SEGMENT));
    // Only a part of the shared beginning has come of the new one.
    let file = store.dir().join("000000020000000000000004.partial");
    let whole = fs::read(&file).unwrap();
    let mut bytes = whole.clone();
    bytes[40_000..].fill(0);
    fs::write(&file, &bytes).unwrap();
    let tip = store.tip().unwrap().unwrap();
    assert_eq!((tip.end, tip.history), (at(1, fork), vec![]));
    assert_eq!(tip.written, at(1, fork));
    fs::write(&file, vec![0; 1 << 20]).unwrap();
    assert_eq!(store.tip().unwrap().unwrap().end, at(1, fork));
    // Without its history file nobody can say what it is.
    fs::write(&file, whole).unwrap();
    fs::remove_file(store.dir().join("00000002.history")).unwrap();
    assert!(matches!(store.tip(), Err(WalError::Missing { .. })));
}

#[test]
fn a_server_that_replays_an_old_timeline_has_what_lies_on_its_disk_of_the_newer_ones() {
    let (_dir, store) = store();
    let old = fill(&store, 4 * SEGMENT + 90_000);
    let new = branch(&store, &old, 2, 3);
    let partial = |name: &str| store.dir().join(format!("{name}.partial"));
    for name in ["000000010000000000000004", "000000020000000000000004"] {
        fs::rename(partial(name), store.dir().join(name)).unwrap();
    }
    let fork = old.at();
    let replayed = files::tip_of_local(store.dir(), at(1, fork)).unwrap();
    assert_eq!((replayed.end, replayed.history), (at(2, new.at()), vec![switch(1, fork)]));
    // Past the fork it has another history than that timeline.
    let past = files::tip_of_local(store.dir(), at(1, fork + 8)).unwrap();
    assert_eq!(past.end.timeline, TimelineId(1));
}

#[test]
fn pruning_takes_what_ends_before_and_leaves_the_last() {
    let (_dir, store) = store();
    let old = fill(&store, 4 * SEGMENT + 90_000);
    let new = branch(&store, &old, 2, 400);
    assert_eq!(store.prune(Lsn(2 * SEGMENT)).unwrap(), Pruned::default());
    assert_eq!(store.prune(Lsn(3 * SEGMENT + 5)).unwrap(), Pruned { files: 1, bytes: SEGMENT });
    assert_eq!(store.prune(Lsn(3 * SEGMENT + 5)).unwrap(), Pruned::default());
    store.prune(Lsn(5 * SEGMENT)).unwrap();
    let last = format!(
        "{}.partial",
        super::super::files::segment_name(TimelineId(2), new.at() / SEGMENT, SEGMENT,)
    );
    assert!(names(&store).iter().all(|name| !name.starts_with("00000001")), "{:?}", names(&store));
    store.prune(Lsn(u64::MAX)).unwrap();
    assert_eq!(names(&store), ["00000002.history".to_owned(), last]);
    // The record that goes on into it cannot be checked any more, but the ones behind it can.
    assert_eq!(store.tip().unwrap().unwrap().end, at(2, new.at()));
}

#[test]
fn the_bound_drops_the_oldest_and_never_the_last_two() {
    let (_dir, store) = store();
    fill(&store, 7 * SEGMENT + 90_000);
    assert_eq!(store.bytes().unwrap(), 6 * SEGMENT);
    assert_eq!(store.enforce(6 * SEGMENT).unwrap(), None);
    let dropped = Dropped { up_to: Lsn(4 * SEGMENT), bytes: 2 * SEGMENT };
    assert_eq!(store.enforce(5 * SEGMENT - 1).unwrap(), Some(dropped));
    let dropped = Dropped { up_to: Lsn(6 * SEGMENT), bytes: 2 * SEGMENT };
    assert_eq!(store.enforce(0).unwrap(), Some(dropped));
    assert_eq!(store.enforce(0).unwrap(), None);
    assert_eq!(names(&store).len(), 2);
}

#[test]
fn wal_past_the_fork_is_set_aside() {
    let (_dir, store) = store();
    let old = fill(&store, 5 * SEGMENT + 90_000);
    // The primary left timeline 1 at its very end: nothing is in the way.
    let (end, one) = (old.at(), TimelineId(2));
    assert_eq!(store.set_aside(one, &[switch(1, end)]).unwrap(), None);
    assert_eq!(store.set_aside(TimelineId(1), &[]).unwrap(), None);
    // It left earlier.
    let fork = 4 * SEGMENT + 4096;
    let aside = store.set_aside(one, &[switch(1, fork)]).unwrap().unwrap();
    let path = store.dir().join("aside-1-0-401000");
    assert_eq!(aside, SetAside { path: path.clone(), fork: at(1, fork), segments: 2 });
    assert!(path.join("000000010000000000000004").exists());
    assert!(path.join("000000010000000000000005.partial").exists());
    // What lies before the fork may be acknowledged: it stays until it was fetched anew.
    let left = [
        "000000010000000000000002",
        "000000010000000000000003",
        "000000010000000000000004.partial",
        "aside-1-0-401000",
    ];
    assert_eq!(names(&store), left);
    let cut = fs::read(store.dir().join(left[2])).unwrap();
    let whole = fs::read(path.join("000000010000000000000004")).unwrap();
    assert_eq!((cut.len(), &cut[..4096]), (whole.len(), &whole[..4096]));
    assert!(cut[4096..].iter().all(|byte| *byte == 0));
    assert_eq!(store.set_aside(one, &[switch(1, fork)]).unwrap(), None, "again");
    let end = store.tip().unwrap().unwrap().end.lsn.0;
    assert!(end > 3 * SEGMENT && end <= fork, "{end:X}");
}

#[test]
fn a_branch_that_the_primary_never_was_on_is_set_aside_with_its_history() {
    let (_dir, store) = store();
    let old = fill(&store, 3 * SEGMENT + 90_000);
    let _branch = branch(&store, &old, 2, 3);
    let fork = old.at();
    let aside = store.set_aside(TimelineId(3), &[switch(1, fork)]).unwrap().unwrap();
    assert_eq!((aside.fork, aside.segments), (at(1, fork), 1));
    assert!(aside.path.join("00000002.history").exists());
    assert_eq!(store.tip().unwrap().unwrap().end, at(1, fork));
    // A timeline of the same number that began elsewhere.
    let _branch = branch(&store, &old, 2, 3);
    let elsewhere = [switch(1, fork + 8)];
    let aside = store.set_aside(TimelineId(2), &elsewhere).unwrap().unwrap();
    assert_eq!(aside.fork, at(1, fork));
    assert_eq!(store.set_aside(TimelineId(2), &elsewhere).unwrap(), None);
}

#[test]
fn only_the_newest_three_asides_are_kept() {
    let (_dir, store) = store();
    for end in (1..=5).rev() {
        fill(&store, 7 * SEGMENT + 90_000);
        let fork = (end + 2) * SEGMENT;
        store.set_aside(TimelineId(2), &[switch(1, fork)]).unwrap().unwrap();
    }
    let asides: Vec<String> =
        names(&store).into_iter().filter(|name| name.starts_with("aside-")).collect();
    assert_eq!(asides.len(), 3, "{asides:?}");
    assert!(asides.contains(&"aside-1-0-300000".to_owned()), "{asides:?}");
}

#[test]
fn what_a_node_needs_is_given_under_the_names_the_server_looks_for() {
    use super::super::files::{Piece, serve};
    let (_dir, store) = store();
    let old = fill(&store, 4 * SEGMENT + 90_000);
    let new = branch(&store, &old, 2, 200);
    let history = [switch(1, old.at())];
    let to = at(2, new.at());
    let pieces = serve(store.dir(), at(1, 3 * SEGMENT + 100), to, &history).unwrap();
    let told = |piece: &Piece| (piece.name.clone(), piece.bytes, piece.segment_bytes);
    let history_bytes = fs::metadata(store.dir().join("00000002.history")).unwrap().len();
    let expected = [
        ("00000002.history".to_owned(), history_bytes, history_bytes),
        ("000000010000000000000003".to_owned(), SEGMENT, SEGMENT),
        ("000000020000000000000004".to_owned(), SEGMENT, SEGMENT),
        ("000000020000000000000005".to_owned(), new.at() - 5 * SEGMENT, SEGMENT),
    ];
    assert_eq!(pieces.iter().map(told).collect::<Vec<_>>(), expected);
    assert!(pieces.iter().all(|piece| piece.open().is_ok()));
    // On the same timeline no history is needed; nothing is needed by who has all.
    let same = serve(store.dir(), at(2, 4 * SEGMENT + 8), to, &history).unwrap();
    assert_eq!(same.len(), 2);
    assert_eq!(serve(store.dir(), to, to, &history).unwrap(), []);
    fs::remove_file(store.dir().join("000000010000000000000003")).unwrap();
    let error = serve(store.dir(), at(1, 3 * SEGMENT), to, &history).unwrap_err();
    assert!(error.to_string().contains("000000010000000000000003 is not in"), "{error}");
    assert!(serve(store.dir(), at(1, old.at()), to, &history).is_ok());
    fs::remove_file(store.dir().join("00000002.history")).unwrap();
    let error = serve(store.dir(), at(1, old.at()), to, &history).unwrap_err();
    assert!(error.to_string().contains("00000002.history is not in"), "{error}");
}

#[test]
fn flushing_needs_no_wal() {
    let (_dir, store) = store();
    store.sync().unwrap();
    fill(&store, 3 * SEGMENT + 9000);
    store.sync().unwrap();
}
