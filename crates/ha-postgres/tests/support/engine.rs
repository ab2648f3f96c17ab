//! Containers for tests: made, found, signalled and removed with the command line of Docker.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use ha_postgres::{DockerConfig, Examined, Instance, InstanceConfig, RunAs};

use super::{bin_dir, newest};

/// The label of every container of these tests; its value is the process of the test.
pub(crate) const TEST_LABEL: &str = "org.haclt.test-process";
pub(crate) const SOCKET: &str = "unix:///var/run/docker.sock";

/// Whom the image runs the server as, once a node was made.
pub(crate) static RUN_AS: OnceLock<RunAs> = OnceLock::new();

/// Runs `docker` and returns what it prints, or what it complains about.
pub(crate) fn try_docker(args: &[&str]) -> Result<String, String> {
    let output = Command::new("docker").args(args).output().map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

pub(crate) fn docker(args: &[&str]) -> String {
    try_docker(args).unwrap_or_else(|error| panic!("docker {args:?}: {error}"))
}

/// Makes sure that there is an engine with an image of this machine's PostgreSQL; returns the image.
pub(crate) fn image() -> &'static str {
    static IMAGE: OnceLock<String> = OnceLock::new();
    IMAGE.get_or_init(|| {
        if let Err(error) = try_docker(&["version"]) {
            skip(&error);
        }
        let major = bin_dir().parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
        let image = format!("postgres:{major}");
        if try_docker(&["image", "inspect", &image]).is_err() {
            let script = workspace().join("deploy/base-images.sh");
            let made = Command::new(script).arg(&major).status();
            assert!(made.unwrap().success(), "there is no image {image}, and it cannot be made");
        }
        sweep();
        image
    })
}

#[expect(
    clippy::exit,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test that runs in a process of its own and that nothing can be tested with"
)]
fn skip(why: &str) -> ! {
    assert!(std::env::var_os("CI").is_none(), "no Docker engine answers: {why}");
    eprintln!("SKIPPED: no Docker engine answers: {why}");
    std::process::exit(0)
}

/// Removes what tests left behind that were killed.
fn sweep() {
    let format = format!("{{{{.ID}}}} {{{{.Label \"{TEST_LABEL}\"}}}}");
    let filter = format!("label={TEST_LABEL}");
    let all = docker(&["ps", "-a", "--no-trunc", "--filter", &filter, "--format", &format]);
    for line in all.lines() {
        let Some((id, process)) = line.split_once(' ') else { continue };
        if !Path::new("/proc").join(process).exists() {
            let _gone = try_docker(&["rm", "-f", "-v", id]);
        }
    }
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// Returns the static guard, built anew if it is older than its sources.
pub(crate) fn static_guard() -> PathBuf {
    static GUARD: OnceLock<PathBuf> = OnceLock::new();
    let find = || {
        let test = std::env::current_exe().unwrap();
        let guard = test.ancestors().nth(3).unwrap().join("guard/ha-guard");
        let crates = workspace().join("crates");
        let sources = ["ha-guard/src", "ha-core/src"].map(|dir| newest(&crates.join(dir)));
        let built = std::fs::metadata(&guard).and_then(|file| file.modified()).ok();
        if built.is_none_or(|built| sources.iter().any(|source| *source > built)) {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut build = Command::new(cargo);
            build.current_dir(workspace()).args(["xtask", "guard"]);
            assert!(build.status().unwrap().success(), "the static guard does not build");
        }
        guard
    };
    GUARD.get_or_init(find).clone()
}

/// The name of the container of a node, by its directory.
pub(crate) fn container_of(config: &InstanceConfig) -> String {
    let dir = config.data_dir.parent().unwrap().file_name().unwrap().to_str().unwrap();
    format!("{dir}-{}", config.node).replace('.', "-")
}

/// Returns the arguments that make a node's container.
pub(crate) fn create_args(config: &InstanceConfig) -> Vec<String> {
    let dir = config.data_dir.parent().unwrap().display().to_string();
    let guard = static_guard().parent().unwrap().display().to_string();
    let (permits, data) = (config.permit_dir.display(), config.data_dir.display());
    let process = std::process::id();
    let mut args = vec!["create".to_owned()];
    for (option, value) in [
        ("--name", container_of(config)),
        ("--label", format!("{TEST_LABEL}={process}")),
        ("--network", "host".to_owned()),
        ("--volume", format!("{dir}:{dir}")),
        ("--volume", format!("{guard}:/opt/haclt/guard:ro")),
        ("--entrypoint", "/opt/haclt/guard/ha-guard".to_owned()),
    ] {
        args.extend([option.to_owned(), value]);
    }
    args.push(image().to_owned());
    let launch = format!("{permits}/launch");
    let run =
        ["run", "--permit-dir", &permits.to_string(), "--pgdata", &data.to_string(), "--user"];
    args.extend(run.map(str::to_owned));
    args.extend(["postgres".to_owned(), "--launch".to_owned(), launch]);
    args
}

/// Makes a node's container, which does not run yet.
pub(crate) fn make_container(config: &InstanceConfig) {
    let args = create_args(config);
    docker(&args.iter().map(String::as_str).collect::<Vec<_>>());
}

pub(crate) fn docker_config(config: &InstanceConfig) -> DockerConfig {
    let memory = config.data_dir.with_file_name("docker.json");
    DockerConfig { container: container_of(config), socket: SOCKET.to_owned(), memory }
}

/// Looks at a container, on a thread of its own: a test may be inside a runtime.
pub(crate) fn examine(
    docker: &DockerConfig,
    config: &InstanceConfig,
) -> Result<Examined, Vec<String>> {
    let (docker, config) = (docker.clone(), config.clone());
    let looking = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(docker.examine(&config))
    });
    looking.join().unwrap()
}

pub(crate) fn driver(config: InstanceConfig) -> Instance {
    let docker = docker_config(&config);
    let examined = examine(&docker, &config).unwrap();
    let _known = RUN_AS.set(examined.run_as());
    Instance::on_docker(config, docker, examined).unwrap()
}

/// Returns the machine's number of a process that a container counts as `pid`.
pub(crate) fn outer_pid(container: &str, pid: i32) -> i32 {
    let root = docker(&["inspect", "--format", "{{.State.Pid}}", container]);
    let space = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let ours = space(&root).expect("the container runs");
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let mut names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let found = names.find(|outer| {
        let status = std::fs::read_to_string(format!("/proc/{outer}/status")).unwrap_or_default();
        let inner = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        let inner = inner.and_then(|line| line.split_whitespace().last()?.parse::<i32>().ok());
        inner == Some(pid) && space(outer).as_ref() == Some(&ours)
    });
    found.unwrap_or_else(|| panic!("process {pid} of {container}")).parse().unwrap()
}

/// Returns the containers of tools on a data directory.
pub(crate) fn tools_on(data_dir: &Path, name: &str) -> Vec<String> {
    let tool = format!("label=org.haclt.tool={name}");
    let dir = format!("label=org.haclt.data-dir={}", data_dir.display());
    let found = docker(&["ps", "-a", "-q", "--filter", &tool, "--filter", &dir]);
    found.lines().map(str::to_owned).collect()
}

/// Removes a node's containers.
pub(crate) fn remove_containers(config: &InstanceConfig) {
    let dir = format!("label=org.haclt.data-dir={}", config.data_dir.display());
    let tools = try_docker(&["ps", "-a", "-q", "--filter", &dir]).unwrap_or_default();
    for container in tools.lines().chain([container_of(config).as_str()]) {
        let _gone = try_docker(&["rm", "-f", "-v", container]);
    }
}
