//! The door through which peers come in: closed while this node is cut off from them for a drill.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use ha_raft::Cut;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// A service that answers nobody while this node is cut off: a question waits, and is dropped unheard.
#[derive(Debug, Clone)]
pub struct Door<S> {
    behind: S,
    cut: Cut,
}

impl<S> Door<S> {
    /// Puts a door before a service.
    #[must_use]
    pub const fn new(behind: S, cut: Cut) -> Self {
        Self { behind, cut }
    }
}

impl<S: NamedService> NamedService for Door<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Door<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.behind.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        let cut = self.cut.clone();
        let answer = cut.left().is_none().then(|| self.behind.call(request));
        Box::pin(async move {
            let answer = match answer {
                Some(answer) => Some(answer.await),
                None => None,
            };
            // Also what was asked before and is answered now: nothing leaves a node that is cut off. Whoever
            // asks gives up long before this does.
            if cut.left().is_none()
                && let Some(answer) = answer
            {
                return answer;
            }
            cut.healed().await;
            let status = Status::unavailable("this node was cut off from its peers for a drill");
            Ok(status.into_http())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, timeout};

    use super::*;

    #[derive(Debug, Clone)]
    struct Yes;

    impl Service<Request<Body>> for Yes {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            std::future::ready(Ok(Response::new(Body::empty())))
        }
    }

    #[tokio::test]
    async fn nobody_is_answered_while_the_node_is_cut_off() {
        let cut = Cut::default();
        let mut door = Door::new(Yes, cut.clone());
        let status = |answer: &Response<Body>| answer.headers().get("grpc-status").cloned();
        let answer = door.call(Request::new(Body::empty())).await.expect("infallible");
        assert_eq!(status(&answer), None);
        cut.begin(Duration::from_millis(200));
        let waiting = door.call(Request::new(Body::empty()));
        assert!(timeout(Duration::from_millis(50), waiting).await.is_err(), "no answer yet");
        let began = Instant::now();
        let answer = door.call(Request::new(Body::empty())).await.expect("infallible");
        assert!(began.elapsed() >= Duration::from_millis(100));
        assert!(status(&answer).is_some_and(|status| status == "14"), "it is dropped unheard");
        let answer = door.call(Request::new(Body::empty())).await.expect("infallible");
        assert_eq!(status(&answer), None);
    }
}
