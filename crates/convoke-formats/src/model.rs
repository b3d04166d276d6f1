//! The model file: tensors by layer name, everything else as text in the header.

use crate::weights::one_line;
use convoke_data::{Preprocess, open_file, printable, write_file};
use convoke_engine::{Network, Overrides, Ranges};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, TensorView};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What can be wrong with a model file.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file cannot be read.
    #[error("{}: {source}", printable(&path.to_string_lossy()))]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is no model, is cut short, or was altered.
    #[error("{}: {}", printable(&path.to_string_lossy()), printable(what))]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        what: String,
    },
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] convoke_data::DataError),
}

/// A complete model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFile {
    /// The network.
    pub network: Network,
    /// Class names in the order of the outputs.
    pub classes: Vec<String>,
    /// How a picture becomes the input.
    pub preprocess: Preprocess,
    /// What the model is for: `classify`, `find`.
    pub task: String,
    /// All weights, in the order of [`Network::params`].
    pub params: Vec<f32>,
    /// All running statistics, in the order of [`Network::state`].
    pub state: Vec<f32>,
    /// Further facts by name, such as `top1` or a detector's tile size.
    pub facts: BTreeMap<String, String>,
    /// Further numbers by name, such as the optimizer's memory in a checkpoint or the ranges of maps.
    pub extra: BTreeMap<String, Vec<f32>>,
}

/// The version that this library writes, and the only one it reads.
const VERSION: &str = "1";
/// Longer headers are refused: a network of a hundred thousand layers needs a tenth of it.
const MAX_HEADER: u64 = 64 << 20;
/// Larger files are refused.
const MAX_BYTES: u64 = 64 << 30;
const EXTRA: &str = "extra.";
/// Before the name of a layer whose map's range [`ModelFile::extra`] holds.
const RANGE: &str = "range.";
const CHECKSUM: &str = "convoke.checksum";
const DAMAGED: &str = "is no model file, or is damaged or cut short; copy it again";

/// Tensors by name: shape and values. Sorted, so that the same model is the same file.
type Tensors<'a> = BTreeMap<String, (Vec<usize>, &'a [f32])>;
type Texts = BTreeMap<String, String>;

impl ModelFile {
    /// Writes the file beside its place and renames it there. The same model gives the same bytes.
    ///
    /// # Errors
    /// When a weight is not finite, or the file cannot be written (the old one then stays).
    pub fn save(&self, path: &Path) -> Result<(), ModelError> {
        let bytes = self.to_bytes().map_err(|what| {
            let what = format!("not written: {what}");
            ModelError::File { path: path.into(), what }
        })?;
        Ok(write_file(path, &bytes)?)
    }

    /// What values the maps take, where the model was quantized; else empty.
    pub fn ranges(&self) -> Ranges {
        let range = |(name, values): (&String, &Vec<f32>)| match values[..] {
            [lo, hi] => Some((name.strip_prefix(RANGE)?.to_string(), (lo, hi))),
            _ => None,
        };
        self.extra.iter().filter_map(range).collect()
    }

    /// Puts others in their place.
    pub fn set_ranges(&mut self, ranges: &Ranges) {
        self.extra.retain(|name, _| !name.starts_with(RANGE));
        self.extra.extend(ranges.iter().map(|(n, (lo, hi))| (format!("{RANGE}{n}"), vec![lo, hi])));
    }

    /// Whether a file says of itself that it is a model of this library, whole or not.
    pub fn is_one(path: &Path) -> bool {
        let header = || -> std::io::Result<Vec<u8>> {
            let mut file = open_file(path)?;
            let mut bytes = [0; 8];
            file.read_exact(&mut bytes)?;
            let mut header = Vec::new();
            file.take(u64::from_le_bytes(bytes).min(MAX_HEADER)).read_to_end(&mut header)?;
            Ok(header)
        };
        let key = b"\"convoke.version\"";
        header().is_ok_and(|h| h.starts_with(b"{") && h.windows(key.len()).any(|w| w == key))
    }

    /// Reads a model file.
    ///
    /// # Errors
    /// When the file is missing, no model, cut short, altered, or does not hold what its network needs.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let wrong = |what: String| ModelError::File { path: path.into(), what };
        let bytes = read(path).map_err(|source| ModelError::Io { path: path.into(), source })?;
        let bytes = bytes.ok_or_else(|| wrong(DAMAGED.into()))?;
        Self::from_bytes(&bytes).map_err(wrong)
    }

    /// The same, from memory.
    ///
    /// # Errors
    /// What is wrong, in one line without a path.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        parse(bytes).map_err(|e| one_line(&e))
    }

    /// Whether weights and statistics are as many as the network has, and finite.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (params, values, what) in [
            (self.network.params(), &self.params, "weights"),
            (self.network.state(), &self.state, "running statistics"),
        ] {
            let needed = params.last().map_or(0, |p| p.range.end);
            if needed != values.len() {
                return Err(format!("{} {what} but the network has {needed}", values.len()));
            }
            let broken =
                |p: &&convoke_engine::Param| values[p.range.clone()].iter().any(|v| !v.is_finite());
            if let Some(p) = params.iter().find(broken) {
                return Err(format!("`{}` holds numbers that are not finite", p.name));
            }
        }
        Ok(())
    }

    fn to_bytes(&self) -> Result<Vec<u8>, String> {
        let tensors = self.tensors()?;
        for (name, (_, values)) in &tensors {
            if values.iter().any(|v| !v.is_finite()) {
                return Err(format!(
                    "`{name}` holds numbers that are not finite; train with a lower learning rate"
                ));
            }
        }
        let mut texts = self.texts();
        let crc = checksum(&texts, tensors.iter().map(|(n, (shape, v))| (n, &shape[..], le(v))));
        texts.insert(CHECKSUM.into(), crc);
        let mut header = serde_json::Map::new();
        header.insert("__metadata__".into(), json!(texts));
        let mut end = 0;
        for (name, (shape, values)) in &tensors {
            let start = end;
            end += values.len() * 4;
            let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]});
            header.insert(name.clone(), entry);
        }
        let mut header = serde_json::Value::Object(header).to_string().into_bytes();
        // The format wants the data to begin at a multiple of eight bytes.
        header.resize(header.len().next_multiple_of(8), b' ');
        if header.len() as u64 > MAX_HEADER {
            return Err("the network's description is too long".into());
        }
        let mut bytes = Vec::with_capacity(8 + header.len() + end);
        bytes.extend((header.len() as u64).to_le_bytes());
        bytes.extend(header);
        for (_, values) in tensors.values() {
            bytes.extend_from_slice(&le(values));
        }
        Ok(bytes)
    }

    fn tensors(&self) -> Result<Tensors<'_>, String> {
        let mut tensors = Tensors::new();
        for (named, values) in
            [(self.network.params(), &self.params), (self.network.state(), &self.state)]
        {
            let needed = named.last().map_or(0, |p| p.range.end);
            if needed != values.len() {
                return Err(format!("{} numbers but the network has {needed}", values.len()));
            }
            for p in named {
                tensors.insert(p.name, (p.spec.shape, &values[p.range]));
            }
        }
        for (name, values) in &self.extra {
            let name = format!("{EXTRA}{name}");
            if tensors.insert(name.clone(), (vec![values.len()], values)).is_some() {
                return Err(format!("two tensors are named `{name}`; rename the layer `extra`"));
            }
        }
        Ok(tensors)
    }

    fn texts(&self) -> Texts {
        let mut texts: Texts = [
            ("convoke.version", VERSION.to_string()),
            ("convoke.network", self.network.to_toml()),
            ("convoke.classes", json!(self.classes).to_string()),
            ("convoke.preprocess", json!(self.preprocess).to_string()),
            ("convoke.task", self.task.clone()),
        ]
        .map(|(k, v)| (k.to_string(), v))
        .into();
        texts.extend(self.facts.iter().map(|(k, v)| (format!("fact.{k}"), v.clone())));
        texts
    }
}

/// The whole file, or `None` when its header shows that it is no model or that it is cut short: a
/// film given for a model is refused before it is read.
fn read(path: &Path) -> std::io::Result<Option<Vec<u8>>> {
    let mut file = open_file(path)?;
    let facts = file.metadata()?;
    let length = facts.len();
    if !(8..=MAX_BYTES).contains(&length) {
        return Ok(None);
    }
    let mut bytes = vec![0; 8];
    file.read_exact(&mut bytes)?;
    let header = bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b));
    if header > MAX_HEADER.min(length - 8) {
        return Ok(None);
    }
    (&mut file).take(header).read_to_end(&mut bytes)?;
    let Ok(metadata) = serde_json::from_slice::<Metadata>(&bytes[8..]) else { return Ok(None) };
    let data = metadata.tensors().values().map(|t| t.data_offsets.1).max().unwrap_or(0);
    if data as u64 != length - 8 - header {
        return Ok(None);
    }
    bytes.reserve_exact(data);
    file.take(data as u64).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn le(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// CRC-32 over the header's texts and the tensors' names, shapes and bytes, in order of names, each
/// with its length before it.
fn checksum<'a, B: AsRef<[u8]>>(
    texts: &Texts,
    tensors: impl Iterator<Item = (&'a String, &'a [usize], B)>,
) -> String {
    let mut crc = crc32fast::Hasher::new();
    let mut part = |bytes: &[u8]| {
        crc.update(&(bytes.len() as u64).to_le_bytes());
        crc.update(bytes);
    };
    for (k, v) in texts.iter().filter(|(k, _)| *k != CHECKSUM) {
        part(k.as_bytes());
        part(v.as_bytes());
    }
    for (name, shape, data) in tensors {
        part(name.as_bytes());
        part(format!("{shape:?}").as_bytes());
        part(data.as_ref());
    }
    format!("{:08x}", crc.finalize())
}

fn parse(bytes: &[u8]) -> Result<ModelFile, String> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|_| DAMAGED.to_string())?;
    let file = SafeTensors::deserialize(bytes).map_err(|_| DAMAGED.to_string())?;
    let texts: Texts = metadata.metadata().clone().unwrap_or_default().into_iter().collect();
    let text = |key: &str| {
        texts.get(&format!("convoke.{key}")).ok_or_else(|| {
            format!("has no `convoke.{key}`: these are weights without a network; give a model file that convoke wrote")
        })
    };
    if text("version")? != VERSION {
        return Err("was written by a newer convoke; update this one".into());
    }
    let mut tensors: BTreeMap<String, TensorView> = file.tensors().into_iter().collect();
    if *text("checksum")? != checksum(&texts, tensors.iter().map(|(n, t)| (n, t.shape(), t.data())))
    {
        return Err("has been altered: its checksum does not match; copy it again".into());
    }
    let network = Network::from_toml(text("network")?, &Overrides::default());
    let network = network.map_err(|e| one_line(&e.to_string()))?;
    let json = |what: &str, e: serde_json::Error| one_line(&format!("{what}: {e}"));
    let classes: Vec<String> =
        serde_json::from_str(text("classes")?).map_err(|e| json("class names", e))?;
    if classes.iter().any(|c| c.chars().any(char::is_control)) {
        return Err(
            "has class names that cannot be shown; give a model file that convoke wrote".into()
        );
    }
    let preprocess: Preprocess =
        serde_json::from_str(text("preprocess")?).map_err(|e| json("preprocessing", e))?;
    preprocess.check()?;
    let params = flat(network.params(), &mut tensors)?;
    let state = flat(network.state(), &mut tensors)?;
    let mut extra = BTreeMap::new();
    for (name, tensor) in &tensors {
        let Some(short) = name.strip_prefix(EXTRA).filter(|_| tensor.dtype() == Dtype::F32) else {
            return Err(format!("has a tensor `{}` that its network does not", one_line(name)));
        };
        extra.insert(short.to_string(), finite(name, tensor)?);
    }
    let facts = texts
        .iter()
        .filter_map(|(k, v)| Some((k.strip_prefix("fact.")?.to_string(), v.clone())))
        .collect();
    let task = text("task")?.clone();
    Ok(ModelFile { network, classes, preprocess, task, params, state, facts, extra })
}

/// Takes what the network wants out of the tensors, in its order.
fn flat(
    wanted: Vec<convoke_engine::Param>,
    tensors: &mut BTreeMap<String, TensorView>,
) -> Result<Vec<f32>, String> {
    let mut values = Vec::new();
    for p in wanted {
        let t = tensors.remove(&p.name).ok_or_else(|| format!("has no tensor `{}`", p.name))?;
        if t.shape() != p.spec.shape || t.dtype() != Dtype::F32 {
            return Err(format!(
                "tensor `{}` is {:?} but the network needs {:?} in f32",
                p.name,
                t.shape(),
                p.spec.shape
            ));
        }
        values.append(&mut finite(&p.name, &t)?);
    }
    Ok(values)
}

fn finite(name: &str, tensor: &TensorView) -> Result<Vec<f32>, String> {
    let floats =
        tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let values: Vec<f32> = floats.collect();
    match values.iter().all(|v| v.is_finite()) {
        true => Ok(values),
        false => Err(format!("tensor `{}` holds numbers that are not finite", one_line(name))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoke_engine::layers::Conv;
    use convoke_engine::{Builder, Shape};

    fn model() -> ModelFile {
        let mut b = Builder::new("tiny", Shape::new(6, 6, 3));
        b.conv(Conv::new(4, 3)).batch_norm().relu().flatten().dense(2);
        let network = b.build().unwrap();
        let params = (0..network.parameters()).map(|i| i as f32 * 0.25).collect();
        ModelFile {
            classes: vec!["ant \"x\"".into(), "bee".into()],
            preprocess: Preprocess::plain(6, 6, 3),
            task: "classify".into(),
            params,
            state: vec![0.5; 8],
            facts: [("top1".to_string(), "0.5".to_string())].into(),
            extra: [("optimizer".to_string(), vec![1.0, 2.0])].into(),
            network,
        }
    }

    #[test]
    fn a_model_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        model().save(&path).unwrap();
        assert_eq!(ModelFile::load(&path).unwrap(), model());
    }

    #[test]
    fn the_same_model_is_the_same_file() {
        let first = model().to_bytes().unwrap();
        assert!((0..20).all(|_| model().to_bytes().unwrap() == first));
    }

    #[test]
    fn others_can_read_the_tensors() {
        let bytes = model().to_bytes().unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let kernel = model().network.params().into_iter().next().unwrap();
        let tensor = file.tensor(&kernel.name).unwrap();
        assert_eq!(tensor.shape(), [3, 3, 3, 4]);
        assert_eq!(finite("", &tensor).unwrap(), &model().params[kernel.range]);
    }

    #[test]
    fn a_file_cut_short_or_altered_is_refused_in_one_line() {
        let bytes = model().to_bytes().unwrap();
        for n in 0..bytes.len() {
            let e = parse(&bytes[..n]).unwrap_err();
            assert!(!e.contains('\n'), "{e}");
            for flip in [1, 4, 0x80] {
                let mut changed = bytes.clone();
                changed[n] ^= flip;
                // A blank of the padding may become another blank.
                if let Ok(m) = parse(&changed) {
                    assert_eq!(m, model(), "byte {n}");
                }
            }
        }
        let data = bytes.len() - 4 * model().params.len();
        for n in data..bytes.len() {
            let mut changed = bytes.clone();
            changed[n] ^= 1;
            assert!(parse(&changed).unwrap_err().contains("altered"), "byte {n}");
        }
    }

    /// A file with a right checksum over whatever it holds.
    fn forged(change: impl FnOnce(&mut Texts, &mut BTreeMap<String, Vec<f32>>)) -> String {
        let m = model();
        let mut tensors: BTreeMap<String, Vec<f32>> =
            m.tensors().unwrap().into_iter().map(|(n, (_, v))| (n, v.to_vec())).collect();
        let mut texts = m.texts();
        change(&mut texts, &mut tensors);
        let shapes: BTreeMap<String, Vec<usize>> =
            m.tensors().unwrap().into_iter().map(|(n, (s, _))| (n, s)).collect();
        let shape = |n: &str, v: &[f32]| shapes.get(n).cloned().unwrap_or(vec![v.len()]);
        let shaped: BTreeMap<String, (Vec<usize>, Vec<f32>)> =
            tensors.into_iter().map(|(n, v)| (n.clone(), (shape(&n, &v), v))).collect();
        let crc = checksum(&texts, shaped.iter().map(|(n, (s, v))| (n, &s[..], le(v))));
        texts.insert(CHECKSUM.into(), crc);
        let bytes: Vec<(String, Vec<usize>, Vec<u8>)> =
            shaped.into_iter().map(|(n, (s, v))| (n, s, le(&v))).collect();
        let views =
            bytes.iter().map(|(n, s, b)| (n, TensorView::new(Dtype::F32, s.clone(), b).unwrap()));
        let file = safetensors::serialize(views, Some(texts.into_iter().collect())).unwrap();
        parse(&file).unwrap_err()
    }

    #[test]
    fn what_is_forged_with_a_right_checksum_is_refused_in_one_line() {
        let text = |key: &'static str, value: &str| {
            let value = value.to_string();
            forged(move |t, _| {
                t.insert(format!("convoke.{key}"), value);
            })
        };
        let huge = model().network.to_toml().replace('4', "4000000000");
        let deep = "[".repeat(100_000);
        for (e, word) in [
            (text("version", "2"), "newer"),
            (text("network", "not\na network"), "network file"),
            (text("network", &huge), ""),
            (text("network", &format!("x = {deep}")), ""),
            (text("classes", &deep), "class names"),
            (text("classes", "{\"a\":\n1}"), "class names"),
            (text("preprocess", "null"), "preprocessing"),
            (text("preprocess", &model().texts()["convoke.preprocess"].replace('6', "0")), ""),
            (forged(|_, v| v.values_mut().for_each(|v| v[0] = f32::NAN)), "not finite"),
            (forged(|_, v| drop(v.insert("stray".into(), vec![0.0]))), "stray"),
            (forged(|_, v| drop(v.pop_first())), "has no tensor"),
            (forged(|t, _| drop(t.remove("convoke.network"))), "without a network"),
        ] {
            assert!(e.contains(word) && !e.contains('\n') && e.len() < 400, "{e}");
        }
    }

    #[test]
    fn what_is_no_model_is_refused_before_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        // Sparse files of 40 GiB: to read them would be noticed.
        let long = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            std::fs::File::options().write(true).open(&path).unwrap().set_len(40 << 30).unwrap();
        };
        long("zeros", &[]);
        long("film", &[0, 0, 0, 32, b'f', b't', b'y', b'p', b'i', b's', b'o', b'm']);
        long("longer", &model().to_bytes().unwrap());
        std::fs::write(folder.path().join("short"), [1, 2]).unwrap();
        std::fs::write(folder.path().join("text"), "a text that is no model").unwrap();
        for name in ["zeros", "film", "longer", "short", "text"] {
            let e = ModelFile::load(&folder.path().join(name)).unwrap_err().to_string();
            assert!(e.contains("no model file") && !e.contains('\n'), "{e}");
        }
        let e = ModelFile::load(folder.path()).unwrap_err().to_string();
        assert!(e.contains("no regular file"), "{e}");
        let e = ModelFile::load(Path::new("/nowhere.safetensors")).unwrap_err().to_string();
        assert!(e.contains("nowhere"), "{e}");
    }

    #[test]
    fn weights_that_are_no_numbers_are_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        model().save(&path).unwrap();
        let broken = ModelFile { params: vec![f32::NAN; model().params.len()], ..model() };
        assert!(broken.save(&path).unwrap_err().to_string().contains("learning rate"));
        assert_eq!(ModelFile::load(&path).unwrap(), model());
    }

    #[test]
    fn a_folder_that_cannot_be_written_keeps_nothing_half() {
        let folder = tempfile::tempdir().unwrap();
        let blocked = folder.path().join("file");
        std::fs::write(&blocked, "x").unwrap();
        assert!(model().save(&blocked.join("m.safetensors")).is_err());
    }
}
