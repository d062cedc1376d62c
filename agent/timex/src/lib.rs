//! How well this machine's wall clock is kept, by the kernel's own word (`adjtimex(2)`). It is read and never set: no privilege.

mod ffi;

pub use ffi::Kept;
