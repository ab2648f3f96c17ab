//! The guard as a process of this machine.

use ha_postgres::driver::{GuardSeen, PostgresDriver};
use ha_postgres::{Instance, ProcessConfig};

use crate::support::{Node, bin_dir, soon};

#[tokio::test]
async fn that_cannot_be_started_is_an_error_that_says_why() {
    for (guard, why) in
        [("/nonexistent/ha-guard", "cannot start the guard: "), ("/bin/false", "exit status: 1")]
    {
        let node = Node::new("n1");
        let process = ProcessConfig { bin_dir: bin_dir(), guard: guard.into() };
        let driver = Instance::on_processes(node.driver.config().clone(), process).unwrap();
        let error = driver.ensure_guard(soon(5)).await.unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(driver.guard(), GuardSeen::Absent);
    }
}

#[test]
fn a_program_that_has_no_place_of_its_own_is_a_fault() {
    let node = Node::new("n1");
    let process = ProcessConfig { bin_dir: "bin".into(), guard: "ha-guard".into() };
    let error = Instance::on_processes(node.driver.config().clone(), process).unwrap_err();
    for part in ["path bin is not absolute", "path ha-guard is not absolute"] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
}
