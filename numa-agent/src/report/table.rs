//! Tables as text: aligned columns for a terminal, pipes for Markdown, tags for HTML.

use unicode_width::UnicodeWidthStr;

/// A table in the making. Cells are escaped by who adds them.
#[derive(Debug, Default)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    /// From this column on, cells are figures and end at the right.
    figures_from: Option<usize>,
}

impl Table {
    /// A table with those column headings.
    #[must_use]
    pub fn new(header: &[&str]) -> Self {
        Self { header: header.iter().map(ToString::to_string).collect(), ..Self::default() }
    }

    /// From that column on, cells are figures and end at the right.
    #[must_use]
    pub fn figures_from(self, column: usize) -> Self {
        Self { figures_from: Some(column), ..self }
    }

    /// Whether it has no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Adds a row, with a cell per heading.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.row_of(cells.into());
    }

    /// The same where the number of columns depends on the machine.
    pub fn row_of(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.header.len(), "{cells:?}");
        self.rows.push(cells);
    }

    /// The same with rows for columns; all but the headings are figures.
    #[must_use]
    pub fn transposed(&self) -> Self {
        let column = |index: usize| self.lines().map(|row| row[index].clone()).collect::<Vec<_>>();
        let header = if self.header.is_empty() { Vec::new() } else { column(0) };
        let rows = (1..self.header.len()).map(column).collect();
        Self { header, rows, figures_from: Some(1) }
    }

    /// Columns padded with spaces, two apart, each line after `indent`.
    #[must_use]
    pub fn aligned(&self, indent: &str) -> String {
        let width = |column: usize| {
            let cells = self.lines().map(|row| row[column].width());
            cells.max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let cell = |(column, cell): (usize, &String)| {
                let blanks = " ".repeat(widths[column].saturating_sub(cell.width()));
                if self.is_figure(column) { blanks + cell } else { cell.clone() + &blanks }
            };
            let cells: Vec<String> = row.iter().enumerate().map(cell).collect();
            format!("{}\n", format!("{indent}{}", cells.join("  ")).trim_end())
        };
        self.lines().map(line).collect()
    }

    /// A GitHub-flavoured Markdown table.
    #[must_use]
    pub fn markdown(&self) -> String {
        let line = |row: &Vec<String>| format!("| {} |\n", row.join(" | "));
        let rule = |column| if self.is_figure(column) { " ---: |" } else { " --- |" };
        let rule: String = (0..self.header.len()).map(rule).collect();
        line(&self.header) + "|" + &rule + "\n" + &self.rows.iter().map(line).collect::<String>()
    }

    /// An HTML table, of cells that are HTML already.
    #[must_use]
    pub fn html(&self) -> String {
        let line = |row: &Vec<String>, tag: &str| {
            let cell = |(column, cell): (usize, &String)| {
                let class = if self.is_figure(column) { " class=\"n\"" } else { "" };
                format!("<{tag}{class}>{cell}</{tag}>")
            };
            format!("<tr>{}</tr>", row.iter().enumerate().map(cell).collect::<String>())
        };
        let rows: String = self.rows.iter().map(|row| line(row, "td") + "\n").collect();
        format!("<table><thead>{}</thead><tbody>\n{rows}</tbody></table>", line(&self.header, "th"))
    }

    fn is_figure(&self, column: usize) -> bool {
        self.figures_from.is_some_and(|first| column >= first)
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

    #[test]
    fn figures_end_at_the_right() {
        let mut table = Table::new(&["NAME", "MOVES"]).figures_from(1);
        table.row(["a".into(), "7".into()]);
        assert_eq!(table.aligned(""), "NAME  MOVES\na         7\n");
        assert!(table.markdown().contains("| --- | ---: |"));
        assert_eq!(table.transposed().aligned(""), "NAME   a\nMOVES  7\n");
        assert!(table.html().contains("<tr><td>a</td><td class=\"n\">7</td></tr>"));
    }
}
