//! Pictures: reading, resizing, writing.

use crate::file::open_file;
use crate::{DataError, Result};
use fast_image_resize as fir;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use std::path::Path;

/// 8-bit pixels, `data [height, width, channels]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// 1 (grey) or 3 (red, green, blue).
    pub channels: usize,
    /// Row by row, pixel by pixel.
    pub data: Vec<u8>,
}

/// A picture may have at most that many pixels on a side.
pub const MAX_SIDE: u32 = 25_000;
/// A decoder may allocate at most that many bytes.
const MAX_BYTES: u64 = 3 << 30;
/// Scans of a progressive JPEG: encoders write about ten; thousands are made to waste time.
const MAX_SCANS: u32 = 500;

impl Picture {
    /// A picture of one colour.
    pub fn filled(width: usize, height: usize, colour: [u8; 3]) -> Self {
        Picture { width, height, channels: 3, data: colour.repeat(width * height) }
    }

    /// The pixel's channels.
    pub fn pixel(&self, x: usize, y: usize) -> &[u8] {
        let at = (y * self.width + x) * self.channels;
        &self.data[at..at + self.channels]
    }

    /// A rectangle of the picture; it must lie within.
    pub fn crop(&self, left: usize, top: usize, width: usize, height: usize) -> Picture {
        let mut data = Vec::with_capacity(width * height * self.channels);
        for y in top..top + height {
            let at = (y * self.width + left) * self.channels;
            data.extend_from_slice(&self.data[at..at + width * self.channels]);
        }
        Picture { width, height, channels: self.channels, data }
    }
}

/// Reads a picture of any kind that convoke knows, told by its content: JPEG, PNG, GIF (first frame),
/// BMP, WebP. EXIF orientation is applied; transparency is laid over white; 16 bits become 8; CMYK
/// becomes RGB. `channels` is 1 (grey, by luminance) or 3.
///
/// # Errors
/// When the file cannot be read, is no picture, is cut short, or is larger than [`MAX_SIDE`].
pub fn read_picture(path: &Path, channels: usize) -> Result<Picture> {
    let reader = open(path)?;
    let bytes = match reader.format() {
        Some(ImageFormat::Jpeg) => Some(whole_jpeg(path)?),
        _ => None,
    };
    let mut decoder = reader.into_decoder().map_err(|e| DataError::picture(path, e))?;
    let orientation = decoder.orientation().map_err(|e| DataError::picture(path, e))?;
    let mut picture = match bytes.map(|b| jpeg(path, &b)).transpose()?.flatten() {
        Some(p) => p,
        None => DynamicImage::from_decoder(decoder).map_err(|e| DataError::picture(path, e))?,
    };
    picture.apply_orientation(orientation);
    if picture.color().has_alpha() {
        picture = over_white(picture);
    }
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let data = if channels == 1 {
        picture.into_luma8().into_raw()
    } else {
        picture.into_rgb8().into_raw()
    };
    Ok(Picture { width, height, channels: if channels == 1 { 1 } else { 3 }, data })
}

/// A JPEG with the pixels that libjpeg-turbo makes of it, as every other toolkit sees them: decoders
/// are free in how they round, and a network that stands between two classes notices. `None` for
/// colours that are left to `image` (CMYK).
fn jpeg(path: &Path, bytes: &[u8]) -> Result<Option<DynamicImage>> {
    use libjpeg_turbo_rs::{ColorSpace, Decoder, PixelFormat};
    // A picture is not worth a crash: the decoder is young.
    let decoded = std::panic::catch_unwind(|| {
        let mut decoder = Decoder::new(bytes)?;
        let format = match decoder.jpeg_color_space() {
            ColorSpace::Grayscale => PixelFormat::Grayscale,
            ColorSpace::YCbCr | ColorSpace::Rgb => PixelFormat::Rgb,
            _ => return Ok(None),
        };
        decoder.set_output_format(format);
        decoder.set_max_pixels((MAX_BYTES / 3) as usize);
        decoder.set_max_memory(2 * MAX_BYTES as usize);
        decoder.set_scan_limit(MAX_SCANS);
        decoder.decode_image().map(|image| Some((image, format)))
    });
    let decoded = decoded.map_err(|_| DataError::picture(path, "cannot be decoded"))?;
    let Some((image, format)) = decoded.map_err(|e| DataError::picture(path, e))? else {
        return Ok(None);
    };
    let (w, h) = (image.width as u32, image.height as u32);
    let picture = match format {
        PixelFormat::Grayscale => {
            image::GrayImage::from_raw(w, h, image.data).map(DynamicImage::ImageLuma8)
        }
        _ => image::RgbImage::from_raw(w, h, image.data).map(DynamicImage::ImageRgb8),
    };
    Ok(picture)
}

/// Width and height from the header alone, before EXIF orientation.
///
/// # Errors
/// When the file cannot be read or is no picture.
pub fn read_size(path: &Path) -> Result<(usize, usize)> {
    let (w, h) = open(path)?.into_dimensions().map_err(|e| DataError::picture(path, e))?;
    Ok((w as usize, h as usize))
}

/// What a picture's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Columns, as stored.
    pub width: usize,
    /// Rows, as stored.
    pub height: usize,
    /// EXIF orientation from 1 (as stored) to 8.
    pub orientation: u8,
}

impl Facts {
    /// Width and height as [`read_picture`] gives them: turned as EXIF says.
    pub fn shown(&self) -> (usize, usize) {
        if self.orientation >= 5 { (self.height, self.width) } else { (self.width, self.height) }
    }
}

/// Size and orientation from the header alone.
///
/// # Errors
/// When the file cannot be read or is no picture.
pub fn read_facts(path: &Path) -> Result<Facts> {
    let mut decoder = open(path)?.into_decoder().map_err(|e| DataError::picture(path, e))?;
    let orientation = decoder.orientation().map_err(|e| DataError::picture(path, e))?;
    let (w, h) = decoder.dimensions();
    Ok(Facts { width: w as usize, height: h as usize, orientation: orientation.to_exif() })
}

/// Whether EXIF turns or mirrors the picture.
pub(crate) fn is_turned(path: &Path) -> bool {
    read_facts(path).is_ok_and(|f| f.orientation > 1)
}

fn open(path: &Path) -> Result<ImageReader<std::io::BufReader<std::fs::File>>> {
    let file = open_file(path).map_err(|e| DataError::io(path, e))?;
    let reader = ImageReader::new(std::io::BufReader::new(file));
    let mut reader = reader.with_guessed_format().map_err(|e| DataError::io(path, e))?;
    if reader.format().is_none() {
        return Err(DataError::picture(path, "is no JPEG, PNG, GIF, BMP or WebP picture"));
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    Ok(reader)
}

/// The bytes of a JPEG whose picture data ends with its end marker. Decoders fill what is missing with
/// grey.
fn whole_jpeg(path: &Path) -> Result<Vec<u8>> {
    let facts = std::fs::metadata(path).map_err(|e| DataError::io(path, e))?;
    if facts.len() > MAX_BYTES {
        return Err(DataError::picture(path, "is larger than a picture can be"));
    }
    let bytes = std::fs::read(path).map_err(|e| DataError::io(path, e))?;
    // Segments up to the picture data; a thumbnail within one of them has an end marker of its own.
    let mut at = 2;
    while let Some(&[0xFF, marker, high, low]) = bytes.get(at..at + 4) {
        if marker == 0xFF {
            at += 1;
            continue;
        }
        at += 2 + usize::from(u16::from_be_bytes([high, low]));
        if marker == 0xDA {
            break;
        }
    }
    let data = bytes.get(at..).unwrap_or_default();
    match data.windows(2).any(|pair| pair == [0xFF, 0xD9]) {
        true => Ok(bytes),
        false => Err(DataError::picture(path, "is cut short; copy it again")),
    }
}

fn over_white(picture: DynamicImage) -> DynamicImage {
    let mut rgba = picture.into_rgba8();
    for p in rgba.pixels_mut() {
        let alpha = u32::from(p.0[3]);
        for v in &mut p.0[..3] {
            *v = ((u32::from(*v) * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
        }
        p.0[3] = 255;
    }
    DynamicImage::ImageRgba8(rgba)
}

/// How pixels between pixels are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filter {
    /// The nearest pixel.
    Nearest,
    /// Triangle; averages when shrinking, as PIL does.
    #[default]
    Bilinear,
    /// Catmull-Rom; likewise.
    Bicubic,
    /// Lanczos of three lobes; likewise.
    Lanczos,
}

impl Filter {
    /// How many pixels of the result one pixel reaches to each side.
    fn reach(self) -> f64 {
        match self {
            Filter::Nearest => 0.5,
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
        }
    }
}

/// A rectangle in pixels, edges between pixels allowed.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Area {
    /// Left edge.
    pub left: f64,
    /// Upper edge.
    pub top: f64,
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
}

impl Area {
    /// The whole picture.
    pub fn whole(p: &Picture) -> Self {
        Area { left: 0.0, top: 0.0, width: p.width as f64, height: p.height as f64 }
    }
}

/// The area of the picture brought to `width` × `height`, antialiased when shrinking: rows first, then
/// columns, rounded to grey levels in between, as PIL does it (from Pillow 13 on, not where the height
/// shrinks much more than the width). The other way round, bicubic edges cut off at 0 and 255 would
/// fall elsewhere.
///
/// # Errors
/// When a size is zero or the area leaves the picture; the message has no path.
pub fn resize(p: &Picture, area: Area, width: usize, height: usize, f: Filter) -> Result<Picture> {
    // Rows that the columns will ask for.
    let reach = f.reach() * (area.height / height.max(1) as f64).max(1.0);
    let first = (area.top - reach).floor().clamp(0.0, p.height as f64);
    let last = (area.top + area.height + reach).ceil().clamp(first, p.height as f64);
    if f == Filter::Nearest || height == 0 || last <= first {
        return one_way(p, area, width, height, f);
    }
    let rows = Area { top: first, height: last - first, ..area };
    let narrow = one_way(p, rows, width, (last - first) as usize, f)?;
    let top = area.top - first;
    let columns = Area { left: 0.0, top, width: width as f64, height: area.height };
    one_way(&narrow, columns, width, height, f)
}

/// The area brought to a size that differs in one direction.
fn one_way(p: &Picture, area: Area, width: usize, height: usize, f: Filter) -> Result<Picture> {
    let wrong = |what: String| DataError::picture(Path::new("resize"), what);
    let kind = if p.channels == 1 { fir::PixelType::U8 } else { fir::PixelType::U8x3 };
    let source = fir::images::ImageRef::new(p.width as u32, p.height as u32, &p.data, kind)
        .map_err(|e| wrong(e.to_string()))?;
    let mut target = fir::images::Image::new(width as u32, height as u32, kind);
    let algorithm = match f {
        Filter::Nearest => fir::ResizeAlg::Nearest,
        Filter::Bilinear => fir::ResizeAlg::Convolution(fir::FilterType::Bilinear),
        Filter::Bicubic => fir::ResizeAlg::Convolution(fir::FilterType::CatmullRom),
        Filter::Lanczos => fir::ResizeAlg::Convolution(fir::FilterType::Lanczos3),
    };
    let options = fir::ResizeOptions::new().resize_alg(algorithm).crop(
        area.left,
        area.top,
        area.width,
        area.height,
    );
    fir::Resizer::new().resize(&source, &mut target, &options).map_err(|e| wrong(e.to_string()))?;
    Ok(Picture { width, height, channels: p.channels, data: target.into_vec() })
}

/// A picture's PNG.
///
/// # Errors
/// When it has no pixels.
pub fn encode_png(p: &Picture) -> Result<Vec<u8>> {
    encode(p, |colour, out| {
        let format = image::ImageFormat::Png;
        let (w, h) = (p.width as u32, p.height as u32);
        image::write_buffer_with_format(out, &p.data, w, h, colour, format)
    })
}

/// A picture's JPEG, of a quality from 1 to 100.
///
/// # Errors
/// When it has no pixels or is larger than a JPEG can be.
pub fn encode_jpeg(p: &Picture, quality: u8) -> Result<Vec<u8>> {
    encode(p, |colour, out| {
        let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(out, quality);
        encoder.encode(&p.data, p.width as u32, p.height as u32, colour.into())
    })
}

type Bytes = std::io::Cursor<Vec<u8>>;

fn encode(
    p: &Picture,
    write: impl FnOnce(image::ColorType, &mut Bytes) -> image::ImageResult<()>,
) -> Result<Vec<u8>> {
    let colour = if p.channels == 1 { image::ColorType::L8 } else { image::ColorType::Rgb8 };
    let mut bytes = Bytes::default();
    write(colour, &mut bytes).map_err(|e| DataError::picture(Path::new("picture"), e))?;
    Ok(bytes.into_inner())
}

/// A picture of 1 or 3 channels from the bytes of a file, with the decoders' own rounding and without
/// orientation: for what this library wrote itself. For others' files there is [`read_picture`].
///
/// # Errors
/// When the bytes are no picture.
pub fn decode_picture(bytes: &[u8], channels: usize) -> Result<Picture> {
    let wrong = |e| DataError::picture(Path::new("picture"), e);
    let picture = image::load_from_memory(bytes).map_err(wrong)?;
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let (channels, data) = match channels {
        1 => (1, picture.into_luma8().into_raw()),
        _ => (3, picture.into_rgb8().into_raw()),
    };
    Ok(Picture { width, height, channels, data })
}

/// Writes a PNG beside its place and renames it there, so that no half-written file is ever seen.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_png(path: &Path, p: &Picture) -> Result<()> {
    let bytes = encode_png(p).map_err(|e| DataError::picture(path, e))?;
    write_file(path, &bytes)
}

/// What files are named while they are written.
const UNFINISHED: &str = ".convoke-";

/// Whether this is what [`write_file`] leaves when the process is killed in it.
pub fn is_unfinished(path: &Path) -> bool {
    path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(UNFINISHED))
}

/// Writes a file beside its place, brings it to disk and renames it there.
///
/// # Errors
/// When the folder cannot be written or the disk is full; then the old file, if any, is untouched.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let go = || -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
        }
        file.persist(path).map_err(|e| e.error)?;
        Ok(())
    };
    go().map_err(|e| DataError::io(path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Picture {
        let data = (0..5 * 4 * 3).map(|i| (i * 37 % 256) as u8).collect();
        Picture { width: 5, height: 4, channels: 3, data }
    }

    #[test]
    fn a_png_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/p.png");
        write_png(&path, &sample()).unwrap();
        assert_eq!(read_picture(&path, 3).unwrap(), sample());
        assert_eq!(read_size(&path).unwrap(), (5, 4));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_cut_picture_is_an_error_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.png");
        write_png(&path, &sample()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for n in 0..bytes.len() - 12 {
            std::fs::write(&path, &bytes[..n]).unwrap();
            let e = read_picture(&path, 3).unwrap_err().to_string();
            assert!(e.contains("p.png") && !e.contains('\n'), "{n}: {e}");
        }
    }

    #[test]
    fn a_cut_jpeg_is_an_error_though_the_decoder_would_fill_it_with_grey() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.jpg");
        let picture = image::RgbImage::from_fn(40, 30, |x, y| {
            image::Rgb([(x * 6) as u8, (y * 8) as u8, (x * y) as u8])
        });
        picture.save(&path).unwrap();
        assert_eq!(read_picture(&path, 3).unwrap().width, 40);
        let bytes = std::fs::read(&path).unwrap();
        for n in (0..bytes.len()).step_by(3) {
            std::fs::write(&path, &bytes[..n]).unwrap();
            assert!(read_picture(&path, 3).is_err(), "{n} of {} bytes", bytes.len());
        }
        let mut longer = bytes.clone();
        longer.extend([7; 100]);
        std::fs::write(&path, longer).unwrap();
        assert!(read_picture(&path, 3).is_ok(), "bytes behind the picture do no harm");
    }

    #[test]
    fn transparency_is_laid_over_white() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.png");
        let rgba = image::RgbaImage::from_pixel(1, 1, image::Rgba([10, 20, 30, 0]));
        rgba.save(&path).unwrap();
        assert_eq!(read_picture(&path, 3).unwrap().data, [255, 255, 255]);
    }

    #[test]
    fn shrinking_averages() {
        let data = vec![0, 100, 200, 100];
        let p = Picture { width: 2, height: 2, channels: 1, data };
        let r = resize(&p, Area::whole(&p), 1, 1, Filter::Bilinear).unwrap();
        assert_eq!(r.data, [100]);
    }
}
