//! Functions of one number that are no activation of the usual networks: `y = f(x)`, and `dx = f'(x) · dy`.

use crate::activation::sigmoid;
use crate::{CHUNK, Ctx};

/// What is computed; `a` and `b` are constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Function {
    /// `|x|`
    Abs,
    /// `exp(x)`
    Exp,
    /// `ln(x)`
    Log,
    /// `√x`
    Sqrt,
    /// `1 / x`
    Reciprocal,
    /// `x ^ a`
    Power {
        /// The exponent.
        a: f32,
    },
    /// `b · x` where positive, `b · a · (exp(x) − 1)` elsewhere (Clevert et al. 2016; Klambauer et al. 2017).
    Elu {
        /// Depth of the negative side.
        a: f32,
        /// Slope of the positive side.
        b: f32,
    },
    /// `ln(1 + exp(x))`
    Softplus,
    /// `x / (1 + |x|)`
    Softsign,
    /// `x · tanh(softplus(x))` (Misra 2019).
    Mish,
    /// `x · sigmoid(a · x)`
    Swish {
        /// What is in the sigmoid.
        a: f32,
    },
    /// The error function.
    Erf,
    /// GELU by tanh (Hendrycks and Gimpel 2016).
    GeluTanh,
    /// `min(max(a · x + b, 0), 1)`
    HardSigmoid {
        /// Slope.
        a: f32,
        /// Value at zero.
        b: f32,
    },
    /// `min(max(x, a), b)`
    Clip {
        /// Lower bound.
        a: f32,
        /// Upper bound.
        b: f32,
    },
    /// `x` above `a`, 0 elsewhere.
    Threshold {
        /// The bound.
        a: f32,
    },
    /// `x` moved towards zero by `b` where `|x| > a`, 0 elsewhere.
    Shrink {
        /// The bound.
        a: f32,
        /// The move.
        b: f32,
    },
    /// `sin(x)`
    Sin,
    /// `cos(x)`
    Cos,
    /// To the nearest whole number between `a` and `b`, even ones at halves; backward as if not rounded
    /// (Bengio et al. 2013).
    Round {
        /// Smallest.
        a: f32,
        /// Largest.
        b: f32,
    },
}

/// `ln(1 + exp(x))`, without overflow.
fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// The error function: its series near zero, `erfc` (Press et al., Numerical Recipes) beyond.
fn erf(x: f32) -> f32 {
    let (wide, a) = (f64::from(x), f64::from(x.abs()));
    if a < 0.5 {
        let s = wide * wide;
        let series = 1.0
            - s / 3.0
                * (1.0
                    - s * 0.3
                        * (1.0
                            - s / 3.0
                                * (5.0 / 7.0)
                                * (1.0 - s * 7.0 / 36.0 * (1.0 - s * 9.0 / 55.0))));
        return (wide * std::f64::consts::FRAC_2_SQRT_PI * series) as f32;
    }
    let t = 1.0 / (1.0 + 0.5 * a);
    let terms = [
        0.17087277,
        -0.82215223,
        1.48851587,
        -1.13520398,
        0.27886807,
        -0.18628806,
        0.09678418,
        0.37409196,
        1.00002368,
        -1.26551223,
    ];
    let p = terms.iter().fold(0.0, |p, c| p * t + c);
    (1.0 - t * (-a * a + p).exp()).copysign(wide) as f32
}

const GELU: f32 = 0.797_884_6;

impl Function {
    /// `f(x)`.
    pub fn of(self, x: f32) -> f32 {
        match self {
            Function::Abs => x.abs(),
            Function::Exp => x.exp(),
            Function::Log => x.ln(),
            Function::Sqrt => x.sqrt(),
            Function::Reciprocal => 1.0 / x,
            Function::Power { a: 2.0 } => x * x,
            Function::Power { a } => x.powf(a),
            Function::Elu { a, b } => b * if x > 0.0 { x } else { a * x.exp_m1() },
            Function::Softplus => softplus(x),
            Function::Softsign => x / (1.0 + x.abs()),
            Function::Mish => x * softplus(x).tanh(),
            Function::Swish { a } => x * sigmoid(a * x),
            Function::Erf => erf(x),
            Function::GeluTanh => 0.5 * x * (1.0 + (GELU * (x + 0.044_715 * x * x * x)).tanh()),
            Function::HardSigmoid { a, b } => (a * x + b).clamp(0.0, 1.0),
            Function::Clip { a, b } => {
                let low = if x < a { a } else { x };
                if low > b { b } else { low }
            }
            Function::Threshold { a } => {
                if x > a {
                    x
                } else {
                    0.0
                }
            }
            Function::Shrink { a, b } => match x {
                x if x < -a => x + b,
                x if x > a => x - b,
                _ => 0.0,
            },
            Function::Sin => x.sin(),
            Function::Cos => x.cos(),
            Function::Round { a, b } => x.round_ties_even().max(a).min(b),
        }
    }

    /// `f'(x)`.
    pub fn slope(self, x: f32) -> f32 {
        let inside = |yes: bool| f32::from(yes);
        match self {
            Function::Abs => {
                if x == 0.0 {
                    0.0
                } else {
                    x.signum()
                }
            }
            Function::Exp => x.exp(),
            Function::Log => 1.0 / x,
            Function::Sqrt => 0.5 / x.sqrt(),
            Function::Reciprocal => -1.0 / (x * x),
            Function::Power { a: 2.0 } => 2.0 * x,
            Function::Power { a } => a * x.powf(a - 1.0),
            Function::Elu { a, b } => b * if x > 0.0 { 1.0 } else { a * x.exp() },
            Function::Softplus => sigmoid(x),
            Function::Softsign => (1.0 + x.abs()).powi(-2),
            Function::Mish => {
                let t = softplus(x).tanh();
                t + x * sigmoid(x) * (1.0 - t * t)
            }
            Function::Swish { a } => {
                let s = sigmoid(a * x);
                s + a * x * s * (1.0 - s)
            }
            Function::Erf => std::f32::consts::FRAC_2_SQRT_PI * (-x * x).exp(),
            Function::GeluTanh => {
                let t = (GELU * (x + 0.044_715 * x * x * x)).tanh();
                0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * GELU * (1.0 + 0.134_145 * x * x)
            }
            Function::HardSigmoid { a, b } => a * inside((0.0..1.0).contains(&(a * x + b))),
            Function::Clip { a, b } => inside(x > a && x < b),
            Function::Threshold { a } => inside(x > a),
            Function::Shrink { a, .. } => inside(x.abs() > a),
            Function::Sin => x.cos(),
            Function::Cos => -x.sin(),
            Function::Round { a, b } => inside(x >= a && x <= b),
        }
    }
}

/// `y = f(x)`.
pub fn forward(cx: Ctx, f: Function, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "lengths differ");
    cx.pool.for_chunks_mut(y, CHUNK, |i, y, _| {
        for (y, &x) in y.iter_mut().zip(&x[i * CHUNK..]) {
            *y = f.of(x);
        }
    });
}

/// `dx (+)= f'(x) · dy`.
pub fn backward(cx: Ctx, f: Function, x: &[f32], dy: &[f32], dx: &mut [f32], accumulate: bool) {
    assert!(x.len() == dx.len() && dy.len() == dx.len(), "lengths differ");
    cx.pool.for_chunks_mut(dx, CHUNK, |i, dx, _| {
        for ((dx, &x), &dy) in dx.iter_mut().zip(&x[i * CHUNK..]).zip(&dy[i * CHUNK..]) {
            let v = f.slope(x) * dy;
            *dx = if accumulate { *dx + v } else { v };
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_the_slopes_of_the_functions() {
        use Function::*;
        let all = [
            Abs,
            Exp,
            Log,
            Sqrt,
            Reciprocal,
            Power { a: 1.5 },
            Power { a: 2.0 },
            Elu { a: 0.7, b: 1.2 },
            Softplus,
            Softsign,
            Mish,
            Swish { a: 1.3 },
            Erf,
            GeluTanh,
            HardSigmoid { a: 0.2, b: 0.4 },
            Clip { a: -0.5, b: 1.5 },
            Threshold { a: 0.3 },
            Shrink { a: 0.4, b: 0.2 },
            Sin,
            Cos,
        ];
        for f in all {
            for x in [-2.3f32, -0.9, -0.2, 0.15, 0.72, 1.1, 2.6] {
                if x < 0.0 && matches!(f, Log | Sqrt | Power { .. }) {
                    continue;
                }
                let h = 1e-3;
                let slope = (f64::from(f.of(x + h)) - f64::from(f.of(x - h)))
                    / f64::from((x + h) - (x - h));
                assert!(
                    (slope as f32 - f.slope(x)).abs() < 2e-3 * (1.0 + slope.abs() as f32),
                    "{f:?} at {x}"
                );
            }
        }
    }

    #[test]
    fn the_error_function_keeps_its_digits() {
        // Abramowitz and Stegun, table 7.1.
        for (x, want) in [
            (0.02, 0.0225645747),
            (0.3, 0.3286267595),
            (0.5, 0.5204998778),
            (1.0, 0.8427007929),
            (2.0, 0.9953222650),
        ] {
            assert!((erf(x) - want as f32).abs() < 3e-7, "{x}");
            assert_eq!(erf(-x), -erf(x));
        }
    }
}
