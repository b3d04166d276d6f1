//! `convoke lens`.

use crate::common::{Threads, read_text, trained};
use anyhow::{Result, anyhow, bail};
use clap::ValueEnum;
use convoke_data::{Picture, read_picture, write_file, write_png};
use convoke_engine::Padding;
use convoke_vision::lens::{Lens, Pooling, Slide, lens_picture, map_picture, panel, slide};
use std::path::{Path, PathBuf};

/// Slide a filter over a picture and see its feature map
#[derive(clap::Args)]
pub struct Args {
    /// Picture
    picture: PathBuf,
    /// What to slide: stripes, stripes-vertical, stripes-red, edges, edges-horizontal, edges-vertical, blobs,
    /// blur; a text file with a matrix of numbers; patch:x,y,w,h cut out of the picture itself;
    /// MODEL:N for filter N of a model's first convolution
    #[arg(long, value_name = "FILTER", default_value = "stripes")]
    filter: String,
    /// Rows and columns of the filters that are made by name [default: 8 for stripes and blobs, else 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=255))]
    window: Option<u16>,
    /// Thickness of a stripe in pixels
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=255))]
    stripe: u16,
    /// Pixels from one place of the filter to the next
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    stride: u16,
    /// same: zeros stand around the picture; valid: the filter stays inside
    #[arg(long, value_enum, default_value = "same")]
    padding: PaddingArg,
    /// What is taken of each window of the feature map
    #[arg(long, value_enum, value_name = "max|mean")]
    pool: Option<PoolArg>,
    /// Window and stride of the pooling
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=15))]
    pool_window: u16,
    /// Folder for the pictures
    #[arg(long, default_value = "runs/lens", value_name = "DIR")]
    out: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    threads: Threads,
}

#[derive(Clone, Copy, ValueEnum)]
enum PaddingArg {
    Same,
    Valid,
}

#[derive(Clone, Copy, ValueEnum)]
enum PoolArg {
    Max,
    Mean,
}

pub fn run(args: Args) -> Result<()> {
    let picture = read_picture(&args.picture, 3)?;
    let lens = lens(&args, &picture)?;
    let kind = args.pool.map(|p| match p {
        PoolArg::Max => Pooling::Max,
        PoolArg::Mean => Pooling::Mean,
    });
    let how = Slide {
        stride: args.stride.into(),
        padding: match args.padding {
            PaddingArg::Same => Padding::Same,
            PaddingArg::Valid => Padding::Valid,
        },
        pool: kind.map(|k| (k, usize::from(args.pool_window))),
    };
    let slid = slide(&picture, &lens, how, args.threads.count())?;
    let stem =
        args.picture.file_stem().map_or("picture".into(), |s| s.to_string_lossy().into_owned());
    let place = |kind: &str| args.out.join(format!("{stem}-{kind}"));
    write_png(&place("lens.png"), &panel(&picture, &slid)?)?;
    write_png(&place("filter.png"), &lens_picture(&lens))?;
    write_png(&place("map.png"), &map_picture(&slid.map))?;
    if let Some(p) = &slid.pooled {
        write_png(&place("pooled.png"), &map_picture(p))?;
    }
    let json = serde_json::to_string(&slid)?;
    write_file(&place("lens.json"), json.as_bytes())?;
    if args.json {
        println!("{json}");
        return Ok(());
    }
    let (h, w) = slid.map.size;
    println!("picture      {}x{}", picture.width, picture.height);
    println!(
        "filter       {} {}x{}, {} channels",
        lens.name, lens.size.1, lens.size.0, lens.channels
    );
    println!("feature map  {w}x{h}, stride {}, padding {}", how.stride, how.padding);
    if let Some(p) = &slid.pooled {
        println!("pooled       {}x{}", p.size.1, p.size.0);
    }
    let (row, column, most) = slid.best;
    println!(
        "strongest    {most:.3} at column {column}, row {row}: the {}x{} pixels from {},{} of the picture",
        lens.size.1, lens.size.0, slid.under.0, slid.under.1
    );
    println!("pictures     {}", place("*").display());
    Ok(())
}

/// The filter that was named.
fn lens(args: &Args, picture: &Picture) -> Result<Lens> {
    let name = args.filter.as_str();
    if let Some(numbers) = name.strip_prefix("patch:") {
        let n: Vec<usize> = numbers.split(',').filter_map(|n| n.trim().parse().ok()).collect();
        return match n[..] {
            [x, y, w, h] => Ok(Lens::patch(picture, x, y, w, h)?),
            _ => bail!("--filter {name}: write patch:x,y,w,h in whole pixels"),
        };
    }
    if Path::new(name).is_file() {
        return Ok(Lens::from_text(name, &read_text(Path::new(name))?)?);
    }
    if let Some((model, number)) = name.rsplit_once(':') {
        let number = number.parse().map_err(|_| anyhow!("--filter {name}: write MODEL:N"))?;
        let model = trained(model)?;
        return Ok(Lens::learned(&model.network, &model.params, number)?);
    }
    let wide = name.starts_with("stripes") || name == "blobs";
    let window = args.window.map_or(if wide { 8 } else { 3 }, usize::from);
    Ok(Lens::hand_made(name, window, args.stripe.into())?)
}
