//! A table of values over time, a column for each quantity, as a forecast reads it.

use super::{fill, number, text_of};
use crate::{DataError, Result};
use std::path::Path;

/// Named columns of equal length, in order of time.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Names of the columns of numbers.
    pub names: Vec<String>,
    /// Numbers `[rows, columns]`.
    pub values: Vec<f32>,
    /// Columns left out because they hold no numbers, such as dates.
    pub left_out: Vec<String>,
}

/// More columns are refused.
const MAX_COLUMNS: usize = 10_000;

impl Table {
    /// Reads a CSV with a heading, a row for each step of time, oldest first. Columns with anything but numbers are
    /// left out; missing values are filled with the last one before them, so that no row knows a later one.
    ///
    /// # Errors
    /// When it cannot be read, has no heading, no column of numbers, or fewer than two rows.
    pub fn read(path: &Path) -> Result<Self> {
        parse(&text_of(path)?).map_err(|what| DataError::dataset(path, what))
    }

    /// Steps of time.
    pub fn rows(&self) -> usize {
        self.values.len() / self.names.len().max(1)
    }

    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|n| n.eq_ignore_ascii_case(name))
    }
}

fn parse(text: &str) -> std::result::Result<Table, String> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let head = reader.headers().map_err(|e| e.to_string())?.clone();
    if head.len() > MAX_COLUMNS {
        return Err(format!("has {} columns; at most {MAX_COLUMNS} are read", head.len()));
    }
    if head.iter().any(|h| h.trim().parse::<f64>().is_ok()) {
        return Err("has no heading; name the columns in its first row".into());
    }
    let mut columns = vec![Some(Vec::new()); head.len()];
    for record in reader.records() {
        let record = record.map_err(|e| e.to_string())?;
        for (column, cell) in columns.iter_mut().zip(&record) {
            match (column.as_mut(), number(cell)) {
                (Some(values), Some(v)) => values.push(v),
                _ => *column = None,
            }
        }
    }
    let (mut names, mut kept, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
    for (name, column) in head.iter().zip(columns) {
        match column.filter(|c| c.iter().any(|v| !v.is_nan())) {
            Some(mut values) => {
                forward(&mut values);
                names.push(name.trim().to_string());
                kept.push(values);
            }
            None => left_out.push(name.trim().to_string()),
        }
    }
    let rows = kept.first().map_or(0, Vec::len);
    if rows < 2 {
        return Err("has no column of numbers with two rows or more".into());
    }
    let values = (0..rows).flat_map(|t| kept.iter().map(move |c| c[t])).collect();
    Ok(Table { names, values, left_out })
}

/// Missing values become the last one before them; those at the beginning the first there is.
fn forward(values: &mut [f32]) {
    let first = values.iter().copied().find(|v| !v.is_nan()).unwrap_or(0.0);
    let mut last = first;
    for v in values.iter_mut() {
        if v.is_nan() {
            *v = last;
        }
        last = *v;
    }
    // Nothing is missing any more; this keeps both kinds of filling in one place to compare.
    debug_assert!({
        let mut copy = values.to_vec();
        fill(&mut copy, 1);
        copy == values
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_numbers_are_kept_and_gaps_know_no_future() {
        let t =
            parse("Date,a,b,word\n2020-01-01,1,,x\n2020-01-02,,5,y\n2020-01-03,3,6,z\n").unwrap();
        assert_eq!((t.names.clone(), t.rows()), (vec!["a".to_string(), "b".into()], 3));
        assert_eq!(t.values, [1.0, 5.0, 1.0, 5.0, 3.0, 6.0]);
        assert_eq!(t.left_out, ["Date", "word"]);
        assert_eq!(t.column("B"), Some(1));
    }

    #[test]
    fn tables_that_are_none_are_refused() {
        for (text, what) in [
            ("", "no column"),
            ("1,2\n3,4\n", "no heading"),
            ("a,b\nx,y\nz,w\n", "no column"),
            ("a\n1\n", "no column"),
            ("a,b\n1,2\n3\n", "record"),
        ] {
            let e = parse(text).unwrap_err();
            assert!(e.contains(what), "{text:?}: {e}");
        }
    }
}
