//! A small thread pool for kernels: woken in microseconds, waiting for nobody who has not started.
//!
//! Each thread has a range of the items and begins there, so that what it wrote in the last run is still in
//! its cache; a thread that is done helps the others. Which thread runs which item is left open: kernels
//! are written so that it changes no result.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::thread::{self, JoinHandle};

/// Turns of the loop in which an idle thread looks for work before it sleeps: about 50 µs. Miri, which runs one
/// thread at a time, gives way sooner.
const SPINS: u32 = if cfg!(miri) { 4 } else { 4000 };

type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

struct Job {
    task: *const Task<'static>,
    items: usize,
    chunk: usize,
}

/// The next item of a thread's range, in a cache line of its own.
#[repr(align(128))]
struct Next(AtomicUsize);

struct Shared {
    /// Twice the number of the job, plus one while it is open.
    state: AtomicU64,
    job: UnsafeCell<Job>,
    next: Vec<Next>,
    /// Threads that may be using the job.
    inside: AtomicUsize,
    started: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    parked: Vec<AtomicBool>,
}

// SAFETY: `job` is written only by the thread that holds `Pool::busy`, while the job is closed and
// `inside` is zero, and read only by threads that found it open after entering `inside`.
unsafe impl Sync for Shared {}
// SAFETY: the task pointer is followed only while `run` keeps the task alive.
unsafe impl Send for Shared {}

impl Shared {
    /// Claims and runs items until none are left.
    fn work(&self, worker: usize) {
        // SAFETY: the caller is inside an open job, see `Shared`.
        let job = unsafe { &*self.job.get() };
        let threads = self.next.len();
        for turn in 0..threads {
            let owner = (worker + turn) % threads;
            let end = first_item(owner + 1, job.items, threads);
            loop {
                let start = self.next[owner].0.fetch_add(job.chunk, Relaxed);
                if start >= end {
                    break;
                }
                for item in start..(start + job.chunk).min(end) {
                    // SAFETY: `run` does not return while a thread is inside.
                    unsafe { (*job.task)(item, worker) };
                }
            }
        }
    }

    fn worker(&self, worker: usize) {
        // What a thread allocates for itself is allocated before it counts as started.
        drop(thread::current());
        self.started.fetch_add(1, SeqCst);
        let mut seen = 0;
        loop {
            let state = self.wait(worker, seen);
            if self.stop.load(SeqCst) {
                return;
            }
            self.inside.fetch_add(1, SeqCst);
            if self.state.load(SeqCst) == state
                && catch_unwind(AssertUnwindSafe(|| self.work(worker))).is_err()
            {
                self.panicked.store(true, SeqCst);
            }
            self.inside.fetch_sub(1, SeqCst);
            seen = state;
        }
    }

    /// Waits for an open job other than `seen`.
    fn wait(&self, worker: usize, seen: u64) -> u64 {
        let mut spins = 0;
        loop {
            let state = self.state.load(SeqCst);
            if (state & 1 == 1 && state != seen) || self.stop.load(SeqCst) {
                return state;
            }
            if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
                continue;
            }
            let parked = &self.parked[worker - 1];
            parked.store(true, SeqCst);
            if self.state.load(SeqCst) == state && !self.stop.load(SeqCst) {
                thread::park();
            }
            parked.store(false, SeqCst);
        }
    }
}

/// Where a thread's range of the items begins.
fn first_item(thread: usize, items: usize, threads: usize) -> usize {
    // Products of both could overflow.
    let (each, more) = (items / threads, items % threads);
    thread * each + thread.min(more)
}

/// A number of threads, the calling one among them.
pub struct Pool {
    shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
    busy: Mutex<()>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({})", self.threads())
    }
}

impl Pool {
    /// Starts `threads − 1` threads; the caller of [`Pool::run`] is the first. A thread that the
    /// machine refuses is done without.
    pub fn new(threads: usize) -> Self {
        let extra = threads.max(1) - 1;
        fn nothing(_: usize, _: usize) {}
        let task: *const Task<'static> = &nothing as &Task<'static>;
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(Job { task, items: 0, chunk: 1 }),
            next: (0..=extra).map(|_| Next(AtomicUsize::new(0))).collect(),
            inside: AtomicUsize::new(0),
            started: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            parked: (0..extra).map(|_| AtomicBool::new(false)).collect(),
        });
        let handles = (1..=extra)
            .map_while(|worker| {
                let shared = shared.clone();
                let name = format!("convoke-{worker}");
                thread::Builder::new().name(name).spawn(move || shared.worker(worker)).ok()
            })
            .collect::<Vec<_>>();
        while shared.started.load(SeqCst) < handles.len() {
            thread::yield_now();
        }
        Pool { shared, handles, busy: Mutex::new(()) }
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.shared.parked.len() + 1
    }

    /// Runs `task(item, worker)` for every item below `items`; `worker < threads` names the thread.
    /// A run within a run, or beside another, uses the calling thread alone.
    ///
    /// # Panics
    /// When the task panics, after all threads have left it.
    pub fn run(&self, items: usize, task: &Task) {
        let alone = items <= 1 || self.handles.is_empty();
        let Some(_busy) = (if alone { None } else { self.try_busy() }) else {
            (0..items).for_each(|item| task(item, 0));
            return;
        };
        let shared = &*self.shared;
        // SAFETY: the lifetime is only forgotten, not exceeded: the job is closed and left by all
        // threads before this function returns.
        let task: *const Task<'static> = unsafe { std::mem::transmute(task) };
        let chunk = (items / (self.threads() * 8)).max(1);
        // SAFETY: the last job is closed and nobody is inside, see below.
        unsafe { *shared.job.get() = Job { task, items, chunk } };
        for (thread, next) in shared.next.iter().enumerate() {
            next.0.store(first_item(thread, items, shared.next.len()), SeqCst);
        }
        let open = shared.state.fetch_add(1, SeqCst) + 1;
        for (parked, handle) in shared.parked.iter().zip(&self.handles) {
            if parked.load(SeqCst) {
                handle.thread().unpark();
            }
        }
        let mine = catch_unwind(AssertUnwindSafe(|| shared.work(0)));
        if mine.is_err() {
            shared.next.iter().for_each(|next| next.0.store(items, SeqCst));
        }
        shared.state.store(open + 1, SeqCst);
        let mut spins = 0;
        while shared.inside.load(SeqCst) != 0 {
            spins += 1;
            if spins < 10 * SPINS {
                std::hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
        if let Err(panic) = mine {
            shared.panicked.store(false, SeqCst);
            resume_unwind(panic);
        }
        if shared.panicked.swap(false, SeqCst) {
            panic!("a kernel panicked on another thread");
        }
    }

    /// The right to use the threads, unless somebody has it. A run that panicked gave it back in order.
    fn try_busy(&self) -> Option<MutexGuard<'_, ()>> {
        match self.busy.try_lock() {
            Ok(busy) => Some(busy),
            Err(TryLockError::Poisoned(busy)) => Some(busy.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Runs `f(i, chunk, worker)` over the chunks of a slice.
    pub fn for_chunks_mut<T: Send>(
        &self,
        data: &mut [T],
        chunk: usize,
        f: impl Fn(usize, &mut [T], usize) + Sync,
    ) {
        let (len, chunk) = (data.len(), chunk.max(1));
        let data = SharedMut::new(data);
        self.run(len.div_ceil(chunk), &|i, worker| {
            // SAFETY: chunks are disjoint.
            let part = unsafe { data.slice(i * chunk..((i + 1) * chunk).min(len)) };
            f(i, part, worker);
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        for handle in self.handles.drain(..) {
            handle.thread().unpark();
            let _ = handle.join();
        }
    }
}

/// A slice that several threads write at once, each its own part.
pub struct SharedMut<'a, T> {
    start: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through unsafe functions whose callers promise disjoint parts.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    /// Wraps a slice.
    pub fn new(slice: &'a mut [T]) -> Self {
        SharedMut { start: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    /// A part of the slice.
    ///
    /// # Safety
    /// No other live reference may overlap the part.
    ///
    /// # Panics
    /// When the range leaves the slice.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "range leaves the slice");
        // SAFETY: within the slice; disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// Start of the slice, for kernels that address by offset.
    pub fn as_mut_ptr(&self) -> *mut T {
        self.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_runs_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads);
            for items in [0, 1, 2, 7, if cfg!(miri) { 50 } else { 1000 }] {
                let mut seen = vec![0u8; items];
                pool.for_chunks_mut(&mut seen, 1, |_, c, _| c[0] += 1);
                assert!(seen.iter().all(|&s| s == 1));
            }
        }
    }

    #[test]
    fn many_short_runs_lose_nothing() {
        let pool = Pool::new(3);
        let sum = AtomicUsize::new(0);
        let runs = if cfg!(miri) { 20 } else { 5000 };
        for _ in 0..runs {
            pool.run(9, &|i, _| {
                sum.fetch_add(i, Relaxed);
            });
        }
        assert_eq!(sum.into_inner(), runs * 36);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        for _ in 0..if cfg!(miri) { 2 } else { 20 } {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(100, &|i, _| assert!(i != 57, "planted"));
            }));
            assert!(caught.is_err());
        }
        let count = AtomicUsize::new(0);
        pool.run(100, &|_, _| {
            count.fetch_add(1, Relaxed);
        });
        assert_eq!(count.into_inner(), 100);
        // The panics have not left the caller alone either.
        let helped = AtomicBool::new(false);
        let tries = if cfg!(miri) { 50 } else { 10_000 };
        assert!((0..tries).any(|_| {
            pool.run(100, &|_, worker| {
                helped.fetch_or(worker == 1, Relaxed);
                thread::yield_now();
            });
            helped.load(Relaxed)
        }));
    }

    #[test]
    fn a_run_within_a_run_finishes() {
        let pool = Pool::new(2);
        let count = AtomicUsize::new(0);
        pool.run(4, &|_, _| {
            pool.run(4, &|_, _| {
                count.fetch_add(1, Relaxed);
            })
        });
        assert_eq!(count.into_inner(), 16);
    }
}
