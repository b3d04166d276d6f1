//! IDX files (LeCun's MNIST format), plain or gzipped.

use crate::dataset::{Dataset, Source, Split};
use crate::{DataError, Result};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// More than this is no IDX file that we know.
const MAX_BYTES: u64 = 4 << 30;

/// The set in a folder that holds `train-images-idx3-ubyte` and `train-labels-idx1-ubyte` (and, to
/// test, `t10k-…`), each plain or `.gz`; `None` when there are no such files.
pub(crate) fn open(folder: &Path) -> Result<Option<Dataset>> {
    let find = |stem: &str| -> Option<PathBuf> {
        let names = [stem.to_string(), stem.replace("-idx", ".idx")];
        names
            .iter()
            .flat_map(|n| [folder.join(n), folder.join(format!("{n}.gz"))])
            .find(|p| p.is_file())
    };
    let Some(images) = find("train-images-idx3-ubyte") else { return Ok(None) };
    let missing = |what: &str| {
        DataError::dataset(folder, format!("{what} is missing beside {}", images.display()))
    };
    let labels =
        find("train-labels-idx1-ubyte").ok_or_else(|| missing("train-labels-idx1-ubyte"))?;
    let (train, size) = split(&images, &labels)?;
    let test = match (find("t10k-images-idx3-ubyte"), find("t10k-labels-idx1-ubyte")) {
        (Some(i), Some(l)) => Some((split(&i, &l)?, i)),
        _ => None,
    };
    if let Some(((_, other), path)) = test.as_ref().filter(|((_, s), _)| *s != size) {
        return Err(DataError::dataset(
            path,
            format!("pictures are {other:?} but the training ones {size:?}"),
        ));
    }
    let test = test.map(|t| t.0.0);
    let most = train.labels.iter().chain(test.iter().flat_map(|t| &t.labels)).max();
    let count = most.map_or(0, |&m| m as usize + 1);
    if count < 2 {
        return Err(DataError::dataset(
            folder,
            "has only one class; a classifier needs at least two",
        ));
    }
    let classes = match std::fs::read_to_string(folder.join("classes.txt")) {
        Ok(text) if text.lines().count() == count => {
            text.lines().map(|l| l.trim().into()).collect()
        }
        _ => (0..count).map(|i| i.to_string()).collect(),
    };
    Ok(Some(Dataset {
        kind: "IDX files",
        classes,
        train,
        val: None,
        test,
        channels: 1,
        size: Some(size),
        ignored: 0,
    }))
}

fn split(images: &Path, labels: &Path) -> Result<(Split, (usize, usize))> {
    let (sizes, pixels) = read(images)?;
    let [n, height, width] = sizes[..] else {
        return Err(DataError::dataset(
            images,
            "is not a file of pictures (3 dimensions of bytes)",
        ));
    };
    if height == 0 || width == 0 || n == 0 {
        return Err(DataError::dataset(images, "holds no pictures"));
    }
    let (sizes, labels_read) = read(labels)?;
    if sizes != [n] {
        return Err(DataError::dataset(
            labels,
            format!("has {sizes:?} labels for {n} pictures; take the files of one set"),
        ));
    }
    let source = Source::Memory { pixels: Arc::new(pixels), width, height, channels: 1 };
    let labels = labels_read.into_iter().map(u32::from).collect();
    Ok((Split { source, labels }, (height, width)))
}

/// Sizes and bytes of an IDX file of unsigned bytes.
fn read(path: &Path) -> Result<(Vec<usize>, Vec<u8>)> {
    let file = std::fs::File::open(path).map_err(|e| DataError::io(path, e))?;
    let mut bytes = Vec::new();
    let mut reader: Box<dyn Read> = if path.extension().is_some_and(|e| e == "gz") {
        Box::new(flate2::read::MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    reader.by_ref().take(MAX_BYTES).read_to_end(&mut bytes).map_err(|e| DataError::io(path, e))?;
    parse(&bytes).map_err(|what| DataError::dataset(path, what))
}

/// Sizes and bytes: magic `0 0 8 d`, then d big-endian sizes, then the bytes.
fn parse(bytes: &[u8]) -> std::result::Result<(Vec<usize>, Vec<u8>), String> {
    let [0, 0, kind, dimensions, rest @ ..] = bytes else {
        return Err("is no IDX file: it does not begin with two zero bytes".into());
    };
    if *kind != 8 {
        return Err(format!(
            "holds numbers of kind 0x{kind:02x}; only unsigned bytes (0x08) are pictures"
        ));
    }
    let d = *dimensions as usize;
    if rest.len() < 4 * d || d == 0 || d > 4 {
        return Err("is cut short or no IDX file; download it again".into());
    }
    let size = |i: usize| {
        u32::from_be_bytes([rest[4 * i], rest[4 * i + 1], rest[4 * i + 2], rest[4 * i + 3]])
    };
    let sizes: Vec<usize> = (0..d).map(|i| size(i) as usize).collect();
    let wanted = sizes.iter().try_fold(1usize, |a, &b| a.checked_mul(b));
    let data = &rest[4 * d..];
    if wanted != Some(data.len()) {
        return Err(format!(
            "should hold {sizes:?} bytes but has {}; download it again",
            data.len()
        ));
    }
    Ok((sizes, data.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_and_bytes_are_read() {
        let file = [0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6];
        assert_eq!(parse(&file).unwrap(), (vec![2, 3], vec![1, 2, 3, 4, 5, 6]));
        assert!(parse(&file[..17]).unwrap_err().contains("download it again"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&bytes);
            let mut near = vec![0, 0, 8, 3];
            near.extend(bytes);
            let _ = parse(&near);
        }
    }

    #[test]
    fn fashion_mnist_is_recognised() {
        let path =
            Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/fashion-mnist"));
        if !path.exists() {
            eprintln!("skipped: the Fashion-MNIST files are not here");
            return;
        }
        let set = open(path).unwrap().unwrap();
        assert_eq!((set.train.len(), set.classes.len(), set.size), (60_000, 10, Some((28, 28))));
        assert_eq!(set.test.unwrap().counts(10), [1000; 10]);
    }
}
