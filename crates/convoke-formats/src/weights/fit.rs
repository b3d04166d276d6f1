//! Weights brought into a network: names mapped, layouts turned, everything that does not fit told at
//! once.

use super::layout::flattened;
use super::names::{Change, Family, Form, Names, Recipe, family};
use super::{Weights, one_line};
use crate::{ModelError, ModelFile};
use convoke_data::Preprocess;
use convoke_engine::layers::Layer;
use convoke_engine::{Network, NodeId, Param, Shape};
use std::collections::{BTreeMap, BTreeSet};

/// What may be left open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FitOptions {
    /// A last layer for other classes is left as it was drawn.
    pub swap_head: bool,
}

/// Weights in a network's order.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitted {
    /// As [`Network::params`]; the head's are zero where it was swapped.
    pub params: Vec<f32>,
    /// As [`Network::state`].
    pub state: Vec<f32>,
    /// Parts of `params` that were not in the file: a swapped head's.
    pub drawn: Vec<std::ops::Range<usize>>,
    /// Batch norms had been folded into the convolutions: they are there but change nothing, and
    /// must stay frozen when training goes on.
    pub folded: bool,
    /// How the weights want their pictures.
    pub preprocess: Preprocess,
}

/// Where a file's tensor goes.
struct Found<'a> {
    /// Our name to theirs.
    of: BTreeMap<String, &'a str>,
    recipe: Option<Recipe>,
    side: usize,
    changes: &'static [Change],
}

/// Tensors that count steps or costs, of which no network has need.
const COUNTERS: [&str; 3] = ["num_batches_tracked", "total_ops", "total_params"];
/// Auxiliary heads, which only training has (torchvision's Inception v1 and v3; segmentation).
const AUXILIARY: [&str; 5] = ["aux1.", "aux2.", "AuxLogits.", "aux_classifier.", "aux."];

/// Fits a file of weights to a network.
///
/// # Errors
/// When tensors are missing, left over or of other shapes: all in one line.
pub fn fit(
    network: &Network,
    weights: &Weights,
    options: FitOptions,
) -> Result<Fitted, ModelError> {
    let known = family(network.name());
    Fit::new(network, weights, &known, options)
        .run()
        .map_err(|what| ModelError::File { path: weights.path().into(), what })
}

/// What a file says about the network it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suggestion {
    /// Classes of its last layer.
    pub classes: Option<usize>,
    /// Side of its input in pixels, where it differs from the family's.
    pub side: Option<usize>,
}

/// Classes and input of a file of weights for that network, as far as they can be told.
pub fn suggest(network: &Network, weights: &Weights) -> Suggestion {
    let known = family(network.name());
    let names = named(network, weights, &known);
    let theirs = head(network)
        .and_then(|h| names.of.get(&format!("{}.weight", network.node(h).name)).copied());
    let classes = theirs.and_then(|n| weights.shape(n)?.first().copied());
    Suggestion { classes, side: Some(names.side).filter(|&s| s > 0) }
}

/// The network as those who made the weights had it, where that differs from ours in more than names.
///
/// # Errors
/// When the change does not fit the network.
pub fn adapt(network: Network, weights: &Weights) -> convoke_engine::Result<Network> {
    let changes = named(&network, weights, &family(network.name())).changes;
    changes.iter().try_fold(network, |network, change| change.apply(&network))
}

/// How many of a network's tensors a file of weights has in fitting shapes, the last layer's for any
/// number of classes; `whole` when it has all of them and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    /// Tensors that fit.
    pub found: usize,
    /// Tensors of the network.
    pub wanted: usize,
    /// Nothing is missing and nothing is left over.
    pub whole: bool,
}

/// How well a file of weights fits a network, told by names and shapes alone.
pub fn compare(network: &Network, weights: &Weights) -> Match {
    let known = family(network.name());
    let mut fit = Fit::new(network, weights, &known, FitOptions { swap_head: true });
    let (mut found, mut wanted) = (0, 0);
    for p in network.params().into_iter().chain(network.state()) {
        wanted += 1;
        let folded = fit.folded.get(&p.node).map(|&conv| network.node(conv).name.clone());
        if let Some(conv) = folded {
            if let Some(&bias) = fit.names.of.get(&format!("{conv}.bias")) {
                fit.used.insert(bias);
                found += 1;
            }
            continue;
        }
        let Some(&theirs) = fit.names.of.get(&p.name) else { continue };
        let shape = weights.shape(theirs).unwrap_or_default();
        let head = fit.head == Some(p.node) && other_classes(shape, &p.spec.shape);
        if head || Turn::of(shape, &p.spec.shape).is_some() {
            fit.used.insert(theirs);
            found += 1;
        }
    }
    let whole = found == wanted && fit.left_over().is_empty();
    Match { found, wanted, whole }
}

/// The last layer with weights before the output.
pub fn head(network: &Network) -> Option<NodeId> {
    let with: BTreeSet<NodeId> = network.params().iter().map(|p| p.node).collect();
    let mut at = network.output();
    loop {
        if with.contains(&at) {
            return Some(at);
        }
        match network.node(at).inputs[..] {
            [from] => at = from,
            _ => return None,
        }
    }
}

/// The way of naming that finds the most.
fn named<'a>(network: &Network, weights: &'a Weights, known: &Family) -> Found<'a> {
    let wanted: BTreeSet<String> =
        network.params().into_iter().chain(network.state()).map(|p| p.name).collect();
    let mut best: Option<(usize, Found)> = None;
    let plain = known.forms.iter().all(|f| !matches!(f.names, Names::Same));
    for form in plain.then_some(&Form::PLAIN).into_iter().chain(known.forms) {
        let lines = form.names.lines();
        let of: BTreeMap<String, &str> =
            weights.iter().map(|(theirs, _)| (lines.ours(theirs), theirs)).collect();
        let found = of.keys().filter(|n| wanted.contains(*n)).count();
        if best.as_ref().is_none_or(|(most, _)| found > *most) {
            let Form { recipe, side, changes, .. } = *form;
            best = Some((found, Found { of, recipe, side, changes }));
        }
    }
    let none = Found { of: BTreeMap::new(), recipe: None, side: 0, changes: &[] };
    best.map_or(none, |(_, n)| n)
}

struct Fit<'a> {
    network: &'a Network,
    weights: &'a Weights,
    names: Found<'a>,
    family: &'a Family,
    head: Option<NodeId>,
    swap_head: bool,
    /// Norms whose numbers were folded into the convolution before them, with that convolution.
    folded: BTreeMap<NodeId, NodeId>,
    used: BTreeSet<&'a str>,
    missing: Vec<String>,
    shapes: Vec<String>,
}

impl<'a> Fit<'a> {
    fn new(
        network: &'a Network,
        weights: &'a Weights,
        family: &'a Family,
        options: FitOptions,
    ) -> Self {
        let mut fit = Fit {
            network,
            weights,
            names: named(network, weights, family),
            family,
            head: head(network),
            swap_head: options.swap_head,
            folded: BTreeMap::new(),
            used: BTreeSet::new(),
            missing: Vec::new(),
            shapes: Vec::new(),
        };
        fit.folded = fit.find_folded();
        fit
    }

    /// Norms of which the file has nothing, after convolutions that have a bias there but none here.
    fn find_folded(&self) -> BTreeMap<NodeId, NodeId> {
        let has = |id: NodeId, what: &str| {
            self.names.of.contains_key(&format!("{}.{what}", self.network.node(id).name))
        };
        let mut all = BTreeMap::new();
        for (id, node) in self.network.iter() {
            let (Some(Layer::BatchNorm(_)), [from]) = (&node.layer, &node.inputs[..]) else {
                continue;
            };
            let conv = &self.network.node(*from).layer;
            let bare = matches!(conv, Some(Layer::Conv(c)) if !c.bias);
            if bare && has(*from, "bias") && !has(id, "weight") && !has(id, "running_mean") {
                all.insert(id, *from);
            }
        }
        all
    }

    fn run(mut self) -> Result<Fitted, String> {
        let (wanted, state) = (self.network.params(), self.network.state());
        let mut drawn = Vec::new();
        let mut params = Vec::new();
        for p in &wanted {
            let values = self.tensor(p)?;
            if values.is_none() {
                drawn.push(p.range.clone());
            }
            params.extend(values.unwrap_or_else(|| vec![0.0; p.range.len()]));
        }
        let mut states = Vec::new();
        for p in &state {
            let values = self.tensor(p)?;
            states.extend(values.unwrap_or_else(|| vec![0.0; p.range.len()]));
        }
        self.report(wanted.len() + state.len())?;
        let preprocess = match self.names.recipe {
            Some(r) => r.preprocess(self.network.input_shape()),
            None => self.family.preprocess(self.network.input_shape()),
        };
        let folded = !self.folded.is_empty();
        Ok(Fitted { params, state: states, drawn, folded, preprocess })
    }

    /// One tensor in our layout; `None` when it is left open or was noted as wrong.
    fn tensor(&mut self, p: &Param) -> Result<Option<Vec<f32>>, String> {
        if let Some(&conv) = self.folded.get(&p.node) {
            return self.folded_norm(p, conv);
        }
        let Some(&theirs) = self.names.of.get(&p.name) else {
            self.missing.push(p.name.clone());
            return Ok(None);
        };
        self.used.insert(theirs);
        let shape = self.weights.shape(theirs).unwrap_or_default().to_vec();
        let wanted = &p.spec.shape;
        let Some(turned) = Turn::of(&shape, wanted) else {
            if self.swap_head && self.head == Some(p.node) && other_classes(&shape, wanted) {
                return Ok(None);
            }
            let theirs = one_line(theirs);
            self.shapes.push(format!("`{theirs}` {shape:?} for {:?}", torch_shape(wanted)));
            return Ok(None);
        };
        let values = self.weights.floats(theirs)?;
        let map = if p.spec.shape.len() == 2 { flattened(self.network, p.node) } else { None };
        Ok(Some(turned.apply(&values, map)))
    }

    /// A norm that changes nothing but adds the bias of the convolution before it. The variance is 1,
    /// so that the scale undoes exactly what epsilon does.
    fn folded_norm(&mut self, p: &Param, conv: NodeId) -> Result<Option<Vec<f32>>, String> {
        let Some(Layer::BatchNorm(norm)) = &self.network.node(p.node).layer else {
            return Ok(None);
        };
        let n = p.range.len();
        Ok(Some(match &p.spec.name[..] {
            "weight" => vec![(1.0 + f64::from(norm.epsilon)).sqrt() as f32; n],
            "running_mean" => vec![0.0; n],
            "running_var" => vec![1.0; n],
            _ => {
                let theirs = self.names.of[&format!("{}.bias", self.network.node(conv).name)];
                self.used.insert(theirs);
                let values = self.weights.floats(theirs)?;
                if values.len() != n {
                    self.shapes.push(format!("`{theirs}` [{}] for [{n}]", values.len()));
                    return Ok(None);
                }
                values
            }
        }))
    }

    /// Tensors of the file that nothing here has need of, auxiliary heads and counters aside.
    fn left_over(&self) -> Vec<String> {
        let ignored = |n: &str| {
            COUNTERS.iter().any(|c| n.ends_with(c)) || AUXILIARY.iter().any(|a| n.starts_with(a))
        };
        self.weights
            .iter()
            .map(|(n, _)| n)
            .filter(|n| !self.used.contains(n) && !ignored(n))
            .map(|n| format!("`{}`", one_line(n)))
            .collect()
    }

    fn report(&self, wanted: usize) -> Result<(), String> {
        let extra = self.left_over();
        let missing: Vec<String> = self.missing.iter().map(|n| format!("`{n}`")).collect();
        if missing.is_empty() && self.shapes.is_empty() && extra.is_empty() {
            return Ok(());
        }
        let mut parts = Vec::new();
        for (what, list) in
            [("missing", &missing), ("of another shape", &self.shapes), ("left over", &extra)]
        {
            if !list.is_empty() {
                parts.push(format!("{what} {}", some(list)));
            }
        }
        Err(format!(
            "does not fit `{}` ({wanted} tensors): {}; give another --model or other weights",
            self.network.name(),
            parts.join("; ")
        ))
    }
}

/// The first of a list, and how many there are beyond.
fn some(list: &[String]) -> String {
    const SHOWN: usize = 6;
    let shown = list[..list.len().min(SHOWN)].join(", ");
    match list.len() {
        n if n > SHOWN => format!("{shown} and {} more", n - SHOWN),
        _ => shown,
    }
}

/// Our shape as torch writes it, for messages.
fn torch_shape(ours: &[usize]) -> Vec<usize> {
    match *ours {
        [h, w, i, o] => vec![o, i, h, w],
        [i, o] => vec![o, i],
        _ => ours.to_vec(),
    }
}

/// Whether two shapes of a last layer differ only in the number of classes.
fn other_classes(theirs: &[usize], ours: &[usize]) -> bool {
    let ours = torch_shape(ours);
    let bare =
        |s: &[usize]| -> Vec<usize> { s.iter().skip(1).copied().filter(|&n| n != 1).collect() };
    !theirs.is_empty() && bare(theirs) == bare(&ours) && theirs[0] != ours[0]
}

/// How a tensor of theirs becomes one of ours.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Turn {
    /// As it is, axes of length 1 aside.
    Keep,
    /// `[o, i, h, w] -> [h, w, i, o]`, the axes that are not there being 1.
    Matrix { o: usize, i: usize, h: usize, w: usize },
}

impl Turn {
    fn of(theirs: &[usize], ours: &[usize]) -> Option<Turn> {
        let (h, w, i, o) = match *ours {
            [h, w, i, o] => (h, w, i, o),
            [i, o] => (1, 1, i, o),
            _ => {
                let bare =
                    |s: &[usize]| -> Vec<usize> { s.iter().copied().filter(|&n| n != 1).collect() };
                return (bare(theirs) == bare(ours)).then_some(Turn::Keep);
            }
        };
        let fits = match *theirs {
            // A convolution over the whole map in the place of a dense layer.
            [a, b, c, d] if ours.len() == 2 => a == o && [b, c, d].iter().product::<usize>() == i,
            [a, b, c, d] => (a, b, c, d) == (o, i, h, w),
            // A signal's filter, or a dense layer in the place of a 1×1 convolution.
            [a, b, c] => (a, b, 1, c) == (o, i, h, w),
            [a, b] => (a, b, 1, 1) == (o, i, h, w),
            _ => false,
        };
        fits.then_some(Turn::Matrix { o, i, h, w })
    }

    fn apply(self, values: &[f32], map: Option<Shape>) -> Vec<f32> {
        let Turn::Matrix { o, i, h, w } = self else { return values.to_vec() };
        let mut out = vec![0.0; values.len()];
        for oo in 0..o {
            for ii in 0..i {
                // Where the input number `ii` of theirs lies in ours.
                let place = match map {
                    Some(m) => {
                        let (c, pixel) = (ii / (m.h * m.w), ii % (m.h * m.w));
                        pixel * m.c + c
                    }
                    None => ii,
                };
                for tap in 0..h * w {
                    out[(tap * i + place) * o + oo] = values[(oo * i + ii) * h * w + tap];
                }
            }
        }
        out
    }
}

/// Weights of a model file brought into another network: every tensor of the same name and shape is
/// taken, a last layer for other classes is left open.
///
/// # Errors
/// When anything but the last layer differs.
pub fn fit_model(network: &Network, model: &ModelFile) -> Result<Fitted, String> {
    let head = head(network);
    let (mut drawn, mut wrong) = (Vec::new(), Vec::new());
    let mut gather = |wanted: Vec<Param>, there: Vec<Param>, from: &[f32]| {
        let there: BTreeMap<String, Param> =
            there.into_iter().map(|p| (p.name.clone(), p)).collect();
        let mut values = vec![0.0; wanted.last().map_or(0, |p| p.range.end)];
        for p in wanted {
            match there.get(&p.name).filter(|t| t.spec.shape == p.spec.shape) {
                Some(t) => values[p.range].copy_from_slice(&from[t.range.clone()]),
                None if head == Some(p.node) => drawn.push(p.range),
                None => wrong.push(format!("`{}`", p.name)),
            }
        }
        values
    };
    let params = gather(network.params(), model.network.params(), &model.params);
    let state = gather(network.state(), model.network.state(), &model.state);
    if !wrong.is_empty() {
        return Err(format!(
            "the model's `{}` does not fit `{}`: missing or of another shape {}; give another --model",
            one_line(model.network.name()),
            network.name(),
            some(&wrong)
        ));
    }
    let folded = model.facts.get("norms").is_some_and(|n| n == "folded");
    Ok(Fitted { params, state, drawn, folded, preprocess: model.preprocess.clone() })
}
