//! Memory for a program that lives for milliseconds.
//!
//! The C library's malloc keeps a heap in order over years: it joins free blocks, sorts them by size and
//! gives memory back. `runtime` makes ten thousand small blocks in three milliseconds and ends; a
//! fifth of its own time passed with that. Here a block comes from a list of free ones of its size, or
//! from the end of what is used, and a free one goes back to its list: a few instructions.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, UnsafeCell};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicPtr, Ordering};

/// Bytes of the arena, in the program's zeroed memory (.bss), of which the kernel gives a page when it is
/// touched. What does not fit comes from the C library.
const ARENA: usize = 2 << 20;

/// Sizes are rounded up to this, which is also the alignment of every block.
const STEP: usize = 16;

/// Up to here there is a list for each multiple of [`STEP`], then one for each power of two.
const SMALL: usize = 1 << 10;

/// The largest block that comes from the arena.
const LARGE: usize = 64 << 10;

const LISTS: usize = SMALL / STEP + (LARGE / SMALL).ilog2() as usize;

/// The allocator, for `#[global_allocator]`.
#[derive(Debug)]
pub struct Brief;

static ALLOC: Alloc = Alloc::new();

/// Before a fork(2): what is free now is not used again, and neither is what exists and is freed later. On
/// either side a page that both have is copied when it is written to; new ones are as good, and fewer.
pub fn leave_to_child() {
    ALLOC.leave();
}

/// The first thread that allocates has the arena for itself, and any other gets its memory from the C
/// library.
#[derive(Debug)]
struct Alloc {
    arena: UnsafeCell<Arena>,
    owner: AtomicPtr<u8>,
}

// SAFETY: only the owner looks at the arena.
unsafe impl Sync for Alloc {}

#[repr(C, align(4096))]
#[derive(Debug)]
struct Arena {
    memory: [u8; ARENA],
    /// What has been handed out ever: beyond it all is zero.
    used: usize,
    /// What lies before this is not used again.
    left: usize,
    /// The first free block of each list; the next one is written in it.
    free: [Option<NonNull<Free>>; LISTS],
}

#[derive(Debug)]
struct Free(Option<NonNull<Free>>);

thread_local! {
    /// Its address tells threads apart.
    static THREAD: Cell<u8> = const { Cell::new(0) };
}

impl Alloc {
    /// One whose memory is untouched.
    const fn new() -> Alloc {
        Alloc {
            arena: UnsafeCell::new(Arena {
                memory: [0; ARENA],
                used: 0,
                left: 0,
                free: [None; LISTS],
            }),
            owner: AtomicPtr::new(null_mut()),
        }
    }

    /// The arena, if this thread is its owner.
    fn arena(&self) -> Option<*mut Arena> {
        let me = THREAD.with(Cell::as_ptr);
        let owner = self.owner.load(Ordering::Relaxed);
        if owner == me {
            return Some(self.arena.get());
        }
        if !owner.is_null() {
            return None;
        }
        let (order, none) = (Ordering::Relaxed, null_mut());
        let is_first = self.owner.compare_exchange(none, me, order, order);
        is_first.is_ok().then(|| self.arena.get())
    }

    fn holds(&self, block: *mut u8) -> bool {
        (block as usize).wrapping_sub(self.arena.get() as usize) < ARENA
    }

    /// A block, and whether it is known to be zero; `None`: not from here.
    fn take(&self, layout: Layout) -> Option<(*mut u8, bool)> {
        let (list, size) = list_of(layout)?;
        let arena = self.arena()?;
        // SAFETY: this thread owns the arena, and nobody else holds a reference into its head. A block in a
        // list is nobody's, and as large as its list says.
        unsafe {
            let free = &mut (*arena).free[list];
            if let Some(block) = *free {
                *free = block.as_ref().0;
                return Some((block.as_ptr().cast(), false));
            }
            let used = (*arena).used;
            if size > ARENA - used {
                return None;
            }
            (*arena).used = used + size;
            Some((arena.cast::<u8>().add(used), true))
        }
    }
}

impl Alloc {
    /// Makes the block that was handed out last larger where it is: what grows step by step, as a text
    /// that is being written does, leaves no smaller ones behind.
    fn extend(&self, block: *mut u8, layout: Layout, wanted: Layout) -> bool {
        let (Some((_, size)), Some((_, larger))) = (list_of(layout), list_of(wanted)) else {
            return false;
        };
        let Some(arena) = self.arena() else {
            return false;
        };
        let start = block as usize - arena as usize;
        // SAFETY: this thread owns the arena.
        unsafe {
            let is_last = (*arena).used == start + size;
            if !is_last || larger < size || larger > ARENA - start {
                return false;
            }
            (*arena).used = start + larger;
        }
        true
    }

    fn leave(&self) {
        if let Some(arena) = self.arena() {
            // SAFETY: this thread owns the arena. What was in the lists is lost.
            unsafe {
                let next_page = (*arena).used.next_multiple_of(PAGE).min(ARENA);
                (*arena).left = next_page;
                (*arena).used = next_page;
                (*arena).free = [None; LISTS];
            }
        }
    }
}

const PAGE: usize = 4096;

/// Which list has blocks for it, and how large they are.
fn list_of(layout: Layout) -> Option<(usize, usize)> {
    let size = layout.size();
    if layout.align() > STEP || size > LARGE {
        return None;
    }
    if size <= SMALL {
        // Nobody asks for 0 bytes.
        let steps = size.div_ceil(STEP).max(1);
        return Some((steps - 1, steps * STEP));
    }
    let size = size.next_power_of_two();
    Some((SMALL / STEP + (size / SMALL).ilog2() as usize - 1, size))
}

// SAFETY: that of `Alloc`.
unsafe impl GlobalAlloc for Brief {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { ALLOC.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { ALLOC.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { ALLOC.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { ALLOC.realloc(block, layout, size) }
    }
}

// SAFETY: a block is the caller's alone until it is given back; it is as large and as aligned as asked;
// what is not from the arena is the C library's.
unsafe impl GlobalAlloc for Alloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.take(layout) {
            Some((block, _)) => block,
            // SAFETY: the caller's layout.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match self.take(layout) {
            Some((block, true)) => block,
            Some((block, false)) => {
                // SAFETY: the block is that large at least.
                unsafe { block.write_bytes(0, layout.size()) };
                block
            }
            // SAFETY: the caller's layout.
            None => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if !self.holds(block) {
            // SAFETY: then it came from there.
            return unsafe { System.dealloc(block, layout) };
        }
        // What another thread frees stays as it is.
        let (Some((list, _)), Some(arena)) = (list_of(layout), self.arena()) else {
            return;
        };
        // SAFETY: the block is nobody's any more, and has room and alignment for a pointer; this thread owns
        // the arena.
        unsafe {
            if (block as usize) - (arena as usize) < (*arena).left {
                return;
            }
            let first = block.cast::<Free>();
            first.write(Free((*arena).free[list]));
            (*arena).free[list] = NonNull::new(first);
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the size is none that overflows.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if !self.holds(block) {
            // SAFETY: then it came from there.
            return unsafe { System.realloc(block, layout, size) };
        }
        if list_of(wanted) == list_of(layout) || self.extend(block, layout, wanted) {
            return block;
        }
        // SAFETY: two blocks that are the caller's, each as large as is copied.
        unsafe {
            let new = self.alloc(wanted);
            if !new.is_null() {
                new.copy_from_nonoverlapping(block, size.min(layout.size()));
                self.dealloc(block, layout);
            }
            new
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    fn fresh() -> Box<Alloc> {
        // SAFETY: all zero is what `new` makes; it is too large for a test's stack.
        unsafe { Box::<Alloc>::new_zeroed().assume_init() }
    }

    #[test]
    fn every_size_has_a_list_of_blocks_that_are_large_enough() {
        let mut last = 0;
        for size in 1..=LARGE {
            let (list, block) = list_of(layout(size, 1)).unwrap();
            assert!(block >= size && block.is_multiple_of(STEP), "{size}");
            assert!(list < LISTS && (list == last || list == last + 1), "{size}");
            assert_eq!(list_of(layout(block, 1)), Some((list, block)), "{size}");
            last = list;
        }
        assert_eq!(last, LISTS - 1);
        assert!(list_of(layout(LARGE + 1, 1)).is_none());
        assert!(list_of(layout(1, 2 * STEP)).is_none());
    }

    #[test]
    fn blocks_are_their_owners_own_and_are_used_again() {
        let alloc = fresh();
        let (small, large) = (layout(24, 8), layout(5000, 8));
        // SAFETY: blocks of these layouts, of this allocator.
        unsafe {
            let (a, b) = (alloc.alloc(small), alloc.alloc(small));
            a.write_bytes(1, 24);
            b.write_bytes(2, 24);
            assert!((a as usize).abs_diff(b as usize) >= 24);
            assert_eq!(a.add(23).read(), 1);
            alloc.dealloc(a, small);
            let c = alloc.alloc_zeroed(layout(32, 16));
            assert_eq!((c, c.read(), c.add(23).read()), (a, 0, 0));
            let grown = alloc.realloc(a, small, 5000);
            assert!(grown != a && (grown.read(), grown.add(23).read()) == (0, 0));
            assert_eq!(alloc.realloc(grown, large, 8000), grown);
            assert_eq!(alloc.alloc(small), a);
            // The last one grows where it is, and is not larger than it may be.
            let more = alloc.realloc(grown, layout(8000, 8), 20_000);
            assert_eq!(more, grown);
            let next = alloc.alloc(small);
            assert!(next as usize >= more as usize + 20_000);
            assert_ne!(alloc.realloc(more, layout(20_000, 8), 40_000), more);
        }
    }

    #[test]
    fn what_is_left_to_a_child_is_not_used_again() {
        let alloc = fresh();
        let small = layout(24, 8);
        // SAFETY: blocks of this layout, of this allocator.
        unsafe {
            let (a, b) = (alloc.alloc(small), alloc.alloc(small));
            alloc.dealloc(a, small);
            alloc.leave();
            alloc.dealloc(b, small);
            let c = alloc.alloc(small);
            assert!(c as usize / PAGE > b as usize / PAGE);
            alloc.dealloc(c, small);
            assert_eq!(alloc.alloc(small), c);
        }
    }

    #[test]
    fn what_does_not_fit_comes_from_elsewhere() {
        let alloc = fresh();
        let large = layout(LARGE, 1);
        // SAFETY: blocks of these layouts, of this allocator.
        unsafe {
            for _ in 0..ARENA / LARGE {
                assert!(alloc.holds(alloc.alloc(large)));
            }
            let outside = alloc.alloc(large);
            assert!(!outside.is_null() && !alloc.holds(outside));
            alloc.dealloc(outside, large);
            let huge = layout(10 * LARGE, 4096);
            let outside = alloc.alloc(huge);
            assert!(!alloc.holds(outside) && (outside as usize).is_multiple_of(4096));
            alloc.dealloc(outside, huge);
        }
    }

    #[test]
    fn another_thread_does_not_touch_the_arena() {
        let alloc = fresh();
        let small = layout(24, 8);
        // SAFETY: blocks of this layout, of this allocator.
        let mine = unsafe { alloc.alloc(small) } as usize;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // SAFETY: as above; either block is given back once.
                unsafe {
                    let theirs = alloc.alloc(small);
                    assert!(!alloc.holds(theirs));
                    alloc.dealloc(theirs, small);
                    alloc.dealloc(mine as *mut u8, small);
                }
            });
        });
        // SAFETY: as above.
        let next = unsafe { alloc.alloc(small) } as usize;
        assert_ne!(next, mine);
    }
}
