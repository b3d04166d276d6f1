//! What a picture file says of itself in its first bytes, without being decoded.

use serde::Serialize;
use std::path::Path;

/// Formats told by content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// JPEG.
    Jpeg,
    /// PNG.
    Png,
    /// GIF.
    Gif,
    /// Windows bitmap.
    Bmp,
    /// WebP.
    WebP,
    /// TIFF, HEIC, AVIF or PSD: a picture that convoke does not read.
    Foreign,
}

impl Format {
    /// The format of these first bytes.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let at = |from: usize, what: &[u8]| bytes.get(from..from + what.len()) == Some(what);
        match () {
            () if at(0, &[0xFF, 0xD8, 0xFF]) => Some(Format::Jpeg),
            () if at(0, b"\x89PNG\r\n\x1a\n") => Some(Format::Png),
            () if at(0, b"GIF87a") || at(0, b"GIF89a") => Some(Format::Gif),
            () if at(0, b"BM") && bytes.len() > 26 && at(6, &[0; 4]) => Some(Format::Bmp),
            () if at(0, b"RIFF") && at(8, b"WEBP") => Some(Format::WebP),
            () if at(0, b"II*\0") || at(0, b"MM\0*") || at(0, b"8BPS") => Some(Format::Foreign),
            () if at(4, b"ftyp") && (at(8, b"heic") || at(8, b"avif") || at(8, b"mif1")) => {
                Some(Format::Foreign)
            }
            () => None,
        }
    }

    /// The format that a file's ending promises.
    pub fn promised(path: &Path) -> Option<Self> {
        let ending = path.extension()?.to_string_lossy().to_lowercase();
        match ending.as_str() {
            "jpg" | "jpeg" | "jfif" => Some(Format::Jpeg),
            "png" => Some(Format::Png),
            "gif" => Some(Format::Gif),
            "bmp" => Some(Format::Bmp),
            "webp" => Some(Format::WebP),
            _ => None,
        }
    }

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Format::Jpeg => "JPEG",
            Format::Png => "PNG",
            Format::Gif => "GIF",
            Format::Bmp => "BMP",
            Format::WebP => "WebP",
            Format::Foreign => "TIFF, HEIC, AVIF or PSD",
        }
    }
}

/// What the header tells beside the size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Facts {
    /// Colour channels; 0 where they are not told.
    pub channels: u8,
    /// Bits of a channel; 0 where they are not told.
    pub bits: u8,
    /// Four inks instead of three lights.
    pub cmyk: bool,
    /// Pixels may be transparent.
    pub alpha: bool,
    /// More than one frame.
    pub animated: bool,
    /// Has a colour profile that is not sRGB.
    pub other_colours: bool,
}

impl Facts {
    /// Reads them from the file's bytes; what is damaged is simply not told.
    pub fn of(format: Format, bytes: &[u8]) -> Self {
        match format {
            Format::Jpeg => jpeg(bytes),
            Format::Png => png(bytes),
            Format::Gif => {
                // Picture descriptors behind their graphic control extensions.
                let frames = bytes
                    .windows(4)
                    .filter(|w| *w == [0x21, 0xF9, 0x04, 0x00] || w[..3] == [0x21, 0xF9, 0x04]);
                Facts {
                    channels: 3,
                    bits: 8,
                    animated: frames.take(2).count() > 1,
                    ..Facts::default()
                }
            }
            Format::WebP => {
                let flags = if bytes.get(12..16) == Some(b"VP8X") {
                    bytes.get(20).copied().unwrap_or(0)
                } else {
                    0
                };
                Facts {
                    channels: 3,
                    bits: 8,
                    animated: flags & 2 != 0,
                    alpha: flags & 16 != 0,
                    ..Facts::default()
                }
            }
            Format::Bmp | Format::Foreign => Facts::default(),
        }
    }
}

/// Segments up to the picture data.
fn jpeg(bytes: &[u8]) -> Facts {
    let mut facts = Facts::default();
    let mut at = 2;
    while let Some(&[0xFF, marker, high, low]) = bytes.get(at..at + 4) {
        if marker == 0xFF {
            at += 1;
            continue;
        }
        let body = bytes.get(at + 4..).unwrap_or_default();
        match marker {
            0xC0..=0xCF if !matches!(marker, 0xC4 | 0xC8 | 0xCC) => {
                (facts.bits, facts.channels) =
                    (body.first().copied().unwrap_or(0), body.get(5).copied().unwrap_or(0));
                facts.cmyk = facts.channels == 4;
            }
            0xE2 if body.starts_with(b"ICC_PROFILE\0") => {
                let length = usize::from(u16::from_be_bytes([high, low]));
                facts.other_colours |=
                    is_other(body.get(..length.min(body.len())).unwrap_or_default());
            }
            0xDA => break,
            _ => {}
        }
        at += 2 + usize::from(u16::from_be_bytes([high, low]));
    }
    facts
}

/// Chunks up to the picture data.
fn png(bytes: &[u8]) -> Facts {
    let mut facts = Facts::default();
    let mut at = 8;
    while let Some(head) = bytes.get(at..at + 8) {
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let body = bytes.get(at + 8..).unwrap_or_default();
        match &head[4..8] {
            b"IHDR" => {
                facts.bits = body.get(8).copied().unwrap_or(0);
                let colour = body.get(9).copied().unwrap_or(0);
                facts.channels = if matches!(colour, 0 | 4) { 1 } else { 3 };
                facts.alpha = matches!(colour, 4 | 6);
                // A palette's indices: colours have 8 bits.
                facts.bits = if colour == 3 { 8 } else { facts.bits };
            }
            b"tRNS" => facts.alpha = true,
            b"acTL" => facts.animated = true,
            // Its name, not deflated, comes first.
            b"iCCP" => {
                let name = body.split(|b| *b == 0).next().unwrap_or_default();
                facts.other_colours = !name.is_empty() && is_named_other(name);
            }
            b"IDAT" => break,
            _ => {}
        }
        let Some(next) = at.checked_add(12).and_then(|a| a.checked_add(length)) else { break };
        at = next;
    }
    facts
}

/// Whether a profile's own text names another space than sRGB. Grey and unnamed ones pass.
fn is_other(profile: &[u8]) -> bool {
    // Text in two-byte letters reads the same without its zeros.
    let text: Vec<u8> = profile.iter().copied().filter(|b| *b != 0).collect();
    let has = |what: &[u8]| text.windows(what.len()).any(|w| w.eq_ignore_ascii_case(what));
    !has(b"sRGB") && OTHERS.iter().any(|o| has(o))
}

fn is_named_other(name: &[u8]) -> bool {
    OTHERS.iter().any(|o| name.windows(o.len()).any(|w| w.eq_ignore_ascii_case(o)))
}

const OTHERS: [&[u8]; 5] = [b"Adobe RGB", b"Display P3", b"ProPhoto", b"Rec2020", b"Wide Gamut"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_are_cut_short_tell_less_and_never_fail() {
        let mut png =
            b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x01\0\0\0\x01\x10\x06\0\0\0crc!".to_vec();
        assert_eq!(Format::of(&png), Some(Format::Png));
        let f = Facts::of(Format::Png, &png);
        assert_eq!((f.bits, f.channels, f.alpha), (16, 3, true));
        png.extend(b"\xff\xff\xff\xffjunk");
        for n in 0..png.len() {
            Facts::of(Format::Png, &png[..n]);
            Facts::of(Format::Jpeg, &png[..n]);
            Facts::of(Format::Gif, &png[..n]);
            Facts::of(Format::WebP, &png[..n]);
        }
        let jpeg = [0xFF, 0xD8, 0xFF, 0xFF, 0xC0, 0, 11, 8, 0, 1, 0, 1, 4, 0, 0, 0, 0];
        assert!(Facts::of(Format::Jpeg, &jpeg).cmyk);
    }

    #[test]
    fn formats_are_told_by_content_and_promised_by_name() {
        assert_eq!(Format::of(b"GIF89a.."), Some(Format::Gif));
        assert_eq!(Format::of(b"text"), None);
        assert_eq!(Format::promised(Path::new("a/B.JPeG")), Some(Format::Jpeg));
        assert_eq!(Format::promised(Path::new("a")), None);
    }
}
