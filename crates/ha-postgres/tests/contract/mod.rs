//! What every driver must do, whatever it runs the programs in.

mod checkups;
mod cluster_conf;
mod configuration;
mod credentials;
mod directories;
mod diverged;
mod guards;
mod lifecycle;
mod probes;
mod slots;
mod synchronous;
mod wal_end;
