//! Small sets of every format, right and wrong, written to a folder and read back.

use super::*;
use crate::{Picture, write_png};
use tempfile::TempDir;

/// A folder with pictures of 40 x 20 and text files.
fn folder(pictures: &[&str], texts: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in pictures {
        write_png(&folder.path().join(name), &Picture::filled(40, 20, [9, 90, 200])).unwrap();
    }
    for (name, text) in texts {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

fn open(f: &TempDir) -> BoxSet {
    assert!(BoxSet::is_one(f.path()));
    BoxSet::open(f.path()).unwrap()
}

/// `name: class left,top,width,height …`, `name: none` for a negative, `name: ?` where nobody looked.
fn told(set: &BoxSet) -> Vec<String> {
    let one = |a: &Annotation| {
        let Area { left, top, width, height } = a.area;
        let flags =
            format!("{}{}", if a.crowd { "!" } else { "" }, if a.difficult { "~" } else { "" });
        format!("{}{flags} {left:.1},{top:.1},{width:.1},{height:.1}", set.classes[a.class])
    };
    let picture = |p: &BoxedPicture| {
        let name = p.path.file_name().unwrap().to_string_lossy().into_owned();
        let boxes = match p.boxes.as_deref() {
            None => "?".into(),
            Some([]) => "none".into(),
            Some(all) => all.iter().map(one).collect::<Vec<_>>().join(" "),
        };
        format!("{name}: {boxes}")
    };
    set.pictures.iter().map(picture).collect()
}

fn faults(set: &BoxSet) -> Vec<FaultKind> {
    for f in &set.faults {
        assert!(!f.to_string().contains('\n'), "{f}");
    }
    set.faults.iter().map(|f| f.kind).collect()
}

#[test]
fn a_table_with_everything_that_is_wrong_in_tables() {
    let text = "filename,width,height,class,xmin,ymin,xmax,ymax
a.png,40,20,cat,1,2,11,12
a.png,40,20,dog,30,15,20,5
a.png,40,20,cat,30,5,60,15
a.png,40,20,cat,5,5,5,9
a.png,40,20,cat,41,5,60,15
a.png,40,20,cat,1,2,11,12
b.png,80,40,cat,20,10,40,20
c.png,30,70,cat,20,10,30,18
c.png,30,70,cat,20,10,30,65
gone.png,40,20,cat,1,1,2,2
a.png,40,20,cat,x,1,2,2
a.png,40,20,,1,1,2,2
d.png,40,20,,,,,
,,,
";
    let f = folder(&["a.png", "b.png", "c.png", "d.png", "e.png"], &[("boxes.csv", text)]);
    let set = open(&f);
    assert_eq!(set.kind, "CSV of boxes");
    assert_eq!(
        told(&set),
        [
            "a.png: cat 1.0,2.0,10.0,10.0 dog 20.0,5.0,10.0,10.0 cat 30.0,5.0,10.0,10.0",
            "b.png: cat 10.0,5.0,10.0,5.0",
            "c.png: cat 20.0,10.0,10.0,8.0",
            "d.png: none",
            "e.png: ?",
        ]
    );
    use FaultKind::*;
    assert_eq!(
        faults(&set),
        [
            Malformed,
            UnknownClass,
            Malformed,
            Swapped,
            OutOfRange,
            ZeroArea,
            OutOfRange,
            WrongSize,
            WrongSize,
            WrongSize,
            OutOfRange,
            MissingPicture,
            Duplicate
        ]
    );
    assert_eq!((set.unlabelled(), set.negatives(), set.counts()), (1, 1, vec![4, 1]));
    let swapped = &set.faults[3];
    assert_eq!(swapped.place, "row 3");
    assert!(swapped.to_string().contains("exchanged back"), "{swapped}");
}

#[test]
fn yolo_with_a_yaml_an_empty_file_and_a_missing_one() {
    let f = folder(
        &["images/train/a.png", "images/train/b.png", "images/train/c.png", "images/val/d.png"],
        &[
            (
                "data.yaml",
                "path: .\ntrain: images/train\nval: [images/val]\nnames:\n  0: cat\n  1: dog\n",
            ),
            ("labels/train/a.txt", "1 0.5 0.5 0.25 0.5\n0 0.1 0.1 0.1 0.2 0.9\n\n"),
            ("labels/train/b.txt", ""),
            (
                "labels/val/d.txt",
                "0 0.5 0.5 0.5 0.5\n2 0.5 0.5 0.5 0.5\n0 0.5\nx\n1 0 0 0.5 0 0.5 0.5 0 1",
            ),
        ],
    );
    let set = open(&f);
    assert_eq!(
        told(&set),
        [
            "a.png: dog 15.0,5.0,10.0,10.0 cat 2.0,0.0,4.0,4.0",
            "b.png: none",
            "c.png: ?",
            "d.png: cat 10.0,5.0,20.0,10.0 dog 0.0,0.0,20.0,20.0",
        ]
    );
    use FaultKind::*;
    assert_eq!(faults(&set), [UnknownClass, Malformed, Malformed]);
    assert_eq!(set.pictures[3].part, Some(Part::Val));
    assert_eq!(set.split(&SplitOptions::default()).unwrap().train, [0, 1]);
    assert_eq!(BoxSet::open(&f.path().join("data.yaml")).unwrap(), set);
}

#[test]
fn yolo_as_cvat_and_roboflow_and_nobody_in_particular_write_it() {
    let line = "0 0.5 0.5 0.5 0.5";
    let cvat = folder(
        &["obj_train_data/a.png"],
        &[
            ("obj.names", "cat\ndog\n"),
            ("obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n"),
            ("train.txt", "data/obj_train_data/a.png\n"),
            ("obj_train_data/a.txt", line),
        ],
    );
    assert_eq!(told(&open(&cvat)), ["a.png: cat 10.0,5.0,20.0,10.0"]);
    assert_eq!(open(&cvat).pictures[0].part, Some(Part::Train));
    let roboflow = folder(
        &["train/images/a.png"],
        &[
            ("data.yaml", "train: ../train/images\nnc: 1\nnames: ['cat']\n"),
            ("train/labels/a.txt", line),
        ],
    );
    assert_eq!(told(&open(&roboflow)), ["a.png: cat 10.0,5.0,20.0,10.0"]);
    let plain = folder(&["a.png"], &[("a.txt", "3 0.5 0.5 0.5 0.5")]);
    assert_eq!(told(&open(&plain)), ["a.png: 3 10.0,5.0,20.0,10.0"]);
}

#[test]
fn coco_with_crowds_outlines_and_loose_ends() {
    let text = r#"{"images":[{"id":7,"file_name":"a.png","width":40,"height":20},
        {"id":"x","file_name":"sub/b.png"},{"id":9,"file_name":"gone.png"}],
      "categories":[{"id":5,"name":"dog"},{"id":3,"name":"cat"}],
      "annotations":[
        {"id":1,"image_id":7,"category_id":5,"bbox":[1,2,3,4],"area":9.5,"iscrowd":0,"segmentation":[[1,2]]},
        {"id":2,"image_id":7,"category_id":3,"bbox":[10,2,20,10],"iscrowd":1},
        {"id":3,"image_id":8,"category_id":3,"bbox":[1,2,3,4]},
        {"id":4,"image_id":7,"category_id":4,"bbox":[1,2,3,4]},
        {"id":5,"image_id":7,"category_id":3,"bbox":[1,2,3]}]}"#;
    let f = folder(&["a.png", "sub/b.png"], &[("annotations/instances_val.json", text)]);
    let set = open(&f);
    assert_eq!(set.classes, ["cat", "dog"]);
    assert_eq!(told(&set), ["a.png: dog 1.0,2.0,3.0,4.0 cat! 10.0,2.0,20.0,10.0", "b.png: none"]);
    assert_eq!(set.pictures[0].boxes.as_ref().unwrap()[0].mask_area, Some(9.5));
    assert_eq!(set.pictures[0].part, Some(Part::Val));
    use FaultKind::*;
    assert_eq!(faults(&set), [MissingPicture, UnknownClass, Malformed, MissingPicture]);
    let file = f.path().join("annotations/instances_val.json");
    assert_eq!(told(&BoxSet::open(&file).unwrap()), told(&set));
}

fn voc(name: &str, database: &str, objects: &str) -> String {
    format!(
        "<annotation><filename>{name}</filename><source><database>{database}</database></source>\
         <size><width>40</width><height>20</height></size>{objects}</annotation>"
    )
}

fn object(name: &str, difficult: u8, e: [i32; 4]) -> String {
    let [l, t, r, b] = e;
    format!(
        "<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{l}</xmin>\
         <ymin>{t}</ymin><xmax>{r}</xmax><ymax>{b}</ymax></bndbox></object>"
    )
}

#[test]
fn pascal_voc_counts_pixels_from_one_where_it_is_its_own() {
    let two = object("dog", 1, [1, 1, 10, 10]) + &object("cat", 0, [3, 3, 3, 3]);
    let f = folder(
        &["JPEGImages/a.png", "JPEGImages/b.png", "JPEGImages/c.png"],
        &[
            (
                "Annotations/a.xml",
                &voc("a.jpg", "The VOC2007 Database", &object("cat", 0, [1, 1, 10, 10])),
            ),
            ("Annotations/b.xml", &voc("b.png", "Unknown", &two)),
            ("Annotations/c.xml", "<annotation><object>"),
            ("ImageSets/Main/trainval.txt", "a\nb\n"),
            ("ImageSets/Main/train.txt", "a\n"),
            ("ImageSets/Main/test.txt", "b\n"),
        ],
    );
    let set = open(&f);
    assert_eq!(
        told(&set),
        ["a.png: cat 0.0,0.0,10.0,10.0", "b.png: dog~ 1.0,1.0,9.0,9.0", "c.png: ?"]
    );
    assert_eq!(faults(&set), [FaultKind::Malformed, FaultKind::ZeroArea]);
    let split = set.split(&SplitOptions::default()).unwrap();
    assert_eq!((split.train, split.val, split.test), (vec![0], vec![], vec![1]));
}

#[test]
fn cvat_xml() {
    let text = r#"<?xml version="1.0"?><annotations><meta/>
      <image id="0" name="a.png" width="40" height="20" subset="Train">
        <box label="dog" xtl="1" ytl="2" xbr="11.5" ybr="12"/><box label="dog" xtl="1"/></image>
      <image id="1" name="b.png" width="40" height="20"/></annotations>"#;
    let f = folder(&["a.png", "b.png"], &[("annotations.xml", text)]);
    let set = open(&f);
    assert_eq!(told(&set), ["a.png: dog 1.0,2.0,10.5,10.0", "b.png: none"]);
    assert_eq!(faults(&set), [FaultKind::Malformed]);
    assert_eq!(set.pictures[0].part, Some(Part::Train));
}

#[test]
fn label_studio_long_and_short() {
    let long = r#"[{"id":1,"data":{"image":"/data/upload/1/0a1b2c3d-a%20b.png"},"annotations":[
        {"was_cancelled":true,"result":[]},
        {"result":[{"type":"rectanglelabels","original_width":40,"original_height":20,"value":
          {"x":25,"y":25,"width":50,"height":50,"rotation":0,"rectanglelabels":["waldo"]}},
          {"type":"choices","value":{"choices":["x"]}},
          {"original_width":40,"original_height":20,"value":
          {"x":50,"y":0,"width":25,"height":25,"rotation":90,"rectanglelabels":["waldo"]}},
          {"value":{"x":1,"rectanglelabels":["waldo"]}}]}]},
        {"id":2,"data":{"image":"/data/local-files/?d=sub/c.png"},"annotations":[{"result":[]}]},
        {"id":3,"data":{"image":"d.png"},"annotations":[]},{"id":4}]"#;
    let f = folder(&["a b.png", "sub/c.png", "d.png"], &[("export.json", long)]);
    let set = open(&f);
    assert_eq!(
        told(&set),
        ["a b.png: waldo 10.0,5.0,20.0,10.0 waldo 15.0,0.0,5.0,10.0", "d.png: ?", "c.png: none"]
    );
    assert_eq!(faults(&set), [FaultKind::Malformed, FaultKind::Malformed]);
    let short = r#"[{"image":"/data/upload/2/0a1b2c3d-d.png","id":9,"annotation_id":3,"label":[
        {"x":25,"y":25,"width":50,"height":50,"rotation":0,"rectanglelabels":["waldo"],
         "original_width":40,"original_height":20}]}]"#;
    let f = folder(&["d.png"], &[("export.json", short)]);
    assert_eq!(told(&open(&f)), ["d.png: waldo 10.0,5.0,20.0,10.0"]);
}

/// A JPEG of 40 x 20 as stored, with that EXIF orientation.
fn turned_jpeg(path: &Path, orientation: u8) {
    let mut jpeg = Vec::new();
    image::RgbImage::from_pixel(40, 20, image::Rgb([9, 90, 200]))
        .write_to(&mut std::io::Cursor::new(&mut jpeg), image::ImageFormat::Jpeg)
        .unwrap();
    let mut exif =
        b"\xFF\xE1\x00\x22Exif\0\0MM\0\x2A\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    jpeg.splice(2..2, exif);
    std::fs::write(path, jpeg).unwrap();
}

#[test]
fn boxes_turn_with_pictures_that_exif_turns() {
    let text = "filename,width,height,class,xmin,ymin,xmax,ymax
raw.jpg,40,20,cat,0,0,10,5
shown.jpg,20,40,cat,0,0,10,5
half.jpg,40,20,cat,0,0,10,5
";
    let f = folder(&[], &[("boxes.csv", text)]);
    turned_jpeg(&f.path().join("raw.jpg"), 6);
    turned_jpeg(&f.path().join("shown.jpg"), 6);
    turned_jpeg(&f.path().join("half.jpg"), 3);
    let set = open(&f);
    assert_eq!((set.pictures[1].width, set.pictures[1].height), (20, 40));
    assert_eq!(
        told(&set),
        [
            "half.jpg: cat 0.0,0.0,10.0,5.0",
            "raw.jpg: cat 15.0,0.0,5.0,10.0",
            "shown.jpg: cat 0.0,0.0,10.0,5.0"
        ]
    );
    assert_eq!(faults(&set), [FaultKind::Turned, FaultKind::Turned]);
}

#[test]
fn what_is_no_set_of_boxes_is_not_taken_for_one() {
    let classes =
        folder(&["cat/1.png", "dog/2.png"], &[("cat/1.txt", "a nice cat"), ("notes.json", "{}")]);
    assert!(!BoxSet::is_one(classes.path()));
    let e = BoxSet::open(classes.path()).unwrap_err().to_string();
    assert!(e.contains("YOLO") && !e.contains('\n'), "{e}");
    let empty =
        folder(&[], &[("boxes.csv", "filename,class,xmin,ymin,xmax,ymax\na.png,cat,1,1,2,2\n")]);
    let e = BoxSet::open(empty.path()).unwrap_err().to_string();
    assert!(e.contains("no picture that is there"), "{e}");
}

#[test]
fn damaged_files_are_errors_or_faults_and_never_panics() {
    let deep = "<a>".repeat(200_000);
    let nested = format!("[{}", "[".repeat(200_000));
    let bomb =
        "<!DOCTYPE a [<!ENTITY b \"bbbb\"><!ENTITY c \"&b;&b;&b;\">]><annotation>&c;</annotation>";
    let long = format!("names: [a]\ntrain: {}\n", "x/".repeat(5000));
    for (name, text) in [
        ("a.xml", format!("<annotation>{deep}")),
        ("a.xml", bomb.into()),
        ("a.xml", "<annotations><image name=\"a.png\"><box".into()),
        ("a.json", format!("{{\"images\":[],\"annotations\":1,\"categories\":{nested}")),
        ("a.json", format!("[\"rectanglelabels\", {nested}")),
        ("a.csv", "filename,class,xmin,ymin,xmax,ymax\n\"a.png,1e999,nan,,\u{0}\n".into()),
        ("data.yaml", "names: {a: &x [*x, *x]}".into()),
        ("data.yaml", long),
        ("data.yaml", "names: {-1: a}".into()),
        ("data.yaml", "names: {99999999999: a}".into()),
        ("data.yaml", format!("names: {}", "[".repeat(20_000))),
        ("data.yaml", format!("names: {}{}", "[".repeat(900_000), "]".repeat(900_000))),
        ("data.yaml", format!("names:\n {}a", "- ".repeat(900_000))),
        ("data.yaml", format!("names:\n {}a", "? ".repeat(900_000))),
        ("a.txt", "1e300 0.5 0.5 0.5 0.5\n-1 nan inf 0 0\n".into()),
    ] {
        let f = folder(&["a.png"], &[(name, &text)]);
        let begin = text.get(..40).unwrap_or(&text);
        match BoxSet::open(f.path()) {
            Ok(set) => {
                assert!(
                    set.pictures.iter().flat_map(|p| &p.boxes).flatten().count() == 0,
                    "{name} {begin}"
                );
            }
            Err(e) => assert!(!e.to_string().contains('\n'), "{name} {begin}: {e}"),
        }
    }
}

#[test]
fn the_real_sets_are_read_with_their_known_faults() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if !shared.join("waldo").is_dir() {
        eprintln!("skipped: ../shared/data is not there");
        return;
    }
    let waldo = BoxSet::open(&shared.join("waldo")).unwrap();
    assert_eq!((waldo.pictures.len(), waldo.classes.as_slice()), (35, &["waldo".to_string()][..]));
    assert_eq!(waldo.faults.iter().filter(|f| f.kind == FaultKind::MissingPicture).count(), 1);
    assert!(waldo.faults.iter().any(|f| f.kind == FaultKind::WrongSize));
    for f in &waldo.faults {
        eprintln!("{f}");
    }
    let cells = BoxSet::open(&shared.join("bccd")).unwrap();
    assert_eq!(cells.classes, ["Platelets", "RBC", "WBC"]);
    assert_eq!(cells.counts().iter().sum::<usize>() + 2, 4888);
    assert_eq!(cells.faults.iter().filter(|f| f.kind == FaultKind::ZeroArea).count(), 2);
    let split = cells.split(&SplitOptions::default()).unwrap();
    assert_eq!((split.train.len(), split.val.len(), split.test.len()), (205, 87, 72));
}
