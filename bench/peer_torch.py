"""One PyTorch measurement that answers in turns: each line of standard input is a number of seconds, each
answer one line of JSON. Started by compare.py.

Usage: python peer_torch.py NET train|infer BATCH THREADS f32|bf16 [channels-last] [compile]
"""

import json
import resource
import statistics
import sys
import time

import torch
import torch.nn.functional as F

import nets


def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * resource.getpagesize()


def main():
    name, mode, batch, threads, precision, *settings = sys.argv[1:]
    torch.set_num_threads(int(threads))
    baseline = resident()
    (h, w, c), classes = nets.SIZES[name]
    net = nets.build(name)
    x = torch.randn(int(batch), c, h, w)
    y = torch.randint(0, classes, (int(batch),))
    if "channels-last" in settings:
        net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    net.train(mode == "train")
    run = torch.compile(net) if "compile" in settings else net
    opt = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)
    mixed = torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16")

    def train():
        opt.zero_grad(set_to_none=True)
        with mixed:
            loss = F.cross_entropy(run(x), y)
        loss.backward()
        opt.step()

    def infer():
        with torch.inference_mode(), mixed:
            run(x)

    step = train if mode == "train" else infer
    for _ in range(3):
        step()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        seconds, times, begin = float(line), [], time.perf_counter()
        while len(times) < 3 or time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answer = {
            "images_per_second": int(batch) / statistics.median(times),
            "peak_memory_bytes": peak,
            "baseline_memory_bytes": baseline,
        }
        print(json.dumps(answer), flush=True)


main()
