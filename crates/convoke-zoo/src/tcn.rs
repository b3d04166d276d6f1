//! Temporal convolutional network (Bai et al. 2018, figure 1): residual blocks of two causal, dilated convolutions.
//! An output sees its own and earlier steps only, so the same network classifies a signal by its last step and
//! forecasts what comes next.
//!
//! | level i, from 0 | |
//! |---|---|
//! | twice | 32 @ 3, dilation 2^i, padding on the left alone; norm, ReLU, dropout 0.1 |
//! | behind | the level's input is added, through a 1×1 convolution where the depth changes; ReLU |
//!
//! There are as many levels as the last step needs to see the whole input, as in the paper's experiments. The paper
//! normalises weights; here a norm of each step's channels takes its place (layer norm), which is causal as well.

use crate::entry::{Entry, Paper};
use crate::signal::SIGNAL;
use convoke_engine::layers::{Add, Axis, Conv, Dropout, LayerNorm, Relu, Take};
use convoke_engine::{Builder, Network, Padding, Result, Shape};

const PAPER: Paper = Paper {
    year: 2018,
    title: "Bai et al., An Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence Modeling",
};

pub(crate) const ENTRIES: &[Entry] = &[PAPER
    .network("tcn", "signals: causal, dilated convolutions; classifies and forecasts", build)
    .input(SIGNAL)
    .classes(2)];

const FILTERS: usize = 32;
const WINDOW: usize = 3;

fn build(name: &str, input: Shape, classes: usize) -> Result<Network> {
    let mut b = Builder::new(name, input);
    let mut depth = input.c;
    for level in 0..levels(input.w) {
        b.scope(&format!("level{}", level + 1));
        let from = b.here();
        for n in 1..=2 {
            let dilation = 1 << level;
            let left = (WINDOW - 1) * dilation;
            let causal = Padding::Explicit { top: 0, bottom: 0, left, right: 0 };
            let conv = Conv::signal(FILTERS, WINDOW).dilation([1, dilation]).padding(causal);
            b.then(&format!("conv{n}"), conv).then(&format!("norm{n}"), LayerNorm::default());
            b.then(&format!("relu{n}"), Relu::default());
            b.then(&format!("dropout{n}"), Dropout { rate: 0.1 });
        }
        let end = b.here();
        let short = match depth == FILTERS {
            true => from,
            false => b.at(from).then("shortcut", Conv::signal(FILTERS, 1)).here(),
        };
        b.named("add", Add {}, &[end, short]).then("relu", Relu::default());
        depth = FILTERS;
    }
    b.scope("").layer(Take { axis: Axis::W, start: input.w as i64 - 1, step: 1, size: 1 });
    b.dense(classes).build()
}

/// Levels until the last step sees `length` steps: two windows of 3 at each, twice as far apart as before.
fn levels(length: usize) -> usize {
    let sees = |levels: u32| 1 + 2 * (WINDOW - 1) * ((1 << levels) - 1);
    (1..20).find(|&l| sees(l) >= length).unwrap_or(20) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_step_sees_the_whole_input() {
        for (length, want) in [(1, 1), (5, 1), (6, 2), (13, 2), (14, 3), (150, 6)] {
            assert_eq!(levels(length), want, "{length}");
        }
        let net = build("tcn", Shape::new(1, 100, 3), 4).unwrap();
        assert_eq!(net.output_shape(), Shape::vector(4));
        let field = net.fields()[net.output().index()];
        assert!(field.w.size >= 100, "{field:?}");
    }
}
