"""Whether convoke fell behind itself: its speed as a share of the multiply-add loop timed in the same process,
for a few kernels and networks, beside the shares kept for this processor. Under a minute.

Usage: python bench/regress.py [--keep] [--threads 2] [--rounds 3]

Prints what fell by more than a tenth, and then ends with status 1; `--keep` writes the shares to baseline.json
instead. Needs `cargo build --release`, for the kernels also
`cargo build --release -p convoke-kernels --example conv_speed`.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
CONVOKE = pathlib.Path(os.environ.get("CONVOKE", HERE.parent / "target/release/convoke"))
KERNELS = CONVOKE.parent / "examples/conv_speed"
BASELINE = HERE / "baseline.json"
FELL = 0.9

NETS = [  # name, mode, batch
    ("lenet5", "train", 64), ("lenet5", "infer", 64), ("resnet20", "train", 128), ("resnet18", "train", 8),
    ("resnet18", "infer", 8), ("resnet18", "infer", 1), ("mobilenet-v2", "train", 8), ("mobilenet-v2", "infer", 8),
]
# Lines of conv_speed, each with its forward, backward-data and backward-weights walk.
CONVOLUTIONS = ["7x7/2 224x224x3 -> 64", "3x3/1 28x28x128 -> 128", "1x1/1 56x56x64 -> 256", "3x3/1 32x32x16 -> 16"]


def processor(threads):
    """Its name alone does not tell generations apart where a hypervisor shortens it."""
    if not os.path.exists("/proc/cpuinfo"):
        import platform

        return f"{platform.processor() or platform.machine()}, {threads} threads"
    with open("/proc/cpuinfo") as f:
        lines = dict(reversed([[part.strip() for part in l.split(":", 1)] for l in f if ":" in l]))
    name, family, model = (lines.get(k, "?") for k in ["model name", "cpu family", "model"])
    return f"{name} (family {family}, model {model}), {threads} threads"


def kernels(threads):
    """{"3x3/1 … forward": share} of the convolutions above."""
    out = subprocess.run([KERNELS, str(threads)], check=True, capture_output=True, text=True).stdout
    found = {}
    for line in out.splitlines():
        m = re.match(r"(.+), batch \d+ +(\d+) +(\d+) +(\d+)$", line)
        if m and m[1] in CONVOLUTIONS:
            for walk, share in zip(["forward", "backward-data", "backward-weights"], m.groups()[1:]):
                found[f"{m[1]} {walk}"] = int(share) / 100
    return found


def network(net, mode, batch, threads):
    out = subprocess.run(
        [CONVOKE, "bench", net, "--mode", mode, "--batch", str(batch), "--threads", str(threads), "--seconds", "0.7",
         "--json"],
        check=True, capture_output=True, text=True,
    ).stdout
    return json.loads(out)["peak_fraction"]


def measure(threads, rounds):
    """Medians over rounds of everything, so that a slow moment falls on all alike."""
    shares = {}
    for _ in range(rounds):
        found = kernels(threads) if KERNELS.exists() else {}
        for net, mode, batch in NETS:
            found[f"{net} {mode}, batch {batch}"] = network(net, mode, batch, threads)
        for name, share in found.items():
            shares.setdefault(name, []).append(share)
    return {name: round(statistics.median(s), 4) for name, s in shares.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="keep what is measured as this processor's baseline")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    a = parser.parse_args()
    if not KERNELS.exists():
        print(f"  left out: kernels: {KERNELS} is not built", file=sys.stderr)
    everyone = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    key = processor(a.threads)
    kept = everyone.get(key, {})
    shares = measure(a.threads, a.rounds)
    print(f"{key}; share of the multiply-add loop's speed\n\n{'':<44} {'kept':>7} {'now':>7} {'ratio':>6}")
    fell = []
    for name, share in shares.items():
        if not kept.get(name):
            print(f"{name:<44} {'':>7} {share:>7.1%}")
            continue
        ratio = share / kept[name]
        print(f"{name:<44} {kept[name]:>7.1%} {share:>7.1%} {ratio:>6.2f}{'  fell' if ratio < FELL else ''}")
        if ratio < FELL:
            fell.append(name)
    print()
    if a.keep:
        everyone[key] = {**kept, **shares}
        BASELINE.write_text(json.dumps(everyone, indent=1, sort_keys=True) + "\n")
        print(f"kept in {BASELINE.name}")
    elif not kept:
        print("nothing is kept for this processor; --keep does")
    else:
        print(f"fell by more than a tenth: {', '.join(fell)}" if fell else "nothing fell by more than a tenth")
    sys.exit(1 if fell and not a.keep else 0)


main()
