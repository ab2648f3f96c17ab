//! The file that `haclt support-bundle` writes: a tar archive, compressed, complete or not there at all.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufReader, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use ha_core::redact::{REMOVED, Redactor, names_secret};
use serde::Serialize;
use serde_json::Value;
use tar::{Archive, Builder, EntryType, Header};

/// The version of the manifest's shape. Fields may be added.
const FORMAT: u32 = 1;
/// Only for whoever made it.
const MODE: u32 = 0o600;
/// More entries than any bundle has.
const LISTED_MAX: usize = 20_000;

/// A bundle that is being written. It is there once [`Bundle::finish`] has succeeded.
pub struct Bundle {
    target: PathBuf,
    scratch: Scratch,
    replace: bool,
    /// The directory that everything is in when it is unpacked.
    root: String,
    made_unix_s: u64,
    archive: Builder<GzEncoder<File>>,
    files: Vec<Entry>,
    left_out: Vec<LeftOut>,
}

/// The unfinished file, which goes with us.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // After it was renamed there is none.
        fs::remove_file(&self.0).ok();
    }
}

#[derive(Debug, Serialize)]
struct Entry {
    path: String,
    bytes: usize,
    origin: String,
}

#[derive(Debug, Serialize)]
struct LeftOut {
    path: String,
    what: String,
}

/// What the manifest says beside the list of files.
#[derive(Debug, Serialize)]
pub struct About<'a> {
    /// The cluster.
    pub cluster: &'a str,
    /// When it was made, milliseconds of Unix time.
    pub made_unix_ms: u64,
    /// By which version of `haclt`.
    pub haclt: &'a str,
    /// From when on logs were wanted; 0 for all.
    pub since_unix_ms: u64,
    /// What became of each node.
    pub nodes: &'a [NodeOutcome],
}

/// Whether a node has sent its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeOutcome {
    /// The node.
    pub name: String,
    /// `complete`, `incomplete` or `unreachable`.
    pub outcome: &'static str,
    /// Why it is not complete; none if it is.
    pub why: Option<String>,
}

#[derive(Serialize)]
struct Manifest<'a> {
    format: u32,
    #[serde(flatten)]
    about: &'a About<'a>,
    files: &'a [Entry],
    left_out: &'a [LeftOut],
}

/// A bundle that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// How many files are in it, the manifest included.
    pub files: usize,
    /// How large it is, compressed.
    pub bytes: u64,
}

impl Bundle {
    /// Begins a bundle that is to be `target`; `root` is the directory in it.
    ///
    /// # Errors
    /// If there is such a file and it is not to be replaced, or it cannot be written there.
    pub fn begin(target: &Path, replace: bool, root: &str, made_unix_ms: u64) -> io::Result<Self> {
        if !replace && fs::symlink_metadata(target).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let name = target.file_name().ok_or(io::ErrorKind::InvalidFilename)?.to_string_lossy();
        let scratch = target.with_file_name(format!(".{name}.{}.new", std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&scratch)?;
        let scratch = Scratch(scratch);
        // Whatever the umask is.
        file.set_permissions(Permissions::from_mode(MODE))?;
        Ok(Self {
            target: target.to_owned(),
            scratch,
            replace,
            root: root.to_owned(),
            made_unix_s: made_unix_ms / 1000,
            archive: Builder::new(GzEncoder::new(file, Compression::default())),
            files: Vec::new(),
            left_out: Vec::new(),
        })
    }

    /// Adds a file that holds no secrets.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn add(&mut self, path: &str, origin: &str, data: &[u8]) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(MODE);
        header.set_size(data.len() as u64);
        header.set_mtime(self.made_unix_s);
        self.archive.append_data(&mut header, format!("{}/{path}", self.root), data)?;
        let (path, origin) = (path.to_owned(), origin.to_owned());
        self.files.push(Entry { path, bytes: data.len(), origin });
        Ok(())
    }

    /// Adds a text, without what looks like a secret.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn add_text(&mut self, path: &str, origin: &str, text: &str) -> io::Result<()> {
        self.add(path, origin, Redactor::default().text(text).as_bytes())
    }

    /// Adds JSON, without what looks like a secret.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn add_json(&mut self, path: &str, origin: &str, text: &str) -> io::Result<()> {
        let Ok(mut value) = serde_json::from_str(text) else {
            return self.add_text(path, origin, text);
        };
        clean(&mut value, &Redactor::default());
        self.add(path, origin, format!("{value:#}\n").as_bytes())
    }

    /// Notes what of a file, or which file, is not in it.
    pub fn leave_out(&mut self, path: &str, what: &str) {
        let what = Redactor::default().text(what);
        self.left_out.push(LeftOut { path: path.to_owned(), what });
    }

    /// Adds the manifest, and puts the bundle where it is to be.
    ///
    /// # Errors
    /// If it cannot be written, or meanwhile there is such a file that is not to be replaced.
    pub fn finish(mut self, about: &About<'_>) -> io::Result<Written> {
        let Self { files, left_out, .. } = &self;
        let manifest = Manifest { format: FORMAT, about, files, left_out };
        let manifest = serde_json::to_string_pretty(&manifest)? + "\n";
        self.add("MANIFEST.json", "haclt", manifest.as_bytes())?;
        let mut file = self.archive.into_inner()?.finish()?;
        file.flush()?;
        file.sync_all()?;
        let bytes = file.metadata()?.len();
        if self.replace {
            fs::rename(&self.scratch.0, &self.target)?;
        } else {
            appear(&self.scratch.0, &self.target)?;
        }
        Ok(Written { files: self.files.len(), bytes })
    }
}

/// Gives a file the name that it is to have, unless another has it.
fn appear(scratch: &Path, target: &Path) -> io::Result<()> {
    // Unlike a rename it replaces nothing.
    match fs::hard_link(scratch, target) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        Err(_) if fs::symlink_metadata(target).is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
        // A file system without links.
        Err(_) => fs::rename(scratch, target),
        Ok(()) => Ok(()),
    }
}

/// Takes secrets out of every text of a value.
fn clean(value: &mut Value, redactor: &Redactor) {
    match value {
        Value::String(text) => *text = redactor.text(text),
        Value::Array(items) => items.iter_mut().for_each(|item| clean(item, redactor)),
        Value::Object(fields) => {
            // Of a list of settings: {"key": NAME, "value": …, "before": …}.
            let named = |field: &str| fields.get(field).and_then(Value::as_str);
            let secret = named("key").or_else(|| named("name")).is_some_and(names_secret);
            for (name, field) in fields {
                let said = secret && !matches!(name.as_str(), "key" | "name");
                if (names_secret(name) || said) && field.is_string() {
                    *field = REMOVED.into();
                } else {
                    clean(field, redactor);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Returns the names and sizes of what is in a bundle.
///
/// # Errors
/// If it cannot be read, or is no such file.
pub fn list(path: &Path) -> io::Result<Vec<(String, u64)>> {
    let mut archive = Archive::new(GzDecoder::new(BufReader::new(File::open(path)?)));
    let mut found = Vec::new();
    for entry in archive.entries()?.take(LISTED_MAX) {
        let entry = entry?;
        found.push((entry.path()?.display().to_string(), entry.size()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOUT: About<'_> =
        About { cluster: "orders", made_unix_ms: 7000, haclt: "1", since_unix_ms: 0, nodes: &[] };

    #[test]
    fn a_bundle_is_there_when_it_is_complete_and_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("b.tar.gz");
        let begin = |replace| Bundle::begin(&target, replace, "root", 7000);
        drop(begin(false).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
        let mut bundle = begin(false).unwrap();
        bundle.add_text("a/b.txt", "x", "password=hunter2 x").unwrap();
        bundle.add_json("c.json", "x", "{\"a\": [\"token=x y\"], \"my_secret\": \"z\"}").unwrap();
        assert!(!target.exists());
        let written = bundle.finish(&ABOUT).unwrap();
        assert_eq!(written.files, 3);
        let mode = fs::metadata(&target).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, MODE);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let listed: Vec<String> =
            list(&target).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(listed, ["root/a/b.txt", "root/c.json", "root/MANIFEST.json"]);
        let kind = begin(false).err().map(|error| error.kind());
        assert_eq!(kind, Some(io::ErrorKind::AlreadyExists));
        let late = Bundle::begin(&dir.path().join("c"), false, "root", 0).unwrap();
        fs::write(dir.path().join("c"), "of another").unwrap();
        assert!(late.finish(&ABOUT).is_err(), "it came meanwhile");
        assert_eq!(fs::read(dir.path().join("c")).unwrap(), b"of another");
        assert!(list(&dir.path().join("c")).is_err());
        begin(true).unwrap().finish(&ABOUT).unwrap();
        assert_eq!(list(&target).unwrap().len(), 1);
    }

    #[test]
    fn json_stays_json_without_its_secrets() {
        let mut value = serde_json::json!({
            "a": ["host=x password=abc", {"passwd": "abc"}], "b": 7, "token": null,
        });
        clean(&mut value, &Redactor::default());
        let expected = serde_json::json!({
            "a": ["host=x password=[removed]", {"passwd": "[removed]"}], "b": 7, "token": null,
        });
        assert_eq!(value, expected);
    }
}
