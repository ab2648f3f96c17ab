//! Clusters in one process: real agents, Raft and gRPC, Postgres in memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ha_agent::config::Config as AgentConfig;
use ha_agent::launch;
use ha_core::NodeId;
use ha_postgres::fake::{FakeDriver, FakeWorld};
use ha_proto::v1::{DoctorFinding, DoctorReply, StatusReply};
use ha_tests::address::Claim;
use ha_tests::{Config, admin, eventually, status, within};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const MARGIN: Duration = Duration::from_millis(500);
const GRPC: u16 = 7431;
/// A server that does not answer is given up within two seconds.
const QUICK: [(&str, &str); 2] = [("health.interval", "200ms"), ("health.limit", "300ms")];

/// Three agents of one process.
struct Fakes {
    dir: tempfile::TempDir,
    world: FakeWorld,
    claim: Claim,
    agents: BTreeMap<&'static str, Running>,
    major: u32,
    durability: &'static str,
}

struct Running {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), launch::RunError>>,
}

fn id(name: &str) -> NodeId {
    name.parse().expect("a valid name")
}

impl Fakes {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self {
            dir,
            world: FakeWorld::new(),
            claim: Claim::new(),
            agents: BTreeMap::new(),
            major: 15,
            durability: "async",
        }
    }

    fn address(&self, name: &str) -> String {
        let n = match name {
            "n1" => 1,
            "n2" => 2,
            _ => 3,
        };
        format!("{}:{GRPC}", self.claim.node(n))
    }

    fn config(&self, name: &str, extra: &[(&str, &str)]) -> AgentConfig {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(dir.join("permits")).expect("a writable directory");
        let data = name != "n3";
        let mut config = Config::default();
        config.text("cluster", "orders").text("node", name);
        config.text("kind", if data { "data" } else { "witness" });
        config.text("data_dir", dir.join("agent").display());
        config.text("listen.grpc", self.address(name));
        config.text("durability.mode", self.durability);
        for peer in ["n1", "n2", "n3"] {
            config.text(&format!("peers.{peer}"), self.address(peer));
        }
        if data {
            config.text("postgres.bin_dir", "/nowhere").text("postgres.data_dir", "/nowhere/data");
            config.text("postgres.listen", format!("{name}.fake:5432"));
            config.text("postgres.superuser_password_file", "/nowhere/superuser");
            config.text("postgres.replication_password_file", "/nowhere/replication");
            config.text("postgres.permit_dir", dir.join("permits").display());
            for (key, value) in extra {
                config.text(key, value);
            }
        }
        load(&dir, &config)
    }

    fn start(&mut self, name: &'static str) {
        self.start_with(name, &[]);
    }

    fn start_with(&mut self, name: &'static str, extra: &[(&str, &str)]) {
        let config = self.config(name, extra);
        let driver = (name != "n3").then(|| {
            let driver = self.world.driver(&id(name), &format!("{name}.fake"), 5432, MARGIN);
            (Arc::new(driver), self.major)
        });
        let (stop, stopped) = oneshot::channel();
        let ended = tokio::spawn(async move {
            launch::run::<FakeDriver>(config, driver, async {
                drop(stopped.await);
            })
            .await
        });
        self.agents.insert(name, Running { stop, ended });
    }

    fn start_all(&mut self) {
        for name in ["n1", "n2", "n3"] {
            self.start(name);
        }
    }

    /// Tells an agent to stop and waits for its end.
    async fn stop(&mut self, name: &str) {
        let Running { stop, ended } = self.agents.remove(name).expect("an agent that runs");
        drop(stop);
        let end = tokio::time::timeout(within(40), ended).await.expect("it ends in time");
        end.expect("no panic").expect("it leaves in order");
    }

    /// Ends an agent as SIGKILL would.
    async fn kill(&mut self, name: &str) {
        let Running { stop: _, ended } = self.agents.remove(name).expect("an agent that runs");
        ended.abort();
        assert!(ended.await.is_err_and(|error| error.is_cancelled()));
    }

    async fn stop_all(&mut self) {
        for name in ["n2", "n1", "n3"] {
            if self.agents.contains_key(name) {
                self.stop(name).await;
            }
        }
    }

    async fn await_status(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&StatusReply) -> bool,
    ) -> StatusReply {
        let began = Instant::now();
        let mut last = "nobody answered".to_owned();
        while began.elapsed() < limit {
            for name in self.agents.keys() {
                match status::status(&self.address(name)).await {
                    Some(status) if wanted(&status) => return status,
                    Some(status) => last = status::brief(&status),
                    None => {}
                }
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("still not after {limit:?}: {what}; the last status was {last}");
    }

    async fn healthy(&self) -> StatusReply {
        self.await_status("the cluster is healthy", within(30), |s| s.state == "healthy").await
    }

    async fn primary_is(&self, name: &str) -> StatusReply {
        self.await_status(&format!("{name} is primary"), within(20), |s| {
            status::holder(s) == name && status::node(s, name).rule == "serving"
        })
        .await
    }

    fn primaries(&self) -> Vec<NodeId> {
        let primaries = self.world.primaries();
        assert!(primaries.len() <= 1, "two primaries: {primaries:?}");
        primaries
    }
}

fn load(dir: &Path, config: &Config) -> AgentConfig {
    let path = dir.join("agent.toml");
    std::fs::write(&path, config.render()).expect("a writable directory");
    AgentConfig::load(&path, std::iter::empty()).expect("a good configuration")
}

/// Runs a test with a bound on its time.
fn bounded(seconds: u64, body: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let ended = tokio::time::timeout(within(seconds), body).await;
        assert!(ended.is_ok(), "the test did not end within {seconds} s");
    });
    runtime.shutdown_timeout(within(5));
}

#[test]
fn an_empty_cluster_becomes_healthy_and_leaves_in_order() {
    bounded(90, async {
        let mut c = Fakes::new();
        c.start_all();
        let status = c.healthy().await;
        assert_eq!((status.epoch, status::holder(&status)), (1, "n1"));
        assert!(c.world.write(&id("n1"), 100).is_some());
        assert!(c.world.write(&id("n2"), 100).is_none());
        c.stop_all().await;
        assert_eq!(c.primaries(), [], "no server runs as primary without an agent");
    });
}

#[test]
fn a_primary_that_crashes_again_and_again_is_replaced_and_nothing_is_lost() {
    bounded(90, async {
        let mut c = Fakes::new();
        c.start_all();
        c.healthy().await;
        let mut end = c.world.write(&id("n1"), 1000).expect("a primary");
        // By rule either the standby has everything and takes over, or it recovers in place; but not
        // more often than twice.
        let mut crashes = 0;
        while c.primaries() != [id("n2")] {
            assert!(crashes < 3, "it is never replaced");
            crashes += 1;
            c.world.crash(&id("n1"));
            end = eventually("somebody accepts writes again", within(20), async || {
                let primary = c.primaries().pop()?;
                c.world.write(&primary, 10)
            })
            .await;
        }
        let status = c.primary_is("n2").await;
        assert_eq!(status.epoch, 2);
        assert!(c.world.write(&id("n2"), 10).expect("the new primary") > end, "nothing is lost");
        let status = c.healthy().await;
        assert!(status::streams(&status, "n1"), "the old one follows");
        c.stop_all().await;
    });
}

#[test]
fn a_primary_told_to_leave_hands_over_and_comes_back_as_a_standby() {
    bounded(90, async {
        let mut c = Fakes::new();
        c.start_all();
        c.healthy().await;
        c.world.write(&id("n1"), 1000).expect("a primary");
        c.stop("n1").await;
        let status = c.primary_is("n2").await;
        assert_eq!((status.epoch, c.primaries()), (2, vec![id("n2")]));
        c.start("n1");
        let status = c.healthy().await;
        assert_eq!(status::holder(&status), "n2");
        c.stop_all().await;
    });
}

#[test]
fn without_a_quorum_the_primary_ends_by_itself_and_comes_back_with_it() {
    bounded(90, async {
        let mut c = Fakes::new();
        let leave = [("postgres.on_agent_stop", "leave")];
        c.start_with("n1", &leave);
        c.start_with("n2", &leave);
        c.start("n3");
        c.healthy().await;
        c.stop("n2").await;
        c.stop("n3").await;
        eventually("the guard ends the primary", within(15), async || {
            c.primaries().is_empty().then_some(())
        })
        .await;
        let status = c.await_status("it says why", within(10), |s| s.state == "no_quorum").await;
        assert!(status.reason.contains("1 of 3"), "{}", status.reason);
        assert!(c.world.write(&id("n1"), 1).is_none());
        c.start("n3");
        c.start_with("n2", &leave);
        let status = c.healthy().await;
        assert!(status.epoch >= 1);
        assert_eq!(c.primaries().len(), 1);
        c.stop_all().await;
    });
}

#[test]
fn a_frozen_server_is_given_up_and_a_killed_guard_replaced() {
    bounded(120, async {
        let mut c = Fakes::new();
        c.start_with("n1", &QUICK);
        c.start_with("n2", &QUICK);
        c.start("n3");
        c.healthy().await;
        c.world.switch(&id("n1"), |s| s.frozen = true);
        c.primary_is("n2").await;
        c.world.switch(&id("n1"), |s| s.frozen = false);
        c.healthy().await;
        c.world.kill_guard(&id("n2"));
        // What is said of the cluster may be from before.
        eventually("somebody serves", within(30), async || {
            (c.primaries().len() == 1).then_some(())
        })
        .await;
        c.healthy().await;
        c.stop_all().await;
    });
}

#[test]
fn a_diverged_node_whose_rewind_fails_is_cloned() {
    bounded(120, async {
        let mut c = Fakes::new();
        c.start_with("n1", &QUICK);
        c.start_with("n2", &QUICK);
        c.start("n3");
        c.healthy().await;
        // The standby hears nothing of what the primary writes last.
        c.world.cut(&id("n1"), &id("n2"), true);
        c.world.write(&id("n1"), 5000).expect("a primary");
        c.world.switch(&id("n1"), |s| {
            s.rewind_fails = true;
            s.frozen = true;
        });
        c.primary_is("n2").await;
        c.world.switch(&id("n1"), |s| s.frozen = false);
        c.world.cut(&id("n1"), &id("n2"), false);
        let status = c.healthy().await;
        assert_eq!(status::holder(&status), "n2");
        c.stop_all().await;
    });
}

/// A standby that was long without replay has much WAL to look through: longer than an election waits
/// for one answer.
#[test]
fn an_election_gets_its_answer_however_long_a_node_reads_its_wal() {
    bounded(90, async {
        let mut c = Fakes::new();
        c.durability = "quorum";
        c.start_all();
        // Not healthy: the witness keeps no WAL.
        c.await_status("the standby acknowledges", within(20), |s| {
            s.wal_quorum.as_ref().is_some_and(|quorum| quorum.acknowledging == ["n2"])
        })
        .await;
        c.world.switch(&id("n2"), |s| s.wal_scan = Duration::from_secs(3));
        c.kill("n1").await;
        let status = c.primary_is("n2").await;
        assert_eq!((status.epoch, c.primaries()), (2, vec![id("n2")]));
        c.stop_all().await;
    });
}

#[test]
fn a_peer_with_another_postgres_major_is_named() {
    bounded(90, async {
        let mut c = Fakes::new();
        c.start("n1");
        c.start("n3");
        // Same database in memory, but this agent was given binaries of another major.
        c.major = 17;
        c.start("n2");
        let status = c
            .await_status("the difference is named", within(30), |s| {
                s.nodes
                    .iter()
                    .any(|n| n.troubles.iter().any(|t| t.contains("replication needs one major")))
            })
            .await;
        assert_ne!(status.state, "healthy");
        c.stop_all().await;
    });
}

#[test]
fn the_doctor_answers_whatever_is_broken_and_says_what_it_could_not_check() {
    bounded(90, async {
        let mut c = Fakes::new();
        // Alone: no Raft group, no leader, no database, nobody who answers.
        c.start("n1");
        let found = |reply: &DoctorReply, id: &str, node: &str, severity: &str| {
            let same = |f: &&DoctorFinding| f.id == id && f.node == node && f.severity == severity;
            reply.findings.iter().filter(same).count()
        };
        let reply = eventually("the agent is there", within(10), async || {
            admin::doctor(&c.address("n1")).await.ok()
        })
        .await;
        assert_eq!(found(&reply, "peer-unreachable", "n1", "critical"), 2, "{reply:?}");
        assert_eq!(found(&reply, "agent-silent", "n3", "critical"), 1, "{reply:?}");
        assert_eq!(found(&reply, "database-silent", "n1", "critical"), 1, "{reply:?}");
        let secret = reply.findings.iter().find(|f| f.id == "secret-readable").expect("a note");
        assert_eq!(secret.severity, "note");
        assert!(secret.evidence.starts_with("could not check: /nowhere/"), "{secret:?}");

        c.start("n2");
        c.start("n3");
        c.healthy().await;
        c.world.switch(&id("n2"), |switches| switches.frozen = true);
        let began = Instant::now();
        let reply = admin::doctor(&c.address("n3")).await.expect("findings");
        assert!(began.elapsed() < within(7), "a frozen server holds nobody up");
        assert_eq!(found(&reply, "database-silent", "n2", "critical"), 1, "{reply:?}");
        assert_eq!(found(&reply, "database-unreachable", "n1", "critical"), 1, "{reply:?}");
        assert_eq!(found(&reply, "superuser-refused", "n1", "ok"), 1, "{reply:?}");
        assert_eq!(found(&reply, "peer-unreachable", "n2", "ok"), 2, "the agent is well");
        assert_eq!(found(&reply, "agent-silent", "n2", "ok"), 1, "{reply:?}");
        c.world.switch(&id("n2"), |switches| switches.frozen = false);
        c.healthy().await;
        c.stop_all().await;
    });
}
