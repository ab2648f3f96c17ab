//! A client that keeps writing to every data node and remembers what was acknowledged, where, when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::node::Node;
use crate::node::SUPERUSER_PASSWORD;

/// How long a write may take before the client gives it up: then nobody knows what became of it.
const WRITE_LIMIT: Duration = Duration::from_secs(2);
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

/// What was acknowledged so far.
#[derive(Debug, Clone, Default)]
pub struct Acks(pub Vec<Ack>);

impl Acks {
    /// Panics if two nodes acknowledged writes at the same time, or on the same timeline.
    pub fn assert_no_overlap(&self) {
        let mut owners: BTreeMap<u32, &str> = BTreeMap::new();
        for ack in &self.0 {
            let owner = *owners.entry(ack.timeline).or_insert(&ack.node);
            assert_eq!(owner, ack.node, "two nodes acknowledged on timeline {}", ack.timeline);
        }
        let timelines: Vec<u32> = owners.into_keys().collect();
        for pair in timelines.windows(2) {
            let [older, newer] = *pair else { continue };
            let last = self.0.iter().filter(|a| a.timeline == older).map(|a| a.acked).max();
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
        Self(self.0.iter().filter(|ack| ack.node == node).cloned().collect())
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
    pub(crate) fn start<'a>(nodes: impl Iterator<Item = &'a Node>) -> Self {
        let acks = Arc::new(Mutex::new(Acks::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let nodes: Vec<(String, String)> =
            nodes.map(|node| (node.name.clone(), node.postgres())).collect();
        let step = i64::try_from(nodes.len()).expect("a few nodes");
        let tasks = nodes.into_iter().zip(0..).map(|((name, address), first)| {
            let (acks, stop) = (Arc::clone(&acks), Arc::clone(&stop));
            tokio::spawn(write(name, address, first, step, acks, stop))
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

async fn write(
    node: String,
    address: String,
    first: i64,
    step: i64,
    acks: Arc<Mutex<Acks>>,
    stop: Arc<AtomicBool>,
) {
    let mut value = first;
    let mut client: Option<Client> = None;
    while !stop.load(Ordering::Relaxed) {
        let Some(session) = client.take().filter(|client| !client.is_closed()) else {
            client = connect(&address).await;
            if client.is_none() {
                tokio::time::sleep(RETRY).await;
            }
            continue;
        };
        // Never the same twice: a write without an answer may have been carried out.
        value += step;
        let sent = Instant::now();
        let insert = insert(&session, &node, value);
        match tokio::time::timeout(WRITE_LIMIT, insert).await {
            Ok(Ok(timeline)) => {
                let acked = Instant::now();
                let ack = Ack { value, node: node.clone(), timeline, sent, acked };
                acks.lock().unwrap_or_else(PoisonError::into_inner).0.push(ack);
                client = Some(session);
                tokio::time::sleep(PACE).await;
            }
            Ok(Err(error)) => {
                if !error.is_closed() {
                    client = Some(session);
                }
                tokio::time::sleep(RETRY).await;
            }
            Err(_) => {}
        }
    }
}

async fn insert(client: &Client, node: &str, value: i64) -> Result<u32, tokio_postgres::Error> {
    let statement = "insert into writes (value, node) values ($1, $2) \
                     returning substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)";
    let row = client.query_one(statement, &[&value, &node]).await?;
    let timeline: String = row.get(0);
    Ok(u32::from_str_radix(&timeline, 16).expect("the name of a WAL file"))
}

async fn connect(address: &str) -> Option<Client> {
    let (host, port) = address.rsplit_once(':')?;
    let mut config = tokio_postgres::Config::new();
    config.host(host).port(port.parse().ok()?).user("postgres").password(SUPERUSER_PASSWORD);
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
        let acks = Acks(vec![ack(1, "a", 1, 0, t), ack(2, "a", 1, 10, t), ack(3, "b", 2, 500, t)]);
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
        Acks(vec![ack(1, "a", 1, 20, t), ack(2, "b", 2, 10, t)]).assert_no_overlap();
    }
}
