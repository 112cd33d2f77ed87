//! Figures in two columns.

use std::fmt;

/// The figures, in the order in which they were taken.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<(String, String)>);

impl Table {
    pub(crate) fn row(&mut self, what: &str, figure: impl ToString) {
        self.0.push((what.to_owned(), figure.to_string()));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|(what, _)| what.chars().count()).max().unwrap_or_default();
        self.0.iter().try_for_each(|(what, figure)| writeln!(f, "{what:<width$}  {figure}"))
    }
}
