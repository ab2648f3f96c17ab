//! The messages of the wire contract, and what is made of them.

use std::fmt::Debug;

use ha_proto::v1;
use haclt::reply;
use prost::Message;

use super::choice;

/// Reads a message; returns it if it is one, and checks that it is written in a way that reads as the same.
fn read<M: Message + Default + Debug>(data: &[u8]) -> Option<M> {
    let message = M::decode(data).ok()?;
    let written = message.encode_to_vec();
    let again = M::decode(&*written).expect("what was written can be read");
    // Not the messages: a number that is none differs from itself.
    assert_eq!(again.encode_to_vec(), written);
    Some(message)
}

macro_rules! plain {
    ($($message:ident),* $(,)?) => {
        const PLAIN: &[fn(&[u8])] = &[$(|data| { let _message = read::<v1::$message>(data); },)*];
    };
}

macro_rules! shown {
    ($($message:ident => $to:path),* $(,)?) => {
        /// What `haclt` makes of a reply; one that it does not take is told why.
        const SHOWN: &[fn(&[u8])] = &[$(|data| {
            if let Some(message) = read::<v1::$message>(data)
                && let Err(error) = <$to>::try_from(message)
            {
                assert!(!error.to_string().is_empty());
            }
        },)*];
    };
}

plain! {
    StatusRequest, ExplainRequest, NodeExplanation, ConfigShowRequest, ConfigSetRequest,
    DivergedListRequest, DivergedEntry, DivergedShowRequest, DivergedTransaction,
    DivergedDropRequest, SwitchoverPlanRequest, SwitchoverRequest, SwitchoverStep,
    RestartPlanRequest, RestartRequest, DoctorRequest, DoctorFinding, DoctorFact, DoctorClocks,
    HelloRequest, HelloReply, RenewRequest, RenewReply, Renewed, RenewRefused, WalPosition,
    ReportRequest, ReportReply, ParametersReport, WitnessReport, QuorumReport, Acknowledger,
    PostgresReport, ProposeRequest, ProposeReply, RevokeRequest, RevokeReply, WalTip,
    TimelineSwitch, ListWalRequest, ListWalReply, WalPiece, FetchWalRequest, WalChunk,
    DivergedRequest, DivergedReply, ConfigChangeRequest, ConfigCheckRequest, ConfigCheckReply,
    ConfigVerdict, ConfigHistoryRequest, ConfigHistoryEntry, CredentialsRequest,
    CredentialsReply, CredentialFacts, CredentialsShowRequest, CredentialEntry,
    CredentialsRotateRequest, DrillPlanRequest, DrillRequest, DrillNews, DrillPhase, DrillCounts,
    DrillNoticed, DrillSight, DrillResult, DrillStepRequest, DrillStepReply, Finding,
    PauseRequest, ResumeRequest, FenceRequest, UnfenceRequest, EventsRequest, EventShowRequest,
    HistoryRequest, FailoverPlanRequest, FailoverRequest, RecloneRequest, ReloadRequest,
    ScheduleListRequest, ScheduleEntry, ScheduleAddRequest, ScheduleCancelRequest,
    NodeListRequest, NodeEntry, NodeReplaceRequest, NodeAddRequest, NodeRemoveRequest,
    RaftRequest, RaftReply, SupportBundleRequest, SupportChunk,
}

shown! {
    StatusReply => reply::ClusterStatus,
    LeaseStatus => reply::LeaseView,
    RaftStatus => reply::RaftView,
    WalQuorumStatus => reply::WalQuorumView,
    NodeStatus => reply::NodeView,
    ExplainReply => reply::Explanation,
    IfPrimaryDied => reply::IfPrimaryDied,
    ConfigShowReply => reply::config::Configuration,
    ConfigItem => reply::config::ConfigItem,
    ConfigSetReply => reply::config::ConfigChanged,
    ConfigNode => reply::config::ConfigNode,
    ConfigDifference => reply::config::Difference,
    ConfigChangeReply => reply::config::ConfigChanges,
    ConfigHistoryReply => reply::config::ConfigHistory,
    CredentialsShowReply => reply::credentials::Credentials,
    DivergedListReply => reply::diverged::DivergedList,
    DivergedShowReply => reply::diverged::DivergedReport,
    DivergedDropReply => reply::diverged::DivergedDropped,
    DoctorReply => reply::doctor::Examination,
    DrillPlanReply => reply::drill::DrillPlan,
    FailoverPlanReply => reply::failover::FailoverPlan,
    Event => reply::journal::Event,
    EventsReply => reply::journal::Events,
    EventShowReply => reply::journal::EventReport,
    HistoryReply => reply::journal::History,
    PromotionEntry => reply::journal::Promotion,
    NodeListReply => reply::nodes::Nodes,
    OrderReply => reply::order::Ordered,
    RestartPlanReply => reply::restart::RestartPlan,
    RestartReply => reply::restart::Restarted,
    ScheduleListReply => reply::schedule::Schedule,
    SwitchoverPlanReply => reply::switchover::SwitchoverPlan,
    SwitchoverReply => reply::switchover::Switchover,
}

/// Every message as it comes over the network. The first byte says which.
pub(super) fn messages(data: &[u8]) {
    let (kind, rest) = choice(data);
    let kind = usize::from(kind);
    if let Some(run) = SHOWN.iter().chain(PLAIN).nth(kind) {
        run(rest);
        return;
    }
    match kind - SHOWN.len() - PLAIN.len() {
        0 => {
            if let Some(report) = read::<v1::ReportReply>(rest) {
                let core = ha_agent::report::as_if_pledged(&report, ha_core::Epoch(7));
                assert_eq!(core.pledged, ha_core::Epoch(7));
                let _fit = ha_agent::granter::fit(&report);
            }
        }
        1 => {
            if let Some(news) = read::<v1::DrillNews>(rest) {
                let mut seen = reply::drill::Seen::default();
                let line = seen.take(news).unwrap_or_default();
                assert!(!line.contains(['\n', '\u{1b}']), "{line:?} would command a terminal");
            }
        }
        _ => {}
    }
}
