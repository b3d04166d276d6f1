//! Weights that others offer: a list of where they lie and what they must be, and their download into
//! the user's cache folder.

use anyhow::{Context, Result, bail};
use convoke_data::{Filter, Preprocess};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One file of weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Entry {
    /// What `models get` is asked for.
    pub name: String,
    /// Where it lies.
    pub url: String,
    /// SHA-256 in hexadecimal; its first digits where no more are published.
    pub sha256: String,
    /// Size, exact or as rounded by its publisher.
    pub mebibytes: f64,
    /// Side of the input in pixels.
    pub side: usize,
    /// The short side from which that is cut.
    pub short_side: usize,
    /// How pictures are resized.
    pub filter: Filter,
    /// Published top-1 on ImageNet, in percent.
    pub top1: f64,
    /// Published top-5.
    pub top5: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    weights: Vec<Entry>,
}

const TORCHVISION: &str = include_str!("../weights/torchvision.toml");
/// Fewer digits would verify nothing.
const LEAST_DIGITS: usize = 8;
/// Published sizes are rounded.
const SLACK: u64 = 1 << 20;

/// What is known to be had: torchvision's weights, or the list in a file.
pub fn entries(file: Option<&Path>) -> Result<Vec<Entry>> {
    let (name, text) = match file {
        Some(file) => (file.display().to_string(), crate::common::read_text(file)?),
        None => ("torchvision.toml".into(), TORCHVISION.to_string()),
    };
    let manifest: Manifest =
        toml::from_str(&text).map_err(|e| anyhow::anyhow!("{name}: {}", e.message()))?;
    for e in &manifest.weights {
        let hex = e.sha256.len() >= LEAST_DIGITS
            && e.sha256.len() <= 64
            && e.sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let size = e.mebibytes.is_finite() && (0.0..=1e6).contains(&e.mebibytes);
        if !hex || !size || e.file().is_none() {
            bail!("{name}: `{}` has no usable url, sha256 or mebibytes", e.name);
        }
    }
    Ok(manifest.weights)
}

/// The entry of that name.
pub fn find(entries: Vec<Entry>, name: &str) -> Result<Entry> {
    let hint = convoke_engine::names::hint(name, entries.iter().map(|e| &e.name[..]));
    let found = entries.into_iter().find(|e| e.name == name);
    found.with_context(|| {
        format!("no weights are called `{name}`{hint}; `convoke models get` lists them")
    })
}

/// What a file of weights wants of its pictures, told by its name, where the list knows it.
pub fn preprocess_of(file: &Path, pre: &Preprocess) -> Option<Preprocess> {
    let name = file.file_name()?.to_str()?;
    let entry = entries(None).ok()?.into_iter().find(|e| e.file() == Some(name))?;
    let fits = (pre.height, pre.width, pre.channels) == (entry.side, entry.side, 3);
    fits.then(|| Preprocess { short_side: entry.short_side, filter: entry.filter, ..pre.clone() })
}

/// A file of weights: the path itself, or a name of the list that lies in the cache folder.
pub fn local(path: &Path) -> Result<PathBuf> {
    let name = path.to_str().filter(|_| !path.exists() && path.extension().is_none());
    let Some(entry) = name.and_then(|n| find(entries(None).ok()?, n).ok()) else {
        return Ok(path.into());
    };
    let there = cache()?.join(entry.file().unwrap_or_default());
    match there.is_file() {
        true => Ok(there),
        false => bail!("{0} is not here yet; get it with: convoke models get {0}", entry.name),
    }
}

/// The user's folder for things that can be fetched again.
pub fn cache() -> Result<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(own) = var("CONVOKE_CACHE") {
        return Ok(own);
    }
    let base = if cfg!(windows) {
        var("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        var("HOME").map(|h| h.join("Library/Caches"))
    } else {
        var("XDG_CACHE_HOME").or_else(|| var("HOME").map(|h| h.join(".cache")))
    };
    let base = base.context("no home folder is known; set CONVOKE_CACHE to a folder")?;
    Ok(base.join("convoke"))
}

impl Entry {
    /// The last part of the url, if it is a plain name.
    pub fn file(&self) -> Option<&str> {
        let name = self.url.rsplit('/').next()?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        (!name.is_empty() && !name.starts_with('.') && name.bytes().all(plain)).then_some(name)
    }

    /// More bytes than this are not what was asked for.
    fn most(&self) -> u64 {
        (self.mebibytes * f64::from(1 << 20)) as u64 + SLACK
    }

    /// Whether the file is what it must be.
    fn verify(&self, path: &Path) -> Result<bool> {
        let named = || path.display().to_string();
        let mut file = File::open(path).with_context(named)?;
        let (mut hash, mut part) = (Sha256::new(), vec![0; 1 << 16]);
        loop {
            match file.read(&mut part).with_context(named)? {
                0 => break,
                n => hash.update(&part[..n]),
            }
        }
        let digits: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        Ok(digits.starts_with(&self.sha256))
    }

    /// Fetches the file into a folder unless it is there already; goes on where an earlier download
    /// was cut off. `progress` hears bytes done and to do; `say` what will be fetched, before it is.
    pub fn fetch(
        &self,
        folder: &Path,
        say: impl Fn(&str),
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<PathBuf> {
        let name = self.file().context("the url names no file")?;
        let (path, part) = (folder.join(name), folder.join(format!("{name}.part")));
        if path.is_file() && self.verify(&path)? {
            say(&format!("{} is there already and whole", path.display()));
            return Ok(path);
        }
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let there = std::fs::metadata(&part).map_or(0, |m| m.len());
        let from = if there > 0 { format!(", from byte {there} on") } else { String::new() };
        say(&format!(
            "fetches {} ({:.1} MiB{from}; SHA-256 {}) to {}",
            self.url,
            self.mebibytes,
            told(&self.sha256),
            path.display()
        ));
        self.download(&part, there, progress)?;
        if !self.verify(&part)? {
            std::fs::remove_file(&part).with_context(|| part.display().to_string())?;
            bail!(
                "{}: is not the file that the list means (its SHA-256 differs) and was deleted; try again",
                self.url
            );
        }
        std::fs::rename(&part, &path).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// Appends to what is there, or begins anew where the server cannot go on.
    fn download(&self, part: &Path, there: u64, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        if self.url.starts_with("https:") && !cfg!(feature = "download") {
            bail!(
                "this convoke was built without TLS; build it with `--features download`, or fetch {} yourself and give its path",
                self.url
            );
        }
        let config = ureq::Agent::config_builder()
            .https_only(self.url.starts_with("https:"))
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(30)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .user_agent(concat!("convoke/", env!("CARGO_PKG_VERSION")))
            .build();
        let agent = ureq::Agent::new_with_config(config);
        let mut request = agent.get(&self.url);
        if there > 0 {
            request = request.header("Range", format!("bytes={there}-"));
        }
        let response = request.call().with_context(|| format!("{}: no answer", self.url))?;
        let header = |name: &str| response.headers().get(name)?.to_str().ok().map(String::from);
        let begins = |range: String| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok();
        let start = match response.status().as_u16() {
            200 => 0,
            206 if header("content-range").and_then(begins) == Some(there) => there,
            // Nothing is left to send: what is there is whole, or of another file.
            416 if there > 0 => return Ok(()),
            status => bail!("{}: the server answers {status}; try again later", self.url),
        };
        let length = header("content-length").and_then(|l| l.parse::<u64>().ok());
        let total = length.map_or(self.most(), |l| l.saturating_add(start));
        if total > self.most() {
            bail!("{}: is larger than the list says, {total} bytes; not fetched", self.url);
        }
        let named = || part.display().to_string();
        let mut options = OpenOptions::new();
        options.create(true).write(true).truncate(start == 0).append(start > 0);
        let mut file = options.open(part).with_context(named)?;
        let limit = self.most().saturating_sub(start);
        let mut body = response.into_body().into_with_config().limit(limit).reader();
        let (mut done, mut buffer) = (start, vec![0; 1 << 16]);
        loop {
            let n = body.read(&mut buffer).with_context(|| {
                format!("{}: cut off after {done} bytes; the same command goes on there", self.url)
            })?;
            if n == 0 {
                break;
            }
            file.write_all(&buffer[..n]).with_context(named)?;
            done += n as u64;
            progress(done, total);
        }
        file.sync_all().with_context(named)?;
        if length.is_some() && done < total {
            bail!("{}: cut off after {done} bytes; the same command goes on there", self.url);
        }
        Ok(())
    }
}

/// A checksum, and whether it is whole.
fn told(sha256: &str) -> String {
    match sha256.len() {
        64 => sha256.into(),
        _ => format!("begins {sha256}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_that_ships_is_sound() {
        let all = entries(None).unwrap();
        assert!(all.len() > 30, "{}", all.len());
        let mut names: Vec<&str> = all.iter().map(|e| &e.name[..]).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len());
        for e in &all {
            assert!(e.url.starts_with("https://download.pytorch.org/models/"), "{}", e.url);
            // torchvision's files carry the digits in their names.
            assert!(e.url.ends_with(&format!("-{}.pth", e.sha256)), "{}", e.url);
            assert!(e.short_side >= e.side && e.top1 > 40.0 && e.top5 > e.top1, "{}", e.name);
        }
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        let entry = |url: &str| Entry { url: url.into(), ..entries(None).unwrap()[0].clone() };
        assert_eq!(entry("https://a/b/c-1.pth").file(), Some("c-1.pth"));
        for url in ["https://a/..", "https://a/", "https://a/.x", "https://a/b?c", "https://a/b\\c"]
        {
            assert_eq!(entry(url).file(), None, "{url}");
        }
    }

    #[test]
    fn a_files_name_tells_its_preprocessing() {
        let pre = Preprocess::plain(224, 224, 3);
        let of = |name: &str| preprocess_of(Path::new(name), &pre).map(|p| p.short_side);
        assert_eq!(of("x/resnet50-11ad3fa6.pth"), Some(232));
        assert_eq!(of("resnet50-0676ba61.pth"), Some(256));
        assert_eq!(of("mine.pth"), None);
    }
}
