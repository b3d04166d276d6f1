//! `models get` against a server on this machine: says what it fetches, goes on where it was cut off,
//! takes only the file that the list means.

use assert_cmd::Command;
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// What the server does with a request.
#[derive(Clone, Copy)]
enum Manner {
    /// Answers ranges, and sends all.
    Good,
    /// Breaks off after so many bytes of the body.
    Cut(usize),
    /// Knows no ranges.
    Plain,
    /// Says 503.
    Busy,
}

struct Server {
    url: String,
    manner: Arc<Mutex<Manner>>,
    /// `Range` headers of the requests so far; empty for none.
    ranges: Arc<Mutex<Vec<String>>>,
}

fn serve(body: Vec<u8>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/models/w.pth", listener.local_addr().unwrap());
    let manner = Arc::new(Mutex::new(Manner::Good));
    let ranges = Arc::new(Mutex::new(Vec::new()));
    let (m, r) = (manner.clone(), ranges.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let manner = *m.lock().unwrap();
            // A client that goes away is its own affair.
            let _ = answer(stream.unwrap(), &body, manner, &r);
        }
    });
    Server { url, manner, ranges }
}

fn answer(
    mut stream: TcpStream,
    body: &[u8],
    manner: Manner,
    ranges: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut range = String::new();
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?.to_lowercase();
        if let Some(r) = line.strip_prefix("range: ") {
            range = r.to_string();
        }
        if line.is_empty() {
            break;
        }
    }
    ranges.lock().unwrap().push(range.clone());
    let from = range.strip_prefix("bytes=").and_then(|r| r.trim_end_matches('-').parse().ok());
    let from: Option<usize> = from.filter(|_| !matches!(manner, Manner::Plain));
    let (head, part) = match (manner, from) {
        (Manner::Busy, _) => ("503 Service Unavailable".to_string(), &b""[..]),
        (_, Some(at)) if at >= body.len() => ("416 Range Not Satisfiable".into(), &b""[..]),
        (_, Some(at)) => {
            let end = body.len() - 1;
            let range = format!("Content-Range: bytes {at}-{end}/{}", body.len());
            (format!("206 Partial Content\r\n{range}"), &body[at..])
        }
        (_, None) => ("200 OK".into(), body),
    };
    let length = part.len();
    write!(stream, "HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
    let sent = match manner {
        Manner::Cut(n) => &part[..n.min(part.len())],
        _ => part,
    };
    stream.write_all(sent)
}

fn body() -> Vec<u8> {
    (0..300_000u32).flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 7).to_le_bytes()).collect()
}

fn digits(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|b| format!("{b:02x}")).collect()
}

fn list(folder: &Path, url: &str, sha256: &str, mebibytes: f64) {
    let text = format!(
        "[[weights]]\nname = \"w\"\nurl = \"{url}\"\nsha256 = \"{sha256}\"\nmebibytes = {mebibytes}\n\
         side = 224\nshort-side = 256\nfilter = \"bilinear\"\ntop1 = 50.0\ntop5 = 70.0\n"
    );
    std::fs::write(folder.join("list.toml"), text).unwrap();
}

fn get(folder: &Path, name: &str) -> (i32, String, String) {
    let output = Command::cargo_bin("convoke")
        .unwrap()
        .current_dir(folder)
        .env("CONVOKE_CACHE", folder.join("cache"))
        .args(["models", "get", name, "--manifest", "list.toml"])
        .output()
        .unwrap();
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_download_says_what_it_does_goes_on_and_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (f, body) = (folder.path(), body());
    let server = serve(body.clone());
    list(f, &server.url, &digits(&body), body.len() as f64 / f64::from(1 << 20));
    let part = f.join("cache/w.pth.part");

    *server.manner.lock().unwrap() = Manner::Cut(700_000);
    let (code, _, err) = get(f, "w");
    assert_eq!(code, 1);
    assert!(err.contains("cut off after 700000 bytes; the same command goes on there"), "{err}");
    assert!(err.starts_with(&format!("fetches {} (1.1 MiB", server.url)), "{err}");
    assert_eq!(std::fs::metadata(&part).unwrap().len(), 700_000);

    *server.manner.lock().unwrap() = Manner::Good;
    let (code, out, err) = get(f, "w");
    assert_eq!(code, 0, "{err}");
    assert!(
        err.contains("from byte 700000 on") && out.contains("next: convoke import"),
        "{err}{out}"
    );
    assert_eq!(*server.ranges.lock().unwrap(), ["", "bytes=700000-"]);
    assert!(std::fs::read(f.join("cache/w.pth")).unwrap() == body && !part.exists());

    // What is there and whole is not fetched again; what was altered is.
    let (code, _, err) = get(f, "w");
    assert!(code == 0 && err.contains("there already"), "{err}");
    assert_eq!(server.ranges.lock().unwrap().len(), 2);
    std::fs::write(f.join("cache/w.pth"), &body[1..]).unwrap();
    assert_eq!(get(f, "w").0, 0);
    assert!(std::fs::read(f.join("cache/w.pth")).unwrap() == body);
}

#[test]
fn servers_without_ranges_and_whole_parts_are_no_hindrance() {
    let folder = tempfile::tempdir().unwrap();
    let (f, body) = (folder.path(), body());
    let server = serve(body.clone());
    list(f, &server.url, &digits(&body)[..8], body.len() as f64 / f64::from(1 << 20));
    std::fs::create_dir(f.join("cache")).unwrap();
    std::fs::write(f.join("cache/w.pth.part"), &body[..1000]).unwrap();
    *server.manner.lock().unwrap() = Manner::Plain;
    let (code, _, err) = get(f, "w");
    assert!(code == 0 && err.contains("SHA-256 begins"), "{err}");
    assert!(std::fs::read(f.join("cache/w.pth")).unwrap() == body);
    // All was there when it was last cut off.
    std::fs::rename(f.join("cache/w.pth"), f.join("cache/w.pth.part")).unwrap();
    *server.manner.lock().unwrap() = Manner::Good;
    assert_eq!(get(f, "w").0, 0);
    assert!(std::fs::read(f.join("cache/w.pth")).unwrap() == body);
}

#[test]
fn what_is_not_meant_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (f, body) = (folder.path(), body());
    let server = serve(body.clone());
    let fails = |name: &str, words: &str| {
        let (code, _, err) = get(f, name);
        let errors: Vec<&str> = err.lines().filter(|l| l.starts_with("error")).collect();
        assert!(code == 1 && errors.len() == 1 && errors[0].contains(words), "{err}");
        assert!(!f.join("cache/w.pth").exists());
    };
    list(f, &server.url, &digits(&body[1..]), 1.2);
    fails("w", "SHA-256 differs");
    assert!(!f.join("cache/w.pth.part").exists());
    list(f, &server.url, &digits(&body), 0.1);
    fails("w", "larger than the list says");
    *server.manner.lock().unwrap() = Manner::Busy;
    fails("w", "answers 503");
    fails("v", "no weights are called `v`");
    list(f, &server.url, "12", 1.0);
    fails("w", "no usable url");
    list(f, "http://127.0.0.1:1/x/w.pth", &digits(&body), 1.0);
    fails("w", "no answer");
}
