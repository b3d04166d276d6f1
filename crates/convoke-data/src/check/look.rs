//! Looking at single pictures: what their files say, whether they can be read, what is kept to compare them.

use super::CheckOptions;
use super::facts::{Facts, Format};
use super::kind::Kind;
use super::twins::{self, Sketch, Trace};
use crate::dataset::{Source, Split};
use crate::file::open_file;
use crate::picture::{Picture, read_picture, read_size};
use crate::{DataError, Result};
use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// One sample of a split.
#[derive(Debug, Clone)]
pub(super) struct Sample<'a> {
    /// Number of the split.
    pub split: usize,
    /// What it is marked as: samples of one label are marked alike. None where nobody has marked it.
    pub label: Option<u64>,
    /// Where it lies, for people: `train ants`.
    pub place: String,
    /// The file, or a name for a sample in memory.
    pub path: PathBuf,
    /// Pixels in memory: width, height, channels, numbers.
    pub pixels: Option<(usize, usize, usize, &'a [u8])>,
}

/// All samples of labelled splits.
pub(super) fn samples<'a>(splits: &[(&'static str, &'a Split)]) -> Vec<Sample<'a>> {
    let mut all = Vec::new();
    for (number, (name, split)) in splits.iter().enumerate() {
        for (index, &label) in split.labels.iter().enumerate() {
            let (path, pixels) = match &split.source {
                Source::Files(files) => (files[index].clone(), None),
                Source::Memory { pixels, width, height, channels } => {
                    let len = width * height * channels;
                    let part = &pixels[index * len..][..len];
                    let path = PathBuf::from(format!("{name} {index}"));
                    (path, Some((*width, *height, *channels, part)))
                }
                // What is asked here is asked of pictures.
                Source::Signals(_) => continue,
            };
            let folder = path.parent().and_then(Path::file_name);
            let place = match folder {
                Some(folder) => format!("{name} {}", folder.to_string_lossy()),
                None => format!("{name} class {label}"),
            };
            let label = Some(u64::from(label));
            all.push(Sample { split: number, label, place, path, pixels });
        }
    }
    all
}

/// What was seen of a sample.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub format: Option<Format>,
    pub facts: Facts,
    /// Width and height as shown.
    pub size: Option<(usize, usize)>,
    pub turned: bool,
    pub digest: Option<u128>,
    /// To find near twins: of pictures that are large enough, and of small ones.
    pub trace: Option<Trace>,
    pub sketch: Option<Sketch>,
    pub blank: bool,
    /// What is wrong with the file.
    pub wrong: Option<(Kind, String)>,
}

/// Looks at every sample, on all threads.
pub(super) fn look_at(samples: &[Sample], options: CheckOptions) -> Vec<Seen> {
    // In the quick form only files of a length that another has, too, can be equal.
    let lengths: Vec<u64> =
        samples.iter().map(|s| std::fs::metadata(&s.path).map_or(0, |m| m.len())).collect();
    let (mut once, mut twice) = (HashSet::new(), HashSet::new());
    for n in &lengths {
        if !once.insert(*n) {
            twice.insert(*n);
        }
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut mine = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(sample) = samples.get(i) else { return mine };
            let seen = match sample.pixels {
                Some(pixels) => in_memory(pixels, options),
                None if options.quick => header(&sample.path, twice.contains(&lengths[i])),
                None => whole(&sample.path),
            };
            mine.push((i, seen));
        }
    };
    let mut all = vec![Seen::default(); samples.len()];
    std::thread::scope(|s| {
        let threads: Vec<_> = (0..options.threads.max(1)).map(|_| s.spawn(work)).collect();
        for thread in threads {
            for (i, seen) in thread.join().unwrap_or_default() {
                all[i] = seen;
            }
        }
    });
    all
}

/// Files longer than this are not read whole.
const MAX_BYTES: u64 = 1 << 30;
/// Bytes of a header; profiles and thumbnails come before the size, and profiles of inks are long.
const HEADER: u64 = 4 << 20;

pub(super) fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = open_file(path).map_err(|e| DataError::io(path, e))?;
    file.take(most).read_to_end(&mut bytes).map_err(|e| DataError::io(path, e))?;
    Ok(bytes)
}

/// What the file's first bytes tell, and what is wrong with them.
fn first_look(path: &Path, bytes: &[u8]) -> Seen {
    let format = Format::of(bytes);
    let facts = format.map_or(Facts::default(), |f| Facts::of(f, bytes));
    let wrong = match format {
        None if bytes.is_empty() => Some((Kind::Empty, "holds nothing".to_string())),
        None => Some((Kind::NotAPicture, format!("begins with {}", beginning(bytes)))),
        Some(Format::Foreign) => Some((Kind::Foreign, format!("is a {}", Format::Foreign.name()))),
        Some(_) => None,
    };
    let turned = format == Some(Format::Jpeg) && crate::picture::is_turned(path);
    Seen { format, facts, wrong, turned, ..Seen::default() }
}

/// The first letters of a file, for people.
fn beginning(bytes: &[u8]) -> String {
    let shown = |b: &u8| if b.is_ascii_graphic() || *b == b' ' { char::from(*b) } else { '.' };
    format!("`{}`", bytes.iter().take(16).map(shown).collect::<String>())
}

fn unreadable(e: &DataError, path: &Path) -> (Kind, String) {
    let told = e.to_string();
    let told = told.strip_prefix(&format!("{}: ", path.display())).unwrap_or(&told);
    (Kind::Broken, told.to_string())
}

fn header(path: &Path, with_digest: bool) -> Seen {
    let most = if with_digest { MAX_BYTES } else { HEADER };
    let bytes = match read(path, most) {
        Ok(bytes) => bytes,
        Err(e) => return Seen { wrong: Some(unreadable(&e, path)), ..Seen::default() },
    };
    let mut seen = first_look(path, &bytes);
    if seen.wrong.is_none() {
        match read_size(path) {
            Ok((w, h)) => seen.size = Some(if seen.turned { (h, w) } else { (w, h) }),
            Err(e) => seen.wrong = Some(unreadable(&e, path)),
        }
        seen.digest = with_digest.then(|| twins::digest(&bytes));
    }
    seen
}

fn whole(path: &Path) -> Seen {
    let bytes = match read(path, HEADER) {
        Ok(bytes) => bytes,
        Err(e) => return Seen { wrong: Some(unreadable(&e, path)), ..Seen::default() },
    };
    let mut seen = first_look(path, &bytes);
    if seen.wrong.is_some() {
        return seen;
    }
    match read_picture(path, 3) {
        Ok(p) => {
            seen.size = Some((p.width, p.height));
            seen.digest = Some(pixel_digest(&p));
            seen.blank = is_blank(&p.data, 3);
            seen.trace = Trace::of(&p);
            seen.sketch = Sketch::of(p.width, p.height, p.channels, &p.data);
        }
        Err(e) => seen.wrong = Some(unreadable(&e, path)),
    }
    seen
}

fn in_memory((w, h, c, pixels): (usize, usize, usize, &[u8]), options: CheckOptions) -> Seen {
    Seen {
        digest: Some(twins::digest(pixels)),
        size: Some((w, h)),
        sketch: Sketch::of(w, h, c, pixels).filter(|_| !options.quick),
        blank: is_blank(pixels, c),
        ..Seen::default()
    }
}

/// Equal for the same pixels, whatever file they lie in.
fn pixel_digest(p: &Picture) -> u128 {
    twins::digest(&p.data) ^ (p.width as u128) << 96
}

/// Whether all pixels are one colour, but for the noise of a JPEG.
fn is_blank(pixels: &[u8], channels: usize) -> bool {
    let Some(first) = pixels.get(..channels) else { return true };
    pixels.chunks_exact(channels).all(|p| p.iter().zip(first).all(|(a, b)| a.abs_diff(*b) <= 3))
}
