//! NumPy's `.npy`: series as `[n, length]` or `[n, channels, length]` (as sktime and aeon keep them), classes as a
//! row of whole numbers or words beside them.

use super::{MAX_BYTES, MAX_LENGTH, Said};
use crate::file::read_file;
use crate::{DataError, Result};
use std::path::Path;

/// An array of a file.
#[derive(Debug, Clone, PartialEq)]
struct Array {
    shape: Vec<usize>,
    cells: Cells,
}

#[derive(Debug, Clone, PartialEq)]
enum Cells {
    Numbers(Vec<f64>),
    Words(Vec<String>),
}

/// Series of one file with the classes of another, if there is one.
pub(super) fn read(path: &Path, labels: Option<&Path>) -> Result<Said> {
    let wrong = |what: String| DataError::dataset(path, what);
    let array = load(path)?;
    let Cells::Numbers(values) = array.cells else {
        return Err(wrong("holds words, not numbers".into()));
    };
    let (n, channels, length) = match array.shape[..] {
        [n, length] => (n, 1, length),
        [n, channels, length] => (n, channels, length),
        _ => {
            return Err(wrong(format!(
                "is {:?}; give [series, length] or [series, channels, length]",
                array.shape
            )));
        }
    };
    if n == 0 || channels == 0 || length == 0 || length > MAX_LENGTH || channels > MAX_LENGTH {
        return Err(wrong(format!("is {:?}; no side may be 0 or above {MAX_LENGTH}", array.shape)));
    }
    let mut said = Said { channels, ..Said::default() };
    for series in values.chunks_exact(channels * length) {
        // Values after the end of the longest channel are not there.
        let there = |t: &usize| (0..channels).any(|c| !series[c * length + t].is_nan());
        let end = (0..length).rev().find(there).map_or(1, |t| t + 1);
        let at = |t: usize| (0..channels).map(move |c| series[c * length + t] as f32);
        said.signals.push((0..end).flat_map(at).collect());
    }
    if said.signals.iter().flatten().any(|v| v.is_infinite()) {
        return Err(wrong("holds numbers that are not finite".into()));
    }
    if let Some(path) = labels {
        let array = load(path)?;
        if array.shape != [n] {
            let what = format!("is {:?} beside {n} series", array.shape);
            return Err(DataError::dataset(path, what));
        }
        said.targets =
            matches!(&array.cells, Cells::Numbers(v) if v.iter().any(|v| v.fract() != 0.0));
        said.labels = match array.cells {
            Cells::Numbers(v) => v.iter().map(f64::to_string).collect(),
            Cells::Words(w) => w,
        };
    }
    Ok(said)
}

fn load(path: &Path) -> Result<Array> {
    parse(&read_file(path, MAX_BYTES)?).map_err(|what| DataError::dataset(path, what))
}

fn parse(bytes: &[u8]) -> std::result::Result<Array, String> {
    const DAMAGED: &str = "is no .npy file, or cut short";
    let damaged = || DAMAGED.to_string();
    if bytes.get(..6) != Some(b"\x93NUMPY") {
        return Err(damaged());
    }
    let (length, start) = match bytes.get(6).ok_or_else(damaged)? {
        1 => (bytes.get(8..10).map(|b| u16::from_le_bytes([b[0], b[1]]) as usize), 10),
        _ => (bytes.get(8..12).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize), 12),
    };
    let end = length.and_then(|l| l.checked_add(start)).ok_or_else(damaged)?;
    let head = bytes.get(start..end).ok_or_else(damaged)?;
    let head = std::str::from_utf8(head).map_err(|_| damaged())?;
    if field(head, "fortran_order").is_none_or(|f| !f.starts_with("False")) {
        return Err("is in Fortran's order; save it with numpy.ascontiguousarray".into());
    }
    let kind = field(head, "descr").ok_or_else(damaged)?;
    let kind: String = kind.trim_start_matches('\'').chars().take_while(|c| *c != '\'').collect();
    let sides = field(head, "shape").and_then(|s| s.strip_prefix('(')).ok_or_else(damaged)?;
    let sides = sides.split(')').next().unwrap_or_default().split(',').map(str::trim);
    let shape = sides.filter(|s| !s.is_empty()).map(|s| s.parse::<usize>().map_err(|_| damaged()));
    let shape = shape.collect::<std::result::Result<Vec<_>, _>>()?;
    let count = shape.iter().try_fold(1usize, |n, &s| n.checked_mul(s)).ok_or_else(damaged)?;
    let cells = cells(&kind, &bytes[end..], count)?;
    Ok(Array { shape, cells })
}

/// What follows a key of the header's dictionary.
fn field<'a>(head: &'a str, key: &str) -> Option<&'a str> {
    let at = head.find(&format!("'{key}':"))?;
    Some(head[at + key.len() + 3..].trim_start())
}

fn cells(kind: &str, data: &[u8], count: usize) -> std::result::Result<Cells, String> {
    let size = |bytes: usize| match count.checked_mul(bytes) {
        Some(n) if n == data.len() && bytes > 0 => Ok(()),
        _ => Err("is cut short, or longer than its header says".to_string()),
    };
    macro_rules! numbers {
        ($kind:ty) => {{
            const BYTES: usize = std::mem::size_of::<$kind>();
            size(BYTES)?;
            let cell = |b: &[u8]| <$kind>::from_le_bytes(b.try_into().unwrap_or_default()) as f64;
            Cells::Numbers(data.chunks_exact(BYTES).map(cell).collect())
        }};
    }
    Ok(match kind {
        "<f4" => numbers!(f32),
        "<f8" => numbers!(f64),
        "<i8" => numbers!(i64),
        "<i4" => numbers!(i32),
        "<i2" => numbers!(i16),
        "|u1" => numbers!(u8),
        "|i1" => numbers!(i8),
        _ => match kind.strip_prefix("<U").and_then(|n| n.parse::<usize>().ok()) {
            Some(letters) if letters <= 1 << 16 => {
                size(4 * letters)?;
                let letter =
                    |b: &[u8]| char::from_u32(u32::from_le_bytes(b.try_into().unwrap_or_default()));
                let word = |b: &[u8]| {
                    let all = b.chunks_exact(4).filter_map(letter);
                    all.take_while(|c| *c != '\0').collect::<String>()
                };
                Cells::Words(data.chunks_exact(4 * letters).map(word).collect())
            }
            _ => {
                return Err(format!(
                    "holds `{kind}`; give float32, float64, whole numbers or words"
                ));
            }
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(kind: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let head = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((head.len() as u16).to_le_bytes());
        bytes.extend(head.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn floats(v: &[f32]) -> Vec<u8> {
        v.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn series_and_classes() {
        let folder = tempfile::tempdir().unwrap();
        let (x, y) = (folder.path().join("x.npy"), folder.path().join("y.npy"));
        let n = f32::NAN;
        let data = floats(&[1.0, 2.0, n, 3.0, 4.0, n, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]);
        std::fs::write(&x, file("<f4", "(2, 2, 3)", &data)).unwrap();
        let words = |s: &str| s.chars().flat_map(|c| (c as u32).to_le_bytes()).collect::<Vec<u8>>();
        std::fs::write(&y, file("<U2", "(2,)", &[words("ab"), words("c\0")].concat())).unwrap();
        let s = read(&x, Some(&y)).unwrap();
        assert_eq!((s.channels, s.labels), (2, vec!["ab".to_string(), "c".into()]));
        assert_eq!(s.signals[0], [1.0, 3.0, 2.0, 4.0]);
        assert_eq!(s.signals[1], [5.0, 8.0, 6.0, 9.0, 7.0, 10.0]);
    }

    #[test]
    fn what_numpy_did_not_write_is_refused() {
        let good = file("<f4", "(2, 2)", &floats(&[1.0; 4]));
        assert!(parse(&good).is_ok());
        for cut in 0..good.len() {
            assert!(parse(&good[..cut]).is_err(), "{cut}");
        }
        for (kind, shape, bytes) in [
            ("<c8", "(1,)", 8),
            ("<f4", "(18446744073709551615, 18446744073709551615)", 4),
            ("<f4", "(-1,)", 4),
            ("<f4", "(3,)", 16),
            ("<U0", "(0,)", 0),
            ("<U99999999999", "(1,)", 0),
        ] {
            assert!(parse(&file(kind, shape, &vec![0; bytes])).is_err(), "{kind} {shape}");
        }
    }
}
