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
    /// There is no such key in the replicated configuration.
    #[error("unknown key {key:?}: {}", expected(.known))]
    UnknownKey {
        /// What was asked for.
        key: String,
        /// The keys there are.
        known: Vec<String>,
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
            | Self::NobodyToAsk => ExitCode::Usage,
            Self::Refused { .. } | Self::OtherCluster { .. } => ExitCode::Refused,
            Self::OutcomeUnknown { .. } | Self::NotYet { .. } => ExitCode::Unknown,
            Self::NoAnswer { .. }
            | Self::NotFound { .. }
            | Self::KeeperSilent { .. }
            | Self::NotConfirmed { .. }
            | Self::Input(_)
            | Self::Output(_)
            | Self::ManPages { .. }
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
            | Self::UnknownKey { .. }
            | Self::KeeperSilent { .. }
            | Self::NobodyToAsk
            | Self::NotConfirmed { .. }
            | Self::Input(_)
            | Self::Output(_)
            | Self::ManPages { .. }
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
            Self::KeeperSilent { .. } => {
                Some("Try again once `haclt status` shows that the node is reachable.")
            }
            Self::NobodyToAsk => Some("If it is meant, say so with `--yes`."),
            Self::NotConfirmed { .. } => {
                Some("Nothing was changed. Check `--endpoint` and `HACLT_ENDPOINTS`.")
            }
            Self::Rejected { .. }
            | Self::Refused { .. }
            | Self::NotFound { .. }
            | Self::UnknownKey { .. }
            | Self::Input(_)
            | Self::Output(_)
            | Self::ManPages { .. }
            | Self::Start(_) => None,
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
