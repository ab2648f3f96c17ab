//! What an examination found, for programs.

use ha_core::NodeId;
use serde::Serialize;

use super::{Layout, object};
use crate::reply::doctor::{Examination, Finding, Severity};

#[derive(Serialize)]
struct Shown<'a> {
    answered_by: Option<&'a NodeId>,
    checks: usize,
    critical: usize,
    warnings: usize,
    notes: usize,
    findings: Vec<Found<'a>>,
}

#[derive(Serialize)]
struct Found<'a> {
    id: &'a str,
    node: &'a NodeId,
    severity: &'a str,
    evidence: &'a str,
    mend: Option<&'a str>,
}

/// Returns all findings, those of what is well included, as one JSON object and a line feed.
#[must_use]
pub fn examination(examination: &Examination, layout: Layout) -> String {
    let shown = Shown {
        answered_by: examination.answered_by.as_ref(),
        checks: examination.findings.len(),
        critical: examination.count(Severity::Critical),
        warnings: examination.count(Severity::Warning),
        notes: examination.count(Severity::Note),
        findings: examination.findings.iter().map(found).collect(),
    };
    object(&shown, layout)
}

fn found(finding: &Finding) -> Found<'_> {
    let Finding { id, node, severity, evidence, mend } = finding;
    Found { id, node, severity: severity.word(), evidence, mend: mend.as_deref() }
}
