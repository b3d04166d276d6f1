"""Optuna's TPE and random search on standard functions: the best of 100 trials, quartiles over 30 seeds.

    pip install optuna
    python bench/tuning/optuna_functions.py
    cargo run --release -p convoke-train --example tpe_functions      # convoke's, the same lines

Smaller is better. `mixed` has a log scale, whole numbers, words and a dimension that is not always there.
"""

import math
import sys

import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)

H_ALPHA = [1.0, 1.2, 3.0, 3.2]
H_A = [
    [10, 3, 17, 3.5, 1.7, 8],
    [0.05, 10, 17, 0.1, 8, 14],
    [3, 3.5, 1.7, 10, 17, 8],
    [17, 8, 0.05, 10, 0.1, 14],
]
H_P = [
    [1312, 1696, 5569, 124, 8283, 5886],
    [2329, 4135, 8307, 3736, 1004, 9991],
    [2348, 1451, 3522, 2883, 3047, 6650],
    [4047, 8828, 8732, 5743, 1091, 381],
]


def hartmann6(x):
    return -sum(
        H_ALPHA[i] * math.exp(-sum(H_A[i][j] * (x[j] - H_P[i][j] / 1e4) ** 2 for j in range(6)))
        for i in range(4)
    )


def branin(x):
    a, b = x
    return (
        (b - 5.1 / (4 * math.pi**2) * a * a + 5 / math.pi * a - 6) ** 2
        + 10 * (1 - 1 / (8 * math.pi)) * math.cos(a)
        + 10
    )


def ackley(x):
    n = len(x)
    return (
        -20 * math.exp(-0.2 * math.sqrt(sum(v * v for v in x) / n))
        - math.exp(sum(math.cos(2 * math.pi * v) for v in x) / n)
        + 20
        + math.e
    )


def box(f, ranges):
    return lambda t: f([t.suggest_float(f"x{i}", a, b) for i, (a, b) in enumerate(ranges)])


def mixed(t):
    lr = t.suggest_float("lr", 1e-5, 1.0, log=True)
    depth = t.suggest_int("depth", 1, 8)
    kind = t.suggest_categorical("kind", ["a", "b", "c", "d"])
    value = (math.log10(lr) + 2) ** 2 + 0.2 * (depth - 5) ** 2 + {"a": 1.0, "b": 0.0, "c": 2.0, "d": 0.5}[kind]
    if kind == "b":
        value += 4 * (t.suggest_float("only-b", 0.0, 1.0) - 0.7) ** 2
    return value


FUNCTIONS = {
    "sphere5": box(lambda x: sum(v * v for v in x), [(-5, 5)] * 5),
    "rosenbrock2": box(lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2, [(-2, 2)] * 2),
    "branin": box(branin, [(-5, 10), (0, 15)]),
    "hartmann6": box(hartmann6, [(0, 1)] * 6),
    "ackley5": box(ackley, [(-5, 10)] * 5),
    "rastrigin4": box(
        lambda x: 10 * len(x) + sum(v * v - 10 * math.cos(2 * math.pi * v) for v in x), [(-5.12, 5.12)] * 4
    ),
    "mixed": mixed,
}


def main(trials=100, seeds=30):
    print(f"{'function':<12} {'sampler':<14} {'quarter':>10} {'median':>10} {'3/4':>10}")
    for name, f in FUNCTIONS.items():
        for told, make in [
            ("optuna random", lambda s: optuna.samplers.RandomSampler(seed=s)),
            ("optuna tpe", lambda s: optuna.samplers.TPESampler(seed=s, group=True)),
        ]:
            best = []
            for seed in range(seeds):
                study = optuna.create_study(sampler=make(seed))
                study.optimize(f, n_trials=trials)
                best.append(study.best_value)
            best.sort()
            q = [best[int(p * (seeds - 1) + 0.5)] for p in (0.25, 0.5, 0.75)]
            print(f"{name:<12} {told:<14} {q[0]:>10.4f} {q[1]:>10.4f} {q[2]:>10.4f}", flush=True)


if __name__ == "__main__":
    import warnings

    warnings.filterwarnings("ignore")
    main(*map(int, sys.argv[1:]))
