//! Files that strangers made: opened only where they are files, read only up to a bound.

use crate::{DataError, Result};
use std::fs::File;
use std::io::{Error, ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Opens a file to read. Pipes, devices and folders are refused: reading them may never end, or never begin.
///
/// # Errors
/// When it cannot be opened or is no regular file.
pub fn open_file(path: &Path) -> std::io::Result<File> {
    // Told before it is opened: opening a pipe waits for somebody to write to it.
    if !std::fs::metadata(path)?.is_file() {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            "is no regular file; give the path of one",
        ));
    }
    File::open(path)
}

/// The bytes of a file of at most `most` bytes.
///
/// # Errors
/// When it cannot be read, is no regular file, or has more.
pub fn read_file(path: &Path, most: u64) -> Result<Vec<u8>> {
    let go = || {
        let file = open_file(path)?;
        let mut bytes = Vec::new();
        if file.metadata()?.len() <= most {
            // One more than allowed, for a file that grows while it is read.
            file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
            if bytes.len() as u64 <= most {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    };
    let bytes = go().map_err(|e| DataError::io(path, e))?;
    bytes.ok_or_else(|| DataError::dataset(path, format!("has more than {most} bytes; not read")))
}

/// The text of a file of at most 64 MiB: settings, networks, names.
///
/// # Errors
/// When it cannot be read, is no regular file, too large, or no UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = read_file(path, 64 << 20)?;
    String::from_utf8(bytes).map_err(|_| DataError::dataset(path, "is no text in UTF-8"))
}

/// Characters that would move a terminal's cursor, colour it or end a line are written as JSON would.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            true => out += &format!("\\u{:04x}", u32::from(c)),
            false => out.push(c),
        }
    }
    out
}

/// What quotes a file may be as long as the file: the same, of at most 1,000 characters once it can be shown.
pub fn printable_short(text: &str) -> String {
    printable(text).chars().take(1000).collect()
}

/// Paths in JSON and the like; what is no UTF-8 in them is replaced, or there would be no JSON at all.
pub(crate) fn paths_as_text<S: serde::Serializer>(
    paths: &[PathBuf],
    s: S,
) -> std::result::Result<S::Ok, S::Error> {
    s.collect_seq(paths.iter().map(|p| p.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_refused_and_what_is_too_long() {
        let folder = tempfile::tempdir().unwrap();
        let e = read_text(folder.path()).unwrap_err().to_string();
        assert!(e.contains("no regular file"), "{e}");
        let path = folder.path().join("a\nb\x1b[31m.txt");
        assert!(
            read_text(&path).unwrap_err().to_string().contains("a\\u000ab\\u001b[31m.txt: does")
        );
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read_file(&path, 5).unwrap(), b"12345");
        assert!(read_file(&path, 4).unwrap_err().to_string().contains("more than 4"));
    }

    /// `/dev/null` stands for all that is no file; a pipe nobody writes to would hold the test for ever.
    #[cfg(unix)]
    #[test]
    fn devices_and_pipes_are_no_files() {
        assert!(open_file(Path::new("/dev/null")).is_err());
    }
}
