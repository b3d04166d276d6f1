//! A series a line: the UCR archive's `.tsv` (class first, then values, NaN where a series has ended), and `.csv`
//! in the same way, or with a heading that names the column of the classes.

use super::{MAX_LENGTH, Said, number, text_of};
use crate::{DataError, Result};
use std::path::Path;

/// Names of a column of classes or targets.
const LABELS: [&str; 6] = ["class", "label", "target", "classlabel", "y", "class_label"];

pub(super) fn read(path: &Path) -> Result<Said> {
    let comma = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("csv"));
    let text = text_of(path)?;
    parse(&text, if comma { b',' } else { b'\t' }).map_err(|what| DataError::dataset(path, what))
}

/// The same of rows without classes, when the first has as many values as a model's signals have.
pub(super) fn read_bare(path: &Path, length: usize) -> Result<Said> {
    let comma = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("csv"));
    let text = text_of(path)?;
    let delimiter = if comma { ',' } else { '\t' };
    let first: Vec<&str> = text.lines().next().unwrap_or_default().split(delimiter).collect();
    let bare = first.len() == length && first.iter().all(|c| number(c).is_some());
    let classed: String = match bare {
        true => text.lines().map(|l| format!("0{delimiter}{l}\n")).collect(),
        false => text,
    };
    parse(&classed, delimiter as u8).map_err(|what| DataError::dataset(path, what))
}

/// Whether a file's first line looks like a series a line: at least two numbers, or a heading with a label.
pub(super) fn is_one(path: &Path) -> bool {
    use std::io::BufRead;
    let Ok(file) = crate::file::open_file(path) else { return false };
    let mut first = Vec::new();
    let mut head = std::io::Read::take(std::io::BufReader::new(file), 1 << 22);
    if head.read_until(b'\n', &mut first).is_err() {
        return false;
    }
    let Ok(line) = std::str::from_utf8(&first) else { return false };
    let comma = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("csv"));
    let cells: Vec<&str> = line.trim().split(if comma { ',' } else { '\t' }).collect();
    let numbers = cells.iter().filter(|c| c.trim().parse::<f32>().is_ok()).count();
    cells.len() > 2 && (numbers + 1 >= cells.len() || label_column(&cells).is_some())
}

fn label_column(cells: &[&str]) -> Option<usize> {
    cells.iter().position(|c| LABELS.contains(&c.trim().to_lowercase().as_str()))
}

fn parse(text: &str, delimiter: u8) -> std::result::Result<Said, String> {
    let mut reader = csv::ReaderBuilder::new();
    let reader = reader.delimiter(delimiter).has_headers(false).flexible(true);
    let (mut said, mut label, mut targets) = (Said { channels: 1, ..Said::default() }, 0, false);
    for (i, record) in reader.from_reader(text.as_bytes()).records().enumerate() {
        let told = |what: String| format!("row {}: {what}", i + 1);
        let record = record.map_err(|e| told(e.to_string()))?;
        let cells: Vec<&str> = record.iter().collect();
        let numbers = cells.iter().filter(|c| number(c).is_some()).count();
        if i == 0 && numbers + 1 < cells.len() {
            label = label_column(&cells).ok_or_else(|| {
                "has a heading without a column `class`; name the column of the classes so"
                    .to_string()
            })?;
            targets = cells[label].trim().eq_ignore_ascii_case("target");
            continue;
        }
        if cells.len() < 2 || label >= cells.len() {
            return Err(told("has fewer than two columns: class first, then values".into()));
        }
        said.labels.push(class(cells[label]));
        let values = cells.iter().enumerate().filter(|(k, _)| *k != label);
        let value = |(_, t): (usize, &&str)| {
            number(t).ok_or_else(|| {
                told(format!("`{}` is no number", t.chars().take(20).collect::<String>()))
            })
        };
        let mut values = values.map(value).collect::<std::result::Result<Vec<f32>, _>>()?;
        // What is missing at the end is not there: the series is shorter.
        while values.len() > 1 && values.last().is_some_and(|v| v.is_nan()) {
            values.pop();
        }
        if values.len() > MAX_LENGTH {
            return Err(told(format!(
                "has {} values; at most {MAX_LENGTH} are read",
                values.len()
            )));
        }
        said.signals.push(values);
    }
    if said.signals.is_empty() {
        return Err("holds no series: class first, then values".into());
    }
    said.targets = targets;
    Ok(said)
}

/// A class as it is called: whole numbers without a fraction of zeros (`1.0000000e+00` is `1`).
fn class(text: &str) -> String {
    let text = text.trim();
    match text.parse::<f64>() {
        Ok(v) if v.fract() == 0.0 && v.abs() < 1e9 => format!("{v:.0}"),
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_first_then_values_as_long_as_there_are() {
        let s = parse("1\t0.5\t1.5\tNaN\n-1.0000000e+00\t1\t?\t3\n", b'\t').unwrap();
        assert_eq!(s.labels, ["1", "-1"]);
        assert_eq!(s.signals[0], [0.5, 1.5]);
        assert!(s.signals[1][1].is_nan());
    }

    #[test]
    fn a_heading_names_the_column_of_classes() {
        let s = parse("t0,t1,class\n1,2,walk\n3,4,run\n", b',').unwrap();
        assert_eq!((s.labels, s.targets), (vec!["walk".to_string(), "run".into()], false));
        assert_eq!(s.signals, [[1.0, 2.0], [3.0, 4.0]]);
        assert!(parse("a,b,target\n1,2,0.25\n", b',').unwrap().targets);
        // Class names that are words are no heading.
        assert_eq!(parse("walk,1,2\nrun,3,4\n", b',').unwrap().signals.len(), 2);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_row() {
        for (text, what) in [
            ("", "no series"),
            ("t0,t1,t2\n1,2,3\n", "column `class`"),
            ("1,2,3\n1,x,3\n", "row 2: `x` is no number"),
            ("1,2,3\n1\n", "row 2: has fewer"),
        ] {
            let e = parse(text, b',').unwrap_err();
            assert!(e.contains(what), "{text:?}: {e}");
        }
    }
}
