//! Stand-ins for agents: one that answers what it is told to, and some that misbehave.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ha_proto::v1::admin_server::{Admin, AdminServer};
use ha_proto::v1::{
    ExplainReply, ExplainRequest, IfPrimaryDied, LeaseStatus, NodeExplanation, NodeStatus,
    RaftStatus, StatusReply, StatusRequest, WalQuorumStatus,
};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

type Answers<Q, R> = Box<dyn Fn(u64, Q) -> Result<R, Status> + Send + Sync>;

/// What an agent answers; the first argument counts its calls from 1.
pub struct Script {
    pub status: Answers<StatusRequest, StatusReply>,
    pub explain: Answers<ExplainRequest, ExplainReply>,
}

/// A running agent. It ends with the test's runtime.
#[derive(Debug)]
pub struct Agent {
    pub address: SocketAddr,
    asked: Arc<AtomicU64>,
}

impl Agent {
    /// Starts an agent that always answers `status`.
    pub async fn answering(status: StatusReply) -> Self {
        Self::scripted(move |_, _| Ok(status.clone())).await
    }

    /// Starts an agent that refuses everything with `error`.
    pub async fn failing(error: Status) -> Self {
        Self::scripted(move |_, _| Err(error.clone())).await
    }

    /// Starts an agent that answers a status as `status` says.
    pub async fn scripted(
        status: impl Fn(u64, StatusRequest) -> Result<StatusReply, Status> + Send + Sync + 'static,
    ) -> Self {
        let explain = |_, _| Ok(explanation());
        Self::start(Script { status: Box::new(status), explain: Box::new(explain) }).await
    }

    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicU64::new(0));
        let service = AdminServer::new(Fake { script, asked: Arc::clone(&asked) });
        let incoming = TcpIncoming::from(listener);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        Self { address, asked }
    }

    /// Returns how many times its status was asked for.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }
}

struct Fake {
    script: Script,
    asked: Arc<AtomicU64>,
}

#[tonic::async_trait]
impl Admin for Fake {
    async fn status(&self, ask: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        let call = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        (self.script.status)(call, ask.into_inner()).map(Response::new)
    }

    async fn explain(
        &self,
        ask: Request<ExplainRequest>,
    ) -> Result<Response<ExplainReply>, Status> {
        let call = self.asked.load(Ordering::SeqCst);
        (self.script.explain)(call, ask.into_inner()).map(Response::new)
    }
}

/// Returns a socket that holds its port and refuses connections.
pub fn refusing() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Returns a socket on which connections come about and nobody ever answers.
pub async fn hanging() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Returns a socket that no further connection reaches: packets to it go unanswered, as to a
/// machine that is gone.
pub async fn unreachable() -> (TcpListener, Vec<TcpStream>, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queue = Vec::new();
    while let Ok(stream) =
        tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
    {
        queue.push(stream.unwrap());
    }
    (listener, queue, address)
}

/// Starts a server that answers the first bytes of each connection with `bytes`, and closes it.
pub fn blurting(bytes: &'static [u8]) -> SocketAddr {
    serving(move |mut stream| {
        let mut first = [0; 24];
        stream.read_exact(&mut first).ok();
        stream.write_all(bytes).ok();
        // Close our side only: a reset could overtake what was just said.
        stream.shutdown(Shutdown::Write).ok();
        stream.read_to_end(&mut Vec::new()).ok();
    })
}

/// Starts an HTTP/2 server that answers each first request with these frames.
pub fn framing(frames: Vec<u8>) -> SocketAddr {
    serving(move |mut stream| {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).unwrap();
        let (settings, ack) = ([0, 0, 0, 4, 0, 0, 0, 0, 0], [0, 0, 0, 4, 1, 0, 0, 0, 0]);
        stream.write_all(&[settings, ack].concat()).unwrap();
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).unwrap();
            let length = usize::from(head[1]) << 8 | usize::from(head[2]);
            stream.read_exact(&mut vec![0; length]).unwrap();
            if head[3] == 1 {
                break;
            }
        }
        stream.write_all(&frames).unwrap();
        // Until the client has what it wants, and leaves.
        stream.read_to_end(&mut Vec::new()).ok();
    })
}

/// Returns the frames of a gRPC reply whose message is `message`, decodable or not.
pub fn grpc_reply(message: &[u8]) -> Vec<u8> {
    let status_200 = 0x88;
    let mut headers = vec![status_200, 0x5f, 16];
    headers.extend(b"application/grpc");
    let mut data = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap()];
    data.extend(message);
    let mut trailers = vec![0x40, 11];
    trailers.extend(b"grpc-status\x010");
    let (end_headers, end_both) = (4, 5);
    [frame(1, end_headers, &headers), frame(0, 0, &data), frame(1, end_both, &trailers)].concat()
}

/// Returns the frames of a reply of a web server that knows no such page.
pub fn not_found() -> Vec<u8> {
    let status_404 = 0x8d;
    frame(1, 5, &[status_404])
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, 1];
    frame.extend(payload);
    frame
}

fn serving(answer: impl Fn(std::net::TcpStream) + Send + 'static) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test's process; it serves one client after the other.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            answer(stream.unwrap());
        }
    });
    address
}

/// Returns the cluster of DESIGN §11, which is healthy.
pub fn healthy() -> StatusReply {
    let node = |name: &str, kind: &str, role: &str, state: &str| NodeStatus {
        name: name.into(),
        kind: kind.into(),
        role: role.into(),
        state: state.into(),
        flushed_lsn: "0/5A3C9F0".into(),
        reachable: true,
        agent_version: "0.1.0".into(),
        rule: "following".into(),
        ..Default::default()
    };
    let list = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    StatusReply {
        cluster: "orders".into(),
        state: "healthy".into(),
        epoch: 7,
        timeline: 4,
        durability: "quorum".into(),
        lease: Some(LeaseStatus { holder: "n2".into(), left_ms: 2400, ttl_ms: 3000 }),
        raft: Some(RaftStatus {
            leader: "n3".into(),
            term: 12,
            voters: list(&["n1", "n2", "n3"]),
            quorum: true,
        }),
        wal_quorum: Some(WalQuorumStatus {
            members: list(&["n1", "n3"]),
            required: 1,
            acknowledging: list(&["n1", "n3"]),
        }),
        nodes: vec![
            NodeStatus {
                postgres: "10.77.0.1:5432".into(),
                timeline: 4,
                replayed_lsn: "0/5A3C9F0".into(),
                lag_bytes: Some(0),
                wal_ack: true,
                ..node("n1", "data", "standby", "streaming")
            },
            NodeStatus {
                postgres: "10.77.0.2:5432".into(),
                timeline: 4,
                ..node("n2", "data", "primary", "running")
            },
            NodeStatus {
                lag_bytes: Some(0),
                wal_ack: true,
                ..node("n3", "witness", "witness", "receiving")
            },
        ],
        answered_by: "n3".into(),
        ..Default::default()
    }
}

/// Returns the same cluster as seen by a node that is cut off.
pub fn cut_off() -> StatusReply {
    StatusReply {
        state: "no_quorum".into(),
        reason: "1 of 3 voters answers".into(),
        lease: None,
        raft: Some(RaftStatus { term: 12, ..Default::default() }),
        nodes: vec![],
        answered_by: "n1".into(),
        ..healthy()
    }
}

pub fn explanation() -> ExplainReply {
    ExplainReply {
        summary: "the cluster is healthy".into(),
        nodes: vec![
            NodeExplanation {
                node: "n1".into(),
                rule: "following".into(),
                why: "Node n2 holds the lease, so n1 streams from it and acknowledges its \
                      commits as a member of the WAL quorum."
                    .into(),
                waiting_for: String::new(),
            },
            NodeExplanation {
                node: "n2".into(),
                rule: "serving".into(),
                why: "It holds the lease.".into(),
                waiting_for: "the backup to end".into(),
            },
        ],
        if_primary_died: Some(IfPrimaryDied {
            successor: "n1".into(),
            why: "it has all acknowledged WAL".into(),
            refusals: vec!["n4 is 20 MiB behind".into()],
            lost_bytes: Some(0),
            lost: "Every acknowledged commit is on n1 or n3.".into(),
            expected_ms: 3500,
        }),
        answered_by: "n3".into(),
    }
}
