//! Parameters and multiply-adds are those of torchvision, timm, or the papers' tables: exactly. The lines come from
//! `bench/parity/zoo_counts.py` (torchvision 0.29.2, timm 1.0.31) and, for signals, `bench/parity/signal_counts.py`, each
//! with its source.

use convoke_engine::Shape;
use convoke_zoo::{MODELS, Options, build, build_to_train};

#[rustfmt::skip]
const COUNTS: &[(&str, usize, u64)] = &[
    ("mlp", 269_322, 268_800), // the paper's table
    ("lenet5-1998", 61_706, 416_520), // the paper's table
    ("lenet5", 61_706, 416_520), // the paper's table
    ("alexnet-2012", 60_965_224, 724_406_816), // the paper's table
    ("alexnet", 61_100_840, 714_188_480), // torchvision alexnet
    ("zfnet", 62_357_608, 1_168_032_896), // the paper's table
    ("vgg11", 132_863_336, 7_609_090_048), // torchvision vgg11
    ("vgg13", 133_047_848, 11_308_466_176), // torchvision vgg13
    ("vgg16", 138_357_544, 15_470_264_320), // torchvision vgg16
    ("vgg19", 143_667_240, 19_632_062_464), // torchvision vgg19
    ("vgg11-bn", 132_868_840, 7_609_090_048), // torchvision vgg11_bn
    ("vgg13-bn", 133_053_736, 11_308_466_176), // torchvision vgg13_bn
    ("vgg16-bn", 138_365_992, 15_470_264_320), // torchvision vgg16_bn
    ("vgg19-bn", 143_678_248, 19_632_062_464), // torchvision vgg19_bn
    ("googlenet", 6_624_904, 1_498_376_192), // torchvision googlenet
    ("inception-v3", 23_834_568, 5_713_216_096), // torchvision inception_v3
    ("inception-v2", 11_194_984, 2_018_851_840), // the paper's table
    ("resnet20", 269_722, 40_551_040), // the paper's table
    ("resnet32", 464_154, 68_862_592), // the paper's table
    ("resnet44", 658_586, 97_174_144), // the paper's table
    ("resnet56", 853_018, 125_485_696), // the paper's table
    ("resnet18", 11_689_512, 1_814_073_344), // torchvision resnet18
    ("resnet34", 21_797_672, 3_663_761_408), // torchvision resnet34
    ("resnet50", 25_557_032, 4_089_184_256), // torchvision resnet50
    ("resnet101", 44_549_160, 7_801_405_440), // torchvision resnet101
    ("resnet152", 60_192_808, 11_513_626_624), // torchvision resnet152
    ("resnet50-v1", 25_557_032, 3_857_973_248), // torchvision resnet50, strides as the paper
    ("resnet101-v1", 44_549_160, 7_570_194_432), // torchvision resnet101, strides as the paper
    ("resnet152-v1", 60_192_808, 11_282_415_616), // torchvision resnet152, strides as the paper
    ("resnext50-32x4d", 25_028_904, 4_230_479_872), // torchvision resnext50_32x4d
    ("resnetv2-50", 25_549_352, 4_089_184_256), // timm resnetv2_50
    ("resnetv2-101", 44_541_480, 7_801_405_440), // timm resnetv2_101
    ("resnetv2-152", 60_185_128, 11_513_626_624), // timm resnetv2_152
    ("squeezenet1-0", 1_248_424, 818_924_576), // torchvision squeezenet1_0
    ("squeezenet1-1", 1_235_496, 349_151_936), // torchvision squeezenet1_1
    ("wrn-28-10", 36_479_194, 5_243_328_768), // the paper's table
    ("inception-resnet-v2", 55_843_464, 13_155_794_016), // timm inception_resnet_v2
    ("densenet121", 7_978_856, 2_834_161_664), // torchvision densenet121
    ("densenet169", 14_149_480, 3_359_843_328), // torchvision densenet169
    ("xception", 22_855_952, 8_357_403_496), // timm legacy_xception
    ("mobilenet-v1", 4_231_976, 568_740_352), // timm mobilenetv1_100
    ("mobilenet-v1-0.25", 470_072, 13_570_048), // timm's, width 0.25
    ("mobilenet-v2", 3_504_872, 300_774_272), // torchvision mobilenet_v2
    ("seresnet50", 28_088_024, 4_091_699_200), // timm seresnet50
    ("seresnet50-v1", 28_088_024, 3_860_488_192), // timm legacy_seresnet50
    ("senet154", 115_088_984, 20_688_363_520), // timm legacy_senet154
    ("shufflenet-v2-x0-5", 1_366_792, 40_476_448), // torchvision shufflenet_v2_x0_5
    ("shufflenet-v2-x1-0", 2_278_604, 144_907_992), // torchvision shufflenet_v2_x1_0
    ("shufflenet-v2-x1-5", 3_503_624, 295_759_392), // torchvision shufflenet_v2_x1_5
    ("shufflenet-v2-x2-0", 7_393_996, 583_253_464), // torchvision shufflenet_v2_x2_0
    ("mobilenet-v3-large", 5_483_032, 216_589_760), // torchvision mobilenet_v3_large
    ("mobilenet-v3-small", 2_542_856, 56_510_400), // torchvision mobilenet_v3_small
    ("efficientnet-b0", 5_288_548, 385_814_752), // torchvision efficientnet_b0
    ("efficientnet-b1", 7_794_184, 686_802_832), // torchvision efficientnet_b1
    ("efficientnet-b2", 9_109_994, 1_087_529_456), // torchvision efficientnet_b2
    ("efficientnet-b3", 12_233_232, 1_827_141_392), // torchvision efficientnet_b3
    ("efficientnet-b4", 19_341_616, 4_393_771_024), // torchvision efficientnet_b4
    ("tf-efficientnet-b0", 5_288_548, 385_814_752), // timm tf_efficientnet_b0
    ("tf-efficientnet-b1", 7_794_184, 686_802_832), // timm tf_efficientnet_b1
    ("tf-efficientnet-b2", 9_109_994, 993_561_872), // timm tf_efficientnet_b2
    ("tf-efficientnet-b3", 12_233_232, 1_827_141_392), // timm tf_efficientnet_b3
    ("tf-efficientnet-b4", 19_341_616, 4_393_771_024), // timm tf_efficientnet_b4
    ("repvgg-a0", 9_108_968, 1_512_581_120), // timm repvgg_a0
    ("convnext-tiny", 28_589_128, 4_455_531_264), // torchvision convnext_tiny
    ("convnext-small", 50_223_688, 8_683_712_256), // torchvision convnext_small
    ("mlp-1d", 577_502, 576_000), // the paper's table
    ("fcn-1d", 264_450, 39_475_456), // the paper's table
    ("resnet-1d", 503_106, 75_043_456), // the paper's table
    ("tcn", 35_170, 5_088_064), // the paper's figure, by bench/parity/signal_counts.py
    ("inceptiontime", 420_450, 62_721_856), // the paper's figure, by bench/parity/signal_counts.py
];

#[test]
fn parameters_and_macs_are_the_published_ones() {
    let mut wrong = Vec::new();
    for &(name, parameters, macs) in COUNTS {
        let net = build(name, &Options::default()).unwrap();
        if (net.parameters(), net.macs()) != (parameters, macs) {
            let has = (net.parameters(), net.macs());
            wrong.push(format!("{name}: {has:?}, not {:?}", (parameters, macs)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_network_is_counted_and_named_once() {
    for entry in MODELS {
        let lines = COUNTS.iter().filter(|c| c.0 == entry.name).count();
        let entries = MODELS.iter().filter(|e| e.name == entry.name).count();
        assert_eq!((lines, entries), (1, 1), "{}", entry.name);
    }
}

#[test]
fn heads_are_trained_and_not_predicted() {
    // torchvision, aux_logits=True.
    for (name, parameters, heads) in [("googlenet", 13_004_888, 2), ("inception-v3", 27_161_264, 1)]
    {
        let net = build_to_train(name, &Options::default()).unwrap();
        assert_eq!((net.parameters(), net.heads().len()), (parameters, heads), "{name}");
        let plain = build(name, &Options::default()).unwrap();
        assert_eq!(net.without_heads().unwrap(), plain);
        assert_eq!(net.macs(), plain.macs());
    }
    let options = Options { input: Some(Shape::new(96, 96, 3)), classes: Some(7) };
    let net = build_to_train("googlenet", &options).unwrap();
    assert!(net.heads().iter().all(|h| net.node(h.place).shape == Shape::vector(7)));
    let (one, other) = (build("resnet18", &options), build_to_train("resnet18", &options));
    assert_eq!(one, other);
}

#[test]
fn every_network_takes_other_sizes_channels_and_classes() {
    for entry in MODELS {
        // Some leave little of a small input.
        let more = match entry.name {
            "alexnet-2012" => 32,
            "inception-v3" | "inception-resnet-v2" => 16,
            _ => 0,
        };
        for (h, w, c) in [(64, 64, 1), (96, 72, 3), (64, 80, 4)] {
            // A signal has one row.
            let h = if entry.input.h == 1 { 1 } else { h + more };
            let w = w + more;
            let options = Options { input: Some(Shape::new(h, w, c)), classes: Some(7) };
            let net = build(entry.name, &options).unwrap();
            assert_eq!(net.output_shape(), Shape::vector(7), "{}", entry.name);
        }
    }
    for name in ["resnet18", "mobilenet-v2", "resnet50"] {
        let options = Options { input: Some(Shape::new(32, 32, 3)), classes: Some(10) };
        build(name, &options).unwrap();
    }
}

#[test]
fn dense_layers_of_alexnet_and_vgg_take_any_size() {
    for name in ["alexnet", "vgg11"] {
        let small = Options { input: Some(Shape::new(96, 128, 3)), classes: None };
        let net = build(name, &Options::default()).unwrap();
        let other = build(name, &small).unwrap();
        assert_eq!(net.parameters(), other.parameters(), "{name}");
        assert_eq!(net.with_input(Shape::new(96, 128, 3)).unwrap(), other, "{name}");
    }
}

#[test]
fn receptive_fields_are_the_published_ones() {
    // Araujo et al. 2019, table 1; AlexNet's last pooling; resnet50 in its v1.5 form.
    for (name, place, size) in [
        ("alexnet", "max-pool3", 195),
        ("resnet18", "layer4.1.relu", 435),
        ("resnet50", "layer4.2.relu", 427),
        ("resnet50-v1", "layer4.2.relu", 483),
    ] {
        let net = build(name, &Options::default()).unwrap();
        let id = net.find(place).unwrap();
        assert_eq!(net.fields()[id.index()].h.size, size, "{name}");
    }
}

#[test]
fn too_small_an_input_is_told_by_layer() {
    let options = Options { input: Some(Shape::new(16, 16, 3)), classes: None };
    let e = build("alexnet", &options).unwrap_err().to_string();
    assert!(e.contains("does not fit"), "{e}");
}

#[test]
fn a_misspelt_name_finds_its_neighbour() {
    for (wrong, right) in [("resent18", "resnet18"), ("mobilenetv2", "mobilenet-v2")] {
        let e = build(wrong, &Options::default()).unwrap_err().to_string();
        assert!(e.contains(&format!("did you mean `{right}`")), "{e}");
    }
    let e = build("zzz", &Options::default()).unwrap_err().to_string();
    assert!(!e.contains("did you mean"), "{e}");
}
