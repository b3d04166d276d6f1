//! Batches, decoded and augmented on threads of their own beside training, in an order that depends
//! on seed and epoch alone.

use crate::dataset::{Source, Split};
use crate::picture::Picture;
use crate::series::warp;
use crate::transform::{Augment, Preprocess, Table, read_sample};
use crate::{DataError, Result};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread::JoinHandle;

/// A batch of samples.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Inputs `[n, height, width, channels]` (room for a full batch).
    pub pixels: Vec<f32>,
    /// Class of each sample.
    pub labels: Vec<u32>,
    /// Position of each sample in its split.
    pub indices: Vec<usize>,
}

impl Batch {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// A picture that was left out, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// How a split becomes batches.
#[derive(Debug, Clone, PartialEq)]
pub struct LoaderOptions {
    /// Samples per batch.
    pub batch: usize,
    /// Seed of order and augmentation.
    pub seed: u64,
    /// Threads that decode.
    pub workers: usize,
    /// New order every epoch, augmentation, and full batches only (for training); otherwise the
    /// split's order and a last batch that may be smaller.
    pub training: bool,
    /// Bytes of decoded pictures kept for the next epoch; a set that fits is decoded once.
    pub cache: usize,
    /// Every class comes equally often, in training: pictures of small classes several times an epoch, some
    /// of large ones not at all.
    pub balanced: bool,
}

/// Delivers the batches of one epoch after the other.
pub struct Loader {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    split: Split,
    table: Table,
    augment: Option<Augment>,
    options: LoaderOptions,
    state: Mutex<State>,
    wake: Condvar,
    cache: Vec<OnceLock<Arc<Picture>>>,
    cached: AtomicUsize,
    problems: Mutex<BTreeMap<usize, Problem>>,
}

#[derive(Default)]
struct State {
    /// Changes with every start, so that late work on an old epoch is dropped.
    run: u64,
    epoch: u64,
    order: Arc<Vec<usize>>,
    /// Next batch to be worked on, next to be delivered, and their end.
    claimed: usize,
    delivered: usize,
    end: usize,
    ready: BTreeMap<usize, Batch>,
    spare: Vec<Batch>,
    stop: bool,
    failed: bool,
}

impl Loader {
    /// Starts the threads; no batch is made before [`Loader::start`].
    ///
    /// # Errors
    /// When the split is empty, or smaller than nothing a batch could be made of.
    pub fn new(
        split: &Split,
        preprocess: &Preprocess,
        augment: Option<&Augment>,
        options: LoaderOptions,
    ) -> Result<Self> {
        let path = match &split.source {
            Source::Files(files) => files.first().cloned().unwrap_or_default(),
            Source::Memory { .. } | Source::Signals(_) => PathBuf::from("data"),
        };
        if split.is_empty() || options.batch == 0 {
            return Err(DataError::dataset(&path, "holds no samples"));
        }
        preprocess.check().map_err(|what| DataError::dataset(&path, what))?;
        let files = matches!(split.source, Source::Files(_));
        let shared = Arc::new(Shared {
            table: Table::new(preprocess),
            augment: augment.cloned().filter(|a| options.training && *a != Augment::default()),
            state: Mutex::new(State::default()),
            wake: Condvar::new(),
            cache: (0..if files { split.len() } else { 0 }).map(|_| OnceLock::new()).collect(),
            cached: AtomicUsize::new(0),
            problems: Mutex::new(BTreeMap::new()),
            split: split.clone(),
            options,
        });
        let threads = (0..shared.options.workers.max(1))
            .map_while(|i| {
                let shared = shared.clone();
                let name = format!("convoke-loader-{i}");
                std::thread::Builder::new().name(name).spawn(move || shared.work()).ok()
            })
            .collect::<Vec<_>>();
        if threads.is_empty() {
            return Err(DataError::dataset(&path, "cannot be loaded: the machine gives no thread"));
        }
        Ok(Loader { shared, threads })
    }

    /// Batches of one epoch.
    pub fn batches(&self) -> usize {
        let (n, b) = (self.shared.split.len(), self.shared.options.batch);
        if self.shared.options.training { n / b } else { n.div_ceil(b) }
    }

    /// Begins an epoch at a batch; what was under way is dropped.
    pub fn start(&mut self, epoch: u64, first: usize) {
        let mut order: Vec<usize> = (0..self.shared.split.len()).collect();
        if self.shared.options.training {
            let mut rng = ChaCha8Rng::seed_from_u64(self.shared.options.seed);
            rng.set_stream(epoch);
            order.shuffle(&mut rng);
            if self.shared.options.balanced {
                order = balanced(&order, &self.shared.split.labels, epoch);
            }
        }
        let mut state = self.shared.lock();
        state.run += 1;
        state.epoch = epoch;
        state.order = Arc::new(order);
        (state.claimed, state.delivered) = (first, first);
        state.end = self.batches();
        let ready = std::mem::take(&mut state.ready);
        state.spare.extend(ready.into_values());
        drop(state);
        self.shared.wake.notify_all();
    }

    /// The next batch, or `None` at the end of the epoch. An evaluation batch whose pictures are all
    /// broken comes empty.
    pub fn next_batch(&mut self) -> Option<Batch> {
        let mut state = self.shared.lock();
        loop {
            if state.delivered >= state.end || state.failed {
                return None;
            }
            let next = state.delivered;
            if let Some(batch) = state.ready.remove(&next) {
                state.delivered += 1;
                drop(state);
                self.shared.wake.notify_all();
                return Some(batch);
            }
            state = self.shared.wake.wait(state).unwrap_or_else(|e| e.into_inner());
        }
    }

    /// Gives a batch's memory back for the next ones.
    pub fn recycle(&mut self, batch: Batch) {
        self.shared.lock().spare.push(batch);
    }

    /// Pictures left out so far, by position in the split.
    pub fn problems(&self) -> Vec<Problem> {
        let problems = self.shared.problems.lock().unwrap_or_else(|e| e.into_inner());
        problems.values().cloned().collect()
    }
}

/// As many samples as there are, classes in turn, in a new order every epoch, so that all of a large class
/// come in time.
fn balanced(order: &[usize], labels: &[u32], epoch: u64) -> Vec<usize> {
    let mut classes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for &i in order {
        classes.entry(labels[i]).or_default().push(i);
    }
    let all: Vec<Vec<usize>> = classes.into_values().collect();
    let rounds = order.len().div_ceil(all.len().max(1));
    // The class that is first takes what does not divide.
    let first = epoch as usize % all.len().max(1);
    let turn = |k: usize| all[(first + k) % all.len()].as_slice();
    let pick = |i: usize| {
        let (class, round) = (turn(i % all.len()), i / all.len());
        class[round % class.len()]
    };
    let mut picked: Vec<usize> = (0..rounds * all.len()).take(order.len()).map(pick).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(epoch ^ 0xBA1A);
    picked.shuffle(&mut rng);
    picked
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn work(&self) {
        let ahead = self.options.workers.max(1) + 2;
        let mut state = self.lock();
        loop {
            if state.stop {
                return;
            }
            if state.claimed >= state.end || state.claimed >= state.delivered + ahead {
                state = self.wake.wait(state).unwrap_or_else(|e| e.into_inner());
                continue;
            }
            let (run, epoch, number) = (state.run, state.epoch, state.claimed);
            state.claimed += 1;
            let order = state.order.clone();
            let mut batch = state.spare.pop().unwrap_or_default();
            drop(state);
            let whole = self.fill(epoch, number, &order, &mut batch);
            state = self.lock();
            if state.run == run {
                state.ready.insert(number, batch);
                state.failed |= !whole;
            } else {
                state.spare.push(batch);
            }
            self.wake.notify_all();
        }
    }

    /// Fills a batch; `false` when no sample of the whole split can be read.
    fn fill(&self, epoch: u64, number: usize, order: &[usize], batch: &mut Batch) -> bool {
        let (size, len) = (self.options.batch, self.table.pre.sample_len());
        batch.pixels.resize(size * len, 0.0);
        batch.labels.clear();
        batch.indices.clear();
        let slots = size.min(order.len() - number * size);
        for slot in 0..slots {
            let place = number * size + slot;
            // A broken picture's place is taken by the next readable one, in training.
            let tries = if self.options.training { order.len() } else { 1 };
            let found = (0..tries).find_map(|t| {
                let index = order[(place + t) % order.len()];
                let at = batch.labels.len() * len;
                self.sample(epoch, index, &mut batch.pixels[at..at + len]).then_some(index)
            });
            match found {
                Some(index) => {
                    batch.labels.push(self.split.labels[index]);
                    batch.indices.push(index);
                }
                None if self.options.training => return false,
                None => {}
            }
        }
        true
    }

    /// Writes one sample; `false` when it cannot be read.
    fn sample(&self, epoch: u64, index: usize, out: &mut [f32]) -> bool {
        if let Source::Signals(all) = &self.split.source {
            let signal = all.get(index);
            let share = self.augment.as_ref().map_or(0.0, |a| a.warp);
            let warped = (share > 0.0)
                .then(|| warp(signal, all.channels(), share, &mut self.rng(epoch, index)));
            let signal = warped.as_deref().unwrap_or(signal);
            let result = self.table.pre.apply_signal(signal, all.channels(), out);
            return result.map_or_else(|e| self.broken(index, &e), |()| true);
        }
        let result = self.picture(index).and_then(|p| match &self.augment {
            Some(a) => self.table.augment(&p, a, &mut self.rng(epoch, index), out),
            None => self.table.apply(&p, out),
        });
        result.map_or_else(|e| self.broken(index, &e), |()| true)
    }

    /// A stream of its own for every sample of every epoch: order and threads do not matter.
    fn rng(&self, epoch: u64, index: usize) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.options.seed ^ 0x5EED);
        rng.set_stream(epoch << 32 ^ index as u64);
        rng
    }

    /// Keeps why a sample is left out.
    fn broken(&self, index: usize, e: &DataError) -> bool {
        let path = match &self.split.source {
            Source::Files(files) => files[index].clone(),
            _ => PathBuf::from(format!("sample {index}")),
        };
        let why = e.to_string();
        let why = why.strip_prefix(&format!("{}: ", path.display())).unwrap_or(&why).to_string();
        let mut problems = self.problems.lock().unwrap_or_else(|e| e.into_inner());
        problems.entry(index).or_insert(Problem { path, why });
        false
    }

    fn picture(&self, index: usize) -> Result<Arc<Picture>> {
        let Some(slot) = self.cache.get(index) else {
            return read_sample(&self.split, index, self.table.pre.channels).map(Arc::new);
        };
        if let Some(p) = slot.get() {
            return Ok(p.clone());
        }
        let p = Arc::new(read_sample(&self.split, index, self.table.pre.channels)?);
        let bytes = p.data.len();
        if self.cached.fetch_add(bytes, Relaxed) + bytes <= self.options.cache {
            let _ = slot.set(p.clone());
        } else {
            self.cached.fetch_sub(bytes, Relaxed);
        }
        Ok(p)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::{Fit, Norm, SignalPreprocess, Signals};
    use crate::write_png;

    fn memory(n: usize) -> Split {
        let pixels = (0..n).flat_map(|i| vec![i as u8; 4 * 4]).collect();
        let source = Source::Memory { pixels: Arc::new(pixels), width: 4, height: 4, channels: 1 };
        Split { source, labels: (0..n as u32).map(|i| i % 3).collect() }
    }

    fn options(batch: usize, workers: usize, training: bool) -> LoaderOptions {
        LoaderOptions { batch, seed: 5, workers, training, cache: 1 << 20, balanced: false }
    }

    fn all(loader: &mut Loader, epoch: u64, first: usize) -> Vec<(Vec<usize>, Vec<f32>)> {
        loader.start(epoch, first);
        let mut seen = Vec::new();
        while let Some(b) = loader.next_batch() {
            seen.push((b.indices.clone(), b.pixels.clone()));
            loader.recycle(b);
        }
        seen
    }

    #[test]
    fn workers_change_nothing_and_any_batch_can_be_the_first() {
        let pre = Preprocess::plain(4, 4, 1);
        let a = Augment { flip: true, shift: 1, erase: 0.5, ..Augment::default() };
        let mut one = Loader::new(&memory(50), &pre, Some(&a), options(8, 1, true)).unwrap();
        let mut many = Loader::new(&memory(50), &pre, Some(&a), options(8, 3, true)).unwrap();
        let first = all(&mut one, 0, 0);
        assert_eq!(first.len(), 6);
        assert_eq!(first, all(&mut many, 0, 0));
        assert_ne!(first, all(&mut many, 1, 0));
        assert_eq!(first[4..], all(&mut many, 0, 4)[..]);
    }

    #[test]
    fn signals_are_warped_in_training_alone_and_workers_change_nothing() {
        let wave = |i: usize| (0..40).map(|t| (t as f32 * 0.3 + i as f32).sin()).collect();
        let signals = Signals::new(&(0..6).map(wave).collect::<Vec<Vec<f32>>>(), 1).unwrap();
        let choices = SignalPreprocess { norm: Norm::None, fit: Fit::Pad };
        let pre = Preprocess::signals(&signals, choices);
        let a = Augment::suited(&pre);
        let split = Split { source: Source::Signals(signals.clone()), labels: vec![0; 6] };
        let batches = |workers: usize, training: bool, epoch: u64| {
            let o = options(3, workers, training);
            all(&mut Loader::new(&split, &pre, Some(&a), o).unwrap(), epoch, 0)
        };
        let first = batches(1, true, 0);
        assert_eq!(first, batches(3, true, 0));
        assert_ne!(first, batches(1, true, 1));
        let changed = |batches: &[(Vec<usize>, Vec<f32>)]| {
            let each = |(indices, pixels): &(Vec<usize>, Vec<f32>)| {
                let signals = indices.iter().map(|&i| signals.get(i));
                signals.zip(pixels.chunks_exact(40)).filter(|(a, b)| a != b).count()
            };
            batches.iter().map(each).sum::<usize>()
        };
        assert_eq!((changed(&first), changed(&batches(1, false, 0))), (6, 0));
    }

    #[test]
    fn evaluation_sees_every_sample_once_in_order() {
        let pre = Preprocess::plain(4, 4, 1);
        let mut loader = Loader::new(&memory(10), &pre, None, options(4, 2, false)).unwrap();
        let seen: Vec<usize> = all(&mut loader, 0, 0).into_iter().flat_map(|b| b.0).collect();
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn balanced_epochs_have_as_many_of_each_class() {
        let mut split = memory(60);
        // Two of class 0, eight of class 1, fifty of class 2.
        split.labels = (0..60).map(|i| if i < 2 { 0 } else { 1 + u32::from(i >= 10) }).collect();
        let pre = Preprocess::plain(4, 4, 1);
        let o = LoaderOptions { balanced: true, ..options(6, 2, true) };
        let mut loader = Loader::new(&split, &pre, None, o).unwrap();
        let mut large = std::collections::BTreeSet::new();
        for epoch in 0..12 {
            let seen: Vec<usize> =
                all(&mut loader, epoch, 0).into_iter().flat_map(|b| b.0).collect();
            let count = |c: u32| seen.iter().filter(|&&i| split.labels[i] == c).count();
            assert_eq!([0, 1, 2].map(count), [20; 3]);
            large.extend(seen.into_iter().filter(|&i| split.labels[i] == 2));
        }
        assert_eq!(large.len(), 50, "all of a large class come in time");
    }

    #[test]
    fn a_broken_picture_is_named_and_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> = (0..6).map(|i| folder.path().join(format!("{i}.png"))).collect();
        for f in &files {
            write_png(f, &Picture::filled(4, 4, [9, 9, 9])).unwrap();
        }
        std::fs::write(&files[2], b"no picture").unwrap();
        let split = Split { source: Source::Files(files.clone()), labels: vec![0; 6] };
        let pre = Preprocess::plain(4, 4, 3);
        let mut eval = Loader::new(&split, &pre, None, options(4, 1, false)).unwrap();
        let seen: usize = all(&mut eval, 0, 0).iter().map(|b| b.0.len()).sum();
        assert_eq!((seen, eval.problems().len()), (5, 1));
        assert_eq!(eval.problems()[0].path, files[2]);
        let mut train = Loader::new(&split, &pre, None, options(3, 2, true)).unwrap();
        assert!(all(&mut train, 0, 0).iter().all(|b| b.0.len() == 3 && !b.0.contains(&2)));
    }

    #[test]
    fn nothing_readable_ends_the_epoch() {
        let split =
            Split { source: Source::Files(vec!["/nowhere.png".into(); 4]), labels: vec![0; 4] };
        let pre = Preprocess::plain(4, 4, 3);
        let mut train = Loader::new(&split, &pre, None, options(2, 1, true)).unwrap();
        assert!(all(&mut train, 0, 0).is_empty());
        assert_eq!(train.problems().len(), 4);
    }
}
