//! The demo: draws crowds, learns to find the striped figure, finds it in a crowd never seen.

use crate::bounds::Bounds;
use crate::error::Result;
use crate::find::{Detector, FindOptions, Finder};
use crate::learn::{Example, LearnOptions, Learned, train_detector};
use crate::slide::SlideOptions;
use convoke_data::scene::{Scene, SceneOptions, draw_scene};
use std::path::PathBuf;
use std::time::Instant;

/// How to run the demo.
#[derive(Debug, Clone, PartialEq)]
pub struct DemoOptions {
    /// Folder for the pictures and the model.
    pub out_dir: PathBuf,
    /// Same seed, same pictures and same model.
    pub seed: u64,
    /// Threads; changes no result.
    pub threads: usize,
    /// Pictures to learn from.
    pub scenes: usize,
    /// Updates of the network.
    pub steps: usize,
}

impl DemoOptions {
    /// About a minute on two cores.
    pub fn new(out_dir: impl Into<PathBuf>) -> Self {
        DemoOptions { out_dir: out_dir.into(), seed: 1, threads: 1, scenes: 40, steps: 1500 }
    }
}

/// Where the demo is.
#[derive(Debug, Clone, PartialEq)]
pub struct DemoProgress {
    /// `draw`, `learn`, `find`.
    pub stage: &'static str,
    /// Steps of the stage that are done.
    pub done: usize,
    /// Steps of the stage.
    pub of: usize,
    /// Loss and accuracy while it learns.
    pub note: String,
}

/// Scenes to learn from lie this far from the scenes to look at, in seeds.
const APART: u64 = 1 << 32;
/// Things per learning scene.
const TARGETS: usize = 8;

/// Draws scenes and learns from them. `each` is told how it goes and says whether to go on.
///
/// # Errors
/// When the caller stops, or memory is missing.
pub fn learn(o: &DemoOptions, each: &mut dyn FnMut(DemoProgress) -> bool) -> Result<Learned> {
    let mut examples = Vec::with_capacity(o.scenes);
    for i in 0..o.scenes {
        let seed = APART.wrapping_mul(o.seed + 1).wrapping_add(i as u64);
        let (width, height) = (640, 480);
        let options = SceneOptions { width, height, targets: TARGETS, look_alikes: 5, ..SceneOptions::new(seed) };
        let scene = draw_scene(&options);
        let boxes = scene.targets().map(Bounds::from).collect();
        examples.push(Example { picture: scene.picture, boxes });
        let note = String::new();
        if !each(DemoProgress { stage: "draw", done: i + 1, of: o.scenes, note }) {
            return Err(crate::VisionError::Stopped);
        }
    }
    let options = LearnOptions {
        class: "striped figure".into(),
        steps: o.steps,
        seed: o.seed,
        threads: o.threads,
        ..LearnOptions::default()
    };
    train_detector(&examples, &options, &mut |m| {
        let note = format!("loss {:.4}, right {:.1} %, {} false alarms to learn from", m.loss, 100.0 * m.accuracy, m.alarms);
        each(DemoProgress { stage: "learn", done: m.step, of: m.steps, note })
    })
}

/// How often the striped figure was found in fresh scenes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Score {
    /// Scenes where it was the first candidate.
    pub first: usize,
    /// Scenes where it was among the first five.
    pub first_five: usize,
    /// Seeds of the scenes where it was not the first.
    pub missed: Vec<u64>,
    /// Time spent finding.
    pub seconds: f64,
}

/// Looks at `scenes` fresh scenes.
///
/// # Errors
/// When the detector does not work.
pub fn score(detector: &Detector, threads: usize, seed: u64, scenes: u64) -> Result<Score> {
    let mut finder = Finder::new(detector.clone(), SlideOptions { threads, ..SlideOptions::default() })?;
    let mut s = Score::default();
    for i in 0..scenes {
        let seed = seed.wrapping_mul(1000).wrapping_add(i);
        let scene = draw_scene(&SceneOptions::new(seed));
        let start = Instant::now();
        let found = finder.find(&scene.picture, &FindOptions { least: Some(0.0), ..FindOptions::default() })?;
        s.seconds += start.elapsed().as_secs_f64();
        let right = found.candidates.iter().position(|c| is_right(&c.bounds, &scene));
        s.first += usize::from(right == Some(0));
        s.first_five += usize::from(right.is_some_and(|r| r < 5));
        if right != Some(0) {
            s.missed.push(seed);
        }
    }
    Ok(s)
}

/// A find is right when at least half of it and the truth together is in both (IoU ≥ 0.5, as in
/// Pascal VOC).
fn is_right(found: &Bounds, scene: &Scene) -> bool {
    scene.targets().any(|t| Bounds::from(t).iou(found) >= 0.5)
}
