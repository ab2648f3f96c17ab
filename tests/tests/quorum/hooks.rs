//! Programs of the operator: run at the right moment, told the right things, never waited for by what must
//! not wait.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use ha_tests::{Cluster, Plan, eventually, logs, processes, programs, scenario, status, within};
use rustix::process::Signal;

use super::FAULTS;

/// All hooks.
const HOOKS: [&str; 7] = [
    "on_promote",
    "on_demote",
    "on_fence",
    "on_start",
    "on_stop",
    "before_switchover",
    "after_switchover",
];
/// What is said of a switchover that does not come about, and of hooks that fail.
const BROKEN: [&str; 3] = ["switchover broken off", "hook failed", "hooks pile up"];

fn switch(c: &Cluster, to: &str) -> (i32, String) {
    let output = c.haclt(&["switchover", "--to", to]);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().expect("not killed"), String::from_utf8_lossy(&text).into_owned())
}

/// Writes a script and returns where it is.
fn script(c: &Cluster, name: &str, text: &str) -> PathBuf {
    let path = c.base.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a writable directory");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a file of ours");
    path
}

fn command(words: &[&Path]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("\"{}\"", word.display())).collect();
    format!("[{}]", words.join(", "))
}

/// Has each data node's hooks write down how they were called.
fn record(c: &mut Cluster) {
    let text = "{ echo \"call $*\"; env | sort; echo end; } >>\"$1\"";
    let record = script(c, "record.sh", text);
    for node in c.nodes_mut().iter_mut().filter(|node| node.is_data) {
        let into = node.dir.join("hooks.log");
        for hook in HOOKS {
            node.config.set(&format!("hooks.{hook}"), command(&[&record, &into]));
        }
    }
}

/// One hook that was run: its name, and its environment.
type Run = (String, BTreeMap<String, String>);

/// Returns the hooks that were run to their end on a node, in order.
fn runs(c: &Cluster, node: &str) -> Vec<Run> {
    let text = logs::read(&c.node(node).dir.join("hooks.log"));
    let calls = text.split("call ").filter(|call| call.contains("\nend\n"));
    calls
        .map(|call| {
            let words: Vec<&str> = call.lines().next().unwrap_or_default().split(' ').collect();
            let [_, hook, role, cluster] = words[..] else { panic!("{words:?}") };
            let pairs = call.lines().filter_map(|line| line.split_once('='));
            let environment: BTreeMap<_, _> =
                pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            assert_eq!(environment["HACLT_ROLE"], role, "{call}");
            assert_eq!(environment["HACLT_CLUSTER"], cluster, "{call}");
            assert_eq!(environment["HACLT_HOOK"], hook, "{call}");
            (hook.to_owned(), environment)
        })
        .collect()
}

/// Waits until exactly these hooks were run on a node since `from`, and returns them.
async fn ran(c: &Cluster, node: &str, from: usize, expected: &[&str]) -> Vec<Run> {
    let what = format!("{node} runs {expected:?}");
    let found = eventually(&what, within(30), async || {
        let mut found = runs(c, node);
        found.drain(..from.min(found.len()));
        (found.len() >= expected.len()).then_some(found)
    });
    let found = found.await;
    let names: Vec<&str> = found.iter().map(|(hook, _)| hook.as_str()).collect();
    assert_eq!(names, expected, "on {node}");
    found
}

#[test]
fn each_change_of_role_runs_its_hooks_with_what_they_have_to_know() {
    scenario(Plan::within(150).quorum().announces(&FAULTS), async |c| {
        record(c);
        let (old, new) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        // The first database is made, then promoted as any other.
        let first = ran(c, &old, 0, &["on_start", "on_promote"]).await;
        assert_eq!(first[1].1["HACLT_EPOCH"], "1");
        ran(c, &new, 0, &["on_start"]).await;

        let (code, text) = switch(c, &new);
        assert_eq!(code, 0, "{text}");
        let (host, port) = {
            let address = c.node(&new).postgres();
            let (host, port) = address.rsplit_once(':').expect("host and port");
            (host.to_owned(), port.to_owned())
        };
        let promoted = &ran(c, &new, 1, &["on_promote"]).await[0].1;
        let kept = ["PATH", "HOME", "LANG", "TZ", "HACLT_HOOK_RUN"];
        // What a shell sets by itself.
        let shells = ["PWD", "SHLVL", "_", "OLDPWD"];
        let told: BTreeMap<&str, &str> = promoted
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(name, _)| !kept.contains(name) && !shells.contains(name))
            .collect();
        let expected = BTreeMap::from([
            ("HACLT_CLUSTER", "orders"),
            ("HACLT_EPOCH", "2"),
            ("HACLT_HOOK", "on_promote"),
            ("HACLT_NODE", new.as_str()),
            ("HACLT_OLD_PRIMARY", old.as_str()),
            ("HACLT_PRIMARY", new.as_str()),
            ("HACLT_PRIMARY_HOST", host.as_str()),
            ("HACLT_PRIMARY_PORT", port.as_str()),
            ("HACLT_REASON", "serving"),
            ("HACLT_ROLE", "primary"),
            ("HACLT_TIMELINE", "3"),
        ]);
        assert_eq!(told, expected);
        // The hook after it may come before the database is back.
        eventually("the old primary's hooks are run", within(30), async || {
            (runs(c, &old).len() >= 7).then_some(())
        })
        .await;
        let demoted = runs(c, &old).split_off(2);
        let names: Vec<&str> = demoted.iter().map(|(hook, _)| hook.as_str()).collect();
        assert_eq!(names[0], "before_switchover");
        let ordered: Vec<&str> =
            names.iter().copied().filter(|name| name.starts_with("on_")).collect();
        assert_eq!(ordered, ["on_demote", "on_stop", "on_start"]);
        let of = |hook: &str| &demoted.iter().find(|(name, _)| name == hook).expect("it ran").1;
        assert_eq!(of("before_switchover")["HACLT_PRIMARY"], old);
        assert_eq!(of("before_switchover")["HACLT_NEW_PRIMARY"], new);
        assert_eq!(of("after_switchover")["HACLT_OUTCOME"], "done");
        assert_eq!(of("after_switchover")["HACLT_PRIMARY"], new);
        assert_eq!(of("on_demote")["HACLT_PRIMARY_HOST"], host);
        c.healthy(within(30)).await;

        // An agent that starts again beside a database that runs has nothing to tell.
        let before = (runs(c, &old).len(), runs(c, &new).len());
        c.node_mut(&new).kill_agent();
        c.node_mut(&new).start();
        c.settled(within(30)).await;
        assert_eq!((runs(c, &old).len(), runs(c, &new).len()), before);

        // Frozen for longer than its lease: the guard kills the database.
        c.node(&new).signal_agent(Signal::STOP);
        c.primary_is(&old, within(30)).await;
        c.node(&new).signal_agent(Signal::CONT);
        let fenced = ran(c, &new, before.1, &["on_fence", "on_stop"]).await;
        assert_eq!(fenced[0].1["HACLT_ROLE"], "none");
        ran(c, &old, before.0, &["on_promote"]).await;
        ran(c, &new, before.1 + 2, &["on_start"]).await;
        c.healthy(within(60)).await;

        // Told to stop, an agent runs its hooks before it is gone.
        let before = runs(c, &new).len();
        c.node_mut(&new).stop_agent(within(30)).await;
        let (hook, environment) = &runs(c, &new)[before];
        assert_eq!(
            (hook.as_str(), environment["HACLT_REASON"].as_str()),
            ("on_stop", "agent_stopping")
        );
    });
}

#[test]
fn a_hook_before_a_switchover_breaks_it_off_if_it_fails_or_hangs_and_dies_with_its_children() {
    scenario(Plan::within(120).quorum().announces(&BROKEN), async |c| {
        let verdict = c.base.join("verdict");
        let pids = c.base.join("pids");
        let text = format!(
            ". {}\ncase $verdict in\nno) echo 'not before noon' >&2; exit 7 ;;\n\
             hang) sleep 600 & echo $! >{pids}; setsid sleep 601 & echo $! >>{pids}; sleep 602 ;;\n\
             esac",
            verdict.display(),
            pids = pids.display()
        );
        let before = script(c, "before.sh", &text);
        c.set_on_data_nodes("hooks.before_switchover", &command(&[&before]));
        c.set_on_data_nodes("hooks.before_switchover_timeout", "\"1500ms\"");
        let (old, new) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        let run = c.node(&old).guard_status().expect("a guard").run;

        fs::write(&verdict, "verdict=no").expect("a writable directory");
        let (code, text) = switch(c, &new);
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("not before noon"), "it says why: {text}");
        c.say(&text.replace('\n', "; "));

        fs::write(&verdict, "verdict=hang").expect("a writable directory");
        let began = Instant::now();
        let (code, text) = switch(c, &new);
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("killed after 1500 ms"), "{text}");
        assert!(began.elapsed() < within(5), "{:?}", began.elapsed());
        let children = fs::read_to_string(&pids).expect("two children");
        let children: Vec<i32> = children.lines().filter_map(|pid| pid.parse().ok()).collect();
        assert_eq!(children.len(), 2);
        for pid in children {
            assert!(!processes::is_alive(pid), "child {pid} lives on");
        }

        assert_eq!(c.node(&old).guard_status().expect("a guard").run, run, "it was never stopped");
        let status = c.healthy(within(20)).await;
        assert_eq!((status::holder(&status), status.epoch), (old.as_str(), 1));
        fs::write(&verdict, "verdict=yes").expect("a writable directory");
        let (code, text) = switch(c, &new);
        assert_eq!(code, 0, "{text}");
    });
}

/// Hooks that hang for as long as they may: the database moves as quickly as without them.
#[test]
fn hooks_that_hang_delay_no_failover() {
    let plan = Plan::within(150).quorum().announces(&FAULTS).announces(&BROKEN);
    scenario(plan, async |c| {
        let hang = script(c, "hang.sh", "sleep 600");
        for hook in HOOKS.iter().filter(|hook| hook.starts_with("on_")) {
            c.set_on_data_nodes(&format!("hooks.{hook}"), &command(&[&hang]));
        }
        c.set_on_data_nodes("hooks.timeout", "\"20s\"");
        c.start_agents();
        let status = c.streaming(within(60)).await;
        let old = status::holder(&status).to_owned();
        let new = c.other(&old);
        c.node(&old)
            .sql("create table writes (value bigint primary key, node text)")
            .await
            .unwrap();
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        c.more_writes(20, within(10)).await;
        c.node_mut(&old).kill_everything();
        c.writes_on(&new, within(10)).await;
        let gap = c.writer().so_far().longest_gap();
        c.say(&format!("longest write gap {} ms", gap.as_millis()));
        assert!(gap < within(7), "{gap:?}");
        c.node_mut(&old).start();
        c.streaming(within(60)).await;
        let acks = c.end_writing().await;
        c.assert_nothing_lost_on(&new, &acks).await;
    });
}

/// The example, with a compose of the test's own.
#[test]
fn the_example_rewrites_an_env_file_and_recreates_the_service() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    let fake = |name: &str, text: &str| {
        fs::write(at(name), format!("#!/bin/sh\n{text}\n")).expect("a writable directory");
        fs::set_permissions(at(name), fs::Permissions::from_mode(0o755)).expect("a file of ours");
    };
    let called = at("called");
    fake("docker", &format!("[ \"$2\" = version ] || echo \"$*\" >>{}", called.display()));
    let hook = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/hooks/compose-env.sh");
    let run = |host: &str| {
        let output = Command::new(&hook)
            .args([at(".env"), at("compose.yaml")])
            .args(["shop", "on_promote", "primary", "orders"])
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", dir.path().display()))
            .env("HACLT_PRIMARY_HOST", host)
            .env("HACLT_PRIMARY_PORT", "5432")
            .output()
            .expect("the hook can be started");
        (output.status.code(), programs::said(&output))
    };
    let env = || fs::read_to_string(at(".env")).expect("a readable file");
    fs::write(at(".env"), "A=1\nDB_HOST=10.0.0.1\n# end\n").expect("a writable directory");
    fs::set_permissions(at(".env"), fs::Permissions::from_mode(0o640)).expect("a file of ours");

    let (code, said) = run("10.0.0.2");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(env(), "A=1\nDB_HOST=10.0.0.2\n# end\nDB_PORT=5432\n");
    assert_eq!(fs::metadata(at(".env")).expect("a file").permissions().mode() & 0o777, 0o640);
    let compose = at("compose.yaml");
    let expected =
        format!("compose -f {} up -d --no-deps --force-recreate shop\n", compose.display());
    assert_eq!(fs::read_to_string(&called).expect("it was called"), expected);

    let (code, said) = run("10.0.0.2");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(fs::read_to_string(&called).expect("called before"), expected, "once is enough");
    let (code, said) = run("");
    assert_eq!((code, env().contains("10.0.0.2")), (Some(0), true), "no primary: {said}");

    // Only the old program, and it fails: the file is as it was, so that the next try does it.
    fake("docker", "exit 1");
    fake("docker-compose", "echo 'no such service' >&2; exit 1");
    let (code, said) = run("10.0.0.1");
    assert_eq!(code, Some(1), "{said}");
    assert!(env().contains("DB_HOST=10.0.0.2\n"), "{}", env());
    fake("docker-compose", &format!("echo \"$*\" >{}", called.display()));
    let (code, said) = run("10.0.0.1");
    assert_eq!(code, Some(0), "{said}");
    assert!(env().contains("DB_HOST=10.0.0.1\n"), "{}", env());
    assert_eq!(fs::read_to_string(&called).expect("called"), &expected["compose ".len()..]);
    let left: Vec<_> = fs::read_dir(dir.path()).expect("a directory").flatten().collect();
    assert_eq!(left.len(), 4, "nothing is left over: {left:?}");
}
