//! The loss as the last call of forward and the first of backward: it writes the gradient of the
//! network's output in the same pass.

use crate::plan::Loss;
use crate::plan::arena::{Buf, Memory};
use crate::plan::lower::Lower;
use crate::plan::op::{Exec, Op};
use crate::{Error, Result};
use convoke_kernels::loss as kernels;

/// Emits the loss.
pub(crate) fn lower(b: &mut Lower, loss: Loss, targets: Option<Buf>) -> Result<()> {
    let id = b.net.output();
    let shape = b.shape(id);
    if !b.wants_grad(id) {
        return Err(Error::Plan(
            "the network has nothing to train; add a layer with weights".into(),
        ));
    }
    if let Loss::SoftmaxCrossEntropy { label_smoothing } = loss {
        if shape.c < 2 {
            return Err(Error::Plan(format!(
                "softmax cross-entropy needs at least two classes but the output is {shape}"
            )));
        }
        if !(0.0..1.0).contains(&label_smoothing) {
            return Err(Error::Plan(format!("label smoothing {label_smoothing} must be in 0..1")));
        }
    }
    if matches!(loss, Loss::Centres { .. }) && shape.c <= kernels::BOX {
        return Err(Error::Plan(format!(
            "a heat map of centres needs a class and four numbers of a box but the output is {shape}"
        )));
    }
    let y = b.value(id)?;
    let dy = b.seed_grad(id);
    let len = b.map_len(id);
    let scratch = b.scratch(kernels::scratch_len(len, shape.c));
    b.emit(
        id,
        "loss",
        LossOp { loss, y, dy, targets, classes: shape.c, len: shape.len(), scratch },
    );
    Ok(())
}

#[derive(Debug)]
struct LossOp {
    loss: Loss,
    y: Buf,
    dy: Buf,
    targets: Option<Buf>,
    classes: usize,
    len: usize,
    scratch: Buf,
}

impl Op for LossOp {
    fn buffers(&self) -> Vec<Buf> {
        [self.y, self.dy, self.scratch].into_iter().chain(self.targets).collect()
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let len = e.samples * self.len;
        match (self.loss, self.targets) {
            (Loss::SoftmaxCrossEntropy { label_smoothing }, _) => {
                let [y, dy, scratch] = m.get([self.y, self.dy, self.scratch]);
                let rows = len / self.classes;
                let r = kernels::softmax_cross_entropy(
                    e.cx,
                    &y[..len],
                    &e.labels[..rows],
                    self.classes,
                    label_smoothing,
                    &mut dy[..len],
                    scratch,
                );
                (e.loss, e.correct) = (r.loss, r.correct);
            }
            (Loss::SigmoidCrossEntropy { positive_weight }, Some(t)) => {
                let [y, dy, t, scratch] = m.get([self.y, self.dy, t, self.scratch]);
                let (y, t, dy) = (&y[..len], &t[..len], &mut dy[..len]);
                e.loss = kernels::sigmoid_cross_entropy(e.cx, y, t, positive_weight, dy, scratch);
            }
            (Loss::MeanSquaredError, Some(t)) => {
                let [y, dy, t, scratch] = m.get([self.y, self.dy, t, self.scratch]);
                let (y, t, dy) = (&y[..len], &t[..len], &mut dy[..len]);
                e.loss = kernels::mean_squared_error(e.cx, y, t, dy, scratch);
            }
            (Loss::Centres { box_weight, boxes }, Some(t)) => {
                let [y, dy, t, scratch] = m.get([self.y, self.dy, t, self.scratch]);
                let (y, t, dy) = (&y[..len], &t[..len], &mut dy[..len]);
                let o = kernels::Centres { box_weight, boxes: boxes.into() };
                let classes = self.classes - kernels::BOX;
                e.loss = kernels::centres(e.cx, y, t, classes, o, dy, scratch);
            }
            (_, None) => e.loss = f32::NAN,
        }
    }
}
