//! Weights without a network: tensors by name, from safetensors or from torch's files.

mod families;
mod fit;
pub(crate) mod layout;
mod names;

pub use fit::{
    FitOptions, Fitted, Match, Suggestion, adapt, compare, fit, fit_model, head, suggest,
};
pub use layout::save_torch;
pub use names::{Family, family};

use crate::ModelError;
use crate::torch;
use half::{bf16, f16};
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Types of numbers that weights come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// 16-bit float of IEEE 754.
    F16,
    /// The upper half of a 32-bit float.
    Bf16,
    /// 64-bit integer.
    I64,
    /// 32-bit integer.
    I32,
    /// 16-bit integer.
    I16,
    /// 8-bit integer.
    I8,
    /// 8-bit unsigned integer.
    U8,
    /// A byte that is 0 or 1.
    Bool,
}

impl Dtype {
    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            Dtype::F64 | Dtype::I64 => 8,
            Dtype::F32 | Dtype::I32 => 4,
            Dtype::F16 | Dtype::Bf16 | Dtype::I16 => 2,
            Dtype::I8 | Dtype::U8 | Dtype::Bool => 1,
        }
    }

    fn float(self, b: &[u8]) -> f32 {
        match (self, b) {
            (Dtype::F64, &[a, b, c, d, e, f, g, h]) => {
                f64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32
            }
            (Dtype::I64, &[a, b, c, d, e, f, g, h]) => {
                i64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32
            }
            (Dtype::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (Dtype::I32, &[a, b, c, d]) => i32::from_le_bytes([a, b, c, d]) as f32,
            (Dtype::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
            (Dtype::Bf16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
            (Dtype::I16, &[a, b]) => f32::from(i16::from_le_bytes([a, b])),
            (Dtype::I8, &[a]) => f32::from(a as i8),
            (Dtype::U8 | Dtype::Bool, &[a]) => f32::from(a),
            _ => f32::NAN,
        }
    }
}

/// Where a tensor lies in its file. Whoever makes one has checked that it lies within.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// In numbers.
    pub strides: Vec<usize>,
    /// First byte.
    pub start: usize,
}

/// A file of weights: nothing is turned into floats before it is asked for, so a file costs no more
/// than its own bytes.
pub struct Weights {
    path: PathBuf,
    bytes: Vec<u8>,
    tensors: BTreeMap<String, Tensor>,
}

/// Larger files are refused.
const MAX_BYTES: u64 = 16 << 30;
/// Under which keys training scripts keep the weights, the more usual first; averaged weights last.
const NESTED: [&str; 10] = [
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "weights",
    "params",
    "state_dict_ema",
    "model_ema",
    "ema",
];
/// Wrappers that stand before every name.
const WRAPPERS: [&str; 4] = ["module.", "_orig_mod.", "model.", "net."];

impl Weights {
    /// Opens a file of weights, told by its content: safetensors, or a zip archive or pickle that
    /// `torch.save` wrote. The pickle is read as data; nothing in it is ever run.
    ///
    /// # Errors
    /// When the file cannot be read, is neither, is damaged, or wants something run.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let io = |source| ModelError::Io { path: path.into(), source };
        let wrong = |what: String| ModelError::File { path: path.into(), what };
        let facts = std::fs::metadata(path).map_err(io)?;
        if !facts.is_file() || facts.len() > MAX_BYTES {
            return Err(wrong("is no file of weights".into()));
        }
        let bytes = std::fs::read(path).map_err(io)?;
        Self::from_bytes(path, bytes).map_err(wrong)
    }

    /// The same, from memory; `path` is for messages.
    ///
    /// # Errors
    /// What is wrong, in one line without the path.
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, String> {
        let tensors = match torch::recognise(&bytes) {
            true => torch::read(&bytes)?,
            false => plain(&bytes)?,
        };
        let tensors = unwrapped(tensors);
        Ok(Weights { path: path.into(), bytes, tensors })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names with shapes, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.tensors.iter().map(|(n, t)| (&n[..], &t.shape[..]))
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|t| &t.shape[..])
    }

    /// A tensor as floats, in the order of its shape.
    ///
    /// # Errors
    /// When it is not there or holds numbers that are not finite.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>, String> {
        let t = self.tensors.get(name).ok_or_else(|| format!("has no tensor `{name}`"))?;
        let values = self.gather(t).ok_or_else(|| format!("tensor `{name}` is cut short"))?;
        match values.iter().all(|v| v.is_finite()) {
            true => Ok(values),
            false => Err(format!("tensor `{name}` holds numbers that are not finite")),
        }
    }

    fn gather(&self, t: &Tensor) -> Option<Vec<f32>> {
        let (size, count) = (t.dtype.size(), t.shape.iter().product::<usize>());
        let mut values = Vec::with_capacity(count.min(self.bytes.len()));
        let mut index = vec![0; t.shape.len()];
        for _ in 0..count {
            let at: usize = index.iter().zip(&t.strides).map(|(i, s)| i * s).sum();
            let at = t.start + at * size;
            values.push(t.dtype.float(self.bytes.get(at..at + size)?));
            for (i, n) in index.iter_mut().zip(&t.shape).rev() {
                *i += 1;
                if *i < *n {
                    break;
                }
                *i = 0;
            }
        }
        Some(values)
    }
}

/// A safetensors file.
fn plain(bytes: &[u8]) -> Result<Vec<(String, Tensor)>, String> {
    const WRONG: &str = "is neither safetensors nor a file of PyTorch, or is damaged or cut short";
    if bytes.starts_with(b"\x1f\x8b") || bytes.get(257..262) == Some(b"ustar") {
        return Err("is a packed or very old file; unpack it, or save it again with torch".into());
    }
    let (n, _) = SafeTensors::read_metadata(bytes).map_err(|_| WRONG.to_string())?;
    let file = SafeTensors::deserialize(bytes).map_err(|_| WRONG.to_string())?;
    let data = n + 8;
    let mut all = Vec::new();
    for (name, view) in file.iter() {
        let Some(dtype) = dtype(view.dtype()) else {
            let kind = view.dtype();
            return Err(format!(
                "tensor `{}` is of type {kind:?}, which convoke does not read",
                one_line(name)
            ));
        };
        let shape = view.shape().to_vec();
        let mut strides = vec![1usize; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i].saturating_mul(shape[i]);
        }
        let start = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
        debug_assert!(start >= data);
        all.push((name.to_string(), Tensor { dtype, shape, strides, start }));
    }
    Ok(all)
}

fn dtype(of: safetensors::Dtype) -> Option<Dtype> {
    use safetensors::Dtype as D;
    Some(match of {
        D::F64 => Dtype::F64,
        D::F32 => Dtype::F32,
        D::F16 => Dtype::F16,
        D::BF16 => Dtype::Bf16,
        D::I64 => Dtype::I64,
        D::I32 => Dtype::I32,
        D::I16 => Dtype::I16,
        D::I8 => Dtype::I8,
        D::U8 => Dtype::U8,
        D::BOOL => Dtype::Bool,
        _ => return None,
    })
}

/// The dictionary that holds the weights, without wrappers before its names.
fn unwrapped(tensors: Vec<(String, Tensor)>) -> BTreeMap<String, Tensor> {
    let nested = NESTED.iter().map(|k| format!("{k}.")).find(|k| {
        // `model.` may also be a wrapper; either way it goes.
        tensors.iter().any(|(n, _)| n.starts_with(&k[..]))
            && tensors.iter().filter(|(n, _)| n.starts_with(&k[..])).count() * 4 > tensors.len()
    });
    let mut all: BTreeMap<String, Tensor> = tensors
        .into_iter()
        .filter_map(|(n, t)| match &nested {
            Some(k) => n.strip_prefix(&k[..]).map(|n| (n.to_string(), t)),
            None => Some((n, t)),
        })
        .collect();
    while let Some(w) = WRAPPERS.iter().find(|w| all.keys().all(|n| n.starts_with(**w))) {
        if all.is_empty() {
            break;
        }
        all = all.into_iter().map(|(n, t)| (n[w.len()..].to_string(), t)).collect();
    }
    all
}

/// What a file says may have any shape; an error is one line of a bounded length.
pub(crate) fn one_line(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let text: String = text.chars().take(1000).map(plain).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect()
}
