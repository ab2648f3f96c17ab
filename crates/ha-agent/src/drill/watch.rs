//! Who noticed what during a drill, and what each node reports: told as it is seen from one node.

use std::sync::Arc;
use std::time::Duration;

use ha_core::NodeId;
use ha_core::clock::millis;
use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::drill_news::News;
use ha_proto::v1::{DrillNews, DrillNoticed, DrillPhase, DrillSight};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Status;

use crate::agent::Agent;
use crate::oplog::OperationLog;
use crate::report;

/// How often each node is asked, and how long it may take.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const LOOK_LIMIT: Duration = Duration::from_millis(250);
/// After so many questions without an answer a node counts as silent: one may be a busy machine.
const MISSES_MAX: u32 = 2;
/// How long the last message may wait for a reader that is slow.
const LAST_WORD_LIMIT: Duration = Duration::from_secs(5);

/// Tells whoever ordered the drill, and its log.
#[derive(Debug, Clone)]
pub struct Teller {
    to: mpsc::Sender<Result<DrillNews, Status>>,
    log: Arc<OperationLog>,
    began: Instant,
}

impl Teller {
    /// Returns one that counts from now.
    #[must_use]
    pub fn new(to: mpsc::Sender<Result<DrillNews, Status>>, log: Arc<OperationLog>) -> Self {
        Self { to, log, began: Instant::now() }
    }

    /// Returns when the measuring began.
    #[must_use]
    pub const fn began(&self) -> Instant {
        self.began
    }

    /// Returns whether nobody listens any more.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.to.is_closed()
    }

    /// Tells something. Whoever is too slow to listen misses it: a drill waits for nobody.
    pub fn tell(&self, news: News) {
        let at_ms = millis(self.began.elapsed());
        match &news {
            News::Phase(DrillPhase { name, detail }) => self.log.line(&format!("{name}: {detail}")),
            News::Noticed(DrillNoticed { kind, node, text }) => {
                self.log.line(&format!("noticed {kind} {node}: {text}"));
            }
            News::Counts(_) | News::Sight(_) | News::Result(_) => {}
        }
        let _heard = self.to.try_send(Ok(DrillNews { at_ms, news: Some(news) }));
    }

    /// Tells what the drill has come to.
    pub fn phase(&self, name: &str, detail: impl Into<String>) {
        self.tell(News::Phase(DrillPhase { name: name.to_owned(), detail: detail.into() }));
    }

    /// Tells the end of it, waiting for a reader a little.
    pub async fn end(&self, last: Result<News, Status>) {
        let at_ms = millis(self.began.elapsed());
        let last = last.map(|news| DrillNews { at_ms, news: Some(news) });
        let _heard = timeout(LAST_WORD_LIMIT, self.to.send(last)).await;
    }
}

/// Tells what is recorded from now on, until it is dropped.
pub async fn events<D: PostgresDriver>(agent: Arc<Agent<D>>, teller: Teller) {
    let mut state = agent.raft.state();
    let mut known = state.borrow_and_update().state.event_count;
    while state.changed().await.is_ok() {
        let now = Arc::clone(&state.borrow_and_update());
        for event in now.state.events.iter().filter(|event| event.id > known) {
            teller.tell(News::Noticed(DrillNoticed {
                kind: event.what.kind.name().to_owned(),
                node: event.what.node.as_ref().map(ToString::to_string).unwrap_or_default(),
                text: event.what.text.clone(),
            }));
        }
        known = now.state.event_count;
    }
}

/// Tells what a node reports whenever that changes, until it is dropped.
pub async fn sights<D: PostgresDriver>(agent: Arc<Agent<D>>, node: NodeId, teller: Teller) {
    let mut told: Option<DrillSight> = None;
    let mut misses = 0;
    loop {
        let asked = Instant::now();
        let report = if node == *agent.node() {
            Some(report::local(&agent))
        } else {
            agent.peers.report(&node, report::request(&agent, false), LOOK_LIMIT).await.ok()
        };
        misses = if report.is_some() { 0 } else { misses + 1 };
        let sight = match report {
            Some(report) => Some((report.role, report.state)),
            None if misses >= MISSES_MAX => Some(("none".to_owned(), UNREACHABLE.to_owned())),
            None => None,
        };
        if let Some((role, state)) = sight {
            let sight = DrillSight { node: node.to_string(), role, state };
            if told.as_ref() != Some(&sight) {
                if let Some(noticed) = turned(told.as_ref(), &sight, agent.node()) {
                    teller.tell(News::Noticed(noticed));
                }
                teller.tell(News::Sight(sight.clone()));
                told = Some(sight);
            }
        }
        sleep_until(asked + LOOK_EVERY).await;
    }
}

/// The state of a node that does not answer, as in the status.
const UNREACHABLE: &str = "unreachable";

/// Says that a node has fallen silent, or answers again.
fn turned(before: Option<&DrillSight>, now: &DrillSight, by: &NodeId) -> Option<DrillNoticed> {
    let was_silent = before?.state == UNREACHABLE;
    let (kind, text) = match (was_silent, now.state == UNREACHABLE) {
        (false, true) => ("silent", format!("does not answer {by}")),
        (true, false) => ("answers", format!("answers {by} again")),
        (false, false) | (true, true) => return None,
    };
    Some(DrillNoticed { kind: kind.to_owned(), node: now.node.clone(), text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_and_its_end_are_noticed_once_and_the_first_look_is_no_news() {
        let sight = |state: &str| DrillSight {
            node: "n1".to_owned(),
            role: "none".to_owned(),
            state: state.to_owned(),
        };
        let by: NodeId = "n3".parse().expect("a name");
        let kind = |before: Option<&str>, now: &str| {
            turned(before.map(sight).as_ref(), &sight(now), &by).map(|noticed| noticed.kind)
        };
        assert_eq!(kind(None, UNREACHABLE), None);
        assert_eq!(kind(Some("running"), "stopped"), None);
        assert_eq!(kind(Some("running"), UNREACHABLE).as_deref(), Some("silent"));
        assert_eq!(kind(Some(UNREACHABLE), "starting").as_deref(), Some("answers"));
    }
}
