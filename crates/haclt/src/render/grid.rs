//! Rows under headings.

/// Returns the rows under their headings, each column as wide as its widest cell; the columns
/// named by `right` hold numbers and align to the right.
#[must_use]
pub fn grid<const N: usize>(headings: [&str; N], right: &[usize], rows: &[[String; N]]) -> String {
    let widths = headings.map(str::len);
    let widths: Vec<usize> = (0..N)
        .map(|column| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0).max(widths[column])
        })
        .collect();
    let mut text = String::new();
    for row in std::iter::once(headings.map(str::to_owned)).chain(rows.iter().cloned()) {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if right.contains(&column) {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_stands_in_them() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned);
        let rows = [row(["1", "ü", "a"]), row(["100", "long one", ""])];
        let expected = " ID  TEXT      X\n  1  ü         a\n100  long one\n";
        assert_eq!(grid(["ID", "TEXT", "X"], &[0], &rows), expected);
        assert_eq!(grid(["ID", "TEXT", "X"], &[0], &[]), "ID  TEXT  X\n");
    }
}
