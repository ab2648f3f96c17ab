//! Reads from standbys: never older than the standby, and told apart from everything that is gated.

use tokio_postgres::Error;

use super::call::{Answer, Reading};
use super::client::Session;
use super::execute::{number, numbers, rows};
use crate::checker::standby_reads::NEWEST;

/// Returns whether a server is a standby.
///
/// # Errors
/// What the server or the network says.
pub async fn is_standby(session: &Session) -> Result<bool, Error> {
    let found = rows(session, "select pg_is_in_recovery()").await?;
    Ok(found.first().is_some_and(|row| row.get(0) == Some("t")))
}

/// Reads in one snapshot, and refuses to have read from a server that is no standby. What is read is lost with the
/// session if that ends: nothing commits here.
///
/// # Errors
/// What the server or the network says.
pub async fn read(session: &Session, reading: &Reading) -> Result<Answer, Error> {
    // Serializable is more than a standby can give.
    session.batch("begin isolation level repeatable read read only").await?;
    let answer = match reading {
        Reading::Lists(keys) => {
            let mut found = Vec::new();
            for key in keys {
                let text =
                    format!("select array_to_string(items, ' ') from lists where key = {key}");
                let list = rows(session, &text).await?;
                found.push(list.first().and_then(|row| row.get(0)).map(numbers));
            }
            Answer::Lists(found)
        }
        Reading::Newest => {
            let text = format!("select value from elements order by value desc limit {NEWEST}");
            let found = rows(session, &text).await?;
            Answer::Values(found.iter().filter_map(|row| number(row, 0)).collect())
        }
        Reading::Balances => {
            let found = rows(session, "select id, balance from accounts order by id").await?;
            let all = found.iter().filter_map(|row| Some((number(row, 0)?, number(row, 1)?)));
            Answer::Balances(all.collect())
        }
    };
    let standby = is_standby(session).await?;
    session.batch("commit").await?;
    Ok(if standby { answer } else { Answer::Refused("no standby".to_owned()) })
}
