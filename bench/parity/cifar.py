"""ResNet-20 and -56 for CIFAR-10: convoke's imported weights against ONNX Runtime, picture by picture.

    python bench/parity/cifar.py CONVOKE PRETRAINED TEST
    CONVOKE     the command
    PRETRAINED  folder with resnet20-cifar10.{safetensors,onnx}, resnet56-cifar10.{safetensors,onnx}
    TEST        folder of class folders of 32x32 JPEGs
"""
import json, pathlib, subprocess, sys, tempfile
import numpy as np, onnxruntime
from PIL import Image

convoke, pretrained, test = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
files = sorted(test.glob("*/*.jpg"))
classes = sorted(p.name for p in test.iterdir() if p.is_dir())
labels = np.array([classes.index(f.parent.name) for f in files])
mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
x = np.stack([np.asarray(Image.open(f).convert("RGB"), np.float32) / 255 for f in files])
x = ((x - mean) / std).transpose(0, 3, 1, 2)
for net in ["resnet20", "resnet56"]:
    peer = onnxruntime.InferenceSession(str(pretrained / f"{net}-cifar10.onnx"))
    name = peer.get_inputs()[0].name
    logits = np.concatenate([peer.run(None, {name: x[i:i + 8]})[0] for i in range(0, len(x), 8)])
    theirs = logits.argmax(1)
    margin = np.sort(logits, 1)[:, -1] - np.sort(logits, 1)[:, -2]
    with tempfile.TemporaryDirectory() as folder:
        model = f"{folder}/m.safetensors"
        weights = str(pretrained / f"{net}-cifar10.safetensors")
        subprocess.run([convoke, "import", weights, "--model", net, "--out", model], check=True, stdout=subprocess.DEVNULL)
        ours = []
        for i in range(0, len(files), 1000):
            part = [str(f) for f in files[i:i + 1000]]
            out = subprocess.run([convoke, "predict", model, "--top", "1", "--json", *part], check=True, capture_output=True, text=True)
            ours += [classes.index(json.loads(line)["guesses"][0]["class"]) for line in out.stdout.splitlines()]
    ours = np.array(ours)
    apart = np.flatnonzero(ours != theirs)
    print(f"{net}: {len(files)} pictures; right: convoke {(ours == labels).sum()}, ONNX Runtime {(theirs == labels).sum()}; "
          f"{len(apart)} named differently")
    for i in apart[:20]:
        print(f"  {files[i]}: margin {margin[i]:.4f} of logits")
