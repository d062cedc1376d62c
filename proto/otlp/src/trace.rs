//! The daemon's own spans and log, told to a receiver: opt-in, bounded, and without any cost while nobody asks for it.
//!
//! What is told is noted in a buffer of a signal; every few seconds, or when much is in it, it becomes a message in the queue of
//! the signal. What finds no room is counted with what the queue drops. Only what our own crates say is told, from INFO up: a
//! library's words about the connection to the receiver would otherwise make more of them.
//!
//! Question: our own layer, or the SDK with its bridges? The SDK's exporters hold their own queue, retry and count in another
//! way than that of figures, read certificates once, and are three crates more in the agent. Choice: 200 lines that share the
//! delivery. What would change it: sampling, links or context that comes from other services.

use crate::point::{resource, scope, text};
use crate::queue::Queue;
use crate::section::{OtlpError, OtlpSection};
use crate::sender::{Sender, UnixClock};
use crate::signal::{Message, Signal};
use note::{Ids, Noted};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::SpanKind, status};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{FilterExt, FilterFn, filter_fn};
use tracing_subscriber::layer::{Context, Filter, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

mod note;

/// What may be noted before it becomes a message; more is lost and counted.
const NOTED: usize = 4_096;
/// So much becomes a message at once.
const MANY: usize = 512;
/// The longest that something is only noted.
const FLUSH_EVERY: Duration = Duration::from_secs(2);
/// Spans or records that may wait for the receiver where the configuration says nothing.
const ROOM: usize = 10_000;
/// How long the end of a daemon may wait for the last of it.
const LAST: Duration = Duration::from_secs(2);
/// What our crates' names begin with.
const OURS: &str = "joulebook";

/// Queues of the process: there is one subscriber in it, too.
static QUEUES: OnceLock<Vec<(Signal, Arc<Queue>)>> = OnceLock::new();

/// The queues of the daemon's own spans and log, those that are told.
pub fn queues() -> &'static [(Signal, Arc<Queue>)] {
    QUEUES.get().map_or(&[], Vec::as_slice)
}

/// What is noted and no message yet.
struct Buffer<T> {
    noted: Mutex<Vec<T>>,
    many: Notify,
    queue: Arc<Queue>,
}

impl<T> Buffer<T> {
    fn note(&self, item: T) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.len() >= NOTED {
            drop(noted);
            return self.queue.lost(1);
        }
        noted.push(item);
        if noted.len() == MANY {
            self.many.notify_one();
        }
    }

    fn flush(&self, message: impl Fn(Vec<T>) -> Message) {
        let noted = std::mem::take(&mut *self.noted.lock().unwrap_or_else(PoisonError::into_inner));
        let mut rest = noted.into_iter().peekable();
        while rest.peek().is_some() {
            self.queue.add(message(rest.by_ref().take(MANY).collect()));
        }
    }
}

/// The layer of a subscriber that notes spans and events.
pub struct Telling {
    spans: Option<Arc<Buffer<Span>>>,
    logs: Option<Arc<Buffer<LogRecord>>>,
    clock: UnixClock,
}

/// Carries what is noted to the receiver.
#[must_use]
pub struct Carrier {
    resource: Resource,
    spans: Option<(Arc<Buffer<Span>>, Sender)>,
    logs: Option<(Arc<Buffer<LogRecord>>, Sender)>,
}

/// A carrier at work.
pub struct Carrying {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// What the daemon notes of itself, and who carries it; none where neither spans nor log are told.
///
/// # Errors
/// The receiver cannot be told anything.
pub fn own(
    section: &OtlpSection,
    service: (&str, &str),
    host: Option<&str>,
    clock: &UnixClock,
) -> Result<Option<(Telling, Carrier)>, OtlpError> {
    let spans = carried(section, Signal::Traces, clock)?;
    let logs = carried(section, Signal::Logs, clock)?;
    if spans.is_none() && logs.is_none() {
        return Ok(None);
    }
    let queues = spans.iter().map(|(buffer, _)| (Signal::Traces, Arc::clone(&buffer.queue)));
    let queues = queues.chain(logs.iter().map(|(buffer, _)| (Signal::Logs, Arc::clone(&buffer.queue))));
    // A second one in the process has its own counts, which no page shows: there is one subscriber.
    let _ = QUEUES.set(queues.collect());
    let told = Telling {
        spans: spans.as_ref().map(|(buffer, _)| Arc::clone(buffer)),
        logs: logs.as_ref().map(|(buffer, _)| Arc::clone(buffer)),
        clock: Arc::clone(clock),
    };
    let resource = resource(service, host, section.cluster.as_deref());
    Ok(Some((told, Carrier { resource, spans, logs })))
}

/// Who hears of what happens: `people`, of what `filter` lets pass and of no spans; and the receiver, if it wants to know. What
/// nobody wants costs its place in the code one comparison, and a span that nobody wants is not even made: so no layer may stand
/// here without a filter, be it `None`, for it would count as one that wants everything.
pub fn dispatch<L, F>(people: L, filter: F, telling: Option<Telling>) -> Dispatch
where
    L: Layer<Registry> + Send + Sync,
    F: Filter<Registry> + Send + Sync + 'static,
{
    let people = tracing_subscriber::registry().with(people.with_filter(without_spans(filter)));
    match telling {
        Some(telling) => Dispatch::new(people.with(telling.layer())),
        None => Dispatch::new(people),
    }
}

/// The same, no spans and nothing finer: without a hint each place in the code of whatever level would be asked for.
fn without_spans<F: Filter<Registry>>(filter: F) -> impl Filter<Registry> {
    filter.and(filter_fn(|metadata: &Metadata<'_>| metadata.is_event()).with_max_level_hint(LevelFilter::TRACE))
}

type Carried<T> = Option<(Arc<Buffer<T>>, Sender)>;

fn carried<T>(section: &OtlpSection, signal: Signal, clock: &UnixClock) -> Result<Carried<T>, OtlpError> {
    if !section.tells(signal) {
        return Ok(None);
    }
    let sender = Sender::new(section, signal, ROOM, Arc::clone(clock))?;
    let buffer = Buffer { noted: Mutex::default(), many: Notify::new(), queue: sender.queue() };
    Ok(Some((Arc::new(buffer), sender)))
}

impl Telling {
    /// The layer, for what is ours and told.
    pub fn layer<S>(self) -> impl Layer<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let (spans, logs) = (self.spans.is_some(), self.logs.is_some());
        let wanted: FilterFn<_> = filter_fn(move |metadata: &Metadata<'_>| {
            let told = if metadata.is_span() { spans } else { logs };
            told && *metadata.level() <= Level::INFO && metadata.target().starts_with(OURS)
        });
        self.with_filter(wanted.with_max_level_hint(LevelFilter::INFO))
    }

    fn now(&self) -> u64 {
        u64::try_from((self.clock)().0).unwrap_or_default()
    }
}

impl<S> Layer<S> for Telling
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let parent = span.parent().and_then(|parent| parent.extensions().get::<Noted>().map(|noted| noted.ids));
        let mut noted = Noted::new(parent, self.now());
        attributes.record(&mut noted.fields);
        span.extensions_mut().insert(noted);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(noted) = span.extensions_mut().get_mut::<Noted>() {
            values.record(&mut noted.fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(logs) = &self.logs else { return };
        let span = context.event_span(event);
        let ids = span.and_then(|span| span.extensions().get::<Noted>().map(|noted| noted.ids));
        logs.note(record(event, ids, self.now()));
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let (Some(spans), Some(span)) = (&self.spans, context.span(&id)) else { return };
        let Some(noted) = span.extensions_mut().remove::<Noted>() else { return };
        spans.note(finished(span.name(), noted, self.now()));
    }
}

fn finished(name: &str, noted: Noted, now: u64) -> Span {
    let Noted { ids, parent, start, fields } = noted;
    let status = fields.error.map(|message| Status { message, code: status::StatusCode::Error.into() });
    Span {
        trace_id: ids.trace.to_vec(),
        span_id: ids.span.to_vec(),
        parent_span_id: parent.map(|parent| parent.to_vec()).unwrap_or_default(),
        name: name.to_owned(),
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: now.max(start),
        attributes: fields.attributes,
        status,
        ..Span::default()
    }
}

fn record(event: &Event<'_>, ids: Option<Ids>, now: u64) -> LogRecord {
    let mut fields = note::Fields::default();
    event.record(&mut fields);
    let level = *event.metadata().level();
    // OpenTelemetry's numbers: INFO 9, WARN 13, ERROR 17.
    let severity_number = match level {
        Level::ERROR => 17,
        Level::WARN => 13,
        _ => 9,
    };
    let mut attributes = fields.attributes;
    attributes.extend(fields.error.map(|error| text("error", &error)));
    attributes.push(text("code.namespace", event.metadata().target()));
    LogRecord {
        time_unix_nano: now,
        observed_time_unix_nano: now,
        severity_number,
        severity_text: level.as_str().to_owned(),
        body: Some(AnyValue { value: Some(any_value::Value::StringValue(fields.message)) }),
        attributes,
        trace_id: ids.map(|ids| ids.trace.to_vec()).unwrap_or_default(),
        span_id: ids.map(|ids| ids.span.to_vec()).unwrap_or_default(),
        ..LogRecord::default()
    }
}

impl Carrier {
    /// Begins to carry, on the runtime that it is called on.
    pub fn start(self) -> Carrying {
        let (stop, stopping) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let Self { resource, spans, logs } = self;
        if let Some((buffer, sender)) = spans {
            let resource = resource.clone();
            let message = move |spans: Vec<Span>| {
                let count = spans.len();
                let scoped = ScopeSpans { scope: Some(scope()), spans, ..ScopeSpans::default() };
                let of = Some(resource.clone());
                let one = ResourceSpans { resource: of, scope_spans: vec![scoped], ..ResourceSpans::default() };
                Message::of(&ExportTraceServiceRequest { resource_spans: vec![one] }, count)
            };
            tasks.spawn(carry(buffer, sender, message, stopping.clone()));
        }
        if let Some((buffer, sender)) = logs {
            let message = move |log_records: Vec<LogRecord>| {
                let count = log_records.len();
                let scoped = ScopeLogs { scope: Some(scope()), log_records, ..ScopeLogs::default() };
                let of = Some(resource.clone());
                let one = ResourceLogs { resource: of, scope_logs: vec![scoped], ..ResourceLogs::default() };
                Message::of(&ExportLogsServiceRequest { resource_logs: vec![one] }, count)
            };
            tasks.spawn(carry(buffer, sender, message, stopping));
        }
        Carrying { stop, tasks }
    }
}

impl Carrying {
    /// Sends what is left, as far as 2 s allow.
    pub async fn finish(mut self) {
        // Fails only if every task is gone already.
        let _ = self.stop.send(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn carry<T>(
    buffer: Arc<Buffer<T>>,
    mut sender: Sender,
    message: impl Fn(Vec<T>) -> Message,
    mut stopping: watch::Receiver<bool>,
) {
    let flushes = async {
        loop {
            tokio::select! {
                () = sleep(FLUSH_EVERY) => {}
                () = buffer.many.notified() => {}
            }
            buffer.flush(&message);
        }
    };
    tokio::select! {
        () = sender.run() => {}
        () = flushes => {}
        // An error means that the other end is gone: time to stop, too.
        _ = stopping.wait_for(|stop| *stop) => {}
    }
    buffer.flush(&message);
    // Whatever is not taken within it is lost with the process.
    let _ = timeout(LAST, sender.drain()).await;
}

#[cfg(test)]
mod tests;
