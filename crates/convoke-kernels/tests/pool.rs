//! The thread pool under stress: many tiny jobs, several callers, tasks that panic, pools that are dropped while their
//! threads look for work, sleep, or are about to. To be run under ThreadSanitizer and Miri too (`CONTRIBUTING.md`).

use convoke_kernels::{Pool, SharedMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// How often each is done; Miri takes a thousand times longer.
const TURNS: usize = if cfg!(miri) { 12 } else { 2000 };

#[test]
fn what_one_job_wrote_the_next_one_reads() {
    for threads in [1, 2, 3, 7] {
        let pool = Pool::new(threads);
        // Each number is written by whoever runs its item, and read by whoever runs its neighbour's in the next job.
        let (mut from, mut to) = (vec![0usize; 13], vec![0usize; 13]);
        for turn in 0..TURNS {
            pool.for_chunks_mut(&mut to, 1, |i, c, _| c[0] = from[(i + 1) % 13] + i);
            std::mem::swap(&mut from, &mut to);
            assert!(from.iter().sum::<usize>() == 78 * (turn + 1), "{threads} threads");
        }
    }
}

#[test]
fn many_callers_share_a_pool() {
    let pool = Pool::new(3);
    let sum = AtomicUsize::new(0);
    std::thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| {
                for _ in 0..TURNS {
                    let mut mine = [0u8; 5];
                    pool.for_chunks_mut(&mut mine, 2, |_, c, worker| {
                        assert!(worker < 3);
                        c.iter_mut().for_each(|v| *v += 1);
                        sum.fetch_add(c.len(), Relaxed);
                    });
                    assert_eq!(mine, [1; 5]);
                }
            });
        }
    });
    assert_eq!(sum.into_inner(), 3 * 5 * TURNS);
}

#[test]
fn panics_of_any_task_reach_the_caller_and_nobody_else() {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let pool = Pool::new(3);
    let mut lost = 0;
    for turn in 0..TURNS {
        let bad = turn % 11;
        let mut seen = [0u8; 11];
        let all = SharedMut::new(&mut seen);
        let caught = catch_unwind(AssertUnwindSafe(|| {
            pool.run(11, &|i, _| {
                assert!(i != bad, "planted");
                // SAFETY: every item has its own number.
                let mine = unsafe { all.slice(i..i + 1) };
                mine[0] += 1;
            });
        }));
        lost += usize::from(caught.is_ok());
        lost += usize::from(seen[bad] != 0 || seen.iter().any(|&s| s > 1));
        let count = AtomicUsize::new(0);
        pool.run(11, &|_, _| {
            count.fetch_add(1, Relaxed);
        });
        lost += usize::from(count.into_inner() != 11);
    }
    std::panic::set_hook(quiet);
    assert_eq!(lost, 0);
}

#[test]
fn pools_come_and_go_at_any_moment() {
    for turn in 0..TURNS / 4 {
        let pool = Pool::new(1 + turn % 4);
        let sum = AtomicUsize::new(0);
        for _ in 0..turn % 3 {
            pool.run(5, &|i, _| {
                sum.fetch_add(i, Relaxed);
            });
        }
        assert_eq!(sum.into_inner(), turn % 3 * 10);
        match turn % 5 {
            // Its threads sleep.
            0 => std::thread::sleep(Duration::from_millis(1)),
            // They are about to.
            1 => std::thread::sleep(Duration::from_micros(50)),
            _ => {}
        }
    }
}

#[test]
fn a_pool_wakes_after_any_rest() {
    let pool = Pool::new(3);
    for turn in 0..TURNS / 10 {
        let sum = AtomicUsize::new(0);
        pool.run(6, &|i, _| {
            sum.fetch_add(i + turn, Relaxed);
        });
        assert_eq!(sum.into_inner(), 15 + 6 * turn);
        std::thread::sleep(Duration::from_micros([0, 20, 50, 200, 2000][turn % 5]));
    }
}
