//! The model file: tensors by layer name, everything else as text in the header.

use convoke_data::{Preprocess, write_file};
use convoke_engine::{Network, Overrides};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// What can be wrong with a model file.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is no model, is cut short, or was altered.
    #[error("{path}: {what}")]
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
    /// Further numbers by name, such as the optimizer's memory in a checkpoint.
    pub extra: BTreeMap<String, Vec<f32>>,
}

/// Larger files are refused.
const MAX_BYTES: u64 = 64 << 30;
const EXTRA: &str = "extra.";

impl ModelFile {
    /// Writes the file beside its place and renames it there.
    ///
    /// # Errors
    /// When a weight is not finite, or the file cannot be written (the old one then stays).
    pub fn save(&self, path: &Path) -> Result<(), ModelError> {
        let wrong = |what: String| ModelError::File { path: path.into(), what };
        if let Some(i) = self.params.iter().chain(&self.state).position(|v| !v.is_finite()) {
            return Err(wrong(format!(
                "not written: weight {i} is not a finite number; train with a lower learning rate"
            )));
        }
        let mut tensors: Vec<(String, TensorView)> = Vec::new();
        let named = self.network.params().into_iter().map(|p| (p, &self.params));
        let named = named.chain(self.network.state().into_iter().map(|p| (p, &self.state)));
        for (p, values) in named {
            let values = values
                .get(p.range.clone())
                .ok_or_else(|| wrong("weights do not fit the network".into()))?;
            tensors.push((p.name, view(p.spec.shape, values).map_err(wrong)?));
        }
        for (name, values) in &self.extra {
            tensors
                .push((format!("{EXTRA}{name}"), view(vec![values.len()], values).map_err(wrong)?));
        }
        let mut header = self.header();
        header.insert("convoke.checksum".into(), checksum(&header, &tensors));
        let bytes = serialize(tensors, Some(header)).map_err(|e| wrong(e.to_string()))?;
        Ok(write_file(path, &bytes)?)
    }

    fn header(&self) -> HashMap<String, String> {
        let mut header: HashMap<String, String> = [
            ("convoke.version", "1".to_string()),
            ("convoke.network", self.network.to_toml()),
            ("convoke.classes", serde_json::json!(self.classes).to_string()),
            ("convoke.preprocess", serde_json::json!(self.preprocess).to_string()),
            ("convoke.task", self.task.clone()),
        ]
        .map(|(k, v)| (k.to_string(), v))
        .into();
        header.extend(self.facts.iter().map(|(k, v)| (format!("fact.{k}"), v.clone())));
        header
    }

    /// Reads a model file.
    ///
    /// # Errors
    /// When the file is missing, no model, cut short, altered, or does not hold what its network needs.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let io = |source| ModelError::Io { path: path.into(), source };
        let length = std::fs::metadata(path).map_err(io)?.len();
        if length > MAX_BYTES {
            let what = format!("{} GiB is too large for a model", length >> 30);
            return Err(ModelError::File { path: path.into(), what });
        }
        let bytes = std::fs::read(path).map_err(io)?;
        parse(&bytes).map_err(|what| ModelError::File { path: path.into(), what })
    }
}

fn view(shape: Vec<usize>, values: &[f32]) -> Result<TensorView<'_>, String> {
    TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(values)).map_err(|e| e.to_string())
}

/// CRC-32 over the header's texts and the tensors' names and bytes, in order of names.
fn checksum(header: &HashMap<String, String>, tensors: &[(String, TensorView)]) -> String {
    let mut crc = crc32fast::Hasher::new();
    let header: BTreeMap<_, _> = header.iter().filter(|(k, _)| *k != "convoke.checksum").collect();
    for (k, v) in header {
        crc.update(k.as_bytes());
        crc.update(&[0]);
        crc.update(v.as_bytes());
    }
    let tensors: BTreeMap<_, _> = tensors.iter().map(|(n, t)| (n, t)).collect();
    for (name, tensor) in tensors {
        crc.update(name.as_bytes());
        crc.update(tensor.data());
    }
    format!("{:08x}", crc.finalize())
}

fn parse(bytes: &[u8]) -> Result<ModelFile, String> {
    const DAMAGED: &str = "is damaged or cut short; copy it again";
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|_| DAMAGED.to_string())?;
    let file = SafeTensors::deserialize(bytes).map_err(|_| DAMAGED.to_string())?;
    let header = metadata.metadata().clone().unwrap_or_default();
    let text = |key: &str| {
        header.get(&format!("convoke.{key}")).ok_or_else(|| {
            format!("has no `convoke.{key}`: these are weights without a network; give a model file that convoke wrote")
        })
    };
    let network = text("network")?;
    let tensors = file.tensors();
    if *text("checksum")? != checksum(&header, &tensors) {
        return Err("has been altered: its checksum does not match; copy it again".into());
    }
    let network = Network::from_toml(network, &Overrides::default()).map_err(|e| e.to_string())?;
    let classes =
        serde_json::from_str(text("classes")?).map_err(|e| format!("class names: {e}"))?;
    let preprocess: Preprocess =
        serde_json::from_str(text("preprocess")?).map_err(|e| format!("preprocessing: {e}"))?;
    preprocess.check()?;
    let mut all: HashMap<&str, &TensorView> =
        tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let mut flat = |wanted: Vec<convoke_engine::Param>| -> Result<Vec<f32>, String> {
        let mut values = Vec::new();
        for p in wanted {
            let t =
                all.remove(p.name.as_str()).ok_or_else(|| format!("has no tensor `{}`", p.name))?;
            if t.shape() != p.spec.shape || t.dtype() != Dtype::F32 {
                return Err(format!(
                    "tensor `{}` is {:?} but the network needs {:?} in f32",
                    p.name,
                    t.shape(),
                    p.spec.shape
                ));
            }
            values.extend(floats(t.data()));
        }
        Ok(values)
    };
    let params = flat(network.params())?;
    let state = flat(network.state())?;
    if let Some(i) = params.iter().chain(&state).position(|v| !v.is_finite()) {
        return Err(format!("holds a weight (number {i}) that is not finite"));
    }
    let extra = all
        .iter()
        .filter_map(|(n, t)| Some((n.strip_prefix(EXTRA)?.to_string(), floats(t.data()).collect())))
        .collect();
    let facts = header
        .iter()
        .filter_map(|(k, v)| Some((k.strip_prefix("fact.")?.to_string(), v.clone())))
        .collect();
    let task = text("task")?.clone();
    Ok(ModelFile { network, classes, preprocess, task, params, state, facts, extra })
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
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
    fn a_file_cut_short_or_altered_is_refused_in_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        model().save(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for n in (0..bytes.len()).step_by(7) {
            let e = parse(&bytes[..n]).unwrap_err();
            assert!(!e.contains('\n'), "{e}");
            let mut changed = bytes.clone();
            changed[n] ^= 4;
            assert!(parse(&changed).is_err(), "byte {n}");
        }
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
