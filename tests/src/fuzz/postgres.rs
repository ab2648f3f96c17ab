//! What PostgreSQL and its users wrote.

use ha_core::{Lsn, TimelineId};
use ha_postgres::fuzz_door;
use ha_postgres::parameters::{Described, check_own, check_rule};
use ha_postgres::pgbouncer::list;
use ha_postgres::wal::files::{WalName, history_name, segment_name};

use super::{choice, text};

/// The control file, as the server wrote it or as `pg_controldata` prints it: what is accepted can be counted with.
pub(super) fn control_file(data: &[u8]) {
    let (kind, rest) = choice(data);
    let read = match kind % 3 {
        0 => fuzz_door::control_text(&text(rest)),
        1 => fuzz_door::control_bytes(rest),
        _ => fuzz_door::control_bytes(&sealed_control_file(rest, kind / 3)),
    };
    match read {
        // PostgreSQL, `xlog_internal.h: IsValidWalSegSize`.
        Ok((_, bytes)) => {
            let right = bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes);
            assert!(right, "accepted segments of {bytes} bytes");
        }
        Err(why) => assert!(!why.is_empty()),
    }
}

/// Puts version, alignment, number format and checksum right.
fn sealed_control_file(bytes: &[u8], version: u8) -> Vec<u8> {
    let mut file = bytes.to_vec();
    file.resize(512, 0);
    let (version, sum_at) = [(1300_u32, 288), (1700, 288), (1800, 292)][usize::from(version % 3)];
    let mut put = |at: usize, value: &[u8]| file[at..at + value.len()].copy_from_slice(value);
    put(8, &version.to_le_bytes());
    put(204, &8_u32.to_le_bytes());
    put(208, &1_234_567.0_f64.to_le_bytes());
    let sum = crc32c::crc32c(&file[..sum_at]);
    file[sum_at..sum_at + 4].copy_from_slice(&sum.to_le_bytes());
    file
}

/// Names of files with WAL: what is read is written the same.
pub(super) fn wal_names(data: &[u8]) {
    let (shift, rest) = choice(data);
    let (text, size) = (text(rest), 1_u64 << (20 + shift % 11));
    match WalName::parse(&text) {
        Some(WalName::History(timeline)) => assert_eq!(history_name(timeline), text),
        Some(name @ WalName::Segment { partial, .. }) => {
            if let Some(number) = name.number(size) {
                let end = if partial { ".partial" } else { "" };
                assert_eq!(segment_name(name.timeline(), number, size) + end, text);
                assert!(number.checked_add(1).and_then(|next| next.checked_mul(size)).is_some());
            }
        }
        None => {}
    }
    if let Some((timeline, number, begin, next)) = fuzz_door::segment(&text, size) {
        let name = segment_name(timeline, number, size);
        let named = text.strip_suffix(".partial").unwrap_or(&text);
        assert!(name.eq_ignore_ascii_case(named), "{name} of {named}");
        assert_eq!(next.bytes_after(begin), size);
    }
}

/// Timeline history files: older first, and the same when written and read again.
pub(super) fn history(data: &[u8]) {
    let Ok(switches) = fuzz_door::history(&text(data)) else { return };
    assert!(switches.windows(2).all(|pair| pair[0].timeline < pair[1].timeline));
    let line = |timeline: TimelineId, end: Lsn| format!("{}\t{end}\tx\n", timeline.0);
    let written: String = switches.iter().map(|it| line(it.timeline, it.end)).collect();
    assert_eq!(fuzz_door::history(&written), Ok(switches));
}

/// Files of which haclt owns some lines only: doing it twice is doing it once.
pub(super) fn server_files(data: &[u8]) {
    let text = text(data);
    if let Some(changed) = fuzz_door::with_include(&text) {
        assert_eq!(fuzz_door::with_include(&changed), None, "{changed:?}");
    }
    if let Some(changed) = fuzz_door::stripped(&text) {
        assert!(changed.len() < text.len());
        assert_eq!(fuzz_door::stripped(&changed), None, "{changed:?}");
    }
    for databases in [vec![], vec!["app".to_owned(), "we\"b".to_owned(), "a=b".to_owned()]] {
        let once = list::pointed(&text, &databases, "10.0.0.1", 5432);
        assert_eq!(list::pointed(&once, &databases, "10.0.0.1", 5432), once);
    }
}

/// Rules of who may log in, and values of parameters.
pub(super) fn parameters(data: &[u8]) {
    let text = text(data);
    if check_rule(&text).is_ok() {
        assert!(!text.contains(['\n', '\r', '\0']), "{text:?} is more than one line");
        // What a server's tokenizer drops at the ends changes nothing.
        assert_eq!(check_rule(text.trim_matches([' ', '\t'])), Ok(()));
        assert_eq!(check_rule(&format!("{text} # a remark")), Ok(()));
    }
    let _own = check_own("max_connections", &text);
    for (kind, unit, min, max) in [
        ("bool", "", "", ""),
        ("integer", "kB", "64", "2147483647"),
        ("integer", "8kB", "16", "1073741823"),
        ("integer", "ms", "-1", "2147483647"),
        ("real", "", "0", "1.79769e+308"),
    ] {
        let described = Described {
            kind: kind.to_owned(),
            unit: unit.to_owned(),
            min: min.to_owned(),
            max: max.to_owned(),
            ..Described::default()
        };
        let verdict = described.check(&text);
        let spaced = described.check(&format!(" {text} "));
        assert_eq!(verdict.is_ok(), spaced.is_ok(), "{kind} {text:?}");
        if kind != "bool" && verdict.is_ok() {
            assert!(text.bytes().any(|b| b.is_ascii_digit()), "{text:?} is a number");
        }
    }
}
