//! PgBouncer's list of databases as a file: `name = key=value …` lines, of which host and port follow the
//! primary. Everything else in it stays as it is.

use std::borrow::Cow;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Points the databases of a file at a server. `by` is added to the name of the temporary file, so that
/// two who do the same do not write into one. Returns whether the file had to be changed.
///
/// The new file takes the old one's place, mode and owner; it is read whole or not at all.
///
/// # Errors
/// If it cannot be read or replaced: it is as it was.
pub fn point(
    file: &Path,
    by: &str,
    databases: &[String],
    host: &str,
    port: u16,
) -> io::Result<bool> {
    // What a link leads to is replaced, not the link.
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let old = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let new = pointed(&old, databases, host, port);
    if new == old {
        return Ok(false);
    }
    let temporary = temporary(&file, by);
    let written = replace(&file, &temporary, &new);
    if written.is_err() {
        // Whatever stopped it, the next try makes it anew.
        drop(fs::remove_file(&temporary));
    }
    written.map(|()| true)
}

fn temporary(file: &Path, by: &str) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{by}.new"));
    file.with_file_name(name)
}

fn replace(file: &Path, temporary: &Path, text: &str) -> io::Result<()> {
    let mut new = fs::File::create(temporary)?;
    match fs::metadata(file) {
        Ok(old) => {
            new.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
            let ours = new.metadata()?;
            if (ours.uid(), ours.gid()) != (old.uid(), old.gid()) {
                std::os::unix::fs::fchown(&new, Some(old.uid()), Some(old.gid()))?;
            }
        }
        // PgBouncer runs as another user.
        Err(_) => new.set_permissions(fs::Permissions::from_mode(0o644))?,
    }
    new.write_all(text.as_bytes())?;
    new.sync_all()?;
    fs::rename(temporary, file)
}

/// Returns the text with host and port of the databases replaced: of those that are named, else of all. What
/// is named and not there is added; a text without any database gets one for all, `*`.
#[must_use]
pub fn pointed(text: &str, databases: &[String], host: &str, port: u16) -> String {
    let mut missing: Vec<&str> = databases.iter().map(String::as_str).collect();
    let mut any = false;
    let mut inside = true;
    let mut lines = Vec::new();
    // Where further databases belong: after the last line of their section.
    let mut end = 0;
    // The last line may have the first half of another system's line end.
    for line in text.lines().map(|line| line.trim_end_matches('\r')) {
        let trimmed = line.trim();
        if let Some(section) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inside = section.trim() == "databases";
        }
        let database = entry(line).filter(|_| inside && !is_remark(trimmed));
        lines.push(match database {
            Some((name, rest)) if wanted(&bare(name), databases) => {
                any = true;
                missing.retain(|missing| *missing != bare(name));
                format!("{}= {}", spaced(name), redirected(rest, host, port))
            }
            Some(_) | None => line.to_owned(),
        });
        end = if inside { lines.len() } else { end };
    }
    if databases.is_empty() && !any {
        missing.push("*");
    }
    let added = missing.into_iter().map(|name| {
        let name = if name == "*" || is_plain(name) {
            name.to_owned()
        } else {
            format!("\"{}\"", name.replace('"', "\"\""))
        };
        format!("{name} = {}", redirected("", host, port))
    });
    lines.splice(end..end, added.collect::<Vec<_>>());
    lines.join("\n") + "\n"
}

fn is_remark(line: &str) -> bool {
    line.starts_with([';', '#', '%', '['])
}

fn is_plain(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// Splits at the first `=` outside of a name's quotes.
fn entry(line: &str) -> Option<(&str, &str)> {
    let mut quoted = false;
    let at = line.find(|letter| {
        quoted ^= letter == '"';
        letter == '=' && !quoted
    })?;
    Some((line.get(..at)?, line.get(at + 1..)?))
}

/// Returns the name without its quotes; one inside it is doubled.
fn bare(name: &str) -> Cow<'_, str> {
    let name = name.trim();
    match name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) if quoted.contains('"') => Cow::Owned(quoted.replace("\"\"", "\"")),
        Some(quoted) => Cow::Borrowed(quoted),
        None => Cow::Borrowed(name),
    }
}

fn spaced(name: &str) -> String {
    if name.ends_with(char::is_whitespace) { name.to_owned() } else { format!("{name} ") }
}

fn wanted(name: &str, databases: &[String]) -> bool {
    databases.is_empty() || databases.iter().any(|database| database == name)
}

/// Replaces host and port of a connection string.
fn redirected(settings: &str, host: &str, port: u16) -> String {
    let kept = split(settings).into_iter().filter(|setting| {
        let key = setting.split('=').next().unwrap_or_default().trim();
        // What has no key at all would become a part of the port before it.
        !key.is_empty() && key != "host" && key != "port"
    });
    let first = [format!("host={host}"), format!("port={port}")];
    first.into_iter().chain(kept).collect::<Vec<_>>().join(" ")
}

/// Splits at white space outside of single quotes; white space around `=` belongs to the setting.
fn split(settings: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    let (mut part, mut quoted) = (String::new(), false);
    for letter in settings.chars() {
        quoted ^= letter == '\'';
        if letter.is_whitespace() && !quoted {
            parts.extend((!part.is_empty()).then(|| std::mem::take(&mut part)));
        } else {
            part.push(letter);
        }
    }
    parts.extend((!part.is_empty()).then_some(part));
    // `host = a` came apart.
    let mut joined: Vec<String> = Vec::new();
    for part in parts {
        match joined.last_mut() {
            Some(last) if last.ends_with('=') || part.starts_with('=') => last.push_str(&part),
            Some(_) | None => joined.push(part),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_follow_the_primary_and_all_else_stays() {
        let two = ["orders".to_owned(), "new one".to_owned()];
        #[rustfmt::skip]
        let table: [(&str, &[String], &str); 8] = [
            ("", &[], "* = host=h port=5\n"),
            ("", &two, "orders = host=h port=5\n\"new one\" = host=h port=5\n"),
            ("a = host=x port=1 pool_size=3\n* = dbname=b\n", &[],
             "a = host=h port=5 pool_size=3\n* = host=h port=5 dbname=b\n"),
            ("; a = host=x\n%include f\norders=port=1\nb = host=x\n", &two,
             "; a = host=x\n%include f\norders = host=h port=5\nb = host=x\n\
              \"new one\" = host=h port=5\n"),
            ("a = connect_query='set x = 1 host=y' host = x\n", &[],
             "a = host=h port=5 connect_query='set x = 1 host=y'\n"),
            ("[databases]\na = host=x\n[pgbouncer]\nlisten_port = 1\n", &[],
             "[databases]\na = host=h port=5\n[pgbouncer]\nlisten_port = 1\n"),
            ("a = = x host=y pool_size=3\n", &[], "a = host=h port=5 pool_size=3\n"),
            ("[databases]\n[pgbouncer]\nlisten_port = 1\n", &[],
             "[databases]\n* = host=h port=5\n[pgbouncer]\nlisten_port = 1\n"),
        ];
        for (text, databases, expected) in table {
            let got = pointed(text, databases, "h", 5);
            assert_eq!(got, expected, "{text}");
            assert_eq!(pointed(&got, databases, "h", 5), expected, "done twice: {text}");
        }
    }

    #[test]
    fn a_name_in_quotes_is_known_again_whatever_is_in_it() {
        for name in ["we\"b", "\"", "a=b", "a = \"b\"", "[x]", "#"] {
            let databases = [name.to_owned()];
            let once = pointed("", &databases, "h", 5);
            assert_eq!(once.lines().count(), 1, "{once}");
            assert_eq!(pointed(&once, &databases, "h", 5), once, "{name}");
            assert_ne!(pointed(&once, &databases, "other", 5), once, "{name}");
        }
    }

    #[test]
    fn half_a_line_end_at_the_end_is_none() {
        for text in ["a = host=x\r", "a = host=x\r\r\n", "; remark\r", "a = host=x\n\r"] {
            let once = pointed(text, &[], "h", 5);
            assert!(!once.contains('\r'), "{once:?}");
            assert_eq!(pointed(&once, &[], "h", 5), once, "{text:?}");
        }
    }

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("databases.ini");
        assert!(point(&file, "n1", &[], "h", 5).unwrap());
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o644);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(!point(&file, "n1", &[], "h", 5).unwrap(), "it says that already");
        let link = dir.path().join("link.ini");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(point(&link, "n1", &[], "other", 6).unwrap());
        assert_eq!(fs::read_to_string(&file).unwrap(), "* = host=other port=6\n");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left over");
        assert!(point(&dir.path().join("no/such"), "n1", &[], "h", 5).is_err());
    }
}
