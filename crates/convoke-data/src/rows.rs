//! Pictures too large for memory, row by row.

use crate::file::open_file;
use crate::picture::{MAX_SIDE, Picture, read_facts};
use crate::{DataError, Result};
use std::fs::File;
use std::io::BufReader;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A PNG read row by row, in colour. What it keeps are the rows last asked for; the decoder itself needs two
/// rows and the 32 KB window of deflate. Interlaced PNGs and other formats come as a whole: JPEG decoders
/// need all coefficients of progressive files, and ours decodes baseline ones at once as well.
pub struct Rows {
    path: PathBuf,
    reader: png::Reader<BufReader<File>>,
    size: (usize, usize),
    /// The next row that the reader gives.
    next: usize,
    /// The rows in memory.
    band: Picture,
    first: usize,
}

impl Rows {
    /// Opens a picture; none where it does not come row by row.
    ///
    /// # Errors
    /// When the file cannot be read or is no picture.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let facts = read_facts(path)?;
        if !is_png(path)? || facts.orientation != 1 {
            return Ok(None);
        }
        let Some(reader) = reader(path)? else { return Ok(None) };
        let size = (facts.width, facts.height);
        let band = Picture { width: size.0, height: 0, channels: 3, data: Vec::new() };
        Ok(Some(Rows { path: path.into(), reader, size, next: 0, band, first: 0 }))
    }

    /// Width and height.
    pub fn size(&self) -> (usize, usize) {
        self.size
    }

    /// The rows, which may go back no further than the first one of the last call, unless the file is read
    /// from the start again. The second is the row that is the band's first.
    ///
    /// # Errors
    /// When the file is damaged or cut short.
    pub fn band(&mut self, rows: Range<usize>) -> Result<(&Picture, usize)> {
        let rows = rows.start.min(self.size.1)..rows.end.min(self.size.1);
        let wrong = |path: &Path, e: String| DataError::picture(path, e);
        if rows.start < self.first {
            let again = reader(&self.path)?;
            self.reader = again.ok_or_else(|| wrong(&self.path, "has changed".into()))?;
            (self.next, self.first, self.band.height) = (0, 0, 0);
            self.band.data.clear();
        }
        let line = self.size.0 * 3;
        let drop = (rows.start - self.first).min(self.band.height);
        self.band.data.drain(..drop * line);
        self.band.height -= drop;
        self.first += drop;
        while self.next < rows.end {
            let keep = self.next >= rows.start;
            let row = self.reader.next_row().map_err(|e| wrong(&self.path, e.to_string()))?;
            let Some(row) = row else {
                return Err(wrong(&self.path, "is cut short; copy it again".into()));
            };
            if keep {
                let before = self.band.data.len();
                colour(row.data(), self.size.0, &mut self.band.data);
                if self.band.data.len() != before + line {
                    return Err(wrong(&self.path, "has a row of another length".into()));
                }
                self.band.height += 1;
            }
            self.next += 1;
        }
        self.first = rows.start;
        Ok((&self.band, self.first))
    }
}

fn is_png(path: &Path) -> Result<bool> {
    use std::io::Read;
    let mut head = [0; 8];
    let mut file = open_file(path).map_err(|e| DataError::io(path, e))?;
    Ok(file.read_exact(&mut head).is_ok() && head == *b"\x89PNG\r\n\x1a\n")
}

/// A decoder that gives 8-bit rows; none for an interlaced file.
fn reader(path: &Path) -> Result<Option<png::Reader<BufReader<File>>>> {
    let file = open_file(path).map_err(|e| DataError::io(path, e))?;
    let limits = png::Limits { bytes: 64 << 20 };
    let mut decoder = png::Decoder::new_with_limits(BufReader::new(file), limits);
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let reader = decoder.read_info().map_err(|e| DataError::picture(path, e))?;
    let info = reader.info();
    if info.width > MAX_SIDE || info.height > MAX_SIDE {
        return Err(DataError::picture(path, "is too large"));
    }
    Ok((!info.interlaced).then_some(reader))
}

/// A row of grey, grey and alpha, colour, or colour and alpha as colour; what is transparent lies over white.
fn colour(row: &[u8], width: usize, out: &mut Vec<u8>) {
    let over = |v: u8, alpha: u8| {
        let a = u32::from(alpha);
        ((u32::from(v) * a + 255 * (255 - a) + 127) / 255) as u8
    };
    match row.len() / width.max(1) {
        1 => out.extend(row.iter().flat_map(|&v| [v; 3])),
        2 => out.extend(row.chunks_exact(2).flat_map(|p| [over(p[0], p[1]); 3])),
        3 => out.extend_from_slice(row),
        _ => out.extend(row.chunks_exact(4).flat_map(|p| [0, 1, 2].map(|c| over(p[c], p[3])))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{read_picture, write_png};

    #[test]
    fn bands_are_the_rows_of_the_picture_and_may_overlap() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.png");
        let data = (0..37 * 50 * 3).map(|i| (i * 31 % 253) as u8).collect();
        let p = Picture { width: 37, height: 50, channels: 3, data };
        write_png(&path, &p).unwrap();
        let mut rows = Rows::open(&path).unwrap().unwrap();
        assert_eq!(rows.size(), (37, 50));
        for range in [0..10, 5..20, 18..19, 30..50, 2..9, 40..99] {
            let (band, first) = rows.band(range.clone()).unwrap();
            let skip = range.start - first;
            let height = range.end.min(50) - range.start;
            assert_eq!(band.crop(0, skip, 37, height), p.crop(0, range.start, 37, height));
        }
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert!(Rows::open(&path).unwrap().unwrap().band(0..50).is_err());
    }

    #[test]
    fn other_colours_are_seen_as_read_picture_sees_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.png");
        let rgba = image::RgbaImage::from_fn(9, 7, |x, y| {
            image::Rgba([(x * 20) as u8, (y * 30) as u8, 200, (x * y * 4) as u8])
        });
        rgba.save(&path).unwrap();
        let seen = read_picture(&path, 3).unwrap();
        assert_eq!(*Rows::open(&path).unwrap().unwrap().band(0..7).unwrap().0, seen);
        image::GrayImage::from_fn(9, 7, |x, y| image::Luma([(x * y) as u8])).save(&path).unwrap();
        let seen = read_picture(&path, 3).unwrap();
        assert_eq!(*Rows::open(&path).unwrap().unwrap().band(0..7).unwrap().0, seen);
        let jpeg = folder.path().join("p.jpg");
        image::RgbImage::new(8, 8).save(&jpeg).unwrap();
        assert!(Rows::open(&jpeg).unwrap().is_none());
    }
}
