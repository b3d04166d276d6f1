//! Prediction in integers: which places keep their maps in integers of 8 bits.
//!
//! A reader that multiplies integers would round the map to them anyway, by the place's range, so it is rounded once,
//! where it is written: the same numbers. What is added to sums, and what a depthwise convolution reads, is rounded so as
//! well. Each layer says which of its maps may be ([`crate::layers::Rule::bytes`]); what the outside sees (input, output,
//! kept places, heads) is f32, as is a place whose values are not known.

use super::halves::{narrow, spread};
use super::lower::Lower;
use super::unit::Unit;
use crate::layers::Narrow;
use crate::{NodeId, Result};
use convoke_kernels::Form;
use convoke_kernels::conv::Range8;

/// What the map of each place is.
pub(super) fn of(units: &[Unit], b: &Lower) -> Result<Vec<Form>> {
    let (net, options) = (b.net, b.options);
    let mut ranges: Vec<_> = net.nodes().iter().map(|n| options.ranges.get(&n.name)).collect();
    if b.lanes() > 1 {
        return Ok(vec![Form::Full; ranges.len()]);
    }
    let (mut alike, mut tied) = (Vec::new(), Vec::new());
    let mut bytes = narrow(
        units,
        b,
        |rule, unit, b| rule.bytes(unit, b),
        |how, unit| {
            let pair = [net.node(unit.main).inputs[0], unit.output];
            match how {
                Narrow::Alike => alike.push(pair),
                _ => tied.push(pair.to_vec()),
            }
        },
    )?;
    share(&alike, &net.readers(), &mut ranges);
    for (bytes, range) in bytes.iter_mut().zip(&ranges) {
        *bytes &= range.is_some();
    }
    for pair in &alike {
        let [from, to] = pair.map(|p| ranges[p.index()]);
        bytes[pair[0].index()] &= from == to;
        tied.push(pair.to_vec());
    }
    spread(&tied, &mut bytes);
    let form = |(bytes, range): (bool, Option<Range8>)| match range {
        Some(range) if bytes => Form::Bytes(range),
        _ => Form::Full,
    };
    Ok(bytes.into_iter().zip(ranges).map(form).collect())
}

/// Places that are alike have one range: an output takes its input's, and an input that nobody else reads its output's,
/// since what lies beyond does not come through.
fn share(alike: &[[NodeId; 2]], readers: &[usize], ranges: &mut [Option<Range8>]) {
    loop {
        let mut changed = false;
        for [from, to] in alike.iter().map(|pair| pair.map(NodeId::index)) {
            match (ranges[from], ranges[to]) {
                (Some(range), None) => ranges[to] = Some(range),
                (None, Some(range)) if readers[from] == 1 => ranges[from] = Some(range),
                _ => continue,
            }
            changed = true;
        }
        if !changed {
            return;
        }
    }
}
