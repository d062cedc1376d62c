//! Dynamo with a simulated engine: requests are counted at its frontend alone, those that a client gave up with the tokens
//! they cost, and the worker's energy is the model's.

use joulebook_tests::engine::Usage;
use joulebook_tests::engine::dynamo::{Dynamo, MODEL, Ports};
use joulebook_tests::installation::{AgentSettings, Installation};
use joulebook_tests::timestamp::now;

/// Requests, of how many tokens, and requests that the client gives up, of how many at most.
const REQUESTS: u32 = 30;
const TOKENS: u32 = 200;
const ABORTED: u32 = 3;
const ABANDONED_TOKENS: u32 = 20_000;
/// The namespace in which frontend and worker find each other: nobody configures it for the agent.
const NAMESPACE: &str = "shop";

/// The same requests once more, as the worker counts them.
const WORKER: &str = r#"role = "decode"
[target.mapping]
static = { model = "simulated" }
values.requests_ok = { metric = "dynamo_component_requests_total", type = "counter", where.dynamo_endpoint = { in = ["generate"] } }
"#;

#[test]
fn tokens_of_dynamos_aborted_requests_are_kept_and_each_request_is_counted_once() {
    let (installation, _aggregator) = Installation::start().unwrap();
    let ports = Ports::find().unwrap();
    let begin = now().unwrap();
    let settings = AgentSettings {
        targets: vec![ports.frontend(), ports.worker()],
        keys: WORKER.to_owned(),
        ..AgentSettings::default()
    };
    let mut agent = installation.start_agent(&settings).unwrap();
    let server = Dynamo::start(installation.folder(), ports, NAMESPACE).unwrap();
    let mut client = Usage::default();
    for question in 0..REQUESTS {
        server.ask(&format!("w1 w2 w3 w{question}"), TOKENS, &mut client).unwrap();
    }
    assert_eq!((client.input, client.output), (u64::from(4 * REQUESTS), u64::from(TOKENS * REQUESTS)));
    assert_eq!(server.output_tokens().unwrap(), client.output);
    for question in 0..ABORTED {
        server.abandon(&format!("w7 w{question}"), ABANDONED_TOKENS).unwrap();
    }
    let lost = server.output_tokens().unwrap() - client.output;
    assert!(lost >= u64::from(ABORTED * ABANDONED_TOKENS / 100), "{lost} tokens for clients that went away");
    // A name that the client made up.
    assert_eq!(server.ask_other("no-such-model").unwrap(), 404);
    assert!(agent.stop().unwrap().success(), "{}", agent.said());
    let end = now().unwrap();

    let window = ["--from", begin.as_str(), "--to", &end];
    let scores = installation.ask(&[&["sci", "--per", "request"], &window[..]].concat()).unwrap();
    let answers = scores["answers"].as_array().unwrap();
    assert_eq!(answers.len(), 1, "neither the worker nor the made-up name is a service: {scores}");
    let answer = &answers[0];
    assert_eq!(answer["subject"]["model"], MODEL);
    let counted = [&answer["r"]["value"], &answer["r"]["failed"], &answer["r"]["aborted"]];
    let counted = counted.map(|count| count.as_f64().map(|count| count as u64));
    let expected = [Some(u64::from(REQUESTS)), Some(0), Some(u64::from(ABORTED))];
    assert_eq!(counted, expected, "successful, failed, aborted: {answer}");
    let tokens = |kind: &str| answer["tokens"][kind].as_u64();
    println!("{} tokens for answers, {lost} for clients that went away", client.output);
    assert_eq!(tokens("output"), Some(client.output + lost), "{answer}");
    assert_eq!(tokens("input"), Some(client.input + u64::from(2 * ABORTED)), "{answer}");
    // The worker does the work, and was found to belong to the frontend without being told.
    let by = answer["subject"]["apportioned_by"].as_array().unwrap();
    assert!(by.iter().any(|measure| measure == "group"), "{answer}");
}
