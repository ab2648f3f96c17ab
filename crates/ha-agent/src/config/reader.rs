//! Reading a flat view of a TOML file so that all its faults are reported at once.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::Value;

/// The file's values by dotted key, and the faults found so far.
#[derive(Debug)]
pub(super) struct Reader {
    values: BTreeMap<String, Value>,
    faults: Vec<String>,
}

impl Reader {
    /// Flattens the tables of a parsed file.
    pub(super) fn new(file: toml::Table) -> Self {
        let mut values = BTreeMap::new();
        flatten("", file, &mut values);
        Self { values, faults: Vec::new() }
    }

    /// Applies one environment override, such as `HA_LEASE_TTL=4s` for `lease.ttl`.
    ///
    /// The text takes the type that the key's own reader expects.
    pub(super) fn set(&mut self, key: &str, text: String) {
        self.values.insert(key.to_owned(), Value::String(text));
    }

    /// Notes one fault.
    pub(super) fn fault(&mut self, line: impl Into<String>) {
        self.faults.push(line.into());
    }

    /// Takes a text.
    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        match self.values.remove(key)? {
            Value::String(text) if text.is_empty() => {
                self.fault(format!("{key} is empty"));
                None
            }
            Value::String(text) => Some(text),
            other => self.wrong(key, "a text", &other),
        }
    }

    /// Takes a text that must be there.
    pub(super) fn required(&mut self, key: &str) -> String {
        let known = self.values.contains_key(key);
        self.text(key).unwrap_or_else(|| {
            if !known {
                self.fault(format!("{key} is missing"));
            }
            String::new()
        })
    }

    /// Takes a text that parses.
    pub(super) fn parsed<T: std::str::FromStr>(&mut self, key: &str) -> Option<T>
    where
        T::Err: std::fmt::Display,
    {
        let text = self.text(key)?;
        text.parse().map_err(|error| self.fault(format!("{key}: {error}"))).ok()
    }

    /// Takes a whole number.
    pub(super) fn number(&mut self, key: &str) -> Option<i64> {
        match self.values.remove(key)? {
            Value::Integer(number) => Some(number),
            Value::String(text) if text.parse::<i64>().is_ok() => text.parse().ok(),
            other => self.wrong(key, "a whole number", &other),
        }
    }

    /// Takes a number that is not negative.
    pub(super) fn count(&mut self, key: &str) -> Option<u32> {
        let number = self.number(key)?;
        let count = u32::try_from(number).ok();
        if count.is_none() {
            self.fault(format!("{key} = {number} is out of range"));
        }
        count
    }

    /// Takes a yes or no.
    pub(super) fn flag(&mut self, key: &str) -> Option<bool> {
        match self.values.remove(key)? {
            Value::Boolean(flag) => Some(flag),
            Value::String(text) if text.parse::<bool>().is_ok() => text.parse().ok(),
            other => self.wrong(key, "true or false", &other),
        }
    }

    /// Takes a duration such as `"3s"`, `"400ms"` or `"5m"`.
    pub(super) fn duration(&mut self, key: &str) -> Option<Duration> {
        let value = self.values.remove(key)?;
        let Value::String(text) = &value else {
            return self.wrong(key, "a duration such as \"3s\" or \"400ms\"", &value);
        };
        let read = parse_duration(text);
        if read.is_none() {
            self.fault(format!("{key}: {text:?} is no duration such as \"3s\" or \"400ms\""));
        }
        read
    }

    /// Takes a number of bytes, such as `16777216` or `"16MiB"`.
    pub(super) fn bytes(&mut self, key: &str) -> Option<u64> {
        let value = self.values.remove(key)?;
        let read = match &value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            Value::String(text) => parse_bytes(text),
            _ => None,
        };
        if read.is_none() {
            self.fault(format!("{key}: {value} is no size such as 16777216 or \"16MiB\""));
        }
        read
    }

    /// Takes a list of texts.
    pub(super) fn texts(&mut self, key: &str) -> Option<Vec<String>> {
        let value = self.values.remove(key)?;
        let list = value.as_array().and_then(|items| {
            items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        if list.is_none() {
            self.fault(format!("{key}: expected a list of texts, found {value}"));
        }
        list
    }

    /// Returns the keys below a table, in order; takes none.
    pub(super) fn keys(&self, prefix: &str) -> Vec<String> {
        let dotted = format!("{prefix}.");
        self.values.keys().filter_map(|key| key.strip_prefix(&dotted)).map(str::to_owned).collect()
    }

    /// Takes every key of a table, in order.
    pub(super) fn table(&mut self, prefix: &str) -> BTreeMap<String, Value> {
        let dotted = format!("{prefix}.");
        let keys: Vec<String> =
            self.values.keys().filter(|key| key.starts_with(&dotted)).cloned().collect();
        keys.into_iter()
            .filter_map(|key| {
                let value = self.values.remove(&key)?;
                Some((key.trim_start_matches(&dotted).to_owned(), value))
            })
            .collect()
    }

    /// Takes a list of tables, such as `[[pgbouncer]]`: one reader each.
    pub(super) fn list(&mut self, key: &str) -> Vec<Self> {
        let Some(value) = self.values.remove(key) else { return Vec::new() };
        let tables = value.as_array().and_then(|items| {
            items.iter().map(|item| item.as_table().cloned()).collect::<Option<Vec<_>>>()
        });
        if tables.is_none() {
            self.fault(format!("{key}: expected sections [[{key}]], found {value}"));
        }
        tables.unwrap_or_default().into_iter().map(Self::new).collect()
    }

    /// Takes over the faults of a table of a list, unknown keys included.
    pub(super) fn absorb(&mut self, name: &str, table: Self) {
        let faults = table.finish().into_iter().map(|fault| format!("{name}: {fault}"));
        self.faults.extend(faults);
    }

    /// Returns all faults; keys that nobody took are unknown.
    pub(super) fn finish(mut self) -> Vec<String> {
        let unknown: Vec<String> =
            self.values.keys().map(|key| format!("unknown key {key}")).collect();
        self.faults.extend(unknown);
        self.faults
    }

    fn wrong<T>(&mut self, key: &str, expected: &str, found: &Value) -> Option<T> {
        self.fault(format!("{key}: expected {expected}, found {found}"));
        None
    }
}

fn flatten(prefix: &str, table: toml::Table, into: &mut BTreeMap<String, Value>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value {
            Value::Table(inner) => flatten(&key, inner, into),
            other => {
                into.insert(key, other);
            }
        }
    }
}

/// Reads a duration: a whole number and `ms`, `s`, `m` or `h`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

pub(crate) fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    number.checked_mul(1_u64 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_need_a_unit_that_exists() {
        assert_eq!(parse_duration("3s"), Some(Duration::from_secs(3)));
        assert_eq!(parse_duration("400ms"), Some(Duration::from_millis(400)));
        for text in ["", "s", "3", "3 s", "-3s", "3.5s", "99999999999999999999s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        assert_eq!(parse_bytes("16MiB"), Some(16 << 20));
        assert_eq!(parse_bytes("16MB"), None);
    }
}
