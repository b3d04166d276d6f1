//! The loss as the last call of forward and the first of backward: it writes the gradient of the
//! network's output in the same pass.

use crate::plan::Loss;
use crate::plan::arena::{Buf, Memory};
use crate::plan::lower::Lower;
use crate::plan::op::{Exec, Op};
use crate::{Error, NodeId, Result};
use convoke_kernels::elementwise;
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
    measure(b, id, loss, targets, None)?;
    for head in b.net.heads() {
        measure(b, head.place, loss, targets, Some(head.weight))?;
    }
    Ok(())
}

/// Emits the loss of one place, of which a head's share is `weight`.
fn measure(
    b: &mut Lower,
    id: NodeId,
    loss: Loss,
    targets: Option<Buf>,
    weight: Option<f32>,
) -> Result<()> {
    let (shape, y, len) = (b.shape(id), b.value(id)?, b.map_len(id));
    // A head may hang on frozen layers alone; then its loss is told but moves nothing.
    let dy = b.seed_grad(id);
    let scratch = b.scratch(kernels::scratch_len(len, shape.c));
    let (classes, len) = (shape.c, shape.len());
    b.emit(id, "loss", LossOp { loss, y, dy, targets, classes, len, scratch, weight });
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
    /// A head's share in the loss; `None` for the output, which comes first.
    weight: Option<f32>,
}

impl Op for LossOp {
    fn buffers(&self) -> Vec<Buf> {
        [self.y, self.dy, self.scratch].into_iter().chain(self.targets).collect()
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let len = e.samples * self.len;
        let (before, correct) = (e.loss, e.correct);
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
                    e.class_weights,
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
        if let Some(weight) = self.weight {
            let [dy] = m.get([self.dy]);
            elementwise::multiply(e.cx, &mut dy[..len], weight);
            (e.loss, e.correct) = (before + weight * e.loss, correct);
        }
    }
}
