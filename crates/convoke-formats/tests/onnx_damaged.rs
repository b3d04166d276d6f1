//! Files cut short, altered or made to harm give errors or results: no panic, no endless work.

mod common;

use common::shared;
use convoke_formats::onnx::{Model, Tensor};
use std::time::{Duration, Instant};

/// Random numbers, the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % n
    }
}

/// Reads, makes a network, and runs a little; what goes wrong is told in one line.
fn try_all(bytes: &[u8]) {
    let one_line = |e: &str| assert!(!e.contains('\n') && e.len() < 2000, "{e}");
    let model = match Model::from_bytes(bytes) {
        Ok(model) => model,
        Err(e) => return one_line(&e),
    };
    if let Err(e) = model.to_network(None) {
        one_line(&e);
    }
    let shape = |p: &convoke_formats::onnx::Port| {
        let sizes: Vec<usize> = p.shape.iter().map(|s| s.unwrap_or(1).min(8)).collect();
        Tensor::floats(&sizes, vec![0.5; sizes.iter().product()])
    };
    if model.inputs().iter().all(|p| p.shape.len() <= 5) {
        let inputs: Vec<Tensor> = model.inputs().iter().map(shape).collect();
        if let Err(e) = model.run_bounded(&inputs, 1 << 20) {
            one_line(&e);
        }
    }
}

#[test]
fn damaged_copies_of_every_pretrained_graph_are_told() {
    let Some(folder) = shared("pretrained") else { return };
    let mut random = Random(7);
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "onnx") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let start = Instant::now();
        for round in 0..80 {
            let mut copy = bytes.clone();
            match round % 4 {
                0 => copy.truncate(random.below(bytes.len())),
                // Where the structure is: near both ends, and anywhere.
                kind => {
                    for _ in 0..1 + random.below(4) {
                        let near = random.below(bytes.len().min(20_000));
                        let at = match kind {
                            1 => near,
                            2 => bytes.len() - 1 - near,
                            _ => random.below(bytes.len()),
                        };
                        copy[at] ^= 1 << random.below(8);
                    }
                }
            }
            try_all(&copy);
            count += 1;
        }
        assert!(start.elapsed() < Duration::from_secs(300), "{}: too slow", path.display());
    }
    println!("{count} damaged copies");
    assert!(count >= 400, "{count}");
}

#[test]
fn every_byte_of_a_small_graph_may_be_wrong() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/onnx");
    for name in ["arithmetic", "three_axes", "pools", "upsampling"] {
        let bytes = std::fs::read(folder.join(format!("{name}.onnx"))).unwrap();
        for at in 0..bytes.len() {
            if at % 3 == 0 {
                try_all(&bytes[..at]);
            }
            let mut copy = bytes.clone();
            copy[at] ^= [1, 0x80, 0x10, 0xff][at % 4];
            try_all(&copy);
        }
    }
}

#[test]
fn external_data_stays_in_the_models_folder() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("model");
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(folder.path().join("secret"), [0u8; 16]).unwrap();
    std::fs::write(inside.join("data"), 1f32.to_le_bytes().repeat(4)).unwrap();
    // `y = w` of four numbers, whose data lie at a location.
    let model = |location: &str, offset: u64| {
        let entry = |k: &str, v: &str| {
            field(13, &[field(1, k.as_bytes()), field(2, v.as_bytes())].concat())
        };
        let tensor = [
            vec![0x08, 4, 0x10, 1],
            field(8, b"w"),
            entry("location", location),
            entry("offset", &offset.to_string()),
            vec![0x70, 1],
        ];
        let node = [field(1, b"w"), field(2, b"y"), field(4, b"Identity")].concat();
        let graph =
            [field(1, &node), field(5, &tensor.concat()), field(12, &field(1, b"y"))].concat();
        let bytes = [vec![0x08, 8], field(7, &graph), field(8, &[0x10, 13])].concat();
        let path = inside.join("m.onnx");
        std::fs::write(&path, bytes).unwrap();
        Model::open(&path).map_err(|e| e.to_string())
    };
    let good = model("data", 0).unwrap().run(&[]).unwrap();
    assert_eq!(good[0].f32s().unwrap(), [1.0; 4]);
    let beyond = folder.path().join("secret");
    for wrong in ["../secret", beyond.to_str().unwrap(), "a/../../secret", ""] {
        let e = model(wrong, 0).err().unwrap();
        assert!(e.contains("outside"), "{wrong}: {e}");
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&beyond, inside.join("link")).unwrap();
        assert!(model("link", 0).err().unwrap().contains("outside"));
    }
    assert!(model("data", 8).err().unwrap().contains("cut short"));
    assert!(model("data", u64::MAX).err().unwrap().contains("cut short"));
    assert!(model("none", 0).is_err());
}

/// A length-delimited field of a message.
fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let mut all = vec![tag << 3 | 2];
    let mut n = bytes.len();
    while n > 127 {
        all.push(n as u8 | 128);
        n >>= 7;
    }
    all.push(n as u8);
    all.extend_from_slice(bytes);
    all
}

#[test]
fn what_would_fill_the_memory_is_refused() {
    // A constant of 2⁴⁰ numbers; a graph of a million empty nodes.
    let dims = [0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20];
    let tensor = [&dims[..], &[0x10, 1], &field(8, b"w")].concat();
    let graph = field(5, &tensor);
    let e = Model::from_bytes(&[vec![0x08, 8], field(7, &graph)].concat()).err().unwrap();
    assert!(e.contains("too large"), "{e}");
    let nodes = field(1, b"").repeat(3_000_000);
    assert!(Model::from_bytes(&[vec![0x08, 8], field(7, &nodes)].concat()).is_err());
}
