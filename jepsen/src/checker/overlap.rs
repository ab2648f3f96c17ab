//! Two nodes that acknowledge writes at the same time, or under an epoch that is over.
//!
//! A write takes effect at some moment between its request and its answer. All that one node wrote
//! under one epoch, or on one timeline, is a *reign*. Reigns of two nodes can lie one after the other
//! if each write of the first was sent before the first answer of the second; if neither can be the
//! first, both nodes served at the same time, whatever the moments were.

use std::collections::BTreeMap;

use super::{Class, Verdict, seconds};
use crate::history::{History, Server};

/// A write that a node acknowledged.
#[derive(Debug, Clone, Copy)]
struct Ack<'a> {
    index: u64,
    start_ns: u64,
    end_ns: u64,
    server: &'a Server,
}

/// What tells two reigns of one node apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Under {
    /// The epoch that the node said it served under.
    Epoch(u64),
    /// The timeline that it was on.
    Timeline(u32),
}

impl std::fmt::Display for Under {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Epoch(epoch) => write!(f, "epoch {epoch}"),
            Self::Timeline(timeline) => write!(f, "timeline {timeline}"),
        }
    }
}

/// All writes that one node acknowledged under one epoch, or on one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reign<'a> {
    /// Who.
    pub node: &'a str,
    /// Under what.
    pub under: Under,
    /// When the first write was sent, nanoseconds.
    pub from_ns: u64,
    /// When the last answer came, nanoseconds.
    pub to_ns: u64,
    /// When the first answer came, nanoseconds.
    first_end_ns: u64,
    /// When the last write was sent, nanoseconds.
    last_start_ns: u64,
    /// Indices of the write that was answered first and of the one that was sent last.
    pub operations: (u64, u64),
}

impl Reign<'_> {
    /// Returns whether all of this reign may have been before all of the other.
    fn before(&self, other: &Self) -> bool {
        self.last_start_ns <= other.first_end_ns
    }

    fn words(&self) -> String {
        format!(
            "{} acknowledged writes of {} from {} to {}",
            self.node,
            self.under,
            seconds(self.from_ns),
            seconds(self.to_ns)
        )
    }
}

/// Checks who acknowledged writes when, by all operations that say who answered.
#[must_use]
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("overlap");
    let acks = acks(history);
    verdict.figure("acknowledgements", acks.len() as u64);
    let by_epoch = reigns_of(&acks, epoch);
    let by_timeline = reigns_of(&acks, timeline);
    verdict.figure("reigns", by_epoch.len().max(by_timeline.len()) as u64);
    let bare = acks.iter().filter(|ack| epoch(ack.server).or(timeline(ack.server)).is_none());
    verdict.figure("acknowledgements without epoch and timeline", bare.count() as u64);
    overlaps(&by_epoch, &mut verdict);
    // Timelines show the same once more, unless epochs were not told.
    if !verdict.has(Class::Overlap) {
        overlaps(&by_timeline, &mut verdict);
    }
    backwards(&acks, epoch, &mut verdict);
    backwards(&acks, timeline, &mut verdict);
    shared(&by_epoch, &mut verdict);
    twice(&acks, &mut verdict);
    identities(&acks, &mut verdict);
    verdict
}

/// Returns who acknowledged writes when: by epochs if they are known, else by timelines.
#[must_use]
pub fn reigns(history: &History) -> Vec<Reign<'_>> {
    let acks = acks(history);
    let by_epoch = reigns_of(&acks, epoch);
    if by_epoch.is_empty() { reigns_of(&acks, timeline) } else { by_epoch }
}

fn epoch(server: &Server) -> Option<Under> {
    server.epoch.map(Under::Epoch)
}

fn timeline(server: &Server) -> Option<Under> {
    server.timeline.map(Under::Timeline)
}

fn acks(history: &History) -> Vec<Ack<'_>> {
    let pairs = history.pairs();
    let acks = pairs.iter().filter_map(|pair| {
        let ok = pair.ok().filter(|ok| ok.f.writes(&ok.value))?;
        let (index, start_ns) = (pair.invoke.index, pair.invoke.time_ns);
        Some(Ack { index, start_ns, end_ns: ok.time_ns, server: ok.server.as_ref()? })
    });
    acks.collect()
}

fn reigns_of<'a>(acks: &[Ack<'a>], under: fn(&Server) -> Option<Under>) -> Vec<Reign<'a>> {
    let mut reigns: BTreeMap<(&str, Under), Reign> = BTreeMap::new();
    for &Ack { index, start_ns, end_ns, server } in acks {
        let Some(under) = under(server) else { continue };
        let node = server.node.as_str();
        let reign = reigns.entry((node, under)).or_insert(Reign {
            node,
            under,
            from_ns: start_ns,
            to_ns: end_ns,
            first_end_ns: end_ns,
            last_start_ns: start_ns,
            operations: (index, index),
        });
        reign.from_ns = reign.from_ns.min(start_ns);
        reign.to_ns = reign.to_ns.max(end_ns);
        if end_ns < reign.first_end_ns {
            reign.first_end_ns = end_ns;
            reign.operations.0 = index;
        }
        if start_ns > reign.last_start_ns {
            reign.last_start_ns = start_ns;
            reign.operations.1 = index;
        }
    }
    let mut reigns: Vec<Reign> = reigns.into_values().collect();
    reigns.sort_by_key(|reign| (reign.from_ns, reign.under));
    reigns
}

fn overlaps(reigns: &[Reign], verdict: &mut Verdict) {
    for (place, a) in reigns.iter().enumerate() {
        for b in reigns[place + 1..].iter().filter(|b| b.node != a.node) {
            if !a.before(b) && !b.before(a) {
                let text = format!("{}, and {}", a.words(), b.words());
                let operations =
                    vec![a.operations.0, a.operations.1, b.operations.0, b.operations.1];
                verdict.find(Class::Overlap, operations, text);
            }
        }
    }
}

/// Finds writes under something older than what was acknowledged before they were sent.
fn backwards(acks: &[Ack], under: fn(&Server) -> Option<Under>, verdict: &mut Verdict) {
    let known = || acks.iter().filter_map(|ack| Some((ack, under(ack.server)?)));
    let mut ended: Vec<(&Ack, Under)> = known().collect();
    let mut sent: Vec<(&Ack, Under)> = known().collect();
    ended.sort_by_key(|(ack, _)| ack.end_ns);
    sent.sort_by_key(|(ack, _)| ack.start_ns);
    let mut ended = ended.into_iter().peekable();
    let mut newest: Option<(&Ack, Under)> = None;
    for (ack, now) in sent {
        while let Some((before, under)) = ended.next_if(|(end, _)| end.end_ns < ack.start_ns) {
            if newest.is_none_or(|(_, newest)| newest < under) {
                newest = Some((before, under));
            }
        }
        let Some((before, newest)) = newest.filter(|(_, newest)| *newest > now) else { continue };
        let text = format!(
            "{} acknowledged operation {} of {now}, sent at {}, after {} had acknowledged \
             operation {} of {newest} at {}",
            ack.server.node,
            ack.index,
            seconds(ack.start_ns),
            before.server.node,
            before.index,
            seconds(before.end_ns)
        );
        verdict.find(Class::EpochBackwards, vec![before.index, ack.index], text);
    }
}

/// An epoch is granted to one node.
fn shared(by_epoch: &[Reign], verdict: &mut Verdict) {
    let mut holders: BTreeMap<Under, &Reign> = BTreeMap::new();
    for reign in by_epoch {
        if let Some(first) = holders.insert(reign.under, reign) {
            let text = format!("{}, and {}", first.words(), reign.words());
            let operations = vec![first.operations.0, reign.operations.0];
            verdict.find(Class::SharedEpoch, operations, text);
        }
    }
}

/// Under one epoch a node is promoted once; a server that crashed goes on with its timeline.
fn twice(acks: &[Ack], verdict: &mut Verdict) {
    let mut timelines: BTreeMap<u64, (u32, &Ack)> = BTreeMap::new();
    for ack in acks {
        let (Some(epoch), Some(timeline)) = (ack.server.epoch, ack.server.timeline) else {
            continue;
        };
        let (first, before) = *timelines.entry(epoch).or_insert((timeline, ack));
        if first != timeline {
            let text = format!(
                "under epoch {epoch} {} acknowledged operation {} on timeline {first}, and {} operation {} on \
                 timeline {timeline}",
                before.server.node, before.index, ack.server.node, ack.index
            );
            verdict.find(Class::EpochTwice, vec![before.index, ack.index], text);
            // One word on each is enough.
            timelines.insert(epoch, (timeline, ack));
        }
    }
}

fn identities(acks: &[Ack], verdict: &mut Verdict) {
    let mut first: Option<(&Ack, u64)> = None;
    for ack in acks {
        let Some(system) = ack.server.system else { continue };
        match first {
            None => first = Some((ack, system)),
            Some((before, known)) if known != system => {
                let text = format!(
                    "{} is database {system}, and {} is database {known}",
                    ack.server.node, before.server.node
                );
                verdict.find(Class::ForeignDatabase, vec![before.index, ack.index], text);
            }
            Some(_) => {}
        }
    }
}
