//! An allocator for tests: every allocation has pages of its own between two pages that nobody may touch, and lies
//! flush against the later one, or against the earlier one where the environment says `CONVOKE_GUARD=start`. Whoever
//! reads or writes beside a buffer, or after it was freed, is ended by a signal there and then.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The variable that says which page allocations lie against.
pub const SIDE: &std::ffi::CStr = c"CONVOKE_GUARD";

pub struct Guarded;

/// Bytes of a page.
fn page() -> usize {
    static PAGE: AtomicUsize = AtomicUsize::new(0);
    match PAGE.load(Relaxed) {
        0 => {
            // SAFETY: it only asks.
            let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
            PAGE.store(page, Relaxed);
            page
        }
        page => page,
    }
}

/// Whether allocations lie against the page before them.
fn at_start() -> bool {
    static SAID: AtomicUsize = AtomicUsize::new(0);
    match SAID.load(Relaxed) {
        0 => {
            // SAFETY: a string that ends; `std::env` would allocate. Nothing in these tests sets variables.
            let value = unsafe { libc::getenv(SIDE.as_ptr()) };
            // SAFETY: what is no null is a string that ends.
            let start = !value.is_null() && unsafe { *value } == b's' as libc::c_char;
            SAID.store(1 + usize::from(start), Relaxed);
            start
        }
        said => said == 2,
    }
}

/// Bytes of the pages that hold an allocation.
fn body(size: usize) -> Option<usize> {
    size.max(1).checked_next_multiple_of(page()).filter(|&b| b < isize::MAX as usize / 2)
}

// SAFETY: each allocation is a mapping of its own, at least as long and aligned as asked, until it is unmapped.
unsafe impl GlobalAlloc for Guarded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let page = page();
        if layout.align() > page {
            // SAFETY: the caller's layout.
            return unsafe { System.alloc(layout) };
        }
        let Some(body) = body(layout.size()) else { return null_mut() };
        let (flags, whole) = (libc::MAP_PRIVATE | libc::MAP_ANON, body + 2 * page);
        // SAFETY: a new mapping touches nothing that there is.
        let base = unsafe { libc::mmap(null_mut(), whole, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return null_mut();
        }
        let room = body - layout.size();
        let skip = if at_start() { 0 } else { room - room % layout.align() };
        // SAFETY: all within the new mapping.
        unsafe {
            let start = base.cast::<u8>().add(page);
            if libc::mprotect(start.cast(), body, libc::PROT_READ | libc::PROT_WRITE) != 0 {
                libc::munmap(base, whole);
                return null_mut();
            }
            start.add(skip)
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.align() > page() {
            // SAFETY: the caller's layout.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: the caller's layout; new pages are zero.
        unsafe { self.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        let page = page();
        if layout.align() > page {
            // SAFETY: it was given by `System`.
            return unsafe { System.dealloc(at, layout) };
        }
        let body = body(layout.size()).unwrap_or(0);
        // SAFETY: an allocation begins in the page after the first of its mapping.
        unsafe {
            let base = at.sub(at.addr() % page).sub(page);
            libc::munmap(base.cast(), body + 2 * page);
        }
    }
}
