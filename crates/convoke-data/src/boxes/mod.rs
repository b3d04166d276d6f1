//! Pictures with boxes, whatever tool wrote them: one type, and a list of what is wrong with them.
//!
//! Readers ([`yolo`], [`coco`], [`voc`], [`table`], [`label_studio`]) only say what a file says;
//! [`settle`] finds the pictures, brings boxes to pixels of the picture as it is shown, mends or leaves
//! out what cannot be, and reports each such box as a [`Fault`].

mod coco;
mod files;
mod label_studio;
mod settle;
mod split;
mod table;
mod voc;
mod yolo;

pub use split::{BoxSplit, SplitOptions, near_duplicates};

use crate::file::{open_file, printable, read_file};
use crate::picture::Area;
use crate::{DataError, Result};
use files::Files;
use serde::Serialize;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Longer files of boxes are refused: COCO's own, with all outlines, has 450 MB.
const MAX_BYTES: u64 = 2 << 30;
/// More boxes than this in a set are refused.
const MAX_BOXES: usize = 50_000_000;

/// The part of a data set that a picture belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// To learn from.
    Train,
    /// To choose by while training.
    Val,
    /// To report on.
    Test,
}

impl Part {
    /// The part that a name such as `valid` or `instances_train2017.json` stands for.
    pub(crate) fn of(name: &str) -> Option<Part> {
        let name = name.to_lowercase();
        let words = || name.split(|c: char| !c.is_ascii_alphabetic());
        let is = |all: &[&str]| words().any(|w| all.contains(&w));
        match () {
            _ if is(&["train", "training"]) => Some(Part::Train),
            _ if is(&["val", "valid", "validation"]) => Some(Part::Val),
            _ if is(&["test", "testing"]) => Some(Part::Test),
            _ => None,
        }
    }
}

/// One box.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Annotation {
    /// Where, in pixels of the picture as it is shown (turned as EXIF says).
    pub area: Area,
    /// Position in [`BoxSet::classes`].
    pub class: usize,
    /// Stands for a group that nobody counted (COCO's `iscrowd`): neither to learn nor a false alarm.
    pub crowd: bool,
    /// Too hard to be asked for (Pascal VOC's `difficult`): likewise.
    pub difficult: bool,
    /// Pixels of the thing's outline, where the file says (COCO sorts things by it).
    pub mask_area: Option<f64>,
}

impl Annotation {
    /// Whether it is neither to be learnt nor a false alarm to be found.
    pub fn ignored(&self) -> bool {
        self.crowd || self.difficult
    }
}

/// A picture of a set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BoxedPicture {
    /// The file.
    pub path: PathBuf,
    /// Columns as shown.
    pub width: usize,
    /// Rows as shown.
    pub height: usize,
    /// Where the data set puts it, if it says.
    pub part: Option<Part>,
    /// All things in it: none for a negative. `None` when nobody has looked at it yet; such a picture is
    /// neither learnt from nor judged by.
    pub boxes: Option<Vec<Annotation>>,
}

/// What can be wrong with a box, a line, or a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// Boxes are told of a picture that is not there.
    MissingPicture,
    /// The picture cannot be read.
    UnreadablePicture,
    /// The file tells another size of the picture than it has.
    WrongSize,
    /// The picture is turned by EXIF.
    Turned,
    /// The box has no area.
    ZeroArea,
    /// Left and right, or top and bottom, are exchanged.
    Swapped,
    /// The box leaves the picture.
    OutOfRange,
    /// The same box of the same class is there twice.
    Duplicate,
    /// The class is not in the list of classes.
    UnknownClass,
    /// It is not understood.
    Malformed,
}

impl FaultKind {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            FaultKind::MissingPicture => "picture is missing",
            FaultKind::UnreadablePicture => "picture cannot be read",
            FaultKind::WrongSize => "wrong picture size",
            FaultKind::Turned => "picture turned by EXIF",
            FaultKind::ZeroArea => "box without area",
            FaultKind::Swapped => "edges exchanged",
            FaultKind::OutOfRange => "box outside of the picture",
            FaultKind::Duplicate => "same box twice",
            FaultKind::UnknownClass => "unknown class",
            FaultKind::Malformed => "not understood",
        }
    }
}

/// Something wrong, and what was done about it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fault {
    /// What is wrong.
    pub kind: FaultKind,
    /// The file of boxes.
    pub file: PathBuf,
    /// Where in it: `line 3`, `object 2`.
    pub place: String,
    /// The picture, where there is one.
    pub picture: Option<PathBuf>,
    /// The box as the file tells it, in pixels of the shown picture where that is known.
    pub area: Option<Area>,
    /// Details, and what was done.
    pub told: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, kind) = (self.file.to_string_lossy(), self.kind.words());
        f.write_str(&printable(&format!("{file}: {}: {kind}: {}", self.place, self.told)))
    }
}

/// A set of pictures with boxes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BoxSet {
    /// What was recognised, for people.
    pub kind: &'static str,
    /// Class names; [`Annotation::class`] is a position.
    pub classes: Vec<String>,
    /// Every picture once, in the order of their paths.
    pub pictures: Vec<BoxedPicture>,
    /// What is wrong, in the order of the files.
    pub faults: Vec<Fault>,
}

/// What kind of boxes lie somewhere, and in which files.
pub(crate) enum Kind {
    Yolo(yolo::Layout),
    Coco(Vec<PathBuf>),
    LabelStudio(Vec<PathBuf>),
    Table(Vec<PathBuf>),
    Voc(voc::Layout),
    CvatXml(PathBuf),
}

impl BoxSet {
    /// Whether boxes lie at `path`, told by names and first bytes alone.
    pub fn is_one(path: &Path) -> bool {
        matches!(recognise(path), Ok(Some(_)))
    }

    /// Opens what lies at `path`: a folder or file of YOLO, COCO, Pascal VOC, CVAT, Label Studio, or a
    /// CSV with the columns `filename,width,height,class,xmin,ymin,xmax,ymax`.
    ///
    /// # Errors
    /// When nothing is recognised, a file is damaged as a whole, or there are no pictures. What is wrong
    /// with single boxes is in [`BoxSet::faults`].
    pub fn open(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Err(DataError::dataset(path, "does not exist; give a folder or file of boxes"));
        }
        let Some(kind) = recognise(path)? else {
            return Err(DataError::dataset(
                path,
                "holds no boxes that are recognised: YOLO (data.yaml, labels/), COCO or Label Studio json, Pascal VOC or CVAT xml, or a CSV with filename, class, xmin, ymin, xmax, ymax",
            ));
        };
        let files = Files::around(path)?;
        let said = match &kind {
            Kind::Yolo(layout) => yolo::read(layout, &files)?,
            Kind::Coco(paths) => coco::read(paths)?,
            Kind::LabelStudio(paths) => label_studio::read(paths)?,
            Kind::Table(paths) => table::read(paths)?,
            Kind::Voc(layout) => voc::read(layout)?,
            Kind::CvatXml(file) => voc::read_cvat(file)?,
        };
        let set = settle::settle(said, &files);
        if set.pictures.iter().all(|p| p.boxes.is_none()) {
            let why = set.faults.first().map_or(String::new(), |f| format!(" ({f})"));
            return Err(DataError::dataset(
                path,
                format!("tells boxes of no picture that is there{why}; put the pictures beside it"),
            ));
        }
        Ok(set)
    }

    /// Number of boxes, by class.
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        for b in self.pictures.iter().filter_map(|p| p.boxes.as_ref()).flatten() {
            counts[b.class] += 1;
        }
        counts
    }

    /// Pictures that nobody has marked.
    pub fn unlabelled(&self) -> usize {
        self.pictures.iter().filter(|p| p.boxes.is_none()).count()
    }

    /// Pictures in which nothing is, by their annotations.
    pub fn negatives(&self) -> usize {
        self.pictures.iter().filter(|p| p.boxes.as_ref().is_some_and(Vec::is_empty)).count()
    }
}

/// Tells by names and first bytes.
fn recognise(path: &Path) -> Result<Option<Kind>> {
    if path.is_file() {
        return by_file(path);
    }
    if !path.is_dir() {
        return Ok(None);
    }
    if let Some(layout) = yolo::by_lists(path)? {
        return Ok(Some(Kind::Yolo(layout)));
    }
    let near = files::notes(path)?;
    let with = |ending: &'static str| near.iter().filter(move |p| files::ending(p) == ending);
    for find in [coco::is_one, label_studio::is_one] {
        let found: Vec<PathBuf> = with("json").filter(|p| find(p)).cloned().collect();
        if !found.is_empty() {
            let coco = coco::is_one(&found[0]);
            return Ok(Some(if coco { Kind::Coco(found) } else { Kind::LabelStudio(found) }));
        }
    }
    let tables: Vec<PathBuf> = with("csv").filter(|p| table::is_one(p)).cloned().collect();
    if !tables.is_empty() {
        return Ok(Some(Kind::Table(tables)));
    }
    if let Some(file) = with("xml").find(|p| voc::is_cvat(p)) {
        return Ok(Some(Kind::CvatXml(file.clone())));
    }
    if let Some(layout) = voc::by_folder(path, &near) {
        return Ok(Some(Kind::Voc(layout)));
    }
    Ok(yolo::by_labels(path)?.map(Kind::Yolo))
}

fn by_file(path: &Path) -> Result<Option<Kind>> {
    let one = || vec![path.to_path_buf()];
    Ok(match files::ending(path).as_str() {
        "json" if coco::is_one(path) => Some(Kind::Coco(one())),
        "json" if label_studio::is_one(path) => Some(Kind::LabelStudio(one())),
        "csv" if table::is_one(path) => Some(Kind::Table(one())),
        "yaml" | "yml" => yolo::by_yaml(path)?.map(Kind::Yolo),
        "xml" if voc::is_cvat(path) => Some(Kind::CvatXml(path.into())),
        "xml" if voc::is_one(path) => Some(Kind::Voc(voc::Layout::of(one()))),
        _ => None,
    })
}

/// What a file says of one picture.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    /// The file of boxes.
    pub file: PathBuf,
    /// The picture as the file names it.
    pub picture: String,
    /// Where it is, for readers that begin with the pictures.
    pub path: Option<PathBuf>,
    /// Width and height as the file tells them.
    pub size: Option<(f64, f64)>,
    pub part: Option<Part>,
    /// `None` where nobody has marked the picture.
    pub boxes: Option<Vec<ToldBox>>,
}

/// What a file says of one box.
#[derive(Debug, Clone, Default)]
pub(crate) struct ToldBox {
    pub place: String,
    /// Position in [`Said::classes`].
    pub class: usize,
    /// Left, top, right, bottom.
    pub edges: [f64; 4],
    /// Edges are shares of the picture's sides instead of pixels.
    pub shares: bool,
    /// The picture's size as this box tells it, where it differs from box to box.
    pub size: Option<(f64, f64)>,
    pub crowd: bool,
    pub difficult: bool,
    pub mask_area: Option<f64>,
}

/// What the files say.
pub(crate) struct Said {
    pub kind: &'static str,
    pub classes: Vec<String>,
    /// Positions of the classes that [`Said::class`] added.
    known: HashMap<String, usize>,
    pub pictures: Vec<Told>,
    pub faults: Vec<Fault>,
}

impl Said {
    fn new(kind: &'static str) -> Self {
        let (classes, known) = (Vec::new(), HashMap::new());
        Said { kind, classes, known, pictures: Vec::new(), faults: Vec::new() }
    }

    /// The position of a class name; new names are added.
    fn class(&mut self, name: &str) -> usize {
        *self.known.entry(plain(name)).or_insert_with_key(|name| {
            self.classes.push(name.clone());
            self.classes.len() - 1
        })
    }

    /// Classes in the order of their names, for formats without a list of them.
    fn sort_classes(&mut self) {
        let mut order: Vec<usize> = (0..self.classes.len()).collect();
        order.sort_by(|&a, &b| self.classes[a].cmp(&self.classes[b]));
        let mut place = vec![0; order.len()];
        for (new, &old) in order.iter().enumerate() {
            place[old] = new;
        }
        self.classes.sort();
        for b in self.pictures.iter_mut().filter_map(|p| p.boxes.as_mut()).flatten() {
            b.class = place[b.class];
        }
    }

    /// Notes that something was not understood and left out.
    fn wrong(&mut self, kind: FaultKind, file: &Path, place: impl Into<String>, told: &str) {
        self.faults.push(Fault {
            kind,
            file: file.into(),
            place: place.into(),
            picture: None,
            area: None,
            told: format!("{}; left out", plain(told)),
        });
    }
}

/// A name from a file in one line of moderate length.
fn plain(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// The text of a file of boxes.
fn text_of(path: &Path) -> Result<String> {
    let bytes = bytes_of(path)?;
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

fn bytes_of(path: &Path) -> Result<Vec<u8>> {
    read_file(path, MAX_BYTES)
}

/// The first bytes of a file; empty where it cannot be read.
fn head_of(path: &Path) -> String {
    use std::io::Read;
    let mut bytes = Vec::new();
    if let Ok(file) = open_file(path) {
        let _ = file.take(4096).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests;
