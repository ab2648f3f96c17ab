//! What this agent answers to `haclt`.

mod config;
mod credentials;
mod diverged;
mod doctor;
pub(crate) mod drill;
mod durability;
mod explain;
mod failover;
mod journal;
mod membership;
mod nodes;
mod orders;
mod pause;
mod picture;
mod remake;
mod restart;
mod schedule;
mod support;
pub(crate) mod switchover;

use std::sync::Arc;

use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::admin_client::AdminClient;
use ha_proto::v1::admin_server::Admin;
use ha_proto::v1::{
    ConfigChangeReply, ConfigChangeRequest, ConfigCheckReply, ConfigCheckRequest,
    ConfigHistoryReply, ConfigHistoryRequest, ConfigSetReply, ConfigSetRequest, ConfigShowReply,
    ConfigShowRequest, CredentialsRotateRequest, CredentialsShowReply, CredentialsShowRequest,
    DivergedDropReply, DivergedDropRequest, DivergedListReply, DivergedListRequest,
    DivergedShowReply, DivergedShowRequest, DoctorReply, DoctorRequest, DrillPlanReply,
    DrillPlanRequest, DrillRequest, DrillStepReply, DrillStepRequest, EventShowReply,
    EventShowRequest, EventsReply, EventsRequest, ExplainReply, ExplainRequest, FailoverPlanReply,
    FailoverPlanRequest, FailoverRequest, FenceRequest, HistoryReply, HistoryRequest,
    NodeAddRequest, NodeListReply, NodeListRequest, NodeRemoveRequest, NodeReplaceRequest,
    OrderReply, PauseRequest, RecloneRequest, ReloadRequest, RestartPlanReply, RestartPlanRequest,
    RestartReply, RestartRequest, ResumeRequest, ScheduleAddRequest, ScheduleCancelRequest,
    ScheduleListReply, ScheduleListRequest, StatusReply, StatusRequest, SupportBundleRequest,
    SwitchoverPlanReply, SwitchoverPlanRequest, SwitchoverReply, SwitchoverRequest, UnfenceRequest,
};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::agent::Agent;
use crate::parameters;
use crate::service::check_cluster;
use picture::Picture;

/// The same service of another agent.
pub(crate) type Other = AdminClient<Channel>;

/// `ha.v1.Admin`.
#[derive(Debug)]
pub struct AdminService<D>(pub Arc<Agent<D>>);

#[tonic::async_trait]
impl<D: PostgresDriver> Admin for AdminService<D> {
    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusReply>, Status> {
        let agent = self.of(&request.into_inner().cluster)?;
        let picture = Picture::take(agent).await;
        Ok(Response::new(picture.status(agent)))
    }

    async fn explain(
        &self,
        request: Request<ExplainRequest>,
    ) -> Result<Response<ExplainReply>, Status> {
        let agent = self.of(&request.into_inner().cluster)?;
        let picture = Picture::take(agent).await;
        Ok(Response::new(picture.explain(agent)))
    }

    async fn config_show(
        &self,
        request: Request<ConfigShowRequest>,
    ) -> Result<Response<ConfigShowReply>, Status> {
        let agent = self.of(&request.into_inner().cluster)?;
        config::show(agent).await.map(Response::new)
    }

    async fn config_set(
        &self,
        request: Request<ConfigSetRequest>,
    ) -> Result<Response<ConfigSetReply>, Status> {
        let agent = self.of(&request.get_ref().cluster)?;
        let parameters = request.get_ref().key.starts_with(parameters::PREFIX);
        let leader = if parameters { orders::taker(agent, &request).await? } else { None };
        let request = request.into_inner();
        let Some(leader) = leader else {
            return config::set(agent, &request).await.map(Response::new);
        };
        let limit = orders::patience(request.wait_ms);
        let call =
            |mut admin: Other| async move { admin.config_set(orders::handed_on(request)).await };
        agent.peers.forward(&leader, limit, call).await.map(Response::new)
    }

    async fn config_change(
        &self,
        request: Request<ConfigChangeRequest>,
    ) -> Result<Response<ConfigChangeReply>, Status> {
        let agent = self.of(&request.get_ref().cluster)?;
        let leader = orders::taker(agent, &request).await?;
        let request = request.into_inner();
        let Some(leader) = leader else {
            return config::change(agent, &request).await.map(Response::new);
        };
        let limit = orders::patience(request.wait_ms);
        let call =
            |mut admin: Other| async move { admin.config_change(orders::handed_on(request)).await };
        agent.peers.forward(&leader, limit, call).await.map(Response::new)
    }

    async fn config_check(
        &self,
        request: Request<ConfigCheckRequest>,
    ) -> Result<Response<ConfigCheckReply>, Status> {
        let request = request.into_inner();
        config::check(self.of(&request.cluster)?, &request).await.map(Response::new)
    }

    async fn config_history(
        &self,
        request: Request<ConfigHistoryRequest>,
    ) -> Result<Response<ConfigHistoryReply>, Status> {
        config::history(self.of(&request.into_inner().cluster)?).map(Response::new)
    }

    async fn diverged_list(
        &self,
        request: Request<DivergedListRequest>,
    ) -> Result<Response<DivergedListReply>, Status> {
        let agent = self.of(&request.into_inner().cluster)?;
        Ok(Response::new(diverged::list(agent)))
    }

    async fn diverged_show(
        &self,
        request: Request<DivergedShowRequest>,
    ) -> Result<Response<DivergedShowReply>, Status> {
        let request = request.into_inner();
        let agent = self.of(&request.cluster)?;
        diverged::show(agent, request.id).await.map(Response::new)
    }

    async fn diverged_drop(
        &self,
        request: Request<DivergedDropRequest>,
    ) -> Result<Response<DivergedDropReply>, Status> {
        let request = request.into_inner();
        let agent = self.of(&request.cluster)?;
        diverged::remove(agent, request.id).await.map(Response::new)
    }

    async fn switchover_plan(
        &self,
        request: Request<SwitchoverPlanRequest>,
    ) -> Result<Response<SwitchoverPlanReply>, Status> {
        let request = request.into_inner();
        let agent = self.of(&request.cluster)?;
        switchover::plan(agent, &request).await.map(Response::new)
    }

    async fn switchover(
        &self,
        request: Request<SwitchoverRequest>,
    ) -> Result<Response<SwitchoverReply>, Status> {
        let request = request.into_inner();
        let agent = self.of(&request.cluster)?;
        switchover::order(agent, &request).await.map(Response::new)
    }

    async fn restart_plan(
        &self,
        request: Request<RestartPlanRequest>,
    ) -> Result<Response<RestartPlanReply>, Status> {
        let request = request.into_inner();
        let agent = self.of(&request.cluster)?;
        restart::plan(agent, &request).await.map(Response::new)
    }

    async fn restart(
        &self,
        request: Request<RestartRequest>,
    ) -> Result<Response<RestartReply>, Status> {
        let request = request.into_inner();
        let agent = self.of(&request.cluster)?;
        restart::order(agent, &request).await.map(Response::new)
    }

    async fn pause(&self, request: Request<PauseRequest>) -> Result<Response<OrderReply>, Status> {
        let agent = self.of(&request.get_ref().cluster)?;
        let leader = orders::taker(agent, &request).await?;
        let request = request.into_inner();
        let Some(leader) = leader else {
            return pause::pause(agent, &request).await.map(Response::new);
        };
        let limit = orders::patience(request.wait_ms);
        let call = |mut admin: Other| async move { admin.pause(orders::handed_on(request)).await };
        agent.peers.forward(&leader, limit, call).await.map(Response::new)
    }

    async fn resume(
        &self,
        request: Request<ResumeRequest>,
    ) -> Result<Response<OrderReply>, Status> {
        let agent = self.of(&request.get_ref().cluster)?;
        let leader = orders::taker(agent, &request).await?;
        let request = request.into_inner();
        let Some(leader) = leader else {
            return pause::resume(agent, &request).await.map(Response::new);
        };
        let limit = orders::patience(request.wait_ms);
        let call = |mut admin: Other| async move { admin.resume(orders::handed_on(request)).await };
        agent.peers.forward(&leader, limit, call).await.map(Response::new)
    }

    async fn fence(&self, request: Request<FenceRequest>) -> Result<Response<OrderReply>, Status> {
        let agent = self.of(&request.get_ref().cluster)?;
        let leader = orders::taker(agent, &request).await?;
        let request = request.into_inner();
        let Some(leader) = leader else {
            return pause::fence(agent, &request).await.map(Response::new);
        };
        let limit = orders::patience(request.wait_ms);
        let call = |mut admin: Other| async move { admin.fence(orders::handed_on(request)).await };
        agent.peers.forward(&leader, limit, call).await.map(Response::new)
    }

    async fn unfence(
        &self,
        request: Request<UnfenceRequest>,
    ) -> Result<Response<OrderReply>, Status> {
        let agent = self.of(&request.get_ref().cluster)?;
        let leader = orders::taker(agent, &request).await?;
        let request = request.into_inner();
        let Some(leader) = leader else {
            return pause::unfence(agent, &request).await.map(Response::new);
        };
        let limit = orders::patience(request.wait_ms);
        let call =
            |mut admin: Other| async move { admin.unfence(orders::handed_on(request)).await };
        agent.peers.forward(&leader, limit, call).await.map(Response::new)
    }

    async fn events(
        &self,
        request: Request<EventsRequest>,
    ) -> Result<Response<EventsReply>, Status> {
        let request = request.into_inner();
        let agent = self.of(&request.cluster)?;
        Ok(Response::new(journal::events(agent, &request).await))
    }

    async fn event_show(
        &self,
        request: Request<EventShowRequest>,
    ) -> Result<Response<EventShowReply>, Status> {
        let request = request.into_inner();
        journal::show(self.of(&request.cluster)?, &request).await.map(Response::new)
    }

    async fn history(
        &self,
        request: Request<HistoryRequest>,
    ) -> Result<Response<HistoryReply>, Status> {
        let agent = self.of(&request.into_inner().cluster)?;
        Ok(Response::new(journal::history(agent)))
    }

    async fn failover_plan(
        &self,
        request: Request<FailoverPlanRequest>,
    ) -> Result<Response<FailoverPlanReply>, Status> {
        let request = request.into_inner();
        failover::plan(self.of(&request.cluster)?, &request).await.map(Response::new)
    }

    async fn failover(
        &self,
        request: Request<FailoverRequest>,
    ) -> Result<Response<OrderReply>, Status> {
        let request = request.into_inner();
        failover::order(self.of(&request.cluster)?, &request).await.map(Response::new)
    }

    async fn reclone(
        &self,
        request: Request<RecloneRequest>,
    ) -> Result<Response<OrderReply>, Status> {
        let request = request.into_inner();
        remake::reclone(self.of(&request.cluster)?, &request).await.map(Response::new)
    }

    async fn reload(
        &self,
        request: Request<ReloadRequest>,
    ) -> Result<Response<OrderReply>, Status> {
        let request = request.into_inner();
        remake::reload(self.of(&request.cluster)?, &request).await.map(Response::new)
    }

    async fn node_list(
        &self,
        request: Request<NodeListRequest>,
    ) -> Result<Response<NodeListReply>, Status> {
        let agent = self.of(&request.into_inner().cluster)?;
        Ok(Response::new(nodes::list(agent).await))
    }

    async fn node_replace(
        &self,
        request: Request<NodeReplaceRequest>,
    ) -> Result<Response<OrderReply>, Status> {
        let agent = self.of(&request.get_ref().cluster)?;
        let leader = orders::taker(agent, &request).await?;
        let request = request.into_inner();
        let Some(leader) = leader else {
            return nodes::replace(agent, &request).await.map(Response::new);
        };
        let limit = orders::patience(request.wait_ms);
        let call =
            |mut admin: Other| async move { admin.node_replace(orders::handed_on(request)).await };
        agent.peers.forward(&leader, limit, call).await.map(Response::new)
    }

    async fn node_add(
        &self,
        request: Request<NodeAddRequest>,
    ) -> Result<Response<OrderReply>, Status> {
        let agent = self.of(&request.get_ref().cluster)?;
        let leader = orders::taker(agent, &request).await?;
        let request = request.into_inner();
        let Some(leader) = leader else {
            return membership::add(agent, &request).await.map(Response::new);
        };
        let limit = orders::patience(request.wait_ms);
        let call =
            |mut admin: Other| async move { admin.node_add(orders::handed_on(request)).await };
        agent.peers.forward(&leader, limit, call).await.map(Response::new)
    }

    async fn node_remove(
        &self,
        request: Request<NodeRemoveRequest>,
    ) -> Result<Response<OrderReply>, Status> {
        let agent = self.of(&request.get_ref().cluster)?;
        let leader = match orders::taker(agent, &request).await? {
            // Nobody takes itself out: another one is to lead first.
            None if request.get_ref().node == agent.node().as_str() => {
                Some(membership::step_aside(agent).await?)
            }
            other => other,
        };
        let request = request.into_inner();
        let Some(leader) = leader else {
            return membership::remove(agent, &request).await.map(Response::new);
        };
        let limit = orders::patience(request.wait_ms);
        let call =
            |mut admin: Other| async move { admin.node_remove(orders::handed_on(request)).await };
        agent.peers.forward(&leader, limit, call).await.map(Response::new)
    }

    async fn schedule_list(
        &self,
        request: Request<ScheduleListRequest>,
    ) -> Result<Response<ScheduleListReply>, Status> {
        let agent = self.of(&request.into_inner().cluster)?;
        Ok(Response::new(schedule::list(agent)))
    }

    async fn schedule_add(
        &self,
        request: Request<ScheduleAddRequest>,
    ) -> Result<Response<OrderReply>, Status> {
        let agent = self.of(&request.get_ref().cluster)?;
        let leader = orders::taker(agent, &request).await?;
        let request = request.into_inner();
        let Some(leader) = leader else {
            return schedule::add(agent, &request).await.map(Response::new);
        };
        let limit = orders::patience(0);
        let call =
            |mut admin: Other| async move { admin.schedule_add(orders::handed_on(request)).await };
        agent.peers.forward(&leader, limit, call).await.map(Response::new)
    }

    async fn schedule_cancel(
        &self,
        request: Request<ScheduleCancelRequest>,
    ) -> Result<Response<OrderReply>, Status> {
        let agent = self.of(&request.get_ref().cluster)?;
        let leader = orders::taker(agent, &request).await?;
        let request = request.into_inner();
        let Some(leader) = leader else {
            return schedule::cancel(agent, &request).await.map(Response::new);
        };
        let limit = orders::patience(0);
        let call = |mut admin: Other| async move {
            admin.schedule_cancel(orders::handed_on(request)).await
        };
        agent.peers.forward(&leader, limit, call).await.map(Response::new)
    }

    async fn credentials_show(
        &self,
        request: Request<CredentialsShowRequest>,
    ) -> Result<Response<CredentialsShowReply>, Status> {
        let agent = self.of(&request.into_inner().cluster)?;
        Ok(Response::new(credentials::show(agent).await))
    }

    async fn credentials_rotate(
        &self,
        request: Request<CredentialsRotateRequest>,
    ) -> Result<Response<OrderReply>, Status> {
        let agent = self.of(&request.get_ref().cluster)?;
        let leader = orders::taker(agent, &request).await?;
        let request = request.into_inner();
        let Some(leader) = leader else {
            return credentials::rotate(agent, request).await.map(Response::new);
        };
        let limit = orders::patience(request.wait_ms);
        let call = |mut admin: Other| async move {
            admin.credentials_rotate(orders::handed_on(request)).await
        };
        agent.peers.forward(&leader, limit, call).await.map(Response::new)
    }

    async fn doctor(
        &self,
        request: Request<DoctorRequest>,
    ) -> Result<Response<DoctorReply>, Status> {
        let request = request.into_inner();
        let agent = self.of(&request.cluster)?;
        doctor::answer(agent, &request).await.map(Response::new)
    }

    async fn drill_plan(
        &self,
        request: Request<DrillPlanRequest>,
    ) -> Result<Response<DrillPlanReply>, Status> {
        let agent = self.of(&request.get_ref().cluster)?;
        let leader = orders::taker(agent, &request).await?;
        let request = request.into_inner();
        let Some(leader) = leader else {
            return drill::plan(agent, &request).await.map(Response::new);
        };
        let limit = orders::patience(0);
        let call =
            |mut admin: Other| async move { admin.drill_plan(orders::handed_on(request)).await };
        agent.peers.forward(&leader, limit, call).await.map(Response::new)
    }

    type DrillStream = drill::News;

    async fn drill(
        &self,
        request: Request<DrillRequest>,
    ) -> Result<Response<Self::DrillStream>, Status> {
        let agent = self.of(&request.get_ref().cluster)?;
        let leader = orders::taker(agent, &request).await?;
        let request = request.into_inner();
        let Some(leader) = leader else {
            return drill::order(agent, request).await.map(Response::new);
        };
        drill::expect_outside(agent, &leader)?;
        let limit = orders::patience(0);
        let call = |mut admin: Other| async move { admin.drill(orders::handed_on(request)).await };
        let news = agent.peers.forward(&leader, limit, call).await?;
        Ok(Response::new(Box::pin(news)))
    }

    async fn drill_step(
        &self,
        request: Request<DrillStepRequest>,
    ) -> Result<Response<DrillStepReply>, Status> {
        let request = request.into_inner();
        drill::step(self.of(&request.cluster)?, &request).await.map(Response::new)
    }

    type SupportBundleStream = support::Chunks;

    async fn support_bundle(
        &self,
        request: Request<SupportBundleRequest>,
    ) -> Result<Response<Self::SupportBundleStream>, Status> {
        let request = request.into_inner();
        let agent = self.of(&request.cluster)?;
        support::answer(agent, request).await.map(Response::new)
    }
}

impl<D> AdminService<D> {
    /// Refuses whoever means another cluster.
    fn of(&self, cluster: &str) -> Result<&Arc<Agent<D>>, Status> {
        if !cluster.is_empty() {
            check_cluster(&self.0, cluster)?;
        }
        Ok(&self.0)
    }
}
