"""The networks of the benchmarks in PyTorch: the small ones here, the others from torchvision."""

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

# name: (height, width, channels), classes
SIZES = {
    "lenet5": ((28, 28, 1), 10),
    "resnet20": ((32, 32, 3), 10),
    "resnet32": ((32, 32, 3), 10),
    "resnet44": ((32, 32, 3), 10),
    "resnet56": ((32, 32, 3), 10),
    "resnet18": ((224, 224, 3), 1000),
    "resnet50": ((224, 224, 3), 1000),
    "mobilenet-v2": ((224, 224, 3), 1000),
    "alexnet": ((224, 224, 3), 1000),
}


class LeNet5(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.dense1, self.dense2, self.dense3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = torch.flatten(x, 1)
        return self.dense3(F.relu(self.dense2(F.relu(self.dense1(x)))))


class Block(nn.Module):
    def __init__(self, c, d, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, d, 3, stride, 1, bias=False), nn.BatchNorm2d(d)
        self.conv2, self.bn2 = nn.Conv2d(d, d, 3, 1, 1, bias=False), nn.BatchNorm2d(d)
        self.stride, self.pad = stride, (d - c) // 2

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        if self.pad:  # every second pixel; the new channels are zero
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(y + x, inplace=True)


def cifar_resnet(depth):
    layers, c = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(True)], 16
    for stage, d in enumerate([16, 32, 64]):
        for i in range((depth - 2) // 6):
            layers.append(Block(c, d, 2 if stage and i == 0 else 1))
            c = d
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def build(name):
    torch.manual_seed(0)
    if name == "lenet5":
        return LeNet5()
    if SIZES[name][0][0] == 32:
        return cifar_resnet(int(name.removeprefix("resnet")))
    return getattr(torchvision.models, name.replace("-", "_"))()
