"""Parameters and multiply-adds of the zoo's networks as torchvision, timm, or the papers' tables give them.

    python bench/parity/zoo_counts.py [NAME …]

Prints a line for each: name, parameters, multiply-adds of convolutions and dense layers for one picture, and where the
network was taken from. `crates/convoke-zoo/tests/counts.rs` holds these lines. Networks that neither library has are
built here from their paper's table.
"""
import sys
import timm, torch, torchvision.models as tv
from timm.models.efficientnet import _gen_mobilenet_v1
from torch import nn


def alexnet_2012():
    """Krizhevsky et al. 2012, figure 2."""
    return nn.Sequential(
        nn.Conv2d(3, 96, 11, 4), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(),
        nn.MaxPool2d(3, 2), nn.Conv2d(256, 384, 3, padding=1), nn.Conv2d(384, 384, 3, padding=1, groups=2),
        nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(9216, 4096),
        nn.Linear(4096, 4096), nn.Linear(4096, 1000))


def zfnet():
    """Zeiler and Fergus 2014, figure 3."""
    pool = lambda: nn.MaxPool2d(3, 2, ceil_mode=True)
    return nn.Sequential(
        nn.Conv2d(3, 96, 7, 2, 1), pool(), nn.Conv2d(96, 256, 5, 2), pool(), nn.Conv2d(256, 384, 3, padding=1),
        nn.Conv2d(384, 384, 3, padding=1), nn.Conv2d(384, 256, 3, padding=1), nn.MaxPool2d(3, 2), nn.Flatten(),
        nn.Linear(9216, 4096), nn.Linear(4096, 4096), nn.Linear(4096, 1000))


def lenet5(padding, pool):
    """LeCun et al. 1998, figure 2, all maps joined."""
    return nn.Sequential(nn.Conv2d(1, 6, 5, padding=padding), pool, nn.Conv2d(6, 16, 5), pool, nn.Flatten(),
                         nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10))


def unit(c, d, k, stride=1):
    return nn.Sequential(nn.Conv2d(c, d, k, stride, k // 2, bias=False), nn.BatchNorm2d(d), nn.ReLU())


class Sum(nn.Module):
    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x):
        return sum(b(x) for b in self.branches)


class Beside(Sum):
    def forward(self, x):
        return torch.cat([b(x) for b in self.branches], 1)


class Pick(nn.Module):
    """Every second pixel, missing channels zero (He et al. 2016, option A)."""

    def forward(self, x):
        return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, x.shape[1] // 2, x.shape[1] // 2))


def resnet_cifar(n):
    """He et al. 2016, section 4.2."""
    layers, c = [unit(3, 16, 3)], 16
    for d in (16, 32, 64):
        for i in range(n):
            grows = c != d
            layers.append(Sum(nn.Sequential(unit(c, d, 3, 1 + grows), unit(d, d, 3)), Pick() if grows else nn.Identity()))
            c = d
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def wide_resnet(n, k):
    """Zagoruyko and Komodakis 2016, table 1; norms stand before convolutions, which changes neither count."""
    norm = lambda c: nn.Sequential(nn.BatchNorm2d(c), nn.ReLU())
    conv = lambda c, d, w, s=1: nn.Conv2d(c, d, w, s, w // 2, bias=False)
    layers, c = [conv(3, 16, 3)], 16
    for stage, d in enumerate((16 * k, 32 * k, 64 * k)):
        for i in range(n):
            s = 2 if stage and not i else 1
            row = nn.Sequential(norm(c), conv(c, d, 3, s), norm(d), conv(d, d, 3))
            layers.append(Sum(row, conv(c, d, 1, s) if c != d else nn.Identity()))
            c = d
    return nn.Sequential(*layers, norm(c), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 10))


def inception_v2():
    """Ioffe and Szegedy 2015, figure 5."""
    table = [
        (64, (64, 64), (64, 96), 32), (64, (64, 96), (64, 96), 64), (0, (128, 160), (64, 96), 0),
        (224, (64, 96), (96, 128), 128), (192, (96, 128), (96, 128), 128), (160, (128, 160), (128, 160), 96),
        (96, (128, 192), (160, 192), 96), (0, (128, 192), (192, 256), 0),
        (352, (192, 320), (160, 224), 128), (352, (192, 320), (192, 224), 128)]
    layers = [unit(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1), unit(64, 64, 1), unit(64, 192, 3), nn.MaxPool2d(3, 2, 1)]
    c = 192
    for one, (a, b), (p, q), pooled in table:
        s = 1 if one else 2
        branches = [unit(c, one, 1)] if one else []
        branches += [nn.Sequential(unit(c, a, 1), unit(a, b, 3, s)), nn.Sequential(unit(c, p, 1), unit(p, q, 3), unit(q, q, 3, s))]
        branches += [nn.Sequential(nn.AvgPool2d(3, 1, 1), unit(c, pooled, 1)) if pooled else nn.MaxPool2d(3, 2, 1)]
        layers.append(Beside(*branches))
        c = one + b + q + (pooled or c)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 1000))


def first_strides(net):
    """torchvision's residual network with the strides of the paper: in the first 1x1."""
    for m in net.modules():
        if isinstance(m, tv.resnet.Bottleneck):
            m.conv1.stride, m.conv2.stride = m.conv2.stride, (1, 1)
    return net


def torchvision(f, side=224, **more):
    return lambda: (f(**more), (3, side, side), "torchvision " + f.__name__)


def from_timm(name, side=224):
    return lambda: (timm.create_model(name), (3, side, side), "timm " + name)


def paper(f, *args, shape=(3, 224, 224)):
    return lambda: (f(*args), shape, "the paper's table")


def v1(f):
    return lambda: (first_strides(f()), (3, 224, 224), f"torchvision {f.__name__}, strides as the paper")


CIFAR = (3, 32, 32)
NETS = {
    "mlp": paper(lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.Linear(256, 256), nn.Linear(256, 10)), shape=(1, 28, 28)),
    "lenet5-1998": paper(lenet5, 0, nn.AvgPool2d(2), shape=(1, 32, 32)),
    "lenet5": paper(lenet5, 2, nn.MaxPool2d(2), shape=(1, 28, 28)),
    "alexnet-2012": paper(alexnet_2012, shape=(3, 227, 227)),
    "alexnet": torchvision(tv.alexnet),
    "zfnet": paper(zfnet),
    **{f"vgg{n}": torchvision(getattr(tv, f"vgg{n}")) for n in (11, 13, 16, 19)},
    **{f"vgg{n}-bn": torchvision(getattr(tv, f"vgg{n}_bn")) for n in (11, 13, 16, 19)},
    "googlenet": torchvision(tv.googlenet, aux_logits=False, init_weights=False),
    "inception-v3": torchvision(tv.inception_v3, 299, aux_logits=False, init_weights=False),
    "inception-v2": paper(inception_v2),
    **{f"resnet{6 * n + 2}": paper(resnet_cifar, n, shape=CIFAR) for n in (3, 5, 7, 9)},
    **{f"resnet{n}": torchvision(getattr(tv, f"resnet{n}")) for n in (18, 34, 50, 101, 152)},
    **{f"resnet{n}-v1": v1(getattr(tv, f"resnet{n}")) for n in (50, 101, 152)},
    "resnext50-32x4d": torchvision(tv.resnext50_32x4d),
    **{f"resnetv2-{n}": from_timm(f"resnetv2_{n}") for n in (50, 101, 152)},
    "squeezenet1-0": torchvision(tv.squeezenet1_0),
    "squeezenet1-1": torchvision(tv.squeezenet1_1),
    "wrn-28-10": paper(wide_resnet, 4, 10, shape=CIFAR),
    "inception-resnet-v2": from_timm("inception_resnet_v2", 299),
    "densenet121": torchvision(tv.densenet121),
    "densenet169": torchvision(tv.densenet169),
    "xception": from_timm("legacy_xception", 299),
    "mobilenet-v1": from_timm("mobilenetv1_100"),
    "mobilenet-v1-0.25": lambda: (_gen_mobilenet_v1("mobilenetv1_100", 0.25), (3, 128, 128), "timm's, width 0.25"),
    "mobilenet-v2": torchvision(tv.mobilenet_v2),
    "seresnet50": from_timm("seresnet50"),
    "seresnet50-v1": from_timm("legacy_seresnet50"),
    "senet154": from_timm("legacy_senet154"),
    **{f"shufflenet-v2-x{a}-{b}": torchvision(getattr(tv, f"shufflenet_v2_x{a}_{b}")) for a, b in ((0, 5), (1, 0), (1, 5), (2, 0))},
    "mobilenet-v3-large": torchvision(tv.mobilenet_v3_large),
    "mobilenet-v3-small": torchvision(tv.mobilenet_v3_small),
    **{f"efficientnet-b{n}": torchvision(getattr(tv, f"efficientnet_b{n}"), side) for n, side in enumerate((224, 240, 288, 300, 380))},
    **{f"tf-efficientnet-b{n}": from_timm(f"tf_efficientnet_b{n}", side) for n, side in enumerate((224, 240, 260, 300, 380))},
    "repvgg-a0": from_timm("repvgg_a0"),
    "convnext-tiny": torchvision(tv.convnext_tiny),
    "convnext-small": torchvision(tv.convnext_small),
}
# With their auxiliary heads; multiply-adds are those of prediction.
HEADS = {
    "googlenet": lambda: tv.googlenet(aux_logits=True, init_weights=False),
    "inception-v3": lambda: tv.inception_v3(aux_logits=True, init_weights=False),
}


def macs(net, shape):
    """Multiply-adds of convolutions and dense layers, counted as they run."""
    total = 0

    def count(m, _, y):
        nonlocal total
        # Each output number sums over as many products as a filter, or a row, has weights.
        total += y.numel() * m.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        net.eval()(torch.zeros(1, *shape))
    for h in hooks:
        h.remove()
    return total


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def main():
    for name in sys.argv[1:] or NETS:
        net, shape, source = NETS[name]()
        heads = f', with heads {parameters(HEADS[name]())}' if name in HEADS else ""
        print(f'("{name}", {parameters(net):_}, {macs(net, shape):_}), // {source}{heads}', flush=True)
    versions = f"// torchvision {tv.__name__ and __import__('torchvision').__version__}, timm {timm.__version__}"
    print(versions)


if __name__ == "__main__":
    main()
