//! COCO's and Pascal VOC's numbers equal those of the reference implementations to 1e-6, on detections
//! that `fixtures/detection_metrics.py` draws by the same rule.

use convoke_data::{BoxSet, Part};
use convoke_vision::Bounds;
use convoke_vision::metrics::{Detection, Truth, VocYear, coco, voc_average_precision};
use serde_json::Value;
use std::path::Path;

struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn number(&mut self, n: u64) -> f64 {
        self.below(n) as f64
    }

    fn jitter(&mut self, b: &Bounds, by: u64) -> Bounds {
        let mut d = || self.number(2 * by + 1) - by as f64;
        let (left, top) = (b.left + d(), b.top + d());
        Bounds { left, top, width: (b.width + d()).max(1.0), height: (b.height + d()).max(1.0) }
    }
}

fn random_case(args: &[u64]) -> (Vec<Truth>, Vec<Detection>) {
    let &[seed, pictures, classes, most, extra, levels] = args else { panic!("{args:?}") };
    let mut draw = Draw(seed);
    let (mut truths, mut finds) = (Vec::new(), Vec::new());
    for picture in 0..pictures as usize {
        for _ in 0..draw.below(most + 1) {
            let class = draw.below(classes - 1) as usize;
            let side = [12, 40, 140][draw.below(3) as usize];
            let (left, top) = (draw.number(400), draw.number(300));
            let (width, height) =
                ((side + draw.below(side)) as f64, (side + draw.below(side)) as f64);
            let bounds = Bounds { left, top, width, height };
            let (crowd, difficult) = (draw.below(12) == 0, draw.below(6) == 0);
            let area = width * height * (50.0 + draw.number(51)) / 100.0;
            truths.push(Truth { picture, class, bounds, area, crowd, difficult });
            for _ in 0..draw.below(3) {
                let bounds = draw.jitter(&bounds, 1 + side / 6);
                let score = draw.number(levels) / levels as f64;
                finds.push(Detection { picture, class, bounds, score });
            }
            if draw.below(4) == 0 {
                let class = draw.below(classes) as usize;
                let bounds = draw.jitter(&bounds, 2);
                let score = draw.number(levels) / levels as f64;
                finds.push(Detection { picture, class, bounds, score });
            }
        }
        for _ in 0..draw.below(extra + 1) {
            let (left, top) = (draw.number(400), draw.number(300));
            let (width, height) = (5.0 + draw.number(150), 5.0 + draw.number(150));
            let bounds = Bounds { left, top, width, height };
            let class = draw.below(classes) as usize;
            let score = draw.number(levels) / levels as f64;
            finds.push(Detection { picture, class, bounds, score });
        }
    }
    (truths, finds)
}

/// The blood cells' test part; none where the data is not there.
fn real_case() -> Option<(Vec<Truth>, Vec<Detection>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/bccd");
    if !folder.is_dir() {
        eprintln!("skipped: {} is not there", folder.display());
        return None;
    }
    let set = BoxSet::open(&folder).unwrap();
    let mut draw = Draw(7);
    let (mut truths, mut finds) = (Vec::new(), Vec::new());
    let test = set.pictures.iter().filter(|p| p.part == Some(Part::Test));
    for (picture, p) in test.enumerate() {
        for a in p.boxes.iter().flatten() {
            let t = Truth::of(picture, a);
            truths.push(t);
            if draw.below(8) > 0 {
                let bounds = draw.jitter(&t.bounds, 12);
                let score = (40.0 + draw.number(60)) / 100.0;
                finds.push(Detection { picture, class: t.class, bounds, score });
            }
            if draw.below(3) == 0 {
                let class = draw.below(3) as usize;
                let bounds = draw.jitter(&t.bounds, 40);
                finds.push(Detection { picture, class, bounds, score: draw.number(80) / 100.0 });
            }
        }
    }
    Some((truths, finds))
}

fn same(what: &str, got: Option<f64>, want: &Value) {
    let want = want.as_f64().unwrap();
    let got = got.unwrap_or(-1.0);
    assert!((got - want).abs() < 1e-6, "{what}: {got}, not {want}");
}

#[test]
fn numbers_are_those_of_the_reference_implementations() {
    let text = include_str!("fixtures/detection_metrics.json");
    let cases: Value = serde_json::from_str(text).unwrap();
    let cases = cases.as_object().unwrap();
    assert_eq!(cases.len(), 6);
    for (name, case) in cases {
        let args: Vec<u64> =
            case["args"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect();
        let drawn = if args.is_empty() { real_case() } else { Some(random_case(&args)) };
        let Some((truths, finds)) = drawn else { continue };
        let classes = case["classes"].as_array().unwrap();
        let r = coco(&truths, &finds, classes.len());
        let [s, m, l] = r.map_by_size;
        let [one, ten, hundred] = r.recall;
        let [rs, rm, rl] = r.recall_by_size;
        let all = [r.map50_95, r.map50, r.map75, s, m, l, one, ten, hundred, rs, rm, rl];
        for (i, got) in all.into_iter().enumerate() {
            same(&format!("{name}: number {i}"), got, &case["coco"][i]);
        }
        for (c, want) in classes.iter().enumerate() {
            let got = &r.classes[c];
            same(&format!("{name}: class {c} AP"), got.map50_95, &want[0]);
            same(&format!("{name}: class {c} AP50"), got.map50, &want[1]);
            same(&format!("{name}: class {c} AR"), got.recall, &want[2]);
            for (i, year) in [VocYear::Voc2007, VocYear::Voc2010].into_iter().enumerate() {
                let got = voc_average_precision(&truths, &finds, c, 0.5, year);
                same(&format!("{name}: class {c} {year:?}"), got, &case["voc"][c][i]);
            }
        }
    }
}
