//! PyTorch's own files: `.pth`, `.pt`, `.th`, as `torch.save` writes them; zip archives since 1.6,
//! and five pickles followed by raw numbers before that (`torch/serialization.py`).

mod pickle;

use crate::weights::{Dtype, Tensor, one_line};
use pickle::{Id, Pickle, Storage, Strided, Value};
use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::ops::Range;

type Result<T> = std::result::Result<T, String>;
type Tensors = Vec<(String, Tensor)>;

/// Torch's first pickle in files before 1.6: 0x1950a86a20f9469cfc6c.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// The pickle of an archive describes tensors, it does not hold them.
const MAX_PICKLE: u64 = 256 << 20;
/// Files of one archive: one per tensor.
const MAX_ENTRIES: usize = 1 << 18;
const DAMAGED: &str = "is no file of PyTorch weights, or is damaged or cut short; copy it again";

fn damaged<T>() -> Result<T> {
    Err(DAMAGED.into())
}

/// Whether bytes begin as one of torch's files does.
pub(crate) fn recognise(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || matches!(bytes, [0x80, 1..=5, ..])
}

/// The tensors of a file by name, in the file's order.
pub(crate) fn read(bytes: &[u8]) -> Result<Tensors> {
    match bytes.starts_with(b"PK") {
        true => archive(bytes),
        false => legacy(bytes),
    }
}

/// A zip archive of `NAME/data.pkl` and `NAME/data/KEY`, never compressed.
fn archive(bytes: &[u8]) -> Result<Tensors> {
    let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).map_err(|_| DAMAGED.to_string())?;
    if zip.len() > MAX_ENTRIES {
        return Err(format!("holds {} files; weights have one per tensor", zip.len()));
    }
    let (mut described, mut stored) = (None, HashMap::new());
    for i in 0..zip.len() {
        let mut file = zip.by_index_raw(i).map_err(|_| DAMAGED.to_string())?;
        let name = file.name().map_err(|_| DAMAGED.to_string())?.into_owned();
        if file.compression() != zip::CompressionMethod::Stored || file.encrypted() {
            return Err("is compressed, as torch's archives never are; give the .pth itself".into());
        }
        let start = file.data_start().and_then(|s| usize::try_from(s).ok());
        let range = start.zip(usize::try_from(file.size()).ok());
        let range = range.and_then(|(s, n)| Some(s..s.checked_add(n)?));
        let Some(range) = range.filter(|r| r.end <= bytes.len()) else { return damaged() };
        if crc32fast::hash(&bytes[range.clone()]) != file.crc32() {
            return Err(format!("has been altered in `{}`; copy it again", one_line(&name)));
        }
        if name.ends_with("/byteorder") {
            let mut order = String::new();
            let _ = file.by_ref().take(16).read_to_string(&mut order);
            if order.trim() == "big" {
                return Err("was written on a big-endian machine; save it again on another".into());
            }
        }
        if name == "data.pkl" || name.ends_with("/data.pkl") {
            described = Some(range);
        } else if let Some((_, key)) = name.rsplit_once("/data/") {
            stored.insert(key.to_string(), range);
        }
    }
    let Some(range) = described.filter(|r| r.len() as u64 <= MAX_PICKLE) else {
        return Err("is a zip archive but none of torch's: it has no data.pkl".into());
    };
    let pickle = pickle::read(&bytes[range])?;
    collect(&pickle, &Stored { of: stored, typed: false })
}

/// Magic, version, system, object, keys; then each storage as its length and its numbers.
fn legacy(bytes: &[u8]) -> Result<Tensors> {
    let mut at = 0;
    let mut next = || -> Result<Pickle> {
        let p = pickle::read(bytes.get(at..).unwrap_or_default())?;
        at += p.len;
        Ok(p)
    };
    if *next()?.root() != Value::Long(MAGIC.to_vec()) {
        return Err("is a pickle but not of torch's weights; save it with torch.save".into());
    }
    if *next()?.root() != Value::Int(1001) {
        return Err("is in an unknown form of torch's files; save it again with torch.save".into());
    }
    let system = next()?;
    if entry(&system, system.root, "little_endian") == Some(&Value::Bool(false)) {
        return Err("was written on a big-endian machine; save it again on another".into());
    }
    let object = next()?;
    let keys = next()?;
    let kinds = storages(&object);
    let Value::List(list) = keys.root() else { return damaged() };
    let mut stored = HashMap::new();
    for &id in list {
        let Value::Text(key) = keys.get(id) else { return damaged() };
        // A storage that no tensor has cannot be measured; torch writes none.
        let Some(Some(dtype)) = kinds.get(&key[..]) else { return damaged() };
        let len = bytes.get(at..at + 8).ok_or(DAMAGED)?;
        let len = len.iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b));
        let start = at + 8;
        let end = usize::try_from(len).ok().and_then(|n| n.checked_mul(dtype.size()));
        let end = end.and_then(|n| n.checked_add(start)).filter(|&e| e <= bytes.len());
        let Some(end) = end else { return damaged() };
        stored.insert(key.clone(), start..end);
        at = end;
    }
    if at != bytes.len() {
        return damaged();
    }
    collect(&object, &Stored { of: stored, typed: true })
}

fn storages(p: &Pickle) -> HashMap<&str, Option<Dtype>> {
    let storage = |v| match v {
        &Value::Storage(Storage { ref key, dtype, .. }) => Some((&key[..], dtype)),
        _ => None,
    };
    p.values.iter().filter_map(storage).collect()
}

fn entry<'a>(p: &'a Pickle, dict: Id, key: &str) -> Option<&'a Value> {
    let Value::Dict(items) = p.get(dict) else { return None };
    let named = |id: Id| matches!(p.get(id), Value::Text(t) if t == key);
    items.iter().rev().find(|(k, _)| named(*k)).map(|&(_, v)| p.get(v))
}

/// Where the numbers of each storage lie in the file.
struct Stored {
    of: HashMap<String, Range<usize>>,
    /// Whether a storage has exactly the length that the pickle says.
    typed: bool,
}

/// Dictionaries within dictionaries, and their entries.
const MAX_DEPTH: usize = 4;
const MAX_TENSORS: usize = 1 << 16;

/// Every tensor that can be reached from the root through dictionaries, named `outer.inner`.
fn collect(p: &Pickle, stored: &Stored) -> Result<Tensors> {
    let mut all = Tensors::new();
    let mut seen = 0;
    walk(p, stored, p.root, "", 0, &mut seen, &mut all)?;
    if all.is_empty() {
        return Err("holds no tensors by name; give a file that was saved from a state_dict".into());
    }
    Ok(all)
}

fn walk(
    p: &Pickle,
    stored: &Stored,
    id: Id,
    name: &str,
    depth: usize,
    seen: &mut usize,
    all: &mut Tensors,
) -> Result<()> {
    *seen += 1;
    if *seen > MAX_TENSORS {
        return Err("holds more tensors than a network can have".into());
    }
    match p.get(id) {
        Value::Tensor(t) if depth > 0 => {
            let tensor =
                stored.tensor(t).map_err(|e| format!("tensor `{}` {e}", one_line(name)))?;
            all.push((name.to_string(), tensor));
        }
        Value::Dict(items) if depth < MAX_DEPTH => {
            for &(key, value) in items {
                let Value::Text(key) = p.get(key) else { continue };
                if key.len() > 300 {
                    return damaged();
                }
                let name = if depth == 0 { key.clone() } else { format!("{name}.{key}") };
                walk(p, stored, value, &name, depth + 1, seen, all)?;
            }
        }
        _ => {}
    }
    Ok(())
}

impl Stored {
    /// The place of a tensor in the file, checked to lie within its storage.
    fn tensor(&self, t: &Strided) -> Result<Tensor> {
        let Some(dtype) = t.storage.dtype else {
            return Err("is of a type that convoke does not read".into());
        };
        let Some(range) = self.of.get(&t.storage.key) else {
            return Err("has no numbers in the file; copy it again".into());
        };
        let size = dtype.size();
        let there = range.len() / size;
        let bounds = t.storage.start.checked_add(t.storage.len).filter(|&end| end <= there);
        if bounds.is_none() || (self.typed && !range.len().is_multiple_of(size)) {
            return Err("is larger than the numbers in the file; copy it again".into());
        }
        let empty = t.shape.contains(&0);
        let last = t.shape.iter().zip(&t.strides).try_fold(t.offset, |at, (&n, &s)| {
            n.saturating_sub(1).checked_mul(s).and_then(|n| n.checked_add(at))
        });
        let count = t.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let within = last.is_some_and(|l| empty || l < t.storage.len);
        // Expanded tensors repeat numbers; none has more than its storage for longer than it needs.
        let bounded = count.is_some_and(|n| n <= t.storage.len.max(1));
        if !within || !bounded {
            return Err("reaches beyond the numbers in the file; copy it again".into());
        }
        let start = range.start + (t.storage.start + t.offset.min(t.storage.len)) * size;
        Ok(Tensor { dtype, shape: t.shape.clone(), strides: t.strides.clone(), start })
    }
}

#[cfg(test)]
mod tests;
