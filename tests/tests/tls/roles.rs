//! What each may ask: an agent streams for its own node and asks nothing, a poller for the nodes on its list, an operator asks
//! and streams nothing.

use super::PATIENCE;
use joulebook_aggregator::certificate::Subject;
use joulebook_aggregator::config::Config;
use joulebook_aggregator::dev_certs::poller_uri;
use joulebook_aggregator::poller::PollerSection;
use joulebook_proto::SCHEMA_VERSION;
use joulebook_proto::convert::inventory_to_hello;
use joulebook_proto::query::GetSciRequest;
use joulebook_proto::query::query_service_client::QueryServiceClient;
use joulebook_proto::telemetry::stream_request::Message as Up;
use joulebook_proto::telemetry::stream_response::Message as Down;
use joulebook_proto::telemetry::telemetry_service_client::TelemetryServiceClient;
use joulebook_proto::telemetry::{Hello, OpenStream, StreamRequest, StreamResponse};
use joulebook_tests::tls::{Ca, Serving, config, status, write};
use joulebook_units::{Hardware, Inventory, Placement};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// The answer to the Hello of a node's agent.
async fn say_hello(channel: Channel, node: &str, stream: u8) -> Result<Option<StreamResponse>, Status> {
    say_hello_of(channel, node, None, stream).await
}

/// The same where a poller is said to speak.
async fn say_hello_of(
    channel: Channel,
    node: &str,
    poller: Option<&str>,
    stream: u8,
) -> Result<Option<StreamResponse>, Status> {
    let inventory = Inventory {
        node: node.parse().unwrap(),
        agent_version: "0".to_owned(),
        sources: Vec::new(),
        hardware: Hardware::default(),
        placement: Placement::default(),
    };
    let hello = Hello {
        streams: vec![OpenStream { stream_id: vec![stream; 16], highest_sequence: 0, acked_sequence: 0 }],
        session_epoch: 1,
        boot_id: vec![6; 16],
        boot_time_nanos: 1,
        wall_time_unix_nanos: 1,
        schema_version: SCHEMA_VERSION,
        poller: poller.map(str::to_owned),
        ..inventory_to_hello(&inventory)
    };
    let (requests, received) = tokio::sync::mpsc::channel(1);
    requests.send(StreamRequest { message: Some(Up::Hello(hello)) }).await.unwrap();
    let mut client = TelemetryServiceClient::new(channel);
    let answered = async { client.stream(ReceiverStream::new(received)).await?.into_inner().message().await };
    tokio::time::timeout(PATIENCE, answered).await.expect("an answer")
}

#[tokio::test]
async fn b51_an_agent_speaks_for_the_node_of_its_certificate_only() {
    let (ca, folder) = (Ca::new(), tempfile::tempdir().unwrap());
    let files = write(folder.path(), "server", &ca.server(), ca.certificate());
    let serving = Serving::start(config(folder.path().join("db"), &files)).await;
    let agent = serving.connect(&ca.agent("node-1"), ca.certificate()).await.unwrap();
    let refused = say_hello(agent.clone(), "node-2", 1).await.expect_err("not its node");
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("node-1") && refused.message().contains("node-2"), "{refused}");
    // Names of nodes are compared as they are written.
    assert_eq!(say_hello(agent.clone(), "NODE-1", 1).await.expect_err("not its node").code(), Code::PermissionDenied);
    let answer = say_hello(agent, "node-1", 2).await.expect("its own node").expect("a reply");
    assert!(matches!(answer.message, Some(Down::HelloReply(_))), "{answer:?}");
    let operator = serving.connect(&ca.operator(), ca.certificate()).await.unwrap();
    assert_eq!(status(operator).await.unwrap().1, ["node-1"], "nothing of the refused is stored");
    serving.stop().await;
}

#[tokio::test]
async fn b51_a_poller_speaks_for_the_nodes_on_its_list_only_and_nobody_in_its_name() {
    let (ca, folder) = (Ca::new(), tempfile::tempdir().unwrap());
    let files = write(folder.path(), "server", &ca.server(), ca.certificate());
    let list = |name: &str, nodes: &[&str]| PollerSection {
        name: name.to_owned(),
        nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
    };
    let poller = vec![list("east", &["a", "b"]), list("west", &["c"])];
    let serving = Serving::start(Config { poller, ..config(folder.path().join("db"), &files) }).await;
    let pair = ca.issue(&Subject::client("east", poller_uri(&"east".parse().unwrap())));
    let east = serving.connect(&pair, ca.certificate()).await.unwrap();
    let agent = serving.connect(&ca.agent("a"), ca.certificate()).await.unwrap();
    for (who, channel, node, said) in [
        ("another poller's node", &east, "c", Some("east")),
        ("a node of nobody", &east, "d", Some("east")),
        ("in another poller's name", &east, "c", Some("west")),
        ("as the node's agent", &east, "a", None),
        ("an agent as a poller", &agent, "a", Some("east")),
    ] {
        let refused = say_hello_of(channel.clone(), node, said, 1).await.expect_err(who);
        assert_eq!(refused.code(), Code::PermissionDenied, "{who}: {refused}");
    }
    let odd = say_hello_of(east.clone(), "a", Some("e/ast"), 1).await.expect_err("no name");
    assert_eq!(odd.code(), Code::InvalidArgument);
    for (stream, node) in [(2, "a"), (3, "b")] {
        let answer = say_hello_of(east.clone(), node, Some("east"), stream).await.expect("on its list");
        assert!(matches!(answer.and_then(|answer| answer.message), Some(Down::HelloReply(_))));
    }
    let foreign = say_hello(agent.clone(), "a", 2).await.expect_err("the poller's stream");
    assert_eq!(foreign.code(), Code::PermissionDenied, "{foreign}");
    assert!(say_hello(agent, "a", 4).await.is_ok(), "beside the poller");
    assert_eq!(status(east).await.expect_err("no operator").code(), Code::PermissionDenied);
    let operator = serving.connect(&ca.operator(), ca.certificate()).await.unwrap();
    let (counters, nodes) = status(operator).await.unwrap();
    assert_eq!((nodes, counters.get("speakers_refused_total")), (vec!["a".to_owned(), "b".to_owned()], Some(&5)));
    serving.stop().await;
}

#[tokio::test]
async fn a_poller_may_have_a_connection_for_each_of_its_nodes_beyond_those_of_anybody() {
    let (ca, folder) = (Ca::new(), tempfile::tempdir().unwrap());
    let files = write(folder.path(), "server", &ca.server(), ca.certificate());
    let nodes = (0..6).map(|node| format!("n{node}")).collect();
    let poller = vec![PollerSection { name: "east".to_owned(), nodes }];
    let mut config = Config { poller, ..config(folder.path().join("db"), &files) };
    config.connections.per_identity = 1;
    let serving = Serving::start(config).await;
    let pair = ca.issue(&Subject::client("east", poller_uri(&"east".parse().unwrap())));
    let mut open = Vec::new();
    for node in 0..6 {
        let channel = serving.connect(&pair, ca.certificate()).await.unwrap();
        let name = format!("n{node}");
        assert!(say_hello_of(channel.clone(), &name, Some("east"), node).await.is_ok(), "connection {node}");
        open.push(channel);
    }
    serving.stop().await;
}

#[tokio::test]
async fn an_agent_may_not_ask_and_an_operator_may_not_stream() {
    let (ca, folder) = (Ca::new(), tempfile::tempdir().unwrap());
    let files = write(folder.path(), "server", &ca.server(), ca.certificate());
    let serving = Serving::start(config(folder.path().join("db"), &files)).await;
    let agent = serving.connect(&ca.agent("n"), ca.certificate()).await.unwrap();
    assert_eq!(status(agent.clone()).await.expect_err("no operator").code(), Code::PermissionDenied);
    let asked = QueryServiceClient::new(agent).get_sci(GetSciRequest::default()).await;
    assert_eq!(asked.expect_err("no operator").code(), Code::PermissionDenied);
    let operator = serving.connect(&ca.operator(), ca.certificate()).await.unwrap();
    assert_eq!(say_hello(operator.clone(), "n", 1).await.expect_err("no agent").code(), Code::PermissionDenied);
    // The question is malformed, and that is what an operator hears.
    let asked = QueryServiceClient::new(operator.clone()).get_sci(GetSciRequest::default()).await;
    assert_eq!(asked.expect_err("no window").code(), Code::InvalidArgument);
    assert_eq!(status(operator).await.unwrap().1, Vec::<String>::new());
    serving.stop().await;
}
