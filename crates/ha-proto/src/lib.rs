//! The gRPC contract of haclt, generated from `proto/`, and its conversions to core types.

/// Package `ha.v1`: generated code.
#[expect(
    missing_docs,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code; its documentation stands in the .proto files"
)]
pub mod v1 {
    tonic::include_proto!("ha.v1");
}

/// The compiled descriptors, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The version of the agent protocol: raised when agents of two versions cannot work together.
pub const PROTOCOL: u32 = 2;

impl From<ha_core::WalPosition> for v1::WalPosition {
    fn from(position: ha_core::WalPosition) -> Self {
        Self { timeline: position.timeline.0, lsn: position.lsn.0 }
    }
}

impl From<v1::WalPosition> for ha_core::WalPosition {
    fn from(position: v1::WalPosition) -> Self {
        Self { timeline: ha_core::TimelineId(position.timeline), lsn: ha_core::Lsn(position.lsn) }
    }
}
