//! A pass over the calls of a step: maps that cost one walk to make (a norm's output) are made
//! once more on the way back instead of being kept from forward to backward (Chen et al. 2016, "Training deep nets
//! with sublinear memory cost", with nothing multiplied again). Only where it lowers the peak of the memory. The
//! same call runs on the same numbers, so no result changes.

use super::arena::{Buf, BufSpec, Kind};
use super::op::{Call, Phase};
use std::sync::Arc;

/// No call.
const NEVER: usize = usize::MAX;

/// A map that could be made again.
struct Candidate {
    buf: Buf,
    /// The call that makes it.
    maker: usize,
    /// The last call of forward that touches it.
    last: usize,
    /// The first call of backward that does; none where only others that are made again are made of it.
    first: usize,
    chosen: bool,
}

/// Adds the calls that make maps again. Gives each such map with the place of that call: what it holds before, from
/// its last use in forward on, is not needed. Calls are in running order; maps of fewer floats than `least` stay.
pub(super) fn pass(bufs: &[BufSpec], calls: &mut Vec<Call>, least: usize) -> Vec<(Buf, usize)> {
    let Some(backward) = calls.iter().position(|c| c.phase == Phase::Backward) else {
        return Vec::new();
    };
    let touched: Vec<Vec<Buf>> = calls.iter().map(|c| c.op.buffers()).collect();
    let mut candidates = candidates(bufs, &calls[..backward], &touched, least);
    if candidates.is_empty() {
        return Vec::new();
    }
    choose(bufs, &touched, &mut candidates);
    candidates.retain(|c| c.chosen);
    let again = insertions(&touched, &candidates);
    let mut remade = Vec::new();
    let mut all = Vec::with_capacity(calls.len() + candidates.len());
    let makers: Vec<_> = candidates.iter().map(|c| Arc::clone(&calls[c.maker].op)).collect();
    let names: Vec<_> =
        candidates.iter().map(|c| format!("{} again", calls[c.maker].name)).collect();
    for (i, call) in calls.drain(..).enumerate() {
        // What one is made of is made before it: candidates are in the order of their makers.
        for (j, c) in candidates.iter().enumerate().filter(|(j, _)| again[*j] == i) {
            remade.push((c.buf, all.len()));
            let (name, op) = (names[j].clone(), Arc::clone(&makers[j]));
            all.push(Call { name, phase: Phase::Backward, op });
        }
        all.push(call);
    }
    *calls = all;
    remade
}

/// Maps that calls of `forward` make and could make again.
fn candidates(
    bufs: &[BufSpec],
    forward: &[Call],
    touched: &[Vec<Buf>],
    least: usize,
) -> Vec<Candidate> {
    let backward = forward.len();
    let mut all = Vec::new();
    for (maker, call) in forward.iter().enumerate() {
        let Some(buf) = call.op.remakes() else { continue };
        let spec = &bufs[buf.0];
        let uses = |range: std::ops::Range<usize>| range.filter(|&i| touched[i].contains(&buf));
        let Some(last) = uses(maker..backward).next_back() else { continue };
        let first = uses(backward..touched.len()).next().unwrap_or(NEVER);
        if spec.kind == Kind::Step && spec.len >= least.max(1) {
            all.push(Candidate { buf, maker, last, first, chosen: false });
        }
    }
    all
}

/// Where each chosen map is made again: before the first call of backward that needs it, or before the one that is
/// made of it.
fn insertions(touched: &[Vec<Buf>], candidates: &[Candidate]) -> Vec<usize> {
    let mut at: Vec<usize> = candidates.iter().map(|c| c.first).collect();
    for j in (0..candidates.len()).rev().filter(|&j| candidates[j].chosen) {
        for (i, source) in candidates.iter().enumerate().take(j) {
            if touched[candidates[j].maker].contains(&source.buf) {
                at[i] = at[i].min(at[j]);
            }
        }
    }
    at
}

/// Chooses, as long as the peak falls: of the maps that are kept over the peak but not needed in it, the largest.
fn choose(bufs: &[BufSpec], touched: &[Vec<Buf>], candidates: &mut [Candidate]) {
    let mut barred = vec![false; candidates.len()];
    let (mut peak, mut when) = live(bufs, touched, candidates);
    loop {
        let at = insertions(touched, candidates);
        let over = |&j: &usize| {
            let c = &candidates[j];
            !c.chosen && !barred[j] && c.last < when && when < at[j] && c.first != NEVER
        };
        let Some(j) =
            (0..candidates.len()).filter(over).max_by_key(|&j| bufs[candidates[j].buf.0].len)
        else {
            return;
        };
        let with = with_sources(touched, candidates, j);
        with.iter().for_each(|&i| candidates[i].chosen = true);
        let (now, then) = live(bufs, touched, candidates);
        if now < peak {
            (peak, when) = (now, then);
        } else {
            with.iter().for_each(|&i| candidates[i].chosen = false);
            barred[j] = true;
        }
    }
}

/// A candidate with those that it is made of and nothing else keeps.
fn with_sources(touched: &[Vec<Buf>], candidates: &[Candidate], j: usize) -> Vec<usize> {
    let mut with = vec![j];
    let mut next = 0;
    while let Some(&of) = with.get(next) {
        next += 1;
        for (i, c) in candidates.iter().enumerate().take(of) {
            let source = touched[candidates[of].maker].contains(&c.buf);
            if source && c.first == NEVER && !c.chosen && !with.contains(&i) {
                with.push(i);
            }
        }
    }
    with
}

/// The most floats of a step that live at once, and the call at which they do.
fn live(bufs: &[BufSpec], touched: &[Vec<Buf>], candidates: &[Candidate]) -> (usize, usize) {
    let mut life: Vec<Option<(usize, usize)>> = vec![None; bufs.len()];
    let mut touch = |b: Buf, t: usize| {
        let l = life[b.0].get_or_insert((t, t));
        *l = (l.0.min(t), l.1.max(t));
    };
    for (t, call) in touched.iter().enumerate() {
        call.iter().for_each(|&b| touch(b, t));
    }
    let at = insertions(touched, candidates);
    for (c, &at) in candidates.iter().zip(&at).filter(|(c, _)| c.chosen) {
        touched[c.maker].iter().for_each(|&b| touch(b, at));
    }
    let mut change = vec![0isize; touched.len() + 1];
    for (spec, life) in bufs.iter().zip(&life).filter(|(b, _)| b.kind == Kind::Step) {
        if let Some((from, to)) = *life {
            change[from] += spec.len as isize;
            change[to + 1] -= spec.len as isize;
        }
    }
    for (c, &at) in candidates.iter().zip(&at).filter(|(c, _)| c.chosen) {
        change[c.last + 1] -= bufs[c.buf.0].len as isize;
        change[at] += bufs[c.buf.0].len as isize;
    }
    let (mut now, mut most) = (0, (0, 0));
    for (t, c) in change.iter().enumerate() {
        now += c;
        if now > most.0 {
            most = (now, t);
        }
    }
    (most.0 as usize, most.1)
}
