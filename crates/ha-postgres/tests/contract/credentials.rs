//! Passwords that are changed while the server runs, and what is tried meanwhile.

use std::fs;

use ha_postgres::Secret;
use ha_postgres::credentials::Taken;
use ha_postgres::driver::PostgresDriver;

use crate::support::{Node, soon};

#[tokio::test]
async fn a_new_password_is_taken_by_the_server_and_tried_beside_the_old_one() {
    let n1 = Node::new_primary("n1").await;
    let n2 = Node::new_standby("n2", &n1).await;
    let (first, second) = (n1.driver.logins().unwrap(), n2.driver.logins().unwrap());
    let [superuser, replication] = first.roles();
    for role in [superuser, replication] {
        let (old, new) = (role.password.preferred(), Secret::new("new.Secret-of_tests"));
        assert_eq!(first.takes(role, &old, soon(5)).await, Ok(Taken::Yes));
        assert_eq!(first.takes(role, &new, soon(5)).await, Ok(Taken::No));
        role.password.set(old.clone(), Some(new.clone()));
        first.give(role, &new, soon(5)).await.unwrap();
        assert_eq!(first.takes(role, &old, soon(5)).await, Ok(Taken::No));
        assert_eq!(first.takes(role, &new, soon(5)).await, Ok(Taken::Yes));
    }
    // Its own sessions find the new one, also the replication user's.
    n1.driver.probe(soon(5)).await.unwrap();
    assert_eq!(superuser.password.preferred().expose(), "new.Secret-of_tests");
    assert_eq!(n1.driver.keep_internal_user(soon(5)).await, Ok(false), "it was let in");
    // So does the standby, whose pass file is put right.
    for role in second.roles() {
        role.password.set(role.password.preferred(), Some(Secret::new("new.Secret-of_tests")));
    }
    n2.catches_up_with(&n1).await;
    let pass_file = n2.dir.path().join("data.haclt/pgpass");
    let upstream = n1.upstream();
    assert_eq!(second.renew_pass_file(Some(&upstream), soon(5)).await, Ok(true));
    assert_eq!(second.renew_pass_file(Some(&upstream), soon(5)).await, Ok(false), "it is right");
    assert!(fs::read_to_string(&pass_file).unwrap().ends_with(":new.Secret-of_tests\n"));
    // Where it was taken away nothing is to be received (rule 95).
    fs::remove_file(&pass_file).unwrap();
    assert_eq!(second.renew_pass_file(None, soon(5)).await, Ok(false));
    assert!(!pass_file.exists());
}

#[tokio::test]
async fn a_server_that_asks_for_no_password_is_told_apart() {
    let n1 = Node::new_primary("n1").await;
    let logins = n1.driver.logins().unwrap();
    let [_, replication] = logins.roles();
    let rules = n1.dir.path().join("data/haclt_hba.conf");
    let before = fs::read_to_string(&rules).unwrap();
    fs::write(&rules, format!("host all all all trust\n{before}")).unwrap();
    n1.sql("SELECT pg_reload_conf()");
    let wrong = Secret::new("whatever");
    let until = soon(10);
    loop {
        match logins.takes(replication, &wrong, soon(5)).await.unwrap() {
            Taken::Unasked => break,
            said => assert!(tokio::time::Instant::now() < until, "{said:?}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
