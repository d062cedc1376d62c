//! A server without a metric page: from its own words to the answer per model version.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "functions that tests call may fail the test")]

use std::path::Path;

use joulebook_tests::engine::free_ports;
use joulebook_tests::installation::{AGENT_READY, AgentSettings, Installation};
use joulebook_tests::program::{Program, binary};
use joulebook_tests::timestamp::now;
use serde_json::json;

/// Works for 3 s of CPU time between two reports, and stays until it is ended.
const SERVER: &str = "
import sys, time
sys.path.insert(0, sys.argv[1])
from report_inference import Reporter
reporter = Reporter(sys.argv[2], model='scorer', version='2')
for requests in 2, 3:
    reporter.add(requests=requests, input_tokens=100 * requests, output_tokens=10 * requests)
    print('told', requests, reporter.send()['ok'], flush=True)
    until = time.process_time() + 3
    while time.process_time() < until:
        pass
print('done', flush=True)
time.sleep(3600)
";

#[test]
fn what_a_server_tells_is_counted_with_the_energy_of_its_process() {
    let (installation, _aggregator) = Installation::start().unwrap();
    let begin = now().unwrap();
    let socket = installation.folder().join("push.sock");
    let config = installation.agent_config(&AgentSettings::default()).unwrap();
    let text = std::fs::read_to_string(&config).unwrap() + &format!("\n[push]\nsocket = \"{}\"\n", socket.display());
    std::fs::write(&config, text).unwrap();
    let mut agent =
        Program::start(binary("joulebook-agent").unwrap(), &["--config".into(), config.into_os_string()]).unwrap();
    agent.wait_for(AGENT_READY).unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/examples");
    let arguments = ["-c".as_ref(), SERVER.as_ref(), examples.as_os_str(), socket.as_os_str()];
    let server = Program::start("python3", &arguments).unwrap();
    server.wait_for("told 3 True").unwrap();
    server.wait_for("done").unwrap();
    assert!(agent.stop().unwrap().success(), "{}", agent.said());
    assert!(!socket.exists(), "the socket goes with the agent");
    let end = now().unwrap();

    let window = ["--from", begin.as_str(), "--to", end.as_str()];
    let scores =
        installation.ask(&[&["sci", "--per", "request", "--model", "scorer@2"], &window[..]].concat()).unwrap();
    let answers = scores["answers"].as_array().unwrap();
    assert_eq!(answers.len(), 1, "{scores}");
    let answer = &answers[0];
    assert_eq!(answer["tokens"]["input"], 500, "{answer}");
    assert_eq!(answer["tokens"]["output"], 50, "{answer}");
    assert!(answer["sci"]["value"].as_f64().is_some_and(|value| value > 0.0), "{answer}");
    assert!(answer["carbon"]["total_g"].as_f64().is_some_and(|grams| grams > 0.0), "{answer}");
    let explained =
        installation.ask(&[&["explain", "--per", "request", "--model", "scorer@2"], &window[..]].concat()).unwrap();
    let accounts = explained["balances"][0]["accounts"].as_array().unwrap();
    let own = accounts.iter().find(|account| account["name"].as_str().is_some_and(|name| name.contains("scorer@2")));
    let dynamic = own.and_then(|own| own["parts"]["cpu_dynamic"].as_u64());
    assert!(dynamic.is_some_and(|microjoules| microjoules > 0), "its process worked: {explained}");
}

/// Has a page, tells the same requests at the socket, and their tokens there alone.
const BOTH: &str = "
import http.server, sys, threading, time
sys.path.insert(0, sys.argv[1])
from report_inference import Reporter
served = 0
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f'# TYPE served_total counter\\nserved_total {served}\\n'.encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
page = http.server.HTTPServer(('127.0.0.1', int(sys.argv[3])), Page)
threading.Thread(target=page.serve_forever, daemon=True).start()
reporter = Reporter(sys.argv[2], model='org/scorer', version=None)
for request in range(6):
    until = time.process_time() + 0.5
    while time.process_time() < until:
        pass
    served += 1
    reporter.add(requests=1, output_tokens=10)
    assert reporter.send()['ok']
print('done', flush=True)
time.sleep(3600)
";

#[test]
fn a_request_that_the_servers_page_counts_too_is_counted_once_and_what_the_page_lacks_is_told() {
    let (installation, _aggregator) = Installation::start().unwrap();
    let begin = now().unwrap();
    let socket = installation.folder().join("push.sock");
    let [port] = free_ports().unwrap();
    let more = format!(
        "[push]\nsocket = \"{}\"\n[[target]]\nurl = \"http://127.0.0.1:{port}/metrics\"\npreset = \"custom\"\n\
         model = \"scorer\"\nversion = \"2\"\ninterval = \"1s\"\n\
         mapping.values.requests_ok = {{ metric = \"served_total\", type = \"counter\" }}\n",
        socket.display()
    );
    let config = installation.agent_config(&AgentSettings { more, ..AgentSettings::default() }).unwrap();
    let mut agent =
        Program::start(binary("joulebook-agent").unwrap(), &["--config".into(), config.into_os_string()]).unwrap();
    agent.wait_for(AGENT_READY).unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/examples");
    let port = port.to_string();
    let arguments = ["-c".as_ref(), BOTH.as_ref(), examples.as_os_str(), socket.as_os_str(), port.as_ref()];
    let server = Program::start("python3", &arguments).unwrap();
    server.wait_for("done").unwrap();
    assert!(agent.stop().unwrap().success(), "{}", agent.said());
    let end = now().unwrap();

    let window = ["--from", begin.as_str(), "--to", end.as_str()];
    let scores = installation.ask(&[&["sci", "--per", "request"], &window[..]].concat()).unwrap();
    let answers = scores["answers"].as_array().unwrap();
    assert_eq!(answers.len(), 1, "one server, one version: {scores}");
    let answer = &answers[0];
    assert_eq!((&answer["r"]["value"], &answer["tokens"]["output"]), (&json!(6.0), &json!(60)), "{answer}");
    let explained =
        installation.ask(&[&["explain", "--per", "request", "--model", "scorer@2"], &window[..]].concat()).unwrap();
    let terms = explained["terms"].as_array().unwrap();
    let left_out = terms.iter().find(|term| term["name"].as_str().is_some_and(|name| name.starts_with("left out[")));
    let formula = left_out.and_then(|term| term["formula"].as_str()).unwrap_or_default();
    assert_eq!(formula, "counts of org/scorer by push: custom counts the same requests", "{explained}");
    assert_eq!(explained["balances"][0]["residual_microjoules"], 0, "{explained}");
}
