//! `memory_budget`: the aggregator stays within it while nodes tell 61,000 series, and while it is asked about 30 days by many at
//! once; what would take more is refused, and says what to narrow.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "functions that tests call may fail the test, and print what they found"
)]

use std::path::Path;
use std::sync::Arc;

use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_aggregator::store::Book;
use joulebook_aggregator::store::rocks::RocksStore;
use joulebook_proto::admin::GetStatusRequest;
use joulebook_proto::admin::admin_service_client::AdminServiceClient;
use joulebook_proto::query::query_service_client::QueryServiceClient;
use joulebook_proto::query::{ExplainRequest, GetSciRequest, ModelSelector, TimeWindow};
use joulebook_tests::chaos::memory::Observer;
use joulebook_tests::chaos::server::Server;
use joulebook_tests::scripted::{Fleet, Script, grid};
use joulebook_units::Window;
use tokio::task::JoinSet;
use tonic::{Code, Status};

#[path = "memory/many.rs"]
mod many;

const DAYS: i64 = 30;
const MIB: u64 = 1 << 20;
/// The least that may be configured.
const FOR_QUESTIONS: u64 = 128 * MIB;
/// What 61,000 series and the questions about them may take.
const FOR_SERIES: u64 = 256 * MIB;
/// Questions at once.
const ASKED: usize = 16;

fn settings(budget: u64) -> String {
    format!("memory_budget = {budget}\n{}", grid::CONFIGURATION)
}

fn within(window: Window) -> Option<TimeWindow> {
    Some(TimeWindow { start_unix_nanos: window.start().0, end_unix_nanos: window.end().0 })
}

fn chat(window: Window) -> ExplainRequest {
    let selector = ModelSelector { model: Some("chat".into()), version: Some("2".into()), ..ModelSelector::default() };
    let question = GetSciRequest { window: within(window), selector: Some(selector), ..GetSciRequest::default() };
    ExplainRequest { question: Some(question) }
}

/// Asks all at once; how many were answered, and why the others were not.
async fn ask_many(endpoint: &str, window: Window) -> (usize, Vec<Status>) {
    let mut questions = JoinSet::new();
    for _ in 0..ASKED {
        // A connection carries eight calls at a time.
        let mut client = QueryServiceClient::connect(endpoint.to_owned()).await.unwrap();
        let question = GetSciRequest { window: within(window), ..GetSciRequest::default() };
        questions.spawn(async move { client.get_sci(question).await });
    }
    let (mut answered, mut refused) = (0, Vec::new());
    for outcome in questions.join_all().await {
        match outcome {
            Ok(answers) if answers.get_ref().answers.len() == 5 => answered += 1,
            Ok(answers) => panic!("{} answers, not one of each version", answers.get_ref().answers.len()),
            Err(status) => refused.push(status),
        }
    }
    (answered, refused)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn fill(data: &Path) -> Script {
    let script = Script::ending(SystemClock.wall(), DAYS, 24);
    let store = Arc::new(RocksStore::open(data).unwrap());
    drop(Fleet::write(Arc::clone(&store) as _, script));
    // As it lies after thirty days: what is over is packed.
    Book::open(store).unwrap().seal(script.window().end().plus_seconds(2 * 3_600), &|| false).unwrap();
    script
}

#[test]
fn questions_about_thirty_days_stay_within_the_budget_and_one_that_cannot_says_what_to_narrow() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let script = fill(&data);
    let mut server = Server::new(folder.path(), &data).with_settings(&settings(FOR_QUESTIONS));
    let (program, _) = server.start().unwrap();
    let observer = Observer::start(program.pid()).unwrap();
    let month = script.window();
    let day = Window::new(month.end().plus_seconds(-86_400), month.end()).unwrap();
    let (counts, refused) = runtime().block_on(async {
        let endpoint = server.endpoint();
        let mut client = QueryServiceClient::connect(endpoint.clone()).await.unwrap();
        client = client.max_decoding_message_size(256 << 20);
        let counts = [ask_many(&endpoint, month).await, ask_many(&endpoint, month).await];
        let refused = client.explain(chat(month)).await.err();
        // It answers what is less, and what it answered before.
        assert!(client.explain(chat(day)).await.unwrap().get_ref().terms.len() > 1_000);
        let again = GetSciRequest { window: within(month), ..GetSciRequest::default() };
        assert_eq!(client.get_sci(again).await.unwrap().get_ref().answers.len(), 5);
        (counts, refused)
    });
    let (most, _) = observer.most();
    println!("memory: at most {} of {} MiB; answered {counts:?}", most / MIB, FOR_QUESTIONS / MIB);
    let refused = refused.expect("every term of 30 days does not fit");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(
        refused.message().contains("narrow the window") && refused.message().contains("memory_budget"),
        "{refused}"
    );
    for (answered, refused) in counts {
        assert_eq!((answered, refused.len()), (ASKED, 0), "questions that stream wait for their turn: {refused:?}");
    }
    assert!(most <= FOR_QUESTIONS, "{} MiB", most / MIB);
}

#[test]
fn sixty_one_thousand_series_stay_within_the_budget() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::new(folder.path(), &folder.path().join("data")).with_settings(&settings(FOR_SERIES));
    let (program, _) = server.start().unwrap();
    let observer = Observer::start(program.pid()).unwrap();
    let status = runtime().block_on(async {
        many::tell(&server.endpoint()).await.unwrap();
        let mut admin = AdminServiceClient::connect(server.endpoint()).await.unwrap();
        admin = admin.max_decoding_message_size(64 << 20);
        admin.get_status(GetStatusRequest {}).await.unwrap().into_inner()
    });
    let (most, _) = observer.most();
    println!(
        "memory: at most {} of {} MiB for {} series of {} nodes",
        most / MIB,
        FOR_SERIES / MIB,
        many::NODES * many::SERIES,
        many::NODES
    );
    let stored = status.nodes.iter().filter(|node| node.streams.iter().any(|one| one.acked_sequence == many::RECORDS));
    assert_eq!(stored.count(), usize::try_from(many::NODES).unwrap());
    assert!(most <= FOR_SERIES, "{} MiB", most / MIB);
}
