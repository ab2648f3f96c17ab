//! A client that keeps writing to every data node and remembers what was acknowledged, where, when.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::node::Node;
use crate::node::superuser_password;

/// How long a write may take before the client gives it up, unless a plan says otherwise: then nobody
/// knows what became of it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// How long a client waits after a failure.
const RETRY: Duration = Duration::from_millis(20);
/// How long it waits after a success: the machine is shared.
const PACE: Duration = Duration::from_millis(8);

/// One acknowledged write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The value, never written twice.
    pub value: i64,
    /// The node that acknowledged it.
    pub node: String,
    /// The timeline it was written on.
    pub timeline: u32,
    /// When it was sent, and when the acknowledgement was there.
    pub sent: Instant,
    /// See above.
    pub acked: Instant,
}

/// A write that got no answer: nobody knows what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unanswered {
    /// The node that did not answer.
    pub node: String,
    /// When it was sent, and when the client gave up or lost the connection.
    pub sent: Instant,
    /// See above.
    pub given_up: Instant,
}

/// What was acknowledged so far, and what was not answered.
#[derive(Debug, Clone, Default)]
pub struct Acks(pub Vec<Ack>, pub Vec<Unanswered>);

impl Acks {
    /// Panics if two nodes acknowledged writes at the same time, or on the same timeline.
    pub fn assert_no_overlap(&self) {
        self.assert_apart(|ack| ack.acked);
    }

    /// Panics if a node acknowledged a write that it was sent after another one had taken over.
    ///
    /// For clusters whose commits wait for a quorum. A node that stood still may say late of a write
    /// from before that it was acknowledged in time; that is true, and the next primary has it.
    pub fn assert_no_write_after_the_next_primary(&self) {
        self.assert_apart(|ack| ack.sent);
    }

    fn assert_apart(&self, when: impl Fn(&Ack) -> Instant) {
        let mut owners: BTreeMap<u32, &str> = BTreeMap::new();
        for ack in &self.0 {
            let owner = *owners.entry(ack.timeline).or_insert(&ack.node);
            assert_eq!(owner, ack.node, "two nodes acknowledged on timeline {}", ack.timeline);
        }
        let timelines: Vec<u32> = owners.into_keys().collect();
        for pair in timelines.windows(2) {
            let [older, newer] = *pair else { continue };
            let last = self.0.iter().filter(|a| a.timeline == older).map(&when).max();
            let first = self.0.iter().filter(|a| a.timeline == newer).map(|a| a.acked).min();
            assert!(
                last < first,
                "timeline {older} acknowledged a write after timeline {newer} had begun to"
            );
        }
    }

    /// Returns the longest time between two acknowledgements in a row.
    pub fn longest_gap(&self) -> Duration {
        let mut times: Vec<Instant> = self.0.iter().map(|ack| ack.acked).collect();
        times.sort();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// Returns the longest time without an acknowledgement from a moment on.
    pub fn longest_gap_since(&self, from: Instant) -> Duration {
        let mut times: Vec<Instant> =
            self.0.iter().map(|ack| ack.acked).filter(|at| *at >= from).collect();
        times.sort();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// Returns how long the slowest commit on a node took among those under way in a span of time. One
    /// that got no answer counts as long as the client waited for it.
    pub fn slowest(&self, node: &str, from: Instant, to: Instant) -> Duration {
        let answered = self.0.iter().map(|ack| (&ack.node, ack.sent, ack.acked));
        let given_up = self.1.iter().map(|lost| (&lost.node, lost.sent, lost.given_up));
        answered
            .chain(given_up)
            .filter(|(on, sent, end)| *on == node && *sent <= to && *end >= from)
            .map(|(_, sent, end)| end - sent)
            .max()
            .unwrap_or_default()
    }

    /// Returns the acknowledged writes that are not among `present`, in the order they were made.
    pub fn missing(&self, present: &BTreeSet<i64>) -> Vec<&Ack> {
        let mut missing: Vec<&Ack> =
            self.0.iter().filter(|ack| !present.contains(&ack.value)).collect();
        missing.sort_by_key(|ack| ack.acked);
        missing
    }

    /// Returns what one node acknowledged.
    #[must_use]
    pub fn only(&self, node: &str) -> Self {
        let acks = self.0.iter().filter(|ack| ack.node == node).cloned().collect();
        Self(acks, self.1.iter().filter(|lost| lost.node == node).cloned().collect())
    }

    /// Returns the timelines on which anything was acknowledged.
    pub fn timelines(&self) -> BTreeSet<u32> {
        self.0.iter().map(|ack| ack.timeline).collect()
    }
}

/// Writers to every data node, each over a connection that it holds as long as it can.
#[derive(Debug)]
pub struct Writer {
    acks: Arc<Mutex<Acks>>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Writer {
    /// Begins to write to each of the nodes.
    pub(crate) fn start<'a>(nodes: impl Iterator<Item = &'a Node>, patience: Duration) -> Self {
        let places: Vec<Place> = nodes
            .map(|node| Place {
                node: node.name.clone(),
                address: node.postgres(),
                password: String::new(),
                password_file: Some(node.superuser_file()),
            })
            .collect();
        Self::at(&places, patience, 0)
    }

    /// Begins to write to each of the places; all values are above `after`.
    pub(crate) fn at(places: &[Place], patience: Duration, after: i64) -> Self {
        let acks = Arc::new(Mutex::new(Acks::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let step = i64::try_from(places.len()).expect("a few nodes");
        let tasks = places.iter().zip(0..).map(|(place, number)| {
            let (acks, stop) = (Arc::clone(&acks), Arc::clone(&stop));
            let lane = Lane { place: place.clone(), first: after + number, step, patience };
            tokio::spawn(write(lane, acks, stop))
        });
        let tasks = tasks.collect();
        Self { acks, stop, tasks }
    }

    /// Returns what was acknowledged so far.
    pub fn so_far(&self) -> Acks {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns how many writes were acknowledged so far.
    pub fn count(&self) -> usize {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner).0.len()
    }

    /// Ends all writing and returns what was acknowledged.
    pub async fn stop(self) -> Acks {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("a writer never panics");
        }
        self.acks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A database to write to.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The node's name, or another word that tells it from the others.
    pub(crate) node: String,
    /// Host and port.
    pub(crate) address: String,
    /// The superuser's password.
    pub(crate) password: String,
    /// The file with it, if it may change.
    pub(crate) password_file: Option<PathBuf>,
}

/// One session to one node, opened again whenever it broke.
struct Lane {
    place: Place,
    first: i64,
    step: i64,
    patience: Duration,
}

async fn write(lane: Lane, acks: Arc<Mutex<Acks>>, stop: Arc<AtomicBool>) {
    let Lane { place, first, step, patience } = lane;
    let node = place.node.clone();
    let mut value = first;
    let mut client: Option<Client> = None;
    let noted = || acks.lock().unwrap_or_else(PoisonError::into_inner);
    while !stop.load(Ordering::Relaxed) {
        let Some(session) = client.take().filter(|client| !client.is_closed()) else {
            client = connect(&place).await;
            if client.is_none() {
                tokio::time::sleep(RETRY).await;
            }
            continue;
        };
        // Never the same twice: a write without an answer may have been carried out.
        value += step;
        let sent = Instant::now();
        let insert = insert(&session, &node, value);
        let ended = tokio::select! {
            ended = tokio::time::timeout(patience, insert) => ended,
            () = stopped(&stop) => return,
        };
        let unanswered = || Unanswered { node: node.clone(), sent, given_up: Instant::now() };
        match ended {
            Ok(Ok(timeline)) => {
                let acked = Instant::now();
                noted().0.push(Ack { value, node: node.clone(), timeline, sent, acked });
                client = Some(session);
                tokio::time::sleep(PACE).await;
            }
            Ok(Err(error)) => {
                if error.is_closed() {
                    noted().1.push(unanswered());
                } else {
                    client = Some(session);
                }
                tokio::time::sleep(RETRY).await;
            }
            Err(_) => noted().1.push(unanswered()),
        }
    }
}

/// Returns once writing is to end, and a little later: what is answered by then is not missed.
async fn stopped(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(RETRY).await;
    }
    tokio::time::sleep(PATIENCE).await;
}

async fn insert(client: &Client, node: &str, value: i64) -> Result<u32, tokio_postgres::Error> {
    let statement = "insert into writes (value, node) values ($1, $2) \
                     returning substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)";
    let row = client.query_one(statement, &[&value, &node]).await?;
    let timeline: String = row.get(0);
    Ok(u32::from_str_radix(&timeline, 16).expect("the name of a WAL file"))
}

async fn connect(place: &Place) -> Option<Client> {
    let (host, port) = place.address.rsplit_once(':')?;
    let password = match &place.password_file {
        Some(file) => superuser_password(file),
        None => place.password.clone(),
    };
    let mut config = tokio_postgres::Config::new();
    config.host(host).port(port.parse().ok()?).user("postgres").password(&password);
    config.dbname("postgres").connect_timeout(Duration::from_secs(1));
    let connecting = config.connect(tokio_postgres::NoTls);
    let (client, connection) =
        tokio::time::timeout(Duration::from_secs(2), connecting).await.ok()?.ok()?;
    tokio::spawn(connection);
    Some(client)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(value: i64, node: &str, timeline: u32, at: u64, began: Instant) -> Ack {
        let at = began + Duration::from_millis(at);
        Ack { value, node: node.to_owned(), timeline, sent: at, acked: at }
    }

    #[test]
    fn a_writer_notices_loss_gaps_and_order() {
        let t = Instant::now();
        let acks = vec![ack(1, "a", 1, 0, t), ack(2, "a", 1, 10, t), ack(3, "b", 2, 500, t)];
        let acks = Acks(acks, Vec::new());
        acks.assert_no_overlap();
        assert_eq!(acks.longest_gap(), Duration::from_millis(490));
        let lost: Vec<i64> =
            acks.missing(&BTreeSet::from([1, 3])).iter().map(|a| a.value).collect();
        assert_eq!(lost, [2]);
    }

    #[test]
    #[should_panic(expected = "had begun to")]
    fn an_overlap_of_two_nodes_fails_a_test() {
        let t = Instant::now();
        let acks = vec![ack(1, "a", 1, 20, t), ack(2, "b", 2, 10, t)];
        Acks(acks, Vec::new()).assert_no_overlap();
    }

    #[test]
    fn a_late_answer_to_an_early_write_is_no_second_primary_and_a_late_write_is() {
        let t = Instant::now();
        let late = |sent: u64| {
            let ack = ack(1, "a", 1, 900, t);
            Ack { sent: t + Duration::from_millis(sent), ..ack }
        };
        let acks = |sent| Acks(vec![late(sent), ack(2, "b", 2, 500, t)], Vec::new());
        acks(400).assert_no_write_after_the_next_primary();
        let caught = std::panic::catch_unwind(|| {
            acks(600).assert_no_write_after_the_next_primary();
        });
        assert!(caught.is_err(), "sent to the old primary after the new one had begun");
    }

    #[test]
    fn the_slowest_commit_is_one_under_way_in_the_span_answered_or_not() {
        let t = Instant::now();
        let at = |ms| t + Duration::from_millis(ms);
        let mut slow = ack(1, "a", 1, 400, t);
        slow.sent = at(100);
        let lost = Unanswered { node: "a".to_owned(), sent: at(1000), given_up: at(3000) };
        let acks = Acks(vec![slow, ack(2, "b", 1, 200, t)], vec![lost]);
        assert_eq!(acks.slowest("a", at(300), at(900)), Duration::from_millis(300));
        assert_eq!(acks.slowest("a", at(500), at(900)), Duration::ZERO);
        assert_eq!(acks.slowest("a", at(500), at(1500)), Duration::from_secs(2));
    }
}
