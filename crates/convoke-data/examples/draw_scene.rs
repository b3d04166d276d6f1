//! Draws a crowd scene: `cargo run --release -p convoke-data --example draw_scene -- SEED FILE.png`

use convoke_data::{scene, write_png};
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let seed = args.next().map_or(Ok(1), |s| s.parse())?;
    let file = args.next().unwrap_or("scene.png".into());
    let scene = scene::draw_scene(&scene::SceneOptions::new(seed));
    write_png(Path::new(&file), &scene.picture)?;
    let target = scene.targets().next();
    println!("{file}: {} figures, the one to find at {target:?}", scene.figures.len());
    Ok(())
}
