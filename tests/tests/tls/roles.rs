//! What each may ask: an agent streams for its own node and asks nothing, an operator asks and streams nothing.

use super::PATIENCE;
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

/// The answer to the Hello of a node.
async fn say_hello(channel: Channel, node: &str, stream: u8) -> Result<Option<StreamResponse>, Status> {
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
