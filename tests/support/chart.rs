//! The Helm chart, rendered by Helm and looked at as objects and pods.

pub mod pod;
pub mod render;
