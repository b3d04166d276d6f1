//! Tensors of any rank: what a graph's constants and values are while it is read and interpreted.

use super::Said;
use super::proto::{DataLocation, DataType, TensorProto};
use half::{bf16, f16};

/// Type of a tensor's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 32-bit float.
    F32,
    /// 64-bit float; computed in 32 bits.
    F64,
    /// 16-bit float of IEEE 754; computed in 32 bits, rounded after each op.
    F16,
    /// The upper half of a 32-bit float; likewise.
    Bf16,
    /// 8-bit integer.
    I8,
    /// 16-bit integer.
    I16,
    /// 32-bit integer.
    I32,
    /// 64-bit integer.
    I64,
    /// 8-bit unsigned integer.
    U8,
    /// 16-bit unsigned integer.
    U16,
    /// 32-bit unsigned integer.
    U32,
    /// 64-bit unsigned integer.
    U64,
    /// False or true.
    Bool,
}

impl Kind {
    /// The type that a file's number stands for.
    pub(super) fn of(data_type: i32) -> Option<Kind> {
        Some(match DataType::try_from(data_type).ok()? {
            DataType::Float => Kind::F32,
            DataType::Double => Kind::F64,
            DataType::Float16 => Kind::F16,
            DataType::Bfloat16 => Kind::Bf16,
            DataType::Int8 => Kind::I8,
            DataType::Int16 => Kind::I16,
            DataType::Int32 => Kind::I32,
            DataType::Int64 => Kind::I64,
            DataType::Uint8 => Kind::U8,
            DataType::Uint16 => Kind::U16,
            DataType::Uint32 => Kind::U32,
            DataType::Uint64 => Kind::U64,
            DataType::Bool => Kind::Bool,
            _ => return None,
        })
    }

    /// Whether numbers of this type are floats.
    pub fn is_float(self) -> bool {
        matches!(self, Kind::F32 | Kind::F64 | Kind::F16 | Kind::Bf16)
    }

    /// Bytes of one number in raw data.
    fn size(self) -> usize {
        match self {
            Kind::F64 | Kind::I64 | Kind::U64 => 8,
            Kind::F32 | Kind::I32 | Kind::U32 => 4,
            Kind::F16 | Kind::Bf16 | Kind::I16 | Kind::U16 => 2,
            Kind::I8 | Kind::U8 | Kind::Bool => 1,
        }
    }

    /// A number as this type holds it: integers wrap around.
    pub(super) fn wrap(self, v: i64) -> i64 {
        match self {
            Kind::I8 => i64::from(v as i8),
            Kind::I16 => i64::from(v as i16),
            Kind::I32 => i64::from(v as i32),
            Kind::U8 => i64::from(v as u8),
            Kind::U16 => i64::from(v as u16),
            Kind::U32 => i64::from(v as u32),
            Kind::Bool => i64::from(v != 0),
            _ => v,
        }
    }

    /// A float as this type holds it.
    pub(super) fn round(self, v: f32) -> f32 {
        match self {
            Kind::F16 => f16::from_f32(v).to_f32(),
            Kind::Bf16 => bf16::from_f32(v).to_f32(),
            _ => v,
        }
    }

    /// Smallest and largest integer.
    pub(super) fn bounds(self) -> (i64, i64) {
        match self {
            Kind::I8 => (-128, 127),
            Kind::U8 => (0, 255),
            Kind::I16 => (-32768, 32767),
            Kind::U16 => (0, 65535),
            Kind::I32 => (i64::from(i32::MIN), i64::from(i32::MAX)),
            Kind::U32 => (0, i64::from(u32::MAX)),
            Kind::Bool => (0, 1),
            Kind::U64 => (0, i64::MAX),
            _ => (i64::MIN, i64::MAX),
        }
    }
}

/// The numbers of a tensor, the last axis fastest.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// Floats of any width.
    Float(Vec<f32>),
    /// Integers of any width, and truth values.
    Int(Vec<i64>),
}

/// A tensor of any rank.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Type of its numbers.
    pub kind: Kind,
    /// Sizes, outermost first; empty for a single number.
    pub shape: Vec<usize>,
    /// Its numbers.
    pub data: Data,
}

/// A tensor may have that many numbers.
pub(super) const MAX_LEN: usize = 1 << 28;
/// And that many axes.
pub(super) const MAX_RANK: usize = 16;

/// How many numbers a shape holds.
///
/// # Errors
/// When they are too many.
pub(super) fn count(shape: &[usize]) -> Said<usize> {
    if shape.len() > MAX_RANK {
        return Err(format!("a tensor of {} axes; at most {MAX_RANK} are read", shape.len()));
    }
    // A zero among huge sizes makes an empty tensor; the product of the others must stay small too.
    let full = shape.iter().try_fold(1usize, |n, &s| n.checked_mul(s.max(1)));
    match full {
        Some(n) if n <= MAX_LEN => Ok(shape.iter().product()),
        _ => Err(format!("a tensor of {shape:?} is too large")),
    }
}

/// Numbers between two neighbours along each axis.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

impl Tensor {
    /// 32-bit floats.
    pub fn floats(shape: &[usize], values: Vec<f32>) -> Self {
        Tensor { kind: Kind::F32, shape: shape.to_vec(), data: Data::Float(values) }
    }

    /// Integers of a type.
    pub(super) fn ints(kind: Kind, shape: &[usize], values: Vec<i64>) -> Self {
        Tensor { kind, shape: shape.to_vec(), data: Data::Int(values) }
    }

    /// Floats of a type.
    pub(super) fn of(kind: Kind, shape: &[usize], mut values: Vec<f32>) -> Self {
        if matches!(kind, Kind::F16 | Kind::Bf16) {
            values.iter_mut().for_each(|v| *v = kind.round(*v));
        }
        Tensor { kind, shape: shape.to_vec(), data: Data::Float(values) }
    }

    /// A vector of 64-bit integers.
    pub(super) fn vector(values: Vec<i64>) -> Self {
        Self::ints(Kind::I64, &[values.len()], values)
    }

    /// How many numbers it holds.
    pub fn len(&self) -> usize {
        match &self.data {
            Data::Float(v) => v.len(),
            Data::Int(v) => v.len(),
        }
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Its floats.
    ///
    /// # Errors
    /// When it holds integers.
    pub fn f32s(&self) -> Said<&[f32]> {
        match &self.data {
            Data::Float(v) => Ok(v),
            Data::Int(_) => Err(format!("needs floats but got {:?}", self.kind)),
        }
    }

    /// Its integers.
    ///
    /// # Errors
    /// When it holds floats.
    pub fn i64s(&self) -> Said<&[i64]> {
        match &self.data {
            Data::Int(v) => Ok(v),
            Data::Float(_) => Err(format!("needs integers but got {:?}", self.kind)),
        }
    }

    /// Its numbers as floats, whatever they are.
    pub(super) fn to_f32s(&self) -> Vec<f32> {
        match &self.data {
            Data::Float(v) => v.clone(),
            Data::Int(v) => v.iter().map(|&v| v as f32).collect(),
        }
    }

    /// The only number, as a float.
    pub(super) fn number(&self) -> Said<f32> {
        match (&self.data, self.len()) {
            (Data::Float(v), 1) => Ok(v[0]),
            (Data::Int(v), 1) => Ok(v[0] as f32),
            _ => Err(format!("needs one number but got a tensor of {:?}", self.shape)),
        }
    }

    /// The same numbers in another shape of as many.
    pub(super) fn reshaped(&self, shape: Vec<usize>) -> Said<Self> {
        if count(&shape)? != self.len() {
            return Err(format!("{:?} cannot be read as {shape:?}", self.shape));
        }
        Ok(Tensor { shape, ..self.clone() })
    }

    /// A tensor whose number `i` is this one's number `source(i)`.
    pub(super) fn picked(&self, shape: Vec<usize>, source: impl Iterator<Item = usize>) -> Self {
        let data = match &self.data {
            Data::Float(v) => Data::Float(source.map(|i| v[i]).collect()),
            Data::Int(v) => Data::Int(source.map(|i| v[i]).collect()),
        };
        Tensor { kind: self.kind, shape, data }
    }

    /// The tensor repeated along axes of one to a larger shape.
    pub(super) fn expanded(&self, shape: &[usize]) -> Said<Self> {
        if self.shape == shape {
            return Ok(self.clone());
        }
        let n = count(shape)?;
        let steps = broadcast_strides(&self.shape, shape)?;
        Ok(self.picked(shape.to_vec(), Walk::new(shape, &steps).take(n)))
    }

    /// Its axes in another order.
    pub(super) fn transposed(&self, order: &[usize]) -> Self {
        let (shape, own) = (&self.shape, strides(&self.shape));
        let to: Vec<usize> = order.iter().map(|&a| shape[a]).collect();
        let steps: Vec<usize> = order.iter().map(|&a| own[a]).collect();
        let walk = Walk::new(&to, &steps).take(self.len());
        self.picked(to.clone(), walk)
    }

    /// Reads a tensor of a file; `outside` gives the bytes of external data.
    pub(super) fn read(
        t: &TensorProto,
        outside: &mut dyn FnMut(&TensorProto, usize) -> Said<Vec<u8>>,
    ) -> Said<Self> {
        let Some(kind) = Kind::of(t.data_type) else {
            return Err(format!("a tensor of type {:?} is not supported", t.data_type()));
        };
        let size = |&d: &i64| usize::try_from(d).map_err(|_| format!("a size of {d}"));
        let shape = t.dims.iter().map(size).collect::<Said<Vec<_>>>()?;
        let n = count(&shape)?;
        if t.data_location == DataLocation::External as i32 {
            let bytes = outside(t, n * kind.size())?;
            return raw(kind, shape, n, &bytes);
        }
        if !t.raw_data.is_empty() {
            return raw(kind, shape, n, &t.raw_data);
        }
        let data = match kind {
            Kind::F32 => Data::Float(t.float_data.clone()),
            Kind::F64 => Data::Float(t.double_data.iter().map(|&v| v as f32).collect()),
            Kind::F16 => Data::Float(bits(t).map(|b| f16::from_bits(b).to_f32()).collect()),
            Kind::Bf16 => Data::Float(bits(t).map(|b| bf16::from_bits(b).to_f32()).collect()),
            Kind::I64 => Data::Int(t.int64_data.clone()),
            Kind::U32 | Kind::U64 => {
                Data::Int(t.uint64_data.iter().map(|&v| kind.wrap(v as i64)).collect())
            }
            _ => Data::Int(t.int32_data.iter().map(|&v| kind.wrap(i64::from(v))).collect()),
        };
        let tensor = Tensor { kind, shape, data };
        match tensor.len() == n {
            true => Ok(tensor),
            false => Err(format!("{} numbers for a tensor of {:?}", tensor.len(), tensor.shape)),
        }
    }
}

fn bits(t: &TensorProto) -> impl Iterator<Item = u16> + '_ {
    t.int32_data.iter().map(|&v| v as u16)
}

/// Little-endian numbers without gaps.
fn raw(kind: Kind, shape: Vec<usize>, n: usize, bytes: &[u8]) -> Said<Tensor> {
    let size = kind.size();
    if bytes.len() != n * size {
        return Err(format!("{} bytes for {shape:?} of {kind:?}; cut short", bytes.len()));
    }
    let words = bytes.chunks_exact(size).map(|b| {
        let mut word = [0; 8];
        word[..size].copy_from_slice(b);
        u64::from_le_bytes(word)
    });
    let data = match kind {
        Kind::F32 => Data::Float(words.map(|w| f32::from_bits(w as u32)).collect()),
        Kind::F64 => Data::Float(words.map(|w| f64::from_bits(w) as f32).collect()),
        Kind::F16 => Data::Float(words.map(|w| f16::from_bits(w as u16).to_f32()).collect()),
        Kind::Bf16 => Data::Float(words.map(|w| bf16::from_bits(w as u16).to_f32()).collect()),
        _ => Data::Int(words.map(|w| kind.wrap(w as i64)).collect()),
    };
    Ok(Tensor { kind, shape, data })
}

/// The shape that both are repeated to; sizes of one fit every size, missing axes in front are of one.
pub(super) fn broadcast(a: &[usize], b: &[usize]) -> Said<Vec<usize>> {
    let rank = a.len().max(b.len());
    let size = |s: &[usize], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |i| s[i]);
    (0..rank)
        .map(|i| match (size(a, i), size(b, i)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(format!("{a:?} and {b:?} do not broadcast")),
        })
        .collect()
}

/// Strides of a tensor of shape `from` when it is read as the larger `to`.
pub(super) fn broadcast_strides(from: &[usize], to: &[usize]) -> Said<Vec<usize>> {
    let own = strides(from);
    if from.len() > to.len() {
        return Err(format!("{from:?} does not broadcast to {to:?}"));
    }
    let front = to.len() - from.len();
    let step = |(i, &n): (usize, &usize)| match i.checked_sub(front) {
        None => Ok(0),
        Some(i) if from[i] == n => Ok(own[i]),
        Some(i) if from[i] == 1 => Ok(0),
        Some(_) => Err(format!("{from:?} does not broadcast to {to:?}")),
    };
    to.iter().enumerate().map(step).collect()
}

/// Offsets of a strided walk over a shape, the last axis fastest; it does not end by itself.
pub(super) struct Walk<'a> {
    shape: &'a [usize],
    steps: &'a [usize],
    index: Vec<usize>,
    at: usize,
}

impl<'a> Walk<'a> {
    pub fn new(shape: &'a [usize], steps: &'a [usize]) -> Self {
        Walk { shape, steps, index: vec![0; shape.len()], at: 0 }
    }
}

impl Iterator for Walk<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let now = self.at;
        for i in (0..self.shape.len()).rev() {
            self.index[i] += 1;
            self.at += self.steps[i];
            if self.index[i] < self.shape[i] {
                break;
            }
            self.at -= self.steps[i] * self.index[i];
            self.index[i] = 0;
        }
        Some(now)
    }
}
