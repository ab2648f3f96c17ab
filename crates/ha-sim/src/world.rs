//! A deterministic world: clocks, network, disks and a PostgreSQL model, driven by one seed.
