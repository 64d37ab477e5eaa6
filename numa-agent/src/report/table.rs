//! Tables as text: aligned columns for a terminal, pipes for Markdown.

/// A table in the making. Cells are escaped by who adds them.
#[derive(Debug, Default)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with those column headings.
    #[must_use]
    pub fn new(header: &[&str]) -> Self {
        Self { header: header.iter().map(ToString::to_string).collect(), rows: Vec::new() }
    }

    /// Adds a row, with a cell per heading.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.header.len(), "{cells:?}");
        self.rows.push(cells.into());
    }

    /// Columns padded with spaces, two apart, each line after `indent`.
    #[must_use]
    pub fn aligned(&self, indent: &str) -> String {
        let width = |column: usize| {
            let cells = self.lines().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            format!("{}\n", format!("{indent}{}", cells.join("  ")).trim_end())
        };
        self.lines().map(line).collect()
    }

    /// A GitHub-flavoured Markdown table.
    #[must_use]
    pub fn markdown(&self) -> String {
        let line = |row: &Vec<String>| format!("| {} |\n", row.join(" | "));
        let rule = format!("|{}\n", " --- |".repeat(self.header.len()));
        line(&self.header) + &rule + &self.rows.iter().map(line).collect::<String>()
    }

    fn lines(&self) -> impl Iterator<Item = &Vec<String>> {
        std::iter::once(&self.header).chain(&self.rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["GROUP", "CPUS"]);
        table.row(["g".into(), "0-9".into()]);
        assert_eq!(table.aligned("  "), "  GROUP  CPUS\n  g      0-9\n");
        assert_eq!(table.markdown(), "| GROUP | CPUS |\n| --- | --- |\n| g | 0-9 |\n");
    }
}
