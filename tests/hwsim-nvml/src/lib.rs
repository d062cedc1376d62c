//! Fake `libnvidia-ml.so.1`: answers at call time from the simulator's state file.
//!
//! [`state`] is the file's layout and arithmetic (shared with the simulator), [`ffi`] the C interface, [`abi`] its structures.

pub mod abi;
pub mod ffi;
pub mod state;
