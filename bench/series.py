"""Accuracy on sets of the UCR / UEA archive, on their given splits.

    python bench/series.py ARCHIVE [--seeds 5] [--members 5] [--steps 1500] [--threads 1] [--sets GunPoint,…]

ARCHIVE holds a folder for each set with NAME_TRAIN.ts and NAME_TEST.ts. Prints, for each set, the share right of
InceptionTime (five networks a seed, joined), mean and deviation over the seeds. Needs `cargo build --release`; the
others are shown by `convoke compare ARCHIVE/GunPoint mlp-1d fcn-1d resnet-1d --seeds 5 --epochs 500 --no-augment`.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile
import time

BINARY = pathlib.Path(__file__).parent.parent / "target/release/convoke"
SETS = "GunPoint,ItalyPowerDemand,ArrowHead,BasicMotions,JapaneseVowels"


def run(*args):
    return subprocess.run([BINARY, *map(str, args)], check=True, capture_output=True, text=True).stdout


def main():
    p = argparse.ArgumentParser()
    p.add_argument("archive", type=pathlib.Path)
    p.add_argument("--seeds", type=int, default=5)
    p.add_argument("--first", type=int, default=0)
    p.add_argument("--members", type=int, default=5)
    p.add_argument("--steps", type=int, default=1500)
    p.add_argument("--model", default="inceptiontime")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--sets", default=SETS)
    a = p.parse_args()
    for name in a.sets.split(","):
        data, shares, start = a.archive / name, [], time.time()
        lines = (data / f"{name}_TRAIN.ts").read_text().splitlines()
        at = next(i for i, line in enumerate(lines) if line.lower().startswith("@data"))
        samples = sum(1 for line in lines[at + 1:] if line.strip())
        epochs = -(-a.steps // (samples // 16))
        for seed in range(a.first, a.first + a.seeds):
            with tempfile.TemporaryDirectory() as folder:
                out = pathlib.Path(folder) / "run"
                run("train", data, "--model", a.model, "--members", a.members, "--epochs", epochs, "--batch", 16,
                    "--seed", seed, "--threads", a.threads, "--out", out)
                shares.append(json.loads(run("val", out, data, "--json", "--threads", a.threads))["top1"])
        spread = statistics.stdev(shares) if len(shares) > 1 else float("nan")
        each = " ".join(f"{100 * s:.2f}" for s in shares)
        print(f"{name:<18} {100 * statistics.mean(shares):6.2f} ± {100 * spread:.2f}  ({each})  "
              f"{(time.time() - start) / a.seeds:.0f} s a seed", flush=True)


if __name__ == "__main__":
    main()
