//! What several families are made of.

use convoke_engine::Builder;
use convoke_engine::layers::{
    BatchNorm, Conv, Gate, GlobalMeanPool, HardSwish, Layer, Relu, Silu, WeightInit,
};

/// What follows a norm.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Act {
    None,
    Relu,
    HardSwish,
    Silu,
}

impl Act {
    fn add(self, b: &mut Builder, name: &str) {
        let from = b.here();
        match self {
            Act::None => return,
            Act::Relu => b.named(name, Relu::default(), &[from]),
            Act::HardSwish => b.named(name, HardSwish {}, &[from]),
            Act::Silu => b.named(name, Silu {}, &[from]),
        };
    }
}

/// Convolution `.0` without bias, norm `.1` of `(epsilon, momentum)` and activation `.2`.
pub(crate) fn conv_norm(b: &mut Builder, name: &str, conv: Conv, act: Act, norm: (f32, f32)) {
    let from = b.here();
    b.named(&format!("{name}.0"), conv.no_bias().init(WeightInit::HeFanOut), &[from]);
    let from = b.here();
    let norm = BatchNorm { epsilon: norm.0, momentum: norm.1 };
    b.named(&format!("{name}.1"), norm, &[from]);
    act.add(b, &format!("{name}.2"));
}

/// Squeeze and excitation (Hu et al. 2018) of the map at the cursor: its mean, 1×1 `fc1` to few channels,
/// 1×1 `fc2` back, and a gate.
pub(crate) fn squeeze_excite(
    b: &mut Builder,
    name: &str,
    [few, all]: [usize; 2],
    act: Act,
    gate: impl Into<Layer>,
) {
    let map = b.here();
    b.named(&format!("{name}.avgpool"), GlobalMeanPool {}, &[map]);
    let from = b.here();
    b.named(&format!("{name}.fc1"), Conv::new(few, 1), &[from]);
    act.add(b, &format!("{name}.activation"));
    let from = b.here();
    b.named(&format!("{name}.fc2"), Conv::new(all, 1), &[from]);
    let from = b.here();
    b.named(&format!("{name}.scale"), gate, &[from]);
    let from = b.here();
    b.named(&format!("{name}.gate"), Gate {}, &[map, from]);
}

/// The nearest multiple of eight, never a tenth less than asked (Sandler et al. 2018's code).
pub(crate) fn divisible(channels: f64) -> usize {
    let near = ((channels + 4.0) as usize / 8 * 8).max(8);
    if (near as f64) < 0.9 * channels { near + 8 } else { near }
}
