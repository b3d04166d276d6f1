//! Trials in parallel: each worker asks for a point, has it planned, trains it, and tells the study.

use super::space::{Point, Space};
use super::study::{State, Study};
use crate::error::Result;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// What a point costs, known before it is trained.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Planned {
    /// Trained numbers.
    pub parameters: u64,
    /// Multiply-accumulates for one sample.
    pub macs: u64,
    /// Bytes of a training step's plan.
    pub memory: u64,
    /// Seconds to predict one sample on one thread; 0 where it was not asked for.
    pub latency: f64,
}

/// What a network may cost.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Limits {
    /// Trained numbers.
    pub parameters: Option<u64>,
    /// Multiply-accumulates for one sample.
    pub macs: Option<u64>,
    /// Bytes of a training step.
    pub memory: Option<u64>,
    /// Seconds to predict one sample on one thread.
    pub latency: Option<f64>,
}

impl Limits {
    /// What is too large, in a few words.
    pub fn refuse(&self, p: &Planned) -> Option<String> {
        let over = |what: &str, is: u64, most: Option<u64>| {
            most.filter(|m| is > *m).map(|m| format!("{is} {what}, over {m}"))
        };
        over("parameters", p.parameters, self.parameters)
            .or_else(|| over("MACs", p.macs, self.macs))
            .or_else(|| over("bytes to train", p.memory, self.memory))
            .or_else(|| {
                let most = self.latency.filter(|m| p.latency > *m)?;
                Some(format!("{:.2} ms to predict, over {:.2}", 1e3 * p.latency, 1e3 * most))
            })
    }
}

/// What a trial is told after an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// Go on.
    On,
    /// Others are better; end.
    Stop,
    /// The whole search was asked to stop; leave what resumes the trial.
    Pause,
}

/// What is searched for.
pub trait Objective: Sync {
    /// What a point costs, or why it cannot be or is too large.
    ///
    /// # Errors
    /// Why it is refused, in one line.
    fn plan(&self, space: &Space, point: &Point) -> std::result::Result<Planned, String>;

    /// Trains a point. `told` hears of every epoch — its number from 1, value (larger is better), loss — and says
    /// whether to go on; `stop` is set when the search is to pause at once. A trial that had begun before goes on
    /// where it stood, if it can.
    ///
    /// # Errors
    /// When training breaks.
    fn train(
        &self,
        number: usize,
        space: &Space,
        point: &Point,
        told: &mut dyn FnMut(usize, f64, f64) -> Reply,
        stop: &AtomicBool,
    ) -> Result<Reply>;
}

/// How long a search goes on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// Trials, those of earlier runs of the study and not the refused ones among them.
    pub trials: Option<usize>,
    /// Time of this run; trials under way are paused at its end.
    pub time: Option<Duration>,
    /// Trials at a time.
    pub workers: usize,
}

/// What a watcher hears.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// A trial begins, or begins again.
    Begins(usize),
    /// A trial has come through an epoch.
    Epoch(usize),
    /// A trial has ended.
    Ends(usize),
    /// A point was refused.
    Refused(usize),
}

/// So many refused points in a row end the search: the limits leave nothing.
const MAX_REFUSED: usize = 500;

/// Runs trials until the budget is spent, `stop` is set, or nothing is left that fits. `watch` hears all, with the
/// study as it is then. Gives back whether it came to the end of its budget.
///
/// # Errors
/// When the study cannot be written, or no point fits.
pub fn search(
    study: &mut Study,
    objective: &dyn Objective,
    budget: Budget,
    watch: &mut (dyn FnMut(&Study, Event) + Send),
    stop: &AtomicBool,
) -> Result<bool> {
    let end = budget.time.map(|t| Instant::now() + t);
    // What had begun and not ended is run first.
    let killed = study.trials().iter().filter(|t| t.state == State::Running).map(|t| t.number);
    let killed = killed.rev().collect();
    let (pause, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let shared = Mutex::new(Shared { study, watch, killed, refused: 0, wrong: None });
    let worker = Worker { shared: &shared, objective, budget, end, stop, pause: &pause };
    std::thread::scope(|scope| {
        // Time that runs out and Ctrl-C pause trials within an epoch.
        let watcher = scope.spawn(|| {
            while !done.load(Relaxed) && !worker.over() {
                std::thread::park_timeout(Duration::from_millis(50));
            }
            pause.store(!done.load(Relaxed), Relaxed);
        });
        let workers = (0..budget.workers.max(1)).map(|_| scope.spawn(|| worker.work()));
        for w in workers.collect::<Vec<_>>() {
            if w.join().is_err() {
                worker.lock().wrong.get_or_insert_with(|| {
                    crate::TrainError::Other("a trial ended the program's thread".into())
                });
            }
        }
        done.store(true, Relaxed);
        watcher.thread().unpark();
    });
    let shared = shared.into_inner().unwrap_or_else(|e| e.into_inner());
    match shared.wrong {
        Some(e) => Err(e),
        None => Ok(!stop.load(Relaxed)),
    }
}

struct Shared<'a> {
    study: &'a mut Study,
    watch: &'a mut (dyn FnMut(&Study, Event) + Send),
    killed: Vec<usize>,
    /// Points refused in a row.
    refused: usize,
    wrong: Option<crate::TrainError>,
}

struct Worker<'a, 'b> {
    shared: &'a Mutex<Shared<'b>>,
    objective: &'a dyn Objective,
    budget: Budget,
    end: Option<Instant>,
    stop: &'a AtomicBool,
    pause: &'a AtomicBool,
}

impl<'b> Worker<'_, 'b> {
    fn lock(&self) -> MutexGuard<'_, Shared<'b>> {
        self.shared.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn over(&self) -> bool {
        self.stop.load(Relaxed) || self.end.is_some_and(|e| Instant::now() >= e)
    }

    fn work(&self) {
        while !self.over() {
            match self
                .next()
                .and_then(|next| next.map_or(Ok(false), |n| self.trial(n).map(|()| true)))
            {
                Ok(true) => {}
                Ok(false) => return,
                Err(e) => {
                    self.lock().wrong.get_or_insert(e);
                    return self.pause.store(true, Relaxed);
                }
            }
        }
    }

    /// The next trial, begun; none when there is none left.
    fn next(&self) -> Result<Option<usize>> {
        loop {
            // Proposing sees all that is under way, so it is one worker's at a time.
            let mut shared = self.lock();
            if shared.wrong.is_some() || self.over() {
                return Ok(None);
            }
            if let Some(number) = shared.killed.pop() {
                shared.tell(Event::Begins(number));
                return Ok(Some(number));
            }
            let begun = shared.study.trials().iter().filter(|t| t.state != State::Refused).count();
            if self.budget.trials.is_some_and(|most| begun >= most) {
                return Ok(None);
            }
            let header = shared.study.header();
            let (trials, asked) = (shared.study.trials(), shared.study.trials().len() as u64);
            let point = header.sampler.propose(&header.space, trials, header.seed, asked);
            match self.objective.plan(&header.space, &point) {
                Ok(p) => {
                    shared.refused = 0;
                    let number = shared.study.begin(point, p.parameters, p.macs, p.memory)?;
                    shared.tell(Event::Begins(number));
                    return Ok(Some(number));
                }
                Err(why) => {
                    let number = shared.study.refuse(point, &why)?;
                    shared.tell(Event::Refused(number));
                    shared.refused += 1;
                    if shared.refused >= MAX_REFUSED {
                        return crate::error::other(format!(
                            "{MAX_REFUSED} networks in a row were refused, the last for {why}; widen the limits or the space"
                        ));
                    }
                }
            }
        }
    }

    fn trial(&self, number: usize) -> Result<()> {
        let (space, point, before) = {
            let shared = self.lock();
            let trial = &shared.study.trials()[number];
            (shared.study.header().space.clone(), trial.point.clone(), trial.seconds)
        };
        let start = Instant::now();
        let mut broken = None;
        let mut told = |epoch: usize, value: f64, loss: f64| {
            let mut shared = self.lock();
            let seconds = before + start.elapsed().as_secs_f64();
            if let Err(e) = shared.study.epoch(number, epoch, value, loss, seconds) {
                broken = Some(e);
                return Reply::Pause;
            }
            shared.tell(Event::Epoch(number));
            let (header, trials) = (shared.study.header(), shared.study.trials());
            let last = epoch >= header.epochs;
            match header.halving {
                Some(h) if !last && !h.goes_on(&trials[number], epoch, trials) => Reply::Stop,
                _ if self.pause.load(Relaxed) => Reply::Pause,
                _ => Reply::On,
            }
        };
        let result = self.objective.train(number, &space, &point, &mut told, self.pause);
        if let Some(e) = broken {
            return Err(e);
        }
        let mut shared = self.lock();
        match result {
            Ok(Reply::Pause) => return Ok(()),
            Ok(Reply::On) => shared.study.end(number, State::Done, "")?,
            Ok(Reply::Stop) => shared.study.end(number, State::Stopped, "")?,
            Err(e) => shared.study.end(number, State::Failed, &e.to_string())?,
        }
        shared.tell(Event::Ends(number));
        Ok(())
    }
}

impl Shared<'_> {
    fn tell(&mut self, event: Event) {
        (self.watch)(self.study, event);
    }
}

#[cfg(test)]
mod tests {
    use super::super::study::VERSION;
    use super::super::{Halving, Header, Kind, Sampler};
    use super::*;
    use std::sync::atomic::AtomicUsize;

    /// Value after each epoch grows towards `1 − (x − 0.6)²`; `x` above 0.9 is refused.
    struct Hill {
        epochs: usize,
        trained: AtomicUsize,
        /// Sets the stop flag after so many epochs.
        kill: Option<(usize, &'static AtomicBool)>,
    }

    impl Objective for Hill {
        fn plan(&self, _: &Space, point: &Point) -> std::result::Result<Planned, String> {
            let x = point[0].unwrap();
            let planned = Planned { macs: (1000.0 * x) as u64, ..Planned::default() };
            let limits = Limits { macs: Some(900), ..Limits::default() };
            limits.refuse(&planned).map_or(Ok(planned), Err)
        }

        fn train(
            &self,
            _: usize,
            _: &Space,
            point: &Point,
            told: &mut dyn FnMut(usize, f64, f64) -> Reply,
            stop: &AtomicBool,
        ) -> Result<Reply> {
            let x = point[0].unwrap();
            if x < 0.05 {
                return crate::error::other("the loss is no number");
            }
            for e in 1..=self.epochs {
                let n = 1 + self.trained.fetch_add(1, Relaxed);
                if let Some((_, flag)) = self.kill.filter(|k| n == k.0) {
                    flag.store(true, Relaxed);
                    while !stop.load(Relaxed) {
                        std::thread::yield_now();
                    }
                    return Ok(Reply::Pause);
                }
                let value = (1.0 - (x - 0.6).powi(2)) * (1.0 - 0.5f64.powi(e as i32));
                match told(e, value, 1.0 - value) {
                    Reply::On => {}
                    end => return Ok(end),
                }
            }
            Ok(Reply::On)
        }
    }

    fn header(halving: Option<Halving>) -> Header {
        let mut space = Space::default();
        space.add("x", Kind::Float { low: 0.0, high: 1.0, log: false });
        let sampler = Sampler::Tpe;
        Header {
            convoke_study: VERSION,
            space,
            sampler,
            halving,
            epochs: 9,
            seed: 5,
            terms: "".into(),
        }
    }

    fn budget(trials: usize, workers: usize) -> Budget {
        Budget { trials: Some(trials), time: None, workers }
    }

    fn hill(kill: Option<(usize, &'static AtomicBool)>) -> Hill {
        Hill { epochs: 9, trained: AtomicUsize::new(0), kill }
    }

    fn run(name: &str, halving: bool, workers: usize) -> (Vec<crate::tune::Trial>, usize) {
        let folder = tempfile::tempdir().unwrap();
        let halving = halving.then_some(Halving { first: 1, factor: 3 });
        let mut study = Study::open_or_begin(&folder.path().join(name), header(halving)).unwrap();
        let hill = hill(None);
        let never = AtomicBool::new(false);
        let mut ends = 0;
        let mut watch = |_: &Study, e: Event| ends += usize::from(matches!(e, Event::Ends(_)));
        assert!(search(&mut study, &hill, budget(40, workers), &mut watch, &never).unwrap());
        assert_eq!(ends, 40);
        (study.trials().to_vec(), hill.trained.load(Relaxed))
    }

    #[test]
    fn trials_are_run_refused_stopped_and_failed() {
        let (trials, trained) = run("a", true, 3);
        let count = |s: State| trials.iter().filter(|t| t.state == s).count();
        assert_eq!(trials.len() - count(State::Refused), 40);
        assert!(count(State::Refused) > 0 && count(State::Stopped) > 10 && count(State::Done) > 0);
        assert_eq!(count(State::Running), 0);
        // Early stopping saves much, though the sampler brings ever better trials.
        assert!(trained < 40 * 9 * 2 / 3, "{trained}");
        let best = trials.iter().max_by(|a, b| a.rank().total_cmp(&b.rank())).unwrap();
        assert!((best.point[0].unwrap() - 0.6).abs() < 0.1);
        assert!(
            trials.iter().filter(|t| t.state == State::Refused).all(|t| t.why.contains("MACs"))
        );
    }

    #[test]
    fn one_worker_does_the_same_twice() {
        let bare = |t: (Vec<crate::tune::Trial>, usize)| {
            t.0.into_iter().map(|t| (t.point, t.values, t.state)).collect::<Vec<_>>()
        };
        assert_eq!(bare(run("a", true, 1)), bare(run("b", true, 1)));
    }

    #[test]
    fn a_killed_study_goes_on_without_loss() {
        static STOP: AtomicBool = AtomicBool::new(false);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("study");
        let halving = Some(Halving { first: 1, factor: 3 });
        let mut study = Study::open_or_begin(&path, header(halving)).unwrap();
        let ended =
            search(&mut study, &hill(Some((37, &STOP))), budget(40, 1), &mut |_, _| {}, &STOP);
        assert!(!ended.unwrap());
        let before = study.trials().to_vec();
        assert!(before.iter().any(|t| t.state == State::Running));
        drop(study);
        // Another process takes it up.
        let mut study = Study::open_or_begin(&path, header(halving)).unwrap();
        assert_eq!(study.trials(), before);
        let never = AtomicBool::new(false);
        assert!(search(&mut study, &hill(None), budget(40, 1), &mut |_, _| {}, &never).unwrap());
        let (whole, _) = run("whole", true, 1);
        let bare = |t: &[crate::tune::Trial]| {
            t.iter().map(|t| (t.point.clone(), t.values.clone(), t.state)).collect::<Vec<_>>()
        };
        assert_eq!(bare(study.trials()), bare(&whole));
    }

    #[test]
    fn a_space_in_which_nothing_fits_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut header = header(None);
        header.space.dimension[0].kind = Kind::Float { low: 0.95, high: 1.0, log: false };
        let mut study = Study::open_or_begin(&folder.path().join("s"), header).unwrap();
        let never = AtomicBool::new(false);
        let e = search(&mut study, &hill(None), budget(3, 2), &mut |_, _| {}, &never).unwrap_err();
        assert!(e.to_string().contains("widen the limits"), "{e}");
    }
}
