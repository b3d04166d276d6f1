//! Training in bf16: which places keep their maps, and the gradients of these, in bf16.
//!
//! Where bf16 is what convolutions multiply, most of a step's time beside them is spent in reading and writing maps,
//! of which half the bytes are spared. Sums stay in 32 bits, as do weights, statistics and all that is not a map between
//! the layers that say they take it ([`crate::layers::Rule::halves`]). What the outside sees (input, output, kept
//! places, heads) is f32.

use super::compile::rule;
use super::lower::Lower;
use super::unit::Unit;
use super::{Mode, Precision};
use crate::layers::Narrow;
use crate::{NodeId, Result};
use convoke_kernels::Form;
use convoke_kernels::conv::Conv;

/// What the map of each place is.
pub(super) fn of(units: &[Unit], b: &Lower) -> Result<Vec<Form>> {
    let (net, options) = (b.net, b.options);
    let nodes = net.nodes().len();
    let bf16 = options.precision == Precision::Bf16
        && matches!(options.mode, Mode::Train { .. })
        && b.lanes() == 1
        && Conv::has_products(b.isa, options.precision.into());
    if !bf16 {
        return Ok(vec![Form::Full; nodes]);
    }
    let mut halves = vec![true; nodes];
    let mut full = |places: &[NodeId]| places.iter().for_each(|p| halves[p.index()] = false);
    full(&[net.input(), net.output()]);
    full(&options.keep);
    net.heads().iter().for_each(|h| full(&[h.place]));
    let mut alike = Vec::new();
    for unit in units {
        let inputs = &net.node(unit.main).inputs;
        match rule(net, unit.main)?.halves(unit, b)? {
            Narrow::Any => {}
            Narrow::Input => full(&[unit.output]),
            Narrow::Alike | Narrow::Both => {
                let residual = unit.residual.into_iter();
                alike.push(inputs.iter().copied().chain(residual).chain([unit.output]).collect());
            }
            Narrow::None => {
                full(inputs);
                full(&[unit.output]);
                full(unit.residual.as_slice());
            }
        }
    }
    spread(&alike, &mut halves);
    Ok(halves.into_iter().map(|half| if half { Form::Half } else { Form::Full }).collect())
}

/// Where one place of a group is no narrow one, none is.
pub(super) fn spread(groups: &[Vec<NodeId>], halves: &mut [bool]) {
    loop {
        let mut changed = false;
        // There and back: what a chain of groups says travels through all of it.
        for group in groups.iter().chain(groups.iter().rev()) {
            let all = group.iter().all(|p| halves[p.index()]);
            let any = group.iter().any(|p| halves[p.index()]);
            if any && !all {
                group.iter().for_each(|p| halves[p.index()] = false);
                changed = true;
            }
        }
        if !changed {
            return;
        }
    }
}
