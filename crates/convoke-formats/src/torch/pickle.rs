//! Pickles read as data: a stack machine over plain values. Nothing is imported, called or run; a
//! global is a name, and only the names in `ALLOWED` mean anything. Opcodes as `pickletools` of
//! Python documents them, protocols 2 to 5.

use crate::weights::{Dtype, one_line};
use std::collections::HashMap;

/// A value's place in [`Pickle::values`]. Values are shared and may be changed after they were
/// stored, so they refer to each other by place.
pub(super) type Id = u32;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// A number, flag or object that no weight depends on.
    Other,
    Int(i64),
    /// An integer of more than eight bytes, little end first.
    Long(Vec<u8>),
    Bool(bool),
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// The name of something that a reader with less care would import.
    Global(Known),
    Storage(Storage),
    Tensor(Strided),
}

/// What a persistent id names: the numbers of one or more tensors.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Storage {
    pub key: String,
    /// `None` for untyped bytes.
    pub dtype: Option<Dtype>,
    pub len: usize,
    /// Where it begins within the storage of that key, in numbers.
    pub start: usize,
}

/// A tensor as a view of a storage, in numbers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Strided {
    pub storage: Storage,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// What a global may mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Known {
    OrderedDict,
    Tensor,
    Parameter,
    Storage(Option<Dtype>),
    List,
    /// Settings that training scripts leave beside the weights. They become [`Value::Other`].
    Inert,
}

/// Values on the stack, in the memo or made, and bytes of text: a file of weights needs a few
/// thousand.
const MAX_VALUES: usize = 4_000_000;
/// Axes of a tensor.
const MAX_AXES: usize = 16;

fn known(module: &str, name: &str) -> Option<Known> {
    use Known::*;
    if let ("torch" | "torch.cuda" | "torch.storage", Some(kind)) =
        (module, name.strip_suffix("Storage"))
    {
        return Some(Storage(match kind {
            "Double" => Some(Dtype::F64),
            "Float" => Some(Dtype::F32),
            "Half" => Some(Dtype::F16),
            "BFloat16" => Some(Dtype::Bf16),
            "Long" => Some(Dtype::I64),
            "Int" => Some(Dtype::I32),
            "Short" => Some(Dtype::I16),
            "Char" => Some(Dtype::I8),
            "Byte" => Some(Dtype::U8),
            "Bool" => Some(Dtype::Bool),
            "Untyped" => None,
            _ => return None,
        }));
    }
    Some(match (module, name) {
        ("collections", "OrderedDict") => OrderedDict,
        ("collections", "defaultdict" | "Counter") => OrderedDict,
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Tensor,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Parameter,
        ("torch.nn.parameter", "Parameter") => Parameter,
        ("builtins" | "__builtin__", "list" | "tuple") => List,
        ("torch", "Size") => List,
        ("builtins" | "__builtin__", "dict") => OrderedDict,
        ("builtins" | "__builtin__", "set" | "int" | "float" | "complex") => Inert,
        ("torch", "device" | "dtype" | "float32" | "float16" | "float64" | "bfloat16") => Inert,
        ("argparse", "Namespace") | ("types", "SimpleNamespace") => Inert,
        ("numpy", "dtype" | "ndarray") => Inert,
        ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar" | "_reconstruct") => Inert,
        ("_codecs", "encode") => Inert,
        _ => return None,
    })
}

/// A pickle that has been read.
pub(super) struct Pickle {
    pub values: Vec<Value>,
    pub root: Id,
    /// Bytes that it took.
    pub len: usize,
}

impl Pickle {
    pub fn get(&self, id: Id) -> &Value {
        &self.values[id as usize]
    }

    pub fn root(&self) -> &Value {
        self.get(self.root)
    }
}

type Result<T> = std::result::Result<T, String>;

const DAMAGED: &str = "is no file of PyTorch weights, or is damaged or cut short; copy it again";

fn damaged<T>() -> Result<T> {
    Err(DAMAGED.into())
}

/// Reads the pickle at the start of `bytes`.
pub(super) fn read(bytes: &[u8]) -> Result<Pickle> {
    let mut m = Machine {
        bytes,
        at: 0,
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        work: 0,
    };
    loop {
        let op = m.byte()?;
        if op == b'.' {
            let root = m.pop()?;
            return Ok(Pickle { values: m.values, root, len: m.at });
        }
        m.step(op)?;
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack at its marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// Values that were moved; bounds time and memory alike.
    work: usize,
}

impl<'a> Machine<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|&e| e <= self.bytes.len());
        let Some(end) = end else { return damaged() };
        let part = &self.bytes[self.at..end];
        self.at = end;
        Ok(part)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// An unsigned number of `n` bytes, at most eight.
    fn number(&mut self, n: usize) -> Result<u64> {
        Ok(self.take(n)?.iter().rev().fold(0, |v, &b| v << 8 | u64::from(b)))
    }

    fn sized(&mut self, n: usize) -> Result<&'a [u8]> {
        let len = usize::try_from(self.number(n)?).map_err(|_| DAMAGED.to_string())?;
        self.take(len)
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let Some(n) = rest.iter().take(4096).position(|&b| b == b'\n') else { return damaged() };
        self.at += n + 1;
        std::str::from_utf8(&rest[..n]).map_err(|_| DAMAGED.into())
    }

    fn work(&mut self, n: usize) -> Result<()> {
        self.work += n;
        match self.work <= MAX_VALUES {
            true => Ok(()),
            false => Err("holds more objects than weights can have".into()),
        }
    }

    fn push(&mut self, v: Value) -> Result<()> {
        self.work(1)?;
        self.values.push(v);
        self.stack.push(self.values.len() as Id - 1);
        Ok(())
    }

    fn text(&mut self, bytes: &[u8]) -> Result<()> {
        // Text counts by its length: a file cannot hold more of it than its own bytes.
        self.push(Value::Text(String::from_utf8_lossy(bytes).into_owned()))
    }

    fn pop(&mut self) -> Result<Id> {
        if self.marks.last().is_some_and(|&m| m >= self.stack.len()) {
            return damaged();
        }
        self.stack.pop().ok_or_else(|| DAMAGED.into())
    }

    fn top(&self) -> Result<Id> {
        self.stack.last().copied().ok_or_else(|| DAMAGED.into())
    }

    /// What lies above the last mark, without it.
    fn marked(&mut self) -> Result<Vec<Id>> {
        let Some(mark) = self.marks.pop().filter(|&m| m <= self.stack.len()) else {
            return damaged();
        };
        let items = self.stack.split_off(mark);
        self.work(items.len())?;
        Ok(items)
    }

    fn last(&mut self, n: usize) -> Result<Vec<Id>> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
        items.reverse();
        Ok(items)
    }

    fn value(&self, id: Id) -> &Value {
        &self.values[id as usize]
    }

    fn step(&mut self, op: u8) -> Result<()> {
        match op {
            0x80 => self.byte().and_then(|p| if p <= 5 { Ok(()) } else { damaged() }),
            0x95 => self.take(8).map(|_| ()),
            b'(' => {
                self.marks.push(self.stack.len());
                self.work(1)
            }
            b'0' => self.pop().map(|_| ()),
            b'1' => self.marked().map(|_| ()),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
                self.work(1)
            }
            b'h' | b'j' | b'q' | b'r' | 0x94 => self.memo(op),
            b')' | b't' | 0x85..=0x87 | b']' | b'l' | b'}' | b'd' | 0x8f | 0x91 => self.make(op),
            b'a' | b'e' | b's' | b'u' | 0x90 => self.fill(op),
            b'c' | 0x93 => self.global(op),
            b'R' | 0x81 => self.reduce(),
            b'b' => self.pop().map(|_| ()),
            b'Q' => self.persistent(),
            _ => self.scalar(op),
        }
    }

    fn scalar(&mut self, op: u8) -> Result<()> {
        let value = match op {
            b'N' => Value::Other,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'K' => Value::Int(self.number(1)? as i64),
            b'M' => Value::Int(self.number(2)? as i64),
            b'J' => Value::Int(i64::from(self.number(4)? as u32 as i32)),
            b'G' => {
                self.take(8)?;
                Value::Other
            }
            0x8a => long(self.sized(1)?),
            0x8b => long(self.sized(4)?),
            b'X' => return self.sized(4).and_then(|t| self.text(t)),
            0x8c | b'U' => return self.sized(1).and_then(|t| self.text(t)),
            0x8d => return self.sized(8).and_then(|t| self.text(t)),
            b'T' => return self.sized(4).and_then(|t| self.text(t)),
            b'C' | b'B' | 0x8e | 0x96 => {
                self.sized(match op {
                    b'C' => 1,
                    b'B' => 4,
                    _ => 8,
                })?;
                Value::Other
            }
            _ => return damaged(),
        };
        self.push(value)
    }

    fn memo(&mut self, op: u8) -> Result<()> {
        let slot = match op {
            b'h' | b'q' => self.number(1)?,
            b'j' | b'r' => self.number(4)?,
            _ => self.memo.len() as u64,
        } as u32;
        if matches!(op, b'h' | b'j') {
            let Some(&id) = self.memo.get(&slot) else { return damaged() };
            self.stack.push(id);
        } else {
            let top = self.top()?;
            self.memo.insert(slot, top);
        }
        self.work(1)
    }

    fn make(&mut self, op: u8) -> Result<()> {
        let value = match op {
            b')' => Value::Tuple(Vec::new()),
            b't' => Value::Tuple(self.marked()?),
            0x85..=0x87 => Value::Tuple(self.last(usize::from(op) - 0x84)?),
            b']' => Value::List(Vec::new()),
            b'l' => Value::List(self.marked()?),
            b'}' => Value::Dict(Vec::new()),
            b'd' => Value::Dict(pairs(self.marked()?)?),
            0x91 => {
                self.marked()?;
                Value::Other
            }
            _ => Value::Other,
        };
        self.push(value)
    }

    /// Puts items into the list, dictionary or set below them.
    fn fill(&mut self, op: u8) -> Result<()> {
        let items = match op {
            b'a' => self.last(1)?,
            b's' => self.last(2)?,
            _ => self.marked()?,
        };
        self.work(items.len())?;
        let into = self.top()? as usize;
        match (op, &mut self.values[into]) {
            (b'a' | b'e', Value::List(list)) => list.extend(items),
            (b's' | b'u', Value::Dict(dict)) => dict.extend(pairs(items)?),
            (_, Value::Other) => {}
            _ => return damaged(),
        }
        Ok(())
    }

    fn global(&mut self, op: u8) -> Result<()> {
        let (module, name) = if op == b'c' {
            (self.line()?.to_string(), self.line()?.to_string())
        } else {
            let ids = self.last(2)?;
            match (self.value(ids[0]), self.value(ids[1])) {
                (Value::Text(m), Value::Text(n)) => (m.clone(), n.clone()),
                _ => return damaged(),
            }
        };
        let Some(known) = known(&module, &name) else {
            let name = one_line(&format!("{module}.{name}"));
            return Err(format!(
                "wants to run `{name}`, which weights have no need of; nothing was run; give a file that was saved from a state_dict"
            ));
        };
        self.push(Value::Global(known))
    }

    /// What a call of the global below its arguments would have made.
    fn reduce(&mut self) -> Result<()> {
        let args = self.pop()?;
        let callee = self.pop()?;
        let Value::Tuple(args) = self.value(args).clone() else { return damaged() };
        self.work(args.len())?;
        let known = match self.value(callee) {
            Value::Global(known) => *known,
            Value::Other => Known::Inert,
            _ => return damaged(),
        };
        let value = match known {
            Known::OrderedDict => self.ordered(&args)?,
            Known::Tensor => Value::Tensor(self.tensor(&args)?),
            Known::Parameter => match args.first().map(|&id| self.value(id)) {
                Some(Value::Tensor(t)) => Value::Tensor(t.clone()),
                _ => return damaged(),
            },
            Known::List => match args.first().map(|&id| self.value(id)) {
                Some(Value::List(items) | Value::Tuple(items)) => Value::List(items.clone()),
                None => Value::List(Vec::new()),
                _ => Value::Other,
            },
            Known::Storage(_) => return damaged(),
            Known::Inert => Value::Other,
        };
        if let Value::List(items) = &value {
            self.work(items.len())?;
        }
        self.push(value)
    }

    /// `OrderedDict()` or `OrderedDict([[key, value], …])`.
    fn ordered(&mut self, args: &[Id]) -> Result<Value> {
        let mut dict = Vec::new();
        if let Some(Value::List(items)) = args.first().map(|&id| self.value(id)) {
            for &item in items {
                match self.value(item) {
                    Value::List(pair) | Value::Tuple(pair) if pair.len() == 2 => {
                        dict.push((pair[0], pair[1]));
                    }
                    _ => return damaged(),
                }
            }
        }
        self.work(dict.len())?;
        Ok(Value::Dict(dict))
    }

    /// `(storage, offset, sizes, strides, …)`.
    fn tensor(&self, args: &[Id]) -> Result<Strided> {
        let [storage, offset, shape, strides, ..] = args else { return damaged() };
        let Value::Storage(storage) = self.value(*storage) else { return damaged() };
        let (shape, strides) = (self.sizes(*shape)?, self.sizes(*strides)?);
        if shape.len() != strides.len() || shape.len() > MAX_AXES {
            return damaged();
        }
        Ok(Strided { storage: storage.clone(), offset: self.size(*offset)?, shape, strides })
    }

    fn size(&self, id: Id) -> Result<usize> {
        match self.value(id) {
            Value::Int(n) => usize::try_from(*n).map_err(|_| DAMAGED.into()),
            _ => damaged(),
        }
    }

    fn sizes(&self, id: Id) -> Result<Vec<usize>> {
        match self.value(id) {
            Value::Tuple(items) | Value::List(items) if items.len() <= MAX_AXES => {
                items.iter().map(|&i| self.size(i)).collect()
            }
            _ => damaged(),
        }
    }

    /// `("storage", kind, key, place, length[, (view key, start, length)])`.
    fn persistent(&mut self) -> Result<()> {
        let id = self.pop()?;
        let Value::Tuple(parts) = self.value(id) else { return damaged() };
        let [word, kind, key, _, len, view @ ..] = &parts[..] else { return damaged() };
        let text = |id: Id| match self.value(id) {
            // Keys are copied into every tensor: a long one could be multiplied.
            Value::Text(t) if t.len() <= 100 => Ok(t.clone()),
            Value::Int(n) => Ok(n.to_string()),
            _ => damaged(),
        };
        let Value::Global(Known::Storage(dtype)) = *self.value(*kind) else { return damaged() };
        if text(*word)? != "storage" {
            return damaged();
        }
        let mut storage = Storage { key: text(*key)?, dtype, len: self.size(*len)?, start: 0 };
        if let Some(Value::Tuple(view)) = view.first().map(|&v| self.value(v)) {
            let [_, start, len] = view[..] else { return damaged() };
            (storage.start, storage.len) = (self.size(start)?, self.size(len)?);
        }
        self.push(Value::Storage(storage))
    }
}

fn pairs(items: Vec<Id>) -> Result<Vec<(Id, Id)>> {
    match items.len() % 2 {
        0 => Ok(items.chunks_exact(2).map(|p| (p[0], p[1])).collect()),
        _ => damaged(),
    }
}

/// An integer of any length, little end first, negative when its last bit is set.
fn long(bytes: &[u8]) -> Value {
    if bytes.len() > 8 {
        return Value::Long(bytes.iter().take(64).copied().collect());
    }
    let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
    let mut all = [if negative { 0xff } else { 0 }; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(all))
}
