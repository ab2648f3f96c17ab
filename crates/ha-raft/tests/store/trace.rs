//! The system calls of a writer, as strace saw them, and the disk images they may leave behind.
//!
//! Run as `strace -f -y -xx`: every string is hexadecimal, so commas only separate arguments, and
//! every descriptor comes with its path.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::Dice;

/// What strace is asked to record: everything that changes files.
pub(crate) const CALLS: &str = "openat,open,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,\
     truncate,fallocate,fsync,fdatasync,sync_file_range,sync,syncfs,rename,renameat,renameat2,\
     unlink,unlinkat,mkdir,mkdirat,rmdir,link,linkat,symlink,symlinkat,lseek,mmap";

/// One thing that happened, in order.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// The writer said something.
    Said(String),
    Create(PathBuf),
    Write {
        path: PathBuf,
        at: u64,
        data: Vec<u8>,
    },
    Resize {
        path: PathBuf,
        length: u64,
    },
    /// A sync begins: what is written from here on is not in it.
    SyncBegins {
        path: PathBuf,
        number: usize,
    },
    SyncEnds {
        path: PathBuf,
        number: usize,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove(PathBuf),
    MakeDir(PathBuf),
}

/// Reads a trace; only what concerns `root` or the writer's words.
pub(crate) fn parse(text: &str, root: &Path) -> Vec<Event> {
    let mut parser = Parser { root: root.to_owned(), ..Parser::default() };
    for line in text.lines() {
        let (pid, rest) = line.trim_start().split_once(' ').unwrap();
        let rest = rest.trim_start();
        if rest.starts_with("+++") || rest.starts_with("---") {
            continue;
        }
        if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
            parser.begins(pid, begun);
            parser.unfinished.insert(pid.to_owned(), begun.to_owned());
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let begun = parser.unfinished.remove(pid).unwrap();
            let (_, end) = resumed.split_once(" resumed>").unwrap();
            parser.ends(pid, &format!("{begun}{end}"));
        } else {
            parser.begins(pid, rest);
            parser.ends(pid, rest);
        }
    }
    parser.events
}

#[derive(Default)]
struct Parser {
    root: PathBuf,
    events: Vec<Event>,
    unfinished: BTreeMap<String, String>,
    /// Where each descriptor stands, for writes without a position.
    offsets: BTreeMap<String, u64>,
    /// The number of each process's sync that has begun.
    syncs: BTreeMap<String, usize>,
    count: usize,
}

impl Parser {
    /// A call is made: its effect may follow at any time from here on.
    fn begins(&mut self, pid: &str, call: &str) {
        let (name, args) = split(call);
        match name {
            // What it says is out as soon as it is said.
            "write" if args[0].starts_with("1<") => {
                for line in String::from_utf8_lossy(&unhex(args[1])).lines() {
                    self.events.push(Event::Said(line.to_owned()));
                }
            }
            "fsync" | "fdatasync" => {
                if let Some(path) = self.own(&path_of(args[0])) {
                    self.count += 1;
                    self.syncs.insert(pid.to_owned(), self.count);
                    self.events.push(Event::SyncBegins { path, number: self.count });
                }
            }
            _ => {}
        }
    }

    /// A call has returned: its effect is there.
    fn ends(&mut self, pid: &str, call: &str) {
        let (call, result) = call.rsplit_once(" = ").unwrap();
        let (name, args) = split(call.trim_end());
        if result.starts_with('-') || result.starts_with('?') {
            return;
        }
        let fd = |at: usize| args[at].split('<').next().unwrap().to_owned();
        match name {
            "openat" => {
                self.offsets.insert(result.split('<').next().unwrap().to_owned(), 0);
                let path = named(args[1]);
                let Some(path) = self.own(&path) else { return };
                assert!(!args[2].contains("O_APPEND"), "{call}");
                if args[2].contains("O_CREAT") {
                    self.events.push(Event::Create(path.clone()));
                }
                if args[2].contains("O_TRUNC") {
                    self.events.push(Event::Resize { path, length: 0 });
                }
            }
            "write" if !args[0].starts_with("1<") => {
                let data = unhex(args[1]);
                let offset = self.offsets.entry(fd(0)).or_default();
                let at = *offset;
                *offset += data.len() as u64;
                if let Some(path) = self.own(&path_of(args[0])) {
                    self.events.push(Event::Write { path, at, data });
                }
            }
            "pwrite64" => {
                if let Some(path) = self.own(&path_of(args[0])) {
                    let (data, at) = (unhex(args[1]), args[3].parse().unwrap());
                    assert_eq!(result, data.len().to_string(), "a write was cut short");
                    self.events.push(Event::Write { path, at, data });
                }
            }
            "lseek" => {
                self.offsets.insert(fd(0), result.parse().unwrap());
            }
            "ftruncate" => {
                if let Some(path) = self.own(&path_of(args[0])) {
                    self.events.push(Event::Resize { path, length: args[1].parse().unwrap() });
                }
            }
            "fsync" | "fdatasync" => {
                if let Some(path) = self.own(&path_of(args[0])) {
                    let number = self.syncs.remove(pid).unwrap();
                    self.events.push(Event::SyncEnds { path, number });
                }
            }
            "rename" | "unlink" | "rmdir" | "mkdir" => self.named(name, &args),
            // The manual page calls it unsuitable to make anything durable.
            "sync_file_range" => {}
            _ => {
                let own = args.iter().any(|arg| {
                    let path = if arg.starts_with('"') { named(arg) } else { path_of(arg) };
                    self.own(&path).is_some()
                });
                // Reading through a mapping changes nothing.
                assert!(!own || name == "mmap" && !call.contains("MAP_SHARED"), "{call}");
            }
        }
    }

    /// A name has changed.
    fn named(&mut self, call: &str, args: &[&str]) {
        let Some(path) = self.own(&named(args[0])) else { return };
        self.events.push(match call {
            "rename" => Event::Rename { from: path, to: self.own(&named(args[1])).unwrap() },
            "mkdir" => Event::MakeDir(path),
            _ => Event::Remove(path),
        });
    }

    fn own(&self, path: &Path) -> Option<PathBuf> {
        path.strip_prefix(&self.root).ok().map(Path::to_owned)
    }
}

fn split(call: &str) -> (&str, Vec<&str>) {
    let (name, args) = call.split_once('(').unwrap();
    let args = args.strip_suffix(')').unwrap_or(args);
    (name, args.split(", ").collect())
}

/// Returns the path behind a descriptor: `3<\x2f\x74>`.
fn path_of(arg: &str) -> PathBuf {
    let hex = arg.split_once('<').map_or("", |(_, rest)| rest.trim_end_matches('>'));
    PathBuf::from(String::from_utf8_lossy(&unhex(hex)).into_owned())
}

/// Returns the path a string is: `"\x2f\x74"`.
fn named(arg: &str) -> PathBuf {
    PathBuf::from(String::from_utf8_lossy(&unhex(arg)).into_owned())
}

fn unhex(text: &str) -> Vec<u8> {
    let text = text.trim_matches('"');
    text.split("\\x").skip(1).map(|byte| u8::from_str_radix(&byte[..2], 16).unwrap()).collect()
}

/// What a power cut does to what was written and not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Model {
    /// All of it is gone.
    Drop,
    /// The first writes of each file are there.
    Prefix,
    /// So they are, and the next one in part.
    Torn,
    /// Some writes are there, whatever their order.
    Random,
}

pub(crate) const MODELS: [Model; 4] = [Model::Drop, Model::Prefix, Model::Torn, Model::Random];

#[derive(Debug, Clone)]
enum Change {
    Write { at: u64, data: Vec<u8> },
    Resize(u64),
}

#[derive(Debug, Clone, Default)]
struct File {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Naming {
    Create { path: PathBuf, file: usize },
    MakeDir(PathBuf),
    Rename { from: PathBuf, to: PathBuf },
    Remove(PathBuf),
}

/// Names, as a directory tree has them.
#[derive(Debug, Clone, Default)]
struct Names {
    files: BTreeMap<PathBuf, usize>,
    dirs: BTreeSet<PathBuf>,
}

/// A disk: what is durable, and what is on its way.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    files: Vec<File>,
    now: Names,
    durable: Names,
    /// Changes of names since; they reach the disk in order.
    pending: Vec<Naming>,
    /// How many changes of which file, or of names, a sync that has begun covers.
    syncs: BTreeMap<usize, (Option<usize>, usize)>,
}

impl Disk {
    pub(crate) fn take(&mut self, event: &Event) {
        match event {
            Event::Said(_) => {}
            Event::Create(path) => {
                if !self.now.files.contains_key(path) {
                    self.files.push(File::default());
                    let file = self.files.len() - 1;
                    self.name(Naming::Create { path: path.clone(), file });
                }
            }
            Event::Write { path, at, data } => {
                let change = Change::Write { at: *at, data: data.clone() };
                self.file(path).pending.push(change);
            }
            Event::Resize { path, length } => self.file(path).pending.push(Change::Resize(*length)),
            Event::SyncBegins { path, number } => {
                let file = self.now.files.get(path).copied();
                let pending = file.map_or(self.pending.len(), |at| self.files[at].pending.len());
                self.syncs.insert(*number, (file, pending));
            }
            Event::SyncEnds { path, number } => self.synced(path, *number),
            Event::Rename { from, to } => {
                self.name(Naming::Rename { from: from.clone(), to: to.clone() });
            }
            Event::Remove(path) => self.name(Naming::Remove(path.clone())),
            Event::MakeDir(path) => self.name(Naming::MakeDir(path.clone())),
        }
    }

    fn synced(&mut self, path: &Path, number: usize) {
        let (file, covers) = self.syncs.remove(&number).unwrap();
        let count = if let Some(at) = file {
            let file = &mut self.files[at];
            for change in file.pending.drain(..covers) {
                change.apply(&mut file.durable);
            }
            covers
        } else {
            // The directory's own names, and whatever was named before them.
            let own = |naming: &Naming| naming.within(path);
            let upto = self.pending[..covers].iter().rposition(own).map_or(0, |at| at + 1);
            for naming in self.pending.drain(..upto) {
                self.durable.take(naming);
            }
            upto
        };
        // For a sync of the same that is still under way, these are done.
        for (_, left) in self.syncs.values_mut().filter(|(other, _)| *other == file) {
            *left = left.saturating_sub(count);
        }
    }

    fn name(&mut self, naming: Naming) {
        self.now.take(naming.clone());
        self.pending.push(naming);
    }

    fn file(&mut self, path: &Path) -> &mut File {
        let file =
            self.now.files.get(path).unwrap_or_else(|| panic!("unknown file {}", path.display()));
        &mut self.files[*file]
    }

    /// Writes what the disk may hold if the power fails now.
    pub(crate) fn image(&self, model: Model, dice: &mut Dice, root: &Path) {
        let mut names = self.durable.clone();
        let kept = if model == Model::Drop { 0 } else { dice.index(self.pending.len() + 1) };
        self.pending[..kept].iter().for_each(|naming| names.take(naming.clone()));
        fs::create_dir_all(root).unwrap();
        for dir in &names.dirs {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for (path, file) in &names.files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, self.files[*file].after(model, dice)).unwrap();
        }
    }
}

impl File {
    fn after(&self, model: Model, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        let whole = dice.index(self.pending.len() + 1);
        match model {
            Model::Drop => {}
            Model::Prefix => self.pending[..whole].iter().for_each(|c| c.apply(&mut bytes)),
            Model::Torn => {
                self.pending[..whole].iter().for_each(|c| c.apply(&mut bytes));
                if let Some(Change::Write { at, data }) = self.pending.get(whole) {
                    // Sectors are written whole, in any order.
                    for (number, sector) in data.chunks(512).enumerate() {
                        if dice.chance(50) {
                            let at = at + 512 * number as u64;
                            Change::Write { at, data: sector.to_vec() }.apply(&mut bytes);
                        }
                    }
                }
            }
            Model::Random => {
                for change in &self.pending {
                    if dice.chance(50) {
                        change.apply(&mut bytes);
                    }
                }
            }
        }
        bytes
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Resize(length) => bytes.resize(usize::try_from(*length).unwrap(), 0),
            Self::Write { at, data } => {
                let at = usize::try_from(*at).unwrap();
                bytes.resize(bytes.len().max(at + data.len()), 0);
                bytes[at..at + data.len()].copy_from_slice(data);
            }
        }
    }
}

impl Naming {
    fn within(&self, dir: &Path) -> bool {
        let path = match self {
            Self::Create { path, .. } | Self::MakeDir(path) | Self::Remove(path) => path,
            Self::Rename { to, .. } => to,
        };
        path.parent() == Some(dir)
    }
}

impl Names {
    fn take(&mut self, naming: Naming) {
        match naming {
            Naming::Create { path, file } => drop(self.files.insert(path, file)),
            Naming::MakeDir(path) => drop(self.dirs.insert(path)),
            Naming::Remove(path) => {
                self.files.remove(&path);
                self.dirs.remove(&path);
            }
            Naming::Rename { from, to } => {
                let moved = |path: &Path| {
                    let rest = path.strip_prefix(&from).ok()?;
                    Some(if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) })
                };
                let files = std::mem::take(&mut self.files).into_iter();
                let files: Vec<_> = files.collect();
                // What had the new name is gone.
                for (path, file) in &files {
                    if moved(path).is_none() {
                        self.files.insert(path.clone(), *file);
                    }
                }
                for (path, file) in &files {
                    self.files.extend(moved(path).map(|path| (path, *file)));
                }
                let dirs = std::mem::take(&mut self.dirs).into_iter();
                self.dirs = dirs.map(|path| moved(&path).unwrap_or(path)).collect();
            }
        }
    }
}
