"""The zoo beside torchvision and timm: random weights from there, imported, logits of eight random inputs.

    python bench/parity/zoo_logits.py CONVOKE RAW_NUMBERS [NET …]
    CONVOKE, RAW_NUMBERS  the command, and the example of that name (cargo build --release --example raw_numbers)
    NET                   names of the zoo, or of the library where it names its layers in its own way

Prints for each network the largest difference from PyTorch in 64 bits relative to the largest logit, that of PyTorch in
32 bits beside it, and how much the logits of the eight inputs differ among themselves; more than 1e-4 is an error, and so
is a network that hardly sees its input.
"""
import pathlib, re, subprocess, sys, tempfile
import numpy as np, timm, torch, torchvision.models as tv
from safetensors.torch import save_file
from torch import nn
from zoo_counts import first_strides


def torchvision(name, side=224, as_=None, **more):
    """(label, network of the zoo, side, factory)"""
    ours = as_ or name.replace("_", "-")
    return name, ours, side, lambda: getattr(tv, name)(**more)


def from_timm(name, ours, side=224):
    return "timm " + name, ours, side, lambda: timm.create_model(name)


# Heads are in the files of both, and are left aside.
AUX = {"aux_logits": True, "init_weights": True}
SIDES = (224, 240, 288, 300, 380)
NETS = [
    torchvision("alexnet"),
    *(torchvision(f"vgg{n}{bn}") for n in (11, 13, 16, 19) for bn in ("", "_bn")),
    torchvision("googlenet", **AUX), torchvision("inception_v3", 299, **AUX),
    *(torchvision(f"resnet{n}") for n in (18, 34, 50, 101, 152)),
    *((f"resnet{n} with the paper's strides", f"resnet{n}-v1", 224, lambda n=n: first_strides(getattr(tv, f"resnet{n}")())) for n in (50, 101, 152)),
    torchvision("resnext50_32x4d"), torchvision("densenet121"), torchvision("densenet169"),
    torchvision("squeezenet1_0"), torchvision("squeezenet1_1"),
    *(torchvision(f"shufflenet_v2_x{a}_{b}") for a, b in ((0, 5), (1, 0), (1, 5), (2, 0))),
    torchvision("mobilenet_v2"), torchvision("mobilenet_v3_large"), torchvision("mobilenet_v3_small"),
    *(torchvision(f"efficientnet_b{n}", side) for n, side in enumerate(SIDES)),
    torchvision("convnext_tiny"), torchvision("convnext_small"),
    from_timm("vgg16", "vgg16"), from_timm("vgg16_bn", "vgg16-bn"),
    from_timm("inception_v3", "inception-v3", 299), from_timm("inception_resnet_v2", "inception-resnet-v2", 299),
    *(from_timm(f"resnetv2_{n}", f"resnetv2-{n}") for n in (50, 101, 152)),
    from_timm("resnet50", "resnet50"), from_timm("densenet121", "densenet121"),
    from_timm("legacy_xception", "xception", 299),
    from_timm("seresnet50", "seresnet50"), from_timm("legacy_seresnet50", "seresnet50-v1"),
    from_timm("legacy_senet154", "senet154"), from_timm("senet154", "senet154"),
    from_timm("mobilenetv1_100", "mobilenet-v1"), from_timm("mobilenetv2_100", "mobilenet-v2"),
    from_timm("mobilenetv3_large_100", "mobilenet-v3-large"), from_timm("mobilenetv3_small_100", "mobilenet-v3-small"),
    *(from_timm(f"efficientnet_b{n}", f"efficientnet-b{n}", side) for n, side in enumerate(SIDES)),
    *(from_timm(f"tf_efficientnet_b{n}", f"tf-efficientnet-b{n}", side) for n, side in enumerate((224, 240, 260, 300, 380))),
    from_timm("repvgg_a0", "repvgg-a0"),
    from_timm("convnext_tiny", "convnext-tiny"), from_timm("convnext_small", "convnext-small"),
]


def scatter(net, x):
    """Numbers that are not their first values, so that each is seen to arrive; running statistics are those of the
    inputs, moved so little that maps neither die nor explode: in deep chains a tenth of a deviation would, and then
    PyTorch in 32 bits is as far from PyTorch in 64 as the bar."""
    g = torch.Generator().manual_seed(1)
    uniform = lambda like, low, high: low + (high - low) * torch.rand(like.shape, generator=g)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for name, p in net.named_parameters():
            if re.search(r"(layer_scale|gamma)$|\bbn3\.weight$", name):  # what a block adds is small, as in trained networks
                p.copy_(uniform(p, 0.2, 0.4))
            elif p.dim() == 1:
                p.copy_(uniform(p, 0.5, 1.0) if name.endswith("weight") else uniform(p, -0.1, 0.1))
        for m in norms:
            m.momentum = 1.0
            m.train()
        net(x)
        net.eval()
        for m in norms:
            m.running_mean.add_(uniform(m.running_mean, -0.02, 0.02) * m.running_var.sqrt())
            m.running_var.mul_(uniform(m.running_var, 0.95, 1.05))


def compare(convoke, raw, ours, side, make):
    torch.manual_seed(0)
    net = make().eval()
    x = torch.randn(8, 3, side, side, generator=torch.Generator().manual_seed(2))
    scatter(net, x)
    with torch.no_grad():
        theirs = net(x).numpy()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / "w.safetensors")
        model = folder / "m.safetensors"
        command = [convoke, "import", folder / "w.safetensors", "--model", ours, "--size", str(side), "--out", model]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return None, None, done.stderr.strip()
        x.numpy().transpose(0, 2, 3, 1).astype("<f4").tofile(folder / "x")
        subprocess.run([raw, model, folder / "x", folder / "y"], check=True)
        got = np.fromfile(folder / "y", "<f4").reshape(theirs.shape)
    with torch.no_grad():
        want = net.double()(x.double()).numpy()
    most = np.abs(want).max()
    return np.abs(got - want).max() / most, np.abs(theirs - want).max() / most, want.std(0).mean() / most


def main():
    convoke, raw, *asked = sys.argv[1:]
    bad = 0
    for label, ours, side, make in NETS:
        if asked and not {label, ours, label.removeprefix("timm ")} & set(asked):
            continue
        off, theirs, seen = compare(convoke, raw, ours, side, make)
        if off is None:
            bad += 1
            print(f"{label}: {seen}", flush=True)
            continue
        wrong = not off <= 1e-4 or not seen > 1e-3
        bad += wrong
        print(f"{label:<38} {ours:<20} {off:.1e}  {theirs:.1e}  {seen:.1e}{'  TOO FAR' if wrong else ''}", flush=True)
    sys.exit(1 if bad else 0)


main()
