//! Preprocessing in ONNX's ops: from `image`, uint8 `[n, height, width, channels]`, to the network's input.
//!
//! Pictures are resampled by two matrix products, along the rows and then along the columns, whose weights
//! are PIL's and are made in the graph from the picture's size. On photos the result is at most 2 grey levels
//! from PIL's, where a half is rounded the other way. ONNX's own `Resize` with antialiasing is as close (at most 4
//! in ONNX Runtime 1.32), but needs opset 18, is missing in many runtimes, does not cut at fractions of a pixel
//! and knows no Lanczos.

use super::graph::{Graph, int, ints};
use crate::onnx::proto::{AttributeProto, DataType};
use convoke_data::{Filter, Preprocess};

/// Writes the preprocessing; gives the value that is the network's input.
pub(super) fn prepare(graph: &mut Graph, image: &str, pre: &Preprocess) -> String {
    let mut p = Picture { g: graph, pre };
    let sides = p.sides(image);
    let x = p.op("Transpose", "channels_first", &[image], vec![ints("perm", &[0, 3, 1, 2])]);
    let x = p.op("Cast", "pixels", &[&x], vec![to(DataType::Float)]);
    let x = p.resampled(&x, &sides, Axis::Columns);
    let x = p.resampled(&x, &sides, Axis::Rows);
    p.normalised(&x)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Axis {
    Rows,
    Columns,
}

impl Axis {
    fn name(self, what: &str) -> String {
        let axis = if self == Axis::Rows { "rows" } else { "columns" };
        format!("{axis}/{what}")
    }
}

/// The picture's height and width, as integers and as floats.
struct Sides {
    ints: [String; 2],
    floats: [String; 2],
}

struct Picture<'a> {
    g: &'a mut Graph,
    pre: &'a Preprocess,
}

impl Picture<'_> {
    fn op(
        &mut self,
        op: &str,
        name: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        self.g.node(op, &format!("image/{name}"), inputs, attributes)
    }

    fn plain(&mut self, op: &str, name: &str, inputs: &[&str]) -> String {
        self.op(op, name, inputs, vec![])
    }

    fn number(&mut self, name: &str, v: f32) -> String {
        self.g.floats(&format!("image/{name}"), &[], &[v])
    }

    fn list(&mut self, name: &str, of: &[i64]) -> String {
        self.g.ints(&format!("image/{name}"), of)
    }

    fn sides(&mut self, image: &str) -> Sides {
        let shape = self.plain("Shape", "shape", &[image]);
        let mut side = |name: &str, at: i64| {
            let at = self.list(&format!("{name}/axis"), &[at]);
            let side = self.op("Gather", name, &[&shape, &at], vec![int("axis", 0)]);
            let float =
                self.op("Cast", &format!("{name}/float"), &[&side], vec![to(DataType::Float)]);
            (side, float)
        };
        let ((h, hf), (w, wf)) = (side("height", 1), side("width", 2));
        Sides { ints: [h, w], floats: [hf, wf] }
    }

    /// How far apart the result's pixels are in the picture, and where the first pixel begins.
    fn scale(&mut self, sides: &Sides, axis: Axis) -> (String, String) {
        let (at, count) = match axis {
            Axis::Rows => (0, self.pre.height),
            Axis::Columns => (1, self.pre.width),
        };
        let count_f = self.number(&axis.name("count"), count as f32);
        let (side, side_i) = (sides.floats[at].clone(), sides.ints[at].clone());
        let name = |what: &str| axis.name(what);
        if self.pre.short_side > 0 {
            // The short side becomes that many pixels, the long one is rounded down; the middle is cut
            // out, half pixels to even.
            let wanted = self.list(&name("short_side"), &[self.pre.short_side as i64]);
            let [h, w] = &sides.ints;
            let short = self.plain("Min", &name("shorter"), &[h, w]);
            let long = self.plain("Mul", &name("product"), &[&side_i, &wanted]);
            let sized = self.plain("Div", &name("sized"), &[&long, &short]);
            let sized = self.op("Cast", &name("size"), &[&sized], vec![to(DataType::Float)]);
            let scale = self.plain("Div", &name("scale"), &[&side, &sized]);
            let rest = self.plain("Sub", &name("rest"), &[&sized, &count_f]);
            let two = self.number(&name("two"), 2.0);
            let half = self.plain("Div", &name("half"), &[&rest, &two]);
            let first = self.plain("Round", &name("first"), &[&half]);
            let begin = self.plain("Mul", &name("begin"), &[&first, &scale]);
            return (scale, begin);
        }
        if self.pre.crop <= 0.0 {
            let scale = self.plain("Div", &name("scale"), &[&side, &count_f]);
            return (scale, self.number(&name("begin"), 0.0));
        }
        let each = [("high", self.pre.height), ("wide", self.pre.width)];
        let [high, wide] = [0, 1].map(|i| {
            let (what, count) = each[i];
            let count = self.number(&name(&format!("{what}/count")), count as f32);
            self.plain("Div", &name(what), &[&sides.floats[i], &count])
        });
        let largest = self.plain("Min", &name("largest"), &[&high, &wide]);
        let crop = self.number(&name("crop"), self.pre.crop);
        let scale = self.plain("Mul", &name("scale"), &[&largest, &crop]);
        let seen = self.plain("Mul", &name("seen"), &[&scale, &count_f]);
        let rest = self.plain("Sub", &name("rest"), &[&side, &seen]);
        let two = self.number(&name("two"), 2.0);
        (scale, self.plain("Div", &name("begin"), &[&rest, &two]))
    }

    /// Resampled along one axis to the network's size, in whole grey levels as PIL has them.
    fn resampled(&mut self, x: &str, sides: &Sides, axis: Axis) -> String {
        let (scale, begin) = self.scale(sides, axis);
        let (count, side) = match axis {
            Axis::Rows => (self.pre.height, sides.floats[0].clone()),
            Axis::Columns => (self.pre.width, sides.floats[1].clone()),
        };
        let name = |what: &str| axis.name(what);
        // Centres of the result's pixels in the picture. Weights are [result, picture] for rows, which
        // are multiplied from the left, and the other way round for columns.
        let halves: Vec<f32> = (0..count).map(|i| i as f32 + 0.5).collect();
        let shape = if axis == Axis::Rows { [count, 1] } else { [1, count] };
        let halves = self.g.floats(&format!("image/{}", name("halves")), &shape, &halves);
        let spread = self.plain("Mul", &name("spread"), &[&halves, &scale]);
        let centres = self.plain("Add", &name("centres"), &[&spread, &begin]);
        if self.pre.filter == Filter::Nearest {
            return self.nearest(x, &centres, axis);
        }
        let none = self.list(&name("none"), &[]);
        let end = self.plain("Reshape", &name("end"), &[&side, &none]);
        let (zero, one) = (self.number(&name("zero"), 0.0), self.number(&name("one"), 1.0));
        let places = self.plain("Range", &name("range"), &[&zero, &end, &one]);
        let half = self.number(&name("half_pixel"), 0.5);
        let places = self.plain("Add", &name("places"), &[&places, &half]);
        let line = self.list(&name("line"), if axis == Axis::Rows { &[1, -1] } else { &[-1, 1] });
        let places = self.plain("Reshape", &name("places_line"), &[&places, &line]);
        let apart = self.plain("Sub", &name("apart"), &[&places, &centres]);
        let apart = self.plain("Abs", &name("distance"), &[&apart]);
        // Shrinking, the filter is as wide as what becomes one pixel.
        let wide = self.plain("Max", &name("wide"), &[&scale, &one]);
        let d = self.plain("Div", &name("taps"), &[&apart, &wide]);
        let weights = self.filter(&d, &one, &zero, axis);
        let along = self.list(&name("along"), &[if axis == Axis::Rows { 1 } else { 0 }]);
        let sums = self.plain("ReduceSum", &name("sums"), &[&weights, &along]);
        let weights = self.plain("Div", &name("weights"), &[&weights, &sums]);
        let factors: [&str; 2] = if axis == Axis::Rows { [&weights, x] } else { [x, &weights] };
        let product = self.plain("MatMul", &name("resampled"), &factors);
        // Halves go up, as PIL rounds; ONNX's `Round` takes them to even.
        let up = self.plain("Add", &name("up"), &[&product, &half]);
        let whole = self.plain("Floor", &name("whole"), &[&up]);
        let white = self.number(&name("white"), 255.0);
        self.plain("Clip", &name("levels"), &[&whole, &zero, &white])
    }

    /// The pixel in which each centre lies.
    fn nearest(&mut self, x: &str, centres: &str, axis: Axis) -> String {
        let name = |what: &str| axis.name(what);
        let at = self.plain("Floor", &name("pixel"), &[centres]);
        let at = self.op("Cast", &name("index"), &[&at], vec![to(DataType::Int64)]);
        let list = self.list(&name("list"), &[-1]);
        let at = self.plain("Reshape", &name("indices"), &[&at, &list]);
        let axis_number = if axis == Axis::Rows { 2 } else { 3 };
        self.op("Gather", &name("picked"), &[x, &at], vec![int("axis", axis_number)])
    }

    /// The filter at distances from its centre.
    fn filter(&mut self, d: &str, one: &str, zero: &str, axis: Axis) -> String {
        let name = |what: &str| axis.name(what);
        match self.pre.filter {
            Filter::Nearest | Filter::Bilinear => {
                let slope = self.plain("Sub", &name("slope"), &[one, d]);
                self.plain("Relu", &name("triangle"), &[&slope])
            }
            // Keys 1981 with a = −1/2.
            Filter::Bicubic => {
                let near = self.polynomial(d, &name("near"), &[1.5, -2.5, 0.0, 1.0]);
                let far = self.polynomial(d, &name("far"), &[-0.5, 2.5, -4.0, 2.0]);
                let far = self.within(d, 2.0, &far, zero, &name("far"));
                self.within(d, 1.0, &near, &far, &name("cubic"))
            }
            // sin(πd)/(πd) · sin(πd/3)/(πd/3); at 0 both are 1, which the smallest angle gives too.
            Filter::Lanczos => {
                let lobe = |p: &mut Self, what: &str, factor: f32| {
                    let factor = p.number(&name(&format!("{what}/factor")), factor);
                    let angle = p.plain("Mul", &name(&format!("{what}/angle")), &[d, &factor]);
                    let least = p.number(&name(&format!("{what}/least")), 1e-6);
                    let angle = p.plain("Max", &name(&format!("{what}/safe")), &[&angle, &least]);
                    let sine = p.plain("Sin", &name(&format!("{what}/sine")), &[&angle]);
                    p.plain("Div", &name(what), &[&sine, &angle])
                };
                let pi = std::f32::consts::PI;
                let (inner, outer) = (lobe(self, "sinc", pi), lobe(self, "window", pi / 3.0));
                let product = self.plain("Mul", &name("lobes"), &[&inner, &outer]);
                self.within(d, 3.0, &product, zero, &name("lanczos"))
            }
        }
    }

    /// A polynomial of `d`, the highest power first.
    fn polynomial(&mut self, d: &str, name: &str, factors: &[f32]) -> String {
        let mut sum = self.number(&format!("{name}/a"), factors[0]);
        for &factor in &factors[1..] {
            let product = self.plain("Mul", &format!("{name}/product"), &[&sum, d]);
            let factor = self.number(&format!("{name}/factor"), factor);
            sum = self.plain("Add", &format!("{name}/sum"), &[&product, &factor]);
        }
        sum
    }

    /// `inside` where `d < bound`, else `outside`.
    fn within(&mut self, d: &str, bound: f32, inside: &str, outside: &str, name: &str) -> String {
        let bound = self.number(&format!("{name}/bound"), bound);
        let near = self.plain("Less", &format!("{name}/within"), &[d, &bound]);
        self.plain("Where", name, &[&near, inside, outside])
    }

    /// `(level / 255 − mean) / std`, blue first where the network wants it so.
    fn normalised(&mut self, x: &str) -> String {
        let mut x = x.to_string();
        if self.pre.bgr {
            let order = self.list("blue_first/order", &[2, 1, 0]);
            x = self.op("Gather", "blue_first", &[&x, &order], vec![int("axis", 1)]);
        }
        let white = self.number("white", 255.0);
        let shares = self.plain("Div", "shares", &[&x, &white]);
        let shape = [self.pre.channels, 1, 1];
        let mean = self.g.floats("image/mean", &shape, &self.pre.mean);
        let std = self.g.floats("image/std", &shape, &self.pre.std);
        let centred = self.plain("Sub", "centred", &[&shares, &mean]);
        self.plain("Div", "normalised", &[&centred, &std])
    }
}

fn to(t: DataType) -> AttributeProto {
    int("to", i64::from(i32::from(t)))
}
