"""A well-known detector on BCCD's own split, beside `convoke train BCCD`: torchvision's SSDLite320 on MobileNetV3-Large
or Faster R-CNN on MobileNetV3-Large 320 with a feature pyramid, from drawn weights, judged by pycocotools.

Usage: python bench/bccd_peer.py BCCD ssdlite|fasterrcnn MINUTES [THREADS]   (minutes of processor time, all threads)
Needs torch, torchvision, pycocotools, pillow, numpy.
"""

import pathlib
import random
import sys
import time
import xml.etree.ElementTree as ET

import numpy as np
import torch
import torchvision
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision import tv_tensors
from torchvision.transforms import v2

CLASSES = ["Platelets", "RBC", "WBC"]


def read(folder, part):
    """Pictures and boxes of a part; boxes of no area are left out."""
    items = []
    for name in (folder / "ImageSets/Main" / f"{part}.txt").read_text().split():
        picture = Image.open(folder / "JPEGImages" / f"{name}.jpg").convert("RGB")
        boxes, labels = [], []
        for thing in ET.parse(folder / "Annotations" / f"{name}.xml").iter("object"):
            at = [float(thing.find("bndbox").find(k).text) for k in ("xmin", "ymin", "xmax", "ymax")]
            if at[2] > at[0] and at[3] > at[1]:
                boxes.append(at)
                labels.append(CLASSES.index(thing.find("name").text) + 1)
        items.append((torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous(), boxes, labels))
    return items


def judge(model, items):
    model.eval()
    truth = {"images": [], "annotations": [], "categories": [{"id": i + 1, "name": n} for i, n in enumerate(CLASSES)]}
    found = []
    with torch.no_grad():
        for i, (picture, boxes, labels) in enumerate(items):
            truth["images"].append({"id": i, "width": picture.shape[2], "height": picture.shape[1]})
            for (x0, y0, x1, y1), label in zip(boxes, labels):
                truth["annotations"].append({
                    "id": len(truth["annotations"]) + 1, "image_id": i, "category_id": label, "iscrowd": 0,
                    "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)})
            out = model([picture.float() / 255])[0]
            for (x0, y0, x1, y1), label, score in zip(*(out[k].tolist() for k in ("boxes", "labels", "scores"))):
                found.append({"image_id": i, "category_id": label, "score": score, "bbox": [x0, y0, x1 - x0, y1 - y0]})
    coco = COCO()
    coco.dataset = truth
    coco.createIndex()
    judged = COCOeval(coco, coco.loadRes(found), "bbox")
    judged.evaluate()
    judged.accumulate()
    judged.summarize()
    per_class = judged.eval["precision"][0, :, :, 0, 2].mean(0)
    return judged.stats[1], judged.stats[0], dict(zip(CLASSES, per_class.round(3)))


def main():
    folder, which, minutes = pathlib.Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    torch.set_num_threads(int(sys.argv[4]) if len(sys.argv) > 4 else 2)
    torch.manual_seed(0)
    random.seed(0)
    make = {
        "ssdlite": torchvision.models.detection.ssdlite320_mobilenet_v3_large,
        "fasterrcnn": torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn,
    }[which]
    model = make(weights=None, weights_backbone=None, num_classes=len(CLASSES) + 1)
    change = v2.Compose([
        v2.RandomPhotometricDistort(), v2.RandomIoUCrop(), v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(),
        v2.SanitizeBoundingBoxes(), v2.ToDtype(torch.float32, scale=True)])
    train, val, test = (read(folder, part) for part in ("train", "val", "test"))
    batch, begun, step, epoch = 8, time.process_time(), 0, 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.03)
    while (share := (time.process_time() - begun) / (60 * minutes)) < 1:
        model.train()
        random.shuffle(train)
        for at in range(0, len(train) - batch + 1, batch):
            share = min(1, (time.process_time() - begun) / (60 * minutes))
            lr = 1e-3 * min(1, (step + 1) / 200) * 0.5 * (1 + np.cos(np.pi * share))
            optimizer.param_groups[0]["lr"] = lr
            pictures, targets = [], []
            for picture, boxes, labels in train[at : at + batch]:
                target = {"boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=picture.shape[1:]),
                          "labels": torch.tensor(labels)}
                picture, target = change(tv_tensors.Image(picture), target)
                pictures.append(picture)
                targets.append(target)
            loss = sum(model(pictures, targets).values())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            step += 1
        epoch += 1
        if epoch % 5 == 0:
            print(f"epoch {epoch} step {step} loss {loss.item():.3f} {time.process_time() - begun:.0f} processor seconds", flush=True)
    print(f"{which}: {epoch} epochs, {step} steps of {batch} in {(time.process_time() - begun) / 60:.1f} processor minutes")
    for name, part in (("val", val), ("test", test)):
        map50, both, each = judge(model, part)
        print(f"{name}: mAP50 {map50:.3f} mAP50-95 {both:.3f} {each}", flush=True)


main()
