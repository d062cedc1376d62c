//! Spans: `{"begin": "training step"}` is answered with a number, `{"end": 1}` with the energy of the node in between.
//!
//! Both take a row at once, so that the edges of a span are rows. A span belongs to its connection and goes with it.

use super::super::told::Refusal;
use crate::span::{Report, Request, Snapshot};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Spans of one connection that are open at a time.
const MOST_OPEN: usize = 16;
/// Most bytes of a span's name.
const MOST_NAME_BYTES: usize = 256;

/// Who may measure, and the way to whoever takes rows.
///
/// Power that is read at will tells of what others do on the node, so that it is not for everybody.
#[derive(Debug, Clone)]
pub struct SpanDesk {
    users: Arc<BTreeSet<u32>>,
    rows: mpsc::Sender<Request>,
}

impl SpanDesk {
    /// A desk for the agent's own user, root and the users named.
    pub fn new(users: &[u32], rows: mpsc::Sender<Request>) -> Self {
        let own = [0, nix::unistd::geteuid().as_raw()];
        Self { users: Arc::new(users.iter().copied().chain(own).collect()), rows }
    }

    async fn row(&self) -> Result<Snapshot, Refusal> {
        let stops = || Refusal { reason: "limit", why: "the agent stops".to_owned() };
        let (request, shown) = oneshot::channel();
        self.rows.send(request).await.map_err(|_| stops())?;
        shown.await.map_err(|_| stops())
    }
}

/// A line about a span.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Line {
    Begin {
        /// Name of the span, for the log of whoever measures.
        begin: String,
    },
    End {
        /// Number of the span.
        end: u64,
    },
}

/// The spans of one connection.
#[derive(Debug, Default)]
pub struct Spans {
    open: BTreeMap<u64, Snapshot>,
    last: u64,
}

impl Spans {
    /// Whether one is open: then silence is work.
    pub fn are_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Takes a line; gives the answer.
    ///
    /// # Errors
    /// Another form, a user who may not measure, too many open spans, or one that is not open.
    pub async fn take(&mut self, line: &[u8], uid: Option<u32>, desk: &SpanDesk) -> Result<String, Refusal> {
        let line: Line = serde_json::from_slice(line)
            .map_err(|_| Refusal::form("a span is {\"begin\": NAME} or {\"end\": NUMBER} and nothing else"))?;
        if !uid.is_some_and(|uid| desk.users.contains(&uid)) {
            let why = "this user may not measure; the agent's push.measure_uids names those who may";
            return Err(Refusal { reason: "peer", why: why.to_owned() });
        }
        match line {
            Line::Begin { begin } => {
                if begin.len() > MOST_NAME_BYTES || begin.contains(char::is_control) {
                    return Err(Refusal::value("a name holds at most 256 bytes and no control characters"));
                }
                if self.open.len() >= MOST_OPEN {
                    return Err(Refusal { reason: "limit", why: "16 spans of this connection are open".to_owned() });
                }
                self.last += 1;
                self.open.insert(self.last, desk.row().await?);
                Ok(format!("{}\n", serde_json::json!({"ok": true, "span": self.last})))
            }
            Line::End { end } => {
                let begin = self.open.remove(&end).ok_or_else(|| Refusal::value("no such span is open"))?;
                let report = Report::between(&begin, &desk.row().await?);
                Ok(format!("{}\n", serde_json::json!({"ok": true, "span": end, "used": report})))
            }
        }
    }
}

/// Whether a line is of a span.
pub fn is_span(line: &[u8]) -> bool {
    let object: Option<serde_json::Map<String, serde_json::Value>> = serde_json::from_slice(line).ok();
    object.is_some_and(|object| object.contains_key("begin") || object.contains_key("end"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use joulebook_units::BootNanos;

    fn desk() -> SpanDesk {
        let (rows, mut asked) = mpsc::channel::<Request>(4);
        tokio::spawn(async move {
            let mut second = 0;
            while let Some(request) = asked.recv().await {
                second += 1;
                let _ = request.send(Snapshot { at: BootNanos(second * 1_000_000_000), sources: BTreeMap::new() });
            }
        });
        SpanDesk::new(&[7], rows)
    }

    #[tokio::test]
    async fn a_span_lasts_from_the_row_at_its_begin_to_the_row_at_its_end() {
        let (desk, mut spans) = (desk(), Spans::default());
        for (line, answer) in [
            (r#"{"begin": "a"}"#, r#"{"ok":true,"span":1}"#),
            (r#"{"begin": ""}"#, r#"{"ok":true,"span":2}"#),
            (r#"{"end": 1}"#, r#""seconds":2.0"#),
        ] {
            let said = spans.take(line.as_bytes(), Some(7), &desk).await.expect(line);
            assert!(said.contains(answer), "{line}: {said}");
        }
        assert!(spans.are_open());
        assert_eq!(spans.take(br#"{"end": 1}"#, Some(7), &desk).await.map_err(|no| no.reason), Err("value"));
        spans.take(br#"{"end": 2}"#, Some(7), &desk).await.expect("open");
        assert!(!spans.are_open());
    }

    #[tokio::test]
    async fn only_those_who_may_measure_do_and_not_without_end() {
        let (desk, mut spans) = (desk(), Spans::default());
        for (line, uid, reason) in [
            (r#"{"begin": "a"}"#, Some(8), "peer"),
            (r#"{"begin": "a"}"#, None, "peer"),
            (r#"{"begin": "a", "node": "x"}"#, Some(7), "form"),
            (r#"{"begin": "a", "end": 1}"#, Some(7), "form"),
            (r#"{"begin": 1}"#, Some(7), "form"),
            (r#"{"end": 9}"#, Some(7), "value"),
            (r#"{"end": -1}"#, Some(7), "form"),
        ] {
            let refused = spans.take(line.as_bytes(), uid, &desk).await.expect_err(line);
            assert_eq!(refused.reason, reason, "{line}");
        }
        for _ in 0..MOST_OPEN {
            spans.take(br#"{"begin": "a"}"#, Some(0), &desk).await.expect("taken");
        }
        assert_eq!(spans.take(br#"{"begin": "a"}"#, Some(0), &desk).await.expect_err("too many").reason, "limit");
    }
}
