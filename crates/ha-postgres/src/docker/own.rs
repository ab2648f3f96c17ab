//! Whether this agent is in a container itself, and in which.

use std::fs;

use bollard::models::{ContainerInspectResponse, MountPoint};

use super::engine::LOOK_LIMIT;
use super::engine::{Engine, EngineError};

/// Returns the container that this process is in, or none if it is in none of this engine's.
pub(crate) async fn own_container(
    engine: &Engine,
) -> Result<Option<ContainerInspectResponse>, EngineError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    for id in candidates(&mounts, &groups) {
        match engine
            .call(LOOK_LIMIT, async |docker| docker.inspect_container(&id, None).await)
            .await
        {
            Ok(found) => return Ok(Some(found)),
            // Of another engine: this one runs inside the container that we are in, too.
            Err(EngineError::Missing(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Returns ids that may be those of our container, the likelier first.
///
/// # Sources
/// Docker mounts `/etc/hostname` from `…/containers/<id>/hostname`, and names version 1 control groups
/// `/docker/<id>` or `docker-<id>.scope`.
fn candidates(mounts: &str, groups: &str) -> Vec<String> {
    let of_mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        let ours = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"].contains(&place);
        ours.then(|| root.split('/').rev().find_map(id)).flatten()
    });
    let of_groups = groups.lines().filter_map(|line| line.rsplit('/').next().and_then(id));
    let mut found: Vec<String> = of_mounts.chain(of_groups).collect();
    found.dedup();
    found
}

/// Reads a container's id.
fn id(word: &str) -> Option<String> {
    let word = word.strip_prefix("docker-").unwrap_or(word);
    let word = word.strip_suffix(".scope").unwrap_or(word);
    let is_id = word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| word.to_owned())
}

/// Returns the mount of a container that a path lies in: the innermost.
pub(crate) fn mount_of<'a>(mounts: &'a [MountPoint], path: &str) -> Option<&'a MountPoint> {
    let holds =
        |mount: &&MountPoint| mount.destination.as_deref().is_some_and(|place| is_in(path, place));
    mounts.iter().filter(holds).max_by_key(|mount| mount.destination.as_ref().map(String::len))
}

/// Returns whether a path is a directory or lies in it.
pub(crate) fn is_in(path: &str, directory: &str) -> bool {
    let directory = directory.trim_end_matches('/');
    path == directory || path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

/// Returns where a path of a container is on the machine, if it lies in a mount.
pub(crate) fn source_of(mounts: &[MountPoint], path: &str) -> Option<String> {
    let mount = mount_of(mounts, path)?;
    let place = mount.destination.as_deref()?.trim_end_matches('/');
    let source = mount.source.as_deref()?;
    Some(format!("{source}{}", path.strip_prefix(place).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(source: &str, destination: &str) -> MountPoint {
        let (source, destination) = (Some(source.to_owned()), Some(destination.to_owned()));
        MountPoint { source, destination, ..MountPoint::default() }
    }

    #[test]
    fn our_container_is_named_by_mounts_and_control_groups() {
        let one = "a".repeat(64);
        let two = "0123456789abcdef".repeat(4);
        let mounts = format!(
            "900 880 8:1 /var/lib/docker/containers/{one}/hostname /etc/hostname rw - ext4 /dev/x rw\n\
             901 880 8:1 /data /var/lib/haclt rw - ext4 /dev/x rw\n"
        );
        let groups = format!("4:memory:/docker/{two}\n0::/system.slice/docker-{one}.scope\n");
        assert_eq!(candidates(&mounts, &groups), [one.clone(), two, one]);
        assert_eq!(candidates("22 1 8:1 / / rw\n", "0::/init.scope\n"), Vec::<String>::new());
    }

    #[test]
    fn a_path_is_found_in_its_innermost_mount() {
        let mounts = [mount("/v/all/_data", "/var/lib/haclt"), mount("/v/pg", "/var/lib/haclt/pg")];
        let source = |path| source_of(&mounts, path);
        assert_eq!(source("/var/lib/haclt/pg/data").as_deref(), Some("/v/pg/data"));
        assert_eq!(source("/var/lib/haclt/pgx").as_deref(), Some("/v/all/_data/pgx"));
        assert_eq!(source("/var/lib/haclt").as_deref(), Some("/v/all/_data"));
        assert_eq!(source("/var/lib"), None);
        assert!(is_in("/a/b", "/a") && is_in("/a", "/a/") && !is_in("/ab", "/a"));
    }
}
