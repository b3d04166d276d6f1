"""Writes torchvision.toml: where torchvision's weights lie and how they want their pictures, as torchvision
itself says. Run:
    python make.py > torchvision.toml
The eight (at times ten) digits in a file's name are the first of its SHA-256 (torch.hub checks them); torchvision gives no more
of them, and sizes in MiB to three places.
"""
import re
import torchvision
from torchvision.models import get_model_weights, list_models

FAMILIES = r"alexnet|vgg|googlenet|inception_v3|resnet(18|34|50|101|152)$|resnext50|densenet(121|169)|squeezenet|shufflenet_v2|" \
           r"mobilenet|efficientnet_b[0-4]$|convnext_(tiny|small)"
print("# Weights of torchvision", torchvision.__version__.split("+")[0], "for ImageNet; written by make.py. BSD-3-Clause (torchvision),")
print("# the pictures they learnt from have terms of their own.")
for model in list_models(module=torchvision.models):
    if not re.match(FAMILIES, model):
        continue
    for weights in get_model_weights(model):
        meta, pre = weights.meta, weights.transforms()
        if len(meta["categories"] or []) != 1000 or "ImageNet-1K" not in meta["_metrics"]:
            continue
        version = weights.name.rsplit("_", 1)[1].lower()
        name = model.replace("_", "-") + ("" if version == "v1" else f"-{version}")
        file = weights.url.rsplit("/", 1)[1]
        digits = re.search(r"-([0-9a-f]{8,64})\.pth$", file)
        if not digits:
            continue
        figures = meta["_metrics"]["ImageNet-1K"]
        if list(pre.mean) != [0.485, 0.456, 0.406] or list(pre.std) != [0.229, 0.224, 0.225]:
            continue
        print(f"""
[[weights]]
name = "{name}"
url = "{weights.url}"
sha256 = "{digits[1]}"
mebibytes = {meta["_file_size"]}
side = {pre.crop_size[0]}
short-side = {pre.resize_size[0]}
filter = "{pre.interpolation.value}"
top1 = {figures["acc@1"]}
top5 = {figures["acc@5"]}""")
