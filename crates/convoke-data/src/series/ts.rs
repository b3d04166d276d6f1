//! The `.ts` format of sktime and of the UEA archive: `@` lines that say what is coming, then a series a line, its
//! channels apart by `:`, its values by `,`, its class or target last.

use super::{MAX_LENGTH, Said, number, text_of};
use crate::{DataError, Result};
use std::path::Path;

pub(super) fn read(path: &Path) -> Result<Said> {
    parse(&text_of(path)?).map_err(|what| DataError::dataset(path, what))
}

/// A series may take that many numbers for each byte of its line.
const MOST_PADDED: usize = 4;

#[derive(Default)]
struct Head {
    labelled: bool,
    targets: bool,
    classes: Option<Vec<String>>,
}

fn parse(text: &str) -> std::result::Result<Said, String> {
    let (mut head, mut data, mut said) = (Head::default(), false, Said::default());
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') || line.starts_with('%') {
            continue;
        }
        let told = |what: String| format!("line {}: {what}", i + 1);
        if !data {
            data = header(line, &mut head).map_err(told)?;
            continue;
        }
        series(line, &head, &mut said).map_err(told)?;
    }
    if !data {
        return Err("has no @data line; is it a .ts file?".into());
    }
    if said.signals.is_empty() {
        return Err("holds no series after @data".into());
    }
    (said.classes, said.targets) = (head.classes, head.targets);
    Ok(said)
}

/// Takes up a header line; whether the data begin behind it.
fn header(line: &str, head: &mut Head) -> std::result::Result<bool, String> {
    let mut words = line.split_whitespace();
    let name = words.next().unwrap_or_default().to_lowercase();
    let rest: Vec<&str> = words.collect();
    let yes = rest.first().is_some_and(|w| w.eq_ignore_ascii_case("true"));
    match name.as_str() {
        "@data" => return Ok(true),
        "@timestamps" if yes => {
            return Err(
                "series with time stamps are not read; give values at equal steps of time".into()
            );
        }
        "@classlabel" => {
            head.labelled = yes;
            let names: Vec<String> = rest.iter().skip(1).map(|s| s.to_string()).collect();
            head.classes = Some(names).filter(|n| yes && !n.is_empty());
        }
        "@targetlabel" => (head.labelled, head.targets) = (yes, yes),
        name if name.starts_with('@') => {}
        _ => return Err("is neither a header line (@…) nor behind @data".into()),
    }
    Ok(false)
}

fn series(line: &str, head: &Head, said: &mut Said) -> std::result::Result<(), String> {
    let mut parts: Vec<&str> = line.split(':').collect();
    if head.labelled {
        said.labels.push(parts.pop().unwrap_or_default().trim().to_string());
    }
    if parts.is_empty() {
        return Err("has a label but no values".into());
    }
    if said.signals.is_empty() {
        said.channels = parts.len();
    }
    if parts.len() != said.channels {
        return Err(format!(
            "has {} channels; the series before have {}",
            parts.len(),
            said.channels
        ));
    }
    if parts.iter().any(|p| p.contains('(')) {
        return Err(
            "has time stamps, which are not read; give values at equal steps of time".into()
        );
    }
    let channel = |part: &&str| -> std::result::Result<Vec<f32>, String> {
        let value = |t: &str| number(t).ok_or_else(|| format!("`{}` is no number", short(t)));
        part.split(',').map(value).collect()
    };
    let channels = parts.iter().map(channel).collect::<std::result::Result<Vec<_>, _>>()?;
    let longest = channels.iter().map(Vec::len).max().unwrap_or(0);
    if longest > MAX_LENGTH {
        return Err(format!("has {longest} values; at most {MAX_LENGTH} are read"));
    }
    // Channels that end earlier lack their last values; a line of many empty ones beside a long one would take far
    // more memory than the file.
    if longest * channels.len() > MOST_PADDED * line.len() + (1 << 12) {
        return Err("has channels of very different lengths; give each as many values".into());
    }
    let at = |t: usize| channels.iter().map(move |c| c.get(t).copied().unwrap_or(f32::NAN));
    said.signals.push((0..longest).flat_map(at).collect());
    Ok(())
}

fn short(text: &str) -> String {
    text.chars().take(20).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_several_channels_and_unequal_lengths() {
        let text =
            "# words\n@problemName x\n@classLabel true b a\n@DATA\n1,2,3:4,5,6:a\n7,?:8,9:b\n";
        let s = parse(text).unwrap();
        assert_eq!((s.channels, s.labels), (2, vec!["a".to_string(), "b".into()]));
        assert_eq!(s.signals[0], [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert!(s.signals[1][2].is_nan() && s.signals[1][3] == 9.0);
        assert_eq!(s.classes.unwrap(), ["b", "a"]);
        let s = parse("@targetLabel true\n@data\n1,2:0.5\n").unwrap();
        assert!(s.targets && s.labels == ["0.5"]);
        let s = parse("@classLabel false\n@data\n1,2\n3\n").unwrap();
        assert!(s.labels.is_empty() && s.signals.len() == 2);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, what) in [
            ("", "no @data"),
            ("@data\n", "no series"),
            ("1,2,3\n", "line 1: is neither"),
            ("@timeStamps true\n@data\n", "time stamps"),
            ("@data\n(0,1),(1,2)\n", "time stamps"),
            ("@data\n1,x,3\n", "line 2: `x` is no number"),
            ("@data\n1,inf\n", "`inf` is no number"),
            ("@data\n1:2\n1\n", "line 3: has 1 channels"),
            ("@classLabel true a\n@data\na\n", "no values"),
            (&format!("@data\n{}{}\n", "1,".repeat(9000), ":".repeat(9000)), "very different"),
        ] {
            let e = parse(text).unwrap_err();
            assert!(e.contains(what), "{text:?}: {e}");
        }
    }
}
