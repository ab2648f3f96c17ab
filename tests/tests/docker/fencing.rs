//! A kill from outside (`compose.fencing.yaml`): the leader ends a holder that it does not hear, through
//! the engine of its host, and need not wait for the ttl.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ha_tests::compose::{Compose, docker, is_there, unpause};
use ha_tests::programs::said;
use ha_tests::within;

use super::{MAJOR, story_of};

fn script(words: &str) -> String {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", words]).current_dir(deploy).stdin(Stdio::null());
    let output = command.output().expect("bash");
    assert!(output.status.success(), "{words}: {}", said(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Longer than a kill takes on the busiest machine, so that nobody takes one for the other.
const TTL: Duration = Duration::from_secs(12);
const SETTINGS: &str = "{environment: {HA_LEASE_TTL: 12s, HA_FENCING_AFTER: 1500ms}}";

/// A cluster whose agents may kill each other's databases, and the directory of its certificates.
fn fenced() -> (Compose, tempfile::TempDir) {
    let certificates = tempfile::tempdir().expect("a directory of ours");
    let at = certificates.path().to_str().expect("a plain path");
    script(&format!("./fencing-certificates.sh {at} n1=n1-engine n2=n2-engine"));
    let proxy = script("source tests/lib.sh; proxy_image");
    let mut cluster = Compose::prepare(MAJOR, None);
    let environment = [("HACLT_FENCING", at), ("HACLT_PROXY_IMAGE", &proxy)];
    cluster.put_on_top("compose.fencing.yaml", &environment);
    let services = ["n1", "n2", "n3"].map(|agent| format!("  {agent}: {SETTINGS}\n")).concat();
    let ttl = certificates.path().join("ttl.yaml");
    std::fs::write(&ttl, format!("services:\n{services}")).expect("a directory of ours");
    cluster.put_on_top(ttl.to_str().expect("a plain path"), &[]);
    (cluster, certificates)
}

/// How often the agents said that.
fn said_by_agents(c: &Compose, text: &str) -> usize {
    let logs = ["n1", "n2", "n3"].map(|agent| c.log(agent));
    logs.iter().flat_map(|log| log.lines()).filter(|line| line.contains(text)).count()
}

/// Freezes the primary's agent until the other node writes. Returns how long that took.
async fn freeze(c: &mut Compose, what: &str) -> Duration {
    let (old, new) = (c.primary().await, c.standby().await);
    let writer = c.write().await;
    let began = Instant::now();
    docker(&["pause", &c.container(&old)]);
    c.writes_on(&writer, &new, within(60)).await;
    let took = began.elapsed();
    unpause(&c.container(&old));
    let ms = took.as_millis();
    c.told(&format!("{what}, the other writes after {ms} ms"), writer).await;
    took
}

#[test]
fn a_frozen_holders_container_is_killed_and_its_ttl_is_not_waited_for() {
    if !is_there() {
        return;
    }
    story_of(fenced, async |c, _| {
        let took = freeze(c, "agent frozen, its engine answers").await;
        assert!(took < TTL, "the ttl was waited for: {took:?}");
        assert_eq!(said_by_agents(c, "holder_killed"), 1, "it was killed, and that was seen");
        assert_eq!(said_by_agents(c, "lease_expired"), 0, "nobody waited for the ttl");

        // Without the engine nothing is confirmed, and the ttl counts as ever.
        let old = c.primary().await;
        docker(&["stop", &c.container(&format!("{old}-engine"))]);
        let took = freeze(c, "agent frozen, its engine is away").await;
        assert!(took + Duration::from_secs(2) > TTL, "the lease had not ended: {took:?}");
        assert_eq!(said_by_agents(c, "holder_killed"), 1);
        assert_eq!(said_by_agents(c, "lease_expired"), 1);
        assert!(said_by_agents(c, "could not kill the holder's container") > 0);
        docker(&["start", &c.container(&format!("{old}-engine"))]);

        // Whoever is heard of is left alone, however the leader changes.
        let (primary, epoch) = (c.primary().await, c.healthy(within(40)).await.epoch);
        for agent in ["n1", "n2", "n3"] {
            let writer = c.write().await;
            docker(&["restart", &c.container(agent)]);
            c.told(&format!("docker restart {agent}, with fencing"), writer).await;
        }
        let killed = said_by_agents(c, "holder_killed");
        c.say(&format!("{primary} was primary in epoch {epoch}; killed from outside: {killed}"));
    });
}

/// Only those whom the authority knows, and only what they need.
#[test]
fn the_engines_proxy_answers_its_own_authority_and_nobody_else() {
    if !is_there() {
        return;
    }
    story_of(fenced, async |c, certificates| {
        let at = certificates.path().display();
        let name = c.container("n1-postgres");
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let engine = docker(&["inspect", "--format", format, &c.container("n1-engine")]);
        let ask = |as_whom: &str, method: &str, path: &str| {
            let request = format!(
                "{method} {path} HTTP/1.1\\r\\nHost: n1-engine\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n"
            );
            let address = engine.trim();
            script(&format!(
                "(printf '{request}'; sleep 1) | timeout 10 openssl s_client -quiet -connect {address}:2376 \
                 -CAfile {at}/agent/ca.pem -verify_return_error {as_whom} 2>&1 | grep -a HTTP/ || true"
            ))
        };
        let ours = &format!("-cert {at}/agent/cert.pem -key {at}/agent/key.pem");
        assert!(ask(ours, "GET", "/version").contains("200"));
        assert!(ask(ours, "GET", &format!("/v1.41/containers/{name}/json")).contains("200"));
        for (method, path) in [
            ("GET", "/containers/json".to_owned()),
            ("POST", format!("/containers/{name}/stop")),
            ("POST", format!("/containers/{name}/kill?signal=SIGTERM")),
            ("POST", format!("/containers/{}/kill?signal=SIGKILL", c.container("n1"))),
            ("GET", format!("/containers/{}/json", c.container("n2-postgres"))),
        ] {
            let answer = ask(ours, method, &path);
            assert!(answer.contains("403"), "{method} {path}: {answer}");
        }
        let stranger = ask("", "GET", "/version");
        assert!(!stranger.contains("200") && !stranger.contains("403"), "{stranger}");
        c.healthy(within(40)).await;
    });
}
