use std::time::Duration;

use super::*;
use crate::Secret;

fn config() -> ProcessConfig {
    let role = |name: &str| Role { name: name.to_owned(), password: Secret::new("a:b\\c'd") };
    ProcessConfig {
        node: "n1".parse().unwrap(),
        bin_dir: "/bin".into(),
        data_dir: "/x/data".into(),
        permit_dir: "/run/x".into(),
        log_dir: "/log".into(),
        guard: "/bin/ha-guard".into(),
        listen_addresses: vec!["10.0.0.1".to_owned(), "127.0.0.1".to_owned()],
        port: 5432,
        probe_host: "127.0.0.1".to_owned(),
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
    assert_eq!(stripped(text, &lowest).as_deref(), Some(kept));
    assert_eq!(stripped(kept, &lowest), None);
    assert_eq!(stripped("max_connections = '100'\n", &lowest), None);
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
    let other = with_conninfo(&conf, "").unwrap();
    assert!(other.ends_with("primary_conninfo = ''\n"));
    assert_eq!(other.matches("primary_conninfo").count(), 1);
    assert_eq!(with_conninfo(&other, ""), None);
}

#[test]
fn nobody_is_trusted_and_our_users_come_first() {
    let mut config = config();
    config.hba = vec!["host app app 10.0.0.0/8 scram-sha-256".to_owned()];
    let rules: Vec<String> = hba(&config).lines().skip(1).map(str::to_owned).collect();
    assert_eq!(rules.len(), 5);
    assert!(rules.iter().all(|rule| rule.ends_with("scram-sha-256")));
    assert_eq!(rules.last().unwrap(), config.hba.first().unwrap());
    assert!(rules.first().unwrap().contains("\"postgres\""));
}
