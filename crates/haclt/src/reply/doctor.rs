//! What an examination of the nodes found.

use ha_core::NodeId;
use ha_proto::v1;

use super::{MalformedReply, filled, name, optional_name, plain, text};

/// What all checks found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examination {
    /// One for each check on each node, the worst first.
    pub findings: Vec<Finding>,
    /// The node that asked the others.
    pub answered_by: Option<NodeId>,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which check.
    pub id: String,
    /// On which node.
    pub node: NodeId,
    /// How bad it is.
    pub severity: Severity,
    /// What was measured.
    pub evidence: String,
    /// What mends it.
    pub mend: Option<String>,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is wrong.
    Ok,
    /// Only to be known; or it could not be checked.
    Note,
    /// To be mended when there is time.
    Warning,
    /// To be mended now.
    Critical,
}

impl Severity {
    /// Returns the word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl Examination {
    /// Returns how many findings are of that severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// Returns whether nothing is to be mended: notes are not.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity <= Severity::Note)
    }
}

impl TryFrom<v1::DoctorReply> for Examination {
    type Error = MalformedReply;

    fn try_from(wire: v1::DoctorReply) -> Result<Self, MalformedReply> {
        let v1::DoctorReply { findings, answered_by, facts: _, clocks: _ } = wire;
        let mut findings = findings.iter().map(Finding::try_from).collect::<Result<Vec<_>, _>>()?;
        findings.sort_by(|a, b| {
            let worst = b.severity.cmp(&a.severity);
            worst.then_with(|| (&a.id, &a.node, &a.evidence).cmp(&(&b.id, &b.node, &b.evidence)))
        });
        Ok(Self { findings, answered_by: optional_name(&answered_by)? })
    }
}

impl TryFrom<&v1::DoctorFinding> for Finding {
    type Error = MalformedReply;

    fn try_from(wire: &v1::DoctorFinding) -> Result<Self, MalformedReply> {
        // What we do not know is not taken lightly.
        let known = [Severity::Ok, Severity::Note, Severity::Warning];
        let severity = known.into_iter().find(|known| known.word() == wire.severity);
        Ok(Self {
            id: filled(&wire.id, "id")?,
            node: name(&wire.node)?,
            severity: severity.unwrap_or(Severity::Critical),
            evidence: plain(&wire.evidence),
            mend: text(&wire.mend),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(id: &str, node: &str, severity: &str) -> v1::DoctorFinding {
        v1::DoctorFinding {
            id: id.into(),
            node: node.into(),
            severity: severity.into(),
            ..Default::default()
        }
    }

    fn read(findings: Vec<v1::DoctorFinding>) -> Result<Examination, MalformedReply> {
        Examination::try_from(v1::DoctorReply { findings, ..Default::default() })
    }

    #[test]
    fn the_worst_comes_first_and_checks_stay_together() {
        let all = read(vec![
            wire("a", "n1", "ok"),
            wire("c", "n2", "warning"),
            wire("b", "n3", "critical"),
            wire("c", "n1", "warning"),
            wire("d", "n1", "note"),
        ]);
        let all = all.unwrap();
        let order: Vec<_> = all.findings.iter().map(|f| format!("{} {}", f.id, f.node)).collect();
        assert_eq!(order, ["b n3", "c n1", "c n2", "d n1", "a n1"]);
        assert_eq!((all.count(Severity::Warning), all.is_well()), (2, false));
        assert!(read(vec![wire("d", "n1", "note"), wire("a", "n1", "ok")]).unwrap().is_well());
    }

    #[test]
    fn what_is_not_known_is_not_taken_lightly() {
        let severity = |word| read(vec![wire("a", "n1", word)]).unwrap().findings[0].severity;
        assert_eq!([severity("ok"), severity("fatal")], [Severity::Ok, Severity::Critical]);
        assert_eq!(severity(""), Severity::Critical);
        assert!(read(vec![wire("", "n1", "ok")]).is_err());
        assert!(read(vec![wire("a", "", "ok")]).is_err());
    }
}
