//! What a check found.

use std::fmt::Display;

/// Every check there is. `docs/doctor.md` explains each; none is ever renamed.
pub const IDS: [&str; 48] = [
    "agent-silent",
    "agent-trouble",
    "agent-version-differs",
    "archive-backlog",
    "archive-failing",
    "checksums-off",
    "clock-offset",
    "clock-rate",
    "configuration-differs",
    "credentials-differ",
    "credentials-half-way",
    "data-dir-open",
    "database-silent",
    "database-unreachable",
    "disk-low",
    "docker-trouble",
    "docker-unreachable",
    "fsync-off",
    "fsync-slow",
    "full-page-writes-off",
    "guard-margin-differs",
    "guard-not-real-time",
    "guard-silent",
    "inodes-low",
    "peer-slow",
    "peer-unreachable",
    "pending-restart",
    "permit-dir-not-tmpfs",
    "postgres-settings-differ",
    "postgres-version-differs",
    "prepared-old",
    "replication-refused",
    "rewind-impossible",
    "rewind-refused",
    "secret-readable",
    "slot-behind",
    "slot-inactive",
    "slot-lost",
    "slot-missing",
    "standby-lag",
    "standby-missing",
    "standby-not-streaming",
    "superuser-refused",
    "synchronous-differs",
    "transaction-age",
    "transaction-long",
    "wal-large",
    "witness-keeps-no-wal",
];

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Ok,
    /// To be known; also: it could not be checked.
    Note,
    /// The next fault may cost more than it has to.
    Warning,
    /// Something does not work, or will not when it is needed.
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

/// What one check found on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which check: a word that never changes.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// One line, with what was measured.
    pub evidence: String,
    /// What mends it; empty if there is nothing to mend.
    pub mend: String,
}

impl Finding {
    /// All is well.
    pub fn ok(id: &'static str, evidence: impl Display) -> Self {
        Self::new(id, Severity::Ok, evidence, "")
    }

    /// Only to be known.
    pub fn note(id: &'static str, evidence: impl Display, mend: impl Display) -> Self {
        Self::new(id, Severity::Note, evidence, mend)
    }

    /// To be mended when there is time.
    pub fn warning(id: &'static str, evidence: impl Display, mend: impl Display) -> Self {
        Self::new(id, Severity::Warning, evidence, mend)
    }

    /// To be mended now.
    pub fn critical(id: &'static str, evidence: impl Display, mend: impl Display) -> Self {
        Self::new(id, Severity::Critical, evidence, mend)
    }

    /// The check could not be made.
    pub fn unchecked(id: &'static str, why: impl Display) -> Self {
        Self::new(id, Severity::Note, format!("could not check: {why}"), "")
    }

    /// Found by one of three thresholds: critical, else a warning, else all is well.
    pub fn graded(
        id: &'static str,
        critical: bool,
        warning: bool,
        evidence: impl Display,
        mend: impl Display,
    ) -> Self {
        match (critical, warning) {
            (true, _) => Self::critical(id, evidence, mend),
            (false, true) => Self::warning(id, evidence, mend),
            (false, false) => Self::ok(id, evidence),
        }
    }

    fn new(
        id: &'static str,
        severity: Severity,
        evidence: impl Display,
        mend: impl Display,
    ) -> Self {
        #[cfg(test)]
        assert!(IDS.contains(&id), "check {id} is not listed");
        let line = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
        Self { id, severity, evidence: line(evidence.to_string()), mend: mend.to_string() }
    }
}

/// Returns a size in the largest unit of which there is at least one.
#[must_use]
pub fn size(bytes: u64) -> String {
    let units = [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} B"),
    }
}

/// Returns a time in milliseconds, with two decimals below ten.
#[must_use]
pub fn ms(time: std::time::Duration) -> String {
    let exact = time.as_secs_f64() * 1000.0;
    if exact < 10.0 { format!("{exact:.2} ms") } else { format!("{exact:.0} ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_is_one_line() {
        assert_eq!(Finding::ok("disk-low", "a\n b").evidence, "a b");
        assert_eq!(Finding::unchecked("disk-low", "why").severity, Severity::Note);
    }

    #[test]
    fn every_check_is_explained_to_operators() {
        assert!(IDS.is_sorted(), "and none is listed twice");
        let page = include_str!("../../../../docs/doctor.md");
        let missing = IDS.iter().filter(|id| !page.contains(&format!("`{id}`")));
        assert_eq!(missing.collect::<Vec<_>>(), Vec::<&&str>::new());
    }

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!([size(0), size(1023), size(1536)], ["0 B", "1023 B", "1.5 KiB"]);
        assert_eq!([size(5 << 30), size(u64::MAX)], ["5.0 GiB", "16777215.9 TiB"]);
        let ms = |micros| ms(std::time::Duration::from_micros(micros));
        assert_eq!([ms(420), ms(9994), ms(12_345)], ["0.42 ms", "9.99 ms", "12 ms"]);
    }
}
