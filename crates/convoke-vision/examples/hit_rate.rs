//! How often is the striped figure the first candidate? Trains the demo's detector and looks at
//! fresh scenes: `cargo run --release -p convoke-vision --example hit_rate -- SCENES THREADS SEED`

use convoke_vision::demo::{DemoOptions, learn, score};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<u64>());
    let mut next = |or: u64| args.next().unwrap_or(Ok(or));
    let (scenes, threads, seed) = (next(60)?, next(2)? as usize, next(1)?);
    let options = DemoOptions { threads, seed, ..DemoOptions::new("runs/demo") };
    let start = std::time::Instant::now();
    let detector = learn(&options, &mut |p| {
        if p.done.is_multiple_of(100) {
            println!(
                "{:>6.1} s  {:<8} {:>4}/{} {}",
                start.elapsed().as_secs_f64(),
                p.stage,
                p.done,
                p.of,
                p.note
            );
        }
        true
    })?;
    println!("learned in {:.1} s", start.elapsed().as_secs_f64());
    let s = score(&detector, threads, seed, scenes)?;
    println!(
        "{} scenes: first {}, among the first five {}, wrong seeds {:?}, {:.2} s each",
        scenes,
        s.first,
        s.first_five,
        s.missed,
        s.seconds / scenes as f64
    );
    Ok(())
}
