//! The Docker engine that this node's database runs in.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

use super::finding::{Finding, ms};

/// How long the engine may take to answer.
const LIMIT: Duration = Duration::from_secs(2);

/// Asks the engine behind `socket`, if there is one, whether it is there; `trouble` is what the driver
/// makes of engine and container.
pub(super) async fn examine(socket: Option<&str>, trouble: Option<String>) -> Vec<Finding> {
    let Some(socket) = socket else { return Vec::new() };
    let path = socket.strip_prefix("unix://").unwrap_or(socket);
    let began = Instant::now();
    let answer = timeout(LIMIT, ping(Path::new(path))).await;
    let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {}", ms(LIMIT))));
    vec![reached(socket, answer.map(|()| began.elapsed())), container(trouble)]
}

fn reached(socket: &str, answer: Result<Duration, String>) -> Finding {
    let id = "docker-unreachable";
    match answer {
        Ok(took) => Finding::ok(id, format!("the engine at {socket} answers after {}", ms(took))),
        Err(why) => Finding::critical(
            id,
            format!("the engine at {socket}: {why}"),
            "`systemctl status docker`; the socket must be mounted into the agent's container",
        ),
    }
}

fn container(trouble: Option<String>) -> Finding {
    let id = "docker-trouble";
    match trouble {
        None => Finding::ok(id, "the container is as it should be"),
        Some(trouble) => Finding::warning(id, trouble, "`docker ps -a`, `docker inspect` of it"),
    }
}

/// # Sources
/// Docker Engine API, `GET /_ping`.
async fn ping(path: &Path) -> Result<(), String> {
    let one_line = |error: std::io::Error| error.to_string();
    let mut stream = UnixStream::connect(path).await.map_err(one_line)?;
    stream.write_all(b"GET /_ping HTTP/1.0\r\n\r\n").await.map_err(one_line)?;
    let mut said = Vec::new();
    // Any longer answer is not the one that is expected.
    stream.take(4096).read_to_end(&mut said).await.map_err(one_line)?;
    let said = String::from_utf8_lossy(&said);
    let first = said.lines().next().unwrap_or_default();
    if first.split(' ').nth(1) == Some("200") { Ok(()) } else { Err(format!("it says {first:?}")) }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    async fn answered(answer: &'static [u8]) -> Result<(), String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let listener = tokio::net::UnixListener::bind(&path).expect("a socket");
        let serve = async {
            let (mut stream, _) = listener.accept().await.expect("a client");
            stream.read_exact(&mut [0; 23]).await.expect("a question");
            stream.write_all(answer).await.expect("a reader");
        };
        tokio::join!(ping(&path), serve).0
    }

    #[tokio::test]
    async fn an_engine_is_there_if_it_says_so() {
        assert_eq!(answered(b"HTTP/1.0 200 OK\r\n\r\nOK").await, Ok(()));
        assert!(answered(b"HTTP/1.0 500 no\r\n\r\n").await.is_err());
        assert!(answered(b"").await.is_err());
        let found = examine(Some("unix:///nowhere/docker.sock"), None).await;
        let found: Vec<_> = found.iter().map(|f| (f.id, f.severity)).collect();
        let expected =
            [("docker-unreachable", Severity::Critical), ("docker-trouble", Severity::Ok)];
        assert_eq!(found, expected);
        assert_eq!(examine(None, None).await, []);
        assert_eq!(container(Some("paused".to_owned())).severity, Severity::Warning);
    }
}
