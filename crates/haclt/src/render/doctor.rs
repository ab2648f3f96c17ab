//! What an examination found, for people.

use crate::reply::doctor::{Examination, Finding, Severity};

/// Returns the findings by severity and check, the worst first, then how many there are; what is well
/// is only counted unless `verbose` says otherwise.
#[must_use]
pub fn examination(examination: &Examination, verbose: bool) -> String {
    let mut text = String::new();
    let shown = |finding: &&Finding| verbose || finding.severity != Severity::Ok;
    let mut group: Option<(Severity, &str)> = None;
    for finding in examination.findings.iter().filter(shown) {
        let of = (finding.severity, finding.id.as_str());
        if group != Some(of) {
            text.extend([finding.severity.word(), "  ", &finding.id, "\n"]);
            group = Some(of);
        }
        text.push_str(&format_line(finding));
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(&summary(examination));
    text
}

fn format_line(finding: &Finding) -> String {
    let Finding { node, evidence, mend, .. } = finding;
    let mend = mend.as_ref().map_or(String::new(), |mend| format!("      mend: {mend}\n"));
    format!("  {node}  {evidence}\n{mend}")
}

fn summary(examination: &Examination) -> String {
    let count = |severity, one: &str, many: &str| {
        let number = examination.count(severity);
        format!("{number} {}", if number == 1 { one } else { many })
    };
    let checks = examination.findings.len();
    let checks = format!("{checks} {}", if checks == 1 { "check" } else { "checks" });
    let critical = count(Severity::Critical, "critical", "critical");
    let warnings = count(Severity::Warning, "warning", "warnings");
    let notes = count(Severity::Note, "note", "notes");
    format!("{checks}: {critical}, {warnings}, {notes}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity, id: &str, node: &str, mend: Option<&str>) -> Finding {
        Finding {
            id: id.to_owned(),
            node: node.parse().unwrap(),
            severity,
            evidence: format!("measured on {node}"),
            mend: mend.map(str::to_owned),
        }
    }

    #[test]
    fn findings_of_one_check_stand_together_and_what_is_well_is_counted() {
        let findings = vec![
            finding(Severity::Critical, "peer-unreachable", "n1", Some("start it")),
            finding(Severity::Critical, "peer-unreachable", "n2", None),
            finding(Severity::Note, "clock-offset", "n1", None),
            finding(Severity::Ok, "disk-low", "n1", None),
        ];
        let all = Examination { findings, answered_by: None };
        let begin = "\
critical  peer-unreachable
  n1  measured on n1
      mend: start it
  n2  measured on n2
note  clock-offset
  n1  measured on n1
";
        let end = "\n4 checks: 2 critical, 0 warnings, 1 note\n";
        assert_eq!(examination(&all, false), format!("{begin}{end}"));
        let well = "ok  disk-low\n  n1  measured on n1\n";
        assert_eq!(examination(&all, true), format!("{begin}{well}{end}"));
        let none = Examination { findings: vec![], answered_by: None };
        assert_eq!(examination(&none, false), "0 checks: 0 critical, 0 warnings, 0 notes\n");
    }
}
