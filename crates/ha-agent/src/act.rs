//! Carries a step out. It makes no choice: what to do was decided.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use ha_core::decide::{Decision, Rule};
use ha_core::permit::{Order, StopMode};
use ha_core::state::journal::{EventKind, Note};
use ha_core::step::Step;
use ha_core::view::{Job, View};
use ha_postgres::driver::PostgresDriver;
use tokio::time::Instant;
use tracing::warn;

use crate::agent::{Agent, Database, lock};
use crate::events;
use crate::facts::RunningJob;
use crate::jobs::{self, JobError};
use crate::notes;

/// How often a step may wait in a row, some eight seconds in all, before that is a trouble.
const PATIENCE_TRIES: u32 = 5;

/// Carries a step out: at once, or as the one job that may be under way.
pub fn act<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    database: &Database<D>,
    view: &View,
    decision: &Decision,
) {
    database.facts().under(view.epoch);
    let step = decision.step.clone();
    let name = step.name();
    match step {
        Step::Stay => settled(database, decision),
        Step::Fence => fence(agent, database, view, decision),
        Step::StopStandby => {
            if let Err(error) = database.permits.down(StopMode::Fast) {
                warn!(%error, "could not stop the standby");
            }
        }
        Step::Release { epoch } => {
            let why = decision.rule.name();
            start(agent, database, Job::Prepare, name, move |a| jobs::release(a, epoch, why));
        }
        Step::Promote { epoch } => {
            start(agent, database, Job::Promote, name, move |a| jobs::promote(a, epoch));
        }
        Step::FastForward { epoch } => {
            start(agent, database, Job::Prepare, name, move |a| jobs::fast_forward(a, epoch));
        }
        Step::Refill { primary } => {
            let epoch = view.epoch;
            start(agent, database, Job::Prepare, name, move |a| jobs::refill(a, primary, epoch));
        }
        Step::StartStandby { primary } => {
            let epoch = view.epoch;
            start(agent, database, Job::Prepare, name, move |a| {
                jobs::start_standby(a, primary, epoch)
            });
        }
        Step::Follow { primary } => {
            let epoch = view.epoch;
            start(agent, database, Job::Prepare, name, move |a| jobs::follow(a, primary, epoch));
        }
        Step::Compare { primary } => {
            let epoch = view.epoch;
            start(agent, database, Job::Prepare, name, move |a| jobs::compare(a, primary, epoch));
        }
        Step::Rewind { primary } => {
            let epoch = view.epoch;
            start(agent, database, Job::Rewind, name, move |a| jobs::rewind(a, primary, epoch));
        }
        Step::Clone { primary } => {
            let epoch = view.epoch;
            start(agent, database, Job::Clone, name, move |a| jobs::clone(a, primary, epoch));
        }
        Step::Bootstrap { attempt } => {
            start(agent, database, Job::Initdb, name, move |a| jobs::bootstrap(a, attempt));
        }
        Step::AssessCrash { epoch } => {
            start(agent, database, Job::Prepare, name, move |a| jobs::assess_crash(a, epoch));
        }
        Step::RestartInPlace { epoch } => {
            start(agent, database, Job::Prepare, name, move |a| jobs::restart_in_place(a, epoch));
        }
    }
}

/// A step that failed and is not wanted any more is no trouble any more either.
fn settled<D>(database: &Database<D>, decision: &Decision) {
    if matches!(decision.rule, Rule::Serving | Rule::Following) {
        database.facts().trouble("job", None);
    }
}

/// Makes writes impossible at once. A job under way is cancelled: a promotion must not come after this.
fn fence<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    database: &Database<D>,
    view: &View,
    decision: &Decision,
) {
    if let Some(job) = database.facts().job.take() {
        job.abort.abort();
    }
    let permit = database.permits.current();
    if matches!(permit.order, Order::Down { .. }) {
        return;
    }
    if let Order::Primary { epoch, .. } = permit.order
        && let Some(holder) = lock(&agent.holder).as_mut().filter(|h| h.epoch() <= epoch)
    {
        holder.burn();
    }
    match database.permits.down(StopMode::Immediate) {
        Ok(()) => {
            let why = decision.rule.name();
            events::NodeFenced { node: agent.node(), epoch: view.epoch, why }.emit();
            let note = Note::new(EventKind::Stopped, decision.rule.why().to_owned());
            notes::tell(agent, note.about(agent.node()));
        }
        Err(error) => warn!(%error, "could not withdraw permit, the guard will at its deadline"),
    }
}

/// Starts a job, unless one is under way or the step failed a moment ago.
fn start<D, F>(
    agent: &Arc<Agent<D>>,
    database: &Database<D>,
    job: Job,
    step: &'static str,
    work: impl FnOnce(Arc<Agent<D>>) -> F,
) where
    D: PostgresDriver,
    F: Future<Output = Result<(), JobError>> + Send + 'static,
{
    let now = Instant::now();
    let mut facts = database.facts();
    if facts.job.is_some() || facts.holds_back(step, now) || agent.is_leaving() {
        return;
    }
    let work = work(Arc::clone(agent));
    let owner = Arc::clone(agent);
    let task = tokio::spawn(async move {
        let result = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
            Err(JobError::NotNow("the job panicked, see the log above".to_owned()))
        });
        finish(&owner, step, now, result);
    });
    let abort = task.abort_handle();
    facts.job = Some(RunningJob { job, step, since: now, abort, progress: String::new() });
}

fn finish<D: PostgresDriver>(
    agent: &Agent<D>,
    step: &'static str,
    began: Instant,
    result: Result<(), JobError>,
) {
    let Some(database) = &agent.database else { return };
    let took = began.elapsed();
    let mut facts = database.facts();
    // A job that was cancelled as it ended must not clear the place of the one that came after.
    if facts.job.as_ref().is_none_or(|job| job.step != step || job.since != began) {
        return;
    }
    facts.job = None;
    match result {
        Ok(()) => {
            facts.succeeded(step);
            facts.trouble("job", None);
            drop(facts);
            events::StepDone { node: agent.node(), step, took }.emit();
        }
        Err(error) => {
            let (retry_in, tries) = facts.failed(step, Instant::now());
            // Waiting for something ordinary is no failure, until it has gone on for too long.
            // So is a Raft leader that is yet to be elected.
            let ordinary = matches!(error, JobError::NotNow(_) | JobError::Submit { .. });
            let waits = ordinary && tries < PATIENCE_TRIES;
            facts.trouble("job", (!waits).then(|| error.to_string()));
            drop(facts);
            let error = error.to_string();
            events::StepFailed { node: agent.node(), step, error: &error, retry_in, waits }.emit();
        }
    }
    agent.wake.notify_one();
}
