//! Containers whose addresses stay the same, whatever becomes of them: for clients that are held to one server.

use std::fmt::Write as _;

use super::{Compose, SERVICES};

/// The network is that of the cluster's own engine: nobody else sees these.
const NETWORK: &str = "10.79.0";
/// The last number of the first container; that of the network's own end is 1.
const FIRST: usize = 11;

/// The address of the network's own end: who listens there is the engine's neighbour, and so are clients.
pub const GATEWAY: &str = "10.79.0.1";

/// Returns a container's address.
fn address(service: &str) -> Option<String> {
    let at = SERVICES.iter().position(|known| *known == service)?;
    Some(format!("{NETWORK}.{}", FIRST + at))
}

/// Returns the file of Compose that says so.
fn file() -> String {
    let mut text = format!(
        "networks:\n  cluster: {{ipam: {{config: [{{subnet: {NETWORK}.0/24}}]}}}}\nservices:\n"
    );
    for service in SERVICES {
        let address = address(service).expect("one of them");
        writeln!(text, "  {service}: {{networks: {{cluster: {{ipv4_address: {address}}}}}}}")
            .expect("a text");
    }
    text
}

impl Compose {
    /// Gives each container an address that it keeps, to which clients go from the beginning; before the first start.
    pub fn fix_addresses(&mut self) {
        self.add_file("addresses.yaml", &file());
        let known = |service: &&str| Some(((*service).to_owned(), address(service)?));
        self.addresses = SERVICES.iter().filter_map(known).collect();
    }

    /// Returns the address that a container keeps.
    pub fn fixed_address(&self, service: &str) -> String {
        self.addresses.get(service).expect("an address that was fixed").clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_container_has_an_address_of_its_own_and_the_file_says_which() {
        let all: std::collections::BTreeSet<_> = SERVICES.iter().map(|s| address(s)).collect();
        assert_eq!(all.len(), SERVICES.len());
        assert!(!all.contains(&None));
        assert_eq!(address("n9"), None);
        assert!(
            file().contains("  n1-postgres: {networks: {cluster: {ipv4_address: 10.79.0.14}}}")
        );
    }
}
