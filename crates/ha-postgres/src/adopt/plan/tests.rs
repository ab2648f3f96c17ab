use std::collections::BTreeMap;
use std::time::Duration;

use ha_core::{Lsn, TimelineId, WalPosition};

use super::*;
use crate::Secret;
use crate::adopt::journal::Restart;
use crate::adopt::server::{ToldRole, ToldSetting, ToldSlot};

fn config() -> InstanceConfig {
    let role = |name: &str| Role { name: name.to_owned(), password: Secret::new("right").into() };
    InstanceConfig {
        node: "n1".parse().unwrap(),
        data_dir: "/v/data".into(),
        permit_dir: "/run/x".into(),
        log_dir: "/v/log".into(),
        listen_addresses: vec!["0.0.0.0".to_owned()],
        port: 5432,
        probe_host: "127.0.0.1".to_owned(),
        own_network: true,
        superuser: role("haclt"),
        replication: role("haclt_replication"),
        run_as: None,
        margin: Duration::ZERO,
        fast_stop: Duration::ZERO,
        immediate_stop: Duration::ZERO,
        parameters: BTreeMap::new(),
        hba: Vec::new(),
    }
}

fn setting(name: &str, value: &str) -> ToldSetting {
    let file = Some("/var/lib/postgresql/data/postgresql.conf".into());
    let source = "configuration file".to_owned();
    ToldSetting { name: name.to_owned(), value: value.to_owned(), source, file }
}

fn from_command(name: &str, value: &str) -> ToldSetting {
    ToldSetting { source: "command line".to_owned(), file: None, ..setting(name, value) }
}

fn by_alter_system(name: &str, value: &str) -> ToldSetting {
    let file = Some("/var/lib/postgresql/data/postgresql.auto.conf".into());
    ToldSetting { file, ..setting(name, value) }
}

/// An ordinary container of the official image.
fn facts() -> Facts {
    let position = WalPosition { timeline: TimelineId(1), lsn: Lsn(0x300_0028) };
    let told = Told {
        version: 170_006,
        data_directory: "/var/lib/postgresql/data".into(),
        config_file: "/var/lib/postgresql/data/postgresql.conf".into(),
        hba_file: "/var/lib/postgresql/data/pg_hba.conf".into(),
        ident_file: "/var/lib/postgresql/data/pg_ident.conf".into(),
        hba: "# types\nlocal all all trust\n\nhost app app 10.0.0.0/8 md5\n".to_owned(),
        wal_level: "replica".to_owned(),
        settings: vec![setting("shared_buffers", "96MB"), setting("listen_addresses", "*")],
        databases: vec!["postgres".to_owned()],
        ..Told::default()
    };
    let container = Seen {
        id: "abc".to_owned(),
        name: "shop-db-1".to_owned(),
        image: "postgres:17".to_owned(),
        running: true,
        restart: Some(Restart { name: "always".to_owned(), count: None }),
        ..Seen::default()
    };
    Facts {
        told,
        control: ControlData {
            system_identifier: 7,
            state: ControlState::InProduction,
            checkpoint: position,
            redo: position.lsn,
            min_recovery_end: position,
            checksums: false,
            segment_bytes: 16 << 20,
            lowest: BTreeMap::new(),
        },
        data_major: 17,
        agent_major: 17,
        from: "/v".into(),
        to: "/v/data".into(),
        same_mount: true,
        in_the_way: None,
        links: Vec::new(),
        owner: (999, 999),
        new_owner: (999, 999),
        container: Some(container),
        systems: None,
        unit: None,
        start_conf: None,
        busy: Vec::new(),
        agent_runs: false,
        missing_libraries: Vec::new(),
    }
}

fn file<'a>(plan: &'a Plan, name: &str) -> Option<&'a str> {
    plan.files.iter().find(|file| file.name == name).map(|file| file.text.as_str())
}

#[test]
fn an_ordinary_container_can_be_adopted_and_keeps_settings_and_rules() {
    let plan = plan(&facts(), &config());
    assert_eq!(plan.faults, []);
    assert_eq!(plan.origin, Origin::Primary);
    assert!(plan.makes_superuser, "a role of haclt's own");
    assert_eq!(plan.kept_settings, ["shared_buffers"]);
    let rules = file(&plan, "haclt_user_hba.conf").unwrap();
    assert!(rules.ends_with("\nlocal all all trust\nhost app app 10.0.0.0/8 md5\n"), "{rules}");
    assert_eq!(file(&plan, "postgresql.conf"), None, "the user's own file stays");
    assert_eq!(file(&plan, "haclt_user.conf"), None);
    let container = plan.changes.iter().find(|change| change.what == "container").unwrap();
    assert!(container.from.ends_with("restart policy always"), "{container:?}");
    assert!(plan.changes.iter().all(|change| !change.why.is_empty()));
}

#[test]
fn every_fault_is_one_line_that_names_the_object() {
    type Break = fn(&mut Facts, &mut InstanceConfig);
    #[rustfmt::skip]
    let table: [(Break, &str); 17] = [
        (|f, _| f.agent_major = 18, "the database is of PostgreSQL 17, the agent's programs of 18"),
        (|f, _| f.same_mount = false, "/v and /v/data are not on the same mounted file system"),
        (|f, _| f.in_the_way = Some("/v/data is not empty".to_owned()), "/v/data is not empty"),
        (|f, _| f.links.push("pg_wal".to_owned()), "pg_wal in /v is a link to elsewhere"),
        (|f, _| f.told.tablespaces.push("fast".to_owned()), "tablespace fast is not in the data directory"),
        (|f, _| f.told.wal_level = "logical".to_owned(), "wal_level is logical"),
        (|f, _| f.told.hba_faults = 1, "/var/lib/postgresql/data/pg_hba.conf has lines"),
        (|f, _| { f.told.hba_file = "/etc/x/pg_hba.conf".into(); f.told.hba.push_str("host @apps all all md5\n"); }, "/etc/x/pg_hba.conf: the line \"host @apps all all md5\""),
        (|f, _| f.missing_libraries.push("postgis-3".to_owned()), "library postgis-3 is in use"),
        (|f, _| f.systems = Some([("alpine", "3"), ("debian", "13")].map(|(a, b)| (a.to_owned(), b.to_owned()))), "the old image is made of alpine, haclt's of debian"),
        (|f, _| f.busy.push("backup".to_owned()), "container backup runs on the data directory too"),
        (|f, _| f.agent_runs = true, "the agent of this node is running"),
        (|f, _| f.unit = Some(("postgresql-16.service".to_owned(), true)), "the unit postgresql-16.service starts the old server"),
        (|f, _| f.container.as_mut().unwrap().auto_remove = true, "the old container is removed when it stops"),
        (|f, _| f.told.recovery = true, "role haclt is not there yet, and a standby cannot make it"),
        (|f, _| f.told.roles.push(ToldRole { name: "haclt".to_owned(), superuser: false, login: true, password: None }), "role haclt is no superuser"),
        (|f, _| f.told.roles.push(ToldRole { name: "haclt".to_owned(), superuser: true, login: true, password: Some(Secret::new("md5x")) }), "role haclt has another password than superuser_password_file"),
    ];
    for (break_it, expected) in table {
        let (mut facts, mut config) = (facts(), config());
        break_it(&mut facts, &mut config);
        let plan = plan(&facts, &config);
        assert_eq!(plan.faults.len(), 1, "{expected}: {:?}", plan.faults);
        let fault = &plan.faults[0];
        assert!(fault.what.starts_with(expected), "{fault:?}");
        assert!(!fault.what.contains('\n') && !fault.hint.is_empty(), "{fault:?}");
    }
}

#[test]
fn a_role_with_the_right_password_is_left_alone_and_none_or_an_old_hash_is_renewed() {
    let stored = |stored: Option<String>, name: &str| {
        let mut facts = facts();
        let password = stored.map(Secret::new);
        let role = ToldRole { name: name.to_owned(), superuser: true, login: true, password };
        facts.told.roles.push(role);
        let plan = plan(&facts, &config());
        assert_eq!(plan.faults, []);
        plan.makes_superuser
    };
    let scram = postgres_protocol::password::scram_sha_256(b"right");
    assert!(!stored(Some(scram), "haclt"));
    assert!(stored(Some(postgres_protocol::password::md5(b"right", "haclt")), "haclt"));
    assert!(stored(None, "haclt"));
}

#[test]
fn what_must_differ_is_listed_and_everything_else_stays() {
    let (mut facts, mut config) = (facts(), config());
    config.parameters.insert("work_mem".to_owned(), "4MB".to_owned());
    facts.told.settings = vec![
        setting("archive_command", "cp %p /archive"),
        setting("fsync", "off"),
        setting("max_wal_senders", "5"),
        setting("max_replication_slots", "40"),
        setting("password_encryption", "md5"),
        setting("port", "5433"),
        setting("synchronous_commit", "off"),
        setting("wal_keep_size", "2GB"),
        setting("wal_sender_timeout", "1min"),
        setting("work_mem", "8MB"),
        from_command("log_statement", "ddl"),
        by_alter_system("primary_conninfo", "password=hush"),
        by_alter_system("synchronous_commit", "local"),
        by_alter_system("maintenance_work_mem", "1GB"),
    ];
    let plan = plan(&facts, &config);
    let changed: Vec<String> = plan
        .changes
        .iter()
        .filter(|change| change.what == "setting")
        .map(|change| format!("{} -> {}", change.from, change.to))
        .collect();
    let wanted = [
        "fsync = off -> fsync = on",
        "max_wal_senders = 5 -> max_wal_senders = 16",
        "port = 5433 -> port = 5432",
        "synchronous_commit = off -> synchronous_commit = on",
        "wal_sender_timeout = 1min -> wal_sender_timeout = 5s",
        "work_mem = 8MB -> work_mem = 4MB",
        "primary_conninfo = (not shown) -> primary_conninfo = haclt's",
    ];
    assert_eq!(changed, wanted);
    let stays = [
        "archive_command",
        "max_replication_slots",
        "password_encryption",
        "wal_keep_size",
        "log_statement",
        "synchronous_commit",
        "maintenance_work_mem",
    ];
    assert_eq!(plan.kept_settings, stays);
    let user = file(&plan, "haclt_user.conf").unwrap();
    let lines: Vec<&str> = user.lines().skip(1).collect();
    let wanted = [
        "max_replication_slots = '40'",
        "password_encryption = 'md5'",
        "wal_keep_size = '2GB'",
        "log_statement = 'ddl'",
    ];
    assert_eq!(lines, wanted);
    assert!(plan.yours.iter().any(|line| line.contains("ALTER SYSTEM RESET synchronous_commit")));
    assert!(plan.changes.iter().any(|c| c.to == "without primary_conninfo"), "{:?}", plan.changes);
    let shown = serde_json::to_string(&plan).unwrap();
    assert!(!shown.contains("hush") && !shown.contains("right"), "{shown}");
}

#[test]
fn a_configuration_elsewhere_is_brought_into_the_data_directory() {
    let mut facts = facts();
    facts.told.config_file = "/etc/postgresql/17/main/postgresql.conf".into();
    facts.told.ident_file = "/etc/postgresql/17/main/pg_ident.conf".into();
    facts.told.ident = "# none\nmap os db\n".to_owned();
    facts.told.settings.push(setting("data_directory", "/var/lib/postgresql/data"));
    facts.told.settings.push(setting("search_path", "a, 'it''s'"));
    let plan_of = plan(&facts, &config());
    assert_eq!(plan_of.faults, []);
    let conf = file(&plan_of, "postgresql.conf").unwrap();
    assert!(conf.contains("shared_buffers = '96MB'\nsearch_path = 'a, ''it''''s'''\n"), "{conf}");
    assert!(!conf.contains("data_directory") && !conf.contains("listen_addresses"), "{conf}");
    assert_eq!(file(&plan_of, "pg_ident.conf"), Some("# none\nmap os db\n"));
    // A file in the data directory that includes one elsewhere, too.
    let mut facts = super::tests::facts();
    for (conf, copied) in [
        ("include 'more.conf'\n", false),
        ("include_dir '/etc/more'\n", true),
        ("# include '/etc/more'\n", false),
        ("include_if_exists = '/x'\n", true),
    ] {
        facts.told.conf = conf.to_owned();
        let plan = plan(&facts, &config());
        assert_eq!(file(&plan, "postgresql.conf").is_some(), copied, "{conf}");
    }
}

#[test]
fn what_is_left_to_people_is_said() {
    let mut facts = facts();
    let slot = |name: &str, kind: &str| ToldSlot { name: name.to_owned(), kind: kind.to_owned() };
    facts.told.slots = vec![slot("old_standby", "physical"), slot("cdc", "logical")];
    facts.told.standbys = vec!["walreceiver".to_owned()];
    facts.told.settings.push(setting("ssl_cert_file", "/certs/server.crt"));
    let container = facts.container.as_mut().unwrap();
    container.ports = vec!["5432:5432".to_owned()];
    container.compose = Some(("shop".to_owned(), "db".to_owned()));
    container.mounts = vec![("/srv/certs".to_owned(), "/certs".to_owned())];
    let plan = plan(&facts, &config());
    assert_eq!(plan.faults, []);
    let said = plan.yours.join("\n");
    for wanted in [
        "port 5432:5432 was published by shop-db-1",
        "mount /srv/certs:/certs:ro into the databases' containers",
        "take service db out of the Compose project shop",
        "pg_drop_replication_slot('old_standby')",
        "logical slot cdc is kept on this node",
        "standbys of it: walreceiver",
    ] {
        assert!(said.contains(wanted), "{wanted} in {said}");
    }
}
