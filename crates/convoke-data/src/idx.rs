//! IDX files (LeCun's MNIST format), plain or gzipped.

use crate::dataset::{Dataset, Source, Split};
use crate::file::{open_file, read_text};
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
    let classes = match read_text(&folder.join("classes.txt")) {
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
    let file = open_file(path).map_err(|e| DataError::io(path, e))?;
    let reader: Box<dyn Read> = if path.extension().is_some_and(|e| e == "gz") {
        Box::new(flate2::read::MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    let read = parse(reader).map_err(|e| DataError::io(path, e))?;
    read.map_err(|what| DataError::dataset(path, what))
}

type Parsed = std::result::Result<(Vec<usize>, Vec<u8>), String>;

/// Sizes and bytes: magic `0 0 8 d`, then d big-endian sizes, then the bytes. No more is read than the sizes say, so
/// that a zipped file that unfolds without end is not waited for.
fn parse(mut reader: impl Read) -> std::io::Result<Parsed> {
    let mut head = Vec::new();
    reader.by_ref().take(4).read_to_end(&mut head)?;
    let [0, 0, kind, dimensions] = head[..] else {
        return Ok(Err("is no IDX file: it does not begin with two zero bytes".into()));
    };
    if kind != 8 {
        return Ok(Err(format!(
            "holds numbers of kind 0x{kind:02x}; only unsigned bytes (0x08) are pictures"
        )));
    }
    let d = usize::from(dimensions);
    let mut sizes = Vec::new();
    reader.by_ref().take(4 * d as u64).read_to_end(&mut sizes)?;
    if sizes.len() < 4 * d || d == 0 || d > 4 {
        return Ok(Err("is cut short or no IDX file; download it again".into()));
    }
    let size = |s: &[u8]| s.iter().fold(0, |n: usize, &b| n << 8 | usize::from(b));
    let sizes: Vec<usize> = sizes.chunks_exact(4).map(size).collect();
    let wanted = sizes.iter().try_fold(1u64, |a, &b| a.checked_mul(b as u64));
    let Some(wanted) = wanted.filter(|&n| n <= MAX_BYTES) else {
        return Ok(Err(format!("says that it holds {sizes:?} bytes, which is too much")));
    };
    let mut data = Vec::new();
    reader.take(wanted + 1).read_to_end(&mut data)?;
    if data.len() as u64 != wanted {
        let has = if data.len() as u64 > wanted { "more".into() } else { data.len().to_string() };
        return Ok(Err(format!("should hold {sizes:?} bytes but has {has}; download it again")));
    }
    Ok(Ok((sizes, data)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_and_bytes_are_read() {
        let file = [0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6];
        assert_eq!(parse(&file[..]).unwrap().unwrap(), (vec![2, 3], vec![1, 2, 3, 4, 5, 6]));
        assert!(parse(&[&file[..], &[7]].concat()[..]).unwrap().unwrap_err().contains("has more"));
        assert!(parse(&file[..17]).unwrap().unwrap_err().contains("download it again"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&bytes[..]);
            let mut near = vec![0, 0, 8, 3];
            near.extend(bytes);
            let _ = parse(&near[..]);
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
