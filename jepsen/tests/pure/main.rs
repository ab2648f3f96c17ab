//! Histories, checkers and reports, by themselves: no cluster runs here.

#![allow(clippy::missing_panics_doc, clippy::unwrap_used, missing_docs, reason = "these are tests")]

mod anomalies;
mod brute;
mod build;
mod figures;
mod others;
mod pages;
mod simulated;
mod standbys;
mod written;
