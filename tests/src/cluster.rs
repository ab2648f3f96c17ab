//! Three nodes with directories, addresses and secrets of their own.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ha_proto::v1::StatusReply;
use rustix::process::Signal;

use crate::address::{Claim, Host};
use crate::node::{Node, REPLICATION_PASSWORD, SUPERUSER_PASSWORD};
use crate::shape::{Mode, Shape};
use crate::wait::{eventually, within};
use crate::writer::{Acks, Writer};
use crate::{logs, processes, programs, status};

/// Name of the clusters under test.
pub const CLUSTER: &str = "orders";
/// How long an empty cluster may take until it is healthy, on a machine that does other things too.
const BOOTSTRAP_LIMIT: Duration = within(60);
/// How many lines of each log a failed test shows.
const TAIL: usize = 60;

/// A cluster: two data nodes, n1 and n2, and a witness, n3, unless the plan says otherwise.
#[derive(Debug)]
pub struct Cluster {
    /// Everything on disk lies under here.
    pub base: PathBuf,
    nodes: Vec<Node>,
    shape: Shape,
    permits: PathBuf,
    writer: Option<Writer>,
    announced: Vec<String>,
    story: Vec<String>,
    began: Instant,
    kept: bool,
    claim: Claim,
}

impl Cluster {
    pub(crate) fn new(test: &str, root: PathBuf, announced: Vec<String>, shape: Shape) -> Self {
        let claim = Claim::new();
        let hosts = (1..=shape.data + shape.witnesses).map(|n| Host::at(claim.node(n))).collect();
        Self::on_hosts(test, root, announced, shape, (claim, hosts))
    }

    /// Prepares a cluster whose nodes run where they are told to, in the order of their numbers; nothing is
    /// started. Nodes that come later have addresses of the claim.
    pub fn on_hosts(
        test: &str,
        root: PathBuf,
        announced: Vec<String>,
        shape: Shape,
        (claim, hosts): (Claim, Vec<Host>),
    ) -> Self {
        let root = std::env::var_os("HA_TEST_DIR").map_or(root, PathBuf::from);
        // A path to a socket has little room.
        let base = tempfile::Builder::new().prefix("hat-").rand_bytes(6).tempdir_in(root);
        let base = base.expect("a temporary directory").keep();
        let name = base.file_name().expect("a name").to_string_lossy().replace("hat-", "hap-");
        let permits = Path::new("/dev/shm").join(name);
        open_to_all(&base);
        fs::create_dir(&permits).expect("a directory in /dev/shm");
        open_to_all(&permits);
        secret(&base.join("superuser"), SUPERUSER_PASSWORD);
        secret(&base.join("replication"), REPLICATION_PASSWORD);
        fs::write(base.join("test"), test).expect("a writable directory");
        let mut nodes: Vec<Node> = shape
            .nodes()
            .zip(hosts)
            .map(|((name, data), host)| Node::new(&name, data, &base, &permits, host, CLUSTER))
            .collect();
        let peers: Vec<(String, String)> =
            nodes.iter().map(|node| (format!("peers.{}", node.name), node.grpc())).collect();
        for node in &mut nodes {
            for (key, address) in &peers {
                node.config.text(key, address);
            }
            // The default is left out, as most people will do.
            if shape.durability != Mode::Quorum {
                node.config.text("durability.mode", shape.durability.name());
            }
            if !node.is_data {
                node.configure_witness(&base, shape.witness_programs);
            }
        }
        Self {
            base,
            nodes,
            shape,
            permits,
            writer: None,
            announced,
            story: Vec::new(),
            began: Instant::now(),
            kept: false,
            claim,
        }
    }

    /// Makes a node that is not part of the cluster yet; its agent is not started.
    pub fn new_node(&mut self, name: &str, data: bool) -> &mut Node {
        let n = name.trim_start_matches('n').parse().expect("a name like n4");
        let mut node = self.spare(name, data, Host::at(self.claim.node(n)));
        self.introduce(&mut node);
        self.nodes.push(node);
        self.node_mut(name)
    }

    /// Returns a node that is no part of the cluster, and runs where it is told to; its agent is not started.
    pub fn spare(&self, name: &str, data: bool, host: Host) -> Node {
        let mut node = Node::new(name, data, &self.base, &self.permits, host, CLUSTER);
        if !data {
            node.configure_witness(&self.base, self.shape.witness_programs);
        }
        node
    }

    /// Tells a node that is to join whom it will find.
    pub fn introduce(&self, node: &mut Node) {
        node.config.remove_all("peers.").set("join", "true");
        let own = (node.name.clone(), node.grpc());
        let known = self.nodes.iter().map(|known| (known.name.clone(), known.grpc()));
        for (name, address) in known.chain([own]) {
            node.config.text(&format!("peers.{name}"), address);
        }
    }

    /// Ends a node that is not part of the cluster any more; what it left on disk stays.
    pub fn forget(&mut self, name: &str) -> Node {
        self.node_mut(name).kill_everything();
        let at = self.nodes.iter().position(|node| node.name == name);
        self.nodes.remove(at.expect("a node of the cluster"))
    }

    /// Counts a node in again.
    pub fn remember(&mut self, node: Node) {
        self.nodes.push(node);
    }

    /// Returns a node by its name.
    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name == name).expect("a node of the cluster")
    }

    /// Returns a node by its name, to do something to it.
    pub fn node_mut(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.name == name).expect("a node of the cluster")
    }

    /// Returns a node by its name, if it is one of the cluster.
    pub fn find_mut(&mut self, name: &str) -> Option<&mut Node> {
        self.nodes.iter_mut().find(|node| node.name == name)
    }

    /// Returns all nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Returns all nodes, to do something to them.
    pub fn nodes_mut(&mut self) -> &mut [Node] {
        &mut self.nodes
    }

    /// Returns the name of the other data node; the first other one if there are several.
    pub fn other(&self, name: &str) -> String {
        let mut others = self.data_nodes().filter(|node| node.name != name);
        others.next().expect("another data node").name.clone()
    }

    /// Returns the nodes that have a database.
    pub fn data_nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.is_data)
    }

    /// Returns the name of the first witness.
    pub fn witness(&self) -> String {
        let mut witnesses = self.nodes.iter().filter(|node| !node.is_data);
        witnesses.next().expect("a witness").name.clone()
    }

    /// Sets a key in the configuration of each data node.
    pub fn set_on_data_nodes(&mut self, key: &str, value: &str) {
        for node in self.nodes.iter_mut().filter(|node| node.is_data) {
            node.config.set(key, value);
        }
    }

    /// Starts every agent.
    pub fn start_agents(&mut self) {
        for node in &mut self.nodes {
            node.start();
        }
    }

    /// Starts every agent, waits until the cluster is healthy, and makes the table for the writer.
    /// Returns the names of the primary and of the standby.
    pub async fn bootstrap(&mut self) -> (String, String) {
        self.start_agents();
        let status = if self.shape.witness_programs {
            self.healthy(BOOTSTRAP_LIMIT).await
        } else {
            // A witness that keeps no WAL may be a reason not to call that healthy.
            self.streaming(BOOTSTRAP_LIMIT).await
        };
        let primary = status::holder(&status).to_owned();
        let made =
            self.node(&primary).sql("create table writes (value bigint primary key, node text)");
        made.await.expect("a table on the primary");
        self.say(&format!("healthy, primary {primary}"));
        let standby = self.other(&primary);
        (primary, standby)
    }

    /// Begins to write to both data nodes, and waits for the first acknowledgement.
    pub async fn write(&mut self) {
        let writer = Writer::start(self.data_nodes(), self.shape.patience);
        eventually("a first write is acknowledged", within(10), async || {
            (writer.count() > 0).then_some(())
        })
        .await;
        self.writer = Some(writer);
    }

    /// Returns the writer that runs.
    pub fn writer(&self) -> &Writer {
        self.writer.as_ref().expect("a writer that was started")
    }

    /// Waits until this many more writes were acknowledged.
    pub async fn more_writes(&self, more: usize, limit: Duration) {
        let enough = self.writer().count() + more;
        eventually("further writes are acknowledged", limit, async || {
            (self.writer().count() >= enough).then_some(())
        })
        .await;
    }

    /// Waits until a node acknowledges writes.
    pub async fn writes_on(&self, node: &str, limit: Duration) {
        let before = Instant::now();
        eventually(&format!("{node} acknowledges writes"), limit, async || {
            let acks = self.writer().so_far();
            acks.0.iter().any(|ack| ack.node == node && ack.sent > before).then_some(())
        })
        .await;
    }

    /// Ends the writer; what it saw is checked now, except for loss.
    pub async fn end_writing(&mut self) -> Acks {
        let acks = self.end_writing_unchecked().await;
        match self.shape.durability {
            Mode::Async => acks.assert_no_overlap(),
            Mode::Quorum | Mode::StrictStandby => acks.assert_no_write_after_the_next_primary(),
        }
        acks
    }

    /// Ends the writer and returns what it saw, unchecked.
    pub async fn end_writing_unchecked(&mut self) -> Acks {
        self.writer.take().expect("a writer that was started").stop().await
    }

    /// Ends the writer and checks everything that it saw.
    pub async fn end_writing_and_check(&mut self, loss_rows_max: Option<usize>) {
        let acks = self.end_writing().await;
        self.check_rows(&acks, loss_rows_max).await;
        let gap = acks.longest_gap().as_millis();
        self.say(&format!("{} acknowledged, longest gap {gap} ms", acks.0.len()));
    }

    /// Announces a warning or error, by what its line contains.
    pub fn announce(&mut self, line: &str) {
        self.announced.push(line.to_owned());
    }

    /// Asks every agent in turn until one gives a status that is wanted.
    pub async fn await_status(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&StatusReply) -> bool,
    ) -> StatusReply {
        let began = Instant::now();
        let mut last = "nobody answered".to_owned();
        while began.elapsed() < limit {
            for node in &self.nodes {
                if let Some(status) = node.status().await {
                    if wanted(&status) {
                        return status;
                    }
                    last = status::brief(&status);
                }
            }
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        panic!("still not after {limit:?}: {what}; the last status was {last}");
    }

    /// Waits until the cluster is healthy: a primary, and a standby that streams.
    pub async fn healthy(&self, limit: Duration) -> StatusReply {
        self.await_status("the cluster is healthy", limit, |s| s.state == "healthy").await
    }

    /// Waits until there is a primary and every other data node streams from it.
    pub async fn streaming(&self, limit: Duration) -> StatusReply {
        let data: Vec<&str> = self.data_nodes().map(|node| node.name.as_str()).collect();
        self.await_status("every standby streams", limit, |s| {
            let primary = status::holder(s);
            let at_work = |name: &&str| *name == primary || status::streams(s, name);
            !primary.is_empty()
                && status::node(s, primary).rule == "serving"
                && data.iter().all(at_work)
        })
        .await
    }

    /// Waits until that node leads and has confirmed a renewal of the lease.
    pub async fn heard_by(&self, leader: &str, limit: Duration) {
        let leads = |s: &StatusReply| s.raft.as_ref().is_some_and(|raft| raft.leader == leader);
        let left = |s: &StatusReply| s.lease.as_ref().map_or(0, |lease| lease.left_ms);
        let mut before = left(&self.await_status("it leads", limit, leads).await);
        eventually("it has confirmed a renewal", limit, async || {
            let now = left(&self.await_status("it leads", limit, leads).await);
            let renewed = now > before;
            before = now;
            renewed.then_some(())
        })
        .await;
    }

    /// Waits until the cluster is healthy and the lease was renewed just now, so that one more fault is
    /// one fault only.
    pub async fn settled(&self, limit: Duration) -> StatusReply {
        let renewed = |s: &StatusReply| {
            s.lease.as_ref().is_some_and(|lease| lease.left_ms * 10 > lease.ttl_ms * 8)
        };
        self.await_status("the cluster is healthy and the lease renewed", limit, |s| {
            s.state == "healthy" && renewed(s)
        })
        .await
    }

    /// Waits until a node is the primary and serves.
    pub async fn primary_is(&self, name: &str, limit: Duration) -> StatusReply {
        self.await_status(&format!("{name} is primary"), limit, |s| {
            status::holder(s) == name && status::node(s, name).rule == "serving"
        })
        .await
    }

    /// Waits until a node's rule is the given one.
    pub async fn rule(&self, name: &str, rule: &str, limit: Duration) -> StatusReply {
        self.await_status(&format!("{name} is {rule}"), limit, |s| {
            status::node(s, name).rule == rule
        })
        .await
    }

    /// Waits until a node names a trouble that contains `text`.
    pub async fn trouble(&self, name: &str, text: &str, limit: Duration) -> StatusReply {
        self.await_status(&format!("{name} says {text:?}"), limit, |s| {
            status::node(s, name).troubles.iter().any(|line| line.contains(text))
        })
        .await
    }

    /// Waits until all databases have the same rows, and returns their checksum.
    pub async fn same_rows(&self, limit: Duration) -> String {
        let sum = "select count(*) || '/' || coalesce(sum(hashtext(value || node)), 0) from writes";
        eventually("all databases have the same rows", limit, async || {
            let mut sums = BTreeSet::new();
            for node in self.data_nodes() {
                sums.insert(node.sql(sum).await.ok()?);
            }
            sums.pop_first().filter(|_| sums.is_empty())
        })
        .await
    }

    /// Runs `haclt` against every agent.
    pub fn haclt(&self, arguments: &[&str]) -> std::process::Output {
        let endpoints: Vec<String> = self.nodes.iter().map(Node::grpc).collect();
        let endpoints = endpoints.join(",");
        let all = [&["--endpoint", &endpoints], arguments].concat();
        programs::run(&programs::program("haclt"), &all)
    }

    /// Starts `haclt` against every agent, unheard.
    pub fn haclt_child(&self, arguments: &[&str]) -> std::process::Child {
        let endpoints: Vec<String> = self.nodes.iter().map(Node::grpc).collect();
        let mut command = std::process::Command::new(programs::program("haclt"));
        command.args(["--endpoint", &endpoints.join(",")]).args(arguments);
        let null = std::process::Stdio::null;
        command.stdin(null()).stdout(null()).stderr(null()).spawn().expect("haclt can be run")
    }

    /// Adds to what the test prints in the end.
    pub fn say(&mut self, text: &str) {
        self.story.push(format!("{:.1} s {text}", self.began.elapsed().as_secs_f64()));
    }

    pub(crate) fn story(&self) -> String {
        let lines = self.story.iter().flat_map(|line| ["; ", line.as_str()]);
        lines.collect()
    }

    /// Panics if an agent wrote something alarming that was not announced.
    pub fn check_logs(&self) {
        let found: Vec<String> = self
            .nodes
            .iter()
            .flat_map(|node| {
                let text = logs::read(&node.log()) + &logs::read(&node.dir.join("log/guard.log"));
                let lines = logs::unannounced(&text, &self.announced);
                lines.iter().map(|line| format!("{}: {line}", node.name)).collect::<Vec<_>>()
            })
            .collect();
        assert!(found.is_empty(), "alarms that nobody announced:\n{}", found.join("\n"));
    }

    /// Panics unless the primary has every acknowledged write, or lacks no more than may be lost.
    pub async fn check_rows(&mut self, acks: &Acks, loss_rows_max: Option<usize>) {
        let primary = self.healthy(within(40)).await;
        let primary = status::holder(&primary).to_owned();
        let present = self.rows(&primary).await;
        let missing = acks.missing(&present);
        if let (Some(max), false) = (loss_rows_max, missing.is_empty()) {
            assert!(missing.len() <= max, "{} acknowledged rows are lost", missing.len());
            // Only the end of the old primary's WAL may be gone, never something in its middle.
            let oldest = missing.first().expect("not empty");
            let kept_later = acks.0.iter().filter(|ack| {
                ack.timeline == oldest.timeline
                    && ack.acked > oldest.acked
                    && present.contains(&ack.value)
            });
            assert_eq!(kept_later.count(), 0, "a hole among the acknowledged rows");
            let lost = missing.len();
            self.say(&format!("async lost {lost} acknowledged rows, at most {max} announced"));
            return;
        }
        assert!(
            missing.is_empty(),
            "{} acknowledged rows are lost, the first is {:?}",
            missing.len(),
            missing.first()
        );
    }

    /// Returns the values that a node's table has.
    pub async fn rows(&self, node: &str) -> BTreeSet<i64> {
        let session = self.node(node).session().await.expect("the node lets us in");
        let rows = session.query("select value from writes", &[]).await.expect("a readable table");
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// What every test ends with.
    pub(crate) async fn finish(&mut self, loss_rows_max: Option<usize>) {
        if self.writer.is_some() {
            self.end_writing_and_check(loss_rows_max).await;
        }
        self.check_logs();
        self.kill_all();
    }

    /// Kills whatever is left of the cluster.
    pub fn kill_all(&mut self) {
        for node in &mut self.nodes {
            node.kill_agent();
        }
        // A server that is killed leaves shared memory behind, one that quits does not.
        let first = Instant::now();
        for _ in 0..600 {
            let left = [processes::under(&self.base), processes::under(&self.permits)].concat();
            if left.is_empty() {
                return;
            }
            for process in &left {
                let may_quit = process.program == "postgres" && first.elapsed() < within(2);
                let quits = may_quit && processes::state(process.pid) != Some('T');
                processes::send(process.pid, if quits { Signal::QUIT } else { Signal::KILL });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let left = processes::under(&self.base);
        assert!(std::thread::panicking(), "processes do not die: {left:?}");
    }

    /// Returns every living process of this cluster.
    pub fn processes(&self) -> Vec<processes::Process> {
        processes::under(&self.base)
    }

    fn show_logs(&self) {
        let mut err = std::io::stderr().lock();
        let mut show = |text: &str| {
            // If standard error is closed there is nobody to tell.
            drop(writeln!(err, "{text}"));
        };
        show(&format!("story{}", self.story()));
        for node in &self.nodes {
            show(&format!("--- {} ({})", node.log().display(), node.name));
            show(&logs::tail(&node.log(), TAIL));
            let guard = logs::tail(&node.dir.join("log/guard.log"), 10);
            if !guard.is_empty() {
                show(&format!("--- guard and server of {}\n{guard}", node.name));
            }
        }
        show(&format!("logs are kept in {}", self.base.display()));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill_all();
        if std::thread::panicking() {
            self.kept = true;
            self.show_logs();
            for node in self.nodes.iter().filter(|node| node.is_data) {
                // The logs are of use, a dozen copies of a database are not.
                drop(fs::remove_dir_all(node.dir.join("pg")));
            }
        }
        drop(fs::remove_dir_all(&self.permits));
        if !self.kept {
            drop(fs::remove_dir_all(&self.base));
        }
    }
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a directory of ours");
}

fn secret(path: &Path, text: &str) {
    fs::write(path, format!("{text}\n")).expect("a writable directory");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("a file of ours");
}
