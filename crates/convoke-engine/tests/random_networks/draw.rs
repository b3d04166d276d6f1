//! Random networks: layers, shapes, strides, paddings, branches.

use convoke_engine::layers::*;
use convoke_engine::{Builder, Hw, Network, NodeId, Padding, Shape};

/// SplitMix64 (Steele et al. 2014).
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// In ±1.
    pub fn number(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn numbers(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.number()).collect()
    }
}

/// Largest map and most multiply-adds of a sample: definitions on a tape are slow.
const LARGEST: usize = 3000;
const MACS: u64 = 150_000;

struct Drawing<'a> {
    r: &'a mut Rng,
    b: Builder,
    places: Vec<(NodeId, Shape)>,
    /// Places that no layer reads yet.
    leaves: Vec<NodeId>,
}

pub fn network(r: &mut Rng) -> Network {
    loop {
        let drawn = draw(r);
        if drawn.macs() <= MACS {
            return drawn;
        }
    }
}

fn draw(r: &mut Rng) -> Network {
    let height = if r.chance(15) { 1 } else { 1 + r.below(13) };
    let input = Shape::new(height, 1 + r.below(14), r.of(&[1, 2, 3, 3, 4, 5, 8, 16]));
    let b = Builder::new("random", input);
    let start = b.here();
    let mut d = Drawing { r, b, places: vec![(start, input)], leaves: vec![start] };
    for _ in 0..2 + d.r.below(10) {
        d.block();
    }
    d.finish()
}

impl Drawing<'_> {
    fn shape(&self, id: NodeId) -> Shape {
        self.places.iter().find(|p| p.0 == id).unwrap().1
    }

    /// Adds a layer where its shape rule allows it and the map stays small.
    fn put(&mut self, layer: impl Into<Layer>, inputs: &[NodeId]) -> Option<NodeId> {
        let layer = layer.into();
        let shapes: Vec<Shape> = inputs.iter().map(|&i| self.shape(i)).collect();
        let shape =
            layer.output("drawn", &shapes).ok().filter(|s| (1..=LARGEST).contains(&s.len()))?;
        self.b.join(layer, inputs);
        let id = self.b.here();
        self.places.push((id, shape));
        self.leaves.retain(|l| !inputs.contains(l));
        self.leaves.push(id);
        Some(id)
    }

    fn window(&mut self) -> Hw {
        self.r.of(&[[1, 1], [1, 1], [3, 3], [3, 3], [5, 5], [2, 3], [1, 3], [7, 7], [4, 1]]).into()
    }

    fn padding(&mut self) -> Padding {
        let sides = |r: &mut Rng| r.below(3);
        match self.r.below(6) {
            0..3 => Padding::Same,
            3 => Padding::Valid,
            4 => Padding::symmetric([self.r.below(3), self.r.below(3)]),
            _ => {
                let r = &mut *self.r;
                Padding::Explicit {
                    top: sides(r),
                    bottom: sides(r),
                    left: sides(r),
                    right: sides(r),
                }
            }
        }
    }

    fn conv(&mut self, c: usize) -> Conv {
        let filters = self.r.of(&[1, 2, 3, 5, 8, 12, 15, 16, 17, 24, 32, 33]);
        let mut conv = Conv::new(filters, self.window());
        conv.stride = self.r.of(&[[1, 1], [1, 1], [1, 1], [2, 2], [1, 2], [3, 3]]).into();
        conv.padding = self.padding();
        if self.r.chance(15) {
            conv.dilation = self.r.of(&[[2, 2], [1, 2], [3, 1]]).into();
        }
        conv.bias = self.r.chance(50);
        match self.r.below(10) {
            0 | 1 => Conv { filters: 0, groups: 0, ..conv },
            2 => {
                let groups = self.r.of(&[2, 3, 4]);
                if c.is_multiple_of(groups) {
                    Conv { groups, filters: groups * (1 + self.r.below(9)), ..conv }
                } else {
                    conv
                }
            }
            _ => conv,
        }
    }

    fn activation(&mut self) -> Layer {
        match self.r.below(12) {
            0..4 => Relu::default().into(),
            4 => Relu { max: Some(0.5) }.into(),
            5 => LeakyRelu { slope: 0.1 }.into(),
            6 => Sigmoid {}.into(),
            7 => Tanh {}.into(),
            8 => HardSigmoid {}.into(),
            9 => HardSwish {}.into(),
            10 => Silu {}.into(),
            _ => Gelu {}.into(),
        }
    }

    /// One to three layers behind some place.
    fn block(&mut self) -> Option<()> {
        let last = self.places.last().unwrap().0;
        let at =
            if self.r.chance(75) { last } else { self.places[self.r.below(self.places.len())].0 };
        let s = self.shape(at);
        match self.r.below(24) {
            0..9 => {
                let conv = self.conv(s.c);
                let mut y = self.put(conv, &[at])?;
                if self.r.chance(60) {
                    y = self.put(BatchNorm::default(), &[y])?;
                }
                if self.r.chance(40) {
                    y = self.sum(y, s, at)?;
                }
                if self.r.chance(60) {
                    let f = self.activation();
                    self.put(f, &[y])?;
                }
            }
            9 => {
                let (w, padding) = (self.window(), self.padding());
                let pool = MaxPool::new(w).stride(self.r.of(&[1, 2, 3])).padding(padding);
                self.put(pool, &[at])?;
            }
            10 => {
                let (w, padding) = (self.window(), self.padding());
                let mut pool = MeanPool::new(w).stride(self.r.of(&[1, 2])).padding(padding);
                pool.count_padding = self.r.chance(50);
                self.put(pool, &[at])?;
            }
            11 => {
                let size = [1 + self.r.below(4), 1 + self.r.below(4)].into();
                self.put(AdaptiveMeanPool { size }, &[at])?;
            }
            12 => {
                self.put(LayerNorm::default(), &[at])?;
            }
            13 => {
                let size = self.r.of(&[1, 3, 4, 5]);
                self.put(LocalResponseNorm { size, alpha: 0.5, beta: 0.75, k: 1.5 }, &[at])?;
            }
            14 => {
                let f = self.activation();
                self.put(f, &[at])?;
            }
            15 => {
                let other = self.alike(at, |a, b| (a.h, a.w) == (b.h, b.w))?;
                self.put(Concat {}, &[at, other])?;
            }
            16 => {
                let mean = self.put(GlobalMeanPool {}, &[at])?;
                let dense = self.put(Conv::new(s.c, 1), &[mean])?;
                let gate = self.put(Sigmoid {}, &[dense])?;
                self.put(Gate {}, &[at, gate])?;
            }
            17 => {
                self.put(Scale { first: 0.7 }, &[at])?;
            }
            18 => {
                let start = self.r.below(s.c);
                let channels = 1 + self.r.below(s.c - start);
                self.put(Slice { start, channels }, &[at])?;
            }
            19 => {
                let groups = self.r.of(&[2, 3, 4]);
                self.put(ChannelShuffle { groups }, &[at])?;
            }
            20 => {
                let stride = self.r.of(&[1, 2]).into();
                let channels = s.c + self.r.below(5);
                self.put(Shortcut { stride, channels }, &[at])?;
            }
            21 => {
                let factor = self.r.of(&[[1, 2], [2, 2], [2, 1]]);
                self.put(Upsample::new(factor), &[at])?;
            }
            22 => {
                let axis = self.r.of(&[Axis::H, Axis::W, Axis::C]);
                let step = self.r.of(&[1, 1, 2, -1]);
                let start = if step < 0 { 3 } else { self.r.below(4) as i64 - 2 };
                let size = 1 + self.r.below(8);
                self.put(Take { axis, start, step, size }, &[at])?;
            }
            _ => {
                let fits = |a: Shape, b: Shape| {
                    [(a.h, b.h), (a.w, b.w), (a.c, b.c)]
                        .iter()
                        .all(|&(a, b)| a == b || a == 1 || b == 1)
                };
                let other = self.alike(at, fits)?;
                let by = self.r.of(&[
                    CombineKind::Add,
                    CombineKind::Subtract,
                    CombineKind::Multiply,
                    CombineKind::Max,
                ]);
                self.put(Combine { by }, &[at, other])?;
            }
        }
        Some(())
    }

    /// Another place whose shape fits.
    fn alike(&mut self, at: NodeId, fits: impl Fn(Shape, Shape) -> bool) -> Option<NodeId> {
        let s = self.shape(at);
        let all: Vec<NodeId> =
            self.places.iter().filter(|p| p.0 != at && fits(p.1, s)).map(|p| p.0).collect();
        (!all.is_empty()).then(|| self.r.of(&all))
    }

    /// `y` and a place of its shape, which is made of `from` where there is none.
    fn sum(&mut self, y: NodeId, from_shape: Shape, from: NodeId) -> Option<NodeId> {
        let s = self.shape(y);
        if let Some(other) = self.alike(y, |a, b| a == b) {
            return self.put(Add {}, &[y, other]);
        }
        if (s.h, s.w) != (from_shape.h, from_shape.w) {
            return Some(y);
        }
        let other = self.put(Conv::new(s.c, 1), &[from])?;
        self.put(Add {}, &[y, other])
    }

    /// Every place that nothing reads goes into the output.
    fn finish(mut self) -> Network {
        let mut ends = Vec::new();
        for leaf in self.leaves.clone() {
            let s = self.shape(leaf);
            let end = if s.len() <= 400 && self.r.chance(60) {
                self.put(Flatten {}, &[leaf])
            } else {
                self.put(GlobalMeanPool {}, &[leaf])
            };
            ends.push(end.unwrap());
        }
        let all = if ends.len() > 1 { self.put(Concat {}, &ends).unwrap() } else { ends[0] };
        let all =
            if self.r.chance(30) { self.put(Dropout { rate: 0.0 }, &[all]).unwrap() } else { all };
        let units = 2 + self.r.below(8);
        self.put(Dense::new(units), &[all]).unwrap();
        self.b.build().unwrap()
    }
}
