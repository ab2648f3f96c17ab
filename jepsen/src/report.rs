//! Results and pictures of a run.
