//! The networks of nets.py in candle, on its processor backend without a BLAS. It has no SGD with momentum, so the
//! two lines of it are here; it cannot train resnet18, for want of the gradient of overlapping max pooling.

use crate::{Step, Work, blocks, sizes};
use candle_core::{DType, Device, Module, ModuleT, Result, Tensor, Var};
use candle_nn::{BatchNorm, Conv2d, Conv2dConfig, Linear, VarBuilder, VarMap};
use candle_nn::{batch_norm, conv2d, conv2d_no_bias, linear, loss};
use std::collections::HashMap;
use std::hint::black_box;

fn window(stride: usize, padding: usize) -> Conv2dConfig {
    Conv2dConfig { stride, padding, ..Default::default() }
}

struct LeNet5 {
    convs: [Conv2d; 2],
    dense: [Linear; 3],
}

impl LeNet5 {
    fn new(vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            convs: [
                conv2d(1, 6, 5, window(1, 2), vb.pp("c1"))?,
                conv2d(6, 16, 5, window(1, 0), vb.pp("c2"))?,
            ],
            dense: [
                linear(400, 120, vb.pp("d1"))?,
                linear(120, 84, vb.pp("d2"))?,
                linear(84, 10, vb.pp("d3"))?,
            ],
        })
    }

    /// x [n,1,28,28] -> [n,10]
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.convs[0].forward(x)?.relu()?.max_pool2d(2)?;
        let x = self.convs[1].forward(&x)?.relu()?.max_pool2d(2)?;
        let x = self.dense[0].forward(&x.flatten_from(1)?)?.relu()?;
        self.dense[2].forward(&self.dense[1].forward(&x)?.relu()?)
    }
}

struct ConvNorm {
    conv: Conv2d,
    norm: BatchNorm,
}

impl ConvNorm {
    fn new(c: usize, d: usize, k: usize, stride: usize, vb: VarBuilder) -> Result<Self> {
        let conv = conv2d_no_bias(c, d, k, window(stride, k / 2), vb.pp("conv"))?;
        Ok(Self { conv, norm: batch_norm(d, 1e-5, vb.pp("norm"))? })
    }

    fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        self.norm.forward_t(&self.conv.forward(x)?, train)
    }
}

struct Block {
    first: ConvNorm,
    second: ConvNorm,
    /// ImageNet's networks widen by a 1×1 convolution.
    project: Option<ConvNorm>,
    /// CIFAR's take every second pixel and add this many channels of zeros on either side.
    pad: usize,
}

impl Block {
    fn new(c: usize, d: usize, stride: usize, projected: bool, vb: VarBuilder) -> Result<Self> {
        let project = match projected && stride > 1 {
            true => Some(ConvNorm::new(c, d, 1, stride, vb.pp("project"))?),
            false => None,
        };
        Ok(Self {
            first: ConvNorm::new(c, d, 3, stride, vb.pp("first"))?,
            second: ConvNorm::new(d, d, 3, 1, vb.pp("second"))?,
            project,
            pad: (d - c) / 2,
        })
    }

    fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let y = self.second.forward(&self.first.forward(x, train)?.relu()?, train)?;
        let x = match &self.project {
            Some(p) => p.forward(x, train)?,
            None if self.pad > 0 => {
                let (n, c, h, w) = x.dims4()?;
                let x = x.reshape((n * c, h / 2, 2, w / 2, 2))?.narrow(4, 0, 1)?.narrow(2, 0, 1)?;
                x.reshape((n, c, h / 2, w / 2))?.pad_with_zeros(1, self.pad, self.pad)?
            }
            None => x.clone(),
        };
        (y + x)?.relu()
    }
}

struct ResNet {
    stem: ConvNorm,
    large: bool,
    blocks: Vec<Block>,
    head: Linear,
}

impl ResNet {
    fn new(net: &str, classes: usize, vb: VarBuilder) -> Result<Self> {
        let large = net == "resnet18";
        let (width, last, k, stride) = if large { (64, 512, 7, 2) } else { (16, 64, 3, 1) };
        let list = blocks(net).into_iter().enumerate();
        Ok(Self {
            stem: ConvNorm::new(3, width, k, stride, vb.pp("stem"))?,
            large,
            blocks: list
                .map(|(i, (c, d, s))| Block::new(c, d, s, large, vb.pp(i)))
                .collect::<Result<_>>()?,
            head: linear(last, classes, vb.pp("head"))?,
        })
    }

    /// x [n,3,h,w] -> [n,classes]
    fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let mut x = self.stem.forward(x, train)?.relu()?;
        if self.large {
            // Zeros around it change no maximum, since the rectifier leaves nothing below them.
            x = x.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?.max_pool2d_with_stride(3, 2)?;
        }
        for b in &self.blocks {
            x = b.forward(&x, train)?;
        }
        self.head.forward(&x.mean((2, 3))?)
    }
}

enum Net {
    LeNet5(LeNet5),
    ResNet(ResNet),
}

impl Net {
    fn new(net: &str, classes: usize, vb: VarBuilder) -> Result<Self> {
        match net {
            "lenet5" => Ok(Net::LeNet5(LeNet5::new(vb)?)),
            _ => Ok(Net::ResNet(ResNet::new(net, classes, vb)?)),
        }
    }

    fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        match self {
            Net::LeNet5(net) => net.forward(x),
            Net::ResNet(net) => net.forward(x, train),
        }
    }
}

/// SGD: v <- 0.9 v + gradient, weight <- weight - 1e-4 v.
fn update(vars: &mut [(Var, Option<Tensor>)], of: &Tensor) -> Result<()> {
    let gradients = of.backward()?;
    for (var, velocity) in vars {
        let Some(g) = gradients.get(var) else { continue };
        let v = match velocity.take() {
            Some(v) => ((v * 0.9)? + g)?,
            None => g.clone(),
        };
        var.set(&(var.as_tensor() - (&v * 1e-4)?)?)?;
        *velocity = Some(v.detach());
    }
    Ok(())
}

fn built(work: &Work, classes: usize, shape: (usize, usize, usize, usize)) -> Result<Step> {
    let cpu = Device::Cpu;
    let map = VarMap::new();
    let net = Net::new(&work.net, classes, VarBuilder::from_varmap(&map, DType::F32, &cpu))?;
    let x = Tensor::randn(0f32, 1.0, shape, &cpu)?;
    if !work.train {
        // Constants, since every operation on variables is kept for a backward pass.
        let weights: HashMap<String, Tensor> = {
            let data = map.data().lock().map_err(|e| candle_core::Error::Msg(e.to_string()))?;
            data.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect()
        };
        let net =
            Net::new(&work.net, classes, VarBuilder::from_tensors(weights, DType::F32, &cpu))?;
        return Ok(Box::new(move || {
            black_box(net.forward(&x, false).map_err(|e| e.to_string())?);
            Ok(())
        }));
    }
    let labels: Vec<u32> = (0..work.batch).map(|i| (i % classes) as u32).collect();
    let y = Tensor::new(labels, &cpu)?;
    let mut vars: Vec<_> = map.all_vars().into_iter().map(|v| (v, None)).collect();
    let mut train = move || update(&mut vars, &loss::cross_entropy(&net.forward(&x, true)?, &y)?);
    Ok(Box::new(move || train().map_err(|e| e.to_string())))
}

pub fn step(work: &Work) -> std::result::Result<Step, String> {
    let (h, w, c, classes) = sizes(&work.net)?;
    built(work, classes, (work.batch, c, h, w)).map_err(|e| e.to_string())
}
