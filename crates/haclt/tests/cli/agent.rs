//! Stand-ins for agents: one that answers what it is told to, and some that misbehave.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use ha_proto::v1::admin_server::{Admin, AdminServer};
use ha_proto::v1::{
    ConfigChangeReply, ConfigChangeRequest, ConfigCheckReply, ConfigCheckRequest,
    ConfigHistoryReply, ConfigHistoryRequest, ConfigSetReply, ConfigSetRequest, ConfigShowReply,
    ConfigShowRequest, CredentialsRotateRequest, CredentialsShowReply, CredentialsShowRequest,
    DivergedDropReply, DivergedDropRequest, DivergedListReply, DivergedListRequest,
    DivergedShowReply, DivergedShowRequest, DoctorReply, DoctorRequest, DrillNews, DrillPlanReply,
    DrillPlanRequest, DrillRequest, DrillStepReply, DrillStepRequest, EventShowReply,
    EventShowRequest, EventsReply, EventsRequest, ExplainReply, ExplainRequest, FailoverPlanReply,
    FailoverPlanRequest, FailoverRequest, FenceRequest, HistoryReply, HistoryRequest,
    NodeAddRequest, NodeListReply, NodeListRequest, NodeRemoveRequest, NodeReplaceRequest,
    OrderReply, PauseRequest, RecloneRequest, ReloadRequest, RestartPlanReply, RestartPlanRequest,
    RestartReply, RestartRequest, ResumeRequest, ScheduleAddRequest, ScheduleCancelRequest,
    ScheduleListReply, ScheduleListRequest, StatusReply, StatusRequest, SupportBundleRequest,
    SupportChunk, SwitchoverPlanReply, SwitchoverPlanRequest, SwitchoverReply, SwitchoverRequest,
    UnfenceRequest,
};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

mod samples;

pub use samples::{
    configuration, cut_off, diverged, diverged_entry, done, drill_plan, drilled, examined,
    explanation, healthy, restart_plan, support, switched, switchover_plan,
};

/// An error of this text is no error: to that change the agent never answers.
pub const NEVER: &str = "never";

type Answers<Q, R> = Box<dyn Fn(u64, Q) -> Result<R, Status> + Send + Sync>;

/// How a stream ends.
#[derive(Debug, Clone)]
pub enum End {
    Closed,
    Broken(Status),
    Never,
}

/// What an agent answers; the first argument counts its calls from 1.
pub struct Script {
    pub status: Answers<StatusRequest, StatusReply>,
    pub explain: Answers<ExplainRequest, ExplainReply>,
    pub config_show: Answers<ConfigShowRequest, ConfigShowReply>,
    pub config_set: Answers<ConfigSetRequest, ConfigSetReply>,
    pub config_change: Answers<ConfigChangeRequest, ConfigChangeReply>,
    pub config_history: Answers<ConfigHistoryRequest, ConfigHistoryReply>,
    pub diverged_list: Answers<DivergedListRequest, DivergedListReply>,
    pub diverged_show: Answers<DivergedShowRequest, DivergedShowReply>,
    pub diverged_drop: Answers<DivergedDropRequest, DivergedDropReply>,
    pub switchover_plan: Answers<SwitchoverPlanRequest, SwitchoverPlanReply>,
    pub switchover: Answers<SwitchoverRequest, SwitchoverReply>,
    pub restart_plan: Answers<RestartPlanRequest, RestartPlanReply>,
    pub restart: Answers<RestartRequest, RestartReply>,
    /// What becomes of any other order, by its name.
    pub order: Answers<&'static str, OrderReply>,
    pub events: Answers<EventsRequest, EventsReply>,
    pub event_show: Answers<EventShowRequest, EventShowReply>,
    pub history: Answers<HistoryRequest, HistoryReply>,
    pub failover_plan: Answers<FailoverPlanRequest, FailoverPlanReply>,
    pub schedule_list: Answers<ScheduleListRequest, ScheduleListReply>,
    pub credentials_show: Answers<CredentialsShowRequest, CredentialsShowReply>,
    pub node_list: Answers<NodeListRequest, NodeListReply>,
    pub doctor: Answers<DoctorRequest, DoctorReply>,
    pub drill_plan: Answers<DrillPlanRequest, DrillPlanReply>,
    /// What is told of a drill, and then how the stream ends.
    pub drill: Answers<DrillRequest, (Vec<DrillNews>, End)>,
    /// The parts of a node's files; an error among them ends the stream.
    pub support: Answers<SupportBundleRequest, Vec<Result<SupportChunk, Status>>>,
}

impl Default for Script {
    /// A healthy cluster, in which every order is carried out at once.
    fn default() -> Self {
        Self {
            status: Box::new(|_, _| Ok(healthy())),
            explain: Box::new(|_, _| Ok(explanation())),
            config_show: Box::new(|_, _| Ok(configuration())),
            config_set: Box::new(|_, _| Ok(done())),
            config_change: Box::new(|_, order| Ok(samples::config_changed(order))),
            config_history: Box::new(|_, _| Ok(samples::config_history())),
            diverged_list: Box::new(|_, _| {
                Ok(DivergedListReply { entries: vec![diverged_entry()] })
            }),
            diverged_show: Box::new(|_, _| Ok(diverged())),
            diverged_drop: Box::new(|_, _| {
                Ok(DivergedDropReply { directory: diverged().directory })
            }),
            switchover_plan: Box::new(|_, _| Ok(switchover_plan())),
            switchover: Box::new(|_, order| Ok(switched(&order))),
            restart_plan: Box::new(|_, ask| Ok(restart_plan(&ask.node))),
            restart: Box::new(|_, _| {
                Ok(RestartReply {
                    outcome: "done".into(),
                    role: "standby".into(),
                    ..Default::default()
                })
            }),
            order: Box::new(|_, name| {
                Ok(OrderReply { outcome: "done".into(), detail: format!("{name} is done") })
            }),
            events: Box::new(|_, _| Ok(samples::events())),
            event_show: Box::new(|_, _| Ok(samples::event())),
            history: Box::new(|_, _| Ok(samples::history())),
            failover_plan: Box::new(|_, ask| Ok(samples::failover_plan(&ask))),
            schedule_list: Box::new(|_, _| Ok(samples::schedule())),
            credentials_show: Box::new(|_, _| Ok(samples::credentials())),
            node_list: Box::new(|_, _| Ok(samples::nodes())),
            doctor: Box::new(|_, ask| Ok(examined(&ask.node))),
            drill_plan: Box::new(|_, ask| Ok(samples::drill_plan(&ask))),
            drill: Box::new(|_, _| Ok((samples::drilled(), End::Closed))),
            support: Box::new(|_, ask| Ok(samples::support(&ask))),
        }
    }
}

/// What an agent was told to do.
#[derive(Debug, Default)]
struct Orders {
    sets: Vec<ConfigSetRequest>,
    changes: Vec<ConfigChangeRequest>,
    drops: Vec<DivergedDropRequest>,
    switchovers: Vec<SwitchoverRequest>,
    restarts: Vec<RestartRequest>,
    others: Vec<String>,
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

    /// Returns the changes of several keys that it was told to make or asked about.
    pub fn changes(&self) -> Vec<ConfigChangeRequest> {
        self.orders.lock().unwrap().changes.clone()
    }

    /// Returns the switchovers that it was told to make, each as often as it was asked about.
    pub fn switchovers(&self) -> Vec<SwitchoverRequest> {
        self.orders.lock().unwrap().switchovers.clone()
    }

    /// Returns the restarts that it was told to make.
    pub fn restarts(&self) -> Vec<RestartRequest> {
        self.orders.lock().unwrap().restarts.clone()
    }

    /// Returns the other orders that it was given: their names and what was asked for.
    pub fn others(&self) -> Vec<String> {
        self.orders.lock().unwrap().others.clone()
    }

    /// Returns the diverged WAL that it was told to drop.
    pub fn drops(&self) -> Vec<DivergedDropRequest> {
        self.orders.lock().unwrap().drops.clone()
    }
}

/// Tells what there is, then ends as it was told.
pub struct ReceiverStream {
    news: VecDeque<DrillNews>,
    end: End,
}

impl tonic::codegen::tokio_stream::Stream for ReceiverStream {
    type Item = Result<DrillNews, Status>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(news) = self.news.pop_front() {
            return Poll::Ready(Some(Ok(news)));
        }
        match std::mem::replace(&mut self.end, End::Closed) {
            End::Closed => Poll::Ready(None),
            End::Broken(status) => Poll::Ready(Some(Err(status))),
            End::Never => {
                self.end = End::Never;
                Poll::Pending
            }
        }
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

    fn ordered(
        &self,
        name: &'static str,
        request: impl std::fmt::Debug,
    ) -> Result<Response<OrderReply>, Status> {
        self.orders.lock().unwrap().others.push(format!("{request:?}"));
        (self.script.order)(self.calls(), name).map(Response::new)
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

    async fn config_change(
        &self,
        order: Request<ConfigChangeRequest>,
    ) -> Result<Response<ConfigChangeReply>, Status> {
        let order = order.into_inner();
        self.orders.lock().unwrap().changes.push(order.clone());
        (self.script.config_change)(self.calls(), order).map(Response::new)
    }

    async fn config_check(
        &self,
        _: Request<ConfigCheckRequest>,
    ) -> Result<Response<ConfigCheckReply>, Status> {
        Err(Status::unimplemented("asked by agents only"))
    }

    async fn config_history(
        &self,
        ask: Request<ConfigHistoryRequest>,
    ) -> Result<Response<ConfigHistoryReply>, Status> {
        (self.script.config_history)(self.calls(), ask.into_inner()).map(Response::new)
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

    async fn switchover_plan(
        &self,
        ask: Request<SwitchoverPlanRequest>,
    ) -> Result<Response<SwitchoverPlanReply>, Status> {
        (self.script.switchover_plan)(self.calls(), ask.into_inner()).map(Response::new)
    }

    async fn switchover(
        &self,
        order: Request<SwitchoverRequest>,
    ) -> Result<Response<SwitchoverReply>, Status> {
        let order = order.into_inner();
        self.orders.lock().unwrap().switchovers.push(order.clone());
        (self.script.switchover)(self.calls(), order).map(Response::new)
    }

    async fn restart_plan(
        &self,
        ask: Request<RestartPlanRequest>,
    ) -> Result<Response<RestartPlanReply>, Status> {
        (self.script.restart_plan)(self.calls(), ask.into_inner()).map(Response::new)
    }

    async fn restart(
        &self,
        order: Request<RestartRequest>,
    ) -> Result<Response<RestartReply>, Status> {
        let order = order.into_inner();
        self.orders.lock().unwrap().restarts.push(order.clone());
        (self.script.restart)(self.calls(), order).map(Response::new)
    }

    async fn pause(&self, order: Request<PauseRequest>) -> Result<Response<OrderReply>, Status> {
        self.ordered("pause", order.into_inner())
    }

    async fn resume(&self, order: Request<ResumeRequest>) -> Result<Response<OrderReply>, Status> {
        self.ordered("resume", order.into_inner())
    }

    async fn fence(&self, order: Request<FenceRequest>) -> Result<Response<OrderReply>, Status> {
        self.ordered("fence", order.into_inner())
    }

    async fn unfence(
        &self,
        order: Request<UnfenceRequest>,
    ) -> Result<Response<OrderReply>, Status> {
        self.ordered("unfence", order.into_inner())
    }

    async fn failover(
        &self,
        order: Request<FailoverRequest>,
    ) -> Result<Response<OrderReply>, Status> {
        self.ordered("failover", order.into_inner())
    }

    async fn reclone(
        &self,
        order: Request<RecloneRequest>,
    ) -> Result<Response<OrderReply>, Status> {
        self.ordered("reclone", order.into_inner())
    }

    async fn reload(&self, order: Request<ReloadRequest>) -> Result<Response<OrderReply>, Status> {
        self.ordered("reload", order.into_inner())
    }

    async fn node_add(
        &self,
        order: Request<NodeAddRequest>,
    ) -> Result<Response<OrderReply>, Status> {
        self.ordered("node_add", order.into_inner())
    }

    async fn node_remove(
        &self,
        order: Request<NodeRemoveRequest>,
    ) -> Result<Response<OrderReply>, Status> {
        self.ordered("node_remove", order.into_inner())
    }

    async fn node_replace(
        &self,
        order: Request<NodeReplaceRequest>,
    ) -> Result<Response<OrderReply>, Status> {
        self.ordered("node_replace", order.into_inner())
    }

    async fn credentials_show(
        &self,
        ask: Request<CredentialsShowRequest>,
    ) -> Result<Response<CredentialsShowReply>, Status> {
        (self.script.credentials_show)(self.calls(), ask.into_inner()).map(Response::new)
    }

    async fn credentials_rotate(
        &self,
        order: Request<CredentialsRotateRequest>,
    ) -> Result<Response<OrderReply>, Status> {
        self.ordered("credentials_rotate", order.into_inner())
    }

    async fn node_list(
        &self,
        ask: Request<NodeListRequest>,
    ) -> Result<Response<NodeListReply>, Status> {
        (self.script.node_list)(self.calls(), ask.into_inner()).map(Response::new)
    }

    async fn schedule_add(
        &self,
        order: Request<ScheduleAddRequest>,
    ) -> Result<Response<OrderReply>, Status> {
        self.ordered("schedule_add", order.into_inner())
    }

    async fn schedule_cancel(
        &self,
        order: Request<ScheduleCancelRequest>,
    ) -> Result<Response<OrderReply>, Status> {
        self.ordered("schedule_cancel", order.into_inner())
    }

    async fn events(&self, ask: Request<EventsRequest>) -> Result<Response<EventsReply>, Status> {
        (self.script.events)(self.calls(), ask.into_inner()).map(Response::new)
    }

    async fn event_show(
        &self,
        ask: Request<EventShowRequest>,
    ) -> Result<Response<EventShowReply>, Status> {
        (self.script.event_show)(self.calls(), ask.into_inner()).map(Response::new)
    }

    async fn history(
        &self,
        ask: Request<HistoryRequest>,
    ) -> Result<Response<HistoryReply>, Status> {
        (self.script.history)(self.calls(), ask.into_inner()).map(Response::new)
    }

    async fn failover_plan(
        &self,
        ask: Request<FailoverPlanRequest>,
    ) -> Result<Response<FailoverPlanReply>, Status> {
        (self.script.failover_plan)(self.calls(), ask.into_inner()).map(Response::new)
    }

    async fn schedule_list(
        &self,
        ask: Request<ScheduleListRequest>,
    ) -> Result<Response<ScheduleListReply>, Status> {
        (self.script.schedule_list)(self.calls(), ask.into_inner()).map(Response::new)
    }

    async fn doctor(&self, ask: Request<DoctorRequest>) -> Result<Response<DoctorReply>, Status> {
        (self.script.doctor)(self.calls(), ask.into_inner()).map(Response::new)
    }

    async fn drill_plan(
        &self,
        ask: Request<DrillPlanRequest>,
    ) -> Result<Response<DrillPlanReply>, Status> {
        (self.script.drill_plan)(self.calls(), ask.into_inner()).map(Response::new)
    }

    type DrillStream = ReceiverStream;

    async fn drill(
        &self,
        order: Request<DrillRequest>,
    ) -> Result<Response<ReceiverStream>, Status> {
        let order = order.into_inner();
        self.orders.lock().unwrap().others.push(format!("{order:?}"));
        let (news, end) = (self.script.drill)(self.calls(), order)?;
        Ok(Response::new(ReceiverStream { news: news.into(), end }))
    }

    async fn drill_step(
        &self,
        _: Request<DrillStepRequest>,
    ) -> Result<Response<DrillStepReply>, Status> {
        Err(Status::unimplemented("asked by agents only"))
    }

    type SupportBundleStream = tonic::codegen::BoxStream<SupportChunk>;

    async fn support_bundle(
        &self,
        ask: Request<SupportBundleRequest>,
    ) -> Result<Response<Self::SupportBundleStream>, Status> {
        let parts = (self.script.support)(self.calls(), ask.into_inner())?;
        Ok(Response::new(Box::pin(tonic::codegen::tokio_stream::iter(parts))))
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
