//! The networks of nets.py in burn, on its Flex backend: pure Rust, the one burn recommends for processors.

use crate::{Step, Work, blocks, sizes};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::pool::MaxPool2dConfig;
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, SgdConfig};
use burn::prelude::*;
use burn::tensor::activation::relu;
use burn::tensor::ops::PadMode;
use burn::tensor::{Distribution, s};
use std::hint::black_box;

fn conv(c: usize, d: usize, k: usize, stride: usize, pad: usize) -> Conv2dConfig {
    Conv2dConfig::new([c, d], [k, k])
        .with_stride([stride, stride])
        .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
}

fn max_pool(x: Tensor<4>, k: usize, pad: usize) -> Tensor<4> {
    MaxPool2dConfig::new([k, k])
        .with_strides([2, 2])
        .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
        .init()
        .forward(x)
}

#[derive(Module, Debug)]
struct LeNet5 {
    convs: Vec<Conv2d>,
    dense: Vec<Linear>,
}

impl LeNet5 {
    fn new(on: &Device) -> Self {
        Self {
            convs: vec![conv(1, 6, 5, 1, 2).init(on), conv(6, 16, 5, 1, 0).init(on)],
            dense: [(400, 120), (120, 84), (84, 10)]
                .map(|(c, d)| LinearConfig::new(c, d).init(on))
                .into(),
        }
    }

    /// x [n,1,28,28] -> [n,10]
    fn forward(&self, mut x: Tensor<4>) -> Tensor<2> {
        for c in &self.convs {
            x = max_pool(relu(c.forward(x)), 2, 0);
        }
        let x = x.flatten(1, 3);
        let x = relu(self.dense[0].forward(x));
        let x = relu(self.dense[1].forward(x));
        self.dense[2].forward(x)
    }
}

#[derive(Module, Debug)]
struct ConvNorm {
    conv: Conv2d,
    norm: BatchNorm,
}

impl ConvNorm {
    fn new(c: usize, d: usize, k: usize, stride: usize, on: &Device) -> Self {
        Self {
            conv: conv(c, d, k, stride, k / 2).with_bias(false).init(on),
            norm: BatchNormConfig::new(d).init(on),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.norm.forward(self.conv.forward(x))
    }
}

#[derive(Module, Debug)]
struct Block {
    first: ConvNorm,
    second: ConvNorm,
    /// ImageNet's networks widen by a 1×1 convolution.
    project: Option<ConvNorm>,
    /// CIFAR's take every second pixel and add this many channels of zeros on either side.
    pad: usize,
}

impl Block {
    fn new(c: usize, d: usize, stride: usize, projected: bool, on: &Device) -> Self {
        Self {
            first: ConvNorm::new(c, d, 3, stride, on),
            second: ConvNorm::new(d, d, 3, 1, on),
            project: (projected && stride > 1).then(|| ConvNorm::new(c, d, 1, stride, on)),
            pad: (d - c) / 2,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.second.forward(relu(self.first.forward(x.clone())));
        let x = match &self.project {
            Some(p) => p.forward(x),
            None if self.pad > 0 => {
                let x = x.slice(s![.., .., ..;2, ..;2]);
                x.pad([(self.pad, self.pad), (0, 0), (0, 0)], PadMode::Constant(0.0))
            }
            None => x,
        };
        relu(y + x)
    }
}

#[derive(Module, Debug)]
struct ResNet {
    stem: ConvNorm,
    large: bool,
    blocks: Vec<Block>,
    head: Linear,
}

impl ResNet {
    fn new(net: &str, classes: usize, on: &Device) -> Self {
        let large = net == "resnet18";
        let (width, last) = if large { (64, 512) } else { (16, 64) };
        Self {
            stem: if large {
                ConvNorm::new(3, width, 7, 2, on)
            } else {
                ConvNorm::new(3, width, 3, 1, on)
            },
            large,
            blocks: blocks(net)
                .into_iter()
                .map(|(c, d, stride)| Block::new(c, d, stride, large, on))
                .collect(),
            head: LinearConfig::new(last, classes).init(on),
        }
    }

    /// x [n,3,h,w] -> [n,classes]
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let mut x = relu(self.stem.forward(x));
        if self.large {
            x = max_pool(x, 3, 1);
        }
        for b in &self.blocks {
            x = b.forward(x);
        }
        self.head.forward(x.mean_dims(&[2, 3]).flatten(1, 3))
    }
}

#[derive(Module, Debug)]
enum Net {
    LeNet5(LeNet5),
    ResNet(ResNet),
}

impl Net {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        match self {
            Net::LeNet5(net) => net.forward(x),
            Net::ResNet(net) => net.forward(x),
        }
    }
}

pub fn step(work: &Work) -> Result<Step, String> {
    let (h, w, c, classes) = sizes(&work.net)?;
    let on = if work.train { Device::flex().autodiff() } else { Device::flex() };
    let net = match work.net.as_str() {
        "lenet5" => Net::LeNet5(LeNet5::new(&on)),
        name => Net::ResNet(ResNet::new(name, classes, &on)),
    };
    let x = Tensor::<4>::random([work.batch, c, h, w], Distribution::Normal(0.0, 1.0), &on);
    if !work.train {
        return Ok(Box::new(move || {
            black_box(net.forward(x.clone()));
            Ok(())
        }));
    }
    let y = Tensor::<1, Int>::arange(0..work.batch as i64, &on).remainder_scalar(classes as i64);
    let loss = CrossEntropyLossConfig::new().init(&on);
    let momentum = MomentumConfig::new().with_momentum(0.9).with_dampening(0.0);
    let mut optimizer = SgdConfig::new().with_momentum(Some(momentum)).init();
    let mut trained = Some(net);
    Ok(Box::new(move || {
        let net = trained.take().ok_or("the network is lost")?;
        let gradients = loss.forward(net.forward(x.clone()), y.clone()).backward();
        let gradients = GradientsParams::from_grads(gradients, &net);
        trained = Some(optimizer.step(1e-4, net, gradients));
        Ok(())
    }))
}
