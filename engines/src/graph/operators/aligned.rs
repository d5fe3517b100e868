//! Scratch memory on cache-line boundaries, kept by each thread from call to call.

/// Bytes of a cache line and of the widest vector register.
const LINE: usize = 64;

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; LINE]);

/// A growing buffer whose first element lies on a 64-byte boundary. Its content is unspecified after [`Scratch::get`].
#[derive(Default)]
pub struct Scratch {
    lines: Vec<Line>,
}

/// Numbers of which every bit pattern is a value, so that a buffer of bytes may be read as them.
///
/// # Safety
/// The type has no padding, no invalid bit pattern and an alignment of at most 64.
pub unsafe trait Plain: Copy {}
// SAFETY: plain numbers.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for i8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}

impl Scratch {
    /// A slice of `len` elements.
    pub fn get<T: Plain>(&mut self, len: usize) -> &mut [T] {
        let lines = (len * size_of::<T>()).div_ceil(LINE);
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0; LINE]));
        }
        // SAFETY: the lines are initialised, aligned to 64, hold at least `len` elements, and T is plain.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast::<T>(), len) }
    }
}
