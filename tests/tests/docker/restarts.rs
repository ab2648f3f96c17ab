//! Restarting, killing and pausing each container, all of them, and machines that start again.

use std::time::Duration;

use ha_tests::compose::{docker, unpause};
use ha_tests::within;

use super::{MAJOR, story};

const ALL: [&str; 5] = ["n1", "n2", "n3", "n1-postgres", "n2-postgres"];
/// Longer than the ttl.
const PAUSE: Duration = Duration::from_secs(6);

#[test]
fn every_container_may_be_restarted_and_killed() {
    story(MAJOR, async |c| {
        for service in ALL {
            let writer = c.write().await;
            docker(&["restart", &c.container(service)]);
            c.told(&format!("docker restart {service}"), writer).await;
        }
        for service in ALL {
            let writer = c.write().await;
            docker(&["kill", &c.container(service)]);
            if !service.ends_with("postgres") {
                // Nothing starts a container that was killed by hand but a hand; a database's container
                // is started by its agent.
                c.compose(&["up", "--detach"]);
            }
            c.told(&format!("docker kill {service}"), writer).await;
        }
    });
}

#[test]
fn every_container_may_be_paused_for_longer_than_the_lease() {
    story(MAJOR, async |c| {
        for service in ALL {
            // The primary's database and agent are the interesting ones: of each node once.
            let writer = c.write().await;
            docker(&["pause", &c.container(service)]);
            tokio::time::sleep(PAUSE).await;
            unpause(&c.container(service));
            c.told(&format!("docker pause {service} for {} s", PAUSE.as_secs()), writer).await;
        }
    });
}

/// Rule 91: sessions from before the pause try to commit after it.
#[test]
fn a_paused_primary_acknowledges_nothing_to_sessions_from_before_rule_91() {
    story(MAJOR, async |c| {
        let (old, new) = (c.primary().await, c.standby().await);
        let writer = c.write().await;
        let idle = c.session(&old).await;
        let open = c.session(&old).await;
        open.simple_query("begin; insert into writes values (-7, 'x')").await.expect("open");
        docker(&["pause", &c.container(&format!("{old}-postgres"))]);
        c.writes_on(&writer, &new, within(30)).await;
        unpause(&c.container(&format!("{old}-postgres")));
        let insert = idle.simple_query("insert into writes values (-8, 'x')");
        let (commit, insert) = tokio::join!(open.simple_query("commit"), insert);
        assert!(commit.is_err(), "an open transaction was acknowledged");
        assert!(insert.is_err(), "an idle session was acknowledged");
        c.told("docker pause of the primary, open sessions", writer).await;
        let ghosts = c.sql(&new, "select count(*) from writes where value < 0").await;
        assert_eq!(ghosts.as_deref(), Ok("0"));
    });
}

#[test]
fn down_and_up_keep_everything_and_a_machine_may_start_its_containers_in_any_order() {
    story(MAJOR, async |c| {
        let writer = c.write().await;
        c.compose(&["down"]);
        c.compose(&["up", "--detach"]);
        c.told("docker-compose down, then up", writer).await;
        let orders: [[usize; 5]; 3] = [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [3, 1, 4, 0, 2]];
        for order in orders {
            let writer = c.write().await;
            let names: Vec<String> = ALL.iter().map(|service| c.container(service)).collect();
            let mut kill = vec!["kill"];
            kill.extend(names.iter().map(String::as_str));
            docker(&kill);
            for at in order {
                docker(&["start", &names[at]]);
            }
            let named: Vec<&str> = order.iter().map(|at| ALL[*at]).collect();
            c.told(&format!("all killed, started as {}", named.join(", ")), writer).await;
        }
    });
}
