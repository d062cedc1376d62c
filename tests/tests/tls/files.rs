//! Files that cannot be used: refused at the start, and never taken over later.

use super::until;
use joulebook_aggregator::certificate::Issued;
use joulebook_aggregator::clock::{Clock, SystemClock};
use joulebook_aggregator::{dev_certs, exit, run};
use joulebook_proto::credentials::CredentialFiles;
use joulebook_tests::program::{Program, binary};
use joulebook_tests::tls::{Ca, Serving, agent, config, replace, server, status, write};
use joulebook_units::UnixNanos;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tonic::transport::Channel;

const DAY: Duration = Duration::from_secs(86_400);

fn now() -> UnixNanos {
    SystemClock.unix()
}

/// An aggregator must end with the code and name the file, and its database must not exist.
async fn refused(folder: &Path, files: &CredentialFiles, code: u8, words: &[&str]) {
    let data = folder.join("db");
    let run =
        run::run(config(data.clone(), files), Arc::new(SystemClock), oneshot::channel().0, std::future::pending());
    let error = run.await.expect_err("refused");
    let said = error.to_string();
    assert_eq!(exit::code(&error), code, "{said}");
    assert!(words.iter().all(|word| said.contains(word)), "{said} lacks one of {words:?}");
    assert!(!data.exists(), "nothing is written");
}

#[tokio::test]
async fn b63_a_key_that_others_may_read_is_refused_and_a_volumes_group_needs_the_option() {
    let (ca, folder) = (Ca::new(), tempfile::tempdir().unwrap());
    let folder = folder.path();
    let mut files = write(folder, "server", &ca.server(), ca.certificate());
    let chmod = |mode| fs::set_permissions(&files.key, fs::Permissions::from_mode(mode)).unwrap();
    for mode in [0o644, 0o604, 0o640, 0o620] {
        chmod(mode);
        refused(folder, &files, 77, &["server.key", "chmod 600"]).await;
    }
    files.key_group_readable = true;
    let chmod = |mode| fs::set_permissions(&files.key, fs::Permissions::from_mode(mode)).unwrap();
    chmod(0o644);
    assert!(files.read().is_err_and(|error| error.is_permission()), "the option is for the group");
    chmod(0o640);
    let mut config = config(folder.join("db"), &files);
    config.tls.key_group_readable = true;
    let serving = Serving::start(config).await;
    assert!(serving.admits(&ca.operator(), ca.certificate()).await);
    serving.stop().await;
}

#[tokio::test]
async fn b87_an_aggregator_whose_certificate_has_ended_or_not_begun_is_refused() {
    let (ca, folder) = (Ca::new(), tempfile::tempdir().unwrap());
    let folder = folder.path();
    for (begins, life, word) in [(-86_400, DAY / 2, "ended at"), (3_600, DAY, "begins at")] {
        let pair = ca.issue_at(&server(), now().plus_seconds(begins), life);
        let files = write(folder, "server", &pair, ca.certificate());
        refused(folder, &files, 78, &["server.crt", word]).await;
    }
    let files = write(folder, "server", &ca.server(), ca.certificate());
    let serving = Serving::start(config(folder.join("db"), &files)).await;
    let channel = serving.connect(&ca.operator(), ca.certificate()).await.unwrap();
    let left = async || status(channel.clone()).await.unwrap().0.get("cert_expiry_seconds").copied();
    until("the rest of its life is told", async || left().await.is_some()).await;
    let left = left().await.unwrap();
    assert!((86_400 - 600..=86_400).contains(&left), "{left} s are left of one day");
    serving.stop().await;
}

/// Starts an agent of a machine without sensors.
fn start_agent(folder: &Path, url: &str, files: &CredentialFiles) -> Program {
    let text = format!(
        "node = \"n\"\naggregator = \"{url}\"\n\n[tls]\ncertificate = \"{}\"\nkey = \"{}\"\nca = \"{}\"\n\n\
         [spool]\ndir = \"{}\"\nmin_free_bytes = 0\n\n[sampling]\ntick = \"100ms\"\nbatch_rows = 2\n\n\
         [roots]\nsysfs = \"{}\"\n",
        files.certificate.display(),
        files.key.display(),
        files.ca.display(),
        folder.join("spool").display(),
        folder.join("sys").display(),
    );
    let config = folder.join("agent.toml");
    fs::write(&config, text).unwrap();
    Program::start(binary("joulebook-agent").unwrap(), &["--config".as_ref(), config.as_os_str()]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn b87_an_agent_whose_certificate_has_ended_spools_says_so_and_delivers_once_it_is_renewed() {
    let (ca, folder) = (Ca::new(), tempfile::tempdir().unwrap());
    let folder = folder.path();
    let files = write(folder, "server", &ca.server(), ca.certificate());
    let serving = Serving::start(config(folder.join("db"), &files)).await;
    let ended = ca.issue_at(&agent("n"), now().plus_seconds(-86_400), DAY / 2);
    let files = write(folder, "node", &ended, ca.certificate());
    let mut agent = start_agent(folder, &serving.url(), &files);
    let line = tokio::task::block_in_place(|| agent.wait_for("(.*certificate has ended.*)")).unwrap();
    assert!(line.contains("node.crt") && line.contains("renew it"), "{line}");
    let records = || joulebook_agent::spool::read_all(&folder.join("spool")).unwrap_or_default().len();
    until("it spools", async || records() > 3).await;
    let channel = serving.connect(&ca.operator(), ca.certificate()).await.unwrap();
    assert_eq!(status(channel.clone()).await.unwrap().1, Vec::<String>::new(), "nothing was let in");
    let pair = ca.agent("n");
    // The key first: a look between the two finds a pair that does not match, and comes again.
    replace(&files.key, &pair.key);
    replace(&files.certificate, &pair.certificate);
    tokio::task::block_in_place(|| agent.wait_for("session open")).unwrap();
    let stopped = tokio::task::block_in_place(|| agent.stop()).unwrap();
    assert!(stopped.success() && !agent.said().contains("unacknowledged"), "{}", agent.said());
    assert_eq!(status(channel).await.unwrap().1, ["n"]);
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_with_files_that_cannot_be_used_does_not_start() {
    let (ca, folder) = (Ca::new(), tempfile::tempdir().unwrap());
    let folder = folder.path();
    let files = write(folder, "node", &ca.agent("n"), ca.certificate());
    let ends_with = |code: i32, word: &str| {
        let mut agent = start_agent(folder, "https://127.0.0.1:9", &files);
        assert_eq!(agent.wait().unwrap().code(), Some(code), "{}", agent.said());
        assert!(agent.said().contains(word), "{}", agent.said());
        assert!(!folder.join("spool").exists(), "nothing is written");
    };
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o644)).unwrap();
    ends_with(77, "chmod 600");
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&files.ca, "").unwrap();
    ends_with(78, "node.ca");
    fs::remove_file(&files.ca).unwrap();
    ends_with(78, "node.ca");
}

/// An aggregator whose reloads are counted.
struct Watched {
    serving: Serving,
    ca: Ca,
    files: CredentialFiles,
    folder: tempfile::TempDir,
    /// Open since before every change.
    channel: Channel,
}

impl Watched {
    async fn start() -> Self {
        let (ca, folder) = (Ca::new(), tempfile::tempdir().unwrap());
        let files = write(folder.path(), "server", &ca.server(), ca.certificate());
        let serving = Serving::start(config(folder.path().join("db"), &files)).await;
        let channel = serving.connect(&ca.operator(), ca.certificate()).await.unwrap();
        Self { serving, ca, files, folder, channel }
    }

    /// Changes refused, changes taken over.
    async fn counts(&self) -> (u64, u64) {
        let (counters, _) = status(self.channel.clone()).await.expect("whoever is in stays in");
        let count = |name: &str| counters.get(name).copied().unwrap_or_default();
        (count("tls_reload_failures_total"), count("tls_reloads_total"))
    }

    async fn reach(&self, counts: (u64, u64)) {
        until(&format!("{counts:?} reloads refused and done"), async || self.counts().await >= counts).await;
        assert_eq!(self.counts().await, counts);
        assert!(self.serving.admits(&self.ca.agent("n"), self.ca.certificate()).await, "new connections are made");
    }
}

#[tokio::test]
async fn b88_a_key_that_does_not_match_or_half_a_file_leaves_the_old_pair_until_the_next_change() {
    let watched = Watched::start().await;
    let Watched { ca, files, folder, .. } = &watched;
    assert_eq!(watched.counts().await, (0, 0));
    let Issued { certificate, key } = ca.server();
    replace(&files.key, &key);
    watched.reach((1, 0)).await;
    replace(&files.certificate, &certificate[..certificate.len() / 2]);
    watched.reach((2, 0)).await;
    replace(&files.certificate, "");
    watched.reach((3, 0)).await;
    fs::remove_file(&files.certificate).unwrap();
    watched.reach((4, 0)).await;
    // What is complete at last is taken over.
    replace(&files.certificate, &certificate);
    watched.reach((4, 1)).await;
    let ended = ca.issue_at(&server(), now().plus_seconds(-86_400), DAY / 2);
    replace(&files.key, &ended.key);
    watched.reach((5, 1)).await;
    replace(&files.certificate, &ended.certificate);
    watched.reach((6, 1)).await;
    // The same at a start is refused.
    let folder = folder.path().join("start");
    fs::create_dir(&folder).unwrap();
    let mixed = Issued { certificate, key: ca.server().key };
    refused(&folder, &write(&folder, "server", &mixed, ca.certificate()), 78, &["server.crt", "key"]).await;
    let half = Issued { key: key[..key.len() / 2].to_owned(), ..ca.server() };
    refused(&folder, &write(&folder, "server", &half, ca.certificate()), 78, &["server.key", "half written"]).await;
    watched.serving.stop().await;
}

#[tokio::test]
async fn b90_an_empty_or_broken_bundle_is_refused_at_the_start_and_changes_nothing_later() {
    let watched = Watched::start().await;
    let Watched { ca, files, folder, .. } = &watched;
    let broken = ca.certificate().replace("MII", "AAA");
    let start = folder.path().join("start");
    fs::create_dir(&start).unwrap();
    let bundles = ["", "-----BEGIN CERTIFICATE-----\nMIIB", "no certificate\n", &broken];
    for (refusals, bundle) in (1..).zip(bundles) {
        replace(&files.ca, bundle);
        watched.reach((refusals, 0)).await;
        refused(&start, &write(&start, "server", &ca.server(), bundle), 78, &["server.ca"]).await;
    }
    let both = format!("{}{broken}", ca.certificate());
    replace(&files.ca, &both);
    watched.reach((5, 0)).await;
    let next = Ca::new();
    replace(&files.ca, &format!("{}{}", ca.certificate(), next.certificate()));
    watched.reach((5, 1)).await;
    assert!(watched.serving.admits(&next.operator(), ca.certificate()).await);
    watched.serving.stop().await;
}

#[tokio::test]
async fn certificates_for_one_machine_are_made_once_and_work() {
    let folder = tempfile::tempdir().unwrap();
    let certs = folder.path().join("certs");
    let nodes = ["a".parse().unwrap(), "b".parse().unwrap()];
    let written = dev_certs::write(&certs, &nodes, &[], now()).unwrap();
    assert_eq!(written.len(), 9);
    for path in &written {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
    }
    let again = dev_certs::write(&certs, &nodes, &[], now()).expect_err("nothing is overwritten");
    assert_eq!(exit::dev_certs_code(&again), 64);
    let text = |name: &str| fs::read_to_string(certs.join(name)).unwrap();
    let pair = |name: &str| Issued { certificate: text(&format!("{name}.crt")), key: text(&format!("{name}.key")) };
    let files = CredentialFiles {
        certificate: certs.join("server.crt"),
        key: certs.join("server.key"),
        ca: certs.join("ca.crt"),
        key_group_readable: false,
    };
    let serving = Serving::start(config(folder.path().join("db"), &files)).await;
    for name in ["operator", "node-a", "node-b"] {
        assert!(serving.admits(&pair(name), &text("ca.crt")).await, "{name}");
    }
    assert!(!serving.admits(&pair("server"), &text("ca.crt")).await, "a server's certificate is no client's");
    serving.stop().await;
}
