"""Parameters and multiply-adds of the networks for signals, built here from their papers, for GunPoint (150 steps, 2 classes).

    python bench/parity/signal_counts.py

`crates/convoke-zoo/tests/counts.rs` holds these lines.
"""

import torch
from torch import nn


def macs(net, x):
    total = 0

    def hook(m, inputs, out):
        nonlocal total
        if isinstance(m, nn.Conv1d):
            total += out.numel() // out.shape[0] * m.kernel_size[0] * m.in_channels // m.groups
        if isinstance(m, nn.Linear):
            total += m.in_features * m.out_features

    for m in net.modules():
        m.register_forward_hook(hook)
    net.eval()(x)
    return total


def same(c, d, k):
    return nn.Sequential(nn.ConstantPad1d(((k - 1) // 2, k // 2), 0), nn.Conv1d(c, d, k, bias=False))


def unit(c, d, k, relu=True):
    return nn.Sequential(same(c, d, k), nn.BatchNorm1d(d), *([nn.ReLU()] if relu else []))


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(-1)


class Last(nn.Module):
    def forward(self, x):
        return x[..., -1]


def mlp():
    """Wang et al. 2017, figure 1a."""
    hidden = [nn.Sequential(nn.Linear(c, 500), nn.ReLU()) for c in (150, 500, 500)]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(500, 2))


def fcn():
    """Wang et al. 2017, figure 1b."""
    return nn.Sequential(unit(1, 128, 8), unit(128, 256, 5), unit(256, 128, 3), Mean(), nn.Linear(128, 2))


class Block(nn.Module):
    def __init__(self, c, d):
        super().__init__()
        self.body = nn.Sequential(unit(c, d, 8), unit(d, d, 5), unit(d, d, 3, relu=False))
        self.short = unit(c, d, 1, relu=False) if c != d else nn.BatchNorm1d(d)

    def forward(self, x):
        return torch.relu(self.body(x) + self.short(x))


def resnet():
    """Wang et al. 2017, figure 1c."""
    return nn.Sequential(Block(1, 64), Block(64, 128), Block(128, 128), Mean(), nn.Linear(128, 2))


class Module(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.narrow = nn.Conv1d(c, 32, 1, bias=False) if c > 1 else nn.Identity()
        self.convs = nn.ModuleList([same(32 if c > 1 else 1, 32, k) for k in (40, 20, 10)])
        self.pool = nn.Sequential(nn.MaxPool1d(3, 1, 1), nn.Conv1d(c, 32, 1, bias=False))
        self.norm = nn.BatchNorm1d(128)

    def forward(self, x):
        n = self.narrow(x)
        return torch.relu(self.norm(torch.cat([c(n) for c in self.convs] + [self.pool(x)], 1)))


class InceptionTime(nn.Module):
    """Ismail Fawaz et al. 2020, figures 1 and 2."""

    def __init__(self):
        super().__init__()
        self.modules_ = nn.ModuleList([Module(1 if i == 0 else 128) for i in range(6)])
        self.shorts = nn.ModuleList([unit(1, 128, 1, relu=False), unit(128, 128, 1, relu=False)])
        self.head = nn.Linear(128, 2)

    def forward(self, x):
        start = x
        for i, m in enumerate(self.modules_):
            x = m(x)
            if i % 3 == 2:
                x = start = torch.relu(x + self.shorts[i // 3](start))
        return self.head(x.mean(-1))


class Level(nn.Module):
    def __init__(self, c, dilation):
        super().__init__()
        conv = lambda c: nn.Sequential(nn.ConstantPad1d((2 * dilation, 0), 0), nn.Conv1d(c, 32, 3, dilation=dilation))
        self.convs = nn.ModuleList([conv(c), conv(32)])
        self.norms = nn.ModuleList([nn.LayerNorm(32), nn.LayerNorm(32)])
        self.short = nn.Conv1d(c, 32, 1) if c != 32 else nn.Identity()

    def forward(self, x):
        y = x
        for conv, norm in zip(self.convs, self.norms):
            y = torch.relu(norm(conv(y).mT).mT)
        return torch.relu(y + self.short(x))


def tcn():
    """Bai et al. 2018, figure 1, with layer norm."""
    return nn.Sequential(*[Level(1 if i == 0 else 32, 2**i) for i in range(6)], Last(), nn.Linear(32, 2))


for name, make in [("mlp-1d", mlp), ("fcn-1d", fcn), ("resnet-1d", resnet), ("tcn", tcn), ("inceptiontime", InceptionTime)]:
    net = make()
    print(f'    ("{name}", {sum(p.numel() for p in net.parameters()):_}, {macs(net, torch.randn(1, 1, 150)):_}),')
