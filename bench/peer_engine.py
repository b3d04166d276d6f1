"""One measurement of an inference engine that answers in turns, as peer_torch.py does. Started by compare.py.

Usage: python peer_engine.py onnxruntime|openvino FILE.onnx BATCH THREADS f32|bf16|int8
"""

import json
import resource
import statistics
import sys
import time

import numpy as np


def onnxruntime(path, threads, precision):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})


def openvino(path, threads, precision, batch):
    import openvino as ov

    core = ov.Core()
    hint = "LATENCY" if batch == 1 else "THROUGHPUT"
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": hint,
        # What a graph in integers leaves in floats stays f32.
        "INFERENCE_PRECISION_HINT": "f32" if precision == "int8" else precision,
    }
    request = core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()
    return lambda x: request.infer([x], share_inputs=True, share_outputs=True)


def main():
    engine, path, batch, threads, precision = sys.argv[1:]
    batch, threads = int(batch), int(threads)
    import onnx

    dims = [d.dim_value for d in onnx.load(path, load_external_data=False).graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).standard_normal(dims, dtype=np.float32)
    run = onnxruntime(path, threads, precision) if engine == "onnxruntime" else openvino(path, threads, precision, batch)
    for _ in range(3):
        run(x)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        seconds, times, begin = float(line), [], time.perf_counter()
        while len(times) < 3 or time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            run(x)
            times.append(time.perf_counter() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answer = {"images_per_second": batch / statistics.median(times), "peak_memory_bytes": peak}
        print(json.dumps(answer), flush=True)


main()
