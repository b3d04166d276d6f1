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
use crate::layers::{Narrow, Rule};
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
    let mut alike = Vec::new();
    let mut halves = narrow(
        units,
        b,
        |rule, unit, b| rule.halves(unit, b),
        |_, unit| {
            let inputs = net.node(unit.main).inputs.iter().copied();
            alike.push(inputs.chain(unit.residual).chain([unit.output]).collect());
        },
    )?;
    spread(&alike, &mut halves);
    Ok(halves.into_iter().map(|half| if half { Form::Half } else { Form::Full }).collect())
}

/// Places that may be narrow by what layers `say` of each by itself; those that it ties to others are handed on. What the
/// outside sees is f32.
pub(super) fn narrow(
    units: &[Unit],
    b: &Lower,
    say: fn(&dyn Rule, &Unit, &Lower) -> Result<Narrow>,
    mut tie: impl FnMut(Narrow, &Unit),
) -> Result<Vec<bool>> {
    let net = b.net;
    let mut narrow = vec![true; net.nodes().len()];
    let mut full = |places: &[NodeId]| places.iter().for_each(|p| narrow[p.index()] = false);
    full(&[net.input(), net.output()]);
    full(&b.options.keep);
    net.heads().iter().for_each(|h| full(&[h.place]));
    for unit in units {
        match say(rule(net, unit.main)?, unit, b)? {
            Narrow::Any => {}
            Narrow::Input => full(&[unit.output]),
            tied @ (Narrow::Alike | Narrow::Both) => tie(tied, unit),
            Narrow::None => {
                full(&net.node(unit.main).inputs);
                full(&[unit.output]);
                full(unit.residual.as_slice());
            }
        }
    }
    Ok(narrow)
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
