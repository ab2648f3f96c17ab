//! The guard with real processes: fake postmasters made of shell, and `PostgreSQL` itself.

#![expect(
    clippy::unwrap_used,
    reason = "a test may panic wherever it finds what it did not expect"
)]

mod deadline;
mod life;
mod permits;
mod postgres;
mod stop;
mod world;
