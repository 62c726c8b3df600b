//! Tables whose columns are as wide as what is in them, for a terminal and as plain text.

use std::cmp::Ordering;

use ratatui::text::Line as Shown;

use crate::cli::colour::Style;

/// The gap between two columns.
const GAP: usize = 2;

/// A table with a column of names first, and columns of figures.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// The titles of the columns.
    pub titles: &'static [&'static str],
    /// The rows, in the order of the user's words or of the names.
    pub rows: Vec<Row>,
    /// The row of all together, which is always the last one.
    pub total: Option<Row>,
}

/// A row of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The cell of the first column, and its style.
    pub name: String,
    /// The cells of the further columns, or what is to be said instead.
    pub cells: Result<Vec<Cell>, String>,
}

/// A figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// The figure as people read it.
    pub text: String,
    /// By this the rows are sorted. What is not known comes last.
    pub number: Option<f64>,
    /// Whether the figure is bad.
    pub is_bad: bool,
}

/// The order of the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// The column, or none for the order as the rows are.
    pub column: Option<usize>,
    /// Whether the smallest comes first.
    pub is_up: bool,
    /// Whether the keys change this order.
    pub is_chosen: bool,
}

impl Order {
    /// Returns the title of a column. That of the column by which the rows are sorted gets an arrow, which also says whether
    /// the keys change the order.
    fn marked(self, column: usize, title: &str) -> String {
        let arrow = match (self.column == Some(column), self.is_up, self.is_chosen) {
            (false, ..) => "",
            (true, false, true) => "▼",
            (true, true, true) => "▲",
            (true, false, false) => "▽",
            (true, true, false) => "△",
        };
        format!("{title}{arrow}")
    }
}

/// A line of texts, each in its style.
pub type Line = Vec<(Style, String)>;

impl Table {
    /// Returns the lines of the table, of which the first has the titles. Columns on the right that do not fit are left out.
    pub fn lines(&self, order: Order, width: usize) -> Vec<Line> {
        let titles: Vec<_> =
            self.titles.iter().enumerate().map(|(at, title)| order.marked(at, title)).collect();
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        if let Some(column) = order.column {
            rows.sort_by(|one, other| compare(one, other, column, order.is_up));
        }
        rows.extend(&self.total);
        let columns = self.titles.len();
        let wide = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.text(column));
            cells.chain([&*titles[column]]).map(width_of).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..columns).map(wide).collect();
        let mut total = 0;
        let fits = widths.iter().take_while(|wide| {
            total += **wide + if total == 0 { 0 } else { GAP };
            total <= width
        });
        let shown = fits.count().max(1);
        let title = (0..shown).map(|column| {
            let style = if order.column == Some(column) { Style::Header } else { Style::Label };
            (style, padded(&titles[column], column, widths[column]))
        });
        let mut lines = vec![title.collect()];
        lines.extend(rows.iter().map(|row| row.line(&widths[..shown])));
        lines
    }
}

impl Row {
    fn text(&self, column: usize) -> Option<&str> {
        match (column.checked_sub(1), &self.cells) {
            (None, _) => Some(&self.name),
            (Some(column), Ok(cells)) => cells.get(column).map(|cell| &*cell.text),
            (Some(_), Err(_)) => None,
        }
    }

    fn line(&self, widths: &[usize]) -> Line {
        let mut line = vec![(Style::Name, padded(&self.name, 0, widths[0]))];
        match &self.cells {
            Ok(cells) => line.extend(cells.iter().zip(widths.iter().enumerate().skip(1)).map(
                |(cell, (column, width))| {
                    let style = if cell.is_bad { Style::Bad } else { Style::Plain };
                    (style, padded(&cell.text, column, *width))
                },
            )),
            Err(instead) => line.push((Style::Bad, format!("{:GAP$}{instead}", ""))),
        }
        line
    }
}

/// Compares two rows. What is not known comes last in either direction.
fn compare(one: &Row, other: &Row, column: usize, is_up: bool) -> Ordering {
    let directed = |ordering: Ordering| if is_up { ordering } else { ordering.reverse() };
    let number = |row: &Row| row.cells.as_ref().ok()?.get(column.checked_sub(1)?)?.number;
    match (column, number(one), number(other)) {
        (0, ..) => directed(one.name.cmp(&other.name)),
        (_, Some(one), Some(other)) => directed(one.total_cmp(&other)),
        (_, one, other) => other.is_some().cmp(&one.is_some()),
    }
}

/// Names begin at the left, figures end at the right.
fn padded(text: &str, column: usize, width: usize) -> String {
    let blank = " ".repeat(width.saturating_sub(width_of(text)));
    if column == 0 { format!("{text}{blank}") } else { format!("{:GAP$}{blank}{text}", "") }
}

/// Returns how many places a text takes on a terminal.
fn width_of(text: &str) -> usize {
    Shown::raw(text).width()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let cell = |number: Option<f64>| Cell {
            text: number.map_or_else(|| "-".to_owned(), |number| number.to_string()),
            number,
            is_bad: false,
        };
        let row = |name: &str, numbers: [Option<f64>; 2]| Row {
            name: name.to_owned(),
            cells: Ok(numbers.map(cell).into()),
        };
        let away = Row { name: "away".to_owned(), cells: Err("cannot connect".to_owned()) };
        Table {
            titles: &["NAME", "A", "LONG"],
            rows: vec![
                row("b", [Some(1.0), None]),
                away,
                row("日本", [Some(200.0), Some(5.0)]),
                row("a", [None, Some(7.0)]),
            ],
            total: Some(row("all", [Some(201.0), Some(12.0)])),
        }
    }

    fn shown(order: Order, width: usize) -> Vec<String> {
        let text = |line: Line| line.into_iter().map(|(_, text)| text).collect::<String>();
        table().lines(order, width).into_iter().map(text).collect()
    }

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        assert_eq!(
            shown(Order::default(), 80),
            [
                "NAME    A  LONG",
                "b       1     -",
                "away  cannot connect",
                "日本  200     5",
                "a       -     7",
                "all   201    12"
            ]
        );
        assert_eq!(shown(Order::default(), 14)[0], "NAME    A");
        assert_eq!(shown(Order::default(), 1)[0], "NAME");
    }

    #[test]
    fn rows_are_sorted_by_a_column_and_the_unknown_comes_last() {
        let names = |column, is_up| {
            let order = Order { column: Some(column), is_up, is_chosen: true };
            let arrow = if is_up { "▲" } else { "▼" };
            assert!(shown(order, 80)[0].contains(&format!("{}{arrow}", table().titles[column])));
            let lines = shown(order, 80).into_iter().skip(1);
            lines.map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(0, true), "a away b 日本 all");
        assert_eq!(names(1, false), "日本 b away a all");
        assert_eq!(names(1, true), "b 日本 away a all");
        assert_eq!(names(2, false), "a 日本 b away all");
    }
}
