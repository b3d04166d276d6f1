//! Random networks: what the compiled plan computes, forward and backward, beside the layers' definitions in f64, for
//! every instruction set that the machine has, several threads, precisions and ways of planning.
//!
//! Fifty networks by default. `CONVOKE_NETWORKS=1000 cargo test --release -p convoke-engine --test random_networks`
//! tries more; `CONVOKE_SEED` begins elsewhere. A failure names its seed.

mod draw;
mod plain;
mod tape;

use convoke_engine::{
    Loss, Network, NodeId, Optimizer, Plan, PlanOptions, Precision, Session, Watch,
};
use convoke_kernels::Isa;
use draw::Rng;
use plain::Plain;
use std::collections::HashMap;
use tape::Tape;

/// Decisions that rounding can turn make gradients jump: such inputs are drawn again.
const MARGIN: f64 = 1e-5;

/// Beyond the bounds, a plan may be off by this many times what rounding moves the definitions by.
const TIMES: f64 = 4.0;

/// One network with all that it needs, and what it should give.
struct Case {
    net: Network,
    n: usize,
    params: Vec<f32>,
    state: Vec<f32>,
    input: Vec<f32>,
    labels: Vec<u32>,
    smoothing: f32,
    want: Given,
}

/// What a prediction gives, and what a training step does.
#[derive(Default)]
struct Given {
    outputs: Vec<f64>,
    loss: f64,
    grads: Vec<f64>,
    state: Vec<f64>,
}

fn case(seed: u64) -> Option<Case> {
    let mut r = Rng(seed.wrapping_mul(0xD134_2543_DE82_EF95));
    let net = draw::network(&mut r);
    let n = 1 + r.below(5);
    let loss = Loss::SoftmaxCrossEntropy { label_smoothing: 0.0 };
    let plan = Plan::compile(&net, &PlanOptions::train(n, 1, loss, sgd())).unwrap();
    let mut s = Session::new(plan).unwrap();
    s.init(seed);
    let params: Vec<f32> = s.params().iter().map(|p| p + 0.1 * r.number()).collect();
    // Variances are above zero, means around it.
    let mut state = vec![0.0; s.state().len()];
    for p in net.state() {
        let variance = p.spec.name == "running_var";
        state[p.range].iter_mut().for_each(|v| {
            *v = if variance { 1.0 + 0.5 * r.number() } else { 0.3 * r.number() };
        });
    }
    let classes = net.output_shape().len();
    let labels = (0..n).map(|_| r.below(classes) as u32).collect();
    let smoothing = r.of(&[0.0, 0.1]);
    let mut case =
        Case { net, n, params, state, input: vec![], labels, smoothing, want: Given::default() };
    for _ in 0..8 {
        case.input = r.numbers(n * case.net.input_shape().len());
        let (want, margin) = case.defined(0.0, 0);
        if margin >= MARGIN {
            case.want = want;
            return Some(case);
        }
    }
    None
}

fn sgd() -> Optimizer {
    Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 }
}

impl Case {
    /// What the definitions give, and how near their nearest decision is.
    fn defined(&self, rounding: f64, seed: u64) -> (Given, f64) {
        let (p, near) = self.pass(false, rounding, seed);
        let (t, nearer) = self.pass(true, rounding, seed);
        (Given { outputs: p.outputs, ..t }, near.min(nearer))
    }

    fn pass(&self, training: bool, rounding: f64, seed: u64) -> (Given, f64) {
        let mut tape = Tape::new(rounding, seed);
        let (input, params) = (tape.leaves(&self.input), tape.leaves(&self.params));
        let mut plain = Plain {
            tape: &mut tape,
            net: &self.net,
            params: &params,
            state: &self.state,
            n: self.n,
            training,
            statistics: Vec::new(),
        };
        let maps = plain.run(&input);
        let logits = &maps[self.net.output().index()];
        let loss = plain.loss(logits, &self.labels, f64::from(self.smoothing));
        let batch = plain.statistics;
        let state = self.state.iter().zip(batch).map(|(s, b)| 0.9 * f64::from(*s) + 0.1 * b);
        let all = tape.gradients(loss);
        let given = Given {
            outputs: tape.values(&logits.vars),
            loss: tape.value(loss),
            grads: params.iter().map(|&p| all[p as usize]).collect(),
            state: state.collect(),
        };
        (given, tape.margin)
    }

    /// How far rounding what they are given, and each derivative, moves the definitions. A batch norm of equal numbers
    /// multiplies derivatives by 316, three in a row by 3e7: where these cancel in a sum, their rounding is what
    /// remains. Maps are not rounded, for in a plan, too, equal numbers stay equal.
    fn moved(&self, precision: Precision, distance: Distance) -> f64 {
        let rounding = match precision {
            Precision::F32 | Precision::F32Direct => 2f64.powi(-24),
            Precision::Bf16 => 2f64.powi(-9),
            Precision::Int8 => 2f64.powi(-8),
        };
        let moved = |seed| distance(&self.defined(rounding, seed).0, &self.want);
        (0..16).map(moved).fold(0.0, f64::max)
    }

    fn session(&self, options: &PlanOptions) -> Session {
        let mut s = Session::new(Plan::compile(&self.net, options).unwrap()).unwrap();
        s.set_params(&self.params).unwrap();
        s.set_state(&self.state).unwrap();
        s.input_mut().copy_from_slice(&self.input);
        s
    }

    fn predict(&self, options: &PlanOptions) -> Vec<f32> {
        self.session(options).predict(self.n).unwrap().to_vec()
    }

    /// Loss, gradients and running statistics of a training step.
    fn train(&self, options: PlanOptions) -> (f32, Vec<f32>, Vec<f32>) {
        let mut s = self.session(&options);
        s.labels_mut().copy_from_slice(&self.labels);
        let loss = s.backward().unwrap().loss;
        (loss, s.grads().to_vec(), s.state().to_vec())
    }

    /// Bits of the weights after two steps.
    fn two_steps(&self, options: PlanOptions) -> Vec<u32> {
        let mut s = self.session(&options);
        s.labels_mut().copy_from_slice(&self.labels);
        for _ in 0..2 {
            s.step(0.01).unwrap();
        }
        s.params().iter().map(|p| p.to_bits()).collect()
    }

    fn train_options(&self, threads: usize) -> PlanOptions {
        let loss = Loss::SoftmaxCrossEntropy { label_smoothing: self.smoothing };
        PlanOptions::train(self.n, threads, loss, sgd())
    }

    fn keeps_all(&self) -> Vec<NodeId> {
        self.net.iter().map(|(id, _)| id).collect()
    }
}

type Distance = fn(&Given, &Given) -> f64;

/// Distance in units of the length of what is wanted.
fn off(got: &[f64], want: &[f64]) -> f64 {
    let length = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>().sqrt();
    let apart = length(&mut got.iter().zip(want).map(|(g, w)| g - w));
    let size = length(&mut want.iter().copied());
    // Not a number counts as far off.
    if apart.is_finite() { apart / (size + 1e-6) } else { f64::INFINITY }
}

fn wide(v: &[f32]) -> Vec<f64> {
    v.iter().copied().map(f64::from).collect()
}

/// How far off networks may be: half of them, 99 of 100, and the worst. Where sums nearly cancel the narrow numbers of
/// bf16 leave nothing of a gradient, so its worst only has to be finite.
struct Bound {
    median: f64,
    most: f64,
    worst: f64,
}

fn bound(precision: Precision, gradients: bool) -> Bound {
    let (median, most, worst) = match (precision, gradients) {
        (Precision::F32 | Precision::F32Direct, false) => (5e-7, 2e-6, 2e-5),
        (Precision::F32 | Precision::F32Direct, true) => (5e-7, 1e-5, 1e-3),
        (Precision::Bf16, false) => (1e-2, 5e-2, 0.1),
        (Precision::Bf16, true) => (1e-2, 0.3, f64::MAX),
        (Precision::Int8, _) => (2e-2, 0.1, 0.3),
    };
    Bound { median, most, worst }
}

/// What was found in all networks.
#[derive(Default)]
struct Found {
    /// What is wrong with the network at hand.
    wrong: Vec<String>,
    /// All distances, by precision and whether they are of gradients.
    off: HashMap<(Precision, bool), Vec<f64>>,
    /// How many distances were beyond the bound, as the definitions are when rounded; not among those above.
    rounding: usize,
}

impl Found {
    fn note(&mut self, case: &Case, o: &PlanOptions, what: &str, got: &Given, distance: Distance) {
        let (precision, gradients) = (o.precision, what != "outputs");
        let off = distance(got, &case.want);
        if off <= bound(precision, gradients).worst {
            self.off.entry((precision, gradients)).or_default().push(off);
            return;
        }
        let moved = case.moved(precision, distance);
        if off < TIMES * moved {
            self.rounding += 1;
        } else {
            let what = format!("{what} off by {off:.1e}, the definitions by {moved:.1e}");
            self.wrong.push(format!("{}: {what}", told(o)));
        }
    }
}

/// Ways to plan the same, in f32 and bf16.
fn ways(case: &Case, base: &PlanOptions, r: &mut Rng) -> Vec<PlanOptions> {
    let mut all = Vec::new();
    for isa in Isa::available() {
        for precision in [Precision::F32, Precision::F32Direct, Precision::Bf16] {
            // What is kept is not fused away.
            let keep = if r.chance(50) { case.keeps_all() } else { vec![] };
            let lanes = r.of(&[None, Some(true), Some(false)]);
            all.push(PlanOptions { isa: Some(isa), precision, keep, lanes, ..base.clone() });
        }
    }
    all
}

/// Prediction in integers, where the network has a layer for them.
fn integers(case: &Case, base: &PlanOptions) -> Option<PlanOptions> {
    let mut watch = Watch::new(&case.net);
    let mut s = case.session(&watch.options(case.n, 1));
    s.predict(case.n).unwrap();
    watch.add(&s, case.n);
    let ranges = watch.ranges(&case.net);
    let precision = Precision::Int8;
    (ranges.iter().count() > 0).then(|| PlanOptions { precision, ranges, ..base.clone() })
}

fn told(o: &PlanOptions) -> String {
    format!("{:?} {:?} lanes {:?} kept {}", o.isa, o.precision, o.lanes, o.keep.len())
}

fn check(case: &Case, r: &mut Rng, found: &mut Found) {
    let base = PlanOptions::predict(case.n, 1);
    let mut all = ways(case, &base, r);
    all.extend(integers(case, &base));
    for options in all {
        let one = case.predict(&options);
        let got = Given { outputs: wide(&one), ..Given::default() };
        found.note(case, &options, "outputs", &got, |g, w| off(&g.outputs, &w.outputs));
        for threads in [2, 3] {
            if one != case.predict(&PlanOptions { threads, ..options.clone() }) {
                let what = format!("{}: {threads} threads give other bits", told(&options));
                found.wrong.push(what);
            }
        }
    }
    for options in ways(case, &case.train_options(1), r) {
        let one = case.train(options.clone());
        trained(case, &options, &one, found);
        let sparing = PlanOptions { least: 1, keep_grads: false, ..options.clone() };
        let lavish = PlanOptions { least: usize::MAX, ..options.clone() };
        if case.two_steps(lavish) != case.two_steps(sparing) {
            let what = format!("{}: sparing memory trains to other bits", told(&options));
            found.wrong.push(what);
        }
        for threads in [2, 3] {
            if one != case.train(PlanOptions { threads, ..options.clone() }) {
                let what = format!("{}: {threads} threads train to other bits", told(&options));
                found.wrong.push(what);
            }
        }
    }
}

fn trained(case: &Case, o: &PlanOptions, one: &(f32, Vec<f32>, Vec<f32>), found: &mut Found) {
    let (loss, grads, state) = (f64::from(one.0), wide(&one.1), wide(&one.2));
    let got = Given { outputs: vec![], loss, grads, state };
    found.note(case, o, "loss", &got, |g, w| (g.loss - w.loss).abs() / w.loss.max(0.1));
    found.note(case, o, "gradients", &got, |g, w| off(&g.grads, &w.grads));
    found.note(case, o, "running statistics", &got, |g, w| off(&g.state, &w.state));
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |v| v.parse().expect("a number"))
}

#[test]
fn plans_give_what_the_definitions_give() {
    let (count, first) = (number("CONVOKE_NETWORKS", 50), number("CONVOKE_SEED", 0));
    let (mut tried, mut near, mut wrong) = (0, 0, Vec::new());
    let mut found = Found::default();
    for seed in first.. {
        if tried == count {
            break;
        }
        let Some(case) = case(seed) else {
            near += 1;
            continue;
        };
        tried += 1;
        check(&case, &mut Rng(seed), &mut found);
        if !found.wrong.is_empty() {
            let layers = case.net.nodes().iter().filter_map(|n| n.layer.as_ref());
            let kinds: Vec<&str> = layers.map(|l| l.kind()).collect();
            let lines = std::mem::take(&mut found.wrong).join("\n  ");
            wrong.push(format!("seed {seed}, batch {}, {kinds:?}:\n  {lines}", case.n));
        }
    }
    println!("{tried} networks; {near} more had decisions too near to call");
    println!("{} distances are beyond the bound by rounding alone", found.rounding);
    for ((precision, gradients), mut all) in found.off {
        all.sort_by(f64::total_cmp);
        let at = |share: f64| all[((all.len() - 1) as f64 * share) as usize];
        let (median, most, worst) = (at(0.5), at(0.99), at(1.0));
        let what = if gradients { "training" } else { "outputs" };
        let line = format!(
            "{precision:?} {what}: {} off by {median:.1e}, 99 of 100 by {most:.1e}, at most {worst:.1e}",
            all.len()
        );
        println!("{line}");
        let bound = bound(precision, gradients);
        if median > bound.median || most > bound.most {
            wrong.push(line);
        }
    }
    assert!(wrong.is_empty(), "{} are wrong\n{}", wrong.len(), wrong.join("\n"));
}
