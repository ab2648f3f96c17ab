//! When which fault comes: by a seed, or by a script.

use std::time::Duration;

use super::fault::{self, Fault};
use crate::random::Random;

/// Whom a fault is meant for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Who holds the lease when the fault comes.
    Primary,
    /// A standby.
    Standby,
    /// The witness.
    Witness,
    /// Some node, by chance.
    Any,
    /// The node of this name.
    Named(String),
}

/// One fault with its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// What is done.
    pub fault: Fault,
    /// To whom.
    pub target: Target,
    /// When, counted from the beginning.
    pub at: Duration,
    /// How long it lasts.
    pub lasts: Duration,
    /// Decides whatever is left to chance when it is made.
    pub seed: u64,
}

/// All faults of a run, by their time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan(pub Vec<Planned>);

/// Nothing happens before that: sessions are opened first.
const QUIET_BEFORE_MS: u64 = 4000;
/// In so many of a hundred cases the next fault comes while the last one lasts.
const OVERLAP_PERCENT: u64 = 35;

impl Plan {
    /// Draws faults for a run of that length.
    pub fn random(faults: &[Fault], seconds: u64, seed: u64) -> Self {
        let mut random = Random::new(seed, 0xFA);
        let end = seconds * 1000;
        let mut plan = Vec::new();
        let mut at = QUIET_BEFORE_MS;
        // Each fault once before any comes again: a short run has as many kinds as it has time for.
        let mut left: Vec<Fault> = Vec::new();
        while at < end {
            if left.is_empty() {
                left = faults.to_vec();
            }
            let Some(fault) = random.pick(&left).copied() else { break };
            left.retain(|other| *other != fault);
            let (low, high) = fault.span_ms();
            let lasts = random.between(low, high);
            let target = draw_target(&mut random);
            let seed = random.draw();
            let (at_d, lasts_d) = (Duration::from_millis(at), Duration::from_millis(lasts));
            plan.push(Planned { fault, target, at: at_d, lasts: lasts_d, seed });
            at += if random.percent(OVERLAP_PERCENT) {
                random.between(0, lasts)
            } else {
                lasts + random.between(1000, 7000)
            };
        }
        Self(plan)
    }

    /// Reads a script: faults separated by commas, each `FAULT[@TARGET]:SECOND+SECONDS`, such as
    /// `kill-agent@primary:5+4`. A target is `primary`, `standby`, `witness`, `any` or a node's name.
    ///
    /// # Errors
    /// The part that is not of that form.
    pub fn script(text: &str, seed: u64) -> Result<Self, String> {
        let mut random = Random::new(seed, 0xFB);
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let mut plan: Vec<Planned> =
            parts.map(|part| parse(part, random.draw())).collect::<Result<_, _>>()?;
        plan.sort_by_key(|planned| planned.at);
        Ok(Self(plan))
    }

    /// Returns the faults as a script that makes them again.
    pub fn text(&self) -> String {
        let seconds = |d: Duration| format!("{:.3}", d.as_secs_f64());
        let parts: Vec<String> = self
            .0
            .iter()
            .map(|p| {
                let (at, lasts) = (seconds(p.at), seconds(p.lasts));
                format!("{}@{}:{at}+{lasts}", p.fault.name(), p.target.name())
            })
            .collect();
        parts.join(",")
    }

    /// Returns whether any of the faults is of a kind.
    pub fn any(&self, kind: impl Fn(Fault) -> bool) -> bool {
        self.0.iter().any(|planned| kind(planned.fault))
    }
}

impl Target {
    fn name(&self) -> &str {
        match self {
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::Witness => "witness",
            Self::Any => "any",
            Self::Named(name) => name,
        }
    }
}

/// The primary is where most can go wrong.
fn draw_target(random: &mut Random) -> Target {
    match random.below(10) {
        0..=4 => Target::Primary,
        5..=6 => Target::Standby,
        7 => Target::Witness,
        _ => Target::Any,
    }
}

fn parse(part: &str, seed: u64) -> Result<Planned, String> {
    let wrong = || format!("{part:?} is not of the form FAULT[@TARGET]:SECOND+SECONDS");
    let (what, when) = part.split_once(':').ok_or_else(wrong)?;
    let (name, target) = what.split_once('@').unwrap_or((what, "primary"));
    let (at, lasts) = when.split_once('+').ok_or_else(wrong)?;
    let seconds = |text: &str| {
        let seconds: f64 = text.parse().map_err(|_| wrong())?;
        Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
    };
    let target = match target {
        "primary" => Target::Primary,
        "standby" => Target::Standby,
        "witness" => Target::Witness,
        "any" => Target::Any,
        other => Target::Named(other.to_owned()),
    };
    let (at, lasts) = (seconds(at)?, seconds(lasts)?);
    Ok(Planned { fault: fault::parse(name)?, target, at, lasts, seed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_plans_the_same_faults() {
        let faults = fault::parse_list("kill,pause").unwrap();
        let plan = Plan::random(&faults, 60, 7);
        assert_eq!(plan, Plan::random(&faults, 60, 7));
        assert_ne!(plan, Plan::random(&faults, 60, 8));
        assert!(plan.0.len() > 4, "{plan:?}");
        assert!(plan.0.iter().all(|p| p.at >= Duration::from_secs(4)));
    }

    #[test]
    fn a_run_without_faults_has_none() {
        assert_eq!(Plan::random(&[], 60, 7), Plan::default());
    }

    #[test]
    fn some_faults_of_a_long_run_overlap_and_some_do_not() {
        let plan = Plan::random(&fault::parse_list("all").unwrap(), 600, 3);
        let overlaps = plan.0.windows(2).filter(|two| two[1].at < two[0].at + two[0].lasts).count();
        assert!(overlaps > 5 && overlaps < plan.0.len() - 5, "{overlaps} of {}", plan.0.len());
    }

    #[test]
    fn a_script_is_read_as_it_is_written() {
        let plan = Plan::script("ring:9+1.5, kill-agent@n2:5+4", 1).unwrap();
        assert_eq!(plan.text(), "kill-agent@n2:5.000+4.000,ring@primary:9.000+1.500");
        assert_eq!(plan.0[0].target, Target::Named("n2".to_owned()));
        for wrong in ["ring", "ring:5", "ring:x+1", "rang:5+1", "ring:5+-1"] {
            assert!(Plan::script(wrong, 1).is_err(), "{wrong}");
        }
    }
}
