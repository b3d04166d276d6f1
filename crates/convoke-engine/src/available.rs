//! Memory that the machine can still give.

/// Bytes that a process may take now without others being pushed out or itself being ended; nothing where the system
/// does not tell. On Linux the smaller of what is free or reclaimable and what the control group leaves.
pub fn memory() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let meminfo = read("/proc/meminfo")?;
        let free = kibibytes(&meminfo, "MemAvailable:")?.saturating_mul(1024);
        let number = |path: &str| read(path)?.trim().parse::<u64>().ok();
        let left = number("/sys/fs/cgroup/memory.max")
            .zip(number("/sys/fs/cgroup/memory.current"))
            .map(|(most, now)| most.saturating_sub(now));
        Some(left.map_or(free, |left| left.min(free)))
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// A line of `/proc/meminfo`.
#[cfg(any(target_os = "linux", test))]
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(name))?.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_meminfo_are_read() {
        let text = "MemTotal:       24049228 kB\nMemAvailable:   23001000 kB\n";
        assert_eq!(kibibytes(text, "MemAvailable:"), Some(23_001_000));
        assert_eq!(kibibytes(text, "SwapFree:"), None);
        #[cfg(target_os = "linux")]
        assert!(memory().is_some_and(|m| m > 1 << 20));
    }
}
