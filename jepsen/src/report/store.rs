//! Files of runs.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::markup::{escaped, page};
use super::{Run, check, leases, rates, timeline};
use crate::checker::logs::Log;
use crate::checker::{Finding, Outcome};
use crate::history::History;
use crate::history::codec::ReadError;
use crate::history::form::Form;

/// The history as it was recorded.
pub const HISTORY: &str = "history.jsonl";
/// What was asked of the run.
pub const RUN: &str = "run.json";
/// The verdict.
pub const RESULTS: &str = "results.json";
/// The directory of the agents' logs.
pub const LOGS: &str = "logs";

/// Why a run could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file.
    #[error("could not read or write {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is not what it should be.
    #[error("cannot understand {path}")]
    Json {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The history.
    #[error("cannot read the history {path}")]
    History {
        /// Which.
        path: PathBuf,
        /// Why.
        source: ReadError,
    },
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::File { path: path.to_owned(), source }
}

fn json(path: &Path) -> impl FnOnce(serde_json::Error) -> StoreError {
    move |source| StoreError::Json { path: path.to_owned(), source }
}

/// Returns where a run is stored. Characters that a path cannot hold everywhere become `-`.
#[must_use]
pub fn place(store: &Path, test: &str, time: &str) -> PathBuf {
    let safe = |text: &str| -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let name: String = text.chars().map(|c| if plain(c) { c } else { '-' }).collect();
        if name.trim_matches('.').is_empty() { "-".to_owned() } else { name }
    };
    store.join(safe(test)).join(safe(time))
}

/// Writes all that is made from a run: its history unless the recorder has written it, the verdict,
/// pictures and pages.
///
/// # Errors
/// If a file cannot be written.
pub fn write(
    dir: &Path,
    run: &Run,
    history: &History,
    outcome: &Outcome,
) -> Result<(), StoreError> {
    fs::create_dir_all(dir).map_err(file(dir))?;
    let put = |name: &str, text: &str| {
        let path = dir.join(name);
        fs::write(&path, text).map_err(file(&path))
    };
    if !dir.join(HISTORY).exists() {
        put(HISTORY, &history.to_json_lines())?;
    }
    let asked = serde_json::to_string_pretty(run).map_err(json(&dir.join(RUN)))?;
    let results = serde_json::to_string_pretty(outcome).map_err(json(&dir.join(RESULTS)))?;
    put(RUN, &asked)?;
    put(RESULTS, &results)?;
    put("results.edn", &edn(&results))?;
    put("history.edn", &history.to_edn_lines())?;
    put("latency.svg", &rates::latency(history))?;
    put("rate.svg", &rates::rate(history))?;
    put("leases.svg", &leases::lanes(history, &run.leases))?;
    put("timeline.html", &timeline::timeline(history))?;
    put("index.html", &summary(run, history, outcome))
}

/// Returns results as EDN: every name is a keyword.
fn edn(results: &str) -> String {
    let form = Form::from_json(results).expect("what was just written as JSON");
    format!("{}\n", keywords(form).edn())
}

fn keywords(form: Form) -> Form {
    match form {
        Form::List(list) => Form::List(list.into_iter().map(keywords).collect()),
        Form::Map(entries) => Form::Map(
            entries
                .into_iter()
                .map(|(key, value)| {
                    let name = key.as_text().unwrap_or_default();
                    let plain = |c: char| if c.is_alphanumeric() || c == '_' { c } else { '-' };
                    let word: String = name.chars().map(plain).collect();
                    (Form::Word(word), keywords(value))
                })
                .collect(),
        ),
        other => other,
    }
}

/// Checks a stored run once more, from its history, its logs and what was asked.
///
/// # Errors
/// If they cannot be read.
pub fn analyze(dir: &Path) -> Result<Outcome, StoreError> {
    let (run, history) = (read_run(dir)?, read_history(dir)?);
    Ok(check(&run, &history, &read_logs(dir)?))
}

/// Returns what was asked of a stored run.
///
/// # Errors
/// If it cannot be read.
pub fn read_run(dir: &Path) -> Result<Run, StoreError> {
    let path = dir.join(RUN);
    let text = fs::read_to_string(&path).map_err(file(&path))?;
    serde_json::from_str(&text).map_err(json(&path))
}

/// Returns the history of a stored run.
///
/// # Errors
/// If it cannot be read.
pub fn read_history(dir: &Path) -> Result<History, StoreError> {
    let path = dir.join(HISTORY);
    let text = fs::read_to_string(&path).map_err(file(&path))?;
    History::from_json_lines(&text).map_err(|source| StoreError::History { path, source })
}

/// Returns the logs of a stored run, by name.
///
/// # Errors
/// If they cannot be read. A run without logs has none.
pub fn read_logs(dir: &Path) -> Result<Vec<Log>, StoreError> {
    let dir = dir.join(LOGS);
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let mut logs = Vec::new();
    for path in children(&dir)?.into_iter().filter(|path| path.is_file()) {
        let bytes = fs::read(&path).map_err(file(&path))?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        logs.push(Log { name: name_of(&path), text });
    }
    Ok(logs)
}

fn children(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = fs::read_dir(dir).map_err(file(dir))?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(file(dir))?;
    paths.sort();
    Ok(paths)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn summary(run: &Run, history: &History, outcome: &Outcome) -> String {
    let word = outcome.valid.word();
    let mut body = format!("<p class=\"{word}\">{word}</p>\n");
    for broken in &outcome.harness {
        writeln!(body, "<p class=\"unknown\">harness: {}</p>", escaped(broken))
            .expect("writing to a text");
    }
    body.push_str("<table>\n");
    let operations = ("operations".to_owned(), history.operations.len().to_string());
    let began = ("began".to_owned(), run.started.clone());
    for (name, value) in [began, operations].iter().chain(&run.notes) {
        writeln!(body, "<tr><th>{}</th><td>{}</td></tr>", escaped(name), escaped(value))
            .expect("writing to a text");
    }
    body.push_str("</table>\n<h2>Checkers</h2>\n<table>\n");
    for verdict in &outcome.verdicts {
        let word = verdict.valid.word();
        let counts: Vec<String> = verdict.counts.iter().map(|(n, c)| format!("{n}: {c}")).collect();
        let row = format!(
            "<tr><th>{}</th><td class=\"{word}\">{word}</td><td>{}{}{}{}</td></tr>",
            escaped(&verdict.checker),
            verdict
                .told
                .as_deref()
                .map(|told| format!("<p>{}</p>", escaped(told)))
                .unwrap_or_default(),
            list(&verdict.findings),
            list(&verdict.notes),
            escaped(&counts.join(", "))
        );
        body.push_str(&row);
        body.push('\n');
    }
    body.push_str("</table>\n");
    body.push_str(&rates::rate(history));
    body.push_str(&rates::latency(history));
    body.push_str(&leases::lanes(history, &run.leases));
    body.push_str(
        "<p><a href=\"timeline.html\">what each process did</a>, <a href=\"history.jsonl\">history</a>, \
         <a href=\"history.edn\">history in EDN</a>, <a href=\"results.json\">results</a></p>\n",
    );
    page(&format!("{} {}", run.test, run.started), "", &body)
}

fn list(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return String::new();
    }
    let items: Vec<String> = findings
        .iter()
        .map(|finding| format!("<li>{}: {}</li>", finding.class, escaped(&finding.text)))
        .collect();
    format!("<ul>{}</ul>", items.join(""))
}

/// Writes `index.html` of a store: all its runs, the newest of each test first. Returns how many there
/// are.
///
/// # Errors
/// If a directory cannot be read or the page not be written. A run without readable results is shown
/// as such.
pub fn index(store: &Path) -> Result<usize, StoreError> {
    let mut rows = String::new();
    let mut count = 0;
    for test in children(store)?.into_iter().filter(|path| path.is_dir()) {
        for dir in children(&test)?.into_iter().rev().filter(|path| path.is_dir()) {
            count += 1;
            let (test, time) = (name_of(&test), name_of(&dir));
            let outcome = fs::read_to_string(dir.join(RESULTS))
                .ok()
                .and_then(|text| serde_json::from_str::<Outcome>(&text).ok());
            let word = outcome.as_ref().map_or("unknown", |outcome| outcome.valid.word());
            let why = outcome.as_ref().map_or("no results".to_owned(), why);
            let told = outcome.iter().flat_map(|outcome| &outcome.verdicts);
            let told = told.filter_map(|verdict| Some((&verdict.checker, verdict.told.as_ref()?)));
            let told: Vec<String> = told.map(|(name, told)| format!("{name}: {told}")).collect();
            let told = escaped(&told.join("; "));
            let (test, time, why) = (escaped(&test), escaped(&time), escaped(&why));
            writeln!(
                rows,
                "<tr><td>{test}</td><td><a href=\"{test}/{time}/index.html\">{time}</a></td>\
                 <td class=\"{word}\">{word}</td><td>{why}</td><td>{told}</td></tr>"
            )
            .expect("writing to a text");
        }
    }
    let body = format!(
        "<table>\n<tr><th>test</th><th>run</th><th>verdict</th><th></th><th>besides</th></tr>\n{rows}</table>\n"
    );
    let path = store.join("index.html");
    fs::write(&path, page("runs", "", &body)).map_err(file(&path))?;
    Ok(count)
}

/// Returns in a line why a run is not valid.
fn why(outcome: &Outcome) -> String {
    if let Some(broken) = outcome.harness.first() {
        return format!("harness: {broken}");
    }
    let findings = outcome.verdicts.iter().flat_map(|verdict| &verdict.findings);
    findings
        .map(|finding| format!("{}: {}", finding.class, finding.text))
        .next()
        .unwrap_or_default()
}
