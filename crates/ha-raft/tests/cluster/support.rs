//! A group of three nodes in this process, over real connections on the loopback.
//!
//! Between every two nodes there is a link of its own in each direction, which can be cut.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ha_core::NodeId;
use ha_core::node::NodeKind;
use ha_core::state::{Command, Node, Outcome};
use ha_raft::{Confirmed, MemberInfo, ProposeError, RaftHandle, RaftSettings};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::TcpListenerStream;

pub(crate) const NAMES: [&str; 3] = ["n1", "n2", "n3"];
/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const LIMIT: Duration = Duration::from_secs(2);

pub(crate) fn id(name: &str) -> NodeId {
    name.parse().unwrap()
}

/// Whether a link carries anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Open,
    Cut,
}

/// A node that runs.
pub(crate) struct Running {
    pub(crate) raft: RaftHandle,
    server: JoinHandle<()>,
}

/// Three nodes, their directories and what connects them.
pub(crate) struct Cluster {
    dir: tempfile::TempDir,
    pub(crate) nodes: BTreeMap<NodeId, Running>,
    listeners: BTreeMap<NodeId, SocketAddr>,
    links: BTreeMap<(NodeId, NodeId), (SocketAddr, watch::Sender<Link>)>,
}

impl Cluster {
    /// Returns three nodes that know nothing of each other yet.
    pub(crate) async fn new() -> Self {
        let mut cluster = Self {
            dir: tempfile::tempdir().unwrap(),
            nodes: BTreeMap::new(),
            listeners: BTreeMap::new(),
            links: BTreeMap::new(),
        };
        let mut sockets = Vec::new();
        for name in NAMES {
            let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
            cluster.listeners.insert(id(name), socket.local_addr().unwrap());
            sockets.push((id(name), socket));
        }
        for from in NAMES {
            for to in NAMES.into_iter().filter(|to| *to != from) {
                let link = link(cluster.listeners[&id(to)]).await;
                cluster.links.insert((id(from), id(to)), link);
            }
        }
        for (node, socket) in sockets {
            cluster.run(node, socket).await;
        }
        cluster
    }

    /// Returns three nodes that have a leader and can be written to.
    pub(crate) async fn founded() -> Self {
        let cluster = Self::new().await;
        let members = cluster.members();
        cluster.nodes[&id("n1")].raft.initialize(members).await.unwrap();
        cluster.write(describe("n1", 1)).await;
        cluster
    }

    pub(crate) fn members(&self) -> BTreeMap<NodeId, MemberInfo> {
        let member = |(node, running): (&NodeId, &Running)| {
            let grpc = self.listeners[node].to_string();
            (node.clone(), MemberInfo { grpc, store_id: running.raft.store_id() })
        };
        self.nodes.iter().map(member).collect()
    }

    pub(crate) fn address(&self, name: &str) -> SocketAddr {
        self.listeners[&id(name)]
    }

    pub(crate) fn path(&self, node: &NodeId) -> PathBuf {
        self.dir.path().join(node.as_str())
    }

    pub(crate) fn settings(&self, node: &NodeId) -> RaftSettings {
        let links = self.links.iter().filter(|((from, _), _)| from == node);
        RaftSettings {
            cluster: "orders".to_owned(),
            node: node.clone(),
            dir: self.path(node),
            peers: links.map(|((_, to), (at, _))| (to.clone(), at.to_string())).collect(),
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(600),
        }
    }

    async fn run(&mut self, node: NodeId, socket: TcpListener) {
        let raft = RaftHandle::open(self.settings(&node)).await.unwrap();
        let serving = tonic::transport::Server::builder()
            .add_service(raft.service())
            .serve_with_incoming(TcpListenerStream::new(socket));
        let server = tokio::spawn(async move { serving.await.unwrap() });
        self.nodes.insert(node, Running { raft, server });
    }

    /// Stops a node, as if its process had ended.
    pub(crate) async fn stop(&mut self, node: &NodeId) {
        self.cut(node);
        let running = self.nodes.remove(node).unwrap();
        running.raft.shutdown().await;
        running.server.abort();
        running.server.await.unwrap_err();
    }

    /// Starts a node that was stopped, at the address it had.
    pub(crate) async fn start(&mut self, node: &NodeId) {
        let socket = TcpListener::bind(self.listeners[node]).await.unwrap();
        self.run(node.clone(), socket).await;
        self.heal(node);
    }

    /// Cuts every link of a node, in both directions.
    pub(crate) fn cut(&self, node: &NodeId) {
        self.set(node, Link::Cut);
    }

    /// Mends every link of a node.
    pub(crate) fn heal(&self, node: &NodeId) {
        self.set(node, Link::Open);
    }

    fn set(&self, node: &NodeId, link: Link) {
        for ((from, to), (_, state)) in &self.links {
            if from == node || to == node {
                state.send_replace(link);
            }
        }
    }

    pub(crate) fn raft(&self, node: &NodeId) -> &RaftHandle {
        &self.nodes[node].raft
    }

    /// Waits until one of the nodes leads and a majority confirms it.
    pub(crate) async fn leader(&self) -> (NodeId, Confirmed) {
        until("a confirmed leader", async || {
            for (node, running) in &self.nodes {
                if let Ok(confirmed) = running.raft.confirm_leadership(LIMIT).await {
                    return Ok((node.clone(), confirmed));
                }
            }
            Err(self.nodes.values().map(|node| node.raft.status()).collect::<Vec<_>>())
        })
        .await
    }

    /// Proposes to whoever leads until it is applied.
    pub(crate) async fn write(&self, command: Command) -> Outcome {
        until("a write", async || {
            let mut errors = Vec::new();
            for running in self.nodes.values() {
                match running.raft.propose(command.clone(), None, LIMIT).await {
                    Ok(outcome) => return Ok(outcome),
                    Err(e) => errors.push(e),
                }
            }
            Err::<_, Vec<ProposeError>>(errors)
        })
        .await
    }

    /// Waits until every running node has applied as much as the most advanced one.
    pub(crate) async fn settled(&self) {
        until("the same state everywhere", async || {
            let states: Vec<_> =
                self.nodes.values().map(|node| node.raft.state().borrow().clone()).collect();
            let same = states.windows(2).all(|pair| pair[0] == pair[1]);
            if same && states[0].index > 0 { Ok(()) } else { Err(states) }
        })
        .await;
    }

    pub(crate) async fn shutdown(mut self) {
        for node in self.nodes.keys().cloned().collect::<Vec<_>>() {
            self.stop(&node).await;
        }
    }
}

/// Asks again until there is an answer; fails with the last refusal.
pub(crate) async fn until<T, E: Debug>(what: &str, ask: impl AsyncFn() -> Result<T, E>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(e) if Instant::now() > deadline => panic!("there was never {what}: {e:?}"),
            Err(_) => sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Returns a command that any state accepts once the cluster is founded, or founds it.
pub(crate) fn describe(node: &str, round: u64) -> Command {
    let is = |node: &str| Node {
        kind: if node == "n3" { NodeKind::Witness } else { NodeKind::Data },
        grpc: format!("{node}:7400"),
        postgres: format!("{node}:{round}"),
        keeps_wal: true,
        sync: true,
    };
    if round == 1 {
        Command::Found {
            cluster: "orders".to_owned(),
            cluster_id: u128::MAX - 1,
            nodes: NAMES.into_iter().map(|node| (id(node), is(node))).collect(),
            durability: ha_core::policy::Durability::Quorum,
        }
    } else {
        Command::Describe { node: id(node), is: is(node) }
    }
}

/// Carries connections to an address until told not to.
async fn link(to: SocketAddr) -> (SocketAddr, watch::Sender<Link>) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let (set, state) = watch::channel(Link::Open);
    let set_again = set.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = socket.accept().await {
            let mut state = state.clone();
            if *state.borrow_and_update() == Link::Cut {
                continue;
            }
            tokio::spawn(async move {
                near.set_nodelay(true).unwrap();
                let Ok(mut far) = TcpStream::connect(to).await else { return };
                far.set_nodelay(true).unwrap();
                tokio::select! {
                    _ = copy_bidirectional(&mut near, &mut far) => {}
                    _ = state.wait_for(|link| *link == Link::Cut) => {}
                }
            });
        }
    });
    (address, set_again)
}
