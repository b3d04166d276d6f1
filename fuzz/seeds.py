"""Writes small files of every kind for the fuzzer to begin with, made from nothing but this script.

    python seeds.py OUT        (needs numpy and pillow; the layouts are those of src/lib.rs)
"""
import gzip
import io
import os
import struct
import sys

import numpy as np
from PIL import Image

OUT = sys.argv[1]


def put(target, name, data):
    os.makedirs(f"{OUT}/{target}", exist_ok=True)
    with open(f"{OUT}/{target}/{name}", "wb") as f:
        f.write(data.encode() if isinstance(data, str) else data)


def two(a, b):
    return struct.pack("<H", len(a)) + a + b


def texts(*all):
    return b"\0".join(t.encode() if isinstance(t, str) else t for t in all)


# Pictures of every colour and coding.
noise = np.random.default_rng(1).integers(0, 255, (9, 13, 4), dtype=np.uint8)
rgba = Image.fromarray(noise)
exif = rgba.convert("RGB").getexif()
exif[0x0112] = 6
kinds = {
    "1.png": ("1", "PNG", {}), "l.png": ("L", "PNG", {}), "la.png": ("LA", "PNG", {}), "p.png": ("P", "PNG", {}),
    "rgb.png": ("RGB", "PNG", {}), "rgba.png": ("RGBA", "PNG", {}), "i16.png": ("I;16", "PNG", {}),
    "turned.png": ("RGB", "PNG", {"exif": exif}), "l.jpg": ("L", "JPEG", {}), "rgb.jpg": ("RGB", "JPEG", {}),
    "cmyk.jpg": ("CMYK", "JPEG", {}), "progressive.jpg": ("RGB", "JPEG", {"progressive": True}),
    "turned.jpg": ("RGB", "JPEG", {"exif": exif, "subsampling": 0}), "p.gif": ("P", "GIF", {}), "1.bmp": ("1", "BMP", {}),
    "p.bmp": ("P", "BMP", {}), "rgb.bmp": ("RGB", "BMP", {}), "lossy.webp": ("RGB", "WEBP", {}),
    "lossless.webp": ("RGBA", "WEBP", {"lossless": True}),
}
for name, (mode, kind, options) in kinds.items():
    out = io.BytesIO()
    image = Image.fromarray(noise[..., 0].astype(np.uint16) * 250) if mode == "I;16" else rgba.convert(mode)
    image.save(out, kind, **options)
    put("picture", name, out.getvalue())

# A network with every kind of layer, and some shapes of graphs.
one = """conv filters=4,window=3
conv filters=4,window=[3,5],stride=2,padding="valid",dilation=[1,2],bias=false
conv filters=4,window=3,padding=[1,0,2,1],groups=2,init="glorot",batch_norm=true,activation="relu6"
conv1d filters=3,window=3,padding=1
max-pool window=2
max-pool window=3,stride=2,padding=1
mean-pool window=2,count_padding=true
adaptive-mean-pool size=3
global-mean-pool
dense units=5,activation="tanh"
batch-norm epsilon=0.001,momentum=0.1
layer-norm epsilon=1e-6
dropout rate=0.5
stochastic-depth rate=0.2
local-response-norm size=5,alpha=1e-4,beta=0.75,k=2.0
relu max=6.0
leaky-relu slope=0.1
sigmoid
hard-sigmoid
hard-swish
silu
gelu
rescale factor=0.5,offset=1.0
softmax
scale first=0.1
slice start=1,channels=2
channel-shuffle groups=2
flatten
shortcut stride=2,channels=8
take axis="h",start=-1,step=-2,size=3
spread axis="w",step=2
mix axis="c",size=1,table=[[[0,0.5],[1,0.5]]]
reduce axis="h",by="mean"
function of="elu",a=1.0
function of="power",a=2.0,b=1.0
constant shape=[8,8,4]
rearrange sizes=[8,8,4],order=[2,0,1],shape=[4,8,8]
upsample factor=2"""
layers = []
for line in one.splitlines():
    kind, _, rest = line.partition(" ")
    depth, keys = 0, ""
    for c in rest:
        depth += (c in "[") - (c in "]")
        keys += "\n" if c == "," and depth == 0 else c
    layers.append(f'[[layer]]\ntype = "{kind}"\n{keys}\n')
    put("network", f"{len(layers):02}-{kind}.toml", f'name = "n"\ninput = [8, 8, 4]\n{layers[-1]}')
graph = 'input = [8, 8, 4]\n[[layer]]\ntype = "conv"\nname = "a"\nfilters = 4\nwindow = 1\n'
for kind, keys in [("add", ""), ("concat", ""), ("gate", ""), ("combine", 'by = "multiply"\n')]:
    put("network", f"two-{kind}.toml", f'{graph}[[layer]]\ntype = "{kind}"\n{keys}from = ["a", "input"]\n')
put("network", "heads.toml", 'output = "b"\nheads = [{ place = "c", weight = 0.3 }]\n' + graph + "".join(
    f'[[layer]]\ntype = "dense"\nunits = "classes"\nname = "{n}"\nfrom = "a"\n' for n in "bc"))
put("network", "absurd.toml", 'input = [4294967295, 2147483647, 2]\n[[layer]]\ntype = "conv"\nfilters = 9223372036854775807\nwindow = 1000000000\nstride = 0\n')
deep = "".join(f'[[layer]]\ntype = "conv"\nfilters = 2\nwindow = 3\nstride = {1 + i % 2}\n' for i in range(20))
put("network", "deep.toml", f"input = [99, 99, 1]\n{deep}")

# Boxes.
put("boxes", "yolo", b"\0" + texts("0 0.5 0.5 0.5 0.5\n1 0.1 0.1 0.1 0.1 0.9\n", "1 .1 .1 .5 .1 .5 .5\n", "cat\ndog\n"))
yaml = "path: .\ntrain: images\nval: [images]\nnc: 2\nnames:\n  0: cat\n  1: 'dog'\nkpt_shape: [2, 3]\n"
put("boxes", "yaml", b"\1" + texts(yaml, "0 0.5 0.5 0.5 0.5 1 1 2\n", ""))
put("boxes", "yaml-list", b"\1" + texts("names: [cat, dog, true, 7]\ntrain: images\n", "3 .5 .5 .5 .5\n", "0 nan 0 1e9 -1\n"))
put("boxes", "cvat-yolo", b"\2" + texts("cat\ndog\n", "classes = 2\ntrain = data/train.txt\n", "data/x/a.png\nb.png\n", "0 .5 .5 .5 .5\n"))
coco = """{"images":[{"id":7,"file_name":"a.png","width":40,"height":20},{"id":"x","file_name":"sub/b.png"}],
"categories":[{"id":5,"name":"dog"},{"id":3,"name":"cat"}],"annotations":[
{"id":1,"image_id":7,"category_id":5,"bbox":[1,2,3,4],"area":9.5,"iscrowd":0,"segmentation":[[1,2]]},
{"image_id":"x","category_id":3,"bbox":[10,2,-20,10],"iscrowd":true},{"image_id":8,"category_id":3,"bbox":[1,2,3]}]}"""
put("boxes", "coco", b"\3" + coco.encode())
voc = """<annotation><filename>a.jpg</filename><source><database>The VOC2007 Database</database></source><size><width>40
</width><height>20</height></size><object><name>cat</name><difficult>1</difficult><bndbox><xmin>1</xmin><ymin>1</ymin>
<xmax>10</xmax><ymax>10.5</ymax></bndbox></object></annotation>"""
put("boxes", "voc", b"\4" + texts(voc, voc.replace("a.jpg", "b.png").replace("VOC2007", "My"), "a\nb 1\n"))
cvat = """<?xml version="1.0"?><annotations><meta/><image id="0" name="a.png" width="40" height="20" subset="Train">
<box label="dog" xtl="1" ytl="2" xbr="11.5" ybr="12"/><box label="&lt;b" xtl="1"/></image><image name="b.png"/></annotations>"""
put("boxes", "cvat", b"\5" + cvat.encode())
studio = """[{"id":1,"data":{"image":"/data/upload/1/0a1b2c3d-a%2epng"},"annotations":[{"was_cancelled":true,"result":[]},{"result":
[{"original_width":40,"original_height":20,"value":{"x":25,"y":25,"width":50,"height":50,"rotation":30,"rectanglelabels":["w"]}}]}]},
{"image":"b.png","id":9,"annotation_id":3,"label":[{"x":25,"y":25,"width":5,"height":5,"rectanglelabels":["w"]}]},{"id":4}]"""
put("boxes", "studio", b"\6" + studio.encode())
put("boxes", "csv", b"\7filename,width,height,class,xmin,ymin,xmax,ymax\na.png,40,20,cat,0,0,10,5\nb.png,,,,,,,\na.png,20,40,\"d,g\",9,1e3,-1,5\n")

# Samples.
def idx(*shape):
    return b"\0\0\x08" + bytes([len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + bytes(i % 251 for i in range(np.prod(shape)))


labels = idx(4)[:8] + bytes([0, 1, 0, 2])
put("samples", "idx", b"\0" + two(idx(4, 3, 2), labels))
put("samples", "idx-gz", b"\1" + two(gzip.compress(idx(4, 3, 2), mtime=0), gzip.compress(labels, mtime=0)))
bomb = gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, 4, 1000, 1000) + bytes(10000), mtime=0)
put("samples", "idx-bomb", b"\1" + two(bomb, gzip.compress(labels, mtime=0)))
put("samples", "cifar", b"\2" + two(b"a b c d e f g h i j", bytes([3]) + bytes(i % 255 for i in range(3072))))
put("samples", "list", b"\3v_1.png 2\nv_3.png n01440764\nv_2,1\n")
put("samples", "kaggle", b"\3ImageId,PredictionString\nv_2,n01443537 85 1 499 272 \nv_1,cat 1 2\nv_3,n01440764\n")
put("samples", "bare", b"\x031\n0\n\n2\n")
put("samples", "names", b"\4" + texts("cat", "dog", b"\xff\xfe", "a\x1b[31mb", "train\n"))

# Signals.
put("series", "classes.ts", b"\0# words\n@problemName x\n@timeStamps false\n@classLabel true b a\n@data\n1,2,3:4,5,6:a\n7,?:8,9:b\n-1e3:0:a\n")
put("series", "numbers.ts", b"\0@targetLabel true\n@data\n1,2:0.5\n3,NaN,4:7\n")
put("series", "classes.tsv", b"\x011\t0.5\t1.5\tNaN\n-1.0000000e+00\t1\t?\t3\n1\t2\t3\t4\n")
put("series", "heading.csv", b"\2t0,t1,class\n1,2,walk\n3,4,run\n5,,walk\n")
put("series", "bare.csv", b"\2" + b"1,2,3\n4,5,6\n")
put("series", "table.csv", b"\2Date,a,b\n2020-01-01,1,\n2020-01-02,,5\n2020-01-03,3,6\n")


def npy(a):
    out = io.BytesIO()
    np.save(out, a)
    return out.getvalue()


for kind in ["<f4", "<f8", "<i8", "<i2", "|u1"]:
    put("series", f"{kind[1:]}.npy", b"\3" + npy(np.arange(12).reshape(2, 2, 3).astype(kind)))
put("series", "words.npy", b"\4" + two(npy(np.arange(6.0).reshape(2, 3)), npy(np.array(["ab", "c"]))))
put("series", "whole.npy", b"\4" + two(npy(np.array([[1.0, np.nan], [2, 3]])), npy(np.array([1, 2]))))

# Settings and spaces; studies, checkpoints and models come from `cargo test -p convoke --test hostile -- --ignored`.
space = """[[dimension]]\nname = "optimizer"\nkind = "choice"\nof = ["sgd", "adam"]\n
[[dimension]]\nname = "lr"\nkind = "float"\nlow = 1e-4\nhigh = 1.0\nlog = true\n
[[dimension]]\nname = "blocks"\nkind = "int"\nlow = 1\nhigh = 4\n
[[dimension]]\nname = "filters2"\nkind = "int"\nlow = 8\nhigh = 64\nstep = 8\nwhen = { name = "blocks", at-least = 2 }\n
[[dimension]]\nname = "momentum"\nkind = "float"\nlow = 0.0\nhigh = 0.99\nwhen = { name = "optimizer", is = ["sgd"] }\n"""
put("run", "space", b"\3" + space.encode())
head = "epoch,train_loss,train_top1,val_loss,val_top1,val_top5,lr,seconds,pictures_per_second\n"
put("run", "results", b"\1" + (head + "1,2.0,0.5,,,,0.125,1.5,100.0\n2,1e308,nan,0.25,0.25,0.25,-0,inf,1\n").encode())

# Weights: headers without their length, which the target puts before them.
for kind, size in [("F32", 4), ("F64", 8), ("F16", 2), ("BF16", 2), ("I64", 8), ("U8", 1), ("BOOL", 1), ("F8_E4M3", 1)]:
    header = f'{{"__metadata__":{{"format":"pt"}},"a.weight":{{"dtype":"{kind}","shape":[2,1],"data_offsets":[0,{2 * size}]}}}}'
    put("safetensors", kind, header.encode() + bytes(2 * size))

# What was found by reading and by hand, and is refused since.
put("network", "sizes-go-round.toml", 'input = [4611686018427387904, 4611686018427387904, 16]\n[[layer]]\ntype = "relu"\n')
take = '[[layer]]\ntype = "take"\naxis = "w"\nsize = 16777216\n'
put("network", "tables-of-gigabytes.toml", f'input = [1, 1, 1]\n{take * 60}[[layer]]\ntype = "dense"\nunits = 2\n')
put("series", "channels-of-unlike-lengths.ts", b"\0@data\n" + b"1," * 1500 + b":" * 1500 + b"\n")
put("boxes", "nested-yaml", b"\1" + texts("names: " + "[" * 1500 + "]" * 1500, "", ""))
put("boxes", "dashes-yaml", b"\1" + texts("names:\n " + "- " * 1500 + "a", "", ""))
