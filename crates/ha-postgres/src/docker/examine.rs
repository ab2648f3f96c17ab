//! What a Postgres container must be for the driver to use it; each fault is one line.

use std::path::PathBuf;

use bollard::models::{ContainerInspectResponse, ContainerState, HostConfig, MountPoint};

use super::own::{is_in, mount_of, source_of};
use crate::instance::InstanceConfig;
use ha_core::permit::LAUNCH_FILE;

/// Majors that the generated configuration was written for.
pub(crate) const MAJORS: std::ops::RangeInclusive<u32> = 15..=18;

/// Capabilities without which the guard can neither start a server as another user nor kill it.
const NEEDED: [&str; 3] = ["KILL", "SETGID", "SETUID"];

/// Directories that container and agent must see at the same place.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    data: PathBuf,
    permits: PathBuf,
    logs: PathBuf,
}

impl Places {
    pub(crate) fn of(config: &InstanceConfig) -> Self {
        let InstanceConfig { data_dir, permit_dir, log_dir, .. } = config;
        let [data, permits, logs] = [data_dir, permit_dir, log_dir].map(PathBuf::clone);
        Self { data, permits, logs }
    }
}

/// Returns everything that stands against using a container. `own` is the agent's own, if it is in one.
pub(crate) fn faults(
    name: &str,
    found: &ContainerInspectResponse,
    own: Option<&ContainerInspectResponse>,
    places: &Places,
) -> Vec<String> {
    let mut faults = Vec::new();
    let mounts = found.mounts.as_deref().unwrap_or_default();
    let host = found.host_config.clone().unwrap_or_default();
    entrypoint(found, mounts, places, &mut faults);
    isolation(&host, &mut faults);
    shared(mounts, own, places, &mut faults);
    faults.into_iter().map(|fault| format!("container {name}: {fault}")).collect()
}

/// The guard must be what the container runs, and nobody in it may replace it.
fn entrypoint(
    found: &ContainerInspectResponse,
    mounts: &[MountPoint],
    places: &Places,
    faults: &mut Vec<String>,
) {
    let config = found.config.clone().unwrap_or_default();
    let words: Vec<String> =
        [config.entrypoint, config.cmd].into_iter().flatten().flatten().collect();
    let mut said = words.iter();
    let program = said.next().map_or("", String::as_str);
    if !program.ends_with("/ha-guard") || said.next().map(String::as_str) != Some("run") {
        let found = words.first().map_or("nothing", String::as_str);
        faults.push(format!("its entrypoint is {found}, not the guard: /…/ha-guard run …"));
        return;
    }
    let launch = places.permits.join(LAUNCH_FILE);
    let wanted =
        [("--permit-dir", &places.permits), ("--pgdata", &places.data), ("--launch", &launch)];
    for (option, path) in wanted {
        let is = value_of(&words, option);
        if is != path.to_str() {
            let is = is.unwrap_or("absent");
            faults.push(format!("{option} of its guard is {is}, expected {}", path.display()));
        }
    }
    match mount_of(mounts, program) {
        Some(mount) if mount.rw == Some(false) => {}
        Some(_) => {
            faults.push(format!("the guard {program} is mounted writable: mount it read-only"));
        }
        None => faults.push(format!("the guard {program} is in no mount: mount it read-only")),
    }
}

/// Returns the value of `--option value` or `--option=value`.
fn value_of<'a>(words: &'a [String], option: &str) -> Option<&'a str> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == option {
            return words.next().map(String::as_str);
        }
        if let Some(value) = word.strip_prefix(option).and_then(|rest| rest.strip_prefix('=')) {
            return Some(value);
        }
    }
    None
}

/// The guard kills everything in its process namespace: it must be one of its own.
fn isolation(host: &HostConfig, faults: &mut Vec<String>) {
    if host.privileged == Some(true) {
        faults.push("it is privileged: it could change everything on the machine".to_owned());
    }
    let pid_mode = host.pid_mode.as_deref().unwrap_or_default();
    if !pid_mode.is_empty() {
        faults.push(format!("its pid mode is {pid_mode}: the guard would not be its process 1"));
    }
    let names = |list: &Option<Vec<String>>| -> Vec<String> {
        let list = list.iter().flatten().map(|name| name.to_uppercase());
        list.map(|name| name.strip_prefix("CAP_").unwrap_or(&name).to_owned()).collect()
    };
    let (dropped, added) = (names(&host.cap_drop), names(&host.cap_add));
    let has = |list: &[String], name: &str| list.iter().any(|word| word == name || word == "ALL");
    for name in NEEDED {
        if has(&dropped, name) && !has(&added, name) {
            faults.push(format!("it lacks the capability {name}, which its guard needs"));
        }
    }
}

/// Both sides must see the same directories under the same names.
fn shared(
    mounts: &[MountPoint],
    own: Option<&ContainerInspectResponse>,
    places: &Places,
    faults: &mut Vec<String>,
) {
    let data = places.data.to_string_lossy();
    for (what, path) in [
        ("postgres.data_dir", &places.data),
        ("postgres.permit_dir", &places.permits),
        ("postgres.log_dir", &places.logs),
    ] {
        let text = path.to_string_lossy();
        let Some(theirs) = source_of(mounts, &text) else {
            faults.push(format!("{what} {text} lies in none of its volumes"));
            continue;
        };
        if mount_of(mounts, &text).is_some_and(|mount| mount.rw == Some(false)) {
            faults.push(format!("{what} {text} is mounted read-only"));
        }
        // An agent on the machine itself sees the machine's own paths.
        let ours = match own {
            Some(own) => source_of(own.mounts.as_deref().unwrap_or_default(), &text),
            None => Some(text.to_string()),
        };
        match ours {
            Some(ours) if ours == theirs => {}
            Some(ours) => faults.push(format!("{what} {text} is {theirs} there and {ours} here")),
            None => {
                faults.push(format!("{what} {text} lies in no volume of the agent's container"));
            }
        }
    }
    let is_mount = |mount: &&MountPoint| mount.destination.as_deref() == Some(&*data);
    if mounts.iter().any(|mount| is_mount(&mount)) {
        faults.push(format!("{data} is a mount point: mount the volume one level above it"));
    }
}

/// Returns the name of a container that has a directory of the machine mounted writable, or part of
/// it, or what it is in.
pub(crate) fn uses(mounts: &[MountPoint], source: &str) -> bool {
    mounts.iter().any(|mount| {
        let place = mount.source.as_deref().unwrap_or_default();
        let touches = !place.is_empty() && (is_in(source, place) || is_in(place, source));
        touches && mount.rw != Some(false)
    })
}

/// Returns whether a container may have a process; a paused one counts, one that waits for its restart
/// policy has none.
pub(super) fn lives(state: Option<&ContainerState>) -> bool {
    let Some(state) = state else { return false };
    state.running == Some(true) && state.pid.unwrap_or_default() != 0
}

/// Returns when the container was last started, as the engine writes it: another one after each start.
pub(super) fn started_at(found: &ContainerInspectResponse) -> Option<String> {
    found.state.as_ref()?.started_at.clone()
}

#[cfg(test)]
mod tests {
    use bollard::models::ContainerConfig;

    use super::*;

    const DATA: &str = "/var/lib/haclt/postgres/data";

    fn mount(source: &str, destination: &str, rw: bool) -> MountPoint {
        MountPoint {
            source: Some(source.to_owned()),
            destination: Some(destination.to_owned()),
            rw: Some(rw),
            ..MountPoint::default()
        }
    }

    fn places() -> Places {
        Places {
            data: DATA.into(),
            permits: "/run/haclt".into(),
            logs: "/var/lib/haclt/postgres/log".into(),
        }
    }

    fn good() -> ContainerInspectResponse {
        let entrypoint = [
            "/opt/haclt/guard/ha-guard",
            "run",
            "--permit-dir",
            "/run/haclt",
            "--pgdata=/var/lib/haclt/postgres/data",
            "--user",
            "postgres",
        ];
        let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
        ContainerInspectResponse {
            config: Some(ContainerConfig {
                entrypoint: words(&entrypoint),
                cmd: words(&["--launch", "/run/haclt/launch"]),
                ..ContainerConfig::default()
            }),
            mounts: Some(vec![
                mount("/v/guard", "/opt/haclt/guard", false),
                mount("/v/data", "/var/lib/haclt/postgres", true),
                mount("/v/run", "/run/haclt", true),
            ]),
            host_config: Some(HostConfig::default()),
            ..ContainerInspectResponse::default()
        }
    }

    fn agent() -> ContainerInspectResponse {
        let mounts = vec![
            mount("/v/data", "/var/lib/haclt/postgres", true),
            mount("/v/run", "/run/haclt", true),
        ];
        ContainerInspectResponse { mounts: Some(mounts), ..ContainerInspectResponse::default() }
    }

    #[test]
    fn a_container_as_documented_has_no_fault() {
        assert_eq!(faults("pg", &good(), Some(&agent()), &places()), Vec::<String>::new());
    }

    #[test]
    fn every_fault_is_one_line_that_names_the_container() {
        type Change = fn(&mut ContainerInspectResponse);
        #[rustfmt::skip]
        let table: [(Change, &str); 11] = [
            (|c| c.config = None, "its entrypoint is nothing, not the guard"),
            (|c| config(c).entrypoint = Some(vec!["docker-entrypoint.sh".into()]), "its entrypoint is docker-entrypoint.sh"),
            (|c| config(c).cmd = None, "--launch of its guard is absent, expected /run/haclt/launch"),
            (|c| config(c).cmd = Some(vec!["--launch=/tmp/x".into()]), "--launch of its guard is /tmp/x"),
            (|c| mounts(c)[0].rw = Some(true), "the guard /opt/haclt/guard/ha-guard is mounted writable"),
            (|c| drop(mounts(c).remove(0)), "the guard /opt/haclt/guard/ha-guard is in no mount"),
            (|c| drop(mounts(c).remove(2)), "postgres.permit_dir /run/haclt lies in none of its volumes"),
            (|c| mounts(c)[1].source = Some("/v/other".into()), "is /v/other/data there and /v/data/data here"),
            (|c| mounts(c).push(mount("/v/data/data", DATA, true)), "is a mount point"),
            (|c| host(c).privileged = Some(true), "it is privileged"),
            (|c| host(c).cap_drop = Some(vec!["all".into()]), "it lacks the capability KILL"),
        ];
        for (change, expected) in table {
            let mut container = good();
            change(&mut container);
            let found = faults("pg", &container, Some(&agent()), &places());
            let named =
                |fault: &String| fault.starts_with("container pg: ") && fault.contains(expected);
            assert!(found.iter().any(named), "{expected}: {found:?}");
        }
        let mut shared = good();
        host(&mut shared).pid_mode = Some("host".to_owned());
        assert_eq!(faults("pg", &shared, Some(&agent()), &places()).len(), 1);
        let on_machine = faults("pg", &good(), None, &places());
        assert_eq!(on_machine.len(), 3, "other paths than the machine's own: {on_machine:?}");
    }

    fn config(container: &mut ContainerInspectResponse) -> &mut ContainerConfig {
        container.config.as_mut().unwrap()
    }

    fn host(container: &mut ContainerInspectResponse) -> &mut HostConfig {
        container.host_config.as_mut().unwrap()
    }

    fn mounts(container: &mut ContainerInspectResponse) -> &mut Vec<MountPoint> {
        container.mounts.as_mut().unwrap()
    }

    #[test]
    fn whoever_can_write_to_the_directory_uses_it() {
        for (source, rw, expected) in [
            ("/v/data", true, true),
            ("/v", true, true),
            ("/v/data/data/base", true, true),
            ("/v/data", false, false),
            ("/v/dat", true, false),
            ("/v/data2", true, false),
            ("", true, false),
        ] {
            assert_eq!(uses(&[mount(source, "/x", rw)], "/v/data/data"), expected, "{source} {rw}");
        }
    }

    #[test]
    fn a_container_that_waits_for_its_restart_holds_no_process() {
        let state = |running, pid| ContainerState {
            running: Some(running),
            pid: Some(pid),
            ..ContainerState::default()
        };
        assert!(lives(Some(&state(true, 7))));
        assert!(!lives(Some(&state(true, 0))) && !lives(Some(&state(false, 0))) && !lives(None));
    }
}
