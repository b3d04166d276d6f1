//! A plan with its memory and threads: predict, step.

use crate::layers::Init;
use crate::plan::arena::{Buf, Kind, Memory};
use crate::plan::lower::SCRATCH;
use crate::plan::op::{Call, Exec, Phase};
use crate::plan::{Mode, Plan, PlanOptions};
use crate::{Error, NodeId, Result, available};
use convoke_kernels::{Ctx, Pool};
use memmap2::MmapMut;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::Instant;

/// What one training step tells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Mean loss of the batch before the update.
    pub loss: f32,
    /// Output pixels whose largest number is at their label (softmax cross-entropy only).
    pub correct: usize,
}

/// A plan with its memory and threads.
pub struct Session {
    plan: Plan,
    pool: Pool,
    arena: MmapMut,
    labels: Vec<u32>,
    class_weights: Vec<f32>,
    seed: u64,
    steps: u64,
    /// Weights have changed since the filters were packed.
    stale: bool,
    /// Seconds of each call so far, when asked for.
    seconds: Option<Vec<f64>>,
}

/// What one call of the schedule took.
#[derive(Debug, Clone)]
pub struct CallTime {
    /// Layer and part.
    pub name: String,
    /// When it runs.
    pub phase: Phase,
    /// Seconds over all runs since the profile began.
    pub seconds: f64,
    /// Multiply-accumulates of one run over the whole batch; 0 where they are not what it is for.
    pub macs: u64,
    /// Bytes of all buffers that it names, work space apart: what it would move if each were touched once.
    pub bytes: usize,
}

impl Session {
    /// Allocates the arena and starts the threads. Weights are zero until set or drawn.
    ///
    /// # Errors
    /// When the machine does not give the memory.
    pub fn new(plan: Plan) -> Result<Self> {
        let arena = map(&plan)?;
        let pool = Pool::new(plan.options().threads);
        let labels = vec![0; plan.labels];
        Ok(Session {
            plan,
            pool,
            arena,
            labels,
            class_weights: Vec::new(),
            seed: 0,
            steps: 0,
            stale: true,
            seconds: None,
        })
    }

    /// Goes over to another plan, with the same memory and threads where they are enough: for a network that is
    /// to run at one input size after the other. Weights are zero until set or drawn. Gives the old plan.
    ///
    /// # Errors
    /// When the machine does not give the memory; the session is then as it was.
    pub fn replan(&mut self, plan: Plan) -> Result<Plan> {
        if plan.memory().total > self.arena.len() {
            self.arena = map(&plan)?;
        } else {
            // What stays from call to call begins as in a new session; all else is written before it is read.
            let kinds = [Kind::Param, Kind::State, Kind::Grad, Kind::Moment, Kind::Pack];
            for range in kinds.map(|kind| plan.layout.section(kind)) {
                self.data_mut()[range].fill(0.0);
            }
        }
        if plan.options().threads != self.plan.options().threads {
            self.pool = Pool::new(plan.options().threads);
        }
        self.labels = vec![0; plan.labels];
        self.class_weights.clear();
        (self.seed, self.steps, self.stale) = (0, 0, true);
        self.seconds = None;
        Ok(std::mem::replace(&mut self.plan, plan))
    }

    /// The plan that runs.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The threads, for work beside the network.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    fn data(&self) -> &[f32] {
        bytemuck::cast_slice(&self.arena)
    }

    fn data_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.arena)
    }

    fn section(&self, kind: Kind) -> &[f32] {
        &self.data()[self.plan.layout.section(kind)]
    }

    fn replace(&mut self, kind: Kind, what: &str, values: &[f32]) -> Result<()> {
        let range = self.plan.layout.section(kind);
        if range.len() != values.len() {
            return Err(Error::Plan(format!(
                "{} {what} were given but network `{}` has {}",
                values.len(),
                self.plan.network().name(),
                range.len()
            )));
        }
        self.data_mut()[range].copy_from_slice(values);
        self.stale = true;
        Ok(())
    }

    /// Draws the first weights: the same for the same seed and network.
    pub fn init(&mut self, seed: u64) {
        let base = self.plan.layout.section(Kind::Param).start;
        for (i, p) in self.plan.params().to_vec().into_iter().enumerate() {
            let range = base + p.range.start..base + p.range.end;
            draw(p.spec.init, seed, i as u64, &mut self.data_mut()[range]);
        }
        let base = self.plan.layout.section(Kind::State).start;
        for p in self.plan.state().to_vec() {
            let range = base + p.range.start..base + p.range.end;
            draw(p.spec.init, seed, 0, &mut self.data_mut()[range]);
        }
        let moments = self.plan.layout.section(Kind::Moment);
        self.data_mut()[moments].fill(0.0);
        (self.seed, self.steps, self.stale) = (seed, 0, true);
    }

    /// All weights, flat, in the order of [`crate::Network::params`].
    pub fn params(&self) -> &[f32] {
        self.section(Kind::Param)
    }

    /// Replaces all weights.
    ///
    /// # Errors
    /// When the length differs from the network's.
    pub fn set_params(&mut self, params: &[f32]) -> Result<()> {
        self.replace(Kind::Param, "weights", params)
    }

    /// Gradients of the last step, in the same order (empty when the plan predicts, or keeps none).
    pub fn grads(&self) -> &[f32] {
        if self.plan.at_once { &[] } else { self.section(Kind::Grad) }
    }

    /// Running statistics, flat, in the order of [`crate::Network::state`].
    pub fn state(&self) -> &[f32] {
        self.section(Kind::State)
    }

    /// Replaces the running statistics.
    ///
    /// # Errors
    /// When the length differs from the network's.
    pub fn set_state(&mut self, state: &[f32]) -> Result<()> {
        self.replace(Kind::State, "running statistics", state)
    }

    /// Optimizer memory (momentum; first and second moments), flat; empty where there is none.
    pub fn optimizer_state(&self) -> &[f32] {
        self.section(Kind::Moment)
    }

    /// Steps done: with the seed it determines dropout; with Adam the bias correction.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Continues from a checkpoint.
    ///
    /// # Errors
    /// When the length differs from the optimizer's.
    pub fn resume(&mut self, optimizer_state: &[f32], steps: u64) -> Result<()> {
        self.replace(Kind::Moment, "optimizer numbers", optimizer_state)?;
        self.steps = steps;
        Ok(())
    }

    /// Seed of dropout.
    pub fn set_seed(&mut self, seed: u64) {
        self.seed = seed;
    }

    /// Where to write the input `[N, H, W, C]`.
    pub fn input_mut(&mut self) -> &mut [f32] {
        let range = self.plan.layout.places[self.plan.input.0].clone();
        &mut self.data_mut()[range]
    }

    /// The same with the threads, which may write it together.
    pub fn input_and_pool(&mut self) -> (&mut [f32], &Pool) {
        let range = self.plan.layout.places[self.plan.input.0].clone();
        (&mut bytemuck::cast_slice_mut(&mut self.arena)[range], &self.pool)
    }

    /// Where to write labels, one per output pixel `[N, H, W]` (softmax cross-entropy; else empty).
    pub fn labels_mut(&mut self) -> &mut [u32] {
        &mut self.labels
    }

    /// What each class weighs in softmax cross-entropy, for sets that hold more of one than of another: the loss of
    /// a sample is multiplied by its label's weight, and the mean is over the weights (PyTorch's `weight`). None
    /// for all alike.
    ///
    /// # Errors
    /// When the plan's loss is another, or there is not one finite weight ≥ 0 for each class.
    pub fn set_class_weights(&mut self, weights: &[f32]) -> Result<()> {
        if weights.is_empty() {
            self.class_weights.clear();
            return Ok(());
        }
        if self.plan.labels == 0 {
            return Err(Error::Plan(
                "class weights are for plans that train by softmax cross-entropy".into(),
            ));
        }
        let classes = self.plan.network().output_shape().c;
        let heads = self.plan.network().heads().iter();
        let alike = heads.clone().all(|h| self.plan.network().node(h.place).shape.c == classes);
        if weights.len() != classes || !alike {
            return Err(Error::Plan(format!(
                "{} class weights were given but the output has {classes} classes",
                weights.len()
            )));
        }
        let good = |w: &f32| w.is_finite() && *w >= 0.0;
        if !weights.iter().all(good) || weights.iter().all(|w| *w == 0.0) {
            return Err(Error::Plan(
                "class weights must be numbers from 0 on, and not all of them 0".into(),
            ));
        }
        self.class_weights = weights.to_vec();
        Ok(())
    }

    /// Where to write targets, shaped as the output (other losses; else empty).
    pub fn targets_mut(&mut self) -> &mut [f32] {
        let range = self.plan.targets.map_or(0..0, |t| self.plan.layout.places[t.0].clone());
        &mut self.data_mut()[range]
    }

    /// Forward, loss, backward, update with learning rate `lr`. Where the loss is no finite number the weights stay
    /// what they were.
    ///
    /// # Errors
    /// When the plan does not train, or a label is no class.
    pub fn step(&mut self, lr: f32) -> Result<StepReport> {
        let report = self.learn(lr)?;
        if !report.loss.is_finite() {
            return Ok(report);
        }
        self.steps += 1;
        self.run(&[Phase::Update, Phase::Prepare], self.plan.options().batch, lr);
        self.stale = false;
        Ok(report)
    }

    /// Forward, loss, backward, without update: gradients for inspection.
    ///
    /// # Errors
    /// When the plan does not train or keeps no gradients, or a label is no class.
    pub fn backward(&mut self) -> Result<StepReport> {
        if self.plan.at_once {
            return Err(Error::Plan("this plan keeps no gradients; set keep_grads".into()));
        }
        self.learn(0.0)
    }

    /// Forward, loss, backward, and the updates that are made on the way.
    fn learn(&mut self, lr: f32) -> Result<StepReport> {
        if !matches!(self.plan.options().mode, Mode::Train { .. }) {
            return Err(Error::Plan("this plan predicts; compile one that trains".into()));
        }
        let classes = self.plan.network().output_shape().c;
        if let Some(l) = self.labels.iter().find(|&&l| l as usize >= classes && l != u32::MAX) {
            return Err(Error::Plan(format!("label {l} but the output has {classes} classes")));
        }
        self.refresh();
        Ok(self.run(&[Phase::Forward, Phase::Backward], self.plan.options().batch, lr))
    }

    /// Where the last step's numbers ceased to be finite: the first weights, else the first map, that hold one that is
    /// not; nothing where all are finite. Runs forward once more in a session of its own that keeps all maps.
    ///
    /// # Errors
    /// When the plan does not train, or the memory for all maps is not to be had.
    pub fn first_not_finite(&self) -> Result<Option<String>> {
        let broken = |v: &[f32]| v.iter().any(|v| !v.is_finite());
        let params = self.params();
        if let Some(p) = self.plan.params().iter().find(|p| broken(&params[p.range.clone()])) {
            return Ok(Some(p.name.clone()));
        }
        let net = self.plan.network();
        let keep = net.iter().map(|(id, _)| id).collect();
        let options = PlanOptions { keep, keep_grads: true, ..self.plan.options().clone() };
        let mut s = Session::new(Plan::compile(net, &options)?)?;
        s.set_params(params)?;
        s.set_state(self.state())?;
        (s.seed, s.steps) = (self.seed, self.steps);
        s.class_weights = self.class_weights.clone();
        let place = |plan: &Plan, b: Buf| plan.layout.places[b.0].clone();
        let input = self.data()[place(&self.plan, self.plan.input)].to_vec();
        s.input_mut().copy_from_slice(&input);
        s.labels_mut().copy_from_slice(&self.labels);
        if let Some(targets) = self.plan.targets {
            let targets = self.data()[place(&self.plan, targets)].to_vec();
            s.targets_mut().copy_from_slice(&targets);
        }
        s.backward()?;
        let mut maps = net.iter().filter(|(id, _)| s.map(*id).is_some_and(broken));
        Ok(maps.next().map(|(_, node)| node.name.clone()))
    }

    /// The same as the end of a sentence about a loss that is no number: ", first in `layer`", or nothing where no
    /// place is to be had.
    pub fn where_not_finite(&self) -> String {
        let place = self.first_not_finite().ok().flatten();
        place.map_or(String::new(), |p| format!(", first in `{p}`"))
    }

    /// Predicts the first `n` samples of the input: the output `[n, H, W, C]`.
    ///
    /// # Errors
    /// When the plan trains, or `n` is larger than its batch.
    pub fn predict(&mut self, n: usize) -> Result<&[f32]> {
        if matches!(self.plan.options().mode, Mode::Train { .. }) {
            return Err(Error::Plan("this plan trains; compile one that predicts".into()));
        }
        self.check_samples(n)?;
        self.refresh();
        self.run(&[Phase::Forward], n, 0.0);
        Ok(&self.output()[..n * self.plan.network().output_shape().len()])
    }

    fn check_samples(&self, n: usize) -> Result<()> {
        if n > self.plan.options().batch {
            return Err(Error::Plan(format!(
                "{n} samples but the plan was made for {}",
                self.plan.options().batch
            )));
        }
        Ok(())
    }

    /// Where to write the gradient from which [`Session::explain`] starts, shaped as the place it starts from
    /// (empty where the plan does not explain).
    pub fn seed_mut(&mut self) -> &mut [f32] {
        let range = self.plan.seed.map_or(0..0, |s| self.plan.layout.places[s.0].clone());
        &mut self.data_mut()[range]
    }

    /// Carries the gradient of [`Session::seed_mut`] back to the input and the kept places, for the `n` samples
    /// last given to [`Session::predict`].
    ///
    /// # Errors
    /// When the plan does not explain, or `n` is larger than its batch.
    pub fn explain(&mut self, n: usize) -> Result<()> {
        if !matches!(self.plan.options().mode, Mode::Explain { .. }) {
            return Err(Error::Plan("this plan does not explain; compile one that does".into()));
        }
        self.check_samples(n)?;
        self.run(&[Phase::Backward], n, 0.0);
        Ok(())
    }

    /// The gradient of the input or of a kept place after [`Session::explain`], `[N, H, W, C]`; none where the
    /// place that was explained does not depend on it.
    pub fn gradient(&self, id: NodeId) -> Option<&[f32]> {
        let buf = self.plan.kept_grad(id)?;
        Some(&self.data()[self.plan.layout.places[buf.0].clone()])
    }

    /// Output of the last run.
    pub fn output(&self) -> &[f32] {
        &self.data()[self.plan.layout.places[self.plan.output.0].clone()]
    }

    /// A kept place's map of the last run, `[N, H, W, C]`.
    pub fn map(&self, id: NodeId) -> Option<&[f32]> {
        let buf = self.plan.kept(id)?;
        Some(&self.data()[self.plan.layout.places[buf.0].clone()])
    }

    /// Packs the filters if weights were set since.
    fn refresh(&mut self) {
        if self.stale {
            self.run(&[Phase::Prepare], self.plan.options().batch, 0.0);
            self.stale = false;
        }
    }

    /// Begins to time every call, from zero.
    pub fn begin_profile(&mut self) {
        self.seconds = Some(vec![0.0; self.plan.calls.len()]);
    }

    /// What each call took since [`Session::begin_profile`], in the order of the schedule.
    pub fn profile(&self) -> Vec<CallTime> {
        let places = &self.plan.layout.places;
        let batch = self.plan.options().batch as u64;
        let seconds = self.seconds.iter().flatten();
        let calls = self.plan.calls.iter().zip(seconds);
        let of = |(call, &seconds): (&Call, &f64)| CallTime {
            name: call.name.clone(),
            phase: call.phase,
            seconds,
            macs: call.op.macs() * batch,
            bytes: call
                .op
                .buffers()
                .iter()
                .filter(|&&b| b != SCRATCH)
                .map(|b| 4 * places[b.0].len())
                .sum(),
        };
        calls.map(of).collect()
    }

    fn run(&mut self, phases: &[Phase], n: usize, lr: f32) -> StepReport {
        let Session { plan, pool, arena, labels, class_weights, seed, steps, seconds, .. } = self;
        let mut memory = Memory { data: bytemuck::cast_slice_mut(arena), layout: &plan.layout };
        let mut exec = Exec {
            cx: Ctx { pool, isa: plan.isa() },
            n,
            lanes: 1,
            samples: n,
            share: 1.0,
            labels,
            class_weights,
            seed: *seed,
            step: *steps,
            lr,
            loss: 0.0,
            correct: 0,
        };
        for &phase in phases {
            for (i, call) in plan.calls.iter().enumerate().filter(|(_, c)| c.phase == phase) {
                let Some(seconds) = seconds else {
                    call.op.run(&mut memory, &mut exec);
                    continue;
                };
                let start = Instant::now();
                call.op.run(&mut memory, &mut exec);
                seconds[i] += start.elapsed().as_secs_f64();
            }
        }
        StepReport { loss: exec.loss, correct: exec.correct }
    }
}

/// Memory for a plan, all zero.
fn map(plan: &Plan) -> Result<MmapMut> {
    let bytes = plan.memory().total.max(64);
    if let Some(free) = available::memory().filter(|&free| bytes as u64 > free) {
        return Err(too_large(plan, free));
    }
    let arena = MmapMut::map_anon(bytes).map_err(|e| {
        Error::Plan(format!("cannot get {} MiB of memory ({e}); use a smaller batch", bytes >> 20))
    })?;
    // Large pages make the first touch and every walk cheaper; where they are not to be had, small ones do.
    #[cfg(target_os = "linux")]
    let _ = arena.advise(memmap2::Advice::HugePage);
    Ok(arena)
}

/// A plan for which `free` bytes are too few, with the batch for which they are enough.
fn too_large(plan: &Plan, free: u64) -> Error {
    let fits = |batch: usize| {
        let options = PlanOptions { batch, ..plan.options().clone() };
        Plan::compile(plan.network(), &options).is_ok_and(|p| p.memory().total as u64 <= free)
    };
    // Memory grows with the batch.
    let (mut low, mut high) = (0, plan.options().batch);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle) { low = middle } else { high = middle }
    }
    let advice = match low {
        0 => "not even a batch of 1 fits; use a smaller input or network".into(),
        n => format!("use a batch of {n} or less"),
    };
    Error::Plan(format!(
        "needs {} MiB of memory for a batch of {} but {} MiB are free; {advice}",
        plan.memory().total >> 20,
        plan.options().batch,
        free >> 20
    ))
}

/// First values of one tensor. Each tensor has a stream of its own, so a layer more or less leaves
/// the others as they were.
fn draw(init: Init, seed: u64, stream: u64, out: &mut [f32]) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    match init {
        Init::Zeros => out.fill(0.0),
        Init::Ones => out.fill(1.0),
        Init::Constant { value } => out.fill(value),
        Init::HeNormal { fan } => {
            let deviation = (2.0 / fan.max(1) as f64).sqrt();
            for pair in out.chunks_mut(2) {
                // Box and Muller: two normal numbers from two uniform ones.
                let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt() * deviation;
                let (sin, cos) = (std::f64::consts::TAU * rng.random::<f64>()).sin_cos();
                for (v, part) in pair.iter_mut().zip([cos, sin]) {
                    *v = (radius * part) as f32;
                }
            }
        }
        Init::GlorotUniform { fan_in, fan_out } => {
            let bound = (6.0 / (fan_in + fan_out).max(1) as f64).sqrt();
            for v in out {
                *v = ((2.0 * rng.random::<f64>() - 1.0) * bound) as f32;
            }
        }
    }
}
