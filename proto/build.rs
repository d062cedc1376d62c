//! Compiles the contract with protox, so that no protoc has to be installed.

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["telemetry", "query", "admin"].map(|subject| format!("joulebook/{subject}/v1/{subject}.proto"));
    let descriptors = protox::compile(&files, ["."])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".joulebook.telemetry.v1.Record.payload")
        .btree_map(".")
        .codec_path("crate::codec::Lean")
        // Answers are printed as JSON exactly as they are named in the contract.
        .type_attribute(".joulebook.query.v1", "#[derive(serde::Serialize)]")
        .type_attribute(".joulebook.admin.v1", "#[derive(serde::Serialize)]")
        .compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=joulebook");
    Ok(())
}
