//! Values that cannot be meant are refused before anything is installed, with words that say where and why.

use joulebook_tests::chart::render::helm;

/// What Helm says of values that it refuses.
fn refusal(values: &[&str]) -> String {
    let arguments: Vec<&str> = values.iter().flat_map(|value| ["--set-json", value]).collect();
    let done = helm(&["template", "joulebook"], &arguments);
    assert!(!done.status.success(), "{values:?} is accepted");
    String::from_utf8(done.stderr).unwrap()
}

fn refused(values: &[&str], why: &str) {
    let said = refusal(values);
    assert!(said.contains(why), "{values:?}: {said}");
}

#[test]
fn a_key_that_does_not_exist_is_refused() {
    refused(&["agnet={}"], "at '': additional properties 'agnet' not allowed");
    refused(&["agent.gpu.enable=true"], "at '/agent/gpu': additional properties 'enable' not allowed");
}

#[test]
fn a_value_of_another_type_is_refused() {
    refused(&["agent.gpu.enabled=\"yes\""], "at '/agent/gpu/enabled': got string, want boolean");
    refused(&["tls.nodes=\"gpu-1\""], "at '/tls/nodes': got string, want array");
}

#[test]
fn a_choice_that_does_not_exist_is_refused_with_those_that_do() {
    refused(&["tls.source=\"acme\""], "at '/tls/source': value must be one of 'secrets', 'certManager', 'bootstrap'");
    refused(&["aggregator.service.type=\"ExternalName\""], "at '/aggregator/service/type': value must be one of");
}

#[test]
fn plaintext_or_a_second_aggregator_cannot_be_asked_for() {
    refused(&["aggregator.replicas=2"], "additional properties 'replicas' not allowed");
    refused(&["aggregator.insecureLoopback=true"], "additional properties 'insecureLoopback' not allowed");
}

#[test]
fn privileges_cannot_be_asked_for() {
    refused(&["agent.securityContext={\"privileged\":true}"], "additional properties 'securityContext' not allowed");
    refused(&["aggregator.runAsUser=0"], "at '/aggregator/runAsUser': minimum: got 0, want 1");
    refused(&["poller.runAsUser=0"], "at '/poller/runAsUser': minimum: got 0, want 1");
}

#[test]
fn a_path_that_is_none_is_refused() {
    refused(&["agent.spool.hostPath=\"var/lib\""], "at '/agent/spool/hostPath': 'var/lib' does not match pattern");
    refused(&["agent.spool.hostPath=\"/\""], "at '/agent/spool/hostPath'");
    refused(&["tls.agentHostPath=\"certs\""], "at '/tls/agentHostPath'");
}

#[test]
fn a_digest_that_is_none_is_refused() {
    refused(&["image.agent.digest=\"latest\""], "at '/image/agent/digest': 'latest' does not match pattern");
}

#[test]
fn a_size_without_a_unit_is_refused() {
    refused(&["aggregator.persistence.size=50"], "at '/aggregator/persistence/size': got number, want string");
    refused(&["aggregator.persistence.size=\"50\""], "at '/aggregator/persistence/size': '50' does not match pattern");
}

/// A poller of which nothing is missing.
const POLLER: [&str; 3] = ["poller.enabled=true", "poller.credentialsSecret=\"bmc\"", "poller.cidrs=[\"10.0.0.0/8\"]"];

#[test]
fn a_bmc_that_any_certificate_would_do_for_is_refused() {
    let with =
        |subject: &str| [&POLLER[..], &[subject]].concat().iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let check = |subject: &str, why: &str| {
        let values = with(subject);
        refused(&values.iter().map(String::as_str).collect::<Vec<_>>(), why);
    };
    let subject = "poller.subjects=[{\"node\":\"a\",\"url\":\"https://10.0.0.1\"}]";
    check(subject, "at '/poller/subjects/0': 'oneOf' failed, none matched");
    let plain = "poller.subjects=[{\"node\":\"a\",\"url\":\"http://10.0.0.1\",\"ca\":true}]";
    check(plain, "at '/poller/subjects/0/url': 'http://10.0.0.1' does not match pattern");
    let danger =
        "poller.subjects=[{\"node\":\"a\",\"url\":\"https://10.0.0.1\",\"danger_accept_any_certificate\":true}]";
    check(danger, "additional properties 'danger_accept_any_certificate' not allowed");
}

#[test]
fn a_poller_needs_subjects_accounts_and_networks() {
    refused(&["poller.enabled=true"], "poller.enabled: list the nodes that it speaks for in poller.subjects");
    let subject = "poller.subjects=[{\"node\":\"a\",\"url\":\"https://10.0.0.1\",\"ca\":true}]";
    refused(&["poller.enabled=true", subject], "name the secret with the BMCs' accounts in poller.credentialsSecret");
    refused(&[POLLER[0], POLLER[1], subject], "list the networks of the BMCs in poller.cidrs");
}

#[test]
fn certificates_that_nobody_could_make_are_refused() {
    refused(&["tls.source=\"certManager\""], "name the issuer in tls.certManager.issuer.name");
    let issuer = "tls.certManager.issuer.name=\"ca\"";
    refused(&["tls.source=\"certManager\"", issuer], "list the nodes that get certificates in tls.nodes");
    refused(&["tls.source=\"bootstrap\""], "name an image with kubectl in tls.bootstrap.kubectlImage");
    let image = "tls.bootstrap.kubectlImage=\"kubectl\"";
    let elsewhere = ["tls.source=\"bootstrap\"", image, "tls.nodes=[\"a\"]", "agent.namespace=\"b\""];
    refused(&elsewhere, "stores secrets in the release's namespace only");
    refused(&["tls.nodes=[\"Node_1\"]"], "at '/tls/nodes/0': 'Node_1' does not match pattern");
}

#[test]
fn two_that_say_what_runs_on_nodes_are_refused() {
    let both = ["aggregator.pods.enabled=true", "aggregator.nodeDirectory=\"[node.a]\""];
    refused(&both, "aggregator.pods.enabled and aggregator.nodeDirectory both say what runs on nodes");
    refused(&["aggregator.pods.watch=true"], "additional properties 'watch' not allowed");
}
