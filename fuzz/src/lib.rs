//! What every reader is held to, whatever bytes it is given: no panic, errors of one line and moderate length,
//! memory in proportion to the file. One function for each kind of file; the fuzzer drives them with bytes of its
//! own making, and `crates/convoke/tests/hostile.rs` with those that were kept in `corpus/`.
//!
//! Where a reader wants several files, the first byte chooses how the rest is laid out in a folder.

use convoke_data::check::{CheckOptions, check_boxes, check_dataset};
use convoke_data::{
    BoxSet, Dataset, OpenOptions, Rows, Signals, Source, Split, SplitOptions, Table,
    decode_picture, encode_png, is_regression, read_facts, read_picture, read_signals, read_size,
    regression,
};
use convoke_data::{Picture, Preprocess};
use convoke_engine::{Loss, Network, Optimizer, Overrides, Plan, PlanOptions, Shape};
use convoke_formats::{ModelFile, Weights, onnx};
use convoke_train::{RunFolder, TrainOptions, Trainer, series::Forecaster, tune};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A kind of file and what reads it.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 10] = [
    ("boxes", boxes),
    ("model", model),
    ("network", network),
    ("onnx", onnx),
    ("picture", picture),
    ("pth", pth),
    ("run", run),
    ("safetensors", safetensors),
    ("samples", samples),
    ("series", series),
];

fn one_line(e: impl ToString) {
    let e = e.to_string();
    assert!(e.chars().all(|c| !c.is_control()) && e.len() < 2000, "{e:?}");
}

/// What a reader gives, once its error is looked at.
fn fine<T, E: ToString>(read: Result<T, E>) -> Option<T> {
    read.map_err(one_line).ok()
}

/// A new folder with these files; in memory where the system has such a place.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.into() } else { std::env::temp_dir() };
    let folder = tempfile::tempdir_in(place).expect("a folder to write to");
    for (name, bytes) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, bytes).expect("a file");
    }
    folder
}

/// The first part, which says its length in two bytes, and the rest.
fn two(bytes: &[u8]) -> (&[u8], &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return (bytes, &[]) };
    rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()))
}

/// Texts with a zero byte between them.
fn texts<const N: usize>(bytes: &[u8]) -> [&[u8]; N] {
    let mut parts = bytes.splitn(N, |&b| b == 0);
    [(); N].map(|()| parts.next().unwrap_or_default())
}

/// Pictures: headers, whole pictures in grey and colour, rows. What a header says of millions of pixels is believed up
/// to the bounds of the decoders, which costs time but proves nothing, so such are not decoded here.
pub fn picture(bytes: &[u8]) {
    let folder = folder(&[("p", bytes)]);
    let path = folder.path().join("p");
    fine(read_size(&path));
    let Some(facts) = fine(read_facts(&path)) else { return };
    if facts.width * facts.height > 1 << 20 {
        return;
    }
    let shown = facts.shown();
    for channels in [1, 3] {
        if let Some(p) = fine(read_picture(&path, channels)) {
            assert_eq!((p.width, p.height, p.channels), (shown.0, shown.1, channels));
            assert_eq!(p.data.len(), p.width * p.height * channels);
        }
    }
    fine(decode_picture(bytes, 3));
    let Some(Some(mut rows)) = fine(Rows::open(&path)) else { return };
    let (width, height) = rows.size();
    for from in (0..height).step_by(7).chain([0]) {
        let Some((band, first)) = fine(rows.band(from..from + 9)) else { return };
        assert!(first <= from && band.data.len() == band.height * width * 3);
    }
}

/// Networks: read, written again, planned. Nothing is run.
pub fn network(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    fine(Network::from_toml(text, &Overrides { input: None, classes: Some(10) }));
    let Some(net) = fine(Network::from_toml(text, &Overrides::default())) else { return };
    let again = Network::from_toml(&net.to_toml(), &Overrides::default());
    assert_eq!(again.as_ref(), Ok(&net), "{}", net.to_toml());
    let _ = (net.macs(), net.parameters(), net.rows());
    let input = net.input_shape();
    let larger = Shape::new(input.h.saturating_mul(2), input.w.saturating_add(1), input.c);
    fine(net.with_input(larger));
    fine(net.with_classes(3));
    let optimizer = Optimizer::Sgd { momentum: 0.9, nesterov: true, weight_decay: 5e-4 };
    let loss = Loss::SoftmaxCrossEntropy { label_smoothing: 0.0 };
    let prediction = PlanOptions::predict(2, 2);
    for options in [prediction, PlanOptions::train(3, 2, loss, optimizer)] {
        if let Some(plan) = fine(Plan::compile(&net, &options)) {
            assert!(plan.memory().parameters >= 4 * net.parameters());
        }
    }
}

/// Boxes of every tool.
pub fn boxes(bytes: &[u8]) {
    let Some((&layout, rest)) = bytes.split_first() else { return };
    let [a, b, c, d] = texts::<4>(rest);
    let files: &[(&str, &[u8])] = match layout % 9 {
        0 => &[("a.txt", a), ("b.txt", b), ("classes.txt", c)],
        1 => &[("labels/a.txt", b), ("labels/b.txt", c), ("data.yaml", a)],
        2 => &[("obj.names", a), ("obj.data", b), ("train.txt", c), ("a.txt", d)],
        3 | 6 => &[("boxes.json", rest)],
        4 => &[("a.xml", a), ("b.xml", b), ("ImageSets/Main/train.txt", c)],
        5 => &[("annotations.xml", rest)],
        _ => &[("boxes.csv", rest)],
    };
    // A list may name folders elsewhere on the machine, which here would only be searched at length.
    let leads_out = |t: &[u8]| t.windows(2).any(|w| w == b"..") || t.contains(&b'/');
    if layout % 9 == 1 && (a.contains(&b'\\') || leads_out(a)) {
        return;
    }
    let folder = folder(files);
    let pictures = if layout % 9 == 1 { "images" } else { "." };
    std::fs::create_dir_all(folder.path().join(pictures)).expect("a folder");
    for name in ["a.png", "b.png"] {
        let png = encode_png(&Picture::filled(40, 20, [90, 9, 200])).expect("a picture");
        std::fs::write(folder.path().join(pictures).join(name), png).expect("a file");
    }
    BoxSet::is_one(folder.path());
    let set = fine(BoxSet::open(folder.path()));
    for (name, _) in files {
        fine(BoxSet::open(&folder.path().join(name)));
    }
    let Some(set) = set else { return };
    set.faults.iter().for_each(one_line);
    assert!(set.classes.iter().all(|c| !c.chars().any(char::is_control)), "{:?}", set.classes);
    for (p, b) in set.pictures.iter().flat_map(|p| p.boxes.iter().flatten().map(move |b| (p, b))) {
        let (a, wide, high) = (b.area, p.width as f64, p.height as f64);
        assert!(a.width > 0.0 && a.height > 0.0 && a.left >= 0.0 && a.top >= 0.0, "{a:?}");
        assert!(a.left + a.width <= wide + 1e-6 && a.top + a.height <= high + 1e-6, "{a:?}");
    }
    assert_eq!(set.counts().len(), set.classes.len());
    fine(set.split(&SplitOptions::default()));
    let report = check_boxes(None, &set, CheckOptions { quick: true, threads: 1 });
    report.findings.iter().for_each(|f| one_line(&f.told));
}

/// Samples of classes: IDX, CIFAR-10, folders of any names, lists of labels.
pub fn samples(bytes: &[u8]) {
    let Some((&layout, rest)) = bytes.split_first() else { return };
    let (first, second) = two(rest);
    let (images, labels) = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte");
    let (zipped, zipped_labels) = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz");
    let folder = match layout % 5 {
        0 => folder(&[(images, first), (labels, second)]),
        1 => folder(&[(zipped, first), (zipped_labels, second)]),
        2 => folder(&[("data_batch_1.bin", second), ("batches.meta.txt", first)]),
        3 => return list(rest),
        _ => match names(rest) {
            Some(folder) => folder,
            None => return,
        },
    };
    let Some(set) = fine(Dataset::open(folder.path(), &OpenOptions::default())) else { return };
    for split in [Some(&set.train), set.val.as_ref()].into_iter().flatten() {
        assert!(split.labels.iter().all(|&l| (l as usize) < set.classes.len()));
        if let Source::Memory { pixels, width, height, channels } = &split.source {
            assert_eq!(pixels.len(), split.len() * width * height * channels);
            assert!(pixels.len() <= 1032 * rest.len(), "more pixels than gzip can hold");
            fine(split.read(0, 3));
        }
    }
    set.split_csv();
    let report = check_dataset(None, &set, CheckOptions { quick: true, threads: 1 });
    report.findings.iter().for_each(|f| one_line(&f.told));
}

/// Class folders with an empty picture each, named by the bytes.
fn names(bytes: &[u8]) -> Option<TempDir> {
    let folder = folder(&[]);
    for name in
        bytes.split(|&b| b == 0).filter(|n| !n.is_empty() && *n != b"." && *n != b"..").take(20)
    {
        let name = file_name(name)?;
        let class = folder.path().join(&name);
        if std::fs::create_dir(&class).is_ok() {
            std::fs::write(class.join("p.png"), "").ok()?;
        }
    }
    Some(folder)
}

fn file_name(bytes: &[u8]) -> Option<PathBuf> {
    if bytes.contains(&b'/') || bytes.len() > 255 {
        return None;
    }
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        Some(std::ffi::OsStr::from_bytes(bytes).into())
    }
    #[cfg(not(unix))]
    std::str::from_utf8(bytes).ok().map(PathBuf::from)
}

fn list(text: &[u8]) {
    let folder =
        folder(&[("labels.csv", text), ("p/v_1.png", b""), ("p/v_2.png", b""), ("p/v_3.png", b"")]);
    let classes = ["n01440764 tench", "n01443537 goldfish, gold", "cat"].map(String::from);
    let pictures = folder.path().join("p");
    if let Some(s) = fine(Split::flat(&pictures, &folder.path().join("labels.csv"), &classes)) {
        assert!(s.len() == 3 && s.labels.iter().all(|&l| l < 3));
    }
}

/// Signals and tables.
pub fn series(bytes: &[u8]) {
    let Some((&layout, rest)) = bytes.split_first() else { return };
    let (first, second) = two(rest);
    let name = ["a.ts", "a.tsv", "a.csv", "a.npy", "x.npy"][usize::from(layout) % 5];
    let folder = match name {
        "x.npy" => folder(&[(name, first), ("y.npy", second)]),
        _ => folder(&[(name, rest)]),
    };
    let path = folder.path().join(name);
    let bounded = |s: &Signals| {
        let all: usize = (0..s.len()).map(|i| s.get(i).len()).sum();
        assert!(all <= 4 * rest.len() + (1 << 16), "{all} numbers of {} bytes", rest.len());
        assert!((0..s.len()).all(|i| s.get(i).iter().all(|v| v.is_finite())));
    };
    if let Some(set) = fine(Dataset::open(folder.path(), &OpenOptions::default())) {
        if let Source::Signals(s) = &set.train.source {
            bounded(s);
        }
        assert!(set.train.labels.iter().all(|&l| (l as usize) < set.classes.len()));
        let report = check_dataset(None, &set, CheckOptions { quick: true, threads: 1 });
        report.findings.iter().for_each(|f| one_line(&f.told));
    }
    is_regression(&path);
    if let Some(r) = fine(regression(&path)) {
        bounded(&r.train.0);
        assert_eq!(r.train.0.len(), r.train.1.len());
    }
    for length in [1, 3] {
        fine(read_signals(&path, length)).iter().for_each(bounded);
    }
    if let Some(t) = fine(Table::read(&path)) {
        assert!(t.rows() >= 2 && t.values.len() == t.rows() * t.names.len());
    }
}

/// What a run or a search leaves: studies, results, settings, spaces, checkpoints, forecasters.
pub fn run(bytes: &[u8]) {
    let Some((&layout, rest)) = bytes.split_first() else { return };
    let text = std::str::from_utf8(rest).unwrap_or_default();
    match layout % 5 {
        0 => {
            let folder = folder(&[("study.jsonl", rest)]);
            let Some(study) = fine(tune::Study::open(&folder.path().join("study.jsonl"))) else {
                return;
            };
            study.best();
            tune::importance(&study.header().space, study.trials());
            propose(&study.header().space, study.trials());
        }
        1 => {
            let folder = folder(&[("args.toml", b""), ("results.csv", rest)]);
            fine(RunFolder::open(folder.path())).map(|f| fine(f.read_rows()));
        }
        2 => {
            if let Ok(options) = toml::from_str::<TrainOptions>(text) {
                assert!(toml::to_string(&options).is_ok());
            }
        }
        3 => {
            let space = toml::from_str::<tune::Space>(text);
            if let Some(space) = space.ok().filter(|s| fine(s.check()).is_some()) {
                propose(&space, &[]);
            }
        }
        _ => checkpoint(rest),
    }
}

/// What is proposed must be in the space. A large one only takes longer.
fn propose(space: &tune::Space, trials: &[tune::Trial]) {
    if space.dimension.len() > 20 || trials.len() > 50 {
        return;
    }
    for sampler in [tune::Sampler::Random, tune::Sampler::Tpe] {
        let point = sampler.propose(space, trials, 1, trials.len() as u64);
        assert_eq!(space.of_json(&space.to_json(&point)), Some(point));
    }
}

/// The network that `checkpoint` trains; those of the kept corpus begin with it.
pub const TINY: &str =
    "name = \"tiny\"\ninput = [2, 2, 1]\n[[layer]]\ntype = \"dense\"\nunits = 2\n";

/// A run of [`TINY`] on four pictures, which only ever takes up where checkpoints say.
pub fn tiny_run(folder: &Path) -> Trainer<'static> {
    let pixels = (0..16u8).collect::<Vec<_>>().into();
    let source = Source::Memory { pixels, width: 2, height: 2, channels: 1 };
    let train = Split { source, labels: vec![0, 1, 0, 1] };
    let classes = vec!["a".to_string(), "b".to_string()];
    let (kind, size) = ("IDX files", Some((2, 2)));
    let set =
        Dataset { kind, classes, train, val: None, test: None, channels: 1, size, ignored: 0 };
    let pre = Preprocess::plain(2, 2, 1);
    let options = TrainOptions::suited(3, 2, &pre, 1);
    let network = Network::from_toml(TINY, &Overrides::default()).expect("a network");
    let run = RunFolder::next(folder, "run").expect("a folder");
    Trainer::new(network, Box::leak(Box::new(set)), pre, options, run).expect("a run")
}

fn checkpoint(bytes: &[u8]) {
    thread_local! {
        static RUN: std::cell::RefCell<Trainer<'static>> = tiny_run(folder(&[]).path()).into();
    }
    let Some(model) = fine(ModelFile::from_bytes(&mended(bytes))) else { return };
    fine(RUN.with_borrow_mut(|run| run.resume(&model)));
    let table =
        Table { names: vec!["a".into(), "b".into()], values: vec![1.0; 8], left_out: vec![] };
    if let Some(f) = fine(Forecaster::of_model(&model, &table, 1)) {
        f.looks();
    }
}

/// Model files: as they are, and with the checksum that their contents should have, or nothing behind it would ever
/// be reached.
pub fn model(bytes: &[u8]) {
    fine(ModelFile::from_bytes(bytes));
    let Some(model) = fine(ModelFile::from_bytes(&mended(bytes))) else { return };
    assert_eq!(model.params.len(), model.network.parameters());
    model.ranges();
}

/// The same model file with the right checksum and the right length of its header: see `checksum` in
/// `formats/src/model.rs`.
pub fn mended(bytes: &[u8]) -> Vec<u8> {
    let go = || {
        let length = u64::from_le_bytes(*bytes.first_chunk()?) as usize;
        let header = bytes.get(8..length.checked_add(8)?)?;
        let mut header: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(header).ok()?;
        let data = &bytes[8 + length..];
        let mut all = Vec::new();
        let mut part = |bytes: &[u8]| {
            all.extend((bytes.len() as u64).to_le_bytes());
            all.extend_from_slice(bytes);
        };
        let mut metadata = header.remove("__metadata__")?;
        let texts: BTreeMap<String, String> = serde_json::from_value(metadata.clone()).ok()?;
        for (k, v) in texts.iter().filter(|(k, _)| *k != "convoke.checksum") {
            part(k.as_bytes());
            part(v.as_bytes());
        }
        for (name, tensor) in &header {
            let shape: Vec<usize> = serde_json::from_value(tensor["shape"].clone()).ok()?;
            let place: [usize; 2] = serde_json::from_value(tensor["data_offsets"].clone()).ok()?;
            part(name.as_bytes());
            part(format!("{shape:?}").as_bytes());
            part(data.get(place[0]..place[1])?);
        }
        metadata["convoke.checksum"] = format!("{:08x}", crc32(&all)).into();
        header.insert("__metadata__".into(), metadata);
        let header = serde_json::to_vec(&header).ok()?;
        Some([&(header.len() as u64).to_le_bytes()[..], &header, data].concat())
    };
    go().unwrap_or_else(|| bytes.to_vec())
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &b| {
        (0..8).fold(crc ^ u32::from(b), |c, _| (c >> 1) ^ (0xEDB8_8320 & 0u32.wrapping_sub(c & 1)))
    })
}

/// PyTorch's files, zip and legacy. Checksums of archives are made right, or nothing behind them would ever be reached.
pub fn pth(bytes: &[u8]) {
    weights(bytes.to_vec());
    // The pickle alone, behind the first pickles of the legacy form.
    let mut legacy =
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.".to_vec();
    legacy.extend_from_slice(bytes);
    weights(legacy);
}

/// Weights in safetensors: the bytes as they are, and as a header behind its right length.
pub fn safetensors(bytes: &[u8]) {
    weights(bytes.to_vec());
    let header = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    let mut whole = (header as u64).to_le_bytes().to_vec();
    whole.extend_from_slice(bytes);
    weights(whole);
}

fn weights(bytes: Vec<u8>) {
    let len = bytes.len();
    let Some(weights) = fine(Weights::from_bytes(Path::new("file"), bytes)) else { return };
    let names: Vec<String> = weights.iter().map(|(n, _)| n.to_string()).collect();
    for name in names.iter().take(64) {
        if let Ok(values) = weights.floats(name) {
            assert!(values.len() <= len, "more numbers than bytes");
        }
    }
}

/// Graphs: read, made a network, run a little.
pub fn onnx(bytes: &[u8]) {
    let Some(model) = fine(onnx::Model::from_bytes(bytes)) else { return };
    if let Some(net) = fine(model.to_network(None)) {
        assert_eq!(net.params.len(), net.network.parameters());
    }
    if model.inputs().iter().any(|p| p.shape.len() > 5) {
        return;
    }
    let input = |p: &onnx::Port| {
        let sizes: Vec<usize> = p.shape.iter().map(|s| s.unwrap_or(1).min(6)).collect();
        onnx::Tensor::floats(&sizes, vec![0.5; sizes.iter().product()])
    };
    let inputs: Vec<onnx::Tensor> = model.inputs().iter().map(input).collect();
    fine(model.run_bounded(&inputs, 1 << 18));
}
