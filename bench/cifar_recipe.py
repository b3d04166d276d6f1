"""The recipe of `convoke train DATA --model resnet20 --epochs 10 --batch 128` in PyTorch, on the same files.

Usage: python bench/cifar_recipe.py FOLDER [EPOCHS]   (FOLDER holds train/CLASS/*.jpg and test/CLASS/*.jpg)
Needs torch, numpy, pillow.
"""

import pathlib
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn


class Block(nn.Module):
    def __init__(self, c, d, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(c, d, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(d)
        self.conv2 = nn.Conv2d(d, d, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(d)
        self.stride, self.extra = stride, d - c

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        if self.extra:  # option A: every second pixel, the missing channels zero
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))
        return F.relu(y + x, inplace=True)


def resnet20():
    layers, c = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(True)], 16
    for stage, d in enumerate([16, 32, 64]):
        for i in range(3):
            layers.append(Block(c, d, 2 if stage and i == 0 else 1))
            c = d
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_in", nonlinearity="relu")
        if isinstance(m, nn.Linear):
            nn.init.xavier_uniform_(m.weight)
            nn.init.zeros_(m.bias)
    return net


def load(folder):
    classes = sorted(p.name for p in folder.iterdir())
    files = [(f, i) for i, c in enumerate(classes) for f in sorted((folder / c).glob("*.jpg"))]
    x = np.stack([np.asarray(Image.open(f).convert("RGB")) for f, _ in files])
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(), torch.tensor([i for _, i in files])


def main():
    root, batch = pathlib.Path(sys.argv[1]), 128
    epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    torch.manual_seed(0)
    torch.set_num_threads(2)
    xs, ys = load(root / "train")
    xt, yt = load(root / "test")
    sample = xs[:: len(xs) // 2000].float() / 255
    mean, std = (f((0, 2, 3)).view(1, 3, 1, 1) for f in (sample.mean, sample.std))

    def norm(u):
        return ((u.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)

    net = resnet20().to(memory_format=torch.channels_last)
    groups = [
        {"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": 5e-4},
        {"params": [p for p in net.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    opt = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    steps = len(xs) // batch
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=steps * epochs, cycle_momentum=False)
    for epoch in range(epochs):
        start, total = time.time(), 0.0
        net.train()
        order = torch.randperm(len(xs))
        for s in range(steps):
            i = order[s * batch : (s + 1) * batch]
            x = F.pad(xs[i], (4, 4, 4, 4))
            out = torch.empty(batch, 3, 32, 32, dtype=torch.uint8)
            dx, dy, flip = torch.randint(0, 9, (batch,)), torch.randint(0, 9, (batch,)), torch.rand(batch) < 0.5
            for b in range(batch):
                p = x[b, :, dy[b] : dy[b] + 32, dx[b] : dx[b] + 32]
                out[b] = p.flip(2) if flip[b] else p
            loss = F.cross_entropy(net(norm(out)), ys[i])
            opt.zero_grad()
            loss.backward()
            opt.step()
            sched.step()
            total += loss.item()
        net.eval()
        with torch.no_grad():
            parts = range(0, len(xt), 500)
            right = sum((net(norm(xt[j : j + 500])).argmax(1) == yt[j : j + 500]).sum().item() for j in parts)
        top1, seconds = 100 * right / len(xt), time.time() - start
        print(f"epoch {epoch + 1} loss {total / steps:.4f} top1 {top1:.2f} {seconds:.1f} s", flush=True)


main()
