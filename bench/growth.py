"""Whether cost grows as the work grows: convoke's milliseconds a picture against batch and depth, and
what a second thread brings. No peers; under five minutes.

Usage: python bench/growth.py [--seconds 2] [--markdown FILE]

Needs convoke built with `cargo build --release`.
"""

import argparse
import json
import os
import pathlib
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
CONVOKE = os.environ.get("CONVOKE", str(HERE.parent / "target/release/convoke"))


def milliseconds(seconds, *runs):
    """Of each `(net, batch, threads)` the median time of one picture in training: five rounds in turns."""
    times = [[] for _ in runs]
    for _ in range(5):
        for (net, batch, threads), of in zip(runs, times):
            out = subprocess.run(
                [CONVOKE, "bench", net, "--mode", "train", "--batch", str(batch), "--threads", str(threads),
                 "--seconds", str(seconds), "--json"],
                check=True, capture_output=True, text=True,
            ).stdout
            of.append(1e3 / json.loads(out)["images_per_second"])
    return [sorted(of)[2] for of in times]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--markdown", help="also append the tables to this file")
    a = parser.parse_args()
    lines = ["Training, milliseconds a picture against the batch (2 threads):", ""]
    batches = [8, 16, 32, 64, 128]
    lines += ["| network | " + " | ".join(map(str, batches)) + " |", "|" + "---|" * (len(batches) + 1)]
    for net in ["resnet20", "resnet18"]:
        cells = [f"{t:.3g}" for t in milliseconds(a.seconds, *((net, b, 2) for b in batches))]
        lines.append(f"| {net} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    lines += ["", "Training, milliseconds a picture against depth (batch 128, 2 threads):", ""]
    nets = ["resnet20", "resnet32", "resnet44", "resnet56"]
    times = milliseconds(a.seconds, *((n, 128, 2) for n in nets))
    steps = [""] + [f"+{y - x:.3f}" for x, y in zip(times, times[1:])]
    lines += ["| network | ms | more than the one before |", "|---|---|---|"]
    lines += [f"| {n} | {t:.3f} | {s} |" for n, t, s in zip(nets, times, steps)]
    print("\n".join(lines[-4:]), flush=True)
    one, two = milliseconds(a.seconds, *(("resnet18", 32, t) for t in (1, 2)))
    lines += ["", f"resnet18, batch 32, training: two threads are {one / two:.2f} times as fast as one."]
    print(lines[-1])
    if a.markdown:
        with open(a.markdown, "a") as f:
            f.write("\n".join(lines) + "\n\n")


main()
