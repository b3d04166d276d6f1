//! The demo without the command line: `cargo run --release -p convoke-vision --example demo -- SEED THREADS FOLDER`

use convoke_vision::demo::{DemoOptions, run_demo};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, or: u64| args.get(i).map_or(Ok(or), |a| a.parse());
    let folder = args.get(2).map_or("runs/demo", String::as_str);
    let options = DemoOptions {
        seed: number(0, 1)?,
        threads: number(1, 2)? as usize,
        ..DemoOptions::new(folder)
    };
    let report = run_demo(&options, &mut |p| {
        if p.done == p.of || p.done.is_multiple_of(250) {
            println!("{:<6} {:>4}/{} {}", p.stage, p.done, p.of, p.note);
        }
        true
    })?;
    println!("{report:#?}");
    Ok(())
}
