//! Raft's log as far as the lease needs it, and what its entries mean.

use std::fmt;

/// How long a log may get, in entries. Bounds are smaller: the way back to a primary needs room.
pub(super) const LOG_MAX: usize = 9;

/// What an entry orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// A leader's first entry.
    Blank,
    /// The vacant lease goes to `to`, to that start of its agent.
    Grant { to: u8, epoch: u8, start: u8 },
    /// The granter saw it expire.
    Vacate { epoch: u8 },
    /// The holder gave it back.
    Release { epoch: u8 },
    /// The holder gave `epoch` to `to`, who has the next one.
    Transfer { to: u8, epoch: u8, start: u8 },
}

/// A command and its term, in 16 bits; 0 is no entry.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Entry(u16);

impl Entry {
    fn new(term: u8, command: Command) -> Self {
        let pack = |kind: u8, to: u8, epoch: u8, start: u8| {
            [(kind, 0), (term, 3), (epoch, 6), (to, 9), (start, 11)]
                .into_iter()
                .fold(0, |sum, (value, shift)| sum | u16::from(value) << shift)
        };
        Self(match command {
            Command::Blank => pack(1, 0, 0, 0),
            Command::Grant { to, epoch, start } => pack(2, to, epoch, start),
            Command::Vacate { epoch } => pack(3, 0, epoch, 0),
            Command::Release { epoch } => pack(4, 0, epoch, 0),
            Command::Transfer { to, epoch, start } => pack(5, to, epoch, start),
        })
    }

    fn part(self, shift: u32, bits: u32) -> u8 {
        u8::try_from(self.0 >> shift & ((1 << bits) - 1)).unwrap_or(u8::MAX)
    }

    pub(super) fn term(self) -> u8 {
        self.part(3, 3)
    }

    fn command(self) -> Command {
        let (epoch, to, start) = (self.part(6, 3), self.part(9, 2), self.part(11, 3));
        match self.part(0, 3) {
            2 => Command::Grant { to, epoch, start },
            3 => Command::Vacate { epoch },
            4 => Command::Release { epoch },
            5 => Command::Transfer { to, epoch, start },
            _ => Command::Blank,
        }
    }
}

/// What a log says of the lease.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Applied {
    /// The latest epoch.
    pub last: u8,
    /// Who has it, and to which start of its agent it was given; nobody while the lease is vacant.
    pub held: Option<(u8, u8)>,
}

impl Applied {
    /// Returns the epoch that `node` holds the lease under.
    pub(super) fn of(self, node: u8) -> Option<u8> {
        self.held.and_then(|(holder, _)| (holder == node).then_some(self.last))
    }

    /// Returns the epoch under which anybody holds it.
    pub(super) fn epoch(self) -> Option<u8> {
        self.held.map(|_| self.last)
    }

    /// Returns whether that epoch has ended.
    pub(super) fn is_over(self, epoch: u8) -> bool {
        self.last > epoch || (self.last == epoch && self.held.is_none())
    }

    /// Carries out a command as `ha_core::state::State::apply` does; returns whether it did anything.
    pub(super) fn apply(&mut self, command: Command) -> bool {
        let before = *self;
        match command {
            Command::Grant { to, epoch, start }
                if self.held.is_none() && epoch == self.last + 1 =>
            {
                *self = Self { last: epoch, held: Some((to, start)) };
            }
            Command::Vacate { epoch } | Command::Release { epoch } if self.last == epoch => {
                self.held = None;
            }
            Command::Transfer { to, epoch, start } if self.epoch() == Some(epoch) => {
                *self = Self { last: epoch + 1, held: Some((to, start)) };
            }
            _ => {}
        }
        *self != before
    }
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.held {
            Some((holder, _)) => write!(f, "epoch {} is n{holder}'s", self.last),
            None => write!(f, "epoch {} is over", self.last),
        }
    }
}

/// A node's log.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Log {
    entries: [Entry; LOG_MAX],
    len: u8,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all().iter().map(|it| (it.term(), it.command()))).finish()
    }
}

impl Log {
    pub(super) fn len(&self) -> u8 {
        self.len
    }

    fn all(&self) -> &[Entry] {
        &self.entries[..usize::from(self.len)]
    }

    /// The first `count` entries.
    pub(super) fn first(&self, count: u8) -> &[Entry] {
        &self.entries[..usize::from(count.min(self.len))]
    }

    /// Adds an entry. Bounds are below [`LOG_MAX`], so there is room.
    pub(super) fn push(&mut self, term: u8, command: Command) {
        if let Some(free) = self.entries.get_mut(usize::from(self.len)) {
            *free = Entry::new(term, command);
            self.len += 1;
        }
    }

    /// What a voter compares: the term of the last entry, then how many there are.
    pub(super) fn age(&self) -> (u8, u8) {
        (self.all().last().map_or(0, |last| last.term()), self.len)
    }

    /// What the first `count` entries say of the lease.
    pub(super) fn applied(&self, count: u8) -> Applied {
        let mut state = Applied::default();
        for entry in self.first(count) {
            state.apply(entry.command());
        }
        state
    }

    /// What the lease will be once everything here is committed.
    pub(super) fn in_the_end(&self) -> Applied {
        self.applied(self.len)
    }

    /// How many entries there are up to the first of `term`, that one included.
    pub(super) fn up_to_first_of(&self, term: u8) -> u8 {
        let before = self.all().iter().take_while(|entry| entry.term() < term).count();
        u8::try_from(before).unwrap_or(u8::MAX).saturating_add(1)
    }

    /// The term in which `epoch` was granted, if this log has that.
    pub(super) fn term_of_grant(&self, epoch: u8) -> Option<u8> {
        let mut state = Applied::default();
        let mut found = self.all().iter().filter(|entry| {
            let changed = state.apply(entry.command());
            changed && state.epoch() == Some(epoch)
        });
        found.next().map(|entry| entry.term())
    }

    /// Who was given which epoch by the first `count` entries, and by what its epoch before ended.
    pub(super) fn grants(&self, count: u8) -> impl Iterator<Item = (u8, u8, Command)> {
        let mut state = Applied::default();
        let mut ended = Command::Blank;
        self.first(count).iter().filter_map(move |entry| {
            let command = entry.command();
            if !state.apply(command) {
                return None;
            }
            if !matches!(command, Command::Grant { .. }) {
                ended = command;
            }
            state.held.map(|(holder, _)| (state.last, holder, ended))
        })
    }

    /// The log as numbers, to be hashed.
    pub(super) fn words(&self) -> [u64; 3] {
        let word = |at: usize| {
            let part = self.entries.iter().skip(at).take(4);
            part.fold(0_u64, |sum, entry| sum << 16 | u64::from(entry.0))
        };
        [word(0), word(4), word(8) << 8 | u64::from(self.len)]
    }
}
