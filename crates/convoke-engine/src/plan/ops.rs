//! Calls that several layers share. `len` is per sample.

use super::arena::{Buf, Memory};
use super::op::{Exec, Op};
use convoke_kernels::{Map, MapMut, elementwise};

/// `dst [n, len] = src [n, len]`, maps of one kind.
#[derive(Debug)]
pub(crate) struct Copy {
    pub src: Buf,
    pub dst: Buf,
    pub len: usize,
}

impl Op for Copy {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.src, self.dst]
    }

    fn run(&self, m: &mut Memory, x: &mut Exec) {
        let form = m.form(self.src);
        let [src, dst] = m.get([self.src, self.dst]);
        let len = x.n * self.len;
        let (src, dst) = (Map::of(src, form).part(0..len), MapMut::of(dst, form).first(len));
        elementwise::copy(x.cx, src, dst);
    }
}

/// `dst [n, len] += src [n, len]`, maps of one kind.
#[derive(Debug)]
pub(crate) struct AddTo {
    pub src: Buf,
    pub dst: Buf,
    pub len: usize,
}

impl Op for AddTo {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.src, self.dst]
    }

    fn run(&self, m: &mut Memory, x: &mut Exec) {
        let form = m.form(self.src);
        let [src, dst] = m.get([self.src, self.dst]);
        let len = x.n * self.len;
        let (src, dst) = (Map::of(src, form).part(0..len), MapMut::of(dst, form).first(len));
        elementwise::add_assign(x.cx, dst, src);
    }
}

/// `dst [n, len] = min(max(dst, lo), hi)`.
#[derive(Debug)]
pub(crate) struct Clamp {
    pub dst: Buf,
    pub lo: f32,
    pub hi: f32,
    pub len: usize,
}

impl Op for Clamp {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.dst]
    }

    fn run(&self, m: &mut Memory, x: &mut Exec) {
        let [dst] = m.get([self.dst]);
        elementwise::clamp(x.cx, &mut dst[..x.n * self.len], self.lo, self.hi);
    }
}
