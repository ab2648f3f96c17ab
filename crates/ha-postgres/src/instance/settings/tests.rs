use std::time::Duration;

use super::*;
use crate::Secret;

fn config() -> InstanceConfig {
    let role =
        |name: &str| Role { name: name.to_owned(), password: Secret::new("a:b\\c'd").into() };
    InstanceConfig {
        node: "n1".parse().unwrap(),
        data_dir: "/x/data".into(),
        permit_dir: "/run/x".into(),
        log_dir: "/log".into(),
        listen_addresses: vec!["10.0.0.1".to_owned(), "127.0.0.1".to_owned()],
        port: 5432,
        probe_host: "127.0.0.1".to_owned(),
        own_network: false,
        superuser: role("postgres"),
        replication: role("haclt_replication"),
        run_as: None,
        margin: Duration::ZERO,
        fast_stop: Duration::ZERO,
        immediate_stop: Duration::ZERO,
        parameters: BTreeMap::new(),
        hba: Vec::new(),
    }
}

fn layout() -> Layout {
    let [data_dir, half_made, cloning, run_dir] =
        ["/x/data", "/x/data.half-made", "/x/data.cloning", "/x/it's"].map(Into::into);
    Layout { data_dir, half_made, cloning, run_dir }
}

#[test]
fn our_line_stands_once_and_last() {
    let ours = "include 'haclt.conf'\n";
    #[rustfmt::skip]
    let table = [
        (String::new(),                         Some(ours.to_owned())),
        ("port = 1".to_owned(),                 Some(format!("port = 1\n{ours}"))),
        (format!("port = 1\n{ours}"),           None),
        (format!("port = 1\n{ours}\n# note\n"), None),
        (format!("{ours}port = 1\n"),           Some(format!("port = 1\n{ours}"))),
        ("#include 'haclt.conf'\n".to_owned(),  Some(format!("#include 'haclt.conf'\n{ours}"))),
    ];
    for (text, expected) in table {
        assert_eq!(with_include(&text), expected, "{text:?}");
        if let Some(text) = expected {
            assert_eq!(with_include(&text), None, "{text:?}");
        }
    }
}

#[test]
fn what_is_ours_or_too_low_is_taken_out_of_the_automatic_file() {
    let lowest = BTreeMap::from([("max_connections", 100)]);
    let text = "# do not edit\nwork_mem = '8MB'\nPrimary_Conninfo = 'x'\nport='1'\n\
                recovery_target_xid = '5'\nmax_connections = '99'\n";
    let kept = "# do not edit\nwork_mem = '8MB'\n";
    assert_eq!(stripped(text, &lowest, &BTreeSet::new()).as_deref(), Some(kept));
    assert_eq!(stripped(kept, &lowest, &BTreeSet::new()), None);
    assert_eq!(stripped("max_connections = '100'\n", &lowest, &BTreeSet::new()), None);
    let cluster = BTreeSet::from(["work_mem".to_owned()]);
    assert_eq!(stripped(kept, &lowest, &cluster).as_deref(), Some("# do not edit\n"));
}

#[test]
fn every_recovery_setting_is_fixed_or_ours() {
    let config = config();
    let args = server_args(&config, &layout(), 15).join(" ");
    let settings = Settings { major: 15, ..Settings::default() };
    let conf = conf(&config, &layout(), &settings);
    let harmless =
        ["archive_cleanup_command", "recovery_target_action", "recovery_target_inclusive"];
    for name in RECOVERY.iter().filter(|name| !harmless.contains(name)) {
        let in_conf = conf.lines().any(|line| setting_name(line) == *name);
        assert!(in_conf || args.contains(&format!("-c {name}=")), "{name}");
    }
    // A trigger file would promote without a right; later versions do not know it.
    assert!(args.contains("promote_trigger_file= ") || args.ends_with("promote_trigger_file="));
    assert!(!server_args(&config, &layout(), 16).join(" ").contains("promote_trigger_file"));
}

#[test]
fn values_are_quoted_for_the_file_that_they_are_in() {
    let upstream = Upstream { node: "n2".parse().unwrap(), host: "h'\\".to_owned(), port: 5433 };
    let text = standby_conninfo(&config(), &layout(), &upstream);
    assert!(text.contains("application_name='n1'"));
    assert!(text.starts_with(r"host='h\'\\' port='5433' "), "{text}");
    assert!(text.contains(r"passfile='/x/it\'s/pgpass'"), "{text}");
    assert!(!text.contains("a:b"));
    assert_eq!(pass_file(&config()), "*:*:*:haclt_replication:a\\:b\\\\c'd\n");
    let settings = Settings { major: 15, upstream: Some(&upstream), ..Settings::default() };
    let conf = conf(&config(), &layout(), &settings);
    assert!(conf.contains(r"primary_conninfo = 'host=''h\\''\\\\'' port"), "{conf}");
    let other = with_setting(&conf, CONNINFO, "").unwrap();
    assert!(other.ends_with("primary_conninfo = ''\n"));
    assert_eq!(other.matches("primary_conninfo").count(), 1);
    assert_eq!(with_setting(&other, CONNINFO, ""), None);
    // The one leaves the other alone.
    let closed = format!("{SYNCHRONOUS} = 'FIRST 1 (haclt_nobody)'\n");
    assert!(conf.contains(&closed) && other.contains(&closed), "{other}");
    let two = Synchronous::Any {
        required: 1,
        members: ["n3", "n2", "n3"].map(|name| name.parse().unwrap()).to_vec(),
    };
    let open = with_setting(&other, SYNCHRONOUS, &two.setting()).unwrap();
    assert!(open.ends_with("synchronous_standby_names = 'ANY 1 (\"n2\", \"n3\")'\n"), "{open}");
    assert!(open.contains("primary_conninfo = ''\n"));
    // Set twice, the first does not count.
    let twice = format!("{SYNCHRONOUS} = ''\nport = '1'\n{SYNCHRONOUS} = 'x'\n");
    let once = format!("port = '1'\n{SYNCHRONOUS} = ''\n");
    assert_eq!(with_setting(&twice, SYNCHRONOUS, ""), Some(once));
}

#[test]
fn a_rule_of_none_is_the_rule_of_nobody() {
    let any = |required, members| Synchronous::Any { required, members };
    assert_eq!(any(0, vec!["n2".parse().unwrap()]).setting(), "");
    assert_eq!(any(1, Vec::new()).setting(), "");
    assert_eq!(Synchronous::Nobody.setting(), "");
}

#[test]
fn wal_is_restored_from_the_spool_whatever_its_path_is() {
    let layout = Layout { run_dir: "/x/50% off 'a b'".into(), ..layout() };
    let spool = "/x/50%% off 'a b'/spool";
    let command = format!(r#"test -f "{spool}/%f" && cp "{spool}/%f" "%p""#);
    let args = server_args(&config(), &layout, 15);
    assert!(args.contains(&format!("restore_command={command}")), "{args:?}");
    let conf = conf(&config(), &layout, &Settings { major: 15, ..Settings::default() });
    let quoted = command.replace('\'', "''");
    assert!(conf.contains(&format!("restore_command = '{quoted}'\n")), "{conf}");
    for strange in ["/x/a\"b", "/x/$HOME", "/x/`id`", "/x/a\\b", "/x/a\nb"] {
        let mut config = config();
        config.data_dir = strange.into();
        let faults = faults(&config);
        assert!(faults.iter().any(|fault| fault.contains("a shell would not")), "{strange:?}");
    }
    assert_eq!(faults(&config()), [""; 0]);
}

#[test]
fn only_our_own_users_get_in_when_clients_are_kept_out() {
    let mut config = config();
    config.hba = vec!["host app app 10.0.0.0/8 scram-sha-256".to_owned()];
    let text = hba(&config, &[], Some("host app app all trust"), false);
    let rules: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let (ours, others) = rules.split_at(4);
    assert!(ours.iter().all(|rule| rule.ends_with("scram-sha-256")), "{rules:?}");
    assert!(ours.contains(&"host all \"postgres\" samehost scram-sha-256"));
    config.own_network = true;
    assert!(
        hba(&config, &[], None, false).contains("host all \"postgres\" samenet scram-sha-256\n")
    );
    assert!(others.iter().all(|rule| rule.ends_with("all reject")), "{rules:?}");
    assert!(!text.contains("app"));
}

#[test]
fn nobody_is_trusted_and_our_users_come_first() {
    let mut config = config();
    config.hba = vec!["host app app 10.0.0.0/8 scram-sha-256".to_owned()];
    let rules: Vec<String> =
        hba(&config, &[], None, true).lines().skip(1).map(str::to_owned).collect();
    assert_eq!(rules.len(), 5);
    assert!(rules.iter().all(|rule| rule.ends_with("scram-sha-256")));
    assert_eq!(rules.last().unwrap(), config.hba.first().unwrap());
    assert!(rules.first().unwrap().contains("\"postgres\""));
}

#[test]
fn rules_of_an_adopted_database_hold_unless_others_are_configured() {
    let mut config = config();
    let adopted = "# office\nhost app app 10.0.0.0/8 md5\n";
    let text = hba(&config, &[], Some(adopted), true);
    assert!(text.ends_with("scram-sha-256\n# office\nhost app app 10.0.0.0/8 md5\n"), "{text}");
    assert!(!text.contains("host all all all"), "{text}");
    let cluster = ["host all all 10.1.0.0/16 reject".to_owned()];
    let text = hba(&config, &cluster, Some(adopted), true);
    assert_eq!(text.lines().nth(OWN_RULES), Some(cluster[0].as_str()), "{text}");
    assert!(
        text.ends_with("10.1.0.0/16 reject\n# office\nhost app app 10.0.0.0/8 md5\n"),
        "{text}"
    );
    assert!(!hba(&config, &cluster, Some(adopted), false).contains("10.1."));
    config.hba = vec!["host all all 10.0.0.0/8 scram-sha-256".to_owned()];
    assert!(!hba(&config, &[], Some(adopted), true).contains("md5"));
}

#[test]
fn settings_of_an_adopted_database_stand_between_our_defaults_and_the_configuration() {
    let mut config = config();
    config.parameters.insert("wal_keep_size".to_owned(), "1GB".to_owned());
    let text = conf(&config, &layout(), &Settings { major: 17, ..Settings::default() });
    let at = |line: &str| {
        let mut all = text.match_indices(line);
        let found = all.next().unwrap_or_else(|| panic!("{line} in {text}"));
        assert_eq!(all.next(), None, "{line} twice");
        found.0
    };
    let user = at("include_if_exists 'haclt_user.conf'");
    assert!(at("wal_sender_timeout = ") < user && at("superuser_reserved_connections = ") < user);
    assert!(at("wal_keep_size = '1GB'") > user && at("port = ") > user);
    assert_eq!(text.matches("\nwal_keep_size").count(), 1);
}
