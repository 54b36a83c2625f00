//! Rows in aligned columns.

use crate::cli::line::printable;

/// The head and the rows, each column as wide as its widest field. Nothing in a field can steer a terminal or break a row.
pub(super) fn of<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let clean = |field: String| printable(&field).replace(['\n', '\t'], " ");
    let rows: Vec<[String; N]> =
        std::iter::once(head.map(str::to_owned)).chain(rows.map(|row| row.map(clean))).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        let fields: Vec<String> = row.iter().zip(&widths).map(|(field, width)| format!("{field:<width$}")).collect();
        out += fields.join("  ").trim_end();
        out.push('\n');
    }
    out
}
