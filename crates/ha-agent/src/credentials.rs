//! This node's passwords of the internal users, and its steps when one of them is changed.
//!
//! Every step may be repeated, and an agent that dies between two of them goes on with both passwords: it
//! reads the files at its start.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ha_postgres::credentials::{
    Logins, Salt, SecretFile, Taken, derive, fingerprint, password_of, salt_of,
};
use ha_postgres::driver::PostgresDriver;
use ha_postgres::{Role, Secret};
use ha_proto::v1::{CredentialFacts, CredentialsReply, CredentialsRequest};
use tokio::time::Instant;
use tonic::Status;
use tracing::{debug, info};

use crate::agent::Agent;
use crate::clock;
use crate::crash_point;

/// How long a question to the own server may take: there are two users.
const ASK_LIMIT: Duration = Duration::from_millis(1500);
/// How long telling the own server may take.
const ALTER_LIMIT: Duration = Duration::from_secs(4);
/// How long the file that standbys log in with may take.
const PASS_FILE_LIMIT: Duration = Duration::from_secs(3);
/// A shorter key would not keep fingerprints apart.
const KEY_BYTES_MIN: usize = 16;

/// A password of this node.
#[derive(Debug, Clone)]
struct Held {
    role: Role,
    purpose: &'static str,
    file: PathBuf,
    /// The own server; a witness has none.
    logins: Option<Logins>,
}

/// What the files of a password hold.
struct Files {
    file: SecretFile,
    current: Result<Secret, String>,
    next: Result<Option<Secret>, String>,
    facts: CredentialFacts,
}

/// Answers another agent, or this one.
///
/// # Errors
/// `InvalidArgument` for what is no step, `FailedPrecondition` if it cannot be taken: then nothing was changed,
/// unless it says so.
pub(crate) async fn answer<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    request: &CredentialsRequest,
) -> Result<CredentialsReply, Status> {
    if request.key.len() < KEY_BYTES_MIN {
        return Err(Status::invalid_argument("the key of fingerprints is too short"));
    }
    let mut held = held(agent);
    if !request.user.is_empty() {
        held.retain(|held| held.role.name == request.user);
    }
    let asks_server = request.step == "look";
    if !asks_server && request.step != "files" {
        // Finished once begun, also if nobody waits any more: a write is not to be left half-way by a call
        // that was cut short.
        let one = held.first().filter(|held| held.role.name == request.user).cloned();
        let one = one.ok_or_else(|| {
            let (node, user) = (agent.node(), &request.user);
            Status::failed_precondition(format!("node {node} has no password of role {user:?}"))
        })?;
        let (own, request) = (Arc::clone(agent), request.clone());
        let taken = tokio::spawn(async move { take(&own, &one, &request).await }).await;
        let why = match taken {
            Ok(Ok(())) => None,
            Ok(Err(why)) => Some(why),
            Err(ended) => Some(ended.to_string()),
        };
        if let Some(why) = why {
            return Err(Status::failed_precondition(format!("node {}: {why}", agent.node())));
        }
    }
    let mut users = Vec::new();
    for held in &held {
        let mut files = files(held, &request.key).await.map_err(Status::internal)?;
        if asks_server {
            ask_server(held, &mut files).await;
        }
        users.push(files.facts);
    }
    Ok(CredentialsReply { node: agent.node().to_string(), users })
}

/// Returns the passwords of this node.
fn held<D: PostgresDriver>(agent: &Agent<D>) -> Vec<Held> {
    if let (Some(database), Some(settings)) = (&agent.database, &agent.config.postgres) {
        let Some(logins) = database.driver.logins() else { return Vec::new() };
        let [superuser, replication] = logins.roles().clone();
        let files = [&settings.superuser_password_file, &settings.replication_password_file];
        let roles = [(superuser, "superuser"), (replication, "replication")];
        let held = roles.into_iter().zip(files).map(|((role, purpose), file)| Held {
            role,
            purpose,
            file: file.clone(),
            logins: Some(logins.clone()),
        });
        return held.collect();
    }
    let Some(settings) = &agent.config.witness else { return Vec::new() };
    let Some(file) = settings.replication_password_file.clone() else { return Vec::new() };
    // One that keeps no WAL now, for want of programs, needs the right password later.
    let idle = || Role {
        name: settings.replication_user.clone(),
        password: password_of(&file).unwrap_or_else(|_| Secret::new("").into()),
    };
    let role = agent.witness.as_ref().and_then(|witness| witness.role().cloned());
    let role = role.unwrap_or_else(idle);
    vec![Held { role, purpose: "replication", file, logins: None }]
}

/// Reads the files, away from the threads that serve the lease.
async fn files(held: &Held, key: &[u8]) -> Result<Files, String> {
    let (held, key) = (held.clone(), key.to_vec());
    let read = move || {
        let file = SecretFile::new(&held.file);
        let (current, next) = (file.current(), file.next());
        let print = |secret: &Secret| fingerprint(secret, &key).to_vec();
        let waiting = next.as_ref().ok().and_then(Option::as_ref);
        let salt = waiting.and_then(salt_of).map(|salt| salt.to_vec());
        let trouble = [current.as_ref().err(), next.as_ref().err()].into_iter().flatten().next();
        let facts = CredentialFacts {
            user: held.role.name.clone(),
            purpose: held.purpose.to_owned(),
            file: held.file.display().to_string(),
            age_s: file.written_unix_s().map(age_s),
            current: current.as_ref().map(print).unwrap_or_default(),
            next: waiting.map(print).unwrap_or_default(),
            salt: salt.unwrap_or_default(),
            obstacle: file.obstacle().unwrap_or_default(),
            takes: if held.logins.is_some() { "unknown" } else { "none" }.to_owned(),
            trouble: trouble.cloned().unwrap_or_default(),
        };
        Files { file, current, next, facts }
    };
    tokio::task::spawn_blocking(read).await.map_err(|ended| ended.to_string())
}

/// Returns how long ago that was, seconds: for people, by the wall clock.
fn age_s(written_unix_s: u64) -> u64 {
    (clock::wall_unix_ms() / 1000).saturating_sub(written_unix_s)
}

/// Finds out which of the two the own server takes.
async fn ask_server(held: &Held, files: &mut Files) {
    let Some(logins) = &held.logins else { return };
    let next = files.next.as_ref().ok().and_then(Option::as_ref);
    let mut tries = vec![("current", files.current.as_ref().ok()), ("next", next)];
    // A refused one is a line in the server's log.
    if next == Some(&held.role.password.preferred()) {
        tries.reverse();
    }
    let deadline = Instant::now() + ASK_LIMIT;
    let mut takes = "neither";
    for (name, secret) in tries {
        let Some(secret) = secret else { continue };
        match logins.takes(&held.role, secret, deadline).await {
            Ok(Taken::Yes) => takes = name,
            Ok(Taken::Unasked) => takes = "unasked",
            Ok(Taken::No) => continue,
            Err(error) => {
                takes = "unknown";
                files.facts.trouble = error.to_string();
            }
        }
        break;
    }
    takes.clone_into(&mut files.facts.takes);
}

/// Takes one step. What it ends with is on disk when it returns.
async fn take<D: PostgresDriver>(
    agent: &Agent<D>,
    held: &Held,
    request: &CredentialsRequest,
) -> Result<(), String> {
    let _one_at_a_time = agent.credentials.lock().await;
    let mut found = files(held, &request.key).await?;
    let current = found.current.clone()?;
    let next = found.next.clone()?;
    let expected = |print: &[u8]| !request.expected.is_empty() && print == request.expected;
    let user = &held.role.name;
    match request.step.as_str() {
        "stage" => {
            let salt: Salt =
                request.salt.as_slice().try_into().map_err(|_| "a salt has 32 bytes")?;
            let made = derive(&current, user, &salt);
            let print = fingerprint(&made, &request.key);
            if !request.expected.is_empty() && !expected(&print) {
                return Err(format!("its password of {user} is another one than elsewhere"));
            }
            if next.as_ref().is_some_and(|next| *next != made) {
                return Err(format!("another new password of {user} waits there"));
            }
            if let Some(why) = found.file.obstacle() {
                return Err(why);
            }
            let (file, put) = (found.file.clone(), made.clone());
            blocking(move || file.put_next(&put)).await?;
            offer(&held.role, current, made);
            crash_point::reached("credentials:staged");
            Ok(())
        }
        "alter" => {
            let next = next.filter(|_| expected(&found.facts.next));
            let next = next.ok_or(format!("the new password of {user} is not there"))?;
            alter(agent, held, &next).await
        }
        "promote" => {
            if next.is_none() && expected(&found.facts.current) {
                // By an earlier order, or by another agent that shares the file.
                put_in_use(held, current).await;
                return Ok(());
            }
            let next = next.filter(|_| expected(&found.facts.next));
            let next = next.ok_or(format!("the new password of {user} is not there"))?;
            ask_server(held, &mut found).await;
            if !["next", "none"].contains(&found.facts.takes.as_str()) {
                return Err(format!("its server does not take the new password of {user} yet"));
            }
            let file = found.file.clone();
            blocking(move || file.promote_next()).await?;
            crash_point::reached("credentials:promoted");
            put_in_use(held, next).await;
            info!(user, "the new password is in use");
            Ok(())
        }
        "discard" => {
            // What all others are to have stays: an order that came late must not take it away.
            if next.is_none() || expected(&found.facts.next) {
                return Ok(());
            }
            ask_server(held, &mut found).await;
            if !["current", "none"].contains(&found.facts.takes.as_str()) {
                return Err(format!("its server may know the new password of {user} already"));
            }
            let file = found.file.clone();
            blocking(move || file.drop_next()).await?;
            held.role.password.set(current, None);
            Ok(())
        }
        other => Err(format!("{other:?} is no step of changing a password")),
    }
}

/// Has both tried from now on, beginning with the one that is believed to be taken.
fn offer(role: &Role, current: Secret, next: Secret) {
    if role.password.preferred() == next {
        role.password.set(next, Some(current));
    } else {
        role.password.set(current, Some(next));
    }
}

/// Has only that password tried from now on, and written where a WAL receiver reads it.
async fn put_in_use(held: &Held, secret: Secret) {
    held.role.password.set(secret, None);
    if let Some(logins) = &held.logins
        && let Err(error) = logins.renew_pass_file(None, Instant::now() + PASS_FILE_LIMIT).await
    {
        // Written anew when the next server is set up, too.
        info!(%error, "could not renew the pass file");
    }
}

/// Tells the own server, which has to be the primary's.
async fn alter<D: PostgresDriver>(
    agent: &Agent<D>,
    held: &Held,
    next: &Secret,
) -> Result<(), String> {
    let user = &held.role.name;
    let logins = held.logins.as_ref().ok_or("it has no server")?;
    if agent.state().lease.holder() != Some(agent.node()) {
        return Err("it is not primary any more".to_owned());
    }
    let deadline = Instant::now() + ALTER_LIMIT;
    let ask =
        || async { logins.takes(&held.role, next, deadline).await.map_err(|e| e.to_string()) };
    match ask().await? {
        Taken::Yes => return Ok(()),
        Taken::Unasked => return Err(format!("its server lets {user} in without a password")),
        Taken::No => {}
    }
    crash_point::reached("credentials:altering");
    logins.give(&held.role, next, deadline).await.map_err(|error| error.to_string())?;
    crash_point::reached("credentials:altered");
    if ask().await? != Taken::Yes {
        return Err(format!("its server does not take the new password of {user}"));
    }
    held.role.password.prefer(next);
    Ok(())
}

async fn blocking(
    work: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Result<(), String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|ended| Err(ended.to_string()))
}

/// While two passwords are about, makes sure that a WAL receiver which has to connect anew finds the one
/// that the primary takes. Cheap otherwise.
pub(crate) async fn mend_pass_file<D: PostgresDriver>(agent: &Agent<D>) {
    let Some(logins) = agent.database.as_ref().and_then(|database| database.driver.logins()) else {
        return;
    };
    let [_, replication] = logins.roles();
    if replication.password.other().is_none() {
        return;
    }
    let state = agent.state();
    let primary = state.lease.holder().filter(|holder| *holder != agent.node());
    let Some(primary) = primary.and_then(|primary| agent.upstream(primary)) else { return };
    match logins.renew_pass_file(Some(&primary), Instant::now() + PASS_FILE_LIMIT).await {
        Ok(true) => info!("the pass file has the password that the primary takes"),
        Ok(false) => {}
        Err(error) => debug!(%error, "could not look after the pass file"),
    }
}
