//! The internal users, and where each node has their passwords.

use ha_core::NodeId;
use ha_proto::v1;

use super::{MalformedReply, filled, name, text};

/// What every node has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// By user, then by node.
    pub entries: Vec<CredentialEntry>,
}

/// What one node has of one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialEntry {
    /// The role.
    pub user: String,
    /// `superuser` or `replication`.
    pub purpose: String,
    /// The node.
    pub node: NodeId,
    /// The file with the password in use; none if the node did not answer.
    pub file: Option<String>,
    /// How long ago that was written, seconds.
    pub age_s: Option<u64>,
    /// Whether a new password waits beside it.
    pub half_way: bool,
    /// Which of them the node's own server takes.
    pub takes: String,
    /// `yes`, `no` or `unknown`: whether the primary's node has it too.
    pub agrees: String,
    /// Why something is not known.
    pub trouble: Option<String>,
}

impl TryFrom<v1::CredentialsShowReply> for Credentials {
    type Error = MalformedReply;

    fn try_from(wire: v1::CredentialsShowReply) -> Result<Self, MalformedReply> {
        let entries = wire.entries.into_iter().map(|entry| {
            Ok(CredentialEntry {
                user: filled(&entry.user, "user")?,
                purpose: filled(&entry.purpose, "purpose")?,
                node: name(&entry.node)?,
                file: text(&entry.file),
                age_s: entry.age_s,
                half_way: entry.half_way,
                takes: filled(&entry.takes, "takes")?,
                agrees: filled(&entry.agrees, "agrees")?,
                trouble: text(&entry.trouble),
            })
        });
        Ok(Self { entries: entries.collect::<Result<_, _>>()? })
    }
}
