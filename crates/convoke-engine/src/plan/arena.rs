//! Last pass: every buffer gets its place in one arena.
//!
//! Persistent buffers lie in sections, one behind the other in the order they were asked for.
//! Buffers of a step are placed largest first into the lowest gap that is free over their lifetime.

use convoke_kernels::Form;
use std::ops::Range;

/// A buffer of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Buf(pub(crate) usize);

impl Buf {
    /// No buffer: an empty slice.
    pub(crate) const NONE: Buf = Buf(usize::MAX);
}

/// What a buffer holds; all but `Step` live as long as the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Weights: without gaps, in the network's order.
    Param,
    /// Running statistics: likewise.
    State,
    /// Gradients of the weights: likewise.
    Grad,
    /// Momentum and the like.
    Moment,
    /// Filters in the order of the kernels.
    Pack,
    /// Input, targets, output, kept maps.
    Pinned,
    /// Work space of kernels: one for all.
    Scratch,
    /// Lives from its first to its last call.
    Step,
}

/// A buffer before it has a place.
#[derive(Debug, Clone)]
pub(crate) struct BufSpec {
    pub name: String,
    pub kind: Kind,
    /// Floats.
    pub len: usize,
    /// What its numbers are, if it is a map.
    pub form: Form,
}

/// Places of all buffers, in floats.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layout {
    pub places: Vec<Range<usize>>,
    /// What the numbers of each are.
    pub forms: Vec<Form>,
    pub sections: Vec<(Kind, Range<usize>)>,
    pub len: usize,
}

/// Places start at multiples of 16 floats: one cache line.
const ALIGN: usize = 16;

impl Layout {
    /// Places the buffers; `calls` lists the buffers of each call in running order, `remade` those that a call makes
    /// for the second time: until then, what they held is needed no longer than it is touched.
    pub fn new(bufs: &[BufSpec], calls: &[Vec<Buf>], remade: &[(Buf, usize)]) -> Self {
        let forms = bufs.iter().map(|b| b.form).collect();
        let mut layout = Layout { places: vec![0..0; bufs.len()], forms, ..Layout::default() };
        use Kind::*;
        for kind in [Param, State, Grad, Moment, Pack, Pinned, Scratch] {
            let start = layout.len;
            for (i, b) in bufs.iter().enumerate().filter(|(_, b)| b.kind == kind && b.len > 0) {
                // Flat sections have no gaps: their order is the file format's.
                if matches!(kind, Pack | Pinned | Moment) {
                    layout.len = layout.len.next_multiple_of(ALIGN);
                }
                layout.places[i] = layout.len..layout.len + b.len;
                layout.len += b.len;
            }
            layout.sections.push((kind, start..layout.len));
            layout.len = layout.len.next_multiple_of(ALIGN);
        }
        let start = layout.len;
        layout.place_step(bufs, &lives(bufs, calls, remade), start);
        layout.sections.push((Step, start..layout.len));
        layout
    }

    fn place_step(&mut self, bufs: &[BufSpec], lives: &[Vec<(usize, usize)>], base: usize) {
        let mut order: Vec<usize> = (0..bufs.len())
            .filter(|&i| bufs[i].kind == Kind::Step && bufs[i].len > 0 && !lives[i].is_empty())
            .collect();
        order.sort_by_key(|&i| (std::cmp::Reverse(bufs[i].len), i));
        let mut placed: Vec<usize> = Vec::new();
        for i in order {
            let meets = |(from, to): (usize, usize), (f, t): (usize, usize)| f <= to && from <= t;
            let mut taken: Vec<Range<usize>> = placed
                .iter()
                .filter(|&&j| lives[i].iter().any(|&a| lives[j].iter().any(|&b| meets(a, b))))
                .map(|&j| self.places[j].clone())
                .collect();
            taken.sort_by_key(|r| r.start);
            let mut at = base;
            for r in taken {
                if r.start >= at + bufs[i].len {
                    break;
                }
                at = at.max(r.end.next_multiple_of(ALIGN));
            }
            self.places[i] = at..at + bufs[i].len;
            self.len = self.len.max((at + bufs[i].len).next_multiple_of(ALIGN));
            placed.push(i);
        }
    }

    /// Where all buffers of a kind lie.
    pub fn section(&self, kind: Kind) -> Range<usize> {
        self.sections.iter().find(|s| s.0 == kind).map_or(0..0, |s| s.1.clone())
    }
}

/// When each buffer holds something: from its first to its last call, in two parts where it is made again.
fn lives(
    bufs: &[BufSpec],
    calls: &[Vec<Buf>],
    remade: &[(Buf, usize)],
) -> Vec<Vec<(usize, usize)>> {
    let mut lives: Vec<Vec<(usize, usize)>> = vec![Vec::new(); bufs.len()];
    for (t, call) in calls.iter().enumerate() {
        for b in call {
            match lives[b.0].last_mut() {
                Some(life) if !remade.contains(&(*b, t)) => life.1 = t,
                _ => lives[b.0].push((t, t)),
            }
        }
    }
    lives
}

/// The arena while a call runs: hands out buffers as disjoint slices.
pub(crate) struct Memory<'a> {
    pub data: &'a mut [f32],
    pub layout: &'a Layout,
}

impl Memory<'_> {
    /// The buffers as slices. Buffers of one call never share a place while both live.
    pub fn get<const N: usize>(&mut self, bufs: [Buf; N]) -> [&mut [f32]; N] {
        self.ranges(bufs.map(|b| self.layout.places.get(b.0).cloned().unwrap_or(0..0)))
    }

    /// What the numbers of a map are.
    pub fn form(&self, buf: Buf) -> Form {
        self.layout.forms.get(buf.0).copied().unwrap_or_default()
    }

    /// Whole sections as slices.
    pub fn sections<const N: usize>(&mut self, kinds: [Kind; N]) -> [&mut [f32]; N] {
        self.ranges(kinds.map(|k| match self.layout.section(k) {
            r if r.is_empty() => 0..0,
            r => r,
        }))
    }

    /// Any parts of the arena as slices; they must be disjoint.
    pub fn ranges<const N: usize>(&mut self, ranges: [Range<usize>; N]) -> [&mut [f32]; N] {
        self.data.get_disjoint_mut(ranges).expect("buffers of one call are disjoint")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(len: usize) -> BufSpec {
        BufSpec { name: String::new(), kind: Kind::Step, len, form: Form::Full }
    }

    #[test]
    fn buffers_that_do_not_meet_share_a_place() {
        let bufs = [step(100), step(50), step(100)];
        let calls = vec![vec![Buf(0), Buf(1)], vec![Buf(1), Buf(2)]];
        let l = Layout::new(&bufs, &calls, &[]);
        assert_eq!(l.places[0], l.places[2]);
        assert_eq!(l.len, 112 + 64);
    }

    #[test]
    fn a_buffer_that_is_made_again_leaves_its_place_in_between() {
        let bufs = [step(100), step(50), step(100)];
        let calls = vec![vec![Buf(0)], vec![Buf(1)], vec![Buf(2), Buf(1)], vec![Buf(0)]];
        assert_eq!(Layout::new(&bufs, &calls, &[]).len, 112 + 112 + 64);
        let l = Layout::new(&bufs, &calls, &[(Buf(0), 3)]);
        assert_eq!((l.places[0].clone(), l.len), (l.places[2].clone(), 112 + 64));
    }

    #[test]
    fn buffers_that_meet_never_overlap() {
        let bufs: Vec<_> = (1..40).map(|i| step(i * 7 % 23 + 1)).collect();
        let calls: Vec<Vec<Buf>> =
            (0..60).map(|t| (0..39).filter(|b| (t + b * 5) % 13 < 3).map(Buf).collect()).collect();
        let l = Layout::new(&bufs, &calls, &[]);
        let life = |b: usize| {
            let on: Vec<_> = (0..60).filter(|&t| calls[t].contains(&Buf(b))).collect();
            (on[0], *on.last().unwrap())
        };
        for a in 0..39 {
            for b in 0..a {
                let ((f, t), (g, u)) = (life(a), life(b));
                let (p, q) = (&l.places[a], &l.places[b]);
                assert!(t < g || u < f || p.end <= q.start || q.end <= p.start, "{a} {b}");
            }
        }
    }

    #[test]
    fn parameters_lie_without_gaps() {
        let p = |len| BufSpec { name: String::new(), kind: Kind::Param, len, form: Form::Full };
        let l = Layout::new(&[p(3), p(5)], &[], &[]);
        assert_eq!(l.places, vec![0..3, 3..8]);
        assert_eq!(l.section(Kind::Param), 0..8);
    }
}
