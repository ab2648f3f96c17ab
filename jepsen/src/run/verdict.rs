//! What a run showed: every checker's word, and one for all.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use ha_tests::logs;
use serde_json::json;

use super::Options;
use super::torment::{Happened, Story};
use crate::harness::{Harness, Trying as _};
use crate::nemesis::{Fault, Outcome, Plan};

/// For so long after its disk was full an agent may still end of it.
const FULL_EXCUSES: Duration = Duration::from_secs(5);

/// A word on a run, or on one aspect of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Word {
    /// It is told, and counts neither for the run nor against it.
    Info,
    /// Nothing that was looked for was found.
    Valid,
    /// It could not be decided.
    Unknown,
    /// Something forbidden happened.
    Invalid,
}

impl Word {
    /// Returns it as it is printed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "INFO",
            Self::Valid => "valid",
            Self::Unknown => "unknown",
            Self::Invalid => "INVALID",
        }
    }

    /// Returns the exit code of a run that ended with it.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Info | Self::Valid => 0,
            Self::Invalid => 1,
            Self::Unknown => 3,
        }
    }
}

/// What one checker says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// Its word.
    pub word: Word,
    /// Why, in one line.
    pub detail: String,
}

impl Check {
    /// Makes one.
    pub fn new(name: &str, word: Word, detail: impl Into<String>) -> Self {
        Self { name: name.to_owned(), word, detail: detail.into() }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<8} {:<16} {}", self.word.name(), self.name, self.detail)
    }
}

/// What all checkers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict(pub Vec<Check>);

impl Verdict {
    /// Returns the worst word.
    pub fn word(&self) -> Word {
        let words = self.0.iter().map(|check| check.word).filter(|word| *word != Word::Info);
        words.max().unwrap_or(Word::Unknown)
    }
}

/// What is known of a run beside its history.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// What it was to do.
    pub options: &'a Options,
    /// Its faults.
    pub plan: &'a Plan,
    /// How they went.
    pub story: &'a Story,
    /// How long the cluster took until it was healthy in the end; else what it says of itself.
    pub healed: &'a Result<Duration, String>,
    /// Whether the last reads were answered.
    pub read: bool,
    /// How long standbys took in the end to have what the primary had; else who has not.
    pub level: &'a Result<Duration, String>,
}

/// Judges what is no matter of the history.
///
/// # Errors
/// If the logs cannot be read.
pub fn judge(facts: &Facts, acks: &[Duration], dir: &Path) -> Result<Vec<Check>, Harness> {
    Ok(vec![
        faults(facts),
        healthy(facts),
        level(facts),
        alone(&facts.story.happened, acks),
        agents(facts.story),
        panics(dir, &facts.story.happened)?,
        acknowledged(acks),
    ])
}

/// Writes what was said of a run in short.
///
/// # Errors
/// If it cannot be written.
pub fn write(facts: &Facts, verdict: &Verdict, dir: &Path) -> Result<(), Harness> {
    let Facts { options, plan, story, healed, read, .. } = *facts;
    let checks: Vec<_> = verdict
        .0
        .iter()
        .map(|c| json!({ "name": c.name, "verdict": c.word.name(), "detail": c.detail }))
        .collect();
    let text = json!({
        "test": options.name(),
        "seed": options.seed,
        "seconds": options.seconds,
        "rate": options.rate,
        "script": plan.text(),
        "healed_ms": healed.as_ref().ok().map(Duration::as_millis),
        "last_reads": read,
        "faults": story.happened.len(),
        "verdict": verdict.word().name(),
        "checks": checks,
    });
    let text = serde_json::to_string_pretty(&text).trying(|| "write the summary".to_owned())?;
    std::fs::write(dir.join("summary.json"), text).trying(|| "write the summary".to_owned())
}

/// A run in which no fault was made says nothing of faults.
fn faults(facts: &Facts) -> Check {
    let happened = &facts.story.happened;
    let count =
        |wanted: fn(&Outcome) -> bool| happened.iter().filter(|h| wanted(&h.outcome)).count();
    let installed = count(|o| matches!(o, Outcome::Installed(_)));
    let skipped = count(|o| matches!(o, Outcome::Skipped(_)));
    let unsure = count(|o| matches!(o, Outcome::Indeterminate(_)));
    let text = format!("{installed} installed, {skipped} skipped, {unsure} indeterminate");
    let nothing = !facts.plan.0.is_empty() && installed == 0;
    Check::new("faults", if nothing { Word::Unknown } else { Word::Valid }, text)
}

fn healthy(facts: &Facts) -> Check {
    match facts.healed {
        Ok(took) if facts.read => {
            let text = format!("{} ms after everything was put right", took.as_millis());
            Check::new("healthy-again", Word::Valid, text)
        }
        Ok(_) => Check::new("healthy-again", Word::Invalid, "the last reads were not answered"),
        Err(said) => {
            let text = format!("it needs a human: {}", said.replace('\n', "; "));
            Check::new("healthy-again", Word::Invalid, text)
        }
    }
}

/// That a cluster calls itself healthy is its own word: its standbys must follow, too.
fn level(facts: &Facts) -> Check {
    match facts.level {
        Ok(took) => {
            let text = format!("standbys had all of it {} ms later", took.as_millis());
            Check::new("caught-up", Word::Valid, text)
        }
        Err(behind) => Check::new("caught-up", Word::Invalid, behind.clone()),
    }
}

/// A write must be acknowledged soon after each fault. One that another fault overlaps, or follows before there
/// was such a write, is not judged; nor one that ended so late that no write was looked for long enough.
fn alone(happened: &[Happened], acks: &[Duration]) -> Check {
    let made: Vec<&Happened> =
        happened.iter().filter(|h| !matches!(h.outcome, Outcome::Skipped(_))).collect();
    let last = acks.last().copied().unwrap_or_default();
    let (mut judged, mut worst, mut late) = (0, Duration::ZERO, Vec::new());
    for (at, fault) in made.iter().enumerate() {
        let limit = fault.to + fault.fault.recovery();
        let next = acks.iter().find(|ack| **ack >= fault.to).copied();
        let until = next.unwrap_or(limit).min(limit);
        let mut others = made.iter().enumerate().filter(|(other, _)| *other != at);
        let disturbed = others.any(|(_, other)| other.from < until && other.to > fault.from);
        if disturbed || (next.is_none() && last < limit) {
            continue;
        }
        judged += 1;
        match next.filter(|next| *next <= limit) {
            Some(next) => worst = worst.max(next.saturating_sub(fault.to)),
            None => late.push(format!("{} at {:.1} s", fault.fault.name(), fault.to.as_secs_f64())),
        }
    }
    if late.is_empty() {
        let text =
            format!("{judged} faults judged, a write at most {} ms later", worst.as_millis());
        return Check::new("after-faults", Word::Valid, text);
    }
    let text = format!("no write in time after the end of: {}", late.join(", "));
    Check::new("after-faults", Word::Invalid, text)
}

/// An agent may end by itself only where its own disk is full.
fn agents(story: &Story) -> Check {
    let excused = |node: &str, at: Duration| {
        story.happened.iter().any(|h| {
            h.fault == Fault::FullDiskRaft
                && h.node.as_deref() == Some(node)
                && (h.from..=h.to + FULL_EXCUSES).contains(&at)
        })
    };
    let (excused, ended): (Vec<_>, Vec<_>) =
        story.ended.iter().partition(|(node, at)| excused(node, *at));
    if ended.is_empty() {
        let text = match excused.len() {
            0 => "none ended by itself".to_owned(),
            times => format!("{times} ends, all where an agent's disk was full"),
        };
        return Check::new("agents", Word::Valid, text);
    }
    let ended: Vec<String> =
        ended.iter().map(|(node, at)| format!("{node} at {:.1} s", at.as_secs_f64())).collect();
    Check::new("agents", Word::Invalid, format!("ended by themselves: {}", ended.join(", ")))
}

/// PostgreSQL panics by design where it has no room for WAL; that is excused if a disk was full.
fn panics(dir: &Path, happened: &[Happened]) -> Result<Check, Harness> {
    let full = happened.iter().any(|h| h.fault == Fault::FullDiskData);
    let excused = |line: &str| full && line.contains("PANIC:") && line.contains("No space left");
    let logs_dir = dir.join("logs");
    let mut found = Vec::new();
    let entries = std::fs::read_dir(&logs_dir).trying(|| "read the logs".to_owned())?;
    for path in entries.flatten().map(|entry| entry.path()) {
        let text = logs::read(&path);
        let panics = text.lines().filter(|l| l.contains("panicked at") || l.contains("PANIC:"));
        let panics = panics.filter(|line| !excused(line));
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        found.extend(panics.map(|line| format!("{name}: {line}")));
    }
    Ok(match found.first() {
        None => Check::new("panics", Word::Valid, "none"),
        Some(first) => {
            Check::new("panics", Word::Invalid, format!("{}, the first: {first}", found.len()))
        }
    })
}

fn acknowledged(acks: &[Duration]) -> Check {
    let gaps = acks.windows(2).map(|two| two[1].saturating_sub(two[0]));
    let gap = gaps.max().unwrap_or_default();
    let text = format!("{} writes, longest gap {} ms", acks.len(), gap.as_millis());
    let word = if acks.len() < 10 { Word::Unknown } else { Word::Valid };
    Check::new("acknowledged", word, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn happened(fault: Fault, from: u64, to: u64) -> Happened {
        let outcome = Outcome::Installed(String::new());
        let (from, to) = (Duration::from_secs(from), Duration::from_secs(to));
        Happened { fault, node: None, outcome, from, to, end: String::new() }
    }

    fn acks(seconds: &[u64]) -> Vec<Duration> {
        seconds.iter().map(|s| Duration::from_secs(*s)).collect()
    }

    #[test]
    fn a_write_in_time_after_a_fault_is_enough_and_a_late_one_is_not() {
        let fault = [happened(Fault::KillAgent, 5, 10)];
        let word = |seconds: &[u64]| alone(&fault, &acks(seconds)).word;
        assert_eq!(word(&[1, 20]), Word::Valid);
        assert_eq!(word(&[1, 26]), Word::Invalid);
    }

    #[test]
    fn a_fault_that_was_not_alone_is_not_judged() {
        let two = [happened(Fault::KillAgent, 5, 10), happened(Fault::Ring, 12, 40)];
        let judged = |seconds: &[u64]| alone(&two, &acks(seconds)).detail;
        assert!(judged(&[41]).starts_with("1 faults judged"), "the first had no write before 12 s");
        assert!(judged(&[11, 41]).starts_with("2 faults judged"));
    }

    #[test]
    fn a_fault_after_which_nobody_looked_long_enough_is_not_judged() {
        let fault = [happened(Fault::KillAgent, 5, 10)];
        assert!(alone(&fault, &acks(&[4])).detail.starts_with("0 faults judged"));
    }

    #[test]
    fn an_agent_may_end_by_itself_only_where_its_own_disk_is_full() {
        let full = Happened { node: Some("n1".to_owned()), ..happened(Fault::FullDiskRaft, 5, 10) };
        let other = Happened { fault: Fault::FullDiskData, ..full.clone() };
        let ended = |node: &str, at: u64, fault: &Happened| {
            let ended = vec![(node.to_owned(), Duration::from_secs(at))];
            agents(&Story { happened: vec![fault.clone()], ended }).word
        };
        assert_eq!(ended("n1", 7, &full), Word::Valid);
        assert_eq!(ended("n2", 7, &full), Word::Invalid);
        assert_eq!(ended("n1", 4, &full), Word::Invalid);
        assert_eq!(ended("n1", 16, &full), Word::Invalid);
        assert_eq!(ended("n1", 7, &other), Word::Invalid);
    }

    #[test]
    fn a_server_may_panic_for_want_of_room_only_if_a_disk_was_full() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("logs")).unwrap();
        let line = "PANIC:  could not write to file: No space left on device";
        let word = |line: &str, fault| {
            std::fs::write(dir.path().join("logs/n1-log"), line).unwrap();
            panics(dir.path(), &[happened(fault, 1, 2)]).unwrap().word
        };
        assert_eq!(word(line, Fault::FullDiskData), Word::Valid);
        assert_eq!(word(line, Fault::SlowDiskData), Word::Invalid);
        assert_eq!(word("PANIC:  anything else", Fault::FullDiskData), Word::Invalid);
    }

    #[test]
    fn the_worst_word_is_the_word_of_all() {
        let verdict = |words: &[Word]| {
            Verdict(words.iter().map(|word| Check::new("c", *word, "")).collect()).word()
        };
        assert_eq!(verdict(&[Word::Valid, Word::Unknown]), Word::Unknown);
        assert_eq!(verdict(&[Word::Invalid, Word::Unknown]), Word::Invalid);
        assert_eq!(verdict(&[Word::Valid]).exit_code(), 0);
        assert_eq!(verdict(&[]), Word::Unknown);
        assert_eq!(verdict(&[Word::Info]), Word::Unknown);
        assert_eq!(verdict(&[Word::Info, Word::Valid]), Word::Valid);
    }
}
