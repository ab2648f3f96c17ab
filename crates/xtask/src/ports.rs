//! Which ports are taken, and by whom.

use std::fs;
use std::net::{SocketAddr, TcpListener};

use crate::cluster::process::Process;

/// Returns whether nothing listens there.
pub(crate) fn is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

/// Returns who listens on a port, as far as we may know.
pub(crate) fn owner(port: u16) -> Option<Process> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let inode = tables
        .iter()
        .find_map(|table| listener_inode(&fs::read_to_string(table).unwrap_or_default(), port))?;
    let link = format!("socket:[{inode}]");
    Process::all().into_iter().find(|process| {
        let files = fs::read_dir(format!("/proc/{}/fd", process.pid));
        files.into_iter().flatten().flatten().any(|file| {
            fs::read_link(file.path()).is_ok_and(|target| target.to_string_lossy() == link)
        })
    })
}

/// Finds the inode of the socket that listens on a port, in the format of `/proc/net/tcp`.
fn listener_inode(table: &str, port: u16) -> Option<u64> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let its_port = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
        (its_port == port && *state == LISTEN).then(|| inode.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1CE9 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 11 1
   1: 0100007F:1CE9 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 42 1
";

    #[test]
    fn the_listener_is_found_not_its_connections() {
        assert_eq!(listener_inode(TABLE, 7401), Some(42));
        assert_eq!(listener_inode(TABLE, 7402), None);
        assert_eq!(listener_inode("", 7402), None);
    }

    #[test]
    fn a_taken_port_names_its_owner() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(!is_free(address));
        let pid = i32::try_from(std::process::id()).unwrap();
        assert_eq!(owner(address.port()).map(|process| process.pid), Some(pid));
        drop(listener);
        assert!(is_free(address));
    }
}
