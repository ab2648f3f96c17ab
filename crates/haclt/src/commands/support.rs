//! `haclt support-bundle`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::DateTime;
use clap::Args;
use ha_core::NodeId;
use tokio::time::Instant;

use crate::bundle::{self, About, Bundle, NodeOutcome, Written};
use crate::client::{AdminClient, Answer, Failure, NodeFiles};
use crate::commands::journal::now_unix_ms;
use crate::duration::parse_wait;
use crate::moment::parse_since;
use crate::render::json::{self, Layout};
use crate::render::{prose, table, units};
use crate::reply::ClusterStatus;
use crate::{CliError, ExitCode, Streams};

/// How long a question to the whole cluster may take.
const QUESTION: Duration = Duration::from_secs(15);
/// How long one node may take.
const NODE: Duration = Duration::from_secs(60);

/// Collect into one file what a person who helps needs: from every node that answers
///
/// What the cluster says of itself (status, explanation, findings of the doctor, events, settings) and, from each
/// node, the latest lines of its agent's and its server's log, logs of operations, settings, permits, disks,
/// versions. Passwords and keys are removed on each node before it sends anything; statements and messages of
/// users' programs are left out of the server's log. A node that does not answer is named in the file. Nothing
/// is changed, and neither a leader nor a quorum is needed. docs/support.md says what to look at before you
/// send the file to anybody.
///
/// Example: haclt support-bundle --since 2h
#[derive(Debug, Args)]
pub struct SupportBundle {
    /// File to write; haclt-support-CLUSTER-TIME.tar.gz in this directory if none is named
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the file if there is one
    #[arg(long)]
    force: bool,
    /// Only log lines since then: 90s, 15m, 2h, 3d ago, or a time such as 2026-11-26T03:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<u64>,
    /// Only the files of this node
    #[arg(long, value_name = "NODE")]
    node: Option<NodeId>,
    /// Show what is in a bundle; no agent is asked
    #[arg(long, value_name = "FILE", conflicts_with_all = ["output", "force", "since", "node"])]
    list: Option<PathBuf>,
    /// Print one JSON object, of a stable shape
    #[arg(long)]
    json: bool,
    /// Longest time to wait for all answers together
    ///
    /// Seconds, or a whole number and a unit: 30, 500ms, 2m.
    // The same name as the option of all commands, whose place it takes.
    #[arg(
        long,
        help_heading = crate::cli::CONNECTION,
        value_name = "SECONDS",
        default_value = "120",
        value_parser = parse_wait
    )]
    timeout: Duration,
}

impl SupportBundle {
    /// Writes a bundle, or lists one.
    ///
    /// # Errors
    /// [`CliError`] if no agent answered, or the file cannot be written or read.
    pub async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        if let Some(path) = &self.list {
            return self.show(path, streams);
        }
        let deadline = Instant::now() + self.timeout;
        client.set_patience(self.timeout.min(QUESTION));
        let status = client.status().await?;
        prose::tell(&status, streams);
        let nodes = self.wanted(&status)?;
        let made_unix_ms = now_unix_ms();
        let root = root(&status.cluster, made_unix_ms);
        let path = self.output.clone().unwrap_or_else(|| format!("{root}.tar.gz").into());
        let failed = |source| failed(&path, source);
        let mut bundle = Bundle::begin(&path, self.force, &root, made_unix_ms).map_err(failed)?;
        self.ask_cluster(client, &status.reply, deadline, &mut bundle).await.map_err(failed)?;
        let mut outcomes = Vec::new();
        for node in nodes {
            let left = deadline.saturating_duration_since(Instant::now()).min(NODE);
            let since = self.since.unwrap_or(0);
            let sent = client.node_files(&node, &status.cluster, since, left).await;
            outcomes.push(add(&node, sent, &mut bundle).map_err(failed)?);
        }
        let about = About {
            cluster: &status.cluster,
            made_unix_ms,
            haclt: env!("CARGO_PKG_VERSION"),
            since_unix_ms: self.since.unwrap_or(0),
            nodes: &outcomes,
        };
        let written = bundle.finish(&about).map_err(failed)?;
        for node in &outcomes {
            if let Some(why) = &node.why {
                let NodeOutcome { name, outcome, .. } = node;
                streams.note(&format!("warning: node {name} is {outcome}: {why}"));
            }
        }
        let text = if self.json {
            json::bundle(&path, &written, &outcomes, Layout::Pretty)
        } else {
            told(&path, &written, &outcomes)
        };
        streams.emit(&text)?;
        Ok(ExitCode::Done)
    }

    fn show(
        &self,
        path: &Path,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        let listed = bundle::list(path).map_err(|source| failed(path, source))?;
        let text = if self.json {
            json::listed(&listed, Layout::Pretty)
        } else {
            let line = |(name, bytes): &(String, u64)| format!("{bytes:>9}  {name}\n");
            listed.iter().map(line).collect::<Vec<_>>().concat()
        };
        streams.emit(&text)?;
        Ok(ExitCode::Done)
    }

    /// Returns whose files are wanted.
    fn wanted(&self, status: &Answer<ClusterStatus>) -> Result<Vec<NodeId>, CliError> {
        let all = status.reply.nodes.iter().map(|node| node.name.clone());
        let wanted = |node: &NodeId| self.node.as_ref().is_none_or(|only| only == node);
        let found: Vec<NodeId> = all.filter(wanted).collect();
        match &self.node {
            Some(node) if found.is_empty() => Err(CliError::Rejected {
                endpoint: status.endpoint.clone(),
                message: format!("node {:?} is not a node of this cluster", node.as_str()),
            }),
            Some(_) | None => Ok(found),
        }
    }

    /// Adds what the cluster as a whole says.
    async fn ask_cluster(
        &self,
        client: &mut AdminClient,
        status: &ClusterStatus,
        deadline: Instant,
        bundle: &mut Bundle,
    ) -> io::Result<()> {
        let layout = Layout::Pretty;
        bundle.add_json(
            "cluster/status.json",
            "haclt status --json",
            &json::status(status, layout),
        )?;
        bundle.add_text("cluster/status.txt", "haclt status", &table::status(status))?;
        let patience = || {
            let left = deadline.saturating_duration_since(Instant::now());
            left.min(QUESTION).max(Duration::from_millis(1))
        };
        client.set_patience(patience());
        let explained = client.explain().await;
        let prose = explained.as_ref().ok().map(|answer| prose::explanation(&answer.reply));
        if let Some(prose) = prose {
            bundle.add_text("cluster/explain.txt", "haclt explain", &prose)?;
        }
        let explained = explained.map(|answer| json::explanation(&answer.reply, layout));
        put(bundle, "explain", explained)?;
        client.set_patience(patience());
        let found = client.doctor(None).await.map(|a| json::examination(&a.reply, layout));
        put(bundle, "doctor", found)?;
        client.set_patience(patience());
        let events =
            client.events(0, 0, false).await.map(|a| json::events(&a.reply.events, layout));
        put(bundle, "events", events)?;
        client.set_patience(patience());
        let history = client.history().await.map(|a| json::history(&a.reply.promotions, layout));
        put(bundle, "history", history)?;
        client.set_patience(patience());
        let nodes = client.nodes().await.map(|a| json::nodes(&a.reply.nodes, layout));
        put(bundle, "node list", nodes)?;
        client.set_patience(patience());
        let shown = client.configuration().await.map(|a| json::configuration(&a.reply, layout));
        put(bundle, "config show", shown)?;
        client.set_patience(patience());
        let changes = client.config_history().await.map(|a| json::config_history(&a.reply, layout));
        put(bundle, "config history", changes)?;
        client.set_patience(patience());
        let kept = client.diverged_list().await.map(|a| json::list(&a.reply.entries, layout));
        put(bundle, "diverged list", kept)?;
        client.set_patience(patience());
        let planned = client.schedule().await.map(|a| json::schedule(&a.reply.entries, layout));
        put(bundle, "switchover --list", planned)
    }
}

fn failed(path: &Path, source: io::Error) -> CliError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::AlreadyExists => CliError::BundleExists { path },
        _ => CliError::Bundle { path, source },
    }
}

/// Adds what a command would have printed.
fn put(bundle: &mut Bundle, command: &str, json: Result<String, CliError>) -> io::Result<()> {
    let name = command.replace("--", "").replace([' ', '-'], "_");
    let path = format!("cluster/{name}.json");
    match json {
        Ok(json) => bundle.add_json(&path, &format!("haclt {command} --json"), &json),
        Err(error) => {
            bundle.leave_out(&path, &error.to_string());
            Ok(())
        }
    }
}

/// Adds what a node has sent, or that it has not.
fn add(
    node: &NodeId,
    sent: Result<NodeFiles, Vec<Failure>>,
    bundle: &mut Bundle,
) -> io::Result<NodeOutcome> {
    let name = node.to_string();
    let sent = match sent {
        Ok(sent) => sent,
        Err(failures) => {
            let why: Vec<String> = failures.iter().map(ToString::to_string).collect();
            let why = why.join("; ");
            let path = format!("nodes/{node}/UNREACHABLE.txt");
            bundle.add_text(&path, "haclt", &format!("node {node} has sent no files: {why}\n"))?;
            bundle.leave_out(&format!("nodes/{node}"), &why);
            return Ok(NodeOutcome { name, outcome: "unreachable", why: Some(why) });
        }
    };
    for file in sent.files {
        let path = format!("nodes/{node}/{}", file.name);
        if !file.left_out.is_empty() {
            bundle.leave_out(&path, &file.left_out);
        }
        if !file.absent {
            bundle.add(&path, &format!("{node}: {}", file.origin), &file.data)?;
        }
    }
    if let Some(why) = &sent.broken {
        let path = format!("nodes/{node}/INCOMPLETE.txt");
        bundle.add_text(&path, "haclt", &format!("node {node} has not sent all: {why}\n"))?;
        bundle.leave_out(&format!("nodes/{node}"), why);
    }
    let outcome = if sent.broken.is_some() { "incomplete" } else { "complete" };
    Ok(NodeOutcome { name, outcome, why: sent.broken })
}

/// Returns the name of the directory in a bundle, and of its file.
fn root(cluster: &str, made_unix_ms: u64) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let cluster: String = cluster.chars().map(plain).collect();
    let made = i64::try_from(made_unix_ms).ok().and_then(DateTime::from_timestamp_millis);
    let made = made.unwrap_or_default().format("%Y%m%dT%H%M%SZ");
    format!("haclt-support-{cluster}-{made}")
}

fn told(path: &Path, written: &Written, nodes: &[NodeOutcome]) -> String {
    let complete = nodes.iter().filter(|node| node.outcome == "complete").count();
    format!(
        "{}: {} files, {}, of {complete} of {} nodes\nLook at it before you send it to anybody: \
         docs/support.md\n",
        path.display(),
        written.files,
        units::size(written.bytes),
        nodes.len(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_named_after_cluster_and_time() {
        assert_eq!(
            root("my orders/1", 1_795_834_800_000),
            "haclt-support-my_orders_1-20261128T030000Z"
        );
    }
}
