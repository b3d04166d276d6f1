//! A step allocates nothing: everything was decided and laid out before. And its memory is what the
//! plan said.

use convoke_engine::layers::Conv;
use convoke_engine::{Builder, Loss, Network, Optimizer, Plan, PlanOptions, Session, Shape};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, SeqCst);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Every kind of call: convolutions of all walks, depthwise, norms with residual, pools, dense, dropout.
fn network() -> Network {
    let mut b = Builder::new("all", Shape::new(20, 20, 3));
    b.conv(Conv::new(8, 5)).relu().max_pool(2, 2);
    let x = b.conv(Conv::new(16, 3).no_bias()).batch_norm().relu().here();
    b.conv(Conv::depthwise(3)).batch_norm().relu6();
    let y = b.conv(Conv::new(16, 1)).batch_norm().here();
    b.add(&[y, x]).relu();
    let z = b.here();
    b.concat(&[z, x]).mean_pool(2, 2).conv(Conv::new(24, 3).stride(2).groups(2));
    b.flatten().dropout(0.2).dense(30).relu().dense(5);
    b.build().unwrap()
}

/// Few filters: pictures in the lanes.
fn narrow() -> Network {
    let mut b = Builder::new("narrow", Shape::new(12, 12, 1));
    b.conv(Conv::new(6, 5)).relu().max_pool(2, 2).flatten().dropout(0.2).dense(5);
    b.build().unwrap()
}

fn allocations(net: &Network, batch: usize, threads: usize, optimizer: Optimizer) -> usize {
    let loss = Loss::SoftmaxCrossEntropy { label_smoothing: 0.1 };
    let plan = Plan::compile(net, &PlanOptions::train(batch, threads, loss, optimizer)).unwrap();
    let mut s = Session::new(plan).unwrap();
    s.init(1);
    s.input_mut().fill(0.3);
    s.step(0.01).unwrap();
    let before = COUNT.load(SeqCst);
    for _ in 0..10 {
        s.input_mut().fill(0.2);
        s.step(0.01).unwrap();
    }
    COUNT.load(SeqCst) - before
}

fn predictions(net: &Network, batch: usize, threads: usize) -> usize {
    let plan = Plan::compile(net, &PlanOptions::predict(batch, threads)).unwrap();
    let mut s = Session::new(plan).unwrap();
    s.init(1);
    s.predict(batch).unwrap();
    let before = COUNT.load(SeqCst);
    for n in [1, 2, batch] {
        s.predict(n).unwrap();
    }
    COUNT.load(SeqCst) - before
}

// One test, because the counter is the process's.
#[test]
fn steps_and_predictions_allocate_nothing() {
    let sgd = Optimizer::Sgd { momentum: 0.9, nesterov: true, weight_decay: 1e-4 };
    let adam = Optimizer::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.05 };
    for (net, batch) in [(network(), 6), (narrow(), 40)] {
        for threads in [1, 2] {
            let name = format!("{}, {threads} threads", net.name());
            assert_eq!(allocations(&net, batch, threads, sgd), 0, "sgd, {name}");
            assert_eq!(allocations(&net, batch, threads, adam), 0, "adamw, {name}");
            assert_eq!(predictions(&net, batch, threads), 0, "predict, {name}");
        }
    }
}
