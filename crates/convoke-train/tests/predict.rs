//! A run over picture files, and what is said about them afterwards.

use convoke_data::{
    Dataset, OpenOptions, Picture, Preprocess, Source, Split, read_picture, write_png,
};
use convoke_engine::{Builder, Network, Shape, layers::Conv};
use convoke_formats::ModelFile;
use convoke_train::{
    BatchInfo, EpochRow, Outcome, Predictor, Progress, RunFolder, TrainOptions, Trainer,
};
use std::path::Path;
use std::sync::atomic::AtomicBool;

struct Quiet;

impl Progress for Quiet {
    fn batch(&mut self, _: &BatchInfo) {}
    fn epoch(&mut self, _: &EpochRow) {}
}

/// Red and blue pictures of odd sizes, one broken file in each class.
fn pictures(folder: &Path) {
    for i in 0..30u8 {
        for (class, rgb) in [("red", [200 - i, 40, i]), ("blue", [i, 40, 200 - i])] {
            let picture = Picture::filled(7 + usize::from(i) % 5, 9, rgb);
            write_png(&folder.join(class).join(format!("{i:02}.png")), &picture).unwrap();
        }
    }
    for class in ["red", "blue"] {
        std::fs::write(folder.join(class).join("broken.png"), "no picture").unwrap();
    }
}

fn network() -> Network {
    let mut b = Builder::new("tiny", Shape::new(8, 8, 3));
    b.conv(Conv::new(4, 3)).batch_norm().relu().global_mean_pool().flatten().dense(2);
    b.build().unwrap()
}

#[test]
fn a_run_over_files_predicts_what_it_learnt() {
    let folder = tempfile::tempdir().unwrap();
    pictures(&folder.path().join("data"));
    let set = Dataset::open(&folder.path().join("data"), &OpenOptions::default()).unwrap();
    let pre = Preprocess::plain(8, 8, 3);
    let options = TrainOptions { lr: 0.05, ..TrainOptions::suited(6, 8, &pre, 2) };
    let out = RunFolder::next(folder.path(), "run").unwrap();
    let mut t = Trainer::new(network(), &set, pre, options, out.clone()).unwrap();
    let Outcome::Done { last: Some(last), best } =
        t.run(&mut Quiet, &AtomicBool::new(false)).unwrap()
    else {
        panic!("done")
    };
    assert_eq!((last.top1, t.problems().len()), (1.0, 2));
    let best_model = ModelFile::load(&out.best()).unwrap();
    let (_, epoch) = best.unwrap();
    assert_eq!(
        (best_model.facts["epochs"].clone(), best_model.task.as_str()),
        (epoch.to_string(), "classify")
    );
    assert_eq!(read_picture(&out.path().join("results.png"), 3).unwrap().height, 460);

    // The same figures from the file as in the run.
    let mut p = Predictor::open(&out.last(), 2).unwrap();
    let (again, problems) = p.evaluate(set.eval().unwrap(), 2).unwrap();
    assert_eq!(again, last);
    assert!(problems.len() <= 2);

    // Files in any number, with a broken one among them, as one by one.
    let mut files: Vec<_> =
        (0..30).map(|i| folder.path().join(format!("data/red/{i:02}.png"))).collect();
    files.insert(3, folder.path().join("data/red/broken.png"));
    files.push("/nowhere.png".into());
    let all = p.predict_files(&files, 5).unwrap();
    assert_eq!(all.len(), files.len());
    for (file, guesses) in files.iter().zip(&all) {
        let Ok(guesses) = guesses else {
            let e = guesses.as_ref().unwrap_err().to_string();
            assert!(e.contains(&*file.to_string_lossy()) && !e.contains('\n'), "{e}");
            continue;
        };
        assert_eq!((guesses[0].class.as_str(), guesses.len()), ("red", 2));
        assert!((guesses[0].probability + guesses[1].probability - 1.0).abs() < 1e-12);
        let picture = p.read(file).unwrap();
        assert_eq!(&p.predict(&[picture], 5).unwrap()[0], guesses);
    }
    assert_eq!(all.iter().filter(|g| g.is_err()).count(), 2);
    assert!(p.predict_files(&[], 5).unwrap().is_empty());
}

#[test]
fn nothing_readable_is_an_error_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    pictures(&folder.path().join("data"));
    let good = Dataset::open(&folder.path().join("data"), &OpenOptions::default()).unwrap();
    let broken = |s: &Split| {
        let source = Source::Files(vec!["/nowhere.png".into(); s.len()]);
        Split { source, labels: s.labels.clone() }
    };
    let no_train = Dataset { train: broken(&good.train), ..good.clone() };
    let no_val = Dataset { val: good.val.as_ref().map(broken), ..good };
    for (set, word) in [(no_train, "no training picture"), (no_val, "no validation picture")] {
        let pre = Preprocess::plain(8, 8, 3);
        let out = RunFolder::next(folder.path(), "run").unwrap();
        let options = TrainOptions::suited(1, 8, &pre, 1);
        let mut t = Trainer::new(network(), &set, pre, options, out).unwrap();
        let e = t.run(&mut Quiet, &AtomicBool::new(false)).unwrap_err().to_string();
        assert!(e.contains(word) && e.contains("nowhere") && !e.contains('\n'), "{e}");
    }
}

#[test]
fn a_model_that_is_no_classifier_is_refused() {
    let network = network();
    let model = ModelFile {
        classes: vec!["a".into(), "b".into(), "c".into()],
        preprocess: Preprocess::plain(8, 8, 3),
        task: "classify".into(),
        params: vec![0.0; network.parameters()],
        state: network.state().last().map_or(vec![], |p| vec![1.0; p.range.end]),
        facts: Default::default(),
        extra: Default::default(),
        network,
    };
    let e = Predictor::new(model.clone(), 4, 1).err().unwrap().to_string();
    assert!(e.contains("3 classes"), "{e}");
    let other = ModelFile {
        classes: vec!["a".into(), "b".into()],
        preprocess: Preprocess::plain(9, 8, 3),
        ..model.clone()
    };
    assert!(Predictor::new(other, 4, 1).err().unwrap().to_string().contains("9x8x3"));
    let two = ModelFile { classes: vec!["a".into(), "b".into()], ..model };
    let mut p = Predictor::new(two, 4, 1).unwrap();
    let source = Source::Files(vec!["/nowhere.png".into()]);
    let split = Split { source, labels: vec![2] };
    assert!(p.evaluate(&split, 1).unwrap_err().to_string().contains("label 2"));
}
