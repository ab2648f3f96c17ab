//! The configuration as a text of `key = value` lines.

use std::collections::BTreeMap;

/// Returns a line that sets the key. A value that begins or ends with a blank or a quote stands in quotes.
pub(crate) fn line(key: &str, value: &str) -> String {
    let bare = !value.is_empty() && value.trim() == value && !value.starts_with('\'');
    if bare {
        format!("{key} = {value}\n")
    } else {
        format!("{key} = '{}'\n", value.replace('\'', "''"))
    }
}

/// Reads lines back.
///
/// # Errors
/// What is wrong, with the number of each line.
pub(crate) fn parse(text: &str) -> Result<BTreeMap<String, String>, Vec<String>> {
    let mut values = BTreeMap::new();
    let mut faults = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            faults.push(format!("line {number} has no ="));
            continue;
        };
        let (key, value) = (key.trim(), value.trim());
        let quoted = value.strip_prefix('\'').map(|rest| rest.strip_suffix('\''));
        let value = match quoted {
            None => value.to_owned(),
            Some(Some(inner)) => inner.replace("''", "'"),
            Some(None) => {
                faults.push(format!("line {number}: a quote is not closed"));
                continue;
            }
        };
        if key.is_empty() || key.contains(char::is_whitespace) {
            faults.push(format!("line {number}: {key:?} is no key"));
        } else if values.insert(key.to_owned(), value).is_some() {
            faults.push(format!("line {number}: {key} is set twice"));
        }
    }
    if faults.is_empty() { Ok(values) } else { Err(faults) }
}

/// Returns what leads from one to the other; no value where a key is gone.
pub(super) fn difference(
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
) -> Vec<(String, Option<String>)> {
    let gone = before.keys().filter(|key| !after.contains_key(*key)).map(|key| (key, None));
    let new = after.iter().filter(|(key, value)| before.get(*key) != Some(value));
    let new = new.map(|(key, value)| (key, Some(value.clone())));
    gone.chain(new).map(|(key, value)| (key.clone(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for value in ["64MB", "%m [%p] ", "it's", "'quoted'", "", "a = b # c", "$user, public"] {
            let text = format!("# a comment\n\n{}", line("postgres.parameters.x", value));
            let read = parse(&text).expect(&text);
            assert_eq!(read["postgres.parameters.x"], value, "{text}");
        }
    }

    #[test]
    fn every_fault_is_told_with_its_line() {
        let faults = parse("a = 1\nnonsense\n= 2\na = 3\nb = 'open\nc d = 1\n").unwrap_err();
        let numbers: Vec<&str> = faults.iter().map(|fault| &fault[..6]).collect();
        assert_eq!(numbers, ["line 2", "line 3", "line 4", "line 5", "line 6"]);
    }

    #[test]
    fn the_difference_is_what_was_changed() {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let before = map(&[("gone", "1"), ("same", "2"), ("other", "3")]);
        let after = map(&[("same", "2"), ("other", "4"), ("new", "5")]);
        let found = difference(&before, &after);
        let some = |text: &str| Some(text.to_owned());
        let expected = [("gone", None), ("new", some("5")), ("other", some("4"))]
            .map(|(k, v)| (k.to_owned(), v));
        assert_eq!(found, expected);
    }
}
