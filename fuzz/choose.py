"""Chooses the few small files of a fuzzer's work that reach the most, for `corpus/`.

    python choose.py BINARY OUT FILES... [--most 56] [--bytes 140000]

BINARY is what `cargo fuzz build` made; FILES are folders. The features that each file reaches come from the fuzzer's own
list when it merges; files are then taken one by one, each time the one with the most new features for its length.
"""
import argparse
import hashlib
import os
import shutil
import subprocess
import tempfile

args = argparse.ArgumentParser()
args.add_argument("binary")
args.add_argument("out")
args.add_argument("folders", nargs="+")
args.add_argument("--most", type=int, default=56)
args.add_argument("--bytes", type=int, default=140_000)
args.add_argument("--longest", type=int, default=4000)
args = args.parse_args()

with tempfile.TemporaryDirectory() as work:
    small, chosen, control = f"{work}/small", f"{work}/chosen", f"{work}/control"
    os.makedirs(small)
    os.makedirs(chosen)
    for folder in args.folders:
        for name in os.listdir(folder):
            path = f"{folder}/{name}"
            try:
                data = open(path, "rb").read()
            except FileNotFoundError:  # the fuzzer, still at work, has found a shorter one
                continue
            if len(data) <= args.longest:
                open(f"{small}/{hashlib.sha1(data).hexdigest()}", "wb").write(data)
    merge = [args.binary, "-merge=1", f"-merge_control_file={control}", f"-artifact_prefix={work}/", chosen, small]
    subprocess.run(merge, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lines = open(control).read().split("\n")
    count = int(lines[0])
    names = lines[2:2 + count]
    features = {}
    for line in lines[2 + count:]:
        words = line.split()
        if words and words[0] == "FT":
            features[int(words[1])] = set(map(int, words[2:]))

    total = set().union(*features.values())
    seen, taken, length = set(), 0, 0
    os.makedirs(args.out, exist_ok=True)
    while taken < args.most and features:
        size = {i: os.path.getsize(names[i]) for i in features}
        best = max(features, key=lambda i: len(features[i] - seen) / (size[i] + 200) ** 0.5)
        new = features.pop(best) - seen
        if not new or length + size[best] > args.bytes:
            if not new:
                break
            continue
        seen |= new
        taken, length = taken + 1, length + size[best]
        shutil.copy(names[best], f"{args.out}/{os.path.basename(names[best])[:16]}")
    print(f"{os.path.basename(args.out)}: {taken} of {count} files, {length} bytes, {len(seen)} of {len(total)} features")
