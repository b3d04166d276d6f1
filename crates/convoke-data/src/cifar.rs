//! CIFAR-10 binary batches: records of one label byte and 3×32×32 bytes, plane by plane
//! (Krizhevsky 2009).

use crate::dataset::{Dataset, Source, Split};
use crate::file::read_text;
use crate::{DataError, Result};
use std::path::Path;
use std::sync::Arc;

const SIDE: usize = 32;
const RECORD: usize = 1 + 3 * SIDE * SIDE;
const NAMES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// The set in a folder that holds `data_batch_1.bin` …; `None` when it does not.
pub(crate) fn open(folder: &Path) -> Result<Option<Dataset>> {
    let batches: Vec<_> = (1..=5)
        .map(|i| folder.join(format!("data_batch_{i}.bin")))
        .filter(|p| p.is_file())
        .collect();
    if batches.is_empty() {
        return Ok(None);
    }
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for path in &batches {
        read(path, &mut pixels, &mut labels)?;
    }
    let train = split(pixels, labels);
    let path = folder.join("test_batch.bin");
    let test = if path.is_file() {
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        read(&path, &mut pixels, &mut labels)?;
        Some(split(pixels, labels))
    } else {
        None
    };
    let classes = match read_text(&folder.join("batches.meta.txt")) {
        Ok(t) if t.split_whitespace().count() == 10 => {
            t.split_whitespace().map(Into::into).collect()
        }
        _ => NAMES.map(String::from).to_vec(),
    };
    let size = Some((SIDE, SIDE));
    let kind = "CIFAR-10 binary batches";
    Ok(Some(Dataset { kind, classes, train, val: None, test, channels: 3, size, ignored: 0 }))
}

fn split(pixels: Vec<u8>, labels: Vec<u32>) -> Split {
    let pixels = Arc::new(pixels);
    Split { source: Source::Memory { pixels, width: SIDE, height: SIDE, channels: 3 }, labels }
}

fn read(path: &Path, pixels: &mut Vec<u8>, labels: &mut Vec<u32>) -> Result<()> {
    let length = std::fs::metadata(path).map_err(|e| DataError::io(path, e))?.len();
    if length == 0 || length % RECORD as u64 != 0 || length > 1 << 30 {
        return Err(DataError::dataset(
            path,
            format!("has {length} bytes, which is no multiple of {RECORD}; download it again"),
        ));
    }
    let bytes = std::fs::read(path).map_err(|e| DataError::io(path, e))?;
    for record in bytes.chunks_exact(RECORD) {
        if record[0] > 9 {
            return Err(DataError::dataset(
                path,
                format!("holds label {}; CIFAR-10 has 0 to 9", record[0]),
            ));
        }
        labels.push(u32::from(record[0]));
        let planes = &record[1..];
        for i in 0..SIDE * SIDE {
            pixels.extend([planes[i], planes[SIDE * SIDE + i], planes[2 * SIDE * SIDE + i]]);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_become_pixels() {
        let folder = tempfile::tempdir().unwrap();
        let mut record = vec![7u8];
        for plane in [1u8, 2, 3] {
            record.extend(vec![plane; SIDE * SIDE]);
        }
        std::fs::write(folder.path().join("data_batch_1.bin"), record.repeat(2)).unwrap();
        let set = open(folder.path()).unwrap().unwrap();
        assert_eq!(set.train.labels, [7, 7]);
        let Source::Memory { pixels, .. } = &set.train.source else { panic!("in memory") };
        assert_eq!(pixels[..6], [1, 2, 3, 1, 2, 3]);
        std::fs::write(folder.path().join("data_batch_1.bin"), &record[1..]).unwrap();
        assert!(open(folder.path()).unwrap_err().to_string().contains("multiple"));
    }
}
