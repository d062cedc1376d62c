//! The operator's tool, as a library so that tests run it in-process.
