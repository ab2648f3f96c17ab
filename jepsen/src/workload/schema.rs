//! The clients' user and tables.

use tokio_postgres::Client;

use super::client::{PASSWORD, USER};

/// Accounts of the bank.
pub const ACCOUNTS: i64 = 8;
/// What is on each in the beginning.
pub const BALANCE: i64 = 100;

/// Makes everything that any workload needs.
///
/// # Errors
/// What the server says.
pub async fn create(superuser: &Client) -> Result<(), tokio_postgres::Error> {
    let text = format!(
        "create role {USER} login password '{PASSWORD}';
         create table lists (key bigint primary key, items bigint[] not null);
         create table registers (key bigint primary key, value bigint not null);
         create table elements (value bigint primary key, node text);
         create table accounts (id bigint primary key, balance bigint not null);
         create table touched (id bigint primary key, times bigint not null);
         insert into accounts select g, {BALANCE} from generate_series(0, {ACCOUNTS} - 1) g;
         insert into touched select g, 0 from generate_series(0, 63) g;
         grant select, insert, update, delete on all tables in schema public to {USER};
         grant execute on function pg_control_system() to {USER};"
    );
    superuser.batch_execute(&text).await
}
