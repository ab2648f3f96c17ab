use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use jepsen::disk::{Loss, Order};

use crate::support::Mounted;

fn sync(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

#[test]
fn what_was_synced_stays_and_what_was_not_is_gone() {
    let mut disk = Mounted::new();
    let [kept, lost, grown] = ["kept", "lost", "grown"].map(|name| disk.path(name));
    fs::write(&kept, "one").unwrap();
    fs::write(&grown, "begin").unwrap();
    sync(&kept);
    sync(&grown);
    fs::write(&lost, "two").unwrap();
    OpenOptions::new().append(true).open(&grown).unwrap().write_all(b" end").unwrap();
    assert_eq!(read(&grown).as_deref(), Some("begin end"));
    let said = disk.lose(Loss::All);
    assert_eq!(read(&kept).as_deref(), Some("one"), "{said}");
    assert_eq!(read(&lost), None, "{said}");
    assert_eq!(read(&grown).as_deref(), Some("begin"), "{said}");
    assert!(disk.unmount());
}

/// A way to have a file on the disk, and what is done.
type Way = (&'static str, fn(&Path));

#[test]
fn every_way_to_sync_is_one() {
    let mut disk = Mounted::new();
    let ways: [Way; 4] = [
        ("fsync", |path| {
            let mut file = File::create(path).unwrap();
            file.write_all(b"x").unwrap();
            file.sync_all().unwrap();
        }),
        ("fdatasync", |path| {
            let mut file = File::create(path).unwrap();
            file.write_all(b"x").unwrap();
            file.sync_data().unwrap();
        }),
        ("somebody else", |path| {
            fs::write(path, "x").unwrap();
            sync(path);
        }),
        ("O_DSYNC", |path| {
            let flags = rustix::fs::OFlags::DSYNC.bits().cast_signed();
            let mut made = OpenOptions::new();
            let mut file =
                made.write(true).create_new(true).custom_flags(flags).open(path).unwrap();
            file.write_all(b"x").unwrap();
        }),
    ];
    for (name, way) in ways {
        let path = disk.path(name);
        way(&path);
        let said = disk.lose(Loss::All);
        assert_eq!(read(&path).as_deref(), Some("x"), "{name}: {said}");
    }
}

#[test]
fn names_are_lost_in_the_order_in_which_they_came() {
    let mut disk = Mounted::new();
    let path = |name: &str| disk.path(name);
    let (old, new, removed, dir) = (path("old"), path("new"), path("removed"), path("dir"));
    for (path, text) in [(&old, "old"), (&new, "new"), (&removed, "removed")] {
        fs::write(path, text).unwrap();
        sync(path);
    }
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("inside"), "inside").unwrap();
    fs::rename(&new, &old).unwrap();
    fs::rename(&old, dir.join("moved")).unwrap();
    fs::remove_file(&removed).unwrap();
    fs::hard_link(dir.join("moved"), &removed).unwrap();
    std::os::unix::fs::symlink("somewhere", path("link")).unwrap();
    assert_eq!(fs::read_link(path("link")).unwrap(), Path::new("somewhere"));
    assert_eq!(read(&removed).as_deref(), Some("new"));
    disk.lose(Loss::All);
    assert_eq!(read(&old).as_deref(), Some("old"));
    assert_eq!(read(&new).as_deref(), Some("new"));
    assert_eq!(read(&removed).as_deref(), Some("removed"));
    assert!(!dir.exists() && fs::symlink_metadata(disk.path("link")).is_err());
    // What is on the disk is not undone any more, and nothing that was removed takes room.
    fs::rename(&new, &old).unwrap();
    sync(disk.path("").as_path());
    disk.lose(Loss::All);
    assert_eq!((read(&old).as_deref(), read(&new)), (Some("new"), None));
    assert_eq!(fs::read_dir(disk.behind().join("removed")).unwrap().count(), 0);
}

#[test]
fn by_seed_some_of_the_last_names_are_lost_and_no_earlier_one() {
    let mut disk = Mounted::new();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..8 {
        for n in 0..6 {
            fs::write(disk.path(&format!("{seed}-{n}")), "").unwrap();
        }
        disk.lose(Loss::Some(seed));
        let there: Vec<bool> = (0..6).map(|n| disk.path(&format!("{seed}-{n}")).exists()).collect();
        assert!(there.is_sorted_by(|a, b| a >= b), "{there:?}");
        seen.insert(there.iter().filter(|there| **there).count());
    }
    assert!(seen.len() > 2, "{seen:?}");
}

#[test]
fn a_disk_that_lies_loses_what_it_said_it_had() {
    let mut disk = Mounted::new();
    let path = disk.path("file");
    fs::write(&path, "before").unwrap();
    sync(&path);
    disk.order(&Order::Lying(true));
    fs::write(&path, "a lie").unwrap();
    sync(&path);
    disk.lose(Loss::All);
    assert_eq!(read(&path).as_deref(), Some("before"));
}

#[test]
fn a_full_disk_refuses_what_needs_room_and_nothing_else() {
    let mut disk = Mounted::new();
    let path = disk.path("file");
    fs::write(&path, "content").unwrap();
    disk.order(&Order::Full(true));
    let refused = |done: std::io::Result<()>| done.unwrap_err().kind() == ErrorKind::StorageFull;
    let mut file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all(b"CONTENT").unwrap();
    assert!(refused(file.write_all(b"more")));
    assert!(refused(fs::write(disk.path("new"), "")));
    assert!(refused(fs::create_dir(disk.path("dir"))));
    assert_eq!(rustix::fs::statvfs(disk.path("")).unwrap().f_bavail, 0);
    fs::rename(&path, disk.path("moved")).unwrap();
    disk.order(&Order::Full(false));
    file.write_all(b"more").unwrap();
    assert_eq!(read(&disk.path("moved")).as_deref(), Some("CONTENTmore"));
    assert!(rustix::fs::statvfs(disk.path("")).unwrap().f_bavail > 0);
}

#[test]
fn a_slow_disk_makes_writes_and_syncs_wait_and_reads_not() {
    let mut disk = Mounted::new();
    let path = disk.path("file");
    let took = |what: &dyn Fn()| {
        let began = Instant::now();
        what();
        began.elapsed()
    };
    let write = || fs::write(&path, "content").unwrap();
    let (at_least, at_most) = (Duration::from_millis(300), Duration::from_millis(290));
    assert!(took(&write) < at_most);
    disk.order(&Order::Slow(600, 300));
    assert!((at_least..at_least * 2).contains(&took(&write)));
    assert!(took(&|| sync(&path)) >= at_least * 2);
    assert!(took(&|| assert!(read(&path).is_some())) < at_most);
    disk.order(&Order::Slow(0, 0));
    assert!(took(&|| sync(&path)) < at_most);
}

#[test]
fn files_are_as_on_any_other_disk() {
    let disk = Mounted::new();
    let path = disk.path("file");
    let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    file.write_all(&content).unwrap();
    file.rewind().unwrap();
    let mut back = Vec::new();
    file.read_to_end(&mut back).unwrap();
    assert!(back == content);
    file.set_len(10).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(&path, Some(7), Some(8)).unwrap();
    let time = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000);
    file.set_modified(time).unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.len(), meta.mode() & 0o7777, meta.uid(), meta.gid()), (10, 0o640, 7, 8));
    assert_eq!(meta.modified().unwrap(), time);
    fs::remove_file(&path).unwrap();
    file.write_all(b"nobody names it").unwrap();
    fs::create_dir_all(disk.path("a/b")).unwrap();
    for n in 0..500 {
        fs::write(disk.path(&format!("a/b/file-with-a-long-name-{n}")), "").unwrap();
    }
    let names = fs::read_dir(disk.path("a/b")).unwrap();
    assert_eq!(names.collect::<Result<Vec<_>, _>>().unwrap().len(), 500);
    assert_eq!(fs::remove_dir(disk.path("a/b")).unwrap_err().kind(), ErrorKind::DirectoryNotEmpty);
    fs::remove_dir_all(disk.path("a")).unwrap();
    assert!(!disk.path("a").exists());
}

#[test]
fn no_power_is_cut_while_files_are_open() {
    let dir = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_jepsen"));
    let (behind, mount) = (dir.path().join("behind"), dir.path().join("disk"));
    let mut disk = jepsen::disk::Disk::mount(program, &behind, &mount).unwrap();
    let open = File::create(mount.join("file")).unwrap();
    let refused = disk.order(&Order::Lose(Loss::All)).unwrap_err().to_string();
    assert!(refused.contains("1 files are open"), "{refused}");
    drop(open);
    disk.order(&Order::Lose(Loss::All)).unwrap();
}
