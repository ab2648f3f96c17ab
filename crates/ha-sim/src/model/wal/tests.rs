use super::core::{InForce, Wal};
use super::{NOTHING_LOST, Wish};

#[test]
fn a_wal_says_what_both_have_in_common() {
    let wal = |records: &[u8]| records.iter().fold(Wal::default(), |wal, epoch| wal.with(*epoch));
    let (old, new) = (wal(&[1, 1, 1]), wal(&[1, 1, 2]));
    assert_eq!(old.shared(new), wal(&[1, 1]));
    assert!(wal(&[1, 1]).is_part_of(new) && !old.is_part_of(new));
    assert_eq!((new.len(), new.last(), new.first(2).last()), (3, 2, 1));
    assert_eq!(new.to_string(), "112");
}

#[test]
fn what_is_in_force_is_what_was_told() {
    let all = [Wish::Alone, Wish::Standby, Wish::OneOfTwo, Wish::Both];
    for primary in [0, 1] {
        for first in all {
            for second in all {
                let told = InForce::only(first.of(primary)).and(second.of(primary));
                let found: Vec<_> = told.all().collect();
                assert!(found.contains(&first.of(primary)) && found.contains(&second.of(primary)));
                assert_eq!(found.len(), if first == second { 1 } else { 2 });
            }
        }
    }
    assert_eq!(InForce::default().all().count(), 0, "{NOTHING_LOST}");
}
