"""convoke beside its peers, in turns (A B A B …) in one run: medians and ratios.

Usage: python bench/compare.py [--mode train|infer] [--precision f32|bf16|int8] [--threads 2] [--rounds 5]
                               [--seconds 3] [--markdown FILE] [--rust] [--only PEER,…] NET:BATCH …

Training is measured beside PyTorch in several settings, prediction beside ONNX Runtime and OpenVINO; a ratio
is to the best of them. In int8, which only predicts, both engines run what ONNX Runtime's static quantization
makes of the same network, filters each with a scale of its own. Needs torch and torchvision, for prediction also
onnx, onnxruntime and openvino, and convoke built with `cargo build --release`. libtcmalloc is used where the system has it. `--rust` adds burn and
candle, built with `cd bench/rust_peers && cargo build --release`; `--rust --only burn,candle` needs no Python package.
"""

import argparse
import glob
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
CONVOKE = os.environ.get("CONVOKE", str(HERE.parent / "target/release/convoke"))
RUST = HERE / "rust_peers/target/release/rust_peers"


class Peer:
    """A process that measures when asked."""

    def __init__(self, name, command, env=None):
        self.name, self.speeds, self.last = name, [], {}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **(env or {})},
        )
        self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(self.process.stderr.read().strip().splitlines()[-1:] or ["ended"])
        return json.loads(line)

    def measure(self, seconds):
        # Memory that lay idle while others had their turn may have been taken away: first a short run.
        self.run(0.5)
        self.run(seconds)
        self.speeds.append(self.last["images_per_second"])

    def run(self, seconds):
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        self.last = self.answer()

    def median(self):
        return statistics.median(self.speeds)

    def memory(self):
        if "baseline_memory_bytes" not in self.last:
            return None
        return self.last["peak_memory_bytes"] - self.last["baseline_memory_bytes"]

    def end(self):
        self.process.stdin.close()
        self.process.wait()


ONLY = []


def wanted(name):
    return not ONLY or any(word in name for word in ONLY)


def start(peers, *args):
    """Adds a peer, or says why it is not there."""
    if not wanted(args[0]):
        return
    try:
        peers.append(Peer(*args))
    except (RuntimeError, OSError, ValueError) as e:
        print(f"  left out: {args[0]}: {e}", file=sys.stderr)


def start_with_allocators(peers, name, command):
    """A library asks for memory all the time: it may have the best way to get it."""
    start(peers, name, command)
    start(peers, f"{name}, huge pages", command, {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"})
    for library in sorted(glob.glob("/usr/lib/*/libtcmalloc_minimal.so.4"))[:1]:
        start(peers, f"{name}, tcmalloc", command, {"LD_PRELOAD": library})


def torch_peers(a, net, batch):
    peers = []
    command = [sys.executable, HERE / "peer_torch.py", net, a.mode, batch, str(a.threads), a.precision]
    start(peers, "torch", command)
    start_with_allocators(peers, "torch channels-last", command + ["channels-last"])
    if a.compile:
        start(peers, "torch compile", command + ["channels-last", "compile"])
    return peers


def rust_peers(a, net, batch):
    peers = []
    for library in ["burn", "candle"] if a.precision == "f32" else []:
        if RUST.exists():
            start_with_allocators(peers, library, [RUST, library, net, a.mode, batch, str(a.threads)])
        elif wanted(library):
            print(f"  left out: {library}: build it first: cd bench/rust_peers && cargo build --release", file=sys.stderr)
    return peers


def quantized(path, net, batch):
    """The graph in 8-bit integers, its ranges those of random numbers: only its speed counts."""
    import numpy as np
    import onnxruntime.quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process
    import nets

    (h, w, c), _ = nets.SIZES[net]

    class Numbers(q.CalibrationDataReader):
        left = 4

        def get_next(self):
            self.left -= 1
            if self.left < 0:
                return None
            random = np.random.default_rng(self.left)
            return {"x": random.standard_normal((int(batch), c, h, w), dtype=np.float32)}

    folded, out = (path.replace(".onnx", end) for end in ["-folded.onnx", "-int8.onnx"])
    quant_pre_process(path, folded, skip_symbolic_shape=True)
    q.quantize_static(folded, out, Numbers(), quant_format=q.QuantFormat.QDQ, per_channel=True)
    return out


def engine_peers(a, net, batch, folder):
    if not wanted("onnxruntime") and not wanted("openvino"):
        return []
    import torch
    import nets

    (h, w, c), _ = nets.SIZES[net]
    path = f"{folder}/{net}-{batch}.onnx"
    torch.onnx.export(
        nets.build(net).eval(), (torch.randn(int(batch), c, h, w),), path, input_names=["x"], dynamo=False
    )
    if a.precision == "int8":
        path = quantized(path, net, batch)
    peers = []
    for engine in ["onnxruntime", "openvino"]:
        if engine == "onnxruntime" and a.precision == "bf16":
            continue
        start(peers, engine, [sys.executable, HERE / "peer_engine.py", engine, path, batch, str(a.threads), a.precision])
    return peers


def matter(peers):
    """Of peers from fast to slow: the two fastest, and the fastest of each library."""
    library = [p.name.replace(",", " ").split()[0] for p in peers]
    return [p for i, p in enumerate(peers) if i < 2 or library[i] not in library[:i]]


def compare(a, net, batch, folder):
    command = [CONVOKE, "bench", net, "--mode", a.mode, "--batch", batch, "--threads", str(a.threads), "--turns"]
    if a.precision != "f32":
        command += ["--precision", a.precision]
    ours = Peer("convoke", command)
    peers = torch_peers(a, net, batch) if a.mode == "train" else engine_peers(a, net, batch, folder)
    if a.rust:
        peers += rust_peers(a, net, batch)
    if not peers:
        sys.exit(f"{net}: there is no peer to measure beside; see what was left out")
    for turn in range(a.rounds + 1):
        for p in [ours, *peers]:
            p.measure(a.seconds if turn else 0.5)
            if turn == 0:
                p.speeds.clear()
        # The slow settings drop out, so that the rounds go to those that matter.
        if turn == 1:
            peers.sort(key=lambda p: -p.median())
            kept = matter(peers)
            for p in peers:
                if p not in kept:
                    print(f"  {net}: {p.name} {p.median():,.1f} img/s, dropped", file=sys.stderr)
                    p.end()
            peers = kept
    for p in [ours, *peers]:
        p.end()
    return ours, sorted(peers, key=lambda p: -p.median())


def cells(net, batch, ours, peers):
    best = peers[0]
    memory = ""
    if ours.memory() and best.memory():
        memory = f"{ours.memory() / 1e6:,.0f} / {best.memory() / 1e6:,.0f} ({ours.memory() / best.memory():.2f})"
    spread = f"{min(ours.speeds):,.1f}–{max(ours.speeds):,.1f}"
    return [
        net, batch, f"{ours.median():,.1f} ({spread})", f"{ours.last.get('peak_fraction', 0):.0%}",
        ", ".join(f"{p.name} {p.median():,.1f}" for p in peers), f"**{ours.median() / best.median():.2f}**", memory,
    ]


def machine(rust):
    import importlib.metadata as meta

    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
    found = []
    for package in ["torch", "onnxruntime", "openvino"]:
        try:
            found.append(f"{package} {meta.version(package)}")
        except meta.PackageNotFoundError:
            pass
    if rust:
        packages = tomllib.loads((HERE / "rust_peers/Cargo.lock").read_text())["package"]
        found += [f"{p['name']} {p['version']}" for p in packages if p["name"] in ["burn", "candle-core"]]
    return f"{cpu}, {os.cpu_count()} logical CPUs; {', '.join(found)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=["train", "infer"], default="train")
    parser.add_argument("--precision", choices=["f32", "bf16", "int8"], default="f32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--compile", action="store_true", help="torch.compile too")
    parser.add_argument("--markdown", help="also append the table to this file")
    parser.add_argument("nets", nargs="+", metavar="NET:BATCH")
    parser.add_argument("--rust", action="store_true", help="burn and candle too")
    parser.add_argument("--only", default="", help="only peers whose name has one of these words, by commas, in it")
    a = parser.parse_args()
    if a.precision == "int8" and a.mode == "train":
        parser.error("int8 is for --mode infer")
    global ONLY
    ONLY = a.only.split(",") if a.only else []
    head = ["network", "batch", "convoke img/s (range)", "of FMA peak", "peers img/s", "ratio", "memory MB"]
    lines = [f"{a.mode}, {a.precision}, {a.threads} threads, {a.rounds} rounds of {a.seconds:g} s; {machine(a.rust)}", ""]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for item in a.nets:
            net, batch = item.split(":")
            lines.append("| " + " | ".join(cells(net, batch, *compare(a, net, batch, folder))) + " |")
            print(lines[-1], flush=True)
    if a.markdown:
        with open(a.markdown, "a") as f:
            f.write("\n".join(lines) + "\n\n")


main()
