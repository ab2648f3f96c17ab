//! One local PostgreSQL instance: the narrow driver trait, its implementations, probes and tools.

pub mod driver;
