//! Trials that are training runs: planned, refused by the plan, trained, and resumed from their checkpoints.

use super::nets::{NetSpace, train_options};
use super::search::{Limits, Objective, Planned, Reply};
use super::space::{Point, Space};
use super::study::{State, Study};
use crate::error::Result;
use crate::run::{EpochRow, RunFolder};
use crate::trainer::{BatchInfo, Outcome, Progress, TrainOptions, Trainer, plan};
use convoke_data::{Dataset, Preprocess};
use convoke_engine::{Network, Plan, PlanOptions, Session};
use convoke_formats::ModelFile;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

/// Which networks are tried.
#[derive(Debug, Clone, PartialEq)]
pub enum Nets {
    /// Those of a space.
    Space(NetSpace),
    /// One, of which only the training is searched.
    One(Network),
}

impl Nets {
    /// The network of a point.
    ///
    /// # Errors
    /// When its layers do not fit.
    pub fn network(&self, space: &Space, point: &Point) -> convoke_engine::Result<Network> {
        match self {
            Nets::Space(nets) => nets.network(space, point),
            Nets::One(network) => Ok(network.clone()),
        }
    }
}

/// Trials that train on a data set.
pub struct Training<'a> {
    /// What is trained on; its validation part is what a trial's value is measured on.
    pub dataset: &'a Dataset,
    /// How samples become inputs.
    pub preprocess: Preprocess,
    /// Which networks.
    pub nets: Nets,
    /// What the space does not say.
    pub fixed: TrainOptions,
    /// What a network may cost.
    pub limits: Limits,
    /// The study's folder; each trial has one in it.
    pub folder: PathBuf,
}

/// The folder of a trial.
pub fn trial_folder(study: &Path, number: usize) -> PathBuf {
    study.join("trials").join(format!("{number:04}"))
}

/// Takes away the weights of all ended trials but the best.
pub fn clear(folder: &Path, study: &Study) {
    let best = study.best().map(|t| t.number);
    let ended =
        study.trials().iter().filter(|t| !matches!(t.state, State::Running | State::Refused));
    for t in ended {
        let weights = trial_folder(folder, t.number).join("weights");
        if Some(t.number) == best {
            let _ = std::fs::remove_file(weights.join("checkpoint.safetensors"));
        } else if weights.is_dir() {
            // What cannot be removed only takes room.
            let _ = std::fs::remove_dir_all(weights);
        }
    }
}

impl Training<'_> {
    fn options(&self, space: &Space, point: &Point) -> TrainOptions {
        train_options(space, point, &self.fixed)
    }
}

/// Multiply-accumulates a second that no core reaches: what would take longer than the limit even so is refused
/// without a run.
const FASTEST: f64 = 1e12;

/// Least seconds of several predictions of one sample on one thread.
fn latency(network: &Network) -> convoke_engine::Result<f64> {
    let mut session = Session::new(Plan::compile(network, &PlanOptions::predict(1, 1))?)?;
    session.init(0);
    let (mut least, begin) = (f64::INFINITY, Instant::now());
    for _ in 0..10 {
        let start = Instant::now();
        session.predict(1)?;
        least = least.min(start.elapsed().as_secs_f64());
        if begin.elapsed().as_secs_f64() > 0.5 {
            break;
        }
    }
    Ok(least)
}

impl Objective for Training<'_> {
    fn plan(&self, space: &Space, point: &Point) -> std::result::Result<Planned, String> {
        let network = self.nets.network(space, point).map_err(|e| e.to_string())?;
        let options = self.options(space, point);
        let mut planned = Planned {
            parameters: network.parameters() as u64,
            macs: network.macs(),
            ..Planned::default()
        };
        self.limits.refuse(&planned).map_or(Ok(()), Err)?;
        let plan = plan(&network, &options, false).map_err(|e| e.to_string())?;
        planned.memory = plan.memory().total as u64;
        if let Some(most) = self.limits.latency {
            planned.latency = planned.macs as f64 / FASTEST;
            if planned.latency <= most {
                planned.latency = latency(&network).map_err(|e| e.to_string())?;
            }
        }
        self.limits.refuse(&planned).map_or(Ok(planned), Err)
    }

    fn train(
        &self,
        number: usize,
        space: &Space,
        point: &Point,
        told: &mut dyn FnMut(usize, f64, f64) -> Reply,
        stop: &AtomicBool,
    ) -> Result<Reply> {
        let network = self.nets.network(space, point)?;
        let folder = RunFolder::create(&trial_folder(&self.folder, number))?;
        let options = self.options(space, point);
        let pre = self.preprocess.clone();
        let new = || {
            let (network, options) = (network.clone(), options.clone());
            Trainer::new(network, self.dataset, pre.clone(), options, folder.clone())
        };
        let mut trainer = new()?;
        // A checkpoint that cannot be gone on from is trained over.
        let checkpoint = ModelFile::load(&folder.checkpoint()).ok();
        if checkpoint.is_some_and(|c| trainer.resume(&c).is_err()) {
            trainer = new()?;
        }
        let end = AtomicBool::new(false);
        let mut listener = Listener { told, stop, end: &end, reply: Reply::On };
        let outcome = trainer.run(&mut listener, &end)?;
        Ok(match (outcome, listener.reply) {
            (Outcome::Done { .. }, Reply::Pause) => Reply::On,
            (_, reply) => reply,
        })
    }
}

/// Hears a trainer and tells the search.
struct Listener<'a> {
    told: &'a mut dyn FnMut(usize, f64, f64) -> Reply,
    stop: &'a AtomicBool,
    end: &'a AtomicBool,
    reply: Reply,
}

impl Progress for Listener<'_> {
    fn batch(&mut self, _: &BatchInfo) {
        if self.stop.load(Relaxed) && self.reply == Reply::On {
            self.reply = Reply::Pause;
            self.end.store(true, Relaxed);
        }
    }

    fn epoch(&mut self, row: &EpochRow) {
        let value = row.val_top1.unwrap_or(row.train_top1);
        let reply = (self.told)(row.epoch, value, row.val_loss.unwrap_or(row.train_loss));
        if reply != Reply::On {
            self.reply = reply;
            self.end.store(true, Relaxed);
        }
    }
}
