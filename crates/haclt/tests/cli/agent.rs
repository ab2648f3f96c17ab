//! Stand-ins for agents: one that answers what it is told to, and some that misbehave.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ha_proto::v1::admin_server::{Admin, AdminServer};
use ha_proto::v1::{
    ConfigSetReply, ConfigSetRequest, ConfigShowReply, ConfigShowRequest, DivergedDropReply,
    DivergedDropRequest, DivergedListReply, DivergedListRequest, DivergedShowReply,
    DivergedShowRequest, ExplainReply, ExplainRequest, StatusReply, StatusRequest,
};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

mod samples;

pub use samples::{configuration, cut_off, diverged, diverged_entry, done, explanation, healthy};

/// An error of this text is no error: to that change the agent never answers.
pub const NEVER: &str = "never";

type Answers<Q, R> = Box<dyn Fn(u64, Q) -> Result<R, Status> + Send + Sync>;

/// What an agent answers; the first argument counts its calls from 1.
pub struct Script {
    pub status: Answers<StatusRequest, StatusReply>,
    pub explain: Answers<ExplainRequest, ExplainReply>,
    pub config_show: Answers<ConfigShowRequest, ConfigShowReply>,
    pub config_set: Answers<ConfigSetRequest, ConfigSetReply>,
    pub diverged_list: Answers<DivergedListRequest, DivergedListReply>,
    pub diverged_show: Answers<DivergedShowRequest, DivergedShowReply>,
    pub diverged_drop: Answers<DivergedDropRequest, DivergedDropReply>,
}

impl Default for Script {
    /// A healthy cluster, in which every order is carried out at once.
    fn default() -> Self {
        Self {
            status: Box::new(|_, _| Ok(healthy())),
            explain: Box::new(|_, _| Ok(explanation())),
            config_show: Box::new(|_, _| Ok(configuration())),
            config_set: Box::new(|_, _| Ok(done())),
            diverged_list: Box::new(|_, _| {
                Ok(DivergedListReply { entries: vec![diverged_entry()] })
            }),
            diverged_show: Box::new(|_, _| Ok(diverged())),
            diverged_drop: Box::new(|_, _| {
                Ok(DivergedDropReply { directory: diverged().directory })
            }),
        }
    }
}

/// What an agent was told to do.
#[derive(Debug, Default)]
struct Orders {
    sets: Vec<ConfigSetRequest>,
    drops: Vec<DivergedDropRequest>,
}

/// A running agent. It ends with the test's runtime.
#[derive(Debug)]
pub struct Agent {
    pub address: SocketAddr,
    asked: Arc<AtomicU64>,
    orders: Arc<Mutex<Orders>>,
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
        Self::start(Script { status: Box::new(status), ..Script::default() }).await
    }

    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicU64::new(0));
        let orders = Arc::new(Mutex::new(Orders::default()));
        let fake = Fake { script, asked: Arc::clone(&asked), orders: Arc::clone(&orders) };
        let service = AdminServer::new(fake);
        let incoming = TcpIncoming::from(listener);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        Self { address, asked, orders }
    }

    /// Returns how many times its status was asked for.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// Returns the changes of the configuration that it was told to make.
    pub fn sets(&self) -> Vec<ConfigSetRequest> {
        self.orders.lock().unwrap().sets.clone()
    }

    /// Returns the diverged WAL that it was told to drop.
    pub fn drops(&self) -> Vec<DivergedDropRequest> {
        self.orders.lock().unwrap().drops.clone()
    }
}

struct Fake {
    script: Script,
    asked: Arc<AtomicU64>,
    orders: Arc<Mutex<Orders>>,
}

impl Fake {
    fn calls(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }
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
        (self.script.explain)(self.calls(), ask.into_inner()).map(Response::new)
    }

    async fn config_show(
        &self,
        ask: Request<ConfigShowRequest>,
    ) -> Result<Response<ConfigShowReply>, Status> {
        (self.script.config_show)(self.calls(), ask.into_inner()).map(Response::new)
    }

    async fn config_set(
        &self,
        order: Request<ConfigSetRequest>,
    ) -> Result<Response<ConfigSetReply>, Status> {
        let order = order.into_inner();
        self.orders.lock().unwrap().sets.push(order.clone());
        let reply = (self.script.config_set)(self.calls(), order);
        if reply.as_ref().is_err_and(|error| error.message() == NEVER) {
            return std::future::pending().await;
        }
        reply.map(Response::new)
    }

    async fn diverged_list(
        &self,
        ask: Request<DivergedListRequest>,
    ) -> Result<Response<DivergedListReply>, Status> {
        (self.script.diverged_list)(self.calls(), ask.into_inner()).map(Response::new)
    }

    async fn diverged_show(
        &self,
        ask: Request<DivergedShowRequest>,
    ) -> Result<Response<DivergedShowReply>, Status> {
        (self.script.diverged_show)(self.calls(), ask.into_inner()).map(Response::new)
    }

    async fn diverged_drop(
        &self,
        order: Request<DivergedDropRequest>,
    ) -> Result<Response<DivergedDropReply>, Status> {
        let order = order.into_inner();
        self.orders.lock().unwrap().drops.push(order.clone());
        (self.script.diverged_drop)(self.calls(), order).map(Response::new)
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
