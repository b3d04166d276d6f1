//! The samplers on standard functions: the best of 100 trials, quartiles over 30 seeds. Smaller is better.
//! `bench/tuning/optuna_functions.py` prints the same lines for Optuna.
//!
//! cargo run --release -p convoke-train --example tpe_functions [TRIALS SEEDS]

use convoke_train::tune::{Kind, Sampler, Space, State, Trial, When};
use std::f64::consts::{E, PI, TAU};

type Function = fn(&Space, &[Option<f64>]) -> f64;

const ALPHA: [f64; 4] = [1.0, 1.2, 3.0, 3.2];
const A: [[f64; 6]; 4] = [
    [10.0, 3.0, 17.0, 3.5, 1.7, 8.0],
    [0.05, 10.0, 17.0, 0.1, 8.0, 14.0],
    [3.0, 3.5, 1.7, 10.0, 17.0, 8.0],
    [17.0, 8.0, 0.05, 10.0, 0.1, 14.0],
];
const P: [[f64; 6]; 4] = [
    [1312.0, 1696.0, 5569.0, 124.0, 8283.0, 5886.0],
    [2329.0, 4135.0, 8307.0, 3736.0, 1004.0, 9991.0],
    [2348.0, 1451.0, 3522.0, 2883.0, 3047.0, 6650.0],
    [4047.0, 8828.0, 8732.0, 5743.0, 1091.0, 381.0],
];

fn numbers(p: &[Option<f64>]) -> Vec<f64> {
    p.iter().flatten().copied().collect()
}

fn sphere(_: &Space, p: &[Option<f64>]) -> f64 {
    numbers(p).iter().map(|v| v * v).sum()
}

fn rosenbrock(_: &Space, p: &[Option<f64>]) -> f64 {
    let x = numbers(p);
    100.0 * (x[1] - x[0] * x[0]).powi(2) + (1.0 - x[0]).powi(2)
}

fn branin(_: &Space, p: &[Option<f64>]) -> f64 {
    let x = numbers(p);
    let bend = x[1] - 5.1 / (4.0 * PI * PI) * x[0] * x[0] + 5.0 / PI * x[0] - 6.0;
    bend * bend + 10.0 * (1.0 - 1.0 / (8.0 * PI)) * x[0].cos() + 10.0
}

fn hartmann(_: &Space, p: &[Option<f64>]) -> f64 {
    let x = numbers(p);
    let part = |i: usize| {
        let far = (0..6).map(|j| A[i][j] * (x[j] - P[i][j] / 1e4).powi(2)).sum::<f64>();
        ALPHA[i] * (-far).exp()
    };
    -(0..4).map(part).sum::<f64>()
}

fn ackley(_: &Space, p: &[Option<f64>]) -> f64 {
    let x = numbers(p);
    let n = x.len() as f64;
    let (squares, waves) =
        (x.iter().map(|v| v * v).sum::<f64>(), x.iter().map(|v| (TAU * v).cos()).sum::<f64>());
    -20.0 * (-0.2 * (squares / n).sqrt()).exp() - (waves / n).exp() + 20.0 + E
}

fn rastrigin(_: &Space, p: &[Option<f64>]) -> f64 {
    let x = numbers(p);
    10.0 * x.len() as f64 + x.iter().map(|v| v * v - 10.0 * (TAU * v).cos()).sum::<f64>()
}

fn mixed(space: &Space, p: &[Option<f64>]) -> f64 {
    let value = |name: &str| space.value(p, name).unwrap_or(0.0);
    let kind = [1.0, 0.0, 2.0, 0.5][value("kind") as usize];
    let only = space.value(p, "only-b").map_or(0.0, |v| 4.0 * (v - 0.7).powi(2));
    (value("lr").log10() + 2.0).powi(2) + 0.2 * (value("depth") - 5.0).powi(2) + kind + only
}

fn cube(ranges: &[(f64, f64)]) -> Space {
    let mut s = Space::default();
    for (i, &(low, high)) in ranges.iter().enumerate() {
        s.add(&format!("x{i}"), Kind::Float { low, high, log: false });
    }
    s
}

fn mixed_space() -> Space {
    let mut s = Space::default();
    s.add("lr", Kind::Float { low: 1e-5, high: 1.0, log: true });
    s.add("depth", Kind::Int { low: 1, high: 8, step: 1, log: false });
    s.add("kind", Kind::Choice { of: ["a", "b", "c", "d"].map(String::from).into() });
    let when = When { name: "kind".into(), at_least: None, is: vec!["b".into()] };
    s.add_when("only-b", Kind::Float { low: 0.0, high: 1.0, log: false }, when);
    s
}

fn best(space: &Space, f: Function, sampler: Sampler, seed: u64, trials: usize) -> f64 {
    let mut history: Vec<Trial> = Vec::new();
    for n in 0..trials {
        let point = sampler.propose(space, &history, seed, n as u64);
        let value = f(space, &point);
        history.push(Trial::told(n, point, State::Done, vec![-value]));
    }
    history.iter().map(|t| -t.values[0]).fold(f64::INFINITY, f64::min)
}

fn main() {
    let args: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let (trials, seeds) =
        (args.first().copied().unwrap_or(100), args.get(1).copied().unwrap_or(30));
    let functions: [(&str, Space, Function); 7] = [
        ("sphere5", cube(&[(-5.0, 5.0); 5]), sphere),
        ("rosenbrock2", cube(&[(-2.0, 2.0); 2]), rosenbrock),
        ("branin", cube(&[(-5.0, 10.0), (0.0, 15.0)]), branin),
        ("hartmann6", cube(&[(0.0, 1.0); 6]), hartmann),
        ("ackley5", cube(&[(-5.0, 10.0); 5]), ackley),
        ("rastrigin4", cube(&[(-5.12, 5.12); 4]), rastrigin),
        ("mixed", mixed_space(), mixed),
    ];
    println!(
        "{:<12} {:<14} {:>10} {:>10} {:>10}",
        "function", "sampler", "quarter", "median", "3/4"
    );
    for (name, space, f) in &functions {
        for (told, sampler) in [("random", Sampler::Random), ("tpe", Sampler::Tpe)] {
            let seeds_of = 0..seeds as u64;
            let mut all: Vec<f64> = seeds_of.map(|s| best(space, *f, sampler, s, trials)).collect();
            all.sort_by(f64::total_cmp);
            let at = |p: f64| all[(p * (seeds - 1) as f64 + 0.5) as usize];
            println!(
                "{name:<12} {told:<14} {:>10.4} {:>10.4} {:>10.4}",
                at(0.25),
                at(0.5),
                at(0.75)
            );
        }
    }
}
