//! Containers, networks, volumes and images that somebody took away or changed.

use ha_tests::compose::docker;
use ha_tests::programs::said;
use ha_tests::within;

use super::{MAJOR, story};

#[test]
fn a_container_cut_off_from_the_network_comes_back_with_it() {
    story(MAJOR, async |c| {
        for service in ["n3", "n2", "n2-postgres", "n1", "n1-postgres"] {
            let writer = c.write().await;
            let (network, container) = (c.network(), c.container(service));
            docker(&["network", "disconnect", &network, &container]);
            // Longer than the lease.
            tokio::time::sleep(std::time::Duration::from_secs(6)).await;
            docker(&["network", "connect", "--alias", service, &network, &container]);
            c.told(&format!("{service} without the network for 6 s"), writer).await;
        }
    });
}

#[test]
fn a_removed_container_is_made_anew_and_a_deleted_volume_is_named_and_cloned_into() {
    story(MAJOR, async |c| {
        let (primary, standby) = (c.primary().await, c.standby().await);
        let writer = c.write().await;
        docker(&["rm", "--force", &c.container(&format!("{primary}-postgres"))]);
        c.writes_on(&writer, &standby, within(30)).await;
        c.told("docker rm --force of the primary's database", writer).await;
        let standby = c.standby().await;
        let writer = c.write().await;
        // `init` has ended, and has the volume all the same.
        c.compose(&["rm", "--force", "--stop", "init", &standby, &format!("{standby}-postgres")]);
        docker(&["volume", "rm", &c.volume(&format!("{standby}-postgres"))]);
        c.compose(&["up", "--detach"]);
        // A mount that vanished looks the same: nothing is made where data was, until somebody says that
        // there is none any more (rule 52).
        c.await_status("the missing directory is named", within(60), |s| {
            let node = ha_tests::status::node(s, &standby);
            node.troubles.iter().any(|trouble| trouble.contains("its data directory is missing"))
        })
        .await;
        let empty = "/var/lib/haclt/postgres/data";
        c.exec(
            &standby,
            &["install", "-d", "-o", "postgres", "-g", "postgres", "-m", "0700", empty],
        );
        c.told("the standby's volume deleted, an empty directory made", writer).await;
    });
}

#[test]
fn a_changed_image_is_rolled_out_one_container_at_a_time() {
    story(MAJOR, async |c| {
        let other = format!("haclt-test-postgres:{MAJOR}");
        docker(&["tag", &format!("postgres:{MAJOR}"), &other]);
        c.use_image(&other);
        let (primary, standby) = (c.primary().await, c.standby().await);
        let writer = c.write().await;
        for node in [&standby, &primary] {
            c.compose(&["stop", node, &format!("{node}-postgres")]);
            c.compose(&["up", "--detach", node]);
            c.healthy(within(90)).await;
        }
        c.told("another image for both databases, one at a time", writer).await;
        for node in ["n1", "n2"] {
            let container = c.container(&format!("{node}-postgres"));
            let image = docker(&["inspect", "--format", "{{.Config.Image}}", &container]);
            assert_eq!(image.trim(), other);
        }
        docker(&["rmi", &other]);
    });
}

/// Rule 102: nothing opens a data directory before the cluster said in which role.
#[test]
fn an_old_container_on_the_same_volume_is_named_and_nothing_is_started_beside_it_rule_102() {
    story(MAJOR, async |c| {
        let standby = c.standby().await;
        let (database, stray) = (c.container(&format!("{standby}-postgres")), c.container("stray"));
        let writer = c.write().await;
        docker(&["kill", &c.container(&standby)]);
        docker(&["kill", &database]);
        let volume = format!("{}:/data", c.volume(&format!("{standby}-postgres")));
        let image = format!("postgres:{MAJOR}");
        docker(&["run", "--detach", "--name", &stray, "--volume", &volume, &image, "sleep", "600"]);
        c.compose(&["up", "--detach"]);
        let named = c
            .await_status("the stray container is named", within(60), |s| {
                let node = ha_tests::status::node(s, &standby);
                node.troubles.iter().any(|trouble| trouble.contains("stray"))
            })
            .await;
        assert_ne!(named.state, "healthy");
        let refused = c.sql(&standby, "select 1").await;
        assert!(refused.is_err(), "it was started beside a stray container");
        docker(&["rm", "--force", &stray]);
        c.told("an old container on the standby's volume", writer).await;
    });
}

/// Compose asks the engine for the names first, and gets none of the first project's.
#[test]
fn a_second_project_with_the_same_container_names_is_refused_and_harms_nobody() {
    story(MAJOR, async |c| {
        let writer = c.write().await;
        let other = format!("{}-other", c.network().trim_end_matches("_cluster"));
        let tried = c.compose_output(&["--project-name", &other, "up", "--detach"]);
        let text = said(&tried);
        assert!(!tried.status.success() && text.contains("already in use"), "{text}");
        c.compose(&["--project-name", &other, "down", "--volumes", "--remove-orphans"]);
        c.told("a second project with the same container names", writer).await;
    });
}
