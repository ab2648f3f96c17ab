//! Why a command failed, and what the user can do.

use std::error::Error as _;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use ha_core::NodeId;

use crate::client::{Failure, FailureReason};
use crate::endpoint::{Endpoint, ParseEndpointsError};
use crate::exit::ExitCode;

/// A command that was not done.
///
/// Unless it is [`CliError::OutcomeUnknown`] or [`CliError::NotYet`], nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The endpoints cannot be used.
    #[error("{0}")]
    Endpoints(ParseEndpointsError),
    /// No agent gave an answer; each one's failure is named.
    #[error("{}: {}", unanswered(.failures), listed(.failures))]
    NoAnswer {
        /// What went wrong at each endpoint, in the order they were tried.
        failures: Vec<Failure>,
        /// Whether no endpoint was named, so that only the default one was tried.
        by_default: bool,
    },
    /// The agent answered, and the request was wrong.
    #[error("agent {endpoint} does not accept the request: {message}")]
    Rejected {
        /// Who answered.
        endpoint: Endpoint,
        /// What it said.
        message: String,
    },
    /// The agent answered, and a rule refuses the request.
    #[error("agent {endpoint} refuses: {message}")]
    Refused {
        /// Who answered.
        endpoint: Endpoint,
        /// What it said.
        message: String,
    },
    /// The agent answered, and what is asked about does not exist.
    #[error("agent {endpoint} found nothing: {message}")]
    NotFound {
        /// Who answered.
        endpoint: Endpoint,
        /// What it said.
        message: String,
    },
    /// An order was sent, and no agent said what became of it.
    #[error("could not find out whether it is done: {}", listed(.failures))]
    OutcomeUnknown {
        /// What went wrong at each endpoint, in the order they were tried.
        failures: Vec<Failure>,
    },
    /// A change was accepted, and was not in force in time.
    #[error(
        "could not see {key} = {value} come into force within {} s{}",
        .waited.as_secs_f64(),
        after_colon(.awaited.as_deref())
    )]
    NotYet {
        /// What is changed.
        key: String,
        /// The value it is to have.
        value: String,
        /// How long we waited.
        waited: Duration,
        /// What is in force, and what is still awaited.
        awaited: Option<String>,
    },
    /// A switchover was not begun.
    #[error("could not switch over: {why}")]
    SwitchoverRefused {
        /// What speaks against it.
        why: String,
    },
    /// A switchover was broken off before the role was handed over.
    #[error("could not switch over, {from} is still primary: {why}")]
    NotSwitched {
        /// The primary, as before.
        from: NodeId,
        /// What went wrong.
        why: String,
    },
    /// A switchover failed after the old primary was stopped for good.
    #[error("could not switch over in order: {why}; {} is primary", .primary.as_ref().map_or("nobody", |p| p.as_str()))]
    SwitchedElsewhere {
        /// What went wrong.
        why: String,
        /// Who holds the lease now.
        primary: Option<NodeId>,
    },
    /// A drill was not begun.
    #[error("could not begin the drill: {why}")]
    DrillRefused {
        /// What speaks against it.
        why: String,
    },
    /// A drill cuts clients off, and there is nobody to ask whether that is meant.
    #[error(
        "a drill cuts clients off, and without a terminal nobody can be asked whether it is meant"
    )]
    NobodyAgreed,
    /// A drill was broken off before its fault.
    #[error("the drill was not done: {why}")]
    DrillNotDone {
        /// What went wrong.
        why: String,
    },
    /// Whoever ordered a drill interrupted this program.
    #[error("interrupted: the measuring of the {what} ends, and its fault ends by itself")]
    DrillLeft {
        /// What is rehearsed.
        what: String,
    },
    /// A drill could not be seen to its end.
    #[error("could not see the {what} to its end: {why}")]
    DrillBroken {
        /// What is rehearsed.
        what: String,
        /// What went wrong.
        why: String,
    },
    /// A drill cost data.
    #[error("{lost} of {acknowledged} acknowledged writes are lost")]
    DrillLost {
        /// How many are not there.
        lost: u64,
        /// Of how many.
        acknowledged: u64,
    },
    /// After a drill something is not as it was.
    #[error("the drill is over, and this is still awaited: {awaited}")]
    DrillUnwell {
        /// What.
        awaited: String,
    },
    /// A picture could not be written.
    #[error("could not write {}", .path.display())]
    Picture {
        /// Where.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// A failover was not begun.
    #[error("could not fail over: {why}")]
    FailoverRefused {
        /// What speaks against it.
        why: String,
    },
    /// A restart was not begun.
    #[error("could not restart {node}: {why}")]
    RestartRefused {
        /// The node.
        node: NodeId,
        /// What speaks against it.
        why: String,
    },
    /// A restart went wrong.
    #[error("could not restart {node}: {why}")]
    NotRestarted {
        /// The node.
        node: NodeId,
        /// What went wrong.
        why: String,
    },
    /// An operation was taken, and did not end in time.
    #[error("could not see it end within {} s: {awaited}", .waited.as_secs_f64())]
    NotEnded {
        /// How long we waited.
        waited: Duration,
        /// What is awaited.
        awaited: String,
    },
    /// There is no such key in the replicated configuration.
    #[error("unknown key {key:?}: {}", expected(.known))]
    UnknownKey {
        /// What was asked for.
        key: String,
        /// The keys there are.
        known: Vec<String>,
    },
    /// What a user has written in a file is no configuration.
    #[error("cannot read {what}: {}", .faults.join("; "))]
    BadLines {
        /// Where it stands.
        what: String,
        /// What is wrong, with the numbers of the lines.
        faults: Vec<String>,
    },
    /// The editor could not be run, or ended with an error.
    #[error("could not edit with {program}: {why}")]
    Editor {
        /// As the environment names it.
        program: String,
        /// Why not.
        why: String,
    },
    /// The node that keeps diverged WAL could not be asked about it.
    #[error("could not ask node {node} what is in diverged WAL {id}")]
    KeeperSilent {
        /// The node in question.
        node: NodeId,
        /// The number of the diverged WAL.
        id: u64,
    },
    /// It may lose data, and there is nobody to ask whether that is meant.
    #[error("this may lose data, and without a terminal nobody can be asked whether it is meant")]
    NobodyToAsk,
    /// It may lose data, and the user does not mean it.
    #[error("not confirmed: the cluster is {cluster}, and what was typed is {typed:?}")]
    NotConfirmed {
        /// The cluster's name.
        cluster: String,
        /// What was typed instead.
        typed: String,
    },
    /// The user's answer could not be read.
    #[error("could not read from the terminal")]
    Input(#[source] io::Error),
    /// The agent belongs to another cluster than the user means.
    #[error("agent {endpoint} belongs to cluster {theirs}, not to cluster {wanted}")]
    OtherCluster {
        /// Who answered.
        endpoint: Endpoint,
        /// The agent's cluster.
        theirs: String,
        /// The cluster that was asked for.
        wanted: String,
    },
    /// The answer could not be written.
    #[error("could not write to standard output")]
    Output(#[source] io::Error),
    /// The manual pages could not be written.
    #[error("could not write manual pages to directory {}", .dir.display())]
    ManPages {
        /// Where they were to be written.
        dir: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The agent's program, which takes over databases, could not be run.
    #[error("could not run {}", .program.display())]
    Agent {
        /// What was to be run.
        program: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// There is a file already where a bundle was to be written.
    #[error("cannot write bundle {}: there is such a file", .path.display())]
    BundleExists {
        /// The file.
        path: PathBuf,
    },
    /// A bundle could not be written, or read.
    #[error("could not use bundle {}", .path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The machinery for requests could not be started.
    #[error("could not start")]
    Start(#[source] io::Error),
}

impl CliError {
    /// Returns the exit code that this error ends the process with.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Endpoints(_)
            | Self::Rejected { .. }
            | Self::UnknownKey { .. }
            | Self::BadLines { .. }
            | Self::NobodyAgreed
            | Self::NobodyToAsk => ExitCode::Usage,
            Self::Refused { .. }
            | Self::OtherCluster { .. }
            | Self::SwitchoverRefused { .. }
            | Self::FailoverRefused { .. }
            | Self::DrillRefused { .. }
            | Self::RestartRefused { .. } => ExitCode::Refused,
            Self::OutcomeUnknown { .. }
            | Self::NotYet { .. }
            | Self::NotEnded { .. }
            | Self::DrillLeft { .. }
            | Self::DrillBroken { .. }
            | Self::DrillUnwell { .. }
            | Self::SwitchedElsewhere { .. } => ExitCode::Unknown,
            Self::NoAnswer { .. }
            | Self::NotFound { .. }
            | Self::DrillNotDone { .. }
            | Self::DrillLost { .. }
            | Self::Picture { .. }
            | Self::NotSwitched { .. }
            | Self::NotRestarted { .. }
            | Self::KeeperSilent { .. }
            | Self::Editor { .. }
            | Self::NotConfirmed { .. }
            | Self::Input(_)
            | Self::Output(_)
            | Self::ManPages { .. }
            | Self::Agent { .. }
            | Self::BundleExists { .. }
            | Self::Bundle { .. }
            | Self::Start(_) => ExitCode::Failed,
        }
    }

    /// Returns whether whoever read standard output has closed it.
    #[must_use]
    pub fn reader_left(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Returns what an agent said, or this error in its own words if none said anything.
    pub(crate) fn said(self) -> String {
        match self {
            Self::Rejected { message, .. }
            | Self::Refused { message, .. }
            | Self::NotFound { message, .. } => message,
            Self::OtherCluster { theirs, .. } => FailureReason::OtherCluster(theirs).to_string(),
            other @ (Self::Endpoints(_)
            | Self::NoAnswer { .. }
            | Self::OutcomeUnknown { .. }
            | Self::NotYet { .. }
            | Self::SwitchoverRefused { .. }
            | Self::NotSwitched { .. }
            | Self::SwitchedElsewhere { .. }
            | Self::FailoverRefused { .. }
            | Self::RestartRefused { .. }
            | Self::NotRestarted { .. }
            | Self::NotEnded { .. }
            | Self::DrillRefused { .. }
            | Self::NobodyAgreed
            | Self::DrillNotDone { .. }
            | Self::DrillLeft { .. }
            | Self::DrillBroken { .. }
            | Self::DrillLost { .. }
            | Self::DrillUnwell { .. }
            | Self::Picture { .. }
            | Self::UnknownKey { .. }
            | Self::BadLines { .. }
            | Self::Editor { .. }
            | Self::KeeperSilent { .. }
            | Self::NobodyToAsk
            | Self::NotConfirmed { .. }
            | Self::Input(_)
            | Self::Output(_)
            | Self::ManPages { .. }
            | Self::Agent { .. }
            | Self::BundleExists { .. }
            | Self::Bundle { .. }
            | Self::Start(_)) => other.to_string(),
        }
    }

    /// Returns what to do about it, in full sentences, if there is something to say.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Endpoints(ParseEndpointsError::Invalid { .. }) => Some(
                "Write endpoints as `HOST:PORT[,HOST:PORT...]`, with the port under `grpc` in the \
                 agent's configuration. They come from `--endpoint` or `HACLT_ENDPOINTS`.",
            ),
            Self::Endpoints(ParseEndpointsError::Duplicate { .. }) => {
                Some("Name each agent once in `--endpoint` or `HACLT_ENDPOINTS`.")
            }
            Self::NoAnswer { by_default: true, .. } => Some(
                "No endpoint was named, so only the default was tried. Name the agents with \
                 `--endpoint HOST:PORT[,HOST:PORT...]` or `HACLT_ENDPOINTS`.",
            ),
            Self::NoAnswer { failures, .. } => Some(advice(failures)),
            Self::OtherCluster { .. } => {
                Some("Check `--cluster` against `--endpoint` and `HACLT_ENDPOINTS`.")
            }
            Self::OutcomeUnknown { .. } => Some(
                "The order may have taken effect. It can be given again: what is done already is \
                 not done twice.",
            ),
            Self::NotYet { .. } => Some(
                "The change goes on by itself: `haclt config show` says when it is in force, \
                 `haclt explain` what is awaited.",
            ),
            Self::SwitchoverRefused { .. } => {
                Some("`haclt switchover --dry-run` shows all that speaks against it.")
            }
            Self::FailoverRefused { .. } => {
                Some("`haclt failover --dry-run` shows who would win, and why others would not.")
            }
            Self::NotSwitched { .. } => {
                Some("Clients were cut off if a step `stop` is shown above; nothing else changed.")
            }
            Self::SwitchedElsewhere { .. } => Some(
                "No acknowledged commit is lost: `haclt status` shows who is primary, `haclt \
                 explain` why.",
            ),
            Self::NotEnded { .. } => {
                Some("If it was taken it goes on by itself: `haclt status` shows who is primary.")
            }
            Self::NotRestarted { .. } => {
                Some("`haclt status` shows how the node is, `haclt explain` what it waits for.")
            }
            Self::KeeperSilent { .. } => {
                Some("Try again once `haclt status` shows that the node is reachable.")
            }
            Self::Editor { .. } => {
                Some("Nothing was changed. `VISUAL` or `EDITOR` says which editor is used.")
            }
            Self::BadLines { .. } => {
                Some("Nothing was changed. Each line is `key = value`, or begins with `#`.")
            }
            Self::DrillRefused { .. } => Some(
                "`haclt drill --dry-run` shows what would happen, and all that speaks against it.",
            ),
            Self::DrillLeft { .. } | Self::DrillBroken { .. } => Some(
                "The agents clear away behind it: `haclt events` shows its end, `haclt status` how the \
                 cluster is.",
            ),
            Self::DrillUnwell { .. } => Some(
                "`haclt status` shows how the cluster is, `haclt explain` what each node waits for.",
            ),
            Self::DrillLost { .. } => Some(
                "In the durability modes quorum and strict-standby that must not be: keep the logs of the \
                 agents, and report it.",
            ),
            Self::NobodyAgreed | Self::NobodyToAsk => Some("If it is meant, say so with `--yes`."),
            Self::NotConfirmed { .. } => {
                Some("Nothing was changed. Check `--endpoint` and `HACLT_ENDPOINTS`.")
            }
            Self::Rejected { .. }
            | Self::Refused { .. }
            | Self::NotFound { .. }
            | Self::RestartRefused { .. }
            | Self::DrillNotDone { .. }
            | Self::Picture { .. }
            | Self::UnknownKey { .. }
            | Self::Input(_)
            | Self::Output(_)
            | Self::ManPages { .. }
            | Self::Bundle { .. }
            | Self::Start(_) => None,
            Self::BundleExists { .. } => {
                Some("Name another one with `--output`, or say `--force` to replace it.")
            }
            Self::Agent { .. } => {
                Some("Run it where the agent is installed, in its container if it has one.")
            }
        }
    }
}

/// Returns the lines that tell people about `error`: its chain of causes, and its hint.
pub(crate) fn report(error: &CliError) -> String {
    let mut text = format!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    if let Some(hint) = error.hint() {
        text.push_str("\nhint: ");
        text.push_str(hint);
    }
    text
}

fn unanswered(failures: &[Failure]) -> &'static str {
    if failures.iter().any(Failure::spoke) {
        "could not get an answer from any agent"
    } else {
        "could not reach any agent"
    }
}

fn listed(failures: &[Failure]) -> String {
    failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn expected(known: &[String]) -> String {
    if known.is_empty() {
        return "the agent has none".to_owned();
    }
    format!("expected one of {}", known.join(", "))
}

fn after_colon(text: Option<&str>) -> String {
    text.map_or(String::new(), |text| format!(": {text}"))
}

fn advice(failures: &[Failure]) -> &'static str {
    if failures.iter().any(Failure::is_another_service) {
        "Use the agents' gRPC port (`grpc` in their configuration), not their HTTP port nor \
         PostgreSQL's."
    } else if failures.iter().any(Failure::is_misunderstanding) {
        "Check that agents of haclt listen there, and are of the same version as `haclt`."
    } else if failures.iter().any(Failure::spoke) {
        "Look into the log of ha-agent on those machines."
    } else {
        "Check that ha-agent runs on those machines and that they can be reached from here, or \
         name other agents with `--endpoint` or `HACLT_ENDPOINTS`."
    }
}
