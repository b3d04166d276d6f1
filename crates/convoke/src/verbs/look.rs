//! `convoke look`.

use crate::common::{Threads, trained};
use crate::verbs::look_signals;
use anyhow::{Result, bail};
use convoke_data::{Picture, Source, Split, read_picture, write_file, write_png};
use convoke_engine::layers::Layer;
use convoke_engine::{NodeId, Shape};
use convoke_vision::look::{
    Inside, Method, Target, explained_picture, field_picture, map_sheet, overview, patch_sheet,
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Look inside a network: filters, feature maps, receptive fields, what made it decide
///
/// Without a flag, everything that the given pictures allow is written.
#[derive(clap::Args)]
pub struct Args {
    /// Run folder or model file
    model: String,
    /// Picture, or a folder of pictures; for a network over signals a file of them (.ts, .tsv, .csv, .npy), or a text
    /// file of one's numbers
    picture: Option<PathBuf>,
    /// First filters as tiles; with a folder, the patches that deeper filters answer most
    #[arg(long)]
    filters: bool,
    /// Feature maps, a contact sheet for each layer
    #[arg(long)]
    maps: bool,
    /// Receptive fields, theoretical and effective
    #[arg(long)]
    field: bool,
    /// What made it decide: Grad-CAM, gradients, integrated gradients, occlusion, each against drawn weights
    #[arg(long)]
    cam: bool,
    /// One number of a feature map worked out: patch x filter = number
    #[arg(long)]
    arithmetic: bool,
    /// Layers to look at [default: chosen by what is looked for]
    #[arg(long, value_name = "NAME")]
    layer: Vec<String>,
    /// Filter to work out [default: the one that answers most]
    #[arg(long, value_name = "N")]
    filter: Option<usize>,
    /// Row and column to work out [default: where it answers most]
    #[arg(long, value_name = "ROW,COLUMN", value_parser = pair)]
    at: Option<(usize, usize)>,
    /// Class to explain, by name or number [default: the likeliest]
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
    /// Width x height of what is to be recognised, in pixels of the network's input: says whether the receptive
    /// field suits it [default: a detector's own]
    #[arg(long, value_name = "WxH", value_parser = size)]
    object: Option<(f64, f64)>,
    /// Pictures of a folder to go through at most
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    most: u32,
    /// Folder for the pictures
    #[arg(long, default_value = "runs/look", value_name = "DIR")]
    out: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    threads: Threads,
}

fn pair(text: &str) -> Result<(usize, usize), String> {
    let wrong = || "write ROW,COLUMN".to_string();
    let (a, b) = text.split_once(',').ok_or_else(wrong)?;
    Ok((a.trim().parse().map_err(|_| wrong())?, b.trim().parse().map_err(|_| wrong())?))
}

fn size(text: &str) -> Result<(f64, f64), String> {
    let sides: Vec<f64> = text.split('x').filter_map(|s| s.parse().ok()).collect();
    match sides[..] {
        [w, h] if w > 0.0 && h > 0.0 && w < 1e6 && h < 1e6 => Ok((w, h)),
        _ => Err("write WIDTHxHEIGHT in pixels, such as 24x40".into()),
    }
}

/// What is looked at, and what has been told so far.
struct Look {
    args: Args,
    inside: Inside,
    /// Files of the folder, or the one picture.
    files: Vec<PathBuf>,
    /// The first picture's input.
    x: Option<Vec<f32>>,
    told: serde_json::Map<String, Value>,
}

pub fn run(args: Args) -> Result<()> {
    let model = trained(&args.model)?;
    if let Some(path) = args.picture.as_deref().filter(|p| look_signals::is_one(p, &model)) {
        let (class, threads) = (args.class.as_deref(), args.threads.count());
        return look_signals::run(model, path, &args.out, class, args.json, threads);
    }
    let inside = Inside::new(model, args.threads.count())?;
    let files = match &args.picture {
        Some(path) => spread(path, args.most as usize)?,
        None => Vec::new(),
    };
    let mut look = Look { x: None, inside, files, args, told: serde_json::Map::new() };
    look.x = match look.files.first() {
        Some(first) => Some(look.read(first)?),
        None => None,
    };
    let a = &look.args;
    let all = !(a.filters || a.maps || a.field || a.cam || a.arithmetic);
    let needs = [
        ("--maps", a.maps),
        ("--cam", a.cam),
        ("--arithmetic", a.arithmetic),
        ("--field", a.field),
    ];
    if let (None, Some((flag, _))) = (&look.x, needs.iter().find(|n| n.1)) {
        bail!("{flag} needs a picture: convoke look {} PICTURE", a.model);
    }
    let (filters, maps, field) = (all || a.filters, all || a.maps, all || a.field);
    let (cam, arithmetic) = (all || a.cam, all || a.arithmetic);
    if filters {
        look.filters(all)?;
    }
    if let Some(x) = look.x.clone() {
        if maps {
            look.maps(&x)?;
        }
        if field {
            look.field()?;
        }
        if cam {
            look.cam(&x, all)?;
        }
        if arithmetic {
            look.arithmetic(&x, all)?;
        }
    }
    let json = Value::Object(look.told).to_string();
    write_file(&look.args.out.join("look.json"), json.as_bytes())?;
    match look.args.json {
        true => println!("{json}"),
        false => println!("pictures: {}", look.args.out.display()),
    }
    Ok(())
}

/// The picture, or pictures from all over a folder.
fn spread(path: &Path, most: usize) -> Result<Vec<PathBuf>> {
    match Split::unlabelled(path)?.spread(most).source {
        Source::Files(files) => Ok(files),
        _ => Ok(Vec::new()),
    }
}

impl Look {
    fn say(&self, line: &str) {
        if !self.args.json {
            println!("{line}");
        }
    }

    fn write(&self, name: &str, picture: &Picture) -> Result<()> {
        Ok(write_png(&self.args.out.join(name), picture)?)
    }

    /// The network's input of a file.
    fn read(&self, path: &Path) -> Result<Vec<f32>> {
        let shape = self.inside.network().input_shape();
        let is_text = path.extension().is_some_and(|e| e == "csv" || e == "txt");
        if is_text {
            return signal(path, shape);
        }
        let picture = read_picture(path, self.inside.model().preprocess.channels)?;
        Ok(self.inside.input(&picture)?)
    }

    /// The layers that were named, else those.
    fn layers(&self, otherwise: impl FnOnce(&Inside) -> Vec<NodeId>) -> Result<Vec<NodeId>> {
        if self.args.layer.is_empty() {
            return Ok(otherwise(&self.inside));
        }
        self.args.layer.iter().map(|name| Ok(self.inside.place(name)?)).collect()
    }

    fn filters(&mut self, all: bool) -> Result<()> {
        match self.inside.filter_sheet() {
            Ok(sheet) => {
                self.write("filters.png", &sheet)?;
                self.say("filters      filters.png: the first convolution's, strongest first");
            }
            Err(e) if all => self.say(&format!("filters      none to show: {e}")),
            Err(e) => return Err(e.into()),
        }
        if self.files.len() < 2 {
            return Ok(());
        }
        let mut told = Vec::new();
        for place in self.layers(deep)? {
            let mut failed = 0;
            let mut good = Vec::new();
            for file in &self.files {
                match self.read(file) {
                    Ok(x) => good.push((file, x)),
                    Err(_) => failed += 1,
                }
            }
            let mut inputs = good.iter().map(|(_, x)| x.clone());
            let found = self.inside.patches(place, &mut inputs, 6)?;
            let name = self.inside.network().node(place).name.clone();
            let seen = |i: usize| Ok(self.inside.seen(&good[i].1));
            let sheet = patch_sheet(&name, &found, 24, &seen)?;
            let file = format!("patches-{}.png", plain(&name));
            self.write(&file, &sheet)?;
            let left =
                if failed > 0 { format!(", {failed} could not be read") } else { String::new() };
            self.say(&format!(
                "filters      {file}: what `{name}` answers most in {} pictures{left}",
                good.len()
            ));
            let files: Vec<String> = good.iter().map(|g| g.0.display().to_string()).collect();
            told.push(json!({"layer": name, "pictures": files, "filters": found}));
        }
        self.told.insert("patches".into(), told.into());
        Ok(())
    }

    fn maps(&mut self, x: &[f32]) -> Result<()> {
        let layers = self.layers(Inside::shown_layers)?;
        let maps = self.inside.maps(x, &layers)?;
        let names = &self.inside.model().classes;
        let logits = self.inside.network().node(self.inside.logits()).name.clone();
        for (i, m) in maps.iter().enumerate() {
            let classes = (m.layer == logits).then_some(&names[..]);
            self.write(&format!("maps/{i:03}-{}.png", plain(&m.layer)), &map_sheet(m, classes)?)?;
        }
        self.write("maps.png", &overview(&self.inside.seen(x), &maps, names)?)?;
        self.say(&format!(
            "maps         maps.png: the whole way; maps/: {} sheets, one a layer",
            maps.len()
        ));
        self.told.insert("maps".into(), serde_json::to_value(&maps)?);
        Ok(())
    }

    fn field(&mut self) -> Result<()> {
        let layers = self.layers(|inside| {
            let mut all = deep(inside);
            all.extend(inside.last_map());
            all.dedup();
            all
        })?;
        let mut inputs = Vec::new();
        // The gradient's mean over twenty pictures hardly moves any more.
        for file in self.files.iter().take(20) {
            inputs.extend(self.read(file));
        }
        let object =
            self.args.object.or_else(|| size(self.inside.model().facts.get("object")?).ok());
        let mut reports = Vec::new();
        for place in layers {
            reports.push(self.inside.field(place, &inputs, object)?);
        }
        let first = inputs.first().map(|x| self.inside.seen(x));
        if let Some(seen) = first {
            self.write("field.png", &field_picture(&seen, &reports)?)?;
        }
        self.say("field        field.png: what a place in the middle of a map sees");
        let mut told = Vec::new();
        for r in &reports {
            let (can, does) = match self.inside.network().input_shape().h {
                1 => (format!("{} places", r.field.w.size), r.effective.middle[3].to_string()),
                _ => (
                    format!("{}x{}", r.field.h.size, r.field.w.size),
                    format!("{0:.0}x{0:.0}", r.effective.side),
                ),
            };
            self.say(&format!("  {:<24} can see {can}, looks at about {does}", r.layer));
            r.warnings.iter().for_each(|w| self.say(&format!("  warning: {w}")));
            let mut value = serde_json::to_value(r)?;
            if let Some(e) = value["effective"].as_object_mut() {
                e.remove("values");
            }
            told.push(value);
        }
        self.told.insert("field".into(), told.into());
        Ok(())
    }

    /// The class that was named, by name or number.
    fn class(&self) -> Result<Option<usize>> {
        let Some(wanted) = &self.args.class else { return Ok(None) };
        let names = &self.inside.model().classes;
        if let Some(i) = names.iter().position(|n| n == wanted) {
            return Ok(Some(i));
        }
        match wanted.parse() {
            Ok(n) => Ok(Some(n)),
            Err(_) => bail!(
                "the model has no class `{wanted}`{}",
                convoke_engine::names::hint(wanted, names.iter().map(String::as_str))
            ),
        }
    }

    fn cam(&mut self, x: &[f32], all: bool) -> Result<()> {
        let target: Target = self.inside.target(x, self.class()?)?;
        let e = match self.inside.explained(x, &target, &Method::ALL) {
            Ok(e) => e,
            Err(e) if all => {
                self.say(&format!("decision     not explained: {e}"));
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        };
        self.write("cam.png", &explained_picture(&self.inside.seen(x), &e)?)?;
        self.say(&format!(
            "decision     cam.png: why `{}` ({:.1} %)",
            target.name,
            100.0 * target.probability
        ));
        for s in &e.sanity {
            let verdict =
                if s.passed { "" } else { ": tells of the picture more than of the network" };
            self.say(&format!(
                "  {:<21} like that of drawn weights: {:.2}{verdict}",
                s.method.name(),
                s.correlation
            ));
        }
        self.told.insert("decision".into(), serde_json::to_value(&e)?);
        Ok(())
    }

    fn arithmetic(&mut self, x: &[f32], all: bool) -> Result<()> {
        let convs = |inside: &Inside| {
            let net = inside.network();
            let is_conv = |id: &NodeId| matches!(net.node(*id).layer, Some(Layer::Conv(_)));
            net.iter().map(|(id, _)| id).filter(is_conv).take(1).collect()
        };
        let layers = self.layers(convs)?;
        let mut text = String::new();
        let mut told = Vec::new();
        for layer in layers {
            match self.inside.arithmetic(x, layer, self.args.filter, self.args.at) {
                Ok(a) => {
                    text += &a.text();
                    told.push(serde_json::to_value(&a)?);
                }
                Err(_) if all => {}
                Err(e) => return Err(e.into()),
            }
        }
        if told.is_empty() {
            return Ok(());
        }
        write_file(&self.args.out.join("arithmetic.txt"), text.as_bytes())?;
        self.say("arithmetic   arithmetic.txt");
        self.say(text.trim_end());
        self.told.insert("arithmetic".into(), told.into());
        Ok(())
    }
}

/// Layers that stand for the way through the network: the last of each map size, at most six.
fn deep(inside: &Inside) -> Vec<NodeId> {
    let mut all = inside.stages();
    let from = all.len().saturating_sub(6);
    all.split_off(from)
}

/// A layer's name as a part of a file's name.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_alphanumeric() || "-._".contains(c) { c } else { '_' }).collect()
}

/// Numbers of a signal, a row a line, as many as the network takes.
fn signal(path: &Path, shape: Shape) -> Result<Vec<f32>> {
    let text = crate::common::read_text(path)?;
    let cells = text.split([',', ';', ' ', '\t', '\n', '\r']).filter(|c| !c.is_empty());
    let numbers: Option<Vec<f32>> = cells.map(|c| c.parse().ok()).collect();
    match numbers {
        Some(n) if n.len() == shape.len() => Ok(n),
        Some(n) => {
            bail!("{}: holds {} numbers, the network takes {shape}", path.display(), n.len())
        }
        None => bail!("{}: holds what is no number", path.display()),
    }
}
