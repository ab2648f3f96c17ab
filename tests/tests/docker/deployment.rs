//! The checks in `deploy/tests`: that what is in `deploy` is as it says, and that each command of
//! `deploy/README.md` does what it says when it is typed.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use ha_tests::compose::{agent_image, is_there};
use ha_tests::programs::said;

use super::MAJOR;

/// Runs one of the checks on the image of the programs under test. That is a development build, and the
/// check says what cannot be seen of it.
fn check(name: &str, arguments: &[&str]) {
    if !is_there() {
        return;
    }
    let script = format!("../deploy/tests/{name}.sh");
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(script));
    command.args(arguments).env("HACLT_CHECK_IMAGE", agent_image(MAJOR));
    command.env("HACLT_CHECK_DEVELOPMENT", "1").stdin(Stdio::null());
    let output = command.output().expect("the repository's script");
    let mut err = std::io::stderr().lock();
    write!(err, "{}", said(&output)).expect("standard error");
    assert!(output.status.success(), "{name} {arguments:?}: {}", output.status);
}

#[test]
fn the_compose_files_are_valid() {
    check("compose-files", &[]);
}

#[test]
fn the_image_of_the_database_behaves_as_it_is_documented() {
    check("stand-in", &[&MAJOR.to_string()]);
}

#[test]
fn the_image_of_the_agent_is_what_the_compose_files_say() {
    check("image", &[&MAJOR.to_string()]);
}

#[test]
fn the_first_service_prepares_volumes_and_makes_passwords_once() {
    check("init", &[]);
}

#[test]
fn the_proxy_lets_through_what_the_agent_does_and_nothing_else() {
    check("socket-proxy", &[]);
}

#[test]
fn the_commands_for_one_host_work_as_they_are_written() {
    check("readme", &["host"]);
}

#[test]
fn the_commands_for_three_hosts_work_as_they_are_written() {
    check("readme", &["hosts"]);
}

#[test]
fn the_commands_that_adopt_a_pair_work_as_they_are_written() {
    check("readme", &["pair"]);
}
