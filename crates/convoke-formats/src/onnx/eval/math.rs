//! Ops that go number by number: functions, arithmetic with broadcasting, comparisons, casts.

use super::super::Said;
use super::super::tensor::{Data, Kind, Tensor, Walk, broadcast, broadcast_strides};
use super::Call;

/// The op's result, or `None` where it is of another family.
pub(super) fn call(c: &Call) -> Option<Said<Vec<Tensor>>> {
    let result = match &c.node.op[..] {
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "PRelu" | "BitShift" | "BitwiseAnd"
        | "BitwiseOr" | "BitwiseXor" => two(c),
        "Equal" | "Greater" | "Less" | "GreaterOrEqual" | "LessOrEqual" | "And" | "Or" | "Xor" => {
            compare(c)
        }
        "Sum" | "Max" | "Min" | "Mean" => many(c),
        "Where" => choose(c),
        "Clip" => clip(c),
        "Cast" | "CastLike" => cast(c),
        "Identity" => c.input(0).cloned(),
        "Not" => c.input(0).and_then(|x| {
            let v = x.i64s()?.iter().map(|&v| i64::from(v == 0)).collect();
            Ok(Tensor::ints(Kind::Bool, &x.shape, v))
        }),
        "IsNaN" | "IsInf" => tell(c),
        "Dropout" => return Some(dropout(c)),
        _ => return unary(c).map(|t| t.map(|t| vec![t])),
    };
    Some(result.map(|t| vec![t]))
}

/// `1 / (1 + exp(−x))`, without overflow.
pub(super) fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

/// `ln(1 + exp(x))`, without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// The error function: its series near zero, a continued fraction of `erfc` beyond.
pub(super) fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a.is_nan() {
        return x;
    }
    if a > 6.0 {
        return x.signum();
    }
    let squared = a * a;
    let value = if a < 2.5 {
        // 2/√π · Σ (−1)ⁿ x^(2n+1) / (n! (2n+1)), in the form without alternating signs.
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term > 1e-17 * sum {
            n += 1.0;
            term *= 2.0 * squared / (2.0 * n + 1.0);
            sum += term;
        }
        sum * (-squared).exp() * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let mut fraction = a;
        for k in (1..=60).rev() {
            fraction = a + f64::from(k) / 2.0 / fraction;
        }
        1.0 - (-squared).exp() / (fraction * std::f64::consts::PI.sqrt())
    };
    value.copysign(x)
}

/// The largest even whole number among the nearest where two are as near.
pub(super) fn round_even(x: f64) -> f64 {
    x.round_ties_even()
}

type Number = Box<dyn Fn(f64) -> f64>;

/// The function of an op on one float, with its attributes read once.
fn function(c: &Call) -> Option<Said<Number>> {
    fn plain(f: impl Fn(f64) -> f64 + 'static) -> Option<Said<Number>> {
        Some(Ok(Box::new(f)))
    }
    let number = |name: &str, default: f32| c.node.float(name, default).map(f64::from);
    macro_rules! with {
        ($($name:ident = $default:expr),* => $f:expr) => {{
            let read = || -> Said<Box<dyn Fn(f64) -> f64>> {
                $(let $name = number(stringify!($name), $default)?;)*
                Ok(Box::new($f))
            };
            Some(read())
        }};
    }
    match &c.node.op[..] {
        "Abs" => plain(f64::abs),
        "Neg" => plain(|x| -x),
        "Ceil" => plain(f64::ceil),
        "Floor" => plain(f64::floor),
        "Round" => plain(round_even),
        "Sqrt" => plain(f64::sqrt),
        "Exp" => plain(f64::exp),
        "Log" => plain(f64::ln),
        "Sin" => plain(f64::sin),
        "Cos" => plain(f64::cos),
        "Tan" => plain(f64::tan),
        "Asin" => plain(f64::asin),
        "Acos" => plain(f64::acos),
        "Atan" => plain(f64::atan),
        "Sinh" => plain(f64::sinh),
        "Cosh" => plain(f64::cosh),
        "Asinh" => plain(f64::asinh),
        "Acosh" => plain(f64::acosh),
        "Atanh" => plain(f64::atanh),
        "Tanh" => plain(f64::tanh),
        "Erf" => plain(erf),
        "Sign" => plain(|x| if x == 0.0 || x.is_nan() { x } else { x.signum() }),
        "Reciprocal" => plain(|x| 1.0 / x),
        "Relu" => plain(|x| if x < 0.0 { 0.0 } else { x }),
        "Sigmoid" => plain(sigmoid),
        "HardSwish" => plain(|x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
        "Softplus" => plain(softplus),
        "Softsign" => plain(|x| x / (1.0 + x.abs())),
        "Mish" => plain(|x| x * softplus(x).tanh()),
        "LeakyRelu" => with!(alpha = 0.01 => move |x| if x < 0.0 { alpha * x } else { x }),
        "Elu" => with!(alpha = 1.0 => move |x| if x < 0.0 { alpha * x.exp_m1() } else { x }),
        "Celu" => {
            with!(alpha = 1.0 => move |x: f64| x.max(0.0) + (alpha * (x / alpha).exp_m1()).min(0.0))
        }
        // The numbers of Klambauer et al. 2017.
        "Selu" => with!(alpha = 1.673_263_2, gamma = 1.050_701 =>
            move |x| gamma * if x > 0.0 { x } else { alpha * x.exp_m1() }),
        "HardSigmoid" => {
            with!(alpha = 0.2, beta = 0.5 => move |x: f64| (alpha * x + beta).clamp(0.0, 1.0))
        }
        "ThresholdedRelu" => with!(alpha = 1.0 => move |x| if x > alpha { x } else { 0.0 }),
        "Swish" => with!(alpha = 1.0 => move |x| x * sigmoid(alpha * x)),
        "Shrink" => with!(lambd = 0.5, bias = 0.0 => move |x| {
            if x < -lambd { x + bias } else if x > lambd { x - bias } else { 0.0 }
        }),
        "Gelu" => Some(c.node.text("approximate", "none").map(|form| match &form[..] {
            "tanh" => Box::new(|x: f64| {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            }) as Box<dyn Fn(f64) -> f64>,
            _ => Box::new(|x: f64| 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))),
        })),
        _ => None,
    }
}

fn unary(c: &Call) -> Option<Said<Tensor>> {
    let f = match function(c)? {
        Ok(f) => f,
        Err(e) => return Some(Err(e)),
    };
    let run = || {
        let x = c.input(0)?;
        c.budget.room(&x.shape)?;
        Ok(match &x.data {
            Data::Float(v) => {
                Tensor::of(x.kind, &x.shape, v.iter().map(|&v| f(f64::from(v)) as f32).collect())
            }
            Data::Int(v) => {
                let whole = |&v: &i64| match &c.node.op[..] {
                    "Abs" => x.kind.wrap(v.wrapping_abs()),
                    "Neg" => x.kind.wrap(v.wrapping_neg()),
                    _ => x.kind.wrap(f(v as f64) as i64),
                };
                Tensor::ints(x.kind, &x.shape, v.iter().map(whole).collect())
            }
        })
    };
    Some(run())
}

/// Applies an op of two numbers to two tensors, each repeated along axes of one.
fn zip<A: Copy, B: Copy, T>(
    a: (&[usize], &[A]),
    b: (&[usize], &[B]),
    shape: &[usize],
    f: impl Fn(A, B) -> T,
) -> Said<Vec<T>> {
    if a.0 == b.0 {
        return Ok(a.1.iter().zip(b.1).map(|(&a, &b)| f(a, b)).collect());
    }
    let (s, t) = (broadcast_strides(a.0, shape)?, broadcast_strides(b.0, shape)?);
    let n = shape.iter().product();
    let places = Walk::new(shape, &s).zip(Walk::new(shape, &t));
    Ok(places.take(n).map(|(i, j)| f(a.1[i], b.1[j])).collect())
}

/// Before op set 7 the second input's axes were placed by `axis`, and broadcast only when asked.
fn second(c: &Call) -> Said<Tensor> {
    let (a, b) = (c.input(0)?, c.input(1)?);
    if c.node.opset >= 7 || !c.node.flag("broadcast", false)? || b.rank() >= a.rank() {
        return Ok(b.clone());
    }
    let at = c.node.int("axis", (a.rank() - b.rank()) as i64)?;
    let at = if a.rank() == 0 { 0 } else { super::axis(at, a.rank())? };
    let mut shape = b.shape.clone();
    let behind = a.rank().checked_sub(at + b.rank()).ok_or("axis leaves no room")?;
    shape.extend(std::iter::repeat_n(1, behind));
    b.reshaped(shape)
}

fn two(c: &Call) -> Said<Tensor> {
    let a = c.input(0)?;
    let mut b = second(c)?;
    if c.node.op == "PRelu" {
        // A slope per channel, without the axes behind it.
        let channel = b.rank() == 1 && a.rank() > 2 && a.shape[1] == b.len() && b.len() > 1;
        if channel && (c.node.opset < 7 || a.shape.last() != Some(&b.len())) {
            b = b.reshaped([vec![b.len()], vec![1; a.rank() - 2]].concat())?;
        }
        if b.rank() > a.rank() {
            return Err(format!("slopes {:?} for {:?}", b.shape, a.shape));
        }
    }
    let shape = broadcast(&a.shape, &b.shape)?;
    c.budget.room(&shape)?;
    let op = &c.node.op[..];
    match (&a.data, &b.data) {
        (Data::Float(x), Data::Float(y)) => {
            let f: fn(f32, f32) -> f32 = match op {
                "Add" => |a, b| a + b,
                "Sub" => |a, b| a - b,
                "Mul" => |a, b| a * b,
                "Div" => |a, b| a / b,
                "Pow" => |a, b| f64::from(a).powf(f64::from(b)) as f32,
                "Mod" => |a, b| a % b,
                "PRelu" => |a, b| if a < 0.0 { a * b } else { a },
                _ => return Err("needs integers".into()),
            };
            let values = zip((&a.shape, &x[..]), (&b.shape, &y[..]), &shape, f)?;
            Ok(Tensor::of(a.kind, &shape, values))
        }
        (Data::Int(x), Data::Int(y)) => {
            let f: Box<dyn Fn(i64, i64) -> i64> = integer(c, op)?;
            let kind = a.kind;
            if op == "Div" && y.contains(&0) {
                return Err("divides by zero".into());
            }
            let values =
                zip((&a.shape, &x[..]), (&b.shape, &y[..]), &shape, |a, b| kind.wrap(f(a, b)))?;
            Ok(Tensor::ints(kind, &shape, values))
        }
        // Powers alone may mix types; the first decides.
        _ if op == "Pow" => {
            let (x, y) = (a.to_f32s(), b.to_f32s());
            let power = |a: f32, b: f32| f64::from(a).powf(f64::from(b));
            let values = zip((&a.shape, &x[..]), (&b.shape, &y[..]), &shape, power)?;
            Ok(match a.kind.is_float() {
                true => Tensor::of(a.kind, &shape, values.iter().map(|&v| v as f32).collect()),
                false => {
                    let whole = |&v: &f64| a.kind.wrap(v as i64);
                    Tensor::ints(a.kind, &shape, values.iter().map(whole).collect())
                }
            })
        }
        _ => Err(format!("mixes {:?} and {:?}", a.kind, b.kind)),
    }
}

fn integer(c: &Call, op: &str) -> Said<Box<dyn Fn(i64, i64) -> i64>> {
    Ok(match op {
        "Add" => Box::new(i64::wrapping_add),
        "Sub" => Box::new(i64::wrapping_sub),
        "Mul" => Box::new(i64::wrapping_mul),
        "Div" => Box::new(i64::wrapping_div),
        "Pow" => Box::new(|a, b| match u32::try_from(b) {
            Ok(b) => a.wrapping_pow(b),
            Err(_) => (a as f64).powf(b as f64) as i64,
        }),
        // The sign of the divisor, or with fmod that of the dividend.
        "Mod" if c.node.flag("fmod", false)? => {
            Box::new(|a, b| if b == 0 { 0 } else { a.wrapping_rem(b) })
        }
        "Mod" => Box::new(|a, b| {
            let r = if b == 0 { 0 } else { a.wrapping_rem(b) };
            if r != 0 && (r < 0) != (b < 0) { r + b } else { r }
        }),
        "BitwiseAnd" => Box::new(|a, b| a & b),
        "BitwiseOr" => Box::new(|a, b| a | b),
        "BitwiseXor" => Box::new(|a, b| a ^ b),
        "BitShift" => match &c.node.text("direction", "")?[..] {
            "LEFT" => {
                Box::new(|a, b| u32::try_from(b).ok().and_then(|b| a.checked_shl(b)).unwrap_or(0))
            }
            _ => Box::new(|a, b| {
                u32::try_from(b).ok().and_then(|b| (a as u64).checked_shr(b)).unwrap_or(0) as i64
            }),
        },
        "PRelu" => Box::new(|a, b| if a < 0 { a.wrapping_mul(b) } else { a }),
        _ => return Err("has no integer form".into()),
    })
}

fn compare(c: &Call) -> Said<Tensor> {
    let (a, b) = (c.input(0)?, &second(c)?);
    let shape = broadcast(&a.shape, &b.shape)?;
    c.budget.room(&shape)?;
    use std::cmp::Ordering::*;
    let op = &c.node.op[..];
    let told = |o: Option<std::cmp::Ordering>| match op {
        "Equal" => o == Some(Equal),
        "Greater" => o == Some(Greater),
        "Less" => o == Some(Less),
        "GreaterOrEqual" => matches!(o, Some(Greater | Equal)),
        _ => matches!(o, Some(Less | Equal)),
    };
    let values = match (&a.data, &b.data) {
        (Data::Float(x), Data::Float(y)) => {
            zip((&a.shape, &x[..]), (&b.shape, &y[..]), &shape, |a, b| {
                i64::from(told(a.partial_cmp(&b)))
            })?
        }
        (Data::Int(x), Data::Int(y)) => {
            zip((&a.shape, &x[..]), (&b.shape, &y[..]), &shape, |a, b| {
                i64::from(match op {
                    "And" => a != 0 && b != 0,
                    "Or" => a != 0 || b != 0,
                    "Xor" => (a != 0) != (b != 0),
                    _ => told(Some(a.cmp(&b))),
                })
            })?
        }
        _ => return Err(format!("mixes {:?} and {:?}", a.kind, b.kind)),
    };
    Ok(Tensor::ints(Kind::Bool, &shape, values))
}

fn many(c: &Call) -> Said<Tensor> {
    let all = c.all();
    let [first, rest @ ..] = &all[..] else { return Err("has no inputs".into()) };
    let op = &c.node.op[..];
    let mut sum = (*first).clone();
    for t in rest {
        let shape = broadcast(&sum.shape, &t.shape)?;
        c.budget.room(&shape)?;
        sum = match (&sum.data, &t.data) {
            (Data::Float(x), Data::Float(y)) => {
                let f: fn(f32, f32) -> f32 = match op {
                    "Max" => |a, b| if b > a || b.is_nan() { b } else { a },
                    "Min" => |a, b| if b < a || b.is_nan() { b } else { a },
                    _ => |a, b| a + b,
                };
                let values = zip((&sum.shape, &x[..]), (&t.shape, &y[..]), &shape, f)?;
                Tensor::of(first.kind, &shape, values)
            }
            (Data::Int(x), Data::Int(y)) => {
                let f: fn(i64, i64) -> i64 = match op {
                    "Max" => i64::max,
                    "Min" => i64::min,
                    _ => i64::wrapping_add,
                };
                let values = zip((&sum.shape, &x[..]), (&t.shape, &y[..]), &shape, f)?;
                Tensor::ints(first.kind, &shape, values)
            }
            _ => return Err("mixes types".into()),
        };
    }
    if op == "Mean" {
        let n = all.len() as f32;
        let values = sum.f32s()?.iter().map(|v| v / n).collect();
        return Ok(Tensor::of(first.kind, &sum.shape, values));
    }
    Ok(sum)
}

fn choose(c: &Call) -> Said<Tensor> {
    let (condition, a, b) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let shape = broadcast(&broadcast(&condition.shape, &a.shape)?, &b.shape)?;
    c.budget.room(&shape)?;
    let (condition, a, b) = (condition.expanded(&shape)?, a.expanded(&shape)?, b.expanded(&shape)?);
    let which = condition.i64s()?.iter();
    Ok(match (&a.data, &b.data) {
        (Data::Float(x), Data::Float(y)) => {
            let pick = which.zip(x.iter().zip(y)).map(|(&w, (&x, &y))| if w != 0 { x } else { y });
            Tensor::of(a.kind, &shape, pick.collect())
        }
        (Data::Int(x), Data::Int(y)) => {
            let pick = which.zip(x.iter().zip(y)).map(|(&w, (&x, &y))| if w != 0 { x } else { y });
            Tensor::ints(a.kind, &shape, pick.collect())
        }
        _ => return Err("mixes types".into()),
    })
}

fn clip(c: &Call) -> Said<Tensor> {
    let x = c.input(0)?;
    c.budget.room(&x.shape)?;
    match &x.data {
        Data::Float(v) => {
            let bound = |name: &str, i: usize, default: f32| match c.optional(i) {
                Some(t) => t.number(),
                None => c.node.float(name, default),
            };
            let (lo, hi) = (bound("min", 1, f32::NEG_INFINITY)?, bound("max", 2, f32::INFINITY)?);
            // Where the lower bound is above the upper, the upper counts; NaN stays.
            let clamp = |&v: &f32| {
                let low = if v < lo { lo } else { v };
                if low > hi { hi } else { low }
            };
            Ok(Tensor::of(x.kind, &x.shape, v.iter().map(clamp).collect()))
        }
        Data::Int(v) => {
            let bound = |i: usize, default: i64| match c.optional(i) {
                Some(t) => t.i64s()?.first().copied().ok_or("has no bound".to_string()),
                None => Ok(default),
            };
            let (lo, hi) = (bound(1, i64::MIN)?, bound(2, i64::MAX)?);
            Ok(Tensor::ints(x.kind, &x.shape, v.iter().map(|&v| v.max(lo).min(hi)).collect()))
        }
    }
}

fn cast(c: &Call) -> Said<Tensor> {
    let x = c.input(0)?;
    c.budget.room(&x.shape)?;
    let to = match &c.node.op[..] {
        "CastLike" => c.input(1)?.kind,
        _ => {
            // Before op set 6 the type was a word.
            let code = match c.node.text("to", "") {
                Ok(word) if c.node.has("to") => word_type(&word),
                _ => i32::try_from(c.node.int("to", 0)?).unwrap_or(0),
            };
            Kind::of(code).ok_or("casts to a type that is not supported")?
        }
    };
    Ok(converted(x, to))
}

/// The type that a word stands for.
fn word_type(word: &str) -> i32 {
    const WORDS: [&str; 17] = [
        "",
        "FLOAT",
        "UINT8",
        "INT8",
        "UINT16",
        "INT16",
        "INT32",
        "INT64",
        "STRING",
        "BOOL",
        "FLOAT16",
        "DOUBLE",
        "UINT32",
        "UINT64",
        "COMPLEX64",
        "COMPLEX128",
        "BFLOAT16",
    ];
    WORDS.iter().position(|w| *w == word).map_or(0, |i| i as i32)
}

/// The numbers as another type; floats lose their fraction, what is not zero is true.
pub(super) fn converted(x: &Tensor, to: Kind) -> Tensor {
    match (&x.data, to.is_float()) {
        (Data::Float(v), true) => Tensor::of(to, &x.shape, v.clone()),
        (Data::Int(_), true) => Tensor::of(to, &x.shape, x.to_f32s()),
        (Data::Float(v), false) => {
            let whole = |&v: &f32| match to {
                Kind::Bool => i64::from(v != 0.0),
                _ => to.wrap(v as i64),
            };
            Tensor::ints(to, &x.shape, v.iter().map(whole).collect())
        }
        (Data::Int(v), false) => {
            Tensor::ints(to, &x.shape, v.iter().map(|&v| to.wrap(v)).collect())
        }
    }
}

fn tell(c: &Call) -> Said<Tensor> {
    let x = c.input(0)?;
    let (up, down) = (c.node.flag("detect_positive", true)?, c.node.flag("detect_negative", true)?);
    let nan = c.node.op == "IsNaN";
    let told = |v: &f32| match nan {
        true => v.is_nan(),
        false => v.is_infinite() && (if *v > 0.0 { up } else { down }),
    };
    let values = x.f32s()?.iter().map(|v| i64::from(told(v))).collect();
    Ok(Tensor::ints(Kind::Bool, &x.shape, values))
}

/// In prediction dropout does nothing; its mask is all true (before op set 10, of the input's type).
fn dropout(c: &Call) -> Said<Vec<Tensor>> {
    let x = c.input(0)?;
    let training = c.optional(2).map_or(Ok(0.0), Tensor::number)?;
    let ratio = c.optional(1).map_or(Ok(0.5), Tensor::number)?;
    if training != 0.0 && ratio != 0.0 {
        return Err("drops at random in training mode; export the model for inference".into());
    }
    let mask = match c.node.opset {
        0..10 => Tensor::of(x.kind, &x.shape, vec![1.0; x.len()]),
        _ => Tensor::ints(Kind::Bool, &x.shape, vec![1; x.len()]),
    };
    Ok(vec![x.clone(), mask])
}
