//! A `libhlml.so` whose accelerators stand in a file that a test writes.

mod ffi;
