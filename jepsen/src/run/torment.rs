//! The plan is carried out: faults begin and end at their times, and agents that end by themselves are started
//! again, as a service manager would.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::Stop;
use crate::env::Env;
use crate::harness::Harness;
use crate::history::F;
use crate::journal::Journal;
use crate::nemesis::inflict::{self, Active, Undo};
use crate::nemesis::{Fault, Outcome, Plan, Planned};
use crate::workload::client::Access;

const TICK: Duration = Duration::from_millis(20);
/// How long an order may outlast its fault's time.
const ORDER_LIMIT: Duration = Duration::from_secs(200);

/// A fault, as it went.
#[derive(Debug, Clone)]
pub struct Happened {
    /// Which.
    pub fault: Fault,
    /// The node that it was about.
    pub node: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
    /// When it began, in the journal's time.
    pub from: Duration,
    /// When it was undone; the same as `from` if there was nothing to undo.
    pub to: Duration,
    /// What was said of its end.
    pub end: String,
}

impl Happened {
    /// Returns it as one line.
    pub fn line(&self) -> String {
        format!(
            "{:>8.3}-{:<8.3} {:<14} {:<18} {} {} -> {}",
            self.from.as_secs_f64(),
            self.to.as_secs_f64(),
            self.outcome.name(),
            self.fault.name(),
            self.node.as_deref().unwrap_or("-"),
            self.outcome.detail(),
            self.end,
        )
    }
}

#[derive(Debug)]
struct Lasting {
    active: Active,
    until: Duration,
    again: Option<Duration>,
    entry: usize,
}

/// What was done to the cluster, and what it did by itself.
#[derive(Debug, Default)]
pub struct Story {
    /// Faults in the order in which they began.
    pub happened: Vec<Happened>,
    /// Agents that ended although nobody killed them: node and time.
    pub ended: Vec<(String, Duration)>,
}

/// Carries out a plan.
#[derive(Debug)]
pub struct Torment<'a> {
    /// The cluster.
    pub env: &'a mut Env,
    /// How databases are reached.
    pub access: &'a Access,
    /// Where it is written down.
    pub journal: &'a Journal,
    /// When the run began.
    pub began: Instant,
    lasting: Vec<Lasting>,
    story: Story,
}

impl<'a> Torment<'a> {
    /// Begins.
    pub fn new(env: &'a mut Env, access: &'a Access, journal: &'a Journal, began: Instant) -> Self {
        Self { env, access, journal, began, lasting: Vec::new(), story: Story::default() }
    }

    /// Makes the faults of a plan until the time is over or somebody wants an end, and undoes them all.
    ///
    /// # Errors
    /// If the suite cannot do what it must be able to do.
    pub async fn run(mut self, plan: &Plan, span: Duration, stop: &Stop) -> Result<Story, Harness> {
        let mut left = plan.0.iter().peekable();
        while self.began.elapsed() < span && !stop.wanted() {
            while let Some(planned) = left.next_if(|p| p.at <= self.began.elapsed()) {
                self.begin(planned).await?;
            }
            self.look(false).await?;
            tokio::time::sleep(TICK).await;
        }
        let from = Instant::now();
        while !self.lasting.is_empty() {
            self.look(true).await?;
            if from.elapsed() > ORDER_LIMIT {
                let names: Vec<String> =
                    self.lasting.iter().map(|l| l.active.fault.name()).collect();
                return Err(Harness::new(format!("faults do not end: {}", names.join(", "))));
            }
            tokio::time::sleep(TICK).await;
        }
        Ok(self.story)
    }

    async fn begin(&mut self, planned: &Planned) -> Result<(), Harness> {
        let from = self.journal.now();
        let fault = planned.fault;
        let done = async || {
            let (outcome, active) = inflict::start(self.env, planned, self.access).await?;
            let node = active.as_ref().and_then(|active| active.node.clone());
            Ok((outcome.clone(), node.clone(), (outcome, active, node)))
        };
        let (outcome, active, node) = self.journal.fault((F::Fault, &fault.name()), done).await?;
        let entry = self.story.happened.len();
        let end = String::new();
        self.story.happened.push(Happened { fault, node, outcome, from, to: from, end });
        if let Some(active) = active {
            let now = self.began.elapsed();
            let repeats = matches!(active.undo, Undo::StopFlapping(..) | Undo::Settle(_));
            let again = repeats.then_some(now);
            self.lasting.push(Lasting { active, until: now + planned.lasts, again, entry });
        }
        Ok(())
    }

    /// Ends what is over, or everything; does again what is done again and again; starts agents.
    async fn look(&mut self, all: bool) -> Result<(), Harness> {
        let now = self.began.elapsed();
        let mut kept = Vec::new();
        for mut lasting in std::mem::take(&mut self.lasting) {
            if (all || lasting.until <= now) && lasting.active.ends(&self.env.place) {
                self.end(lasting).await?;
                continue;
            }
            if lasting.again.is_some_and(|at| at <= now) {
                let pause = lasting.active.again(self.env).await?;
                lasting.again = pause.map(|pause| now + pause);
            }
            kept.push(lasting);
        }
        self.lasting.extend(kept);
        self.start_agents();
        Ok(())
    }

    async fn end(&mut self, lasting: Lasting) -> Result<(), Harness> {
        let Lasting { active, entry, .. } = lasting;
        let (fault, node) = (active.fault, active.node.clone());
        let is_order = matches!(active.undo, Undo::End(..));
        let done = async || {
            let outcome = active.stop(self.env).await?;
            Ok((outcome.clone(), node, outcome))
        };
        let outcome = self.journal.fault((F::Heal, &fault.name()), done).await?;
        let to = self.journal.now();
        if let Some(happened) = self.story.happened.get_mut(entry) {
            happened.to = to;
            outcome.detail().clone_into(&mut happened.end);
            // Of an order only its end says whether it was done.
            if is_order {
                happened.outcome = outcome;
            }
        }
        Ok(())
    }

    fn start_agents(&mut self) {
        let down: BTreeSet<String> = self
            .lasting
            .iter()
            .filter_map(|lasting| match &lasting.active.undo {
                Undo::StartAgent(name) => Some(name.clone()),
                Undo::Settle(members) => members.down().map(str::to_owned),
                _ => None,
            })
            .collect();
        let now = self.journal.now();
        let ended = self.env.place.look_after_agents(&down, &self.env.busy);
        self.story.ended.extend(ended.into_iter().map(|name| (name, now)));
    }
}
