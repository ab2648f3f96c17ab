//! Two nodes whose guards let them accept writes at once.
//!
//! Whether somebody noticed is another matter: a node that is cut off from all the others has a right that ends by
//! itself, and nobody may have been given the next one by then (`ARCHITECTURE.md`, I1).

use super::{Class, Verdict, seconds};
use crate::report::Lease;

/// Compares the times in which guards said that their servers ran with a right to accept writes.
///
/// A guard that was frozen says that of a time that is over, once it goes on: with `frozen_guards` what overlaps is told, and
/// does not make the run invalid.
#[must_use]
pub fn check(leases: &[Lease], frozen_guards: bool) -> Verdict {
    let mut verdict = Verdict::new("rights");
    verdict.figure("rights", leases.len() as u64);
    for (at, one) in leases.iter().enumerate() {
        for other in leases.iter().skip(at + 1).filter(|other| other.node != one.node) {
            let (first, then) =
                if one.from_ns <= other.from_ns { (one, other) } else { (other, one) };
            let until_ns = first.to_ns.min(then.to_ns);
            if until_ns <= then.from_ns {
                continue;
            }
            let text = format!(
                "{} had the right of epoch {} for {} ms after {} had that of epoch {}, at {}",
                first.node,
                first.epoch,
                (until_ns - then.from_ns) / 1_000_000,
                then.node,
                then.epoch,
                seconds(then.from_ns)
            );
            if frozen_guards {
                verdict.note(Class::TwoRights, Vec::new(), text);
            } else {
                verdict.find(Class::TwoRights, Vec::new(), text);
            }
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::Validity;

    fn lease(node: &str, epoch: u64, from_ms: u64, to_ms: u64) -> Lease {
        let (from_ns, to_ns) = (from_ms * 1_000_000, to_ms * 1_000_000);
        Lease { node: node.to_owned(), epoch, from_ns, to_ns }
    }

    #[test]
    fn rights_that_follow_each_other_are_well_whoever_has_them() {
        let leases =
            [lease("n1", 1, 0, 5000), lease("n2", 2, 5000, 9000), lease("n2", 3, 8000, 12_000)];
        let verdict = check(&leases, false);
        assert_eq!(verdict.valid, Validity::Valid);
        assert_eq!(verdict.line(), "rights 3");
    }

    #[test]
    fn a_right_that_outlives_the_next_one_s_beginning_is_found_in_whatever_order_they_are_told() {
        let mut leases = vec![lease("n2", 2, 4300, 9000), lease("n1", 1, 0, 5010)];
        for _ in 0..2 {
            let verdict = check(&leases, false);
            assert_eq!(verdict.valid, Validity::Invalid);
            let told = "two-rights: n1 had the right of epoch 1 for 710 ms after n2 had that of epoch 2, at 4.300 s";
            assert!(verdict.line().starts_with(told), "{}", verdict.line());
            leases.reverse();
        }
    }

    #[test]
    fn what_a_frozen_guard_said_is_told_and_does_not_count() {
        let leases = [lease("n1", 1, 0, 5010), lease("n2", 2, 4300, 9000)];
        let verdict = check(&leases, true);
        assert_eq!(verdict.valid, Validity::Valid);
        assert_eq!(verdict.line(), "rights 2, two-rights 1");
    }
}
