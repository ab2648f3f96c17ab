//! What people write for agent, guard and command line, and what the agent keeps.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use ha_agent::fuzz_door;
use ha_agent::parameters::Key;

use super::{choice, text};

/// The configuration with its overrides, the pledge, and the configuration as lines.
pub(super) fn files(data: &[u8]) {
    let (kind, rest) = choice(data);
    let text = text(rest);
    match kind % 4 {
        0 => config(&text),
        1 => {
            if let Some((epoch, written)) = fuzz_door::pledge(&text) {
                assert_eq!(fuzz_door::pledge(&written), Some((epoch, written)));
            }
        }
        2 => config_lines(&text),
        _ => {
            if let Ok(key) = text.parse::<Key>() {
                assert_eq!(key.to_string().parse::<Key>(), Ok(key));
            }
        }
    }
}

/// Behind a line `---`: the environment, `NAME=value` lines.
fn config(text: &str) {
    let (file, environment) = text.split_once("\n---\n").unwrap_or((text, ""));
    let variable = |line: &str| line.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
    let environment: Vec<_> = environment.lines().filter_map(variable).collect();
    match fuzz_door::config(file, environment) {
        Ok(config) => {
            assert_eq!(config.policy.faults(), Vec::<String>::new());
            assert!(!config.cluster.is_empty());
            assert_eq!(config.postgres.is_some(), config.witness.is_none());
            assert!(config.join || config.peers.contains_key(&config.node), "{:?}", config.peers);
        }
        Err(why) => assert!(!why.contains('\n'), "{why:?} is more than one line"),
    }
}

fn config_lines(text: &str) {
    let Ok(values) = haclt::fuzz_door::config_lines(text) else { return };
    let line = |(key, value): (&String, &String)| haclt::fuzz_door::config_line(key, value);
    let written: String = values.iter().map(line).collect();
    assert_eq!(haclt::fuzz_door::config_lines(&written), Ok(values), "{written:?}");
}

/// Arguments, one a line: of the guard, and of `haclt` as far as it goes without an agent. And lines of
/// `/proc/PID/stat`.
pub(super) fn command_line(data: &[u8]) {
    let (kind, rest) = choice(data);
    match kind % 3 {
        0 => drop(ha_guard::cli::parse(arguments(rest))),
        1 => {
            if let Some(stat) = ha_guard::tree::Stat::parse(rest) {
                assert!(rest.contains(&b')'), "{stat:?}");
            }
        }
        _ => {
            let program = std::iter::once(OsString::from("haclt"));
            let _outcome =
                <haclt::Cli as clap::Parser>::try_parse_from(program.chain(arguments(rest)));
        }
    }
}

fn arguments(data: &[u8]) -> impl Iterator<Item = OsString> {
    data.split(|byte| *byte == b'\n').map(|word| OsString::from_vec(word.to_vec()))
}
