"""The zoo beside torchvision and timm: random weights from there, imported, logits of eight random inputs.

    python bench/parity/zoo_logits.py CONVOKE RAW_NUMBERS [NET …]
    CONVOKE, RAW_NUMBERS  the command, and the example of that name (cargo build --release --example raw_numbers)

Prints the largest difference relative to the largest logit; more than 1e-4 is an error.
"""
import pathlib, subprocess, sys, tempfile
import numpy as np, timm, torch, torchvision.models as tv
from safetensors.torch import save_file

NETS = {
    "alexnet": tv.alexnet, "vgg11": tv.vgg11, "vgg13": tv.vgg13, "vgg16": tv.vgg16, "vgg19": tv.vgg19,
    "vgg11-bn": tv.vgg11_bn, "vgg13-bn": tv.vgg13_bn, "vgg16-bn": tv.vgg16_bn, "vgg19-bn": tv.vgg19_bn,
    "resnet18": tv.resnet18, "resnet34": tv.resnet34, "resnet50": tv.resnet50, "resnet101": tv.resnet101,
    "resnet152": tv.resnet152, "resnext50-32x4d": tv.resnext50_32x4d, "densenet121": tv.densenet121,
    "densenet169": tv.densenet169, "squeezenet1-0": tv.squeezenet1_0, "squeezenet1-1": tv.squeezenet1_1,
    "mobilenet-v2": tv.mobilenet_v2, "resnetv2-50": lambda: timm.create_model("resnetv2_50"),
    "mobilenet-v3-large": tv.mobilenet_v3_large, "mobilenet-v3-small": tv.mobilenet_v3_small,
    "efficientnet-b0": tv.efficientnet_b0, "efficientnet-b1": tv.efficientnet_b1,
    "efficientnet-b2": tv.efficientnet_b2, "efficientnet-b3": tv.efficientnet_b3,
    "efficientnet-b4": tv.efficientnet_b4,
    "googlenet": lambda: tv.googlenet(aux_logits=False, init_weights=True),
    "inception-v3": lambda: tv.inception_v3(aux_logits=False, init_weights=True),
    "xception": lambda: timm.create_model("legacy_xception"),
}

SIDES = {
    "xception": 299, "inception-v3": 299, "efficientnet-b1": 240, "efficientnet-b2": 288, "efficientnet-b3": 300,
    "efficientnet-b4": 380,
}


def scatter(net):
    """Statistics and norms that are not their first values, so that each is seen to arrive."""
    g = torch.Generator().manual_seed(1)
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            with torch.no_grad():
                m.running_mean.copy_(0.1 * torch.randn(m.num_features, generator=g))
                m.running_var.copy_(0.5 + torch.rand(m.num_features, generator=g))
                m.weight.copy_(0.5 + 0.5 * torch.rand(m.num_features, generator=g))
                m.bias.copy_(0.1 * torch.randn(m.num_features, generator=g))


def main():
    convoke, raw = sys.argv[1:3]
    bad = 0
    for name in sys.argv[3:] or NETS:
        torch.manual_seed(0)
        net = NETS[name]().eval()
        scatter(net)
        side = SIDES.get(name, 224)
        x = torch.randn(8, 3, side, side, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            want = net(x).numpy()
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / "w.safetensors")
            model = folder / "m.safetensors"
            done = subprocess.run([convoke, "import", folder / "w.safetensors", "--model", name, "--out", model],
                                  capture_output=True, text=True)
            if done.returncode:
                print(f"{name}: {done.stderr.strip()}")
                bad += 1
                continue
            x.numpy().transpose(0, 2, 3, 1).astype("<f4").tofile(folder / "x")
            subprocess.run([raw, model, folder / "x", folder / "y"], check=True)
            got = np.fromfile(folder / "y", "<f4").reshape(want.shape)
        off = np.abs(got - want).max() / np.abs(want).max()
        bad += off > 1e-4
        print(f"{name}: {off:.1e}{'' if off <= 1e-4 else '  TOO FAR'}", flush=True)
    sys.exit(1 if bad else 0)


main()
