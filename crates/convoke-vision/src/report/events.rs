//! TensorBoard's event files: records with masked CRC-32C around protocol buffers of a few fields.
//!
//! A record is `length u64, masked crc of it u32, bytes, masked crc of them u32`, little-endian (TensorFlow's
//! TFRecord). The bytes are an `Event`: wall time (1), step (2), file version (3) or summary (5).

use super::RunReport;
use std::path::Path;

/// What an event tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A number at a step.
    Scalar {
        /// Name, such as `loss/train`.
        tag: String,
        /// Epoch.
        step: i64,
        /// The number.
        value: f32,
    },
    /// A picture at a step.
    Image {
        /// Name.
        tag: String,
        /// Epoch.
        step: i64,
        /// Width and height.
        size: (usize, usize),
        /// PNG or JPEG.
        bytes: Vec<u8>,
    },
}

/// The events of a run, at the times at which its epochs ended.
pub(super) fn of_run(folder: &Path, r: &RunReport) -> Vec<u8> {
    let start = std::fs::metadata(folder.join("args.toml")).and_then(|m| m.modified()).ok();
    let start = start.and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
    let mut time = start.map_or(0.0, |d| d.as_secs_f64());
    let mut events = Vec::new();
    for row in &r.rows {
        time += row.seconds;
        let judge = row.judge();
        let numbers = [
            ("loss/train".to_string(), Some(row.train_loss)),
            ("top1/train".into(), Some(row.train_top1)),
            (format!("loss/{judge}"), row.val_loss),
            (format!("top1/{judge}"), row.val_top1),
            (format!("top5/{judge}"), row.val_top5),
            ("learning-rate".into(), Some(row.lr)),
            ("pictures-per-second".into(), Some(row.pictures_per_second)),
        ];
        for (tag, value) in numbers {
            let Some(value) = value else { continue };
            events.push((time, Event::Scalar { tag, step: row.epoch as i64, value: value as f32 }));
        }
        if let Some(f) = r.filters.iter().find(|f| f.epoch == row.epoch) {
            let size = png_size(&f.picture);
            let (tag, bytes) = ("filters".into(), f.picture.clone());
            events.push((time, Event::Image { tag, step: row.epoch as i64, size, bytes }));
        }
    }
    for b in &r.batches {
        if let Some(bytes) = b.pictures.first() {
            let (tag, size) = (b.title.to_lowercase(), png_size(bytes));
            events.push((time, Event::Image { tag, step: 1, size, bytes: bytes.clone() }));
        }
    }
    encode(&events)
}

/// Width and height from a PNG's header.
fn png_size(bytes: &[u8]) -> (usize, usize) {
    let at = |i: usize| {
        bytes.get(i..i + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize)
    };
    (at(16), at(20))
}

/// A file of events with the seconds since 1970 at which they happened.
pub fn encode(events: &[(f64, Event)]) -> Vec<u8> {
    let mut file = Vec::new();
    let first = events.first().map_or(0.0, |e| e.0);
    let mut version = fixed64(1, first);
    bytes(&mut version, 3, b"brain.Event:2");
    record(&mut file, &version);
    for (time, event) in events {
        let mut message = fixed64(1, *time);
        let (step, mut value, tag) = match event {
            Event::Scalar { tag, step, value } => {
                let mut v = Vec::new();
                bytes(&mut v, 1, tag.as_bytes());
                v.push(2 << 3 | 5);
                v.extend(value.to_le_bytes());
                (*step, v, "scalars")
            }
            Event::Image { tag, step, size, bytes: picture } => {
                let mut image = Vec::new();
                number(&mut image, 1, size.1 as u64);
                number(&mut image, 2, size.0 as u64);
                number(&mut image, 3, 3);
                bytes(&mut image, 4, picture);
                let mut v = Vec::new();
                bytes(&mut v, 1, tag.as_bytes());
                bytes(&mut v, 4, &image);
                (*step, v, "images")
            }
        };
        let (mut plugin, mut metadata) = (Vec::new(), Vec::new());
        bytes(&mut plugin, 1, tag.as_bytes());
        bytes(&mut metadata, 1, &plugin);
        bytes(&mut value, 9, &metadata);
        number(&mut message, 2, step as u64);
        let mut summary = Vec::new();
        bytes(&mut summary, 1, &value);
        bytes(&mut message, 5, &summary);
        record(&mut file, &message);
    }
    file
}

fn fixed64(field: u8, value: f64) -> Vec<u8> {
    let mut out = vec![field << 3 | 1];
    out.extend(value.to_le_bytes());
    out
}

fn varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

fn number(out: &mut Vec<u8>, field: u8, v: u64) {
    out.push(field << 3);
    varint(out, v);
}

fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend(value);
}

fn record(file: &mut Vec<u8>, message: &[u8]) {
    let length = (message.len() as u64).to_le_bytes();
    file.extend(length);
    file.extend(masked(&length).to_le_bytes());
    file.extend(message);
    file.extend(masked(message).to_le_bytes());
}

/// Rotated and shifted, since a CRC over data with its own CRC in it says little (TensorFlow's `crc32c::Mask`).
fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// Castagnoli's polynomial, reflected.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let mut v = i as u32;
            let mut bit = 0;
            while bit < 8 {
                v = if v & 1 == 1 { v >> 1 ^ 0x82F6_3B78 } else { v >> 1 };
                bit += 1;
            }
            table[i] = v;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, b| TABLE[((crc ^ u32::from(*b)) & 0xFF) as usize] ^ crc >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        // RFC 3720, B.4, and the usual check value.
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
    }

    /// Written by TensorBoard's own `RecordWriter` and protocol buffers (`tests/fixtures/events.py`).
    #[test]
    fn a_file_has_the_bytes_that_tensorboard_writes() {
        let picture = b"\x89PNG not really".to_vec();
        let events = [
            (1.5, Event::Scalar { tag: "loss/train".into(), step: 3, value: 0.25 }),
            (
                2.5,
                Event::Image { tag: "filters".into(), step: 300, size: (640, 480), bytes: picture },
            ),
        ];
        assert_eq!(encode(&events), include_bytes!("../../tests/fixtures/events.bin"));
    }
}
