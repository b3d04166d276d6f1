"""The zoo in ONNX Runtime: random weights, exported, logits of eight photos beside convoke's own.

    python bench/parity/onnx_out.py CONVOKE RAW_NUMBERS PHOTOS [NET …]
    CONVOKE, RAW_NUMBERS  the command, and the example of that name (cargo build --release --example raw_numbers)
    PHOTOS                folder with at least eight .jpg, in whatever subfolders
    NET                   names of the zoo [default: all of `convoke models`], `preprocess` for pictures

For each network: the largest difference relative to the largest logit, norms as layers of their own and folded;
more than 1e-4 is an error. Where torchvision has the network, its `load_state_dict` takes `--format safetensors`, and
its logits are compared too. `preprocess`: pictures prepared in the graph beside PIL's, in grey levels.
Every file passes onnx.checker with full_check.
"""
import json, pathlib, subprocess, sys, tempfile
import numpy as np, onnx, onnxruntime, torch, torchvision.models as tv
from PIL import Image
from safetensors.numpy import load_file, save_file

TORCHVISION = {
    "alexnet": tv.alexnet, "vgg11": tv.vgg11, "vgg13": tv.vgg13, "vgg16": tv.vgg16, "vgg19": tv.vgg19,
    "vgg11-bn": tv.vgg11_bn, "vgg13-bn": tv.vgg13_bn, "vgg16-bn": tv.vgg16_bn, "vgg19-bn": tv.vgg19_bn,
    "resnet18": tv.resnet18, "resnet34": tv.resnet34, "resnet50": tv.resnet50, "resnet101": tv.resnet101,
    "resnet152": tv.resnet152, "resnext50-32x4d": tv.resnext50_32x4d, "densenet121": tv.densenet121,
    "densenet169": tv.densenet169, "squeezenet1-0": tv.squeezenet1_0, "squeezenet1-1": tv.squeezenet1_1,
    "mobilenet-v2": tv.mobilenet_v2, "mobilenet-v3-large": tv.mobilenet_v3_large,
    "mobilenet-v3-small": tv.mobilenet_v3_small, "efficientnet-b0": tv.efficientnet_b0,
    "efficientnet-b1": tv.efficientnet_b1, "efficientnet-b2": tv.efficientnet_b2, "efficientnet-b3": tv.efficientnet_b3,
    "efficientnet-b4": tv.efficientnet_b4, "googlenet": lambda: tv.googlenet(aux_logits=False, init_weights=False),
    "inception-v3": lambda: tv.inception_v3(aux_logits=False, init_weights=False),
    "shufflenet-v2": tv.shufflenet_v2_x1_0, "shufflenet-v2-x1.0": tv.shufflenet_v2_x1_0,
    "convnext-tiny": tv.convnext_tiny, "convnext-small": tv.convnext_small,
}
BOUND = 1e-4


def convoke(*args):
    done = subprocess.run([CONVOKE, *map(str, args)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return done.stdout


def scatter(tensors):
    """Statistics, norms and biases that are not their first values, so that each is seen to arrive."""
    g = np.random.default_rng(1)
    for name, t in tensors.items():
        if name.endswith("running_var"):
            t[:] = 0.5 + g.random(t.shape)
        elif name.endswith("running_mean") or name.endswith("bias"):
            t[:] = 0.1 * g.standard_normal(t.shape)
        elif t.ndim == 1 and name.endswith("weight"):
            t[:] = 0.5 + 0.5 * g.random(t.shape)
    return tensors


def session(path):
    onnx.checker.check_model(str(path), full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def photos(height, width, channels):
    """Eight inputs [8, height, width, channels]."""
    all = []
    for f in PHOTOS[:8]:
        im = Image.open(f).convert("L" if channels == 1 else "RGB").resize((width, height), Image.BILINEAR)
        a = np.asarray(im, np.float32).reshape(height, width, channels)
        all.append(a / 128 - 1)
    return np.stack(all)


def off(got, want):
    return np.abs(got - want).max() / np.abs(want).max()


def network(name, shape, folder):
    w, m, o = folder / "w.safetensors", folder / "m.safetensors", folder / "m.onnx"
    convoke("export", name, "--format", "safetensors", "--out", w)
    save_file(scatter(load_file(w)), w)
    convoke("import", w, "--model", name, "--out", m)
    x = photos(*shape)
    x.tofile(folder / "x")
    subprocess.run([RAW, m, folder / "x", folder / "y"], check=True)
    want = np.fromfile(folder / "y", "<f4").reshape(8, -1)
    row = {}
    for column, flags in [("plain", []), ("folded", ["--fold"])]:
        convoke("export", m, "--format", "onnx", "--out", o, *flags)
        peer = session(o)
        # One picture and then the others: the number of pictures is open.
        parts = [x[:1], x[1:]]
        run = lambda part: peer.run(None, {"input": np.ascontiguousarray(part.transpose(0, 3, 1, 2))})[0]
        row[column] = off(np.concatenate([run(p) for p in parts]), want)
    if name in TORCHVISION:
        convoke("export", m, "--format", "safetensors", "--out", w)
        net = TORCHVISION[name]().eval()
        net.load_state_dict({k: torch.from_numpy(v) for k, v in load_file(w).items()}, strict=True)
        with torch.no_grad():
            row["torch"] = off(net(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy(), want)
    return row


def prepared(folder):
    """Pictures prepared in the graph beside PIL's: how many grey levels apart."""
    w, m, o = folder / "w.safetensors", folder / "m.safetensors", folder / "m.onnx"
    bad = 0
    for filter, pil in [("bilinear", Image.BILINEAR), ("bicubic", Image.BICUBIC), ("lanczos", Image.LANCZOS),
                        ("nearest", Image.NEAREST)]:
        for side in [232, 320, 0]:
            convoke("export", "squeezenet1-1", "--format", "safetensors", "--out", w)
            convoke("import", w, "--model", "squeezenet1-1", "--short-side", side, "--filter", filter, "--out", m)
            convoke("export", m, "--format", "onnx", "--preprocess", "--out", o)
            model = onnx.load(o)
            onnx.checker.check_model(model, full_check=True)
            last = "image/rows/picked" if filter == "nearest" else "image/rows/levels"
            model.graph.output.append(onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None))
            peer = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
            most, total, apart, chance = 0, 0, 0, 0
            for f in PHOTOS[:32]:
                im = Image.open(f).convert("RGB")
                logits, levels = peer.run(None, {"image": np.asarray(im)[None]})
                d = np.abs(levels[0].transpose(1, 2, 0) - np.asarray(cut(im, side, pil), np.float32))
                most, total = max(most, d.max()), total + d.mean()
                line = json.loads(convoke("predict", m, f, "--top", 1000, "--json"))
                ours = np.zeros(1000)
                for guess in line["guesses"]:
                    ours[int(guess["class"])] = guess["probability"]
                e = np.exp(logits[0] - logits[0].max())
                apart = max(apart, np.abs(e / e.sum() - ours).max() / ours.max())
            count = min(32, len(PHOTOS))
            print(f"{filter:>9}, {f'short side {side}' if side else 'largest centre'}: at most {most:.0f} grey levels from PIL, "
                  f"mean {total / count:.5f}; probabilities {apart:.1e} from convoke's, {count} photos", flush=True)
            bad += most > 1
    return bad


def rows_first(im, size, pil, box):
    """PIL's resize, along the rows and then along the columns (Pillow 13 chooses the order by the sizes)."""
    if pil == Image.NEAREST:
        return im.resize(size, pil, box=box)
    left, top, right, bottom = box
    im = im.resize((size[0], im.height), pil, box=(left, 0, right, im.height))
    return im.resize(size, pil, box=(0, top, size[0], bottom))


def cut(im, side, pil):
    """torchvision's Resize and CenterCrop, or PIL's resize of the largest centred square."""
    w, h = im.size
    if side == 0:
        short = min(w, h)
        left, top = (w - short) / 2, (h - short) / 2
        return rows_first(im, (224, 224), pil, (left, top, left + short, top + short))
    size = (side, int(side * h / w)) if w <= h else (int(side * w / h), side)
    im = rows_first(im, size, pil, (0, 0, w, h))
    left, top = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    return im.crop((left, top, left + 224, top + 224))


def main():
    bad = 0
    names = sys.argv[4:]
    models = {e["name"]: e["input"] for e in json.loads(convoke("models", "--json"))}
    print(f"ONNX Runtime {onnxruntime.__version__}, onnx {onnx.__version__}, torch {torch.__version__}")
    print(f"{'':>20}    plain   folded    torch")
    for name in names or [*models, "preprocess"]:
        with tempfile.TemporaryDirectory() as folder:
            if name == "preprocess":
                bad += prepared(pathlib.Path(folder))
                continue
            try:
                row = network(name, models[name], pathlib.Path(folder))
            except Exception as e:
                print(f"{name:>20}  {str(e)[:200]}", flush=True)
                bad += 1
                continue
        far = max(row.values()) > BOUND
        bad += far
        cells = "".join(f"{row[c]:9.1e}" if c in row else " " * 9 for c in ["plain", "folded", "torch"])
        print(f"{name:>20}{cells}{'  TOO FAR' if far else ''}", flush=True)
    sys.exit(1 if bad else 0)


CONVOKE, RAW = sys.argv[1:3]
PHOTOS = sorted(pathlib.Path(sys.argv[3]).rglob("*.jpg"))
PHOTOS = PHOTOS[:: max(1, len(PHOTOS) // 32)]
main()
