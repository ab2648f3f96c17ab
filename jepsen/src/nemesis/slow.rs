//! A node's line that is slow: every packet to it and from it waits, in both directions.
//!
//! The kernels that build this have no `sch_netem`. So packets wait in a queue of the packet filter
//! ([`queue`](crate::env::queue)) until a thread of the suite lets them go: those of connections that were there
//! before, too. Packets between two other nodes are not touched.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ha_tests::Node;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::net::TcpStream;

use super::Fault;
use crate::env::busy::Held;
use crate::env::queue::{Packet, Queues, Word};
use crate::env::world::{Change, World};
use crate::harness::{Harness, Trying as _};
use crate::random::Random;

/// Queues of a namespace: what comes in, what goes out.
const DIRECTIONS: [u16; 2] = [1, 2];
/// Packets that may wait in one direction.
const LENGTH_MAX: u32 = 20_000;
/// What would have to wait longer for its turn on a narrow line is lost, as in a router.
const TURN_MAX: Duration = Duration::from_secs(1);
/// How often a thread looks whether it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a connection may take that shows the delay.
const SHOW_LIMIT: Duration = Duration::from_secs(3);

/// How slow a line is, in each direction by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pace {
    delay_ms: u64,
    /// A packet waits so much longer or shorter.
    jitter_ms: u64,
    /// Whether a packet may come before one that was sent earlier.
    overtakes: bool,
    bytes_per_s: Option<u64>,
}

impl Pace {
    fn draw(fault: Fault, random: &mut Random) -> Self {
        if fault == Fault::SlowLink {
            // Clients and WAL of a usual run are some 70 kB in a second: some lines carry that, some do not.
            let bytes_per_s = Some(4000 << random.below(5));
            let delay_ms = random.between(5, 20);
            return Self { delay_ms, jitter_ms: 2, overtakes: false, bytes_per_s };
        }
        let delay_ms = random.between(50, 300);
        let jitter_ms = random.between(0, delay_ms / 2);
        Self { delay_ms, jitter_ms, overtakes: random.percent(50), bytes_per_s: None }
    }

    fn said(self) -> String {
        let Self { delay_ms, jitter_ms, overtakes, bytes_per_s } = self;
        let order = if overtakes { "out of order" } else { "in order" };
        let width = bytes_per_s.map(|b| format!(", {b} bytes in a second")).unwrap_or_default();
        format!("{delay_ms} ms give or take {jitter_ms} each way, {order}{width}")
    }

    /// Returns the least time in which a packet is answered.
    const fn round_trip(self) -> Duration {
        Duration::from_millis(2 * (self.delay_ms - self.jitter_ms))
    }
}

/// One direction of a line. Times are counted from the beginning of the fault.
#[derive(Debug)]
struct Line {
    pace: Pace,
    random: Random,
    /// When all that came is sent.
    free: Duration,
    /// When the last packet goes on.
    last: Duration,
}

impl Line {
    const fn new(pace: Pace, random: Random) -> Self {
        Self { pace, random, free: Duration::ZERO, last: Duration::ZERO }
    }

    /// Returns when a packet goes on that comes now; none if it is lost.
    fn goes_on(&mut self, now: Duration, bytes: u32) -> Option<Duration> {
        let Pace { delay_ms, jitter_ms, overtakes, bytes_per_s } = self.pace;
        let mut sent = now;
        if let Some(bytes_per_s) = bytes_per_s {
            let turn = self.free.max(now);
            if turn.saturating_sub(now) > TURN_MAX {
                return None;
            }
            sent = turn + Duration::from_micros(u64::from(bytes) * 1_000_000 / bytes_per_s);
            self.free = sent;
        }
        let waits = self.random.between(delay_ms - jitter_ms, delay_ms + jitter_ms);
        let at = sent + Duration::from_millis(waits);
        if overtakes {
            return Some(at);
        }
        self.last = self.last.max(at);
        Some(self.last)
    }
}

/// What became of the packets.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    packets: u64,
    bytes: u64,
    lost: u64,
    longest: Duration,
}

/// A slow line, until it is ended.
#[derive(Debug)]
pub struct Slow {
    n: u8,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Count, Harness>>,
    _held: Held,
}

/// The rules that lead all packets of a node into the queues. Without a reader they go on at once.
fn rules() -> [String; 2] {
    let [from, to] = DIRECTIONS;
    [
        format!("INPUT -i eth0 -j NFQUEUE --queue-num {from} --queue-bypass"),
        format!("OUTPUT -o eth0 -j NFQUEUE --queue-num {to} --queue-bypass"),
    ]
}

impl Slow {
    /// Makes the line of the `n`th node slow, and says how slow it is.
    ///
    /// # Errors
    /// That this machine cannot.
    pub async fn begin(
        fault: Fault,
        (world, n): (&World, u8),
        node: &Node,
        held: Held,
        random: &mut Random,
    ) -> Result<Result<(Self, String), String>, Harness> {
        let pace = Pace::draw(fault, random);
        let lines = DIRECTIONS.map(|_| Line::new(pace, Random::new(random.draw(), 2)));
        let stop = Arc::new(AtomicBool::new(false));
        let (place, asked) = (world.place(n), Arc::clone(&stop));
        let (tell, told) = sync_channel(1);
        let thread = std::thread::Builder::new().name(format!("line-{n}"));
        let run = move || place.enter().and_then(|()| hold(lines, &asked, &tell));
        let thread = thread.spawn(run).trying(|| "start a thread".to_owned())?;
        let slow = Self { n, stop, thread, _held: held };
        match told.recv_timeout(SHOW_LIMIT) {
            Ok(Ok(())) => {}
            Ok(Err(why)) => return Ok(Err(format!("this kernel holds no packets back: {why}"))),
            Err(_) => return slow.joined().map(|_| Err("the thread ended".to_owned())),
        }
        if let Err(why) = world.mangle(n, Change::Add, &rules()) {
            slow.stop.store(true, Ordering::Relaxed);
            return Ok(Err(format!("this kernel holds no packets back: {why}")));
        }
        let shown = slow.show(node, pace).await?;
        Ok(Ok((slow, format!("{}; {shown}", pace.said()))))
    }

    /// Proves that it holds: a connection is there after one round trip.
    async fn show(&self, node: &Node, pace: Pace) -> Result<String, Harness> {
        let began = Instant::now();
        let connect = TcpStream::connect(node.grpc());
        // That nobody listens is an answer too; silence is a partition at the same time.
        if tokio::time::timeout(SHOW_LIMIT, connect).await.is_err() {
            return Ok("nobody answers".to_owned());
        }
        let took = began.elapsed();
        if took < pace.round_trip() {
            let (took, least) = (took.as_millis(), pace.round_trip().as_millis());
            return Err(Harness::new(format!(
                "a line that takes {least} ms there and back was crossed in {took} ms"
            )));
        }
        Ok(format!("a connection takes {} ms", took.as_millis()))
    }

    /// Lets packets pass as they come, those that wait at their time, and says how many waited.
    ///
    /// # Errors
    /// If the packet filter refuses, or packets could not be held.
    pub async fn end(self, world: Option<&World>) -> Result<String, Harness> {
        if let Some(world) = world {
            world.mangle(self.n, Change::Remove, &rules())?;
        }
        let joined = tokio::task::spawn_blocking(move || self.joined()).await;
        let count = joined.trying(|| "end a slow line".to_owned())??;
        let Count { packets, bytes, lost, longest } = count;
        let longest = longest.as_millis();
        Ok(format!(
            "{packets} packets of {bytes} bytes waited, at most {longest} ms; {lost} were lost"
        ))
    }

    fn joined(self) -> Result<Count, Harness> {
        self.stop.store(true, Ordering::Relaxed);
        let panicked = |_| Err(Harness::new("the thread that holds packets back panicked"));
        self.thread.join().unwrap_or_else(panicked)
    }
}

/// A packet that waits; the first to go on is the greatest.
type Waiting = Reverse<(Duration, u64, u16, u32)>;

/// Holds packets back until asked to stop and none is left.
fn hold(
    mut lines: [Line; 2],
    stop: &AtomicBool,
    tell: &SyncSender<Result<(), String>>,
) -> Result<Count, Harness> {
    let queues = match Queues::open(&DIRECTIONS, LENGTH_MAX) {
        Ok(queues) => queues,
        Err(error) => {
            // If nobody wants to know any more, nobody waits.
            drop(tell.send(Err(error.to_string())));
            return Ok(Count::default());
        }
    };
    drop(tell.send(Ok(())));
    let what = || "hold packets back".to_owned();
    let began = Instant::now();
    let mut waiting: BinaryHeap<Waiting> = BinaryHeap::new();
    let mut count = Count::default();
    loop {
        let now = began.elapsed();
        for Packet { queue, id, bytes } in queues.packets().trying(what)? {
            count.packets += 1;
            count.bytes += u64::from(bytes);
            let line = if queue == DIRECTIONS[0] { &mut lines[0] } else { &mut lines[1] };
            if let Some(at) = line.goes_on(now, bytes) {
                count.longest = count.longest.max(at.saturating_sub(now));
                waiting.push(Reverse((at, count.packets, queue, id)));
            } else {
                count.lost += 1;
                queues.say(queue, id, Word::Drop).trying(what)?;
            }
        }
        while let Some(Reverse((_, _, queue, id))) =
            waiting.peek().copied().filter(|next| next.0.0 <= began.elapsed())
        {
            waiting.pop();
            queues.say(queue, id, Word::Accept).trying(what)?;
        }
        let Some(next) = waiting.peek().map(|next| next.0.0) else {
            if stop.load(Ordering::Relaxed) {
                return Ok(count);
            }
            rest(&queues, LOOK_EVERY)?;
            continue;
        };
        rest(&queues, next.saturating_sub(began.elapsed()).min(LOOK_EVERY))?;
    }
}

/// Waits until packets come or the time is over.
fn rest(queues: &Queues, time: Duration) -> Result<(), Harness> {
    let limit = Timespec { tv_sec: 0, tv_nsec: time.subsec_nanos().into() };
    let mut wanted = [PollFd::new(queues, PollFlags::IN)];
    match poll(&mut wanted, Some(&limit)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error).trying(|| "wait for packets".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn line(jitter_ms: u64, overtakes: bool, bytes_per_s: Option<u64>) -> Line {
        let pace = Pace { delay_ms: 100, jitter_ms, overtakes, bytes_per_s };
        Line::new(pace, Random::new(1, 1))
    }

    #[test]
    fn each_packet_waits_as_long_as_the_line_says() {
        let mut even = line(0, false, None);
        assert_eq!(even.goes_on(ms(5), 1500), Some(ms(105)));
        assert_eq!(even.goes_on(ms(6), 60), Some(ms(106)));
        let mut uneven = line(40, true, None);
        let times: Vec<Duration> = (0..200).filter_map(|_| uneven.goes_on(ms(0), 60)).collect();
        assert!(times.iter().all(|at| (ms(60)..=ms(140)).contains(at)));
        assert!(times.iter().any(|at| *at < ms(80)) && times.iter().any(|at| *at > ms(120)));
    }

    #[test]
    fn packets_overtake_only_where_they_may() {
        let sorted = |overtakes| {
            let mut line = line(40, overtakes, None);
            (0..100).filter_map(|now| line.goes_on(ms(now), 60)).is_sorted()
        };
        assert!(sorted(false) && !sorted(true));
    }

    #[test]
    fn a_narrow_line_sends_one_packet_after_the_other_and_loses_what_waits_too_long() {
        let mut narrow = line(0, false, Some(10_000));
        assert_eq!(narrow.goes_on(ms(0), 1000), Some(ms(200)));
        assert_eq!(narrow.goes_on(ms(0), 1000), Some(ms(300)));
        let all: Vec<_> = (0..20).map(|_| narrow.goes_on(ms(0), 1000)).collect();
        assert_eq!(all.iter().filter(|at| at.is_some()).count(), 9);
        assert!(narrow.goes_on(ms(5000), 1000) == Some(ms(5200)), "it is free again");
    }

    #[test]
    fn every_delay_can_be_shown() {
        let mut random = Random::new(5, 5);
        for _ in 0..300 {
            let delay = Pace::draw(Fault::Delay, &mut random);
            assert!((50..=300).contains(&delay.delay_ms) && delay.round_trip() >= ms(50));
            assert!(Pace::draw(Fault::SlowLink, &mut random).round_trip() >= ms(6));
        }
    }
}
