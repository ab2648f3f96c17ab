//! One client: a session, held as long as it works, and one call after the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::call::{Answer, Call};
use super::client::{Access, Door, Ending, Session};
use super::draw::Source;
use super::execute::{How, execute};
use super::{Workload, standby};
use crate::history::Process;
use crate::journal::Journal;
use crate::random::Random;

/// How long a client waits after nobody let it in.
const RETRY: Duration = Duration::from_millis(100);
/// How long it waits for its transaction to be undone after a refusal.
const ROLLBACK_LIMIT: Duration = Duration::from_secs(1);

/// What all clients of a run have in common.
#[derive(Debug)]
pub struct Clients {
    /// What they do.
    pub workload: Workload,
    /// How they do it.
    pub how: How,
    /// How long they wait for an answer.
    pub limit: Duration,
    /// How databases are reached.
    pub access: Access,
    /// What they draw from.
    pub source: Source,
    /// Where it is written down.
    pub journal: Arc<Journal>,
}

/// One client.
#[derive(Debug, Clone)]
pub struct Lane {
    /// Its number: with the seed it decides what it draws.
    pub number: u64,
    /// To whom it goes.
    pub door: Door,
    /// Time from one call to the next, if answers are quick.
    pub pace: Duration,
    /// What it does there.
    pub habit: Habit,
}

/// What a client does all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// What the workload has.
    Works,
    /// The same, and it leaves transactions open before it commits.
    WorksSlowly,
    /// It reads, while the node is a standby.
    ReadsOnStandby,
}

impl Clients {
    /// Lives as a client until told to stop. A process that does not know what became of its call is over;
    /// the client goes on as another.
    pub async fn live(self: Arc<Self>, lane: Lane, seed: u64, stopped: watch::Receiver<bool>) {
        let mut random = Random::new(seed, 1000 + lane.number);
        let mut process = self.journal.process();
        let mut session: Option<Session> = None;
        let mut next = Instant::now() + jitter(lane.pace, &mut random);
        while !*stopped.borrow() {
            tokio::time::sleep_until(next.into()).await;
            let Some(open) = session.take().filter(|open| !open.client.is_closed()) else {
                session = self.access.open(&lane.door, &mut random).await;
                if session.is_none() {
                    next = Instant::now() + RETRY;
                }
                continue;
            };
            let Some(call) = self.draw(&open, lane.habit, &mut random).await else {
                session = (!open.client.is_closed()).then_some(open);
                next = Instant::now() + lane.pace;
                continue;
            };
            let ending = self.call(process, &open, &call, self.how).await;
            if matches!(ending, Ending::Info(_)) {
                process = self.journal.process();
            } else {
                session = usable(open, &ending, &lane.door).await;
            }
            next = Instant::now().max(next + jitter(lane.pace, &mut random));
        }
    }

    /// Draws a call; none if there is nothing to do at present.
    async fn draw(&self, open: &Session, habit: Habit, random: &mut Random) -> Option<Call> {
        if habit != Habit::ReadsOnStandby {
            return Some(self.source.draw(self.workload, habit == Habit::WorksSlowly, random));
        }
        let asked = tokio::time::timeout(self.limit, standby::is_standby(open)).await;
        let standby = matches!(asked, Ok(Ok(true)));
        if standby { self.source.draw_reading(self.workload, random) } else { None }
    }

    /// Makes one call and writes it down.
    pub async fn call(
        &self,
        process: Process,
        session: &Session,
        call: &Call,
        how: How,
    ) -> Ending<Answer> {
        let open = self.journal.invoke(process, call, &session.node);
        let extra = match call {
            Call::AddSlowly(_, ms) | Call::ProbeSlowly(_, ms) => Duration::from_millis(*ms),
            _ => Duration::ZERO,
        };
        let ending = session.attempt(self.limit + extra, execute(session, call, how)).await;
        let ending = match ending {
            Ending::Ok(Answer::Refused(why)) => Ending::Fail(why),
            other => other,
        };
        self.journal.complete(&open, call, &session.node, &ending);
        ending
    }

    /// Makes the calls that read everything; each again until somebody answers or time is up. Returns whether
    /// all were answered.
    pub async fn read_all(&self, seed: u64, limit: Duration) -> bool {
        let mut random = Random::new(seed, 3);
        let until = Instant::now() + limit;
        let mut session: Option<Session> = None;
        let mut process = self.journal.process();
        for call in self.source.last(self.workload) {
            loop {
                if Instant::now() > until {
                    return false;
                }
                let Some(open) = session.take() else {
                    session = self.access.open(&Door::Writable, &mut random).await;
                    if session.is_none() {
                        tokio::time::sleep(RETRY).await;
                    }
                    continue;
                };
                match self.call(process, &open, &call, self.how).await {
                    Ending::Ok(_) => {
                        session = Some(open);
                        break;
                    }
                    Ending::Fail(_) => {}
                    Ending::Info(_) => process = self.journal.process(),
                }
            }
        }
        true
    }
}

/// Half to one and a half of a pace.
fn jitter(pace: Duration, random: &mut Random) -> Duration {
    let ms = u64::try_from(pace.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(ms / 2 + random.below(ms + 1))
}

/// Returns a session as it can be used again; a client that wants to write leaves a server that does not.
async fn usable(session: Session, ending: &Ending<Answer>, door: &Door) -> Option<Session> {
    let Ending::Fail(why) = ending else { return Some(session) };
    if *door == Door::Writable && (why.starts_with("25006") || why == "a standby") {
        return None;
    }
    let undone = tokio::time::timeout(ROLLBACK_LIMIT, session.batch("rollback")).await;
    matches!(undone, Ok(Ok(()))).then_some(session)
}
