//! What a container's image says of its PostgreSQL: major version and user.

use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::DownloadFromContainerOptions;
use futures::StreamExt as _;

use super::ASK_LIMIT;
use super::engine::Engine;
use super::engine::LOOK_LIMIT;
use super::examine::MAJORS;
use crate::instance::RunAs;

/// The user whom the images have for the server.
const USER: &str = "postgres";
/// A tar archive's unit, and more than any image's `/etc/passwd` is long.
const TAR_BLOCK: usize = 512;
const USERS_BYTES_MAX: usize = 1 << 20;

/// Returns major version and user of a container's image.
///
/// # Sources
/// The official images say `PG_MAJOR` in their environment; the user has other numbers in each variant.
pub(super) async fn image_of(
    engine: &Engine,
    name: &str,
    found: &ContainerInspectResponse,
) -> Result<(u32, RunAs), String> {
    let image = found.image.clone().unwrap_or_default();
    let told = engine
        .call(LOOK_LIMIT, move |docker| async move { docker.inspect_image(&image).await })
        .await
        .map_err(|error| format!("cannot look at its image: {error}"))?;
    let env = told.config.and_then(|config| config.env).unwrap_or_default();
    let major = env.iter().find_map(|line| line.strip_prefix("PG_MAJOR=")).unwrap_or_default();
    let digits: String = major.chars().take_while(char::is_ascii_digit).collect();
    let major: u32 = digits
        .parse()
        .map_err(|_| "its image is no PostgreSQL image: it does not say PG_MAJOR".to_owned())?;
    if !MAJORS.contains(&major) {
        let (first, last) = (MAJORS.start(), MAJORS.end());
        return Err(format!("PostgreSQL {major} is not supported, versions {first} to {last} are"));
    }
    let name = name.to_owned();
    // Read without starting anything: this works on a stopped container too.
    let archive = engine.call(ASK_LIMIT, move |docker| async move {
        let options = DownloadFromContainerOptions { path: "/etc/passwd".to_owned() };
        let mut chunks = Box::pin(docker.download_from_container(&name, Some(options)));
        let mut archive = Vec::new();
        while let Some(chunk) = chunks.next().await {
            archive.extend_from_slice(&chunk?);
            if archive.len() > USERS_BYTES_MAX {
                break;
            }
        }
        Ok(archive)
    });
    let archive = archive.await.map_err(|error| format!("cannot read its users: {error}"))?;
    let run_as = user_in(&archive, USER).ok_or_else(|| format!("its image has no user {USER}"))?;
    Ok((major, run_as))
}

/// Finds a user in a tar archive of `/etc/passwd`.
///
/// # Sources
/// POSIX, `pax`, "ustar Interchange Format": a header of 512 bytes with the size at 124 in octal.
fn user_in(archive: &[u8], name: &str) -> Option<RunAs> {
    let size = std::str::from_utf8(archive.get(124..135)?).ok()?;
    let size = usize::from_str_radix(size.trim_matches(['\0', ' ']), 8).ok()?;
    let users = String::from_utf8_lossy(archive.get(TAR_BLOCK..TAR_BLOCK + size)?).into_owned();
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next() == Some(name);
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        found.then_some(RunAs { uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_in_an_archive() {
        let users = "root:x:0:0::/:/bin/sh\npostgres:x:70:70::/var/lib/postgresql:/bin/sh\n";
        let mut archive = vec![0; TAR_BLOCK];
        archive[..6].copy_from_slice(b"passwd");
        archive[124..135].copy_from_slice(format!("{:011o}", users.len()).as_bytes());
        archive.extend(users.bytes());
        archive.resize(2048, 0);
        assert_eq!(user_in(&archive, "postgres"), Some(RunAs { uid: 70, gid: 70 }));
        assert_eq!(user_in(&archive, "nobody"), None);
        for cut in [0, 100, 130, TAR_BLOCK, TAR_BLOCK + 10] {
            assert_eq!(user_in(&archive[..cut], "postgres"), None, "{cut}");
        }
    }
}
