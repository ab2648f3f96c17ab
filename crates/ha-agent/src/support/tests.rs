use proptest::prelude::*;
use tokio::sync::mpsc;

use super::*;

/// Collects what a sink sends.
fn sent(
    put: impl FnOnce(&mut Sink) -> Result<(), ReaderGone> + Send + 'static,
) -> Vec<SupportChunk> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let (sender, mut receiver) = mpsc::channel(CHUNKS_WAITING);
    let handle = runtime.handle().clone();
    let redactor = Redactor::knowing(["the known one"]);
    let thread = std::thread::spawn(move || {
        let mut sink = Sink { sender, runtime: handle, redactor, files: 0, bytes: 0 };
        put(&mut sink).expect("a reader");
    });
    let chunks = runtime.block_on(async {
        let mut chunks = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            chunks.push(chunk.expect("no error"));
        }
        chunks
    });
    thread.join().expect("no panic");
    chunks
}

#[test]
fn a_long_file_goes_in_parts_and_an_empty_one_in_one() {
    let chunks = sent(|sink| {
        let about = About { origin: "here", left_out: "a part" };
        sink.text("long", &about, &"x".repeat(CHUNK + 7))?;
        sink.text("empty", &About::default(), "")?;
        sink.absent("gone", "there", "the known one is not readable")
    });
    let seen: Vec<_> = chunks
        .iter()
        .map(|c| (c.file.as_str(), c.data.len(), c.origin.as_str(), c.absent))
        .collect();
    let expected = [
        ("long", CHUNK, "here", false),
        ("long", 7, "", false),
        ("empty", 0, "", false),
        ("gone", 0, "there", true),
    ];
    assert_eq!(seen, expected);
    assert_eq!(chunks[3].left_out, "[removed] is not readable");
}

#[test]
fn a_node_sends_no_more_than_its_bounds() {
    let chunks = sent(|sink| {
        sink.bytes = BYTES_MAX - 5;
        sink.text("fits", &About::default(), "12345")?;
        sink.text("does-not", &About::default(), "6")
    });
    assert_eq!((chunks[0].absent, chunks[1].absent), (false, true));
    assert!(chunks[1].left_out.contains("64 MiB"), "{}", chunks[1].left_out);
}

#[test]
fn a_reader_that_left_ends_it() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let (sender, receiver) = mpsc::channel(CHUNKS_WAITING);
    drop(receiver);
    let redactor = Redactor::default();
    let mut sink = Sink { sender, runtime: runtime.handle().clone(), redactor, files: 0, bytes: 0 };
    assert!(sink.text("x", &About::default(), "x").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_planted_secret_leaves_the_node(
        mark in "[A-Za-z0-9]{14}",
        place in 0..4_usize,
        filler in "([a-zA-Z: ]{0,30}\n){0,5}",
    ) {
        let line = match place {
            0 => format!("LOG:  statement: alter role x password '{mark}'"),
            1 => format!("FATAL:  could not connect: host=a password={mark} user=b"),
            2 => format!("primary_conninfo = 'host=a password=''{mark}'''"),
            _ => format!("the known one, ERROR:  {mark} is from a table"),
        };
        let text = server_log::without_data(&format!("{filler}{line}\n{filler}"));
        let chunks = sent(move |sink| sink.text("log", &About::default(), &text));
        let all: Vec<u8> = chunks.into_iter().flat_map(|chunk| chunk.data).collect();
        let all = String::from_utf8_lossy(&all).into_owned();
        prop_assert!(!all.contains(&mark) && !all.contains("the known one"), "{all}");
    }
}
