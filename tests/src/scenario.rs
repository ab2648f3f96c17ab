//! The frame of a test: a cluster, a time bound, the checks at its end.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::shape::{Mode, Shape};

/// How much memory must be free for a cluster to live there.
const MEMORY_MIN: u64 = 4 << 30;

/// What a test says of itself before it begins.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(crate) limit: Duration,
    pub(crate) announced: Vec<String>,
    pub(crate) loss_rows_max: Option<usize>,
    pub(crate) on_disk: bool,
    pub(crate) shape: Shape,
}

impl Plan {
    /// A test that may take so many seconds.
    pub fn within(seconds: u64) -> Self {
        Self {
            limit: Duration::from_secs(seconds),
            // While agents start, some are there before others.
            announced: vec!["peer does not answer".to_owned()],
            loss_rows_max: None,
            on_disk: false,
            shape: Shape::default(),
        }
    }

    /// A cluster in the mode that is the default, `quorum`, whose witness keeps WAL. Nothing that was
    /// acknowledged may be lost.
    #[must_use]
    pub fn quorum(mut self) -> Self {
        self.shape.durability = Mode::Quorum;
        self
    }

    /// A cluster whose standby has to have each commit.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.shape.durability = Mode::StrictStandby;
        self
    }

    /// A cluster of so many data nodes, n1 and on, and so many witnesses, named after those.
    #[must_use]
    pub fn shape(mut self, data: u8, witnesses: u8) -> Self {
        (self.shape.data, self.shape.witnesses) = (data, witnesses);
        self
    }

    /// A cluster whose witnesses lack PostgreSQL's client programs.
    #[must_use]
    pub fn witness_without_programs(mut self) -> Self {
        self.shape.witness_programs = false;
        self
    }

    /// Clients that wait so many seconds for the answer to a commit.
    #[must_use]
    pub fn patience(mut self, seconds: u64) -> Self {
        self.shape.patience = Duration::from_secs(seconds);
        self
    }

    /// Announces warnings and errors, by what their line contains.
    #[must_use]
    pub fn announces(mut self, lines: &[&str]) -> Self {
        self.announced.extend(lines.iter().map(|line| (*line).to_owned()));
        self
    }

    /// A test that needs a real disk; the others live in memory where there is enough of it, because
    /// a dozen `initdb` and clones would spend their time in `fsync`.
    #[must_use]
    pub fn on_disk(mut self) -> Self {
        self.on_disk = true;
        self
    }

    /// Announces that the fault may lose up to so many acknowledged rows: durability is async.
    #[must_use]
    pub fn may_lose(mut self, rows: usize) -> Self {
        self.loss_rows_max = Some(rows);
        self
    }
}

impl Plan {
    fn root(&self) -> PathBuf {
        let memory = Path::new("/dev/shm");
        let free = rustix::fs::statvfs(memory).map_or(0, |fs| fs.f_bavail * fs.f_frsize);
        if self.on_disk || free < MEMORY_MIN { PathBuf::from("/tmp") } else { memory.to_owned() }
    }
}

/// Runs a test body with a cluster that is prepared but not started, then checks what every test must
/// leave behind: all that was acknowledged, no alarm that was not announced, no process.
pub fn scenario(plan: Plan, body: impl AsyncFnOnce(&mut Cluster)) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    let began = Instant::now();
    let root = plan.root();
    let Plan { limit, announced, loss_rows_max, on_disk: _, shape } = plan;
    let mut cluster = Cluster::new(&name, root, announced, shape);
    let story = runtime.block_on(async {
        let all = async {
            body(&mut cluster).await;
            cluster.finish(loss_rows_max).await;
        };
        let ended = tokio::time::timeout(limit, all).await;
        assert!(ended.is_ok(), "the test did not end within {limit:?}");
        cluster.story()
    });
    drop(cluster);
    let took = began.elapsed().as_secs_f64();
    let mut err = std::io::stderr().lock();
    writeln!(err, "    {name}: {took:.1} s{story}").expect("standard error is open");
}
