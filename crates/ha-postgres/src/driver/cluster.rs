//! What a whole cluster wants of its servers, and what came of it on one of them.

use std::collections::BTreeMap;

/// Parameters and rules who may log in that all servers of a cluster share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterConf {
    /// Parameters of every server, by name in lower case.
    pub everywhere: BTreeMap<String, String>,
    /// Those of the primary; they replace the ones of every server.
    pub primary: BTreeMap<String, String>,
    /// Those of a standby.
    pub standby: BTreeMap<String, String>,
    /// Rules of `pg_hba.conf`, in their order.
    pub rules: Vec<String>,
}

impl ClusterConf {
    /// Returns the parameters of a server in that role.
    #[must_use]
    pub fn values(&self, standby: bool) -> BTreeMap<&str, &str> {
        let role = if standby { &self.standby } else { &self.primary };
        let all = self.everywhere.iter().chain(role);
        all.map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }
}

/// What came of it on a running server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterApplied {
    /// Whether files were written or settings reset.
    pub changed: bool,
    /// What `ALTER SYSTEM` had set instead: taken back.
    pub reset: Vec<String>,
    /// Parameters that wait for a restart.
    pub pending: Vec<Pending>,
    /// Parameters of which the node has its own value, in its agent's configuration: that one counts.
    pub own: Vec<String>,
    /// Set if the server runs with what it last ran well with, because it would not take what is wanted.
    pub fallen_back: Option<String>,
}

/// A parameter that waits for a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Its name.
    pub name: String,
    /// Which order of restarts it asks for.
    pub change: PendingChange,
}

/// Which order of restarts a change asks for (rule 65).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PendingChange {
    /// A standby must have as much as the primary, and gets more: standbys first.
    Grows,
    /// It gets less: the primary first.
    Shrinks,
    /// In any order.
    Other,
}

/// What a server says of a value that a parameter is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// In force after its files were read again.
    Reload,
    /// In force after a restart.
    Restart,
    /// Of an extension that is not loaded: nobody can say more.
    Unchecked,
    /// It would not take it, and why.
    Refused(String),
}
