//! Limits of the transport (B52, B58): who breaks one is told, and hung up on where that is what stops it.

use super::PATIENCE;
use joulebook_aggregator::config::Config;
use joulebook_proto::convert::encode_batch;
use joulebook_proto::telemetry::Record;
use joulebook_proto::telemetry::stream_request::Message as Up;
use joulebook_proto::telemetry::stream_response::Message as Down;
use joulebook_tests::chaos::client::Client;
use joulebook_tests::chaos::plan::Plan;
use joulebook_tests::raw::{
    CONTINUATION, DATA, END_STREAM, Frame, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, STREAM, WINDOW_UPDATE,
    call, call_to_be_continued, field, frame, hear, hear_all, prefix, shake_hands,
};
use joulebook_tests::tls::{Ca, Serving, config, status, write};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::version;

/// Errors of HTTP/2 (RFC 9113, section 7).
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;
/// gRPC status 11, of what is out of range, as it is compressed (RFC 7541): its length, and twice the code of '1'.
const OUT_OF_RANGE: [u8; 3] = [0x82, 0x08, 0x7f];

/// Sooner than the server gives up a session that says nothing, or a connection without one.
const WITHIN: Duration = Duration::from_secs(9);

struct Rig {
    ca: Ca,
    serving: Serving,
    _folder: TempDir,
}

type Reading = ReadHalf<TlsStream<TcpStream>>;
type Writing = WriteHalf<TlsStream<TcpStream>>;

impl Rig {
    async fn new(change: impl FnOnce(&mut Config)) -> Self {
        let (ca, folder) = (Ca::new(), tempfile::tempdir().unwrap());
        let files = write(folder.path(), "server", &ca.server(), ca.certificate());
        let mut config = config(folder.path().join("db"), &files);
        change(&mut config);
        Self { ca, serving: Serving::start(config).await, _folder: folder }
    }

    /// A connection of an agent that has said its preface.
    async fn open(&self, node: &str) -> (Reading, Writing) {
        let pair = self.ca.agent(node);
        let stream = shake_hands(self.serving.address, self.ca.certificate(), Some(&pair), &version::TLS13).await;
        let (reading, mut writing) = split(stream.unwrap());
        writing.write_all(PREFACE).await.unwrap();
        (reading, writing)
    }

    /// What is heard until the end of a connection on which these bytes are sent.
    async fn answer(&self, bytes: &[u8]) -> Vec<Frame> {
        let (mut reading, mut writing) = self.open("n").await;
        let saying = async {
            // The server may hang up before all of it is said.
            let _ = writing.write_all(bytes).await;
            writing
        };
        let (heard, _open) =
            timeout(WITHIN, async { tokio::join!(hear_all(&mut reading), saying) }).await.expect("an end");
        heard
    }
}

fn went_away(heard: &[Frame]) -> Option<u32> {
    heard.iter().rev().find(|frame| frame.kind == GOAWAY).and_then(Frame::error)
}

#[tokio::test]
async fn b52_a_message_that_is_announced_as_too_large_is_refused_before_it_comes() {
    let rig = Rig::new(|_| {}).await;
    for length in [(1 << 20) + 1, 64 << 20, u32::MAX] {
        let (mut reading, mut writing) = rig.open("n").await;
        let said = [call(1, STREAM, &[]), frame(DATA, 0, 1, &prefix(length))].concat();
        writing.write_all(&said).await.unwrap();
        // Nothing more is ever sent: whoever waited for the rest would wait for ever.
        let refused = async {
            loop {
                let frame = hear(&mut reading).await.expect("the connection is kept");
                if frame.kind == HEADERS && frame.payload.windows(3).any(|part| part == OUT_OF_RANGE) {
                    return;
                }
            }
        };
        timeout(WITHIN, refused).await.expect("an answer at once");
    }
    rig.serving.stop().await;
}

#[tokio::test]
async fn a_ninth_call_at_once_is_refused_and_the_eight_are_not() {
    let rig = Rig::new(|_| {}).await;
    let (mut reading, mut writing) = rig.open("n").await;
    for number in 0..9 {
        writing.write_all(&call(1 + 2 * number, STREAM, &[])).await.unwrap();
    }
    let refused = async {
        loop {
            let frame = hear(&mut reading).await.expect("the connection is kept");
            if frame.kind == RST_STREAM {
                return (frame.stream, frame.error());
            }
        }
    };
    assert_eq!(timeout(PATIENCE, refused).await.expect("an answer"), (17, Some(REFUSED_STREAM)));
    rig.serving.stop().await;
}

#[tokio::test]
async fn a_connection_without_a_call_ends_with_goaway_and_one_with_a_call_stays() {
    let idle = Duration::from_millis(300);
    let rig = Rig::new(|config| config.connections.idle = idle).await;
    let (mut busy, mut writing) = rig.open("busy").await;
    writing.write_all(&call(1, STREAM, &[])).await.unwrap();
    // One after another: the busy one has outlasted several times the limit when they are done.
    for _ in 0..4 {
        let (mut reading, _writing) = rig.open("idle").await;
        let heard = timeout(PATIENCE, hear_all(&mut reading)).await.expect("an end");
        assert!(went_away(&heard).is_some(), "{heard:?}");
    }
    writing.write_all(&frame(PING, 0, 0, &[7; 8])).await.unwrap();
    let answered = async {
        while let Some(heard) = hear(&mut busy).await {
            if heard.kind == PING && heard.payload == [7; 8] {
                return true;
            }
        }
        false
    };
    assert!(timeout(PATIENCE, answered).await.expect("an answer"), "it is still served");
    rig.serving.stop().await;
}

#[tokio::test]
async fn a_connection_that_is_too_old_is_told_to_go_and_its_session_to_come_again() {
    let rig = Rig::new(|config| config.connections.age = Duration::from_millis(600)).await;
    let (mut reading, mut writing) = rig.open("n").await;
    writing.write_all(&call(1, STREAM, &[])).await.unwrap();
    let heard = timeout(Duration::from_secs(30), hear_all(&mut reading)).await.expect("an end");
    assert!(went_away(&heard).is_some(), "{heard:?}");
    rig.serving.stop().await;
}

#[tokio::test]
async fn a_session_whose_connection_is_too_old_is_finished_and_told_to_come_again() {
    let age = Duration::from_millis(1_500);
    let rig = Rig::new(|config| config.connections.age = age).await;
    let client = Client { plan: Plan::new(1), node: Plan::node(1), number: 1, epoch: 1 };
    let mut values = [0, 0];
    for first in [1, 11] {
        let channel = rig.serving.connect(&rig.ca.agent(&client.node), rig.ca.certificate()).await.unwrap();
        let mut session = client.open(channel, first - 1).await.unwrap();
        assert_eq!(session.mark, first - 1);
        for sequence in first..first + 10 {
            let payload = encode_batch(&client.plan.batch(1, 1, sequence, &mut values)).unwrap();
            let (stream_id, payload_hash) = (client.plan.boot_id(1).0.to_vec(), payload.hash.to_vec());
            let record = Record { stream_id, sequence, payload_hash, payload: payload.bytes.to_vec().into() };
            session.say(Up::Record(record)).await.unwrap();
        }
        let mut acked = 0;
        let end = async {
            loop {
                match session.hear().await {
                    Ok(Down::Ack(ack)) => acked = ack.acked_sequence,
                    Ok(_) => {}
                    Err(end) => return end,
                }
            }
        };
        let end = timeout(PATIENCE, end).await.expect("an end").to_string();
        assert!(end.contains("the connection's time is over; connect again"), "{end}");
        assert_eq!(acked, first + 9, "what was under way is acknowledged before");
    }
    rig.serving.stop().await;
}

#[tokio::test]
async fn b58_floods_end_with_goaway_and_cost_others_nothing() {
    let rig = Rig::new(|_| {}).await;
    let honest = rig.serving.connect(&rig.ca.operator(), rig.ca.certificate()).await.unwrap();
    status(honest.clone()).await.unwrap();
    let each = |make: &dyn Fn(u32) -> Vec<u8>| (0..10_000).flat_map(|number| make(1 + 2 * number)).collect::<Vec<u8>>();
    let begun = call(1, STREAM, &[]);
    let headers: Vec<u8> = (0..100).flat_map(|n| field(&format!("x-{n}"), &"y".repeat(100))).collect();
    let floods = [
        ("10,000 streams", each(&|stream| call(stream, STREAM, &[]))),
        ("resets", each(&|stream| [call(stream, STREAM, &[]), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat())),
        ("pings", each(&|_| frame(PING, 0, 0, &[0; 8]))),
        ("settings", each(&|_| frame(SETTINGS, 0, 0, &[]))),
        ("windows", each(&|_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]))),
        ("data of one byte", [begun.clone(), each(&|_| frame(DATA, 0, 1, &[0]))].concat()),
        ("data of none", [begun, each(&|_| frame(DATA, 0, 1, &[]))].concat()),
        (
            "headers without end",
            [call_to_be_continued(1, STREAM, &[]), frame(CONTINUATION, 0, 1, &headers).repeat(1_000)].concat(),
        ),
    ];
    for (what, flood) in floods {
        let heard = rig.answer(&flood).await;
        assert!(went_away(&heard).is_some(), "{what}: {:?}", heard.last());
        timeout(PATIENCE, status(honest.clone())).await.expect("in time").expect(what);
    }
    rig.serving.stop().await;
}

#[tokio::test]
async fn a_hundred_calls_taken_back_at_once_and_two_hundred_errors_are_too_many() {
    let rig = Rig::new(|_| {}).await;
    let taken_back: Vec<u8> = (0..100)
        .flat_map(|number| {
            [call(1 + 2 * number, STREAM, &[]), frame(RST_STREAM, 0, 1 + 2 * number, &[0, 0, 0, 8])].concat()
        })
        .collect();
    assert_eq!(went_away(&rig.answer(&taken_back).await), Some(ENHANCE_YOUR_CALM));
    // A header of HTTP/1 is an error of its stream.
    let bad = [("connection", "close")];
    let errors: Vec<u8> = (0..200).flat_map(|number| call(1 + 2 * number, STREAM, &bad)).collect();
    assert_eq!(went_away(&rig.answer(&errors).await), Some(ENHANCE_YOUR_CALM));
    rig.serving.stop().await;
}

#[tokio::test]
async fn headers_of_more_than_eight_kibibytes_are_refused() {
    let rig = Rig::new(|_| {}).await;
    let (mut reading, mut writing) = rig.open("n").await;
    let (names, value) = ((0..90).map(|n| format!("x-{n}")).collect::<Vec<_>>(), "y".repeat(100));
    let headers: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), value.as_str())).collect();
    writing.write_all(&call(1, STREAM, &headers)).await.unwrap();
    // An answer that is complete is no session, which would go on.
    let refused = async {
        while let Some(frame) = hear(&mut reading).await {
            if (frame.kind == HEADERS && frame.flags & END_STREAM != 0) || frame.kind == RST_STREAM {
                return true;
            }
        }
        false
    };
    assert!(timeout(WITHIN, refused).await.expect("an answer"), "refused, and the connection is kept");
    rig.serving.stop().await;
}
