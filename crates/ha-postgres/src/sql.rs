//! Sessions with our own users, and what their errors mean.

use std::time::Duration;

use ha_core::clock::millis;
use tokio::time::Instant;

use crate::Secret;
use crate::attempt::Attempt;
use crate::driver::{ActionError, Effect, ProbeError};
use crate::instance::Role;
use crate::wire::{Connection, Login, WireError};

/// How our own sessions are named; sessions of standbys bear their node's name instead.
pub(crate) const APPLICATION_NAME: &str = "haclt";

/// `invalid_password`: also what a role is told that does not exist, or has none.
pub(crate) const WRONG_PASSWORD: &str = "28P01";

/// Opens a session, with the other password if one is refused. `settings` are session settings beyond the statement timeout.
pub(crate) async fn open(
    host: &str,
    port: u16,
    role: &Role,
    settings: &[(&'static str, &str)],
    deadline: Instant,
) -> Result<Connection, WireError> {
    let tried = role.password.preferred();
    let refused = match open_with(host, port, role, &tried, settings, deadline).await {
        Err(error) if error.code() == Some(WRONG_PASSWORD) => error,
        answer => return answer,
    };
    // While the password is changed some servers know the old one, and some the new one; which of them comes first,
    // and whether there are two, may have changed since.
    let Some(other) = role.password.another(&tried) else { return Err(refused) };
    let session = open_with(host, port, role, &other, settings, deadline).await?;
    role.password.prefer(&other);
    Ok(session)
}

/// Opens a session with one password and no other.
pub(crate) async fn open_with(
    host: &str,
    port: u16,
    role: &Role,
    password: &Secret,
    settings: &[(&'static str, &str)],
    deadline: Instant,
) -> Result<Connection, WireError> {
    let timeout = millis(deadline.saturating_duration_since(Instant::now())).max(1);
    let mut parameters = vec![("statement_timeout", timeout.to_string())];
    parameters.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
    let user = role.name.as_str();
    let database = "postgres";
    let login = Login { host, port, user, password, database, md5: false, parameters };
    Connection::open(&login, deadline).await
}

/// Sorts an error of a probe.
///
/// # Sources
/// PostgreSQL manual, "PostgreSQL Error Codes".
pub(crate) fn probe_error(error: &WireError, waited: Duration) -> ProbeError {
    let waited_ms = millis(waited);
    match error {
        WireError::Refused => ProbeError::Refused,
        WireError::TimedOut(during) => ProbeError::TimedOut { during, waited_ms },
        WireError::Lost(_) | WireError::Protocol(_) => ProbeError::Other(error.to_string()),
        WireError::Server { code, message } => match code.as_str() {
            // cannot_connect_now; admin_shutdown; crash_shutdown
            "57P03" | "57P01" | "57P02" => ProbeError::NotReady(message.clone()),
            "28000" | "28P01" => ProbeError::Authentication(message.clone()),
            "53300" => ProbeError::Full(message.clone()),
            // disk_full; io_error
            "53100" | "58030" => ProbeError::CannotWrite(message.clone()),
            // query_canceled: our own statement timeout
            "57014" => ProbeError::TimedOut { during: "waiting for the answer", waited_ms },
            _ => ProbeError::Other(error.to_string()),
        },
    }
}

/// Sorts an error of an action; `effect` is what an error after sending means.
pub(crate) fn action_error(attempt: &Attempt, error: &WireError, effect: Effect) -> ActionError {
    match error {
        WireError::TimedOut(_) => attempt.timed_out(),
        WireError::Lost(_) | WireError::Protocol(_) => attempt.failed(error, effect),
        WireError::Server { .. } if error.code() == Some("57014") => attempt.timed_out(),
        WireError::Refused | WireError::Server { .. } => attempt.refused(error),
    }
}

/// Returns the text as an SQL literal.
pub(crate) fn literal(text: &str) -> String {
    let body = text.replace('\\', "\\\\").replace('\'', "''");
    format!("E'{body}'")
}

/// Returns the text as a quoted SQL identifier.
pub(crate) fn identifier(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_server_are_sorted_by_their_code() {
        #[rustfmt::skip]
        let table = [
            ("57P03", ProbeError::NotReady("m".to_owned())),
            ("57P01", ProbeError::NotReady("m".to_owned())),
            ("28P01", ProbeError::Authentication("m".to_owned())),
            ("28000", ProbeError::Authentication("m".to_owned())),
            ("53300", ProbeError::Full("m".to_owned())),
            ("53100", ProbeError::CannotWrite("m".to_owned())),
            ("58030", ProbeError::CannotWrite("m".to_owned())),
            ("57014", ProbeError::TimedOut { during: "waiting for the answer", waited_ms: 7 }),
            ("42501", ProbeError::Other("m (SQLSTATE 42501)".to_owned())),
        ];
        for (code, expected) in table {
            let error = WireError::Server { code: code.to_owned(), message: "m".to_owned() };
            assert_eq!(probe_error(&error, Duration::from_millis(7)), expected, "{code}");
        }
    }

    #[test]
    fn quoting_leaves_no_way_out() {
        assert_eq!(literal(r"a'b\"), r"E'a''b\\'");
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
    }
}
