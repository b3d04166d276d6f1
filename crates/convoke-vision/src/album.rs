//! Pictures with the things in them, ready to cut tiles from at any scale.

use crate::bounds::Bounds;
use crate::error::{Result, other};
use convoke_data::{Annotation, Area, BoxSet, Filter, Picture, read_picture, resize};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// A thing in a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thing {
    /// Where.
    pub bounds: Bounds,
    /// Position of its class.
    pub class: usize,
    /// Neither to be learnt nor a false alarm.
    pub ignored: bool,
}

impl From<&Annotation> for Thing {
    fn from(a: &Annotation) -> Self {
        Thing { bounds: a.area.into(), class: a.class, ignored: a.ignored() }
    }
}

/// Where a picture's pixels are.
#[derive(Debug, Clone)]
pub enum Pixels {
    /// In memory.
    Memory(Arc<Picture>),
    /// In a file, read when needed.
    File(PathBuf),
}

/// A picture with all things that are in it; all else in it is background.
#[derive(Debug, Clone)]
pub struct Example {
    /// The picture, in colour.
    pub pixels: Pixels,
    /// Its width and height.
    pub size: (usize, usize),
    /// The things.
    pub things: Vec<Thing>,
}

impl Example {
    /// A picture in memory with things of one class.
    pub fn new(picture: Picture, boxes: impl IntoIterator<Item = Bounds>) -> Self {
        let thing = |bounds| Thing { bounds, class: 0, ignored: false };
        Example {
            size: (picture.width, picture.height),
            things: boxes.into_iter().map(thing).collect(),
            pixels: Pixels::Memory(Arc::new(picture)),
        }
    }

    /// The marked pictures of a set at those positions.
    pub fn of_set(set: &BoxSet, which: &[usize]) -> Vec<Example> {
        let marked =
            which.iter().filter_map(|&i| Some((&set.pictures[i], set.pictures[i].boxes.as_ref()?)));
        let example = |(p, boxes): (&convoke_data::BoxedPicture, &Vec<Annotation>)| Example {
            pixels: Pixels::File(p.path.clone()),
            size: (p.width, p.height),
            things: boxes.iter().map(Thing::from).collect(),
        };
        marked.map(example).collect()
    }

    /// The picture.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn picture(&self) -> Result<Arc<Picture>> {
        match &self.pixels {
            Pixels::Memory(p) => Ok(p.clone()),
            Pixels::File(path) => Ok(Arc::new(read_picture(path, 3)?)),
        }
    }
}

/// A picture and its copies of half the size, a quarter, …
pub(crate) struct Halves(Vec<Arc<Picture>>);

impl Halves {
    fn of(picture: Arc<Picture>) -> Result<Self> {
        let mut all = vec![picture];
        loop {
            let last = &all[all.len() - 1];
            let (w, h) = (last.width / 2, last.height / 2);
            if w.min(h) < 16 {
                return Ok(Halves(all));
            }
            let area = Area { left: 0.0, top: 0.0, width: 2.0 * w as f64, height: 2.0 * h as f64 };
            all.push(Arc::new(resize(last, area, w, h, Filter::Bilinear)?));
        }
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(|p| p.data.len()).sum()
    }

    /// The smallest copy that still has a pixel for each of the picture seen at `scale`, roughly, and how
    /// many pixels of the picture one of its is.
    pub fn at(&self, scale: f64) -> (&Picture, f64) {
        let level = (1.0 / scale.max(1e-6)).log2() + 0.3;
        let level = (level.max(0.0) as usize).min(self.0.len() - 1);
        (&self.0[level], (1 << level) as f64)
    }
}

/// Decoded pictures are kept up to so many bytes.
const BUDGET: usize = 3 << 29;

/// Examples with their pixels at hand.
pub(crate) struct Album {
    pub examples: Vec<Example>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    pictures: HashMap<usize, (Arc<Halves>, u64)>,
    bytes: usize,
    clock: u64,
}

impl Album {
    /// Leaves out pictures that cannot be read, as far as they can all be kept; tells them.
    ///
    /// # Errors
    /// When no picture is left.
    pub fn new(examples: Vec<Example>) -> Result<(Self, Vec<String>)> {
        let mut album = Album { examples, kept: Mutex::default() };
        let (mut bytes, mut broken, mut told) = (0, Vec::new(), Vec::new());
        for i in 0..album.examples.len() {
            match album.halves(i) {
                Ok(h) => bytes += h.bytes(),
                Err(e) => {
                    broken.push(i);
                    told.push(e.to_string());
                }
            }
            if bytes > BUDGET {
                break;
            }
        }
        if !broken.is_empty() {
            album.kept = Mutex::default();
            let mut i = 0;
            album.examples.retain(|_| {
                i += 1;
                !broken.contains(&(i - 1))
            });
        }
        if album.examples.is_empty() {
            return other("there is no picture to learn from");
        }
        Ok((album, told))
    }

    /// A picture with its smaller copies; the longest unused ones make room.
    pub fn halves(&self, i: usize) -> Result<Arc<Halves>> {
        {
            let mut kept = self.kept.lock().unwrap_or_else(|e| e.into_inner());
            kept.clock += 1;
            let now = kept.clock;
            if let Some((halves, used)) = kept.pictures.get_mut(&i) {
                *used = now;
                return Ok(halves.clone());
            }
        }
        let halves = Arc::new(Halves::of(self.examples[i].picture()?)?);
        let mut kept = self.kept.lock().unwrap_or_else(|e| e.into_inner());
        kept.bytes += halves.bytes();
        while kept.bytes > BUDGET {
            let oldest = kept.pictures.iter().min_by_key(|(_, (_, used))| *used).map(|(i, _)| *i);
            let Some((old, _)) = oldest.and_then(|i| kept.pictures.remove(&i)) else { break };
            kept.bytes -= old.bytes();
        }
        let now = kept.clock;
        if let Some((old, _)) = kept.pictures.insert(i, (halves.clone(), now)) {
            kept.bytes -= old.bytes();
        }
        Ok(halves)
    }
}
