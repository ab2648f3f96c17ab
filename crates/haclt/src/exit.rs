//! How a command ended.

/// The exit code, as scripts see it. The numbers are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCode {
    /// 0: done.
    Done,
    /// 1: failed, and nothing was changed.
    Failed,
    /// 2: the arguments are wrong.
    Usage,
    /// 3: refused by a rule.
    Refused,
    /// 4: an order was sent, and whether it took effect is unknown.
    Unknown,
}

impl ExitCode {
    /// Returns the number that the process ends with.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::Unknown => 4,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_that_scripts_rely_on() {
        let codes = [
            ExitCode::Done,
            ExitCode::Failed,
            ExitCode::Usage,
            ExitCode::Refused,
            ExitCode::Unknown,
        ];
        assert_eq!(codes.map(ExitCode::number), [0, 1, 2, 3, 4]);
    }
}
