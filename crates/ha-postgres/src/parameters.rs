//! The server's parameters as a cluster sets them: whose they are, and which values they may have.

mod amount;
mod owned;
mod rule;

pub use owned::owned;
pub use rule::check_rule;

/// Parameters that a standby must have at least as high as its primary had when it wrote the WAL (rule 65).
///
/// # Sources
/// PostgreSQL manual, "Hot Standby", "Administrator's Overview".
pub const SHARED: [&str; 5] = [
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
];

/// A parameter as the server describes it in `pg_settings`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Described {
    /// Its name, in lower case.
    pub name: String,
    /// When it can be changed: `postmaster`, `sighup`, `user`, …
    pub context: String,
    /// `bool`, `integer`, `real`, `enum` or `string`.
    pub kind: String,
    /// The unit of a number without one: `kB`, `8kB`, `ms`, …; empty if it has none.
    pub unit: String,
    /// The lowest value, in that unit; empty if there is none.
    pub min: String,
    /// The highest value, in that unit.
    pub max: String,
    /// The values of an `enum`.
    pub values: Vec<String>,
}

impl Described {
    /// Returns whether a change is in force only after a restart.
    #[must_use]
    pub fn needs_restart(&self) -> bool {
        self.context == "postmaster"
    }

    /// Returns whether a session may set it, so that the server itself can be asked about a value.
    #[must_use]
    pub fn is_for_sessions(&self) -> bool {
        self.context == "user" || self.context == "superuser"
    }

    /// Checks a value by what the server says of the parameter.
    ///
    /// # Errors
    /// Why it is none, in words.
    ///
    /// # Sources
    /// PostgreSQL, `guc.c: parse_and_validate_value, parse_int, parse_real`, `bool.c: parse_bool`.
    pub fn check(&self, value: &str) -> Result<(), String> {
        match self.kind.as_str() {
            "bool" if amount::is_bool(value) => Ok(()),
            "bool" => Err(format!("{value:?} is neither on nor off")),
            "enum" if self.values.iter().any(|known| known.eq_ignore_ascii_case(value)) => Ok(()),
            "enum" => Err(format!("{value:?} is none of {}", self.values.join(", "))),
            "integer" | "real" => self.check_number(value),
            _ => Ok(()),
        }
    }

    fn check_number(&self, value: &str) -> Result<(), String> {
        let number = amount::number(value, &self.unit)?;
        let number = if self.kind == "integer" { number.round() } else { number };
        let bound = |text: &str| text.parse::<f64>().ok();
        let unit = if self.unit.is_empty() { String::new() } else { format!(" {}", self.unit) };
        let (min, max) = (bound(&self.min), bound(&self.max));
        if min.is_some_and(|min| number < min) || max.is_some_and(|max| number > max) {
            let (min, max) = (&self.min, &self.max);
            return Err(format!("{value} is outside of {min}{unit} to {max}{unit}"));
        }
        Ok(())
    }
}

/// Checks what haclt itself asks of a value: enough for its own sessions, senders and slots.
///
/// # Errors
/// Why it is refused, in words.
pub fn check_own(name: &str, value: &str) -> Result<(), String> {
    if value.contains(['\n', '\r', '\0']) {
        return Err("a value is one line".to_owned());
    }
    #[rustfmt::skip]
    let lowest = [
        ("max_connections",                25, "haclt reserves 6 of them for its own sessions"),
        ("superuser_reserved_connections",  6, "haclt's own sessions must not wait for clients"),
        ("max_wal_senders",                 8, "every other node, its clones and its witness need one"),
        ("max_replication_slots",           8, "every other node has one"),
    ];
    let Some((_, lowest, why)) = lowest.into_iter().find(|(of, ..)| *of == name) else {
        return Ok(());
    };
    match amount::number(value, "") {
        Ok(number) if number < f64::from(lowest) => {
            Err(format!("{value} is too low, at least {lowest} are needed: {why}"))
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(kind: &str, unit: &str, min: &str, max: &str) -> Described {
        let [kind, unit, min, max] = [kind, unit, min, max].map(str::to_owned);
        let values = ["off", "On", "remote_apply"].map(str::to_owned).to_vec();
        Described { kind, unit, min, max, values, ..Described::default() }
    }

    #[test]
    fn values_are_checked_by_kind_unit_and_bounds() {
        #[rustfmt::skip]
        let table = [
            // kind      unit   min    max           value            accepted
            ("bool",     "",    "",    "",           "ON",            true),
            ("bool",     "",    "",    "",           "tr",            true),
            ("bool",     "",    "",    "",           "o",             false),
            ("bool",     "",    "",    "",           "2",             false),
            ("enum",     "",    "",    "",           "on",            true),
            ("enum",     "",    "",    "",           "maybe",         false),
            ("integer",  "",    "1",   "100",        "100",           true),
            ("integer",  "",    "1",   "100",        "101",           false),
            ("integer",  "",    "1",   "100",        "0x10",          true),
            ("integer",  "",    "1",   "100",        "7 MB",          false),
            ("integer",  "",    "1",   "100",        "seven",         false),
            ("integer",  "",    "1",   "100",        "",              false),
            ("integer",  "kB",  "64",  "2147483647", "4MB",           true),
            ("integer",  "kB",  "64",  "2147483647", "63",            false),
            ("integer",  "kB",  "64",  "2147483647", "64kB",          true),
            ("integer",  "kB",  "64",  "2147483647", "64KB",          false),
            ("integer",  "kB",  "64",  "2147483647", "3TB",           false),
            ("integer",  "8kB", "16",  "1073741823", "128kB",         true),
            ("integer",  "8kB", "16",  "1073741823", "120kB",         false),
            ("integer",  "8kB", "16",  "1073741823", "96 MB",         true),
            ("integer",  "MB",  "2",   "2147483647", "1GB",           true),
            ("integer",  "MB",  "2",   "2147483647", "1min",          false),
            ("integer",  "B",   "0",   "1000",       "1kB",           false),
            ("integer",  "ms",  "-1",  "2147483647", "-1",            true),
            ("integer",  "ms",  "0",   "2147483647", "1.5s",          true),
            ("integer",  "s",   "30",  "86400",      "1d",            true),
            ("integer",  "s",   "30",  "86400",      "25h",           false),
            ("integer",  "min", "10",  "60",         "600s",          true),
            ("integer",  "ms",  "0",   "10",         "9000us",        true),
            ("real",     "",    "0",   "1",          "0.25",          true),
            ("real",     "",    "0",   "1",          "1e-3",          true),
            ("real",     "",    "0",   "1",          "1.01",          false),
            ("real",     "",    "0",   "1",          "NaN",           false),
            ("string",   "",    "",    "",           "anything goes", true),
        ];
        for (kind, unit, min, max, value, accepted) in table {
            let result = described(kind, unit, min, max).check(value);
            assert_eq!(result.is_ok(), accepted, "{kind} {unit} {value:?}: {result:?}");
        }
    }

    #[test]
    fn haclt_asks_for_enough_of_what_it_needs_itself() {
        #[rustfmt::skip]
        let table = [
            ("max_connections",  "24",     false),
            ("max_connections",  "25",     true),
            ("max_wal_senders",  "4",      false),
            ("work_mem",         "1",      true),
            ("work_mem",         "1\nx=y", false),
        ];
        for (name, value, accepted) in table {
            assert_eq!(check_own(name, value).is_ok(), accepted, "{name} {value}");
        }
    }
}
