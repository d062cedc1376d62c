//! The contract between agents, aggregator and operators: generated messages and the conversion to domain types.
//!
//! Wire types stop at [`convert`]: everything behind it speaks `joulebook_units`.

pub mod codec;
pub mod config_file;
pub mod convert;
pub mod credentials;
pub mod metrics;

/// `joulebook.telemetry.v1`: delivery from agents.
pub mod telemetry {
    #![allow(
        missing_docs,
        unused_qualifications,
        clippy::all,
        reason = "generated; the contract carries the documentation"
    )]
    tonic::include_proto!("joulebook.telemetry.v1");
}

/// `joulebook.query.v1`: questions and answers.
pub mod query {
    #![allow(
        missing_docs,
        unused_qualifications,
        clippy::all,
        reason = "generated; the contract carries the documentation"
    )]
    tonic::include_proto!("joulebook.query.v1");
}

/// `joulebook.admin.v1`: care of a running aggregator.
pub mod admin {
    #![allow(
        missing_docs,
        unused_qualifications,
        clippy::all,
        reason = "generated; the contract carries the documentation"
    )]
    tonic::include_proto!("joulebook.admin.v1");
}

/// Serialized descriptors of the contract, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Version of the data model that this build speaks (`Hello.schema_version`).
pub const SCHEMA_VERSION: u32 = 1;
