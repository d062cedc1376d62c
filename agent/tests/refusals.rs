//! Starts that must be refused, with their exit codes, before anything is changed.

#![allow(clippy::expect_used, reason = "a test ends at what it did not expect")]

use joulebook_agent::clock::SystemClock;
use joulebook_agent::config::{Config, Overrides};
use joulebook_agent::exit;
use joulebook_agent::run::{RunError, run};
use std::fs;
use std::path::Path;
use std::sync::Arc;

fn config(root: &Path) -> Config {
    let overrides = Overrides {
        node: Some("n".to_owned()),
        insecure_loopback: true,
        spool_dir: Some(root.join("spool")),
        sysfs_root: Some(root.join("sys")),
        cgroup_root: Some(root.join("cgroup")),
        ..Overrides::default()
    };
    Config::load(None, overrides).expect("valid")
}

async fn refused(config: Config) -> RunError {
    run(config, Arc::new(SystemClock), std::future::ready(())).await.expect_err("refused")
}

#[tokio::test]
async fn a_spool_without_a_parent_folder_is_a_configuration_error() {
    let root = tempfile::tempdir().expect("folder");
    let mut config = config(root.path());
    config.spool.dir = root.path().join("missing/spool");
    let error = refused(config).await;
    assert_eq!(exit::code(&error), 78);
    assert!(!root.path().join("missing").exists());
}

#[tokio::test]
async fn plaintext_to_another_machine_is_a_configuration_error() {
    let root = tempfile::tempdir().expect("folder");
    let mut config = config(root.path());
    config.aggregator = Some("http://192.0.2.1:7443".to_owned());
    assert_eq!(exit::code(&refused(config).await), 78);
    assert!(!root.path().join("spool").exists());
}

#[tokio::test]
async fn a_target_that_cannot_be_used_is_a_configuration_error_and_nothing_is_written() {
    let root = tempfile::tempdir().expect("folder");
    let text = "[[target]]\nurl = \"http://127.0.0.1:0\"\npreset = \"llamacpp\"\n";
    let mut config = config(root.path());
    config.target = Config::parse(text, Path::new("agent.toml")).expect("TOML").target;
    assert_eq!(exit::code(&refused(config).await), 78);
    assert!(!root.path().join("spool").exists());
}

#[tokio::test]
async fn a_push_socket_that_cannot_be_made_is_a_configuration_error_and_nothing_is_written() {
    let root = tempfile::tempdir().expect("folder");
    fs::write(root.path().join("file"), "kept").expect("file");
    for socket in ["missing/push.sock", "file"] {
        let mut config = config(root.path());
        config.push.socket = Some(root.path().join(socket));
        assert_eq!(exit::code(&refused(config).await), 78, "{socket}");
        assert!(!root.path().join("spool").exists());
    }
    assert_eq!(fs::read_to_string(root.path().join("file")).expect("still there"), "kept");
}
