//! The orders: a node is taken in, or out, and what `haclt` says of it.

use std::time::{Duration, Instant};

use ha_proto::v1::StatusReply;
use ha_tests::status;
use tokio::time::sleep;

use crate::harness::{Harness, Trying as _};
use crate::nemesis::Outcome;
use crate::nemesis::orders::call;

/// How long `haclt` may wait for an end.
const WAIT: &str = "20s";
/// How long an order is given again and again.
const ORDER_LIMIT: Duration = Duration::from_secs(40);
/// How long a node that joined may take until it follows.
const FOLLOW_LIMIT: Duration = Duration::from_secs(30);
/// Time between two attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// What an answer to an order means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It was carried out.
    Done,
    /// It was not, and is not going to be.
    Refused,
    /// It was not, and may be later.
    NotYet,
    /// Nobody knows: it may be under way.
    Unknown,
    /// The suite asked for what cannot be.
    Nonsense,
}

/// Returns what an answer of `haclt node add` means. An agent that was just started does not listen yet.
pub(super) fn meaning_of_add(code: Option<i32>, text: &str) -> Meaning {
    match code {
        Some(0) => Meaning::Done,
        Some(3) if text.contains("cannot be taken in") => Meaning::NotYet,
        Some(3) => Meaning::Refused,
        Some(1) => Meaning::NotYet,
        Some(4) => Meaning::Unknown,
        _ => Meaning::Nonsense,
    }
}

/// Returns what an answer of `haclt node remove` means; `begun` says whether the order may be under way already.
pub(super) fn meaning_of_remove(code: Option<i32>, text: &str, begun: bool) -> Meaning {
    match code {
        Some(0) => Meaning::Done,
        Some(2) if begun && text.contains("is not a node of this cluster") => Meaning::Done,
        Some(3) => Meaning::Refused,
        Some(1) => Meaning::NotYet,
        Some(4) => Meaning::Unknown,
        _ => Meaning::Nonsense,
    }
}

/// Gives an order until it is done, refused, or time is over.
async fn insist(
    endpoints: &str,
    arguments: &[String],
    meaning: impl Fn(Option<i32>, &str, bool) -> Meaning,
) -> Result<Outcome, Harness> {
    let said = arguments.join(" ");
    let began = Instant::now();
    let (mut begun, mut attempt) = (false, 0);
    loop {
        attempt += 1;
        let answer = call(endpoints, arguments).await?;
        let (code, text) = answer.unwrap_or((Some(4), "no end".to_owned()));
        let took = began.elapsed().as_millis();
        let text = text.replace('\n', "; ");
        let told =
            format!("exit code {code:?}: {text} ({took} ms, attempt {attempt} of haclt {said})");
        match meaning(code, &text, begun) {
            Meaning::Done => {
                return Ok(Outcome::Installed(format!("{took} ms, attempt {attempt}")));
            }
            // Of one that may be under way a refusal says nothing.
            Meaning::Refused if begun => return Ok(Outcome::Indeterminate(told)),
            Meaning::Refused => return Ok(Outcome::Skipped(told)),
            Meaning::Nonsense => return Err(Harness::new(told)),
            Meaning::NotYet => {}
            Meaning::Unknown => begun = true,
        }
        if began.elapsed() > ORDER_LIMIT {
            return Ok(if begun { Outcome::Indeterminate(told) } else { Outcome::Skipped(told) });
        }
        sleep(PAUSE).await;
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// Takes a node in; if `waits` says so, it is over once the node follows.
pub(super) async fn take_in(
    endpoints: String,
    (node, grpc): (String, String),
    waits: bool,
) -> Result<Outcome, Harness> {
    let arguments = words(&format!("node add {node} {grpc} --timeout {WAIT}"));
    let meaning = |code, text: &str, _| meaning_of_add(code, text);
    let added = insist(&endpoints, &arguments, meaning).await?;
    let Outcome::Installed(told) = &added else { return Ok(added) };
    if !waits {
        return Ok(Outcome::Installed(format!("{told}, not waited for")));
    }
    let began = Instant::now();
    while began.elapsed() < FOLLOW_LIMIT {
        for endpoint in endpoints.split(',') {
            let status = status::status(endpoint).await;
            if status.is_some_and(|status| follows(&status, &node)) {
                let ms = began.elapsed().as_millis();
                return Ok(Outcome::Installed(format!("{told}, follows {ms} ms later")));
            }
        }
        sleep(PAUSE).await;
    }
    Ok(Outcome::Installed(format!("{told}, and does not follow {FOLLOW_LIMIT:?} later")))
}

pub(super) fn follows(status: &StatusReply, name: &str) -> bool {
    let node = status.nodes.iter().find(|node| node.name == name);
    node.is_some_and(|node| match node.role.as_str() {
        "standby" => node.state == "streaming",
        "witness" => node.state == "receiving",
        role => role == "primary",
    })
}

/// Takes a node out.
pub(super) async fn take_out(endpoints: String, node: String) -> Result<Outcome, Harness> {
    let arguments = words(&format!("node remove {node} --timeout {WAIT}"));
    insist(&endpoints, &arguments, meaning_of_remove).await
}

/// Returns the members, and what each is to the group, as `haclt` lists them; nothing if nobody says so.
pub(super) async fn list(endpoints: &str) -> Result<Option<Vec<(String, String)>>, Harness> {
    let Some((Some(0), text)) = call(endpoints, &words("node list --json")).await? else {
        return Ok(None);
    };
    // What it says besides goes to the other stream, and comes behind.
    let mut values = serde_json::Deserializer::from_str(&text).into_iter::<serde_json::Value>();
    let list = values.next().transpose().trying(|| format!("read {text:?}"))?;
    let nodes = list.as_ref().and_then(|list| list["nodes"].as_array());
    let nodes = nodes.ok_or_else(|| Harness::new(format!("no list of nodes: {text}")))?;
    let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    Ok(Some(nodes.iter().map(|node| (word(&node["name"]), word(&node["raft"]))).collect()))
}
