//! The lease, the permit and the WAL quorum as a small model whose states are all visited.
