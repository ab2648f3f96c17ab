//! A socket in front of the engine's own that can be slow, talk nonsense, or be gone.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

const ENGINE: &str = "/var/run/docker.sock";

/// How the engine behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    /// It takes connections, and says nothing.
    Stalled,
    /// It answers with what is no HTTP.
    Nonsense,
    /// It answers with HTTP of another kind of server.
    OtherServer,
}

pub(crate) struct Proxy {
    path: PathBuf,
    mood: Arc<Mutex<Mood>>,
    serving: Option<JoinHandle<()>>,
}

impl Proxy {
    pub(crate) fn new(dir: &Path) -> Self {
        let (path, mood) = (dir.join("docker.sock"), Arc::new(Mutex::new(Mood::Well)));
        let mut proxy = Self { path, mood, serving: None };
        proxy.comes_back();
        proxy
    }

    pub(crate) fn socket(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// Changes the mood; connections of before are cut.
    pub(crate) fn is(&mut self, mood: Mood) {
        self.is_gone();
        *self.mood.lock().unwrap() = mood;
        self.comes_back();
    }

    /// Nobody listens any more, and every connection is cut.
    pub(crate) fn is_gone(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
        let _was_there = std::fs::remove_file(&self.path);
    }

    fn comes_back(&mut self) {
        let _was_there = std::fs::remove_file(&self.path);
        let listener = UnixListener::bind(&self.path).unwrap();
        let mood = *self.mood.lock().unwrap();
        self.serving = Some(tokio::spawn(async move {
            // Dropped with this task, and so are the connections.
            let mut open = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                open.spawn(serve(client, mood));
            }
        }));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.is_gone();
    }
}

async fn serve(mut client: UnixStream, mood: Mood) {
    let said: &[u8] = match mood {
        Mood::Well => {
            let mut engine = UnixStream::connect(ENGINE).await.unwrap();
            let _either_ended = copy_bidirectional(&mut client, &mut engine).await;
            return;
        }
        Mood::Stalled => return tokio::time::sleep(Duration::from_secs(600)).await,
        Mood::Nonsense => b"\x15\x03\x01\x00\x02\x02\x16 no engine\r\n",
        Mood::OtherServer => {
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\n<p/>"
        }
    };
    let _gone = client.write_all(said).await;
}
