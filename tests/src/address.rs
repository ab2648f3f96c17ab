//! Addresses of a cluster's own: 127.x.y.1 and so on, so that no two clusters share a port.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Where a node runs.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its address.
    pub address: String,
    /// The command that runs another one there; empty for this machine's own network.
    pub enter: Vec<String>,
}

impl Host {
    /// Returns an address of this machine.
    pub fn at(address: String) -> Self {
        Self { address, enter: Vec::new() }
    }
}

/// A claimed range of loopback addresses, for as long as the value lives.
#[derive(Debug)]
pub struct Claim {
    _held: TcpListener,
    x: u8,
    y: u8,
}

/// Where a claim is held; no node listens there.
const CLAIM_PORT: u16 = 7399;
static NEXT: AtomicU32 = AtomicU32::new(0);

impl Claim {
    /// Claims a range that no other cluster on this machine has.
    #[expect(clippy::new_without_default, reason = "a claim is something one asks for")]
    pub fn new() -> Self {
        let start = std::process::id().wrapping_mul(61) + NEXT.fetch_add(1, Ordering::Relaxed);
        for step in 0..16_000 {
            let number = (start + step) % 16_000;
            let x = u8::try_from(64 + number / 250).expect("below 128");
            let y = u8::try_from(1 + number % 250).expect("below 251");
            if let Ok(held) = TcpListener::bind((Ipv4Addr::new(127, x, y, 254), CLAIM_PORT)) {
                return Self { _held: held, x, y };
            }
        }
        panic!("every range of loopback addresses is taken");
    }

    /// Returns the address of the `n`th node, counted from 1.
    pub fn node(&self, n: u8) -> String {
        Ipv4Addr::new(127, self.x, self.y, n).to_string()
    }
}
