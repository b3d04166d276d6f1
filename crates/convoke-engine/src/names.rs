//! What a misspelt name most likely means.

/// The candidate nearest to a misspelt name: at most a third of its letters off; case, `-` and `_`
/// do not count.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |s: &str| s.to_lowercase().replace(['-', '_', ' '], "");
    let wanted = plain(name);
    candidates
        .into_iter()
        .map(|c| (distance(&wanted, &plain(c)), c))
        .min()
        .filter(|(d, c)| *d <= c.len().div_ceil(3))
        .map(|(_, c)| c)
}

/// `; did you mean …?` for the end of an error, or nothing.
pub fn hint<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, candidates).map_or(String::new(), |n| format!("; did you mean `{n}`?"))
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = (corner + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            (corner, row[j + 1]) = (row[j + 1], next);
        }
    }
    row[b.len()]
}
