use super::*;
use crate::queue::Counts;
use crate::section::Protocol;
use joulebook_units::UnixNanos;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;

fn section(text: &str) -> OtlpSection {
    let endpoint = Some("http://127.0.0.1:1".to_owned());
    let wishes: OtlpSection = toml::from_str(text).expect("valid");
    OtlpSection { endpoint, protocol: Protocol::Http, ..wishes }
}

fn noting(text: &str) -> (Telling, Carrier) {
    let clock: UnixClock = Arc::new(|| UnixNanos(7));
    own(&section(text), ("test", "1"), Some("n1"), &clock).expect("a receiver").expect("something is told")
}

fn taken<T>(carried: Carried<T>) -> (Vec<T>, Counts) {
    let (buffer, _) = carried.expect("it is told");
    let noted = std::mem::take(&mut *buffer.noted.lock().expect("free"));
    (noted, buffer.queue.counts())
}

fn field<'a>(attributes: &'a [KeyValue], name: &str) -> Option<&'a any_value::Value> {
    attributes.iter().find(|one| one.key == name)?.value.as_ref()?.value.as_ref()
}

#[test]
fn spans_hold_what_they_were_about_and_the_log_names_its_span() {
    let (telling, carrier) = noting("traces = true\nlogs = true");
    let subscriber = tracing_subscriber::registry().with(telling.layer());
    tracing::subscriber::with_default(subscriber, || {
        let outer =
            tracing::info_span!(target: "joulebook_test", "outer", records = 3_u64, error = tracing::field::Empty);
        let _outer = outer.enter();
        tracing::info_span!(target: "joulebook_test", "inner", node = "n\u{1b}1").in_scope(|| {
            tracing::warn!(target: "joulebook_test", lost = 2, "something is lost");
        });
        outer.record("error", "it broke");
        tracing::info_span!(target: "hyper", "foreign").in_scope(|| {
            tracing::error!(target: "hyper", "not ours");
            tracing::debug!(target: "joulebook_test", "too fine");
        });
    });
    let (spans, _) = taken(carrier.spans);
    let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["inner", "outer"]);
    let (inner, outer) = (&spans[0], &spans[1]);
    assert_eq!((&inner.trace_id, &inner.parent_span_id), (&outer.trace_id, &outer.span_id));
    assert!(outer.parent_span_id.is_empty() && outer.trace_id.iter().any(|byte| *byte != 0));
    assert_eq!(field(&outer.attributes, "records"), Some(&any_value::Value::IntValue(3)));
    assert_eq!(outer.status.as_ref().map(|status| status.message.as_str()), Some("it broke"));
    let (logs, _) = taken(carrier.logs);
    assert_eq!(logs.len(), 1, "{logs:?}");
    assert_eq!((&logs[0].trace_id, &logs[0].span_id), (&inner.trace_id, &inner.span_id));
    assert_eq!((logs[0].severity_number, logs[0].severity_text.as_str()), (13, "WARN"));
    assert_eq!(field(&logs[0].attributes, "lost"), Some(&any_value::Value::IntValue(2)));
}

#[test]
fn what_finds_no_room_is_counted_and_nothing_grows() {
    let (telling, carrier) = noting("logs = true");
    assert!(carrier.spans.is_none());
    let subscriber = tracing_subscriber::registry().with(telling.layer());
    tracing::subscriber::with_default(subscriber, || {
        for number in 0..NOTED + 10 {
            tracing::info!(target: "joulebook_test", number, "again");
        }
    });
    let (logs, counts) = taken(carrier.logs);
    assert_eq!((logs.len(), counts.overflow), (NOTED, 10));
}

#[test]
fn where_nothing_is_told_no_span_is_made() {
    let clock: UnixClock = Arc::new(|| UnixNanos(7));
    assert!(own(&section(""), ("test", "1"), None, &clock).expect("a receiver").is_none());
    let people = tracing_subscriber::fmt::layer().with_writer(std::io::sink);
    tracing::dispatcher::with_default(&dispatch(people, LevelFilter::INFO, None), || {
        assert!(tracing::info_span!(target: "joulebook_test", "none").is_disabled());
        assert!(tracing::trace_span!(target: "another_crate", "none").is_disabled());
        assert!(tracing::event_enabled!(target: "joulebook_test", Level::INFO));
        assert!(!tracing::event_enabled!(target: "joulebook_test", Level::DEBUG));
    });
    assert_eq!(
        without_spans(LevelFilter::INFO).max_level_hint(),
        Some(LevelFilter::INFO),
        "the rest is one comparison"
    );
}

#[test]
fn where_spans_are_told_only_ours_are_made() {
    let (telling, _carrier) = noting("traces = true");
    let people = tracing_subscriber::fmt::layer().with_writer(std::io::sink);
    tracing::dispatcher::with_default(&dispatch(people, LevelFilter::INFO, Some(telling)), || {
        assert!(!tracing::info_span!(target: "joulebook_test", "ours").is_disabled());
        assert!(tracing::debug_span!(target: "joulebook_test", "too fine").is_disabled());
        assert!(tracing::info_span!(target: "another_crate", "theirs").is_disabled());
        assert!(tracing::event_enabled!(target: "another_crate", Level::INFO));
    });
}
