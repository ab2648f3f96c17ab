use super::*;

const GOOD: &str = r#"
cluster  = "orders"
node     = "n1"
kind     = "data"
data_dir = "/var/lib/haclt"
[listen]
grpc = "10.77.0.1:7400"
http = "10.77.0.1:8008"
[peers]
n1 = "10.77.0.1:7400"
n2 = "10.77.0.2:7400"
n3 = "10.77.0.3:7400"
[postgres]
driver   = "process"
bin_dir  = "/usr/lib/postgresql/17/bin"
data_dir = "/var/lib/postgresql/data"
listen   = "10.77.0.1:5432"
superuser = "postgres"
superuser_password_file = "/etc/haclt/superuser"
replication_password_file = "/etc/haclt/replication"
[durability]
mode = "quorum"
[lease]
ttl = "3s"
"#;

fn read(text: &str, environment: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let mut reader = Reader::new(text.parse().expect("valid TOML"));
    for (name, value) in environment {
        if let Some(key) = override_key(name) {
            reader.set(&key, (*value).to_owned());
        }
    }
    Config::from_reader(reader)
}

#[test]
fn the_documented_file_is_accepted() {
    let config = read(GOOD, &[]).expect("no fault");
    assert_eq!(config.node.as_str(), "n1");
    assert_eq!(config.policy, Policy::default());
    assert_eq!(config.advertise_grpc, "10.77.0.1:7400");
    let postgres = config.postgres.expect("a data node");
    assert_eq!(postgres.advertise, ("10.77.0.1".to_owned(), 5432));
    assert_eq!(config.notes, ["listen.http = 10.77.0.1:8008: not served by this version"]);
}

#[test]
fn a_container_takes_the_place_of_programs() {
    let text = GOOD
        .replace(
            "driver   = \"process\"",
            "driver = \"docker\"\ncontainer = \"orders-n1-postgres\"",
        )
        .replace("bin_dir  = \"/usr/lib/postgresql/17/bin\"\n", "");
    let config = read(&text, &[]).expect("no fault");
    let container = "orders-n1-postgres".to_owned();
    let socket = "unix:///var/run/docker.sock".to_owned();
    let driver = config.postgres.expect("a data node").driver;
    assert_eq!(driver, DriverSettings::Docker { container, socket });
    let other = [("HA_POSTGRES_DOCKER", "unix:///run/user/1000/docker.sock")];
    let driver = read(&text, &other).expect("no fault").postgres.expect("a data node").driver;
    let DriverSettings::Docker { socket, .. } = driver else { panic!("{driver:?}") };
    assert_eq!(socket, "unix:///run/user/1000/docker.sock");
}

#[test]
fn the_environment_overrides_a_key() {
    let config = read(GOOD, &[("HA_LEASE_TTL", "5s"), ("HA_POSTGRES_PRIORITY", "7")]);
    let config = config.expect("no fault");
    assert_eq!(config.policy.ttl, Duration::from_secs(5));
    assert_eq!(config.postgres.expect("a data node").priority, 7);
    let faults = read(GOOD, &[("HA_LEASE_TTTL", "5s")]).expect_err("unknown");
    assert_eq!(faults, ["unknown key lease.tttl"]);
}

#[test]
fn each_fault_is_one_line_that_names_the_key() {
    #[rustfmt::skip]
    let table = [
        ("cluster  = \"orders\"", "",                          "cluster is missing"),
        ("node     = \"n1\"",     "node = \"N-1\"",            "node: invalid node name"),
        ("kind     = \"data\"",   "kind = \"arbiter\"",        "kind: \"arbiter\" is neither"),
        ("ttl = \"3s\"",          "ttl = \"1s\"",              "lease.ttl 1s is too short"),
        ("ttl = \"3s\"",          "ttl = 3",                   "lease.ttl: expected a duration"),
        ("ttl = \"3s\"",          "tttl = \"3s\"",             "unknown key lease.tttl"),
        ("mode = \"quorum\"",     "mode = \"sync\"",           "durability.mode: durability mode \"sync\" is unknown"),
        ("[lease]",               "[witness]\n[lease]\nx = 1", "unknown key lease.x"),
        ("n3 = \"10.77.0.3:7400\"", "",                        "peers: 2 voters"),
        ("n3 = \"10.77.0.3:7400\"", "n3 = \"10.77.0.2:7400\"", "peers.n3: 10.77.0.2:7400 is the address of n2"),
        ("n1 = \"10.77.0.1:7400\"", "n4 = \"10.77.0.1:7400\"", "peers: this node, n1, is not among them"),
        ("listen   = \"10.77.0.1:5432\"", "listen = \"0.0.0.0:5432\"", "postgres.advertise is missing"),
        ("listen   = \"10.77.0.1:5432\"", "listen = \"10.77.0.1\"", "postgres.listen: \"10.77.0.1\" is no host:port"),
        ("data_dir = \"/var/lib/haclt\"", "data_dir = \"haclt\"", "data_dir: haclt is not an absolute path"),
        ("data_dir = \"/var/lib/haclt\"", "data_dir = \"/var/lib/postgresql/data/h\"", "data_dir /var/lib/postgresql/data/h must not lie inside"),
        ("driver   = \"process\"", "driver = \"podman\"",      "postgres.driver: \"podman\" is neither"),
        ("driver   = \"process\"", "driver = \"docker\"",      "postgres.container is missing"),
        ("driver   = \"process\"", "driver = \"docker\"",      "postgres.bin_dir: not with driver \"docker\""),
        ("driver   = \"process\"", "driver = \"docker\"\ndocker = \"tcp://x:1\"", "postgres.docker: \"tcp://x:1\" is no socket"),
        ("driver   = \"process\"", "container = \"x\"",        "postgres.container: not with driver \"process\""),
    ];
    for (from, to, expected) in table {
        assert!(GOOD.contains(from), "{from}");
        let faults = read(&GOOD.replacen(from, to, 1), &[]).expect_err(expected);
        assert!(faults.iter().any(|f| f.starts_with(expected)), "{expected}: {faults:?}");
    }
}

#[test]
fn all_faults_of_a_file_are_reported_at_once() {
    let text = GOOD
        .replace("ttl = \"3s\"", "ttl = \"1s\"\nfoo = 1")
        .replace("superuser = \"postgres\"", "bar = true")
        .replace("cluster  = \"orders\"", "");
    let faults = read(&text, &[]).expect_err("three faults");
    assert_eq!(faults.len(), 4, "{faults:?}");
}

#[test]
fn a_witness_needs_no_postgres_and_may_not_have_one() {
    let (head, _) = GOOD.split_once("[postgres]").expect("the section is there");
    let witness = head.replace("kind     = \"data\"", "kind = \"witness\"");
    assert!(read(&witness, &[]).expect("no fault").postgres.is_none());
    let keeps = |section: &str| read(&format!("{witness}\n[witness]\n{section}"), &[]);
    let config = keeps("wal_bytes_max = \"1GiB\"").expect("no fault");
    assert_eq!(config.witness.expect("a witness").wal_bytes_max, 1 << 30);
    let faults = keeps("wal_bytes_max = 1000").expect_err("too small");
    assert!(faults[0].starts_with("witness.wal_bytes_max = 1000 is too small"), "{faults:?}");
    let misplaced = format!("{GOOD}\n[witness]\nwal_dir = \"/w\"");
    assert_eq!(
        read(&misplaced, &[]).expect_err("a data node"),
        ["section witness: this is a data node"]
    );
    let both = GOOD.replace("kind     = \"data\"", "kind = \"witness\"");
    let faults = read(&both, &[]).expect_err("contradiction");
    assert_eq!(faults, ["section postgres: a witness has no Postgres"]);
}

const FENCING: &str = "\n[fencing]\nafter = \"2s\"\n[fencing.peers.n2]\ncontainer = \"pg2\"\ndocker = \"tcp://10.77.0.2:2376\"\n\
                       ca = \"/c/ca.pem\"\ncert = \"/c/cert.pem\"\nkey = \"/c/key.pem\"\n";

#[test]
fn other_nodes_engines_are_read_from_the_file_and_from_the_environment() {
    let config = read(&format!("{GOOD}{FENCING}"), &[]).expect("no fault");
    assert_eq!(config.fencing.after, Duration::from_secs(2));
    let peer = config.fencing.peers.values().next().expect("one");
    assert_eq!(peer.container, "pg2");
    assert_eq!(peer.engine.address, "10.77.0.2:2376");
    assert_eq!(peer.engine.key, Path::new("/c/key.pem"));
    let config = read(GOOD, &[]).expect("no fault");
    assert!(config.fencing.peers.is_empty());
    // The section may be the same on all nodes.
    let own = FENCING.replace("peers.n2]", "peers.n1]");
    assert!(read(&format!("{GOOD}{own}"), &[]).expect("no fault").fencing.peers.is_empty());
    let set = [
        ("HA_FENCING_PEERS_N2_DOCKER", "tcp://n2:2376"),
        ("HA_FENCING_PEERS_N2_CONTAINER", "pg2"),
        ("HA_FENCING_PEERS_N2_CA", "/c/ca"),
        ("HA_FENCING_PEERS_N2_CERT", "/c/cert"),
        ("HA_FENCING_PEERS_N2_KEY", "/c/key"),
    ];
    let config = read(GOOD, &set).expect("no fault");
    assert_eq!(config.fencing.peers.values().next().expect("one").engine.address, "n2:2376");
}

#[test]
fn faults_of_other_nodes_engines_name_the_key() {
    let table = [
        ("peers.n2]", "peers.n9]", "fencing.peers.n9: n9 is not among peers"),
        (
            "tcp://10.77.0.2:2376",
            "unix:///x",
            "fencing.peers.n2.docker: \"unix:///x\" is no address",
        ),
        ("tcp://10.77.0.2:2376", "tcp://n2", "fencing.peers.n2.docker: \"n2\" is no host:port"),
        ("container = \"pg2\"", "", "fencing.peers.n2.container is missing"),
        ("ca = \"/c/ca.pem\"", "", "fencing.peers.n2.ca is missing"),
        ("key = \"/c/key.pem\"", "key = \"k\"", "fencing.peers.n2.key: k is not an absolute path"),
        ("key = \"/c/key.pem\"", "key = \"/k\"\nfoo = 1", "unknown key fencing.peers.n2.foo"),
        ("\"2s\"", "\"1s\"", "fencing.after: 1000 ms is not between"),
        ("\"2s\"", "\"4s\"", "fencing.after: 4000 ms is not between"),
    ];
    for (from, to, expected) in table {
        assert!(FENCING.contains(from), "{from}");
        let text = format!("{GOOD}{}", FENCING.replacen(from, to, 1));
        let faults = read(&text, &[]).expect_err(expected);
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].starts_with(expected), "{expected}: {faults:?}");
    }
}

#[test]
fn hooks_and_pgbouncers_are_read_and_each_fault_is_named() {
    let more = r#"
[hooks]
on_promote = ["/etc/haclt/hooks/env-file", "/srv/app/.env"]
timeout = "5s"
[[pgbouncer]]
admin = "127.0.0.1:6432"
user = "haclt"
databases_file = "/etc/pgbouncer/databases.ini"
[[pgbouncer]]
admin = "/run/pgbouncer/.s.PGSQL.6432"
databases = ["orders"]
pause_timeout = "2s"
"#;
    let config = read(&format!("{GOOD}{more}"), &[]).expect("no fault");
    let command = config.hooks.commands.get(&HookKind::OnPromote).expect("a hook");
    assert_eq!(command, &["/etc/haclt/hooks/env-file", "/srv/app/.env"]);
    assert_eq!(config.hooks.limit(HookKind::BeforeSwitchover), Duration::from_secs(5));
    let [first, second] = config.bouncers.as_slice() else { panic!("{:?}", config.bouncers) };
    assert_eq!(
        (first.admin.to_string().as_str(), first.user.as_str()),
        ("127.0.0.1:6432", "haclt")
    );
    assert_eq!(first.pause_timeout, Duration::from_secs(5));
    assert_eq!(second.databases, ["orders"]);
    assert_eq!(read(GOOD, &[]).expect("no fault").hooks.limit(HookKind::OnStop).as_secs(), 10);

    let wrong = r#"
[hooks]
on_promote = []
on_demote = ["env-file"]
on_fail = ["/bin/true"]
timeout = "0s"
[[pgbouncer]]
admin = "127.0.0.1"
databases = ["*"]
[[pgbouncer]]
admin = "/run/pgbouncer"
password = "secret"
"#;
    let faults = read(&format!("{GOOD}{wrong}"), &[]).expect_err("faults");
    let expected = [
        "hooks.on_promote is empty",
        "hooks.on_demote: env-file is not an absolute path",
        "hooks.timeout: not between",
        "pgbouncer 1: admin: \"127.0.0.1\" is no host:port",
        "pgbouncer 1: databases: \"*\"",
        "pgbouncer 2: admin: /run/pgbouncer is no socket",
        "pgbouncer 2: unknown key password",
        "unknown key hooks.on_fail",
    ];
    for part in expected {
        assert!(faults.iter().any(|fault| fault.starts_with(part)), "{part}: {faults:?}");
    }
    let already = faults.iter().filter(|fault| fault.contains("is listed already")).count();
    assert_eq!(faults.len(), expected.len() + already, "{faults:?}");
}
