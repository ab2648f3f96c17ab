//! Arguments, help, completions and manual pages.

use tokio::process::Command;

use crate::agent::{self, Agent};
use crate::{DONE, FAILED, TABLE, WRONG, assert_ran, haclt, run, run_to_end};

#[tokio::test]
async fn endpoints_come_from_the_option_or_the_environment() {
    let agent = Agent::answering(agent::healthy()).await;
    let mut command = haclt(&["status"]);
    command.env("HACLT_ENDPOINTS", agent.address.to_string());
    assert_ran(&run_to_end(command).await, DONE, TABLE, "");

    // The option wins, wherever it stands, even over an environment that makes no sense.
    let address = agent.address.to_string();
    for args in [["--endpoint", &address, "status"], ["status", "--endpoint", &address]] {
        let mut command = haclt(&args);
        command.env("HACLT_ENDPOINTS", "nonsense");
        assert_ran(&run_to_end(command).await, DONE, TABLE, "");
    }
    let mut command = haclt(&["status"]);
    command.env("HACLT_ENDPOINTS", "nonsense");
    let ran = run_to_end(command).await;
    assert!(ran.err.starts_with("error: invalid endpoint \"nonsense\": it has no port\nhint: "));
    assert_eq!(ran.code, WRONG);

    // An agent may run on this machine: what is certain is which endpoint is asked.
    let mut command = haclt(&["status", "--cluster", "no-such-cluster"]);
    command.env("HACLT_ENDPOINTS", "");
    let ran = run_to_end(command).await;
    assert!(ran.err.contains("127.0.0.1:7400"), "{}", ran.err);
}

#[tokio::test]
async fn arguments_that_make_no_sense_are_a_usage_error_that_names_them() {
    #[rustfmt::skip]
    let table: [(&[&str], &str); 41] = [
        (&["--endpoint", "db1", "status"],                  "error: invalid endpoint \"db1\": it has no port\n"),
        (&["--endpoint", "db1:7400,::1:7400", "explain"],   "error: invalid endpoint \"::1:7400\": an IPv6 address is written in brackets"),
        (&["--endpoint", "http://db1:7400", "status"],      "error: invalid endpoint \"http://db1:7400\": expected HOST:PORT, not a URL\n"),
        (&["--endpoint", "db1:1,db2:1,DB1:1", "status"],    "error: endpoint db1:1 is named twice\n"),
        (&["--endpoint", "a:1", "--endpoint", "a:1", "status"], "error: endpoint a:1 is named twice\n"),
        (&["status", "--timeout", "5"],                     "error: invalid value '5' for '--timeout <DURATION>': expected a whole number and a unit"),
        (&["status", "--timeout", "0s"],                    "error: invalid value '0s' for '--timeout <DURATION>'"),
        (&["status", "--watch", "often"],                   "error: invalid value 'often' for '--watch [<SECONDS>]'"),
        (&["status", "--watch", "--exit-code"],             "error: the argument '--watch [<SECONDS>]' cannot be used with '--exit-code'"),
        (&["status", "n1"],                                 "error: unexpected argument 'n1' found"),
        (&["config"],                                       "Show or change the configuration"),
        (&["config", "get"],                                "error: the following required arguments were not provided:\n  <KEY>"),
        (&["config", "set", "durability.mode"],             "error: the following required arguments were not provided:\n  <VALUE>"),
        (&["config", "set", "a", "b", "--timeout", "1h"],   "error: invalid value '1h' for '--timeout <SECONDS>'"),
        (&["diverged", "show", "x"],                        "error: invalid value 'x' for '<ID>'"),
        (&["diverged", "drop", "-1"],                       "error: unexpected argument '-1' found"),
        (&["diverged", "drop", "1", "2"],                   "error: unexpected argument '2' found"),
        (&["doctor", "n1", "n2"],                           "error: unexpected argument 'n2' found"),
        (&["adopt"],                                        "error: the following required arguments were not provided:\n  --config <FILE>"),
        (&["adopt", "--config", "x", "--undo", "--from-data-dir", "y"], "error: the argument '--undo' cannot be used with '--from-data-dir <DIR>'"),
        (&["restart"],                                      "error: the following required arguments were not provided:\n  <NODE>"),
        (&["node", "add"],                                  "error: the following required arguments were not provided:\n  <NODE>"),
        (&["node", "remove"],                               "error: the following required arguments were not provided:\n  <NODE>"),
        (&["recover"],                                      "error: the following required arguments were not provided:\n  --config <FILE>\n  --force-new-cluster"),
        (&["recover", "--config", "x"],                     "error: the following required arguments were not provided:\n  --force-new-cluster"),
        (&["node", "replace"],                              "error: the following required arguments were not provided:\n  <NODE>"),
        (&["fence"],                                        "error: the following required arguments were not provided:\n  <NODE>"),
        (&["resume", "--yes"],                              "error: the following required arguments were not provided:\n  --without <NODE>"),
        (&["failover", "--yes"],                            "error: the following required arguments were not provided:\n  --accept-data-loss"),
        (&["reclone", "n2", "--max-rate", "0"],             "error: invalid value '0' for '--max-rate <MIB>'"),
        (&["switchover", "--at", "03:00"],                  "error: invalid value '03:00' for '--at <TIME>': expected a span such as 15m"),
        (&["events", "--since", "yesterday"],               "error: invalid value 'yesterday' for '--since <TIME>': expected a span"),
        (&["events", "show"],                               "error: the following required arguments were not provided:\n  <ID>"),
        (&["drill", "flood"],                               "error: invalid value 'flood' for '[FAULT]'"),
        (&["drill", "freeze", "--seconds", "61"],           "error: invalid value '61' for '--seconds <N>'"),
        (&["drill", "--output", "drill.png"],               "error: invalid value 'drill.png' for '--output <FILE>'"),
        (&["support-bundle", "n1"],                         "error: unexpected argument 'n1' found"),
        (&["support-bundle", "--list", "x", "--force"],     "error: the argument '--list <FILE>' cannot be used with '--force'"),
        (&["promote"],                                      "error: unrecognized subcommand 'promote'"),
        (&["completions", "csh"],                           "error: invalid value 'csh' for '<SHELL>'"),
        (&[],                                               "Watch over a PostgreSQL cluster"),
    ];
    for (args, expected) in table {
        let ran = run(args).await;
        assert_eq!((ran.code, ran.out.as_str()), (WRONG, ""), "{args:?}");
        assert!(ran.err.starts_with(expected), "{args:?}: {}", ran.err);
    }
}

#[tokio::test]
async fn help_and_version_are_what_they_were() {
    let ran = run(&["--version"]).await;
    assert_ran(&ran, DONE, &format!("haclt {}\n", env!("CARGO_PKG_VERSION")), "");
    #[rustfmt::skip]
    let table: [(&[&str], &str); 35] = [
        (&["-h"],                    include_str!("help.txt")),
        (&["--help"],                include_str!("help-long.txt")),
        (&["status", "--help"],      include_str!("help-status.txt")),
        (&["explain", "-h"],         include_str!("help-explain.txt")),
        (&["doctor", "--help"],      include_str!("help-doctor.txt")),
        (&["switchover", "--help"],  include_str!("help-switchover.txt")),
        (&["drill", "--help"],       include_str!("help-drill.txt")),
        (&["restart", "--help"],     include_str!("help-restart.txt")),
        (&["failover", "--help"],    include_str!("help-failover.txt")),
        (&["pause", "--help"],       include_str!("help-pause.txt")),
        (&["resume", "--help"],      include_str!("help-resume.txt")),
        (&["fence", "--help"],       include_str!("help-fence.txt")),
        (&["unfence", "--help"],     include_str!("help-unfence.txt")),
        (&["reclone", "--help"],     include_str!("help-reclone.txt")),
        (&["rejoin", "--help"],      include_str!("help-rejoin.txt")),
        (&["reload", "--help"],      include_str!("help-reload.txt")),
        (&["node", "--help"],        include_str!("help-node.txt")),
        (&["node", "list", "--help"], include_str!("help-node-list.txt")),
        (&["node", "add", "--help"], include_str!("help-node-add.txt")),
        (&["node", "remove", "--help"], include_str!("help-node-remove.txt")),
        (&["recover", "--help"],     include_str!("help-recover.txt")),
        (&["node", "replace", "--help"], include_str!("help-node-replace.txt")),
        (&["events", "--help"],      include_str!("help-events.txt")),
        (&["history", "--help"],     include_str!("help-history.txt")),
        (&["config", "-h"],          include_str!("help-config.txt")),
        (&["config", "set", "--help"], include_str!("help-config-set.txt")),
        (&["config", "edit", "--help"], include_str!("help-config-edit.txt")),
        (&["config", "validate", "--help"], include_str!("help-config-validate.txt")),
        (&["credentials", "--help"], include_str!("help-credentials.txt")),
        (&["credentials", "show", "--help"], include_str!("help-credentials-show.txt")),
        (&["credentials", "rotate", "--help"], include_str!("help-credentials-rotate.txt")),
        (&["diverged", "-h"],        include_str!("help-diverged.txt")),
        (&["diverged", "list", "--help"], include_str!("help-diverged-list.txt")),
        (&["diverged", "drop", "-h"], include_str!("help-diverged-drop.txt")),
        (&["support-bundle", "--help"], include_str!("help-support-bundle.txt")),
    ];
    for (args, expected) in table {
        let ran = run(args).await;
        assert_ran(&ran, DONE, expected, "");
        assert!(ran.out.lines().all(|line| line.len() <= 100), "{args:?}");
    }
}

#[tokio::test]
async fn completions_are_scripts_their_shell_can_read() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = run(&["completions", shell]).await;
        assert_eq!((ran.code, ran.err.as_str()), (DONE, ""), "{shell}");
        assert!(
            ["explain", "exit-code", "diverged", "no-wait"]
                .iter()
                .all(|word| ran.out.contains(word)),
            "{shell}"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("haclt.bash");
    std::fs::write(&script, run(&["completions", "bash"]).await.out).unwrap();
    let check = "source \"$1\" && complete -p haclt";
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-ec", check, "-"]).arg(&script);
    let ran = run_to_end(bash).await;
    assert!(ran.code == 0 && ran.out.contains("haclt") && ran.err.is_empty(), "{}", ran.err);
    let mut bash = Command::new("bash");
    bash.arg("-n").arg(&script);
    assert_ran(&run_to_end(bash).await, 0, "", "");
}

#[tokio::test]
async fn manual_pages_are_printed_or_written() {
    let ran = run(&["man"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (DONE, ""));
    assert!(ran.out.starts_with(".ie") && ran.out.contains("\n.TH haclt 1"), "{}", ran.out);

    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("share/man1");
    let ran = run(&["man", "--dir", pages.to_str().unwrap()]).await;
    assert_ran(&ran, DONE, "", "");
    let mut names: Vec<_> = std::fs::read_dir(&pages)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let expected = [
        "haclt-adopt.1",
        "haclt-completions.1",
        "haclt-config-edit.1",
        "haclt-config-get.1",
        "haclt-config-history.1",
        "haclt-config-set.1",
        "haclt-config-show.1",
        "haclt-config-unset.1",
        "haclt-config-validate.1",
        "haclt-config.1",
        "haclt-credentials-rotate.1",
        "haclt-credentials-show.1",
        "haclt-credentials.1",
        "haclt-diverged-drop.1",
        "haclt-diverged-list.1",
        "haclt-diverged-show.1",
        "haclt-diverged.1",
        "haclt-doctor.1",
        "haclt-drill.1",
        "haclt-events-show.1",
        "haclt-events.1",
        "haclt-explain.1",
        "haclt-failover.1",
        "haclt-fence.1",
        "haclt-history.1",
        "haclt-man.1",
        "haclt-node-add.1",
        "haclt-node-list.1",
        "haclt-node-remove.1",
        "haclt-node-replace.1",
        "haclt-node.1",
        "haclt-pause.1",
        "haclt-reclone.1",
        "haclt-recover.1",
        "haclt-rejoin.1",
        "haclt-reload.1",
        "haclt-restart.1",
        "haclt-resume.1",
        "haclt-status.1",
        "haclt-support-bundle.1",
        "haclt-switchover.1",
        "haclt-unfence.1",
        "haclt.1",
    ];
    assert_eq!(names, expected);
    let page = std::fs::read_to_string(pages.join("haclt-status.1")).unwrap();
    assert!(page.contains("exit\\-code") && page.contains("HACLT_ENDPOINTS"), "{page}");

    std::fs::write(dir.path().join("file"), "").unwrap();
    let file = dir.path().join("file");
    let ran = run(&["man", "--dir", file.to_str().unwrap()]).await;
    let begin = format!("error: could not write manual pages to directory {}: ", file.display());
    assert_eq!((ran.code, ran.out.as_str()), (FAILED, ""));
    assert!(ran.err.starts_with(&begin), "{}", ran.err);
}
