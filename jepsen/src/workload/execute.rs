//! Calls, as SQL.

use std::time::Duration;

use tokio_postgres::{Error, SimpleQueryMessage, SimpleQueryRow};

use super::call::{Answer, Call, Identity, Step};
use super::client::Session;
use super::{Level, standby};

/// How transactions are run.
#[derive(Debug, Clone, Copy)]
pub struct How {
    /// Their level.
    pub level: Level,
    /// Whether transactions that only read write something too: then what they read was current when a quorum
    /// acknowledged that.
    pub confirm: bool,
}

/// Who a server is, as columns.
const IDENTITY: &str = "host(inet_server_addr()) || ':' || inet_server_port(), \
     substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8), \
     (select system_identifier from pg_control_system())";

/// Carries out a call.
///
/// # Errors
/// What the server or the network says.
pub async fn execute(session: &Session, call: &Call, how: How) -> Result<Answer, Error> {
    match call {
        Call::Lists(steps) => lists(session, steps, how).await,
        Call::Read(key) => read(session, *key, how).await,
        Call::Write(key, value) => {
            let text = format!(
                "insert into registers values ({key}, {value}) \
                 on conflict (key) do update set value = excluded.value"
            );
            write(session, &text).await.map(|_| Answer::Done)
        }
        Call::Cas(key, old, new) => {
            let text = format!(
                "update registers set value = {new} where key = {key} and value = {old} returning key"
            );
            let rows = write(session, &text).await?;
            Ok(if rows.is_empty() { refused("another value") } else { Answer::Done })
        }
        Call::Add(value) => {
            write(session, &insert(*value, &session.node)).await.map(|_| Answer::Done)
        }
        Call::AddSlowly(value, ms) => {
            session.batch("begin").await?;
            rows(session, &insert(*value, &session.node)).await?;
            tokio::time::sleep(Duration::from_millis(*ms)).await;
            session.commit().await.map(|()| Answer::Done)
        }
        Call::Transfer(from, to, amount) => transfer(session, (*from, *to, *amount), how).await,
        Call::Balances => balances(session, how).await,
        Call::Probe(value) => {
            let text = format!("{} returning {IDENTITY}", insert(*value, &session.node));
            Ok(by(&write(session, &text).await?))
        }
        Call::ProbeSlowly(value, ms) => {
            session.batch("begin").await?;
            let text = format!("{} returning {IDENTITY}", insert(*value, &session.node));
            let found = rows(session, &text).await?;
            tokio::time::sleep(Duration::from_millis(*ms)).await;
            session.commit().await.map(|()| by(&found))
        }
        Call::OnStandby(reading) => standby::read(session, reading).await,
        Call::ReadAll => {
            let found = rows(session, "select value from elements order by value").await?;
            Ok(Answer::Values(found.iter().filter_map(|row| number(row, 0)).collect()))
        }
    }
}

fn insert(value: i64, node: &str) -> String {
    format!("insert into elements values ({value}, '{node}')")
}

/// Runs one statement that commits by itself.
async fn write(session: &Session, text: &str) -> Result<Vec<SimpleQueryRow>, Error> {
    session.commits();
    rows(session, text).await
}

pub(super) async fn rows(session: &Session, text: &str) -> Result<Vec<SimpleQueryRow>, Error> {
    let messages = session.client.simple_query(text).await?;
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(rows.collect())
}

pub(super) fn number(row: &SimpleQueryRow, column: usize) -> Option<i64> {
    row.get(column)?.parse().ok()
}

fn refused(why: &str) -> Answer {
    Answer::Refused(why.to_owned())
}

/// A write that hurts nobody: rows are taken in turn, so that sessions seldom wait for each other.
fn touch() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let row = NEXT.fetch_add(1, Ordering::Relaxed) % 64;
    format!("update touched set times = times + 1 where id = {row}")
}

async fn lists(session: &Session, steps: &[Step], how: How) -> Result<Answer, Error> {
    session.batch(&format!("begin isolation level {}", how.level.sql())).await?;
    let mut found = Vec::new();
    let mut writes = false;
    for step in steps {
        match step {
            Step::Append(key, value) => {
                writes = true;
                let text = format!(
                    "insert into lists values ({key}, array[{value}]) on conflict (key) \
                     do update set items = lists.items || excluded.items"
                );
                rows(session, &text).await?;
            }
            Step::Read(key) => {
                let text =
                    format!("select array_to_string(items, ' ') from lists where key = {key}");
                let list = rows(session, &text).await?;
                found.push(list.first().and_then(|row| row.get(0)).map(numbers));
            }
        }
    }
    if !writes && let Some(refused) = current(session, how).await? {
        session.batch("rollback").await?;
        return Ok(refused);
    }
    session.commit().await?;
    Ok(Answer::Lists(found))
}

pub(super) fn numbers(text: &str) -> Vec<i64> {
    text.split(' ').filter_map(|item| item.parse().ok()).collect()
}

/// Refuses to have read from a standby, which may be behind. Confirmed reads write besides.
async fn current(session: &Session, how: How) -> Result<Option<Answer>, Error> {
    if how.confirm {
        rows(session, &touch()).await?;
        return Ok(None);
    }
    let found = rows(session, "select pg_is_in_recovery()").await?;
    let primary = found.first().is_some_and(|row| row.get(0) == Some("f"));
    Ok((!primary).then(|| refused("a standby")))
}

async fn read(session: &Session, key: i64, how: How) -> Result<Answer, Error> {
    session.batch("begin").await?;
    let found = rows(session, &format!("select value from registers where key = {key}")).await?;
    let value = found.first().and_then(|row| number(row, 0));
    if let Some(refused) = current(session, how).await? {
        session.batch("rollback").await?;
        return Ok(refused);
    }
    session.commit().await?;
    Ok(Answer::Register(value))
}

async fn transfer(
    session: &Session,
    (from, to, amount): (i64, i64, i64),
    how: How,
) -> Result<Answer, Error> {
    session.batch(&format!("begin isolation level {}", how.level.sql())).await?;
    // In an order that all have, so that few wait for each other in a circle.
    let mut deltas = [(from, -amount), (to, amount)];
    deltas.sort_unstable();
    for (account, delta) in deltas {
        let text = format!(
            "update accounts set balance = balance + {delta} \
             where id = {account} and balance + {delta} >= 0 returning id"
        );
        if rows(session, &text).await?.is_empty() {
            session.batch("rollback").await?;
            return Ok(refused("not enough money"));
        }
    }
    session.commit().await.map(|()| Answer::Done)
}

async fn balances(session: &Session, how: How) -> Result<Answer, Error> {
    session.batch(&format!("begin isolation level {}", how.level.sql())).await?;
    let found = rows(session, "select id, balance from accounts order by id").await?;
    let all = found.iter().filter_map(|row| Some((number(row, 0)?, number(row, 1)?))).collect();
    if let Some(refused) = current(session, how).await? {
        session.batch("rollback").await?;
        return Ok(refused);
    }
    session.commit().await?;
    Ok(Answer::Balances(all))
}

fn by(found: &[SimpleQueryRow]) -> Answer {
    let text = |column| found.first().and_then(|row| row.get(column)).unwrap_or_default();
    let timeline = u32::from_str_radix(text(1), 16).unwrap_or_default();
    Answer::By(Identity { server: text(0).to_owned(), timeline, system: text(2).to_owned() })
}
