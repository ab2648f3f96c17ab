use super::super::made::{FORM, Made, Memory, SEGMENT, Writer, in_page_header};
use super::*;

fn walk(writer: &Writer, bytes: &[u8], limit: Option<Lsn>) -> ScannedEnd {
    let memory = Memory { begin: writer.begin, bytes };
    let newest = TimelineId(writer.timeline);
    let mut scanner = Scanner::new(memory, FORM, newest, limit);
    scanner.walk(writer.begin, writer.begin + SEGMENT).unwrap().into_end()
}

/// Records of all shapes over four pages, zeros behind them.
fn small() -> (Writer, Vec<Made>) {
    let mut writer = Writer::new(3, 1);
    let mut made = Vec::new();
    for body in [0, 1, 90, 5000, 3000, 100, 8, 9000, 17, 4242, 33] {
        made.push(writer.record(body));
    }
    // One that ends exactly with a page, one whose header is split over two.
    let room = usize::try_from(PAGE - writer.at() % PAGE).unwrap();
    made.push(writer.record(room - 24 - 8));
    made.push(writer.record(50));
    (writer, made)
}

fn padded(writer: &Writer) -> Vec<u8> {
    let mut bytes = writer.bytes.clone();
    bytes.resize(usize::try_from(SEGMENT).unwrap(), 0);
    bytes
}

#[test]
fn the_end_is_where_the_next_record_would_begin() {
    let (writer, _) = small();
    let end = walk(&writer, &padded(&writer), None);
    assert_eq!(end, ScannedEnd { end: Lsn(writer.at()), why: StoppedBy::Zeros });
    assert!(end.end.0.is_multiple_of(8));
}

#[test]
fn a_flipped_byte_is_noticed_wherever_it_is_in_a_record() {
    let (writer, made) = small();
    let mut bytes = writer.bytes.clone();
    bytes.resize(bytes.len() + 20_000, 0);
    let whole = Lsn(writer.at());
    for flip in [0x01, 0x80, 0xFF] {
        for index in 0..writer.bytes.len() + 64 {
            let at = writer.begin + index as u64;
            bytes[index] ^= flip;
            let got = walk(&writer, &bytes, None);
            bytes[index] ^= flip;
            assert!(got.end <= whole, "{}: {got:?}", Lsn(at));
            let hit = made.iter().find(|made| (made.begin..made.end).contains(&at));
            if let Some(hit) = hit.filter(|_| !in_page_header(at)) {
                // A page's header lies before its first record, inside the position that is its end.
                let latest = if in_page_header(hit.begin - 1) { hit.begin - 24 } else { hit.begin };
                assert!(got.end.0 <= latest.max(hit.begin - 40), "{}: {got:?}", Lsn(at));
                let silent = matches!(got.why, StoppedBy::Zeros | StoppedBy::Bound);
                assert!(!silent, "{}: {got:?}", Lsn(at));
            } else if at >= whole.0 {
                assert_eq!(got.end, whole, "{}", Lsn(at));
            }
        }
    }
    assert_eq!(walk(&writer, &bytes, None).end, whole);
}

#[test]
fn a_cut_never_gives_an_end_beyond_it() {
    let (writer, made) = small();
    let bytes = padded(&writer);
    let ends: Vec<u64> = made.iter().map(|made| made.end.next_multiple_of(8)).collect();
    for length in (0..writer.bytes.len() + 300).step_by(100).chain(writer.bytes.len() - 40..) {
        if length > writer.bytes.len() + 300 {
            break;
        }
        let cut = writer.begin + length as u64;
        let whole = ends.iter().copied().filter(|end| *end <= cut).max().unwrap_or(writer.begin);
        let by_file = walk(&writer, &bytes[..length], None);
        let by_limit = walk(&writer, &bytes, Some(Lsn(cut)));
        for got in [by_file, by_limit] {
            assert_eq!(got.end, Lsn(whole), "cut at {}: {got:?}", Lsn(cut));
        }
    }
}

#[test]
fn what_was_never_written_to_its_end_is_incomplete_and_not_damaged() {
    let (mut writer, _) = small();
    let whole = Lsn(writer.at());
    let last = writer.record(20_000);
    for missing in [1, 100, 9000, 19_999, 20_020] {
        let mut bytes = padded(&writer);
        let from = usize::try_from(last.end - missing - writer.begin).unwrap();
        bytes[from..].fill(0);
        let expected = ScannedEnd { end: whole, why: StoppedBy::Incomplete };
        assert_eq!(walk(&writer, &bytes, None), expected, "{missing} bytes are missing");
    }
}

#[test]
fn a_record_that_was_given_up_is_stepped_over() {
    let (mut writer, _) = small();
    let whole = writer.at();
    let previous = writer.previous;
    let given_up = writer.record(20_000);
    // Its rest never came: after the crash the server wrote on with the next page.
    let page = given_up.begin.next_multiple_of(PAGE);
    writer.pad_to(page);
    assert_eq!(walk(&writer, &padded(&writer), None).end, Lsn(whole));
    writer.previous = previous;
    writer.overwriting_record(40);
    writer.record(60);
    let expected = ScannedEnd { end: Lsn(writer.at()), why: StoppedBy::Zeros };
    assert_eq!(walk(&writer, &padded(&writer), None), expected);
}

#[test]
fn a_switch_record_takes_up_its_segment() {
    let (mut writer, _) = small();
    let switch = writer.record_of(0, 0x40, 0);
    let bytes = padded(&writer);
    let end = Lsn(writer.begin + SEGMENT);
    assert_eq!(walk(&writer, &bytes, None), ScannedEnd { end, why: StoppedBy::Bound });
    // Where the rest of the segment is missing, no more is claimed than what is there.
    let cut = ScannedEnd { end: Lsn(switch.end), why: StoppedBy::Incomplete };
    assert_eq!(walk(&writer, &bytes[..writer.bytes.len()], None), cut);
    assert_eq!(walk(&writer, &bytes, Some(Lsn(switch.end + 8))), cut);
}

#[test]
fn a_page_of_an_older_place_ends_the_scan() {
    let (mut writer, _) = small();
    let room = usize::try_from(PAGE - writer.at() % PAGE).unwrap();
    writer.record(room - 24);
    let end = Lsn(writer.at());
    let mut older = Writer::new(2, 1);
    for _ in 0..20 {
        older.record(3000);
    }
    let mut bytes = padded(&older);
    bytes[..writer.bytes.len()].copy_from_slice(&writer.bytes);
    let expected = ScannedEnd { end, why: StoppedBy::OldPage };
    assert_eq!(walk(&writer, &bytes, None), expected);
}

#[test]
fn a_newer_timeline_is_believed_only_as_far_as_the_file_is_of_it() {
    let (mut writer, _) = small();
    let room = usize::try_from(PAGE - writer.at() % PAGE).unwrap();
    writer.record(room - 24);
    let fork = Lsn(writer.at());
    writer.timeline = 2;
    writer.record(100);
    assert_eq!(walk(&writer, &padded(&writer), None).end, Lsn(writer.at()));
    let bytes = padded(&writer);
    writer.timeline = 1;
    let got = walk(&writer, &bytes, None);
    assert_eq!(got.end, fork);
    assert!(matches!(got.why, StoppedBy::Damaged(_)), "{got:?}");
}

fn long_record() -> (Writer, Made, tempfile::TempDir) {
    let mut writer = Writer::new(3, 1);
    writer.record(100);
    let long = writer.record(2 * usize::try_from(SEGMENT).unwrap() + 5000);
    let dir = tempfile::tempdir().unwrap();
    (writer, long, dir)
}

#[test]
fn a_record_longer_than_a_segment_is_read_from_its_beginning() {
    let (mut writer, long, dir) = long_record();
    writer.files(dir.path(), true);
    let ends = |segment| end_of_records(dir.path(), TimelineId(1), segment, None).unwrap();
    let (end, begin) = (Lsn(writer.at()), Lsn(long.begin));
    assert_eq!(ends(3), ScannedEnd { end, why: StoppedBy::Bound });
    assert_eq!(ends(4), ScannedEnd { end, why: StoppedBy::Bound });
    assert_eq!(ends(5), ScannedEnd { end, why: StoppedBy::Zeros });
    // A hole in its last part, which page headers alone would not show.
    let file = dir.path().join("000000010000000000000005.partial");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[4000..].fill(0);
    std::fs::write(&file, &bytes).unwrap();
    assert_eq!(ends(5), ScannedEnd { end: begin, why: StoppedBy::Incomplete });
    // Without its beginning nobody can tell.
    std::fs::remove_file(dir.path().join("000000010000000000000003")).unwrap();
    let unproven = ScannedEnd { end: Lsn(5 * SEGMENT), why: StoppedBy::Incomplete };
    assert_eq!(ends(5), unproven);
    std::fs::remove_file(dir.path().join("000000010000000000000004")).unwrap();
    assert_eq!(ends(5), unproven);
    // A record behind it shows that it was written.
    writer.record(10);
    writer.files(dir.path(), true);
    std::fs::remove_file(dir.path().join("000000010000000000000004")).unwrap();
    assert_eq!(ends(5), ScannedEnd { end: Lsn(writer.at()), why: StoppedBy::Zeros });
}

#[test]
fn a_record_that_goes_on_in_a_missing_segment_is_incomplete() {
    let (writer, long, dir) = long_record();
    writer.files(dir.path(), false);
    std::fs::remove_file(dir.path().join("000000010000000000000005")).unwrap();
    let expected = ScannedEnd { end: Lsn(long.begin), why: StoppedBy::Incomplete };
    for segment in [3, 4] {
        let got = end_of_records(dir.path(), TimelineId(1), segment, None).unwrap();
        assert_eq!(got, expected, "segment {segment}");
    }
    let cut = Lsn(3 * SEGMENT + 64);
    let got = end_of_records(dir.path(), TimelineId(1), 3, Some(cut)).unwrap();
    assert!(got.end <= cut, "{got:?}");
}

#[test]
fn a_first_page_that_is_none_is_an_error_that_names_the_file() {
    let (writer, _) = small();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("000000010000000000000003");
    // Magic, flags, timeline, address, segment size, page size.
    for (index, byte) in [(0, 0x11), (2, 0), (7, 1), (14, 9), (34, 0x11), (36, 1)] {
        let mut bytes = padded(&writer);
        bytes[index] = byte;
        std::fs::write(&file, &bytes).unwrap();
        let got = end_of_records(dir.path(), TimelineId(1), 3, None);
        let text = got.map_err(|error| error.to_string());
        let said = text.as_ref().is_err_and(|text| text.contains("000000010000000"));
        assert!(said, "byte {index}: {text:?}");
    }
    std::fs::write(&file, padded(&writer)).unwrap();
    let header = read_header(&file).unwrap();
    assert_eq!((header.start, header.timeline), (Lsn(3 * SEGMENT), TimelineId(1)));
    assert_eq!((header.major(), header.segment_bytes), (Some(15), SEGMENT));
    assert_eq!(header.system_identifier, FORM.system_identifier);
    for length in [0, 1, 39] {
        std::fs::write(&file, &padded(&writer)[..length]).unwrap();
        assert!(read_header(&file).is_err(), "{length} bytes");
    }
    std::fs::write(&file, vec![0; 1 << 20]).unwrap();
    assert!(matches!(read_header(&file), Err(WalError::Empty { .. })));
}
