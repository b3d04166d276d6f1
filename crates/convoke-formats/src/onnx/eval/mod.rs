//! A plain interpreter of graphs: one function per op over tensors of any rank, written to be read and to be
//! right. It folds constants and shape arithmetic at import, runs what no network can be made of, and judges
//! the networks that are.

mod conv;
mod loss;
mod math;
mod norm;
mod pool;
mod quantize;
mod reduce;
pub(super) mod resize;
mod select;
mod shape;
mod window;

use super::Said;
use super::graph::{Graph, Node};
use super::tensor::{Kind, MAX_LEN, Tensor, count};
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub(super) use conv::Transposed;
pub(super) use reduce::reduced;
pub(super) use shape::{pad_sides, padded, parts, reshape_to, shape_part, slice_ranges};
pub(super) use window::{Span, Windows};

/// How deep graphs may lie in graphs.
const MAX_DEPTH: usize = 16;

/// What a run may cost, so that a hostile file ends it.
pub(super) struct Budget {
    /// Numbers computed or multiplied.
    work: Cell<u64>,
    /// Numbers of one tensor.
    len: usize,
}

impl Budget {
    /// For running models: about an hour.
    pub fn running() -> Self {
        Budget { work: Cell::new(1 << 43), len: MAX_LEN }
    }

    /// For folding constants while a model is read: to turn a file's own numbers a few times, and room for graphs
    /// that make their weights of constants (an AlexNet's, twice), so that a small file takes a gigabyte at most.
    pub fn folding(numbers: usize) -> Self {
        let work = (numbers as u64).saturating_mul(8).saturating_add(1 << 28);
        Budget { work: Cell::new(work), len: 1 << 27 }
    }

    /// At most that many numbers computed, and tensors in proportion.
    pub fn small(work: u64) -> Self {
        Budget { work: Cell::new(work), len: 1 << 24 }
    }

    /// Takes work off what is left.
    ///
    /// # Errors
    /// When nothing is left.
    pub fn charge(&self, work: usize) -> Said<()> {
        let left = self.work.get().checked_sub(work as u64);
        self.work.set(left.ok_or("the graph is too much work to run")?);
        Ok(())
    }

    /// How many numbers a tensor to be made holds, charged.
    ///
    /// # Errors
    /// When they are too many.
    pub fn room(&self, shape: &[usize]) -> Said<usize> {
        let n = count(shape)?;
        if n > self.len {
            return Err(format!("a tensor of {shape:?} is too large"));
        }
        self.charge(n)?;
        Ok(n)
    }
}

/// What an op sees: its node, its inputs, and what it may cost.
pub(super) struct Call<'a> {
    pub node: &'a Node,
    pub inputs: &'a [Option<Arc<Tensor>>],
    pub budget: &'a Budget,
}

impl<'a> Call<'a> {
    /// Input `i`.
    ///
    /// # Errors
    /// When it is left out.
    pub fn input(&self, i: usize) -> Said<&'a Tensor> {
        self.optional(i).ok_or_else(|| format!("input {i} is missing"))
    }

    /// Input `i`, where it is given.
    pub fn optional(&self, i: usize) -> Option<&'a Tensor> {
        self.inputs.get(i).and_then(|t| t.as_deref())
    }

    /// All inputs that are given.
    pub fn all(&self) -> Vec<&'a Tensor> {
        self.inputs.iter().flatten().map(|t| &**t).collect()
    }

    /// Whole numbers from an attribute, or from an input where newer op sets have them.
    pub fn ints(&self, attribute: &str, input: usize) -> Said<Option<Vec<i64>>> {
        if let Some(v) = self.node.ints(attribute)? {
            return Ok(Some(v.to_vec()));
        }
        match self.optional(input) {
            Some(t) => Ok(Some(t.i64s()?.to_vec())),
            None => Ok(None),
        }
    }
}

/// An axis that may count from the end.
pub(super) fn axis(a: i64, rank: usize) -> Said<usize> {
    let i = if a < 0 { a.checked_add(rank as i64) } else { Some(a) };
    i.and_then(|i| usize::try_from(i).ok())
        .filter(|&i| i < rank)
        .ok_or_else(|| format!("axis {a} of a tensor of {rank} axes"))
}

/// Axes that may count from the end, each once.
pub(super) fn axes(list: &[i64], rank: usize) -> Said<Vec<usize>> {
    let all = list.iter().map(|&a| axis(a, rank)).collect::<Said<Vec<_>>>()?;
    match all.iter().collect::<HashSet<_>>().len() == all.len() {
        true => Ok(all),
        false => Err(format!("axes {list:?} name one twice")),
    }
}

/// Sizes before, at and behind an axis.
pub(super) fn split_at(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product())
}

/// Runs one op.
///
/// # Errors
/// What is wrong, without the node.
pub(super) fn call(c: &Call) -> Said<Vec<Tensor>> {
    let op = &c.node.op[..];
    if !c.node.domain.is_empty() && (c.node.domain != "ai.onnx.preview.training") {
        return unsupported();
    }
    type Family = fn(&Call) -> Option<Said<Vec<Tensor>>>;
    let families: [Family; 9] = [
        math::call,
        shape::call,
        select::call,
        reduce::call,
        conv::call,
        pool::call,
        norm::call,
        quantize::call,
        loss::call,
    ];
    let family = families.iter().find_map(|family| family(c));
    let made = family.unwrap_or_else(|| match op {
        "Resize" | "Upsample" => resize::call(c).map(|t| vec![t]),
        _ => unsupported(),
    })?;
    // Copies cost too, such as those of `Reshape`.
    c.budget.charge(made.iter().map(Tensor::len).sum())?;
    Ok(made)
}

fn unsupported<T>() -> Said<T> {
    Err("the op is not supported".into())
}

type Values = HashMap<String, Arc<Tensor>>;

/// Runs a graph on the given inputs: its outputs in order.
///
/// # Errors
/// The first node that cannot run, by name.
pub(super) fn run(graph: &Graph, inputs: Values, budget: &Budget) -> Said<Vec<Arc<Tensor>>> {
    run_in(graph, inputs, &[], budget, 0)
}

fn run_in(
    graph: &Graph,
    inputs: Values,
    outer: &[&Values],
    budget: &Budget,
    depth: usize,
) -> Said<Vec<Arc<Tensor>>> {
    if depth > MAX_DEPTH {
        return Err("graphs lie too deep in graphs".into());
    }
    let mut values = inputs;
    let mut readers: HashMap<&str, usize> = HashMap::new();
    let outputs = graph.outputs.iter().map(|o| &o.name);
    for name in graph.nodes.iter().flat_map(|n| &n.inputs).chain(outputs) {
        *readers.entry(name).or_default() += 1;
    }
    // Bodies of branches read values by name without an input: those then live to the end.
    let bodies = graph.nodes.iter().any(|n| n.op == "If");
    for node in &graph.nodes {
        let made = {
            let find = |name: &str| find(name, &values, graph, outer);
            let given = |name: &String| match &name[..] {
                "" => Ok(None),
                name => find(name).map(Some).ok_or_else(|| {
                    format!(
                        "{}: `{}` is made by no node before",
                        node.told(),
                        super::one_line(name)
                    )
                }),
            };
            let inputs = node.inputs.iter().map(given).collect::<Said<Vec<_>>>()?;
            if node.op == "If" && node.domain.is_empty() {
                branch(node, &inputs, graph, &values, outer, budget, depth)
            } else {
                let call = Call { node, inputs: &inputs, budget };
                self::call(&call).map(|all| all.into_iter().map(Arc::new).collect())
            }
        };
        let made = made.map_err(|e| format!("{}: {e}", node.told()))?;
        for (name, tensor) in node.outputs.iter().zip(made) {
            if !name.is_empty() {
                values.insert(name.clone(), tensor);
            }
        }
        if !bodies {
            for name in &node.inputs {
                if let Some(n) = readers.get_mut(&name[..]) {
                    *n -= 1;
                    if *n == 0 {
                        values.remove(name);
                    }
                }
            }
        }
    }
    let output = |o: &super::Port| {
        find(&o.name, &values, graph, outer)
            .ok_or_else(|| format!("output `{}` is made by no node", super::one_line(&o.name)))
    };
    graph.outputs.iter().map(output).collect()
}

fn find(name: &str, values: &Values, graph: &Graph, outer: &[&Values]) -> Option<Arc<Tensor>> {
    let here = values.get(name).or_else(|| graph.constants.get(name));
    here.or_else(|| outer.iter().rev().find_map(|v| v.get(name))).cloned()
}

/// `If`: the branch that the condition names, which sees all values around it.
fn branch(
    node: &Node,
    inputs: &[Option<Arc<Tensor>>],
    graph: &Graph,
    values: &Values,
    outer: &[&Values],
    budget: &Budget,
    depth: usize,
) -> Said<Vec<Arc<Tensor>>> {
    let condition = inputs.first().and_then(|t| t.as_ref()).ok_or("has no condition")?;
    let name = if condition.number()? != 0.0 { "then_branch" } else { "else_branch" };
    let mut around = outer.to_vec();
    around.push(&graph.constants);
    around.push(values);
    run_in(node.graph(name)?, Values::new(), &around, budget, depth + 1)
}

/// A tensor that keeps its kind, with floats computed from another's.
pub(super) fn like(t: &Tensor, shape: &[usize], values: Vec<f32>) -> Tensor {
    let kind = if t.kind.is_float() { t.kind } else { Kind::F32 };
    Tensor::of(kind, shape, values)
}
