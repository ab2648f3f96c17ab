//! A drill from its record to its end, on a node that the fault does not strike.
//!
//! It goes on without whoever ordered it: then the measuring ends, the fault ends by itself, and the table is
//! dropped and the record ended as if somebody had waited for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ha_core::NodeId;
use ha_core::clock::millis;
use ha_core::state::Command;
use ha_core::state::operator::Drill;
use ha_postgres::Role;
use ha_postgres::drill::Writer;
use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::drill_news::News;
use ha_proto::v1::{DrillCounts, DrillResult, DrillStepRequest};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tonic::Status;
use tracing::{info, warn};

use super::client::{self, Shared};
use super::freeze::LEAD;
use super::watch::{self, Teller};
use super::{Conducting, Kind, Order};
use crate::admin::{drill as admin, switchover};
use crate::agent::{Agent, lock};
use crate::oplog::OperationLog;
use crate::peers::is_silence;

/// How many writes are to be acknowledged before the fault, and how long that may take.
const WARM_UP: u64 = 25;
const WARM_UP_LIMIT: Duration = Duration::from_secs(15);
/// How long making or dropping the table may take, by one try, and until somebody can be asked for it.
const STEP_LIMIT: Duration = Duration::from_secs(10);
const CLEAN_LIMIT: Duration = Duration::from_secs(60);
/// How long the cluster may take from the end of the fault until it is healthy.
const RECOVER_LIMIT: Duration = Duration::from_secs(120);
/// The effect of a fault may be seen late: it is looked at for at least that long.
const SETTLE: Duration = Duration::from_secs(2);
/// How long it goes on being measured once the cluster is healthy.
const AFTERMATH: Duration = Duration::from_millis(500);
/// How long reading the rows back may take, and recording the end.
const READ_LIMIT: Duration = Duration::from_secs(15);
const RECORD_LIMIT: Duration = Duration::from_secs(30);
/// How often it looks, and how often at the whole cluster.
const TICK: Duration = Duration::from_millis(100);
const HEALTH_EVERY: Duration = Duration::from_millis(250);
/// How long the client may take to end its last write.
const CLIENT_LIMIT: Duration = Duration::from_secs(4);
const PAUSE: Duration = Duration::from_millis(300);

/// How far the measuring came.
#[derive(Debug, Default)]
struct Seen {
    struck: Duration,
    over: Duration,
    healthy: Option<Duration>,
    awaited: String,
    alone: bool,
}

/// Conducts a drill that is on record.
pub async fn run<D: PostgresDriver>(
    agent: Arc<Agent<D>>,
    order: Order,
    role: Role,
    teller: Teller,
    log: Arc<OperationLog>,
    claim: Conducting,
) {
    info!(drill = order.what(), node = %order.node, by = order.by, "a drill begins");
    let shared = Arc::new(Shared::default());
    let prepared = step(&agent, &order.node, order.number, "prepare", Duration::ZERO).await;
    let (last, cleaned) = match prepared {
        // Nothing was made: nothing is to be cleared away, least of all what is somebody else's.
        Err(status) if !is_silence(&status) => (Err(said(&status)), Ok(())),
        Err(_) | Ok(_) => {
            let last = measure(&agent, &order, role, &teller, &shared).await;
            (last, clean(&agent, order.number).await)
        }
    };
    teller.phase("cleaned", cleaned.as_ref().err().cloned().unwrap_or_default());
    let text = match &last {
        Ok(result) => told(result, teller.is_alone()),
        Err(why) => format!("not done: {why}"),
    };
    let text = match &cleaned {
        Ok(()) => text,
        Err(why) => format!("{text}; {why}: the next drill drops what is left"),
    };
    let end = Command::EndDrill {
        number: order.number,
        node: agent.node().clone(),
        text: text.clone(),
        took_ms: millis(teller.began().elapsed()),
        log: log.name().to_owned(),
    };
    log.line(&text);
    if let Err(error) = agent.submit(end, RECORD_LIMIT).await {
        warn!(%error, "could not record the end of the drill");
    }
    info!(text, "the drill is over");
    let last = last.map_err(Status::failed_precondition).map(|mut result| {
        result.cleaned = cleaned.is_ok();
        result.trouble = cleaned.err().unwrap_or_default();
        News::Result(result)
    });
    // The next one may begin while this one's last word waits for its reader.
    drop(claim);
    teller.end(last).await;
}

/// Says how it went, for the record.
fn told(result: &DrillResult, alone: bool) -> String {
    if alone {
        return "whoever ordered it left, and the measuring ended".to_owned();
    }
    let lost = match result.lost {
        Some(lost) => format!("{lost} of {} acknowledged writes lost", result.acknowledged),
        None => "the writes could not be read back".to_owned(),
    };
    let end = if result.healthy { "healthy" } else { result.awaited.as_str() };
    format!("gap {} ms, {lost}, {end}", result.gap_ms)
}

async fn measure<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    order: &Order,
    role: Role,
    teller: &Teller,
    shared: &Arc<Shared>,
) -> Result<DrillResult, String> {
    // Ended with this function, however it ends.
    let mut watching = JoinSet::new();
    watching.spawn(watch::events(Arc::clone(agent), teller.clone()));
    for node in agent.members().into_keys() {
        watching.spawn(watch::sights(Arc::clone(agent), node, teller.clone()));
    }
    watching.spawn(tell_counts(teller.clone(), Arc::clone(shared)));
    let (first, began) = (order.node.clone(), teller.began());
    let client = client::run(Arc::clone(agent), role.clone(), first, began, Arc::clone(shared));
    let mut client = tokio::spawn(client);
    teller.phase("measuring", format!("a row every {} ms", millis(client::WRITE_EVERY)));
    let seen = match strike_when_warm(agent, order, teller, shared).await {
        Ok(struck) => Ok(recover(agent, order, teller, shared, struck).await),
        Err(why) => Err(why),
    };
    let ended = began.elapsed();
    shared.stop.store(true, Ordering::Relaxed);
    if timeout(CLIENT_LIMIT, &mut client).await.is_err() {
        client.abort();
    }
    let seen = seen?;
    if seen.alone {
        // The fault ends by itself; what it leaves behind is cleared away after it.
        sleep_until(began + seen.over).await;
    }
    let rows = if seen.alone {
        Err("nobody listens".to_owned())
    } else {
        rows_of_primary(agent, &role).await
    };
    teller.phase("read_back", rows.as_ref().err().cloned().unwrap_or_default());
    Ok(summed(agent, order, shared, &seen, ended, rows.ok().as_ref()))
}

fn summed<D: PostgresDriver>(
    agent: &Agent<D>,
    order: &Order,
    shared: &Shared,
    seen: &Seen,
    ended: Duration,
    rows: Option<&BTreeSet<u64>>,
) -> DrillResult {
    let tally = lock(&shared.tally);
    let (acknowledged, failed, unknown) = tally.totals();
    let compared = rows.map(|rows| tally.compare(rows));
    let (from, to) = tally.gap(ended).unwrap_or_default();
    let state = agent.state();
    DrillResult {
        acknowledged,
        failed,
        unknown,
        lost: compared.map(|compared| compared.lost),
        surfaced: compared.map(|compared| compared.surfaced).unwrap_or_default(),
        gap_ms: millis(to.saturating_sub(from)),
        gap_from_ms: millis(from),
        resumed: tally.heard_since_strike(),
        struck_ms: millis(seen.struck),
        over_ms: millis(seen.over),
        primary_before: order.node.to_string(),
        primary_after: state.lease.holder().map(ToString::to_string).unwrap_or_default(),
        epoch_before: order.epoch.0,
        epoch_after: state.last_epoch.0,
        healthy: seen.healthy.is_some(),
        healthy_ms: millis(seen.healthy.unwrap_or_default()),
        awaited: seen.awaited.clone(),
        cleaned: false,
        trouble: String::new(),
    }
}

/// Waits until writes go through, then makes the fault. Returns when that was, since the beginning.
async fn strike_when_warm<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    order: &Order,
    teller: &Teller,
    shared: &Shared,
) -> Result<Duration, String> {
    let until = Instant::now() + WARM_UP_LIMIT;
    loop {
        sleep(TICK).await;
        let (acknowledged, ..) = lock(&shared.tally).totals();
        if teller.is_alone() {
            return Err("whoever ordered it left before the fault".to_owned());
        }
        if acknowledged >= WARM_UP {
            break;
        }
        if Instant::now() >= until {
            let limit = WARM_UP_LIMIT.as_secs();
            return Err(format!("only {acknowledged} writes were acknowledged within {limit} s"));
        }
    }
    // A fault that begins later than it is ordered makes the gap longer, never shorter.
    let struck = teller.began().elapsed();
    lock(&shared.tally).strike(struck);
    let begins_in = match (order.kind, &order.to) {
        (Kind::Switchover, to) => {
            switchover::by_schedule(agent, to.as_ref(), &order.by).await?;
            Duration::ZERO
        }
        (kind, _) => {
            let struck = step(agent, &order.node, order.number, kind.word(), order.fault).await;
            match struck {
                Ok(begins_in) => begins_in,
                // It may have been made, the answer being its first victim: then it is measured.
                Err(status) if is_silence(&status) => LEAD,
                Err(status) => return Err(said(&status)),
            }
        }
    };
    teller.phase("struck", order.what());
    Ok(struck + begins_in)
}

/// Waits until the fault is over and the cluster is healthy, within bounds, or nobody listens any more.
async fn recover<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    order: &Order,
    teller: &Teller,
    shared: &Shared,
    struck: Duration,
) -> Seen {
    let began = teller.began();
    let over = struck + order.fault;
    let mut seen = Seen { struck, over, ..Seen::default() };
    let least = began + over.max(struck + SETTLE);
    // Since when every look found it healthy.
    let mut well: Option<Duration> = None;
    let until = began + over + RECOVER_LIMIT;
    let (mut tick, mut look_at) = (interval(TICK), Instant::now());
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_over = false;
    loop {
        tick.tick().await;
        let now = Instant::now();
        if !is_over && now >= began + over {
            is_over = true;
            if order.kind.lasts() {
                teller.phase("fault_over", order.what());
            }
        }
        seen.alone = teller.is_alone();
        if seen.alone || now >= until {
            return seen;
        }
        if now < look_at {
            continue;
        }
        look_at = now + HEALTH_EVERY;
        let flows = {
            let tally = lock(&shared.tally);
            tally.heard_since_strike() && tally.flows(began.elapsed())
        };
        let awaited = if flows {
            admin::unhealthy(agent).await
        } else {
            Some("that writes are acknowledged again".to_owned())
        };
        let awaited = awaited.or_else(|| unswitched(agent, order));
        let Some(awaited) = awaited else {
            let since = *well.get_or_insert(now.duration_since(began));
            if now < least {
                continue;
            }
            // An outage may lie between two looks; the writes know of it.
            let resumed = lock(&shared.tally).gap(began.elapsed()).map(|(_, to)| to);
            seen.healthy = Some(since.max(over).max(resumed.unwrap_or_default()));
            seen.awaited.clear();
            teller.phase("recovered", "the cluster is healthy");
            sleep(AFTERMATH).await;
            return seen;
        };
        well = None;
        seen.awaited = awaited;
    }
}

/// Says that the role is not handed over yet, if it was to be.
fn unswitched<D: PostgresDriver>(agent: &Agent<D>, order: &Order) -> Option<String> {
    let to = order.to.as_ref().filter(|_| order.kind == Kind::Switchover)?;
    let state = agent.state();
    let done = state.last_epoch > order.epoch && state.lease.holder() == Some(to);
    (!done).then(|| format!("that {to} is primary"))
}

/// Tells what becomes of the writes, at a pace of its own: a look at the whole cluster takes longer. Until it is
/// dropped.
async fn tell_counts(teller: Teller, shared: Arc<Shared>) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let news = lock(&shared.tally).take_news();
        teller.tell(News::Counts(DrillCounts {
            acknowledged: news.acknowledged,
            failed: news.failed,
            unknown: news.unknown,
            node: news.node.map(String::from).unwrap_or_default(),
        }));
    }
}

/// Reads the rows back from whoever is primary.
async fn rows_of_primary<D: PostgresDriver>(
    agent: &Agent<D>,
    role: &Role,
) -> Result<BTreeSet<u64>, String> {
    let until = Instant::now() + READ_LIMIT;
    loop {
        let read = async {
            let holder = agent.state().lease.holder().cloned();
            let at = holder.and_then(|holder| agent.upstream(&holder));
            let at = at.ok_or_else(|| "there is no primary".to_owned())?;
            let mut session = Writer::open(role, &at, until).await?;
            session.rows(until).await
        };
        match read.await {
            Ok(rows) => return Ok(rows.into_iter().collect()),
            Err(why) if Instant::now() >= until => return Err(why),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Drops the table of a drill, at whoever is primary.
async fn clean<D: PostgresDriver>(agent: &Arc<Agent<D>>, number: u64) -> Result<(), String> {
    let until = Instant::now() + CLEAN_LIMIT;
    loop {
        let holder = agent.state().lease.holder().cloned();
        let done = match holder {
            Some(holder) => {
                let done = step(agent, &holder, number, "clean", Duration::ZERO).await;
                done.map(drop).map_err(|status| said(&status))
            }
            None => Err("there is no primary".to_owned()),
        };
        match done {
            Ok(()) => return Ok(()),
            Err(why) if Instant::now() >= until => {
                return Err(format!("could not drop schema haclt_drill: {why}"));
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Has a node's agent take one step of the drill. Returns how long after its answer a fault begins.
async fn step<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    node: &NodeId,
    number: u64,
    step: &str,
    fault: Duration,
) -> Result<Duration, Status> {
    let request = DrillStepRequest {
        cluster: agent.config.cluster.clone(),
        number,
        step: step.to_owned(),
        node: node.to_string(),
        fault_ms: millis(fault),
    };
    let answer = if node == agent.node() {
        admin::step(agent, &request).await
    } else {
        // The step has its own limit; this is for the way.
        let call = |mut admin: crate::admin::Other| async move { admin.drill_step(request).await };
        agent.peers.forward(node, STEP_LIMIT, call).await
    };
    answer.map(|reply| Duration::from_millis(reply.begins_in_ms))
}

fn said(status: &Status) -> String {
    status.message().to_owned()
}

/// Ends a drill whose conductor is lost: called by the Raft leader once its time is up.
pub async fn sweep<D: PostgresDriver>(agent: Arc<Agent<D>>, drill: Drill) {
    let Some(_claim) = agent.drills.conduct(drill.number) else { return };
    warn!(drill = drill.what, conductor = %drill.conductor, "a drill was left unfinished");
    let cleaned = clean(&agent, drill.number).await;
    let text = match cleaned {
        Ok(()) => format!("{} was lost meanwhile", drill.conductor),
        Err(why) => format!("{} was lost meanwhile; {why}", drill.conductor),
    };
    let (number, node) = (drill.number, agent.node().clone());
    let end = Command::EndDrill { number, node, text, took_ms: 0, log: String::new() };
    if let Err(error) = agent.submit(end, RECORD_LIMIT).await {
        warn!(%error, "could not record the end of a drill");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_says_what_came_of_it() {
        let well = DrillResult {
            acknowledged: 412,
            lost: Some(0),
            gap_ms: 3210,
            healthy: true,
            ..DrillResult::default()
        };
        assert_eq!(told(&well, false), "gap 3210 ms, 0 of 412 acknowledged writes lost, healthy");
        let awaited = "node n1 is rewinding".to_owned();
        let ill = DrillResult { lost: None, healthy: false, awaited, ..well.clone() };
        let expected = "gap 3210 ms, the writes could not be read back, node n1 is rewinding";
        assert_eq!(told(&ill, false), expected);
        assert_eq!(told(&well, true), "whoever ordered it left, and the measuring ended");
    }
}
