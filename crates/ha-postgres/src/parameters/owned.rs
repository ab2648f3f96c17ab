//! Parameters that haclt sets itself, and why nobody else may.

use crate::instance::settings::{MANAGED, RECOVERY};

const UPSTREAM: &str = "haclt says whom a standby follows";
const TARGET: &str = "a standby follows the primary to the end of its WAL";
const RESTORE: &str = "haclt restores WAL that other nodes have";
const LISTEN: &str =
    "where a server listens is told to all nodes by its agent: set `listen` in the agent's file";
const PLACE: &str = "haclt says where the server's files are";
const SAFE: &str = "without it data that was acknowledged may be damaged or lost";
const LOGS: &str = "haclt looks for the server's log in its own place";
const PROMISE: &str = "who acknowledges commits is said by durability.mode";
const SESSION: &str = "it is for a single session or transaction";

/// Why, of each that is forced by name. What is missing here and forced all the same has [`PLACE`].
#[rustfmt::skip]
const REASONS: [(&str, &str); 38] = [
    ("primary_conninfo",                UPSTREAM),
    ("primary_slot_name",               UPSTREAM),
    ("restore_command",                 RESTORE),
    ("archive_cleanup_command",         RESTORE),
    ("recovery_end_command",            RESTORE),
    ("recovery_min_apply_delay",        "a standby that holds WAL back could not take over in time"),
    ("promote_trigger_file",            "only the agent promotes, under the lease"),
    ("hot_standby",                     "the agent has to ask a standby how far it is"),
    ("wal_level",
     "it has to be the same wherever a server starts: set `wal_level` under `parameters` in every agent's file"),
    ("wal_log_hints",                   "a former primary could not be rewound without it"),
    ("fsync",                           SAFE),
    ("full_page_writes",                SAFE),
    ("synchronous_standby_names",       PROMISE),
    ("synchronous_commit",
     "it would change what durability.mode promises: set it in a session, or for a role, that wants less"),
    ("listen_addresses",                LISTEN),
    ("port",                            LISTEN),
    ("unix_socket_directories",         PLACE),
    ("data_directory",                  PLACE),
    ("config_file",                     PLACE),
    ("ident_file",                      PLACE),
    ("hba_file",                        "rules are set as postgres.hba.NNN"),
    ("include",                         PLACE),
    ("include_dir",                     PLACE),
    ("include_if_exists",               PLACE),
    ("log_directory",                   LOGS),
    ("logging_collector",               LOGS),
    ("cluster_name",                    "it is the node's name"),
    ("idle_replication_slot_timeout",   "a standby that is away would lose the WAL that it needs"),
    ("default_transaction_read_only",   "the agents have to see that the primary accepts writes"),
    ("default_transaction_deferrable",  "the agents' own transactions must not wait"),
    ("role",                            SESSION),
    ("session_authorization",           SESSION),
    ("session_replication_role",        SESSION),
    ("seed",                            SESSION),
    ("transaction_deferrable",          SESSION),
    ("transaction_isolation",           SESSION),
    ("transaction_read_only",           SESSION),
    ("transaction_timeout",             "the agents' own barriers would be broken off"),
];

/// Returns why nobody but haclt may set a parameter, in words; `None` if a cluster may.
#[must_use]
pub fn owned(name: &str) -> Option<&'static str> {
    if let Some((_, why)) = REASONS.iter().find(|(of, _)| *of == name) {
        return Some(why);
    }
    if name.starts_with("recovery_target") {
        return Some(TARGET);
    }
    (RECOVERY.contains(&name) || MANAGED.contains(&name)).then_some(PLACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_our_files_force_is_nobody_elses() {
        for name in RECOVERY.iter().chain(&MANAGED) {
            let why = owned(name);
            assert!(why.is_some_and(|why| why != PLACE || name.contains('_')), "{name}: {why:?}");
        }
        assert_eq!(owned("recovery_target_lsn"), Some(TARGET));
        for name in ["work_mem", "max_connections", "archive_command", "recovery_prefetch"] {
            assert_eq!(owned(name), None, "{name}");
        }
    }
}
