"""torchvision's networks with random weights, exported by torch.onnx, read by convoke and run as networks: the largest
difference to ONNX Runtime, relative to the largest logit.

Usage: python bench/parity/onnx_in.py [NAME...]    (after `cargo build --release -p convoke-formats --example onnx_run`;
needs torch, torchvision, onnx, onnxscript, onnxruntime)
"""

import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime
import torch
import torchvision

ROOT = pathlib.Path(__file__).parents[2]
RUN = ROOT / "target/release/examples/onnx_run"
NETS = {
    "resnet18": 224, "mobilenet_v3_small": 224, "squeezenet1_1": 224, "shufflenet_v2_x0_5": 224, "densenet121": 224,
    "efficientnet_b0": 224, "googlenet": 224, "inception_v3": 299, "convnext_tiny": 224, "regnet_y_400mf": 224,
    "mnasnet0_5": 224, "alexnet": 224, "vgg11_bn": 224,
}


def net(name):
    torch.manual_seed(0)
    more = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    model = getattr(torchvision.models, name)(weights=None, **more)
    for m in model.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(m.weight, 0.8, 1.2)
            torch.nn.init.uniform_(m.bias, -0.1, 0.1)
            torch.nn.init.uniform_(m.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(m.running_var, 0.8, 1.2)
    return model.eval()


def check(name, size, folder, dynamo):
    path, x = folder / f"{name}.onnx", torch.randn(2, 3, size, size)
    model = net(name)
    if dynamo:
        torch.onnx.export(model, (x,), str(path), opset_version=18, dynamo=True, external_data=False, verbose=False)
    else:
        torch.onnx.export(model, (x,), str(path), opset_version=17, dynamo=False, input_names=["x"], output_names=["y"], dynamic_axes={"x": {0: "n"}, "y": {0: "n"}})
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    want = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    np.save(folder / "x.npy", x.numpy())
    done = subprocess.run([RUN, path, folder / "x.npy", folder / "y.npy"], capture_output=True, text=True)
    how = "export" if dynamo else "script"
    if done.returncode:
        print(f"{name:20} {how}: {done.stderr.strip()}")
        return False
    off = np.abs(np.load(folder / "y.npy") - want).max() / np.abs(want).max()
    layers = done.stdout.splitlines()[0]
    print(f"{name:20} {how}: off by {off:.1e}; {layers}", flush=True)
    return off < 1e-4


if __name__ == "__main__":
    names = sys.argv[1:] or list(NETS)
    with tempfile.TemporaryDirectory() as folder:
        good = [check(n, NETS[n], pathlib.Path(folder), dynamo) for n in names for dynamo in (False, True)]
    print(sum(good), "of", len(good), "within 1e-4")
    sys.exit(not all(good))
