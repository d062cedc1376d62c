//! Answers → bytes.

pub(crate) mod csv;
pub(crate) mod json;
pub(crate) mod quantity;
pub(crate) mod simulated;
pub(crate) mod table;
