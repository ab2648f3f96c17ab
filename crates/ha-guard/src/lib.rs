//! The dead-man's switch: starts and kills `PostgreSQL` by the permit alone.
//!
//! The guard is the only parent of a `PostgreSQL` instance. It reads the permit that the agent
//! writes, and makes sure that a primary cannot acknowledge anything once its right has ended,
//! whether the agent is alive, frozen or dead.
//!
//! - [`decide`] holds the whole judgement, without I/O: what is remembered and what is seen go in,
//!   one action comes out;
//! - [`run`] is the loop around it; its thread touches no disk while `PostgreSQL` runs, so that a
//!   stalled disk cannot stall the switch;
//! - [`files`] is the second thread: it reads the permit and writes the status, and in a container
//!   sends the signals that the agent cannot send there ([`signals`]);
//! - [`plan`] is what is started, fixed or told by a file;
//! - [`tree`] finds and kills processes, [`spawn`] starts them, [`steady`] keeps the guard itself
//!   running under pressure, [`cli`] reads the command line.

pub mod cli;
pub mod decide;
pub mod files;
pub mod plan;
pub mod run;
#[cfg(feature = "sabotage")]
pub mod sabotage;
pub mod signals;
pub mod spawn;
pub mod steady;
pub mod tree;
