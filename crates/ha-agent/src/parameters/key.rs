//! Keys of the shared configuration that are for PostgreSQL.

use std::collections::BTreeMap;
use std::fmt;

use ha_postgres::driver::ClusterConf;

/// How all of them begin.
pub const PREFIX: &str = "postgres.";
/// How keys of rules who may log in begin.
const RULES: &str = "hba";
/// How many digits the number of a rule has: their order by name is that by number.
const RULE_DIGITS: usize = 3;

/// On which servers a parameter has the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// On all, unless the role's own key says otherwise.
    Everywhere,
    /// On the primary.
    Primary,
    /// On every standby.
    Standby,
}

/// A key, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// `postgres.parameters.NAME`, `postgres.primary.NAME`, `postgres.standby.NAME`.
    Parameter {
        /// On which servers.
        scope: Scope,
        /// In lower case.
        name: String,
    },
    /// `postgres.hba.NNN`.
    Rule(u16),
}

impl Scope {
    const ALL: [Self; 3] = [Self::Everywhere, Self::Primary, Self::Standby];

    const fn word(self) -> &'static str {
        match self {
            Self::Everywhere => "parameters",
            Self::Primary => "primary",
            Self::Standby => "standby",
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parameter { scope, name } => write!(f, "{PREFIX}{}.{name}", scope.word()),
            Self::Rule(number) => write!(f, "{PREFIX}{RULES}.{number:0RULE_DIGITS$}"),
        }
    }
}

impl std::str::FromStr for Key {
    type Err = String;

    /// # Errors
    /// Why it is none, in words.
    fn from_str(key: &str) -> Result<Self, String> {
        let unknown = || {
            format!(
                "unknown key {key:?}: known are durability.mode, postgres.parameters.NAME, \
                 postgres.primary.NAME, postgres.standby.NAME and postgres.hba.NNN"
            )
        };
        let rest = key.strip_prefix(PREFIX).ok_or_else(unknown)?;
        let (kind, name) = rest.split_once('.').ok_or_else(unknown)?;
        if kind == RULES {
            let digits = name.len() == RULE_DIGITS && name.bytes().all(|b| b.is_ascii_digit());
            let number = name.parse().ok().filter(|_| digits);
            return number
                .map(Self::Rule)
                .ok_or_else(|| format!("{key}: the number of a rule is 000 to 999"));
        }
        let scope = Scope::ALL.into_iter().find(|scope| scope.word() == kind);
        let scope = scope.ok_or_else(unknown)?;
        let name = name.to_ascii_lowercase();
        let plain = |part: &str| {
            let first = part.bytes().next();
            first.is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        if name.len() > 63 || !name.split('.').all(plain) {
            return Err(format!("{key}: {name:?} is no name of a parameter"));
        }
        Ok(Self::Parameter { scope, name })
    }
}

/// Returns what the settings of the cluster want of every server. What is no key of these is left out.
#[must_use]
pub fn conf(settings: &BTreeMap<String, String>) -> ClusterConf {
    let mut conf = ClusterConf::default();
    let mut rules = BTreeMap::new();
    for (key, value) in settings {
        match key.parse() {
            Ok(Key::Parameter { scope, name }) => {
                let of = match scope {
                    Scope::Everywhere => &mut conf.everywhere,
                    Scope::Primary => &mut conf.primary,
                    Scope::Standby => &mut conf.standby,
                };
                of.insert(name, value.clone());
            }
            Ok(Key::Rule(number)) => {
                rules.insert(number, value.clone());
            }
            // Of a later version.
            Err(_) => {}
        }
    }
    conf.rules = rules.into_values().collect();
    conf
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_taken_apart_and_put_together_again() {
        #[rustfmt::skip]
        let table = [
            // key                                 the same key as it is kept
            ("postgres.parameters.work_mem",       Some("postgres.parameters.work_mem")),
            ("postgres.parameters.TimeZone",       Some("postgres.parameters.timezone")),
            ("postgres.parameters.auto_explain.x", Some("postgres.parameters.auto_explain.x")),
            ("postgres.primary.jit",               Some("postgres.primary.jit")),
            ("postgres.standby.jit",               Some("postgres.standby.jit")),
            ("postgres.hba.010",                   Some("postgres.hba.010")),
            ("postgres.hba.10",                    None),
            ("postgres.hba.0x1",                   None),
            ("postgres.hba.+10",                   None),
            ("postgres.hba.",                      None),
            ("postgres.parameters.",               None),
            ("postgres.parameters.a b",            None),
            ("postgres.parameters.a..b",           None),
            ("postgres.parameters.1a",             None),
            ("postgres.parameters.x=1\ny",         None),
            ("postgres.witness.jit",               None),
            ("postgres.jit",                       None),
            ("durability.mode",                    None),
            ("",                                   None),
        ];
        for (key, kept) in table {
            let parsed = key.parse::<Key>();
            assert_eq!(parsed.as_ref().map(Key::to_string).ok().as_deref(), kept, "{key:?}");
        }
    }

    #[test]
    fn settings_become_what_servers_are_to_have() {
        let settings = [
            ("later.key", "x"),
            ("postgres.hba.020", "second"),
            ("postgres.hba.010", "first"),
            ("postgres.parameters.jit", "on"),
            ("postgres.standby.jit", "off"),
        ];
        let pair = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        let conf = conf(&settings.into_iter().map(pair).collect());
        assert_eq!(conf.rules, ["first", "second"]);
        assert_eq!(conf.values(false), BTreeMap::from([("jit", "on")]));
        assert_eq!(conf.values(true), BTreeMap::from([("jit", "off")]));
    }
}
