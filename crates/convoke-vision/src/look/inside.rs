//! A model opened for looking: sessions that keep maps and give gradients.

use crate::error::{Result, other};
use crate::sheet::{filter_sheet, first_filters};
use convoke_data::Picture;
use convoke_engine::layers::Layer;
use convoke_engine::{Mode, Network, NodeId, Plan, PlanOptions, Session, Shape};
use convoke_formats::ModelFile;
use serde::Serialize;

/// A model to look into.
pub struct Inside {
    model: ModelFile,
    threads: usize,
}

/// Which weights answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// The model's own.
    Learned,
    /// Drawn anew from a seed, as before any training: what a sanity check compares with.
    Drawn(u64),
}

/// A number of the network's output that is to be explained.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Target {
    /// Place in the logits `[h, w, c]`.
    pub index: usize,
    /// Class.
    pub class: usize,
    /// Its name.
    pub name: String,
    /// The logit.
    pub logit: f32,
    /// Its softmax over the classes at its place.
    pub probability: f32,
}

impl Inside {
    /// Opens a model.
    ///
    /// # Errors
    /// When its preprocessing does not make what its network takes.
    pub fn new(model: ModelFile, threads: usize) -> Result<Self> {
        let (pre, input) = (&model.preprocess, model.network.input_shape());
        if Shape::new(pre.height, pre.width, pre.channels) != input {
            return other(format!(
                "the model takes {input} but its preprocessing makes {}x{}x{}; the file is damaged",
                pre.height, pre.width, pre.channels
            ));
        }
        Ok(Inside { model, threads })
    }

    /// The model.
    pub fn model(&self) -> &ModelFile {
        &self.model
    }

    /// Its network.
    pub fn network(&self) -> &Network {
        &self.model.network
    }

    /// The network's input `[h, w, c]` of a picture.
    ///
    /// # Errors
    /// When it cannot be resized.
    pub fn input(&self, picture: &Picture) -> Result<Vec<f32>> {
        let mut x = vec![0.0; self.model.preprocess.sample_len()];
        self.model.preprocess.apply(picture, &mut x)?;
        Ok(x)
    }

    /// An input `[h, w, c]` as the picture that the network saw. A signal, or what has not the channels of a
    /// picture, is grey, from its least number to its largest.
    pub fn seen(&self, x: &[f32]) -> Picture {
        let s = self.network().input_shape();
        if s.h > 1 && matches!(s.c, 1 | 3) {
            return self.model.preprocess.seen(x);
        }
        let means: Vec<f32> =
            x.chunks_exact(s.c).map(|p| p.iter().sum::<f32>() / s.c as f32).collect();
        let low = means.iter().fold(f32::INFINITY, |m, v| m.min(*v));
        let high = means.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
        let range = (high - low).max(f32::MIN_POSITIVE);
        let level = |v: &f32| (255.0 * (v - low) / range).round() as u8;
        let data = means.iter().map(level).collect();
        Picture { width: s.w, height: s.h, channels: 1, data }
    }

    /// The first convolution's filters as tiles, in the colours that they look for.
    ///
    /// # Errors
    /// As [`crate::filter_sheet`].
    pub fn filter_sheet(&self) -> Result<Picture> {
        let model = &self.model;
        let Some((p, [h, w, c, d])) =
            first_filters(&model.network).filter(|_| model.preprocess.bgr)
        else {
            return filter_sheet(&model.network, &model.params);
        };
        // Blue comes first: the channels are turned round.
        let mut params = model.params.clone();
        for pixel in params[p.range].chunks_exact_mut(c * d).take(h * w) {
            for k in 0..c / 2 {
                let (a, b) = pixel.split_at_mut((c - 1 - k) * d);
                a[k * d..(k + 1) * d].swap_with_slice(&mut b[..d]);
            }
        }
        filter_sheet(&model.network, &params)
    }

    /// Where the logits are: the output, or what a last softmax reads.
    pub fn logits(&self) -> NodeId {
        let net = self.network();
        let out = net.node(net.output());
        match out.layer {
            Some(Layer::Softmax(_)) => out.inputs[0],
            _ => net.output(),
        }
    }

    /// The last map with a place for every part of the picture, before pooling and dense layers make one
    /// vector of it: what class activation maps are drawn from.
    ///
    /// # Errors
    /// When the network has no such map.
    pub fn last_map(&self) -> Result<NodeId> {
        let net = self.network();
        let logits = self.logits();
        let fits = |id: NodeId| {
            let node = net.node(id);
            id < logits && node.shape.pixels() > 1 && self.has_own_maps(id)
        };
        let found = net.iter().map(|(id, _)| id).filter(|&id| fits(id)).last();
        match found {
            Some(id) => Ok(id),
            None => other(format!(
                "network `{}` has no map with more than one place; there is nothing to draw on the picture",
                net.name()
            )),
        }
    }

    /// Whether the maps of a place say something of their own: not those of the input, nor of layers that only
    /// pool, pass on, cut up and join again, or make probabilities.
    pub fn has_own_maps(&self, id: NodeId) -> bool {
        !matches!(
            self.network().node(id).layer,
            None | Some(
                Layer::MaxPool(_)
                    | Layer::MeanPool(_)
                    | Layer::GlobalMeanPool(_)
                    | Layer::Dropout(_)
                    | Layer::StochasticDepth(_)
                    | Layer::LocalResponseNorm(_)
                    | Layer::Flatten(_)
                    | Layer::Softmax(_)
                    | Layer::Take(_)
                    | Layer::Spread(_)
                    | Layer::Mix(_)
                    | Layer::Rearrange(_)
                    | Layer::Constant(_)
            )
        )
    }

    /// The last maps of each size, the last of all at the end.
    pub fn stages(&self) -> Vec<NodeId> {
        let net = self.network();
        let Ok(last) = self.last_map() else { return Vec::new() };
        let size = |id: NodeId| (net.node(id).shape.h, net.node(id).shape.w);
        let own = |id: &NodeId| *id <= last && self.has_own_maps(*id);
        let ids: Vec<NodeId> = net.iter().map(|(id, _)| id).filter(own).collect();
        let ends = ids.windows(2).filter(|p| size(p[0]) != size(p[1])).map(|p| p[0]);
        let mut all: Vec<NodeId> = ends.chain([last]).collect();
        all.dedup();
        all
    }

    /// Where the class activation map of a number is drawn from: the last map, or, where the number does not depend
    /// on it (a detector has several ends), the last of another size on which it does.
    ///
    /// # Errors
    /// When the network has no map with more than one place.
    pub fn cam_map(&self, x: &[f32], target: &Target) -> Result<NodeId> {
        let last = self.last_map()?;
        let stages = self.stages();
        if stages.len() < 2 {
            return Ok(last);
        }
        let mut s = self.gradients(self.logits(), &stages, 1, false, Weights::Learned)?;
        s.input_mut().copy_from_slice(x);
        s.predict(1)?;
        s.seed_mut().fill(0.0);
        s.seed_mut()[target.index] = 1.0;
        s.explain(1)?;
        let moves = |id: &NodeId| s.gradient(*id).is_some_and(|g| g.iter().any(|v| *v != 0.0));
        Ok(stages.iter().rev().copied().find(moves).unwrap_or(last))
    }

    /// A place by its layer's name.
    ///
    /// # Errors
    /// When there is none; the nearest name is told.
    pub fn place(&self, name: &str) -> Result<NodeId> {
        let net = self.network();
        match net.find(name) {
            Some(id) => Ok(id),
            None => {
                let names = net.nodes().iter().map(|n| n.name.as_str());
                let hint = convoke_engine::names::hint(name, names);
                other(format!("network `{}` has no layer `{name}`{hint}", net.name()))
            }
        }
    }

    /// A session for `batch` inputs whose places `keep` stay readable.
    pub(crate) fn predict(&self, keep: &[NodeId], batch: usize, w: Weights) -> Result<Session> {
        let options = PlanOptions {
            keep: keep.to_vec(),
            // The kept maps are wanted as they are.
            lanes: Some(false),
            ..PlanOptions::predict(batch, self.threads)
        };
        self.filled(options, w)
    }

    /// A session that carries gradients from `from` back to the input and the places `keep`.
    pub(crate) fn gradients(
        &self,
        from: NodeId,
        keep: &[NodeId],
        batch: usize,
        guided: bool,
        w: Weights,
    ) -> Result<Session> {
        let options = PlanOptions {
            mode: Mode::Explain { from, guided },
            ..PlanOptions::explain(from, keep, batch, self.threads)
        };
        self.filled(options, w)
    }

    fn filled(&self, options: PlanOptions, w: Weights) -> Result<Session> {
        let mut session = Session::new(Plan::compile(self.network(), &options)?)?;
        match w {
            Weights::Learned => {
                session.set_params(&self.model.params)?;
                session.set_state(&self.model.state)?;
            }
            Weights::Drawn(seed) => session.init(seed),
        }
        Ok(session)
    }

    /// What the network answers to an input, and the number to explain: the wanted class's, else the
    /// likeliest's; where the network answers at many places, at the strongest of them.
    ///
    /// # Errors
    /// When the class is not among the outputs.
    pub fn target(&self, x: &[f32], class: Option<usize>) -> Result<Target> {
        let logits = self.logits();
        let mut session = self.predict(&[logits], 1, Weights::Learned)?;
        session.input_mut().copy_from_slice(x);
        session.predict(1)?;
        let values = session.map(logits).unwrap_or_default();
        let classes = self.network().node(logits).shape.c;
        if class.is_some_and(|c| c >= classes) {
            return other(format!("class {} but the network has {classes}", class.unwrap_or(0)));
        }
        let mut all = (0..values.len()).filter(|i| class.is_none_or(|c| i % classes == c));
        let first = all.next().unwrap_or(0);
        let index = all.fold(first, |best, i| if values[i] > values[best] { i } else { best });
        let row = &values[index / classes * classes..][..classes];
        let most = row.iter().fold(f32::MIN, |m, v| m.max(*v));
        let sum: f32 = row.iter().map(|v| (v - most).exp()).sum();
        Ok(Target {
            index,
            class: index % classes,
            name: self.class_name(index % classes),
            logit: values[index],
            probability: (values[index] - most).exp() / sum,
        })
    }

    /// The name of a class; its number where the model does not name it.
    pub fn class_name(&self, class: usize) -> String {
        let names = &self.model.classes;
        names.get(class).cloned().unwrap_or_else(|| format!("class {class}"))
    }
}
