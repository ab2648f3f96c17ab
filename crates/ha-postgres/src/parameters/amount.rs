//! Numbers with units, and words for yes and no, as PostgreSQL reads them.

/// Factors to bytes.
const MEMORY: [(&str, f64); 5] = [
    ("B", 1.0),
    ("kB", 1024.0),
    ("MB", 1_048_576.0),
    ("GB", 1_073_741_824.0),
    ("TB", 1_099_511_627_776.0),
];
/// Factors to milliseconds.
const TIME: [(&str, f64); 6] = [
    ("us", 0.001),
    ("ms", 1.0),
    ("s", 1_000.0),
    ("min", 60_000.0),
    ("h", 3_600_000.0),
    ("d", 86_400_000.0),
];

/// Returns whether PostgreSQL reads it as a truth value: also what a word begins with, if that is clear.
pub(super) fn is_bool(value: &str) -> bool {
    let value = value.trim().to_ascii_lowercase();
    let begins = |word: &str, least: usize| value.len() >= least && word.starts_with(&value);
    matches!(value.as_str(), "0" | "1")
        || ["true", "false", "yes", "no"].into_iter().any(|word| begins(word, 1))
        || ["on", "off"].into_iter().any(|word| begins(word, 2))
}

/// Returns a value in the parameter's own unit; that may be a multiple, such as `8kB`.
pub(super) fn number(value: &str, own: &str) -> Result<f64, String> {
    let text = value.trim();
    let (digits, unit) = text.split_at(end_of_number(text));
    let unit = unit.trim_start();
    let number = parse(digits).ok_or_else(|| format!("{value:?} is not a number"))?;
    if unit.is_empty() {
        return Ok(number);
    }
    let times = own.find(|c: char| !c.is_ascii_digit()).unwrap_or(own.len());
    let (times, base) = own.split_at(times);
    let times = times.parse::<f64>().unwrap_or(1.0);
    for table in [&MEMORY[..], &TIME[..]] {
        let factor = |of: &str| table.iter().find(|(name, _)| *name == of).map(|(_, f)| *f);
        let Some(base) = factor(base) else { continue };
        if let Some(given) = factor(unit) {
            return Ok(number * given / (base * times));
        }
        let known: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
        return Err(format!("{unit:?} is no unit of it: {} are", known.join(", ")));
    }
    Err(format!("{value:?} has a unit, and the parameter has none"))
}

/// Where the number ends and its unit begins. `1e5` and `0x1F` are numbers, `1e` is not one.
fn end_of_number(text: &str) -> usize {
    let unsigned = text.trim_start_matches(['-', '+']);
    let sign = text.len() - unsigned.len();
    if let Some(hex) = unsigned.strip_prefix("0x").or_else(|| unsigned.strip_prefix("0X")) {
        let digits = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
        return sign + 2 + digits;
    }
    let plain = |c: char| c.is_ascii_digit() || c == '.';
    let end = unsigned.find(|c| !plain(c)).unwrap_or(unsigned.len());
    let rest = &unsigned[end..];
    let exponent = rest.strip_prefix(['e', 'E']).map_or(0, |after| {
        let digits = after.trim_start_matches(['-', '+']);
        let signs = after.len() - digits.len();
        let count = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        if count == 0 { 0 } else { 1 + signs + count }
    });
    sign + end + exponent
}

fn parse(digits: &str) -> Option<f64> {
    let (negative, unsigned) = match digits.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, digits.strip_prefix('+').unwrap_or(digits)),
    };
    let radix = |text: &str, radix| u32::from_str_radix(text, radix).ok().map(f64::from);
    let number = if let Some(hex) = unsigned.strip_prefix("0x").or(unsigned.strip_prefix("0X")) {
        radix(hex, 16)?
    } else if unsigned.len() > 1 && unsigned.starts_with('0') && !unsigned.contains(['.', 'e', 'E'])
    {
        radix(unsigned, 8)?
    } else {
        unsigned.parse::<f64>().ok().filter(|number| number.is_finite())?
    };
    Some(if negative { -number } else { number })
}
