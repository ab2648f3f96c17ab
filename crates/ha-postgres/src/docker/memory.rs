//! What is remembered of the Postgres container: enough to go on without an engine, and to make the
//! container again if somebody removed it.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, EndpointSettings, NetworkingConfig,
};
use serde::{Deserialize, Serialize};

use crate::instance::{RunAs, write_file};

/// Version of the file.
const VERSION: u32 = 1;
/// The label by which the engine knows where a container's anonymous volumes are; not ours to keep.
const SELF_ALIAS_CHARS: usize = 12;

/// The last that was seen of a container that could be used.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Remembered {
    version: u32,
    /// Major version of its image's PostgreSQL.
    pub(crate) major: u32,
    /// The image's user `postgres`.
    uid: u32,
    gid: u32,
    /// Where its data directory is on the machine.
    pub(crate) source: String,
    /// All that the engine said of it.
    pub(crate) container: ContainerInspectResponse,
}

impl Remembered {
    pub(crate) const fn new(
        major: u32,
        run_as: RunAs,
        source: String,
        container: ContainerInspectResponse,
    ) -> Self {
        let RunAs { uid, gid } = run_as;
        Self { version: VERSION, major, uid, gid, source, container }
    }

    /// Reads the file; none if it is not there.
    pub(crate) fn load(path: &Path) -> Result<Option<Self>, String> {
        let fault =
            |error: &dyn std::fmt::Display| format!("cannot read {}: {error}", path.display());
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fault(&error)),
        };
        let read: Self = serde_json::from_slice(&text).map_err(|error| fault(&error))?;
        if read.version == VERSION {
            Ok(Some(read))
        } else {
            Err(fault(&format!("it is of version {}", read.version)))
        }
    }

    /// Writes the file, unless it says just that; on disk when it returns. Its environment may hold
    /// a user's secrets: nobody else may read it.
    pub(crate) fn save(&self, path: &Path) -> Result<(), String> {
        let text = serde_json::to_string(self).map_err(|error| error.to_string())?;
        write_file(path, text, None).map(drop)
    }

    pub(crate) const fn run_as(&self) -> RunAs {
        RunAs { uid: self.uid, gid: self.gid }
    }

    /// Returns the id of its image, so that no tag can mean another one meanwhile.
    pub(crate) fn image(&self) -> String {
        self.container.image.clone().unwrap_or_default()
    }

    /// Returns what the same container is made from: same image, labels, volumes and networks.
    ///
    /// # Sources
    /// Docker Engine API, "Create a container": what inspection calls `Config` and `HostConfig` is what
    /// creation takes. Anonymous volumes are named by their mounts only, so they are bound by name.
    pub(crate) fn body(&self) -> Result<ContainerCreateBody, String> {
        let config = self.container.config.clone().unwrap_or_default();
        let value = serde_json::to_value(&config).map_err(|error| error.to_string())?;
        let mut body: ContainerCreateBody =
            serde_json::from_value(value).map_err(|error| error.to_string())?;
        body.image = Some(self.image());
        let mut host = self.container.host_config.clone().unwrap_or_default();
        let bound: Vec<String> = host.binds.iter().flatten().cloned().collect();
        let mut binds = bound.clone();
        let declared = host.mounts.iter().flatten().filter_map(|mount| mount.target.clone());
        let declared: Vec<String> = declared.collect();
        for mount in self.container.mounts.iter().flatten() {
            let (Some(name), Some(place)) = (&mount.name, &mount.destination) else { continue };
            let known = declared.contains(place)
                || bound.iter().any(|bind| bind.split(':').nth(1) == Some(place));
            if !known && !name.is_empty() {
                binds.push(format!("{name}:{place}"));
            }
        }
        host.binds = Some(binds);
        body.host_config = Some(host);
        let endpoints = self.networks().into_iter().next();
        body.networking_config = Some(NetworkingConfig {
            endpoints_config: Some(endpoints.into_iter().collect::<HashMap<_, _>>()),
        });
        Ok(body)
    }

    /// Returns its networks with how it is attached, the one that it is made with first: engines
    /// before version 25 take one at creation only.
    pub(crate) fn networks(&self) -> Vec<(String, EndpointSettings)> {
        let host = self.container.host_config.as_ref();
        let mode = host.and_then(|host| host.network_mode.clone()).unwrap_or_default();
        let shared = mode.starts_with("container:") || mode == "host" || mode == "none";
        let settings = self.container.network_settings.as_ref().filter(|_| !shared);
        let networks = settings.and_then(|settings| settings.networks.clone()).unwrap_or_default();
        let own = self.container.id.clone().unwrap_or_default();
        let own: String = own.chars().take(SELF_ALIAS_CHARS).collect();
        let wanted = |endpoint: EndpointSettings| EndpointSettings {
            ipam_config: endpoint.ipam_config,
            links: endpoint.links,
            // The id of the container that is gone is no name of the new one.
            aliases: endpoint
                .aliases
                .map(|names| names.into_iter().filter(|name| *name != own).collect()),
            driver_opts: endpoint.driver_opts,
            ..EndpointSettings::default()
        };
        let mut networks: Vec<_> =
            networks.into_iter().map(|(name, endpoint)| (name, wanted(endpoint))).collect();
        networks.sort_by_key(|(name, _)| (*name != mode, name.clone()));
        networks
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::{ContainerConfig, HostConfig, MountPoint, NetworkSettings};

    use super::*;

    fn remembered() -> Remembered {
        let endpoint = |alias: &str| EndpointSettings {
            aliases: Some(vec![alias.to_owned(), "0123456789ab".to_owned()]),
            ip_address: Some("10.0.0.7".to_owned()),
            ..EndpointSettings::default()
        };
        let networks = [("orders_back", "db-back"), ("orders_front", "db-front")];
        let container = ContainerInspectResponse {
            id: Some("0123456789abcdef".to_owned()),
            image: Some("sha256:feed".to_owned()),
            config: Some(ContainerConfig {
                image: Some("postgres:17".to_owned()),
                labels: Some(HashMap::from([("a".to_owned(), "b".to_owned())])),
                entrypoint: Some(vec!["/opt/ha-guard".to_owned()]),
                ..ContainerConfig::default()
            }),
            host_config: Some(HostConfig {
                binds: Some(vec!["data:/data:rw".to_owned()]),
                network_mode: Some("orders_front".to_owned()),
                ..HostConfig::default()
            }),
            mounts: Some(vec![MountPoint {
                name: Some("feedbeef".to_owned()),
                destination: Some("/var/lib/postgresql/data".to_owned()),
                ..MountPoint::default()
            }]),
            network_settings: Some(NetworkSettings {
                networks: Some(
                    networks.map(|(name, alias)| (name.to_owned(), endpoint(alias))).into(),
                ),
                ..NetworkSettings::default()
            }),
            ..ContainerInspectResponse::default()
        };
        Remembered::new(17, RunAs { uid: 999, gid: 999 }, "/v/data".to_owned(), container)
    }

    #[test]
    fn a_container_is_made_again_as_it_was() {
        let body = remembered().body().unwrap();
        assert_eq!(body.image.as_deref(), Some("sha256:feed"), "the tag may mean another one now");
        assert_eq!(body.entrypoint, Some(vec!["/opt/ha-guard".to_owned()]));
        assert_eq!(body.labels.unwrap().get("a").map(String::as_str), Some("b"));
        let binds = body.host_config.unwrap().binds.unwrap();
        assert_eq!(binds, ["data:/data:rw", "feedbeef:/var/lib/postgresql/data"]);
        let networks = remembered().networks();
        let names: Vec<&str> = networks.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["orders_front", "orders_back"]);
        let (_, front) = &networks[0];
        assert_eq!(front.aliases, Some(vec!["db-front".to_owned()]));
        assert_eq!(front.ip_address, None, "an address that was drawn may be taken");
        let first = body.networking_config.unwrap().endpoints_config.unwrap();
        assert_eq!(first.keys().collect::<Vec<_>>(), ["orders_front"]);
    }

    #[test]
    fn the_file_survives_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker.json");
        assert!(Remembered::load(&path).unwrap().is_none());
        remembered().save(&path).unwrap();
        let read = Remembered::load(&path).unwrap().unwrap();
        assert_eq!(read.container, remembered().container);
        assert_eq!((read.major, read.run_as()), (17, RunAs { uid: 999, gid: 999 }));
        fs::write(&path, "{").unwrap();
        assert!(Remembered::load(&path).is_err());
    }
}
