use std::collections::BTreeMap;

use super::*;
use crate::adopt::journal::{NewFile, Phase};

/// Everything below a directory, by path; the directory that a test is in goes.
type Tree = BTreeMap<PathBuf, String>;

fn tree(root: &Path) -> Tree {
    let mut found = Tree::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_owned();
            if path.is_dir() {
                found.insert(name, "directory".to_owned());
                todo.push(path);
            } else {
                // Notes and journals name where they are.
                let text = fs::read_to_string(&path).unwrap();
                found.insert(name, text.replace(&root.display().to_string(), ""));
            }
        }
    }
    found
}

/// What a server left: a database with a file of the user's, and a directory named as our logs are.
fn make(pgdata: &Path, standby: bool) {
    for dir in ["global", "base/1", "pg_wal", "pg_replslot/users_own", "log"] {
        fs::create_dir_all(pgdata.join(dir)).unwrap();
    }
    let files = [
        ("PG_VERSION", "17\n"),
        ("global/pg_control", "control"),
        ("base/1/1259", "rows"),
        ("log/old.log", "said"),
        ("postgresql.conf", "work_mem = 8MB\n"),
        ("postgresql.auto.conf", "primary_conninfo = 'host=x password=y'\nwork_mem = '9MB'\n"),
        ("pg_hba.conf", "local all all trust\n"),
    ];
    for (name, text) in files {
        fs::write(pgdata.join(name), text).unwrap();
    }
    if standby {
        fs::write(pgdata.join(SIGNAL), "").unwrap();
    }
}

/// Where old and new directory are, below the root of a test.
const SHAPES: [(&str, &str); 4] =
    // The volume's root into it; a directory of the volume beside; elsewhere; in place.
    [("v", "v/data"), ("v/18/docker", "v/data"), ("old", "new/pg/data"), ("v/data", "v/data")];

fn journal(root: &Path, (from, to): (&str, &str), origin: Origin) -> Journal {
    let (from, to) = (root.join(from), root.join(to));
    fs::create_dir_all(&from).unwrap();
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    make(&from, origin == Origin::Standby);
    let mut journal = Journal::new(origin, from, to);
    let found = fs::metadata(root).unwrap();
    journal.owner = (found.uid(), found.gid());
    journal.new_owner = journal.owner;
    journal.mode = fs::metadata(&journal.from).unwrap().permissions().mode() & 0o7777;
    let file = |name: &str| NewFile { name: name.to_owned(), text: format!("{name} of ours\n") };
    journal.files = vec![file(USER_HBA_FILE), file(USER_FILE), file(CONF)];
    journal.save().unwrap();
    journal.entries = entries(&journal).unwrap();
    journal.phase = Phase::Moving;
    journal.save().unwrap();
    journal
}

fn run(steps: &[Step], journal: &Journal) {
    for step in steps {
        apply(step, journal).unwrap_or_else(|why| panic!("{step:?}: {why}"));
    }
}

/// What the agent and its server do to the directory once it is theirs.
fn serve(journal: &Journal) {
    let auto = journal.to.join(AUTO_CONF);
    fs::write(auto, "work_mem = '9MB'\nmaintenance_work_mem = '1GB'\n").unwrap();
    fs::write(journal.to.join("haclt.conf"), "x").unwrap();
    fs::write(journal.to.join(CONF), "other\ninclude 'haclt.conf'\n").unwrap();
    fs::create_dir_all(journal.to.join("pg_replslot/n2")).unwrap();
    fs::write(journal.to.join("pg_replslot/n2/state"), "x").unwrap();
    let mut run_dir = journal.to.as_os_str().to_owned();
    run_dir.push(".haclt");
    fs::create_dir_all(run_dir).unwrap();
    fs::write(journal.to.join("base/1/1259"), "more rows").unwrap();
    if journal.origin == Origin::Primary {
        fs::write(journal.to.join(SIGNAL), "").unwrap();
    }
}

/// Takes it back, up to so many steps; returns whether there were no more.
fn undo(journal: &Journal, most: usize) -> bool {
    let first = restoring(journal, &["n2", "n3"].map(str::to_owned));
    run(&first[..most.min(first.len())], journal);
    let Some(left) = most.checked_sub(first.len()) else { return false };
    let rest = returning(journal).unwrap();
    run(&rest[..left.min(rest.len())], journal);
    left >= rest.len()
}

fn every(body: impl Fn(&Path, (&str, &str), Origin)) {
    for shape in SHAPES {
        for origin in [Origin::Primary, Origin::Standby] {
            let root = tempfile::tempdir().unwrap();
            body(root.path(), shape, origin);
        }
    }
}

fn startable(dir: &Path) -> bool {
    ["PG_VERSION", "global", "base", "postgresql.conf", "pg_wal"]
        .iter()
        .all(|n| dir.join(n).exists())
}

#[test]
fn an_adoption_that_is_cut_off_between_any_two_steps_can_be_repeated_and_undone() {
    every(|root, shape, origin| {
        let whole = journal(&root.join("whole"), shape, origin);
        let before = {
            let mut before = tree(&root.join("whole"));
            before.retain(|name, _| !name.to_string_lossy().contains(".adopted"));
            before
        };
        let steps = forward(&whole);
        run(&steps, &whole);
        let adopted = tree(&root.join("whole"));
        assert_eq!(fs::read_to_string(whole.to.join("base/1/1259")).unwrap(), "rows");
        assert_eq!(fs::read_to_string(whole.to.join(CONF)).unwrap(), "postgresql.conf of ours\n");
        for cut in 0..=steps.len() {
            let again = root.join(format!("again-{cut}"));
            let cut_off = journal(&again, shape, origin);
            run(&steps[..cut], &cut_off);
            if !cut_off.in_place() && cut > 0 && cut < steps.len() {
                let marked = mark(&cut_off.to).exists();
                assert!(marked, "nothing keeps haclt away after {:?}", &steps[cut - 1]);
                let moved = cut_off.to.join("global").exists();
                assert!(!moved || !startable(&cut_off.from), "it could start after {cut}");
            }
            run(&steps, &cut_off);
            assert_eq!(tree(&again), adopted, "{shape:?}, {origin:?} after {cut}");
            let undone = root.join(format!("undone-{cut}"));
            let cut_off = journal(&undone, shape, origin);
            run(&steps[..cut], &cut_off);
            assert!(undo(&cut_off, usize::MAX));
            assert_eq!(tree(&undone), before, "{shape:?}, {origin:?} after {cut}");
        }
    });
}

#[test]
fn an_undo_that_is_cut_off_between_any_two_steps_can_be_repeated() {
    every(|root, shape, origin| {
        let whole = journal(&root.join("0"), shape, origin);
        run(&forward(&whole), &whole);
        serve(&whole);
        assert!(undo(&whole, usize::MAX));
        let back = tree(&root.join("0"));
        assert!(startable(&whole.from));
        assert_eq!(fs::read_to_string(whole.from.join("base/1/1259")).unwrap(), "more rows");
        assert_eq!(fs::read_to_string(whole.from.join(CONF)).unwrap(), "work_mem = 8MB\n");
        let auto = fs::read_to_string(whole.from.join(AUTO_CONF)).unwrap();
        let wanted = "work_mem = '9MB'\nmaintenance_work_mem = '1GB'\n\
                      primary_conninfo = 'host=x password=y'\n";
        assert_eq!(auto, wanted);
        let names: Vec<String> = back.keys().map(|name| name.display().to_string()).collect();
        let ours = names.iter().find(|n| n.contains("haclt") || n.contains("/n2"));
        assert_eq!(ours, None, "{names:?}");
        assert!(names.iter().any(|name| name.ends_with("users_own")));
        assert_eq!(whole.from.join(SIGNAL).exists(), origin == Origin::Standby);
        for cut in 0.. {
            let again = root.join(format!("{}", cut + 1));
            let cut_off = journal(&again, shape, origin);
            run(&forward(&cut_off), &cut_off);
            serve(&cut_off);
            if undo(&cut_off, cut) {
                break;
            }
            assert!(undo(&cut_off, usize::MAX));
            assert_eq!(tree(&again), back, "{shape:?}, {origin:?} after {cut}");
        }
    });
}

#[test]
fn a_directory_that_was_there_gets_the_mode_of_the_old_one() {
    let root = tempfile::tempdir().unwrap();
    let mut journal = journal(root.path(), ("v", "v/data"), Origin::Primary);
    fs::create_dir(&journal.to).unwrap();
    fs::set_permissions(&journal.to, fs::Permissions::from_mode(0o755)).unwrap();
    journal.mode = 0o750;
    run(&forward(&journal), &journal);
    assert_eq!(fs::metadata(&journal.to).unwrap().permissions().mode() & 0o7777, 0o750);
}

#[test]
fn logs_of_ours_where_the_old_server_had_its_own_make_way() {
    let root = tempfile::tempdir().unwrap();
    let journal = journal(root.path(), ("v", "v/data"), Origin::Primary);
    run(&forward(&journal), &journal);
    fs::create_dir(journal.from.join("log")).unwrap();
    fs::write(journal.from.join("log/guard.log"), "ours").unwrap();
    assert!(undo(&journal, usize::MAX));
    assert_eq!(fs::read_to_string(journal.from.join("log/old.log")).unwrap(), "said");
    assert_eq!(fs::read_to_string(journal.from.join("haclt-log-1/guard.log")).unwrap(), "ours");
}

#[test]
fn a_standby_that_goes_back_has_what_its_data_asks_for_rule_65() {
    let root = tempfile::tempdir().unwrap();
    let mut journal = journal(root.path(), ("v", "v/data"), Origin::Standby);
    run(&forward(&journal), &journal);
    fs::write(journal.to.join(AUTO_CONF), "max_wal_senders = '5'\n").unwrap();
    journal.raised = BTreeMap::from([("max_wal_senders".to_owned(), 16)]);
    assert!(undo(&journal, usize::MAX));
    let auto = fs::read_to_string(journal.from.join(AUTO_CONF)).unwrap();
    assert_eq!(auto, "primary_conninfo = 'host=x password=y'\nmax_wal_senders = '16'\n");
}

#[test]
fn what_is_on_both_sides_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let journal = journal(root.path(), ("old", "new/data"), Origin::Primary);
    fs::create_dir_all(journal.to.join("base")).unwrap();
    let error = forward(&journal).iter().find_map(|step| apply(step, &journal).err());
    let error = error.unwrap();
    assert!(error.starts_with("both ") && error.contains("base"), "{error}");
}
