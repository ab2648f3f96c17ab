//! Who a fault is about, found out when it comes.

use ha_tests::status;

use super::plan::Target;
use crate::env::place::Place;
use crate::random::Random;

/// Returns who holds the lease, as the first agent says that answers; none if nobody knows.
pub async fn holder(place: &Place) -> Option<String> {
    let status = place.status(|status| !status::holder(status).is_empty()).await?;
    Some(status::holder(&status).to_owned())
}

/// Returns a node for a target; only one with a database if `data` says so.
///
/// # Errors
/// Why there is none.
pub async fn resolve(
    place: &Place,
    target: &Target,
    data: bool,
    random: &mut Random,
) -> Result<String, String> {
    let fits = |name: &String| !data || place.has_database(name);
    let names = place.names();
    let all: Vec<String> = names.iter().filter(|name| fits(name)).cloned().collect();
    match target {
        Target::Named(name) if all.contains(name) => Ok(name.clone()),
        Target::Named(name) if names.contains(name) => Err(format!("{name} has no database")),
        Target::Named(name) => Err(format!("there is no node {name}")),
        // Who answered may not have heard yet that a node is no member any more.
        Target::Primary => {
            let holder = holder(place).await.filter(|holder| names.contains(holder));
            holder.ok_or_else(|| "there is no primary".to_owned())
        }
        Target::Standby => {
            let primary = holder(place).await.ok_or("nobody knows who is the primary")?;
            let mut standbys = place.data_nodes().into_iter();
            standbys.find(|name| *name != primary).ok_or_else(|| "no standby".to_owned())
        }
        // A fault that only a database can have is for some database then.
        Target::Witness if !data => {
            let mut witnesses = names.into_iter().filter(|name| !place.has_database(name));
            witnesses.next().ok_or_else(|| "there is no witness".to_owned())
        }
        Target::Witness | Target::Any => {
            random.pick(&all).cloned().ok_or_else(|| "there is no node".to_owned())
        }
    }
}
