//! How long the head of a request may take in HTTP/2, where the library sets no limit: the frames that come are looked at, and
//! nothing of them is changed.
//!
//! A frame that is no body must be whole, and the frames of a head must be complete, within a time from their first byte. A
//! body has its limit elsewhere. What does not begin as HTTP/2 is not looked at any further: HTTP/1.1 has a limit of its own.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// What a connection of HTTP/2 begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes before a frame's payload: length (3), type, flags, stream (4).
const HEADER: usize = 9;
/// Types of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
/// Flag of the last frame of a head.
const END_HEADERS: u8 = 4;

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// So many bytes of the preface have come.
    Preface(usize),
    /// So many bytes before a payload have come.
    Header([u8; HEADER], usize),
    /// So many bytes of a payload are to come.
    Payload { left: u32, is_body: bool },
    /// It is not HTTP/2.
    Other,
}

/// The frames of a connection, as far as they have come.
#[derive(Debug)]
pub(super) struct Frames {
    place: Place,
    /// Whether further frames of a head are to come.
    is_open: bool,
    /// Since when something that is no body is not whole.
    since: Option<Instant>,
}

impl Default for Frames {
    fn default() -> Self {
        Self { place: Place::Preface(0), is_open: false, since: None }
    }
}

impl Frames {
    /// Takes bytes in; gives since when something is not whole.
    fn take(&mut self, mut bytes: &[u8], now: Instant) -> Option<Instant> {
        while let Some(first) = bytes.first().copied() {
            let whole = match &mut self.place {
                Place::Other => break,
                Place::Preface(have) if PREFACE.get(*have) == Some(&first) => {
                    *have += 1;
                    bytes = bytes.get(1..).unwrap_or_default();
                    *have == PREFACE.len()
                }
                Place::Preface(_) => {
                    (self.place, self.since) = (Place::Other, None);
                    break;
                }
                Place::Header(header, have) => {
                    header[*have] = first;
                    *have += 1;
                    bytes = bytes.get(1..).unwrap_or_default();
                    if *have == HEADER { self.begin_payload() } else { false }
                }
                Place::Payload { left, .. } => {
                    let part = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    bytes = bytes.get(part..).unwrap_or_default();
                    *left -= u32::try_from(part).unwrap_or(*left);
                    *left == 0
                }
            };
            if whole {
                self.place = Place::Header([0; HEADER], 0);
            }
            let rests = matches!(self.place, Place::Header(_, 0) | Place::Payload { is_body: true, .. });
            self.since = if rests && !self.is_open { None } else { self.since.or(Some(now)) };
        }
        self.since
    }

    /// Begins a frame's payload; whether it is whole already.
    fn begin_payload(&mut self) -> bool {
        let Place::Header([a, b, c, kind, flags, ..], _) = self.place else { return false };
        if matches!(kind, HEADERS | CONTINUATION) {
            self.is_open = flags & END_HEADERS == 0;
        }
        let left = (u32::from(a) << 16) | (u32::from(b) << 8) | u32::from(c);
        self.place = Place::Payload { left, is_body: kind == DATA };
        left == 0
    }
}

/// A connection whose frames are looked at.
pub(super) struct Watched<I> {
    io: I,
    frames: Frames,
    since: watch::Sender<Option<Instant>>,
}

impl<I> Watched<I> {
    /// Looks at a connection; what comes second tells since when something is not whole.
    pub(super) fn new(io: I) -> (Self, watch::Receiver<Option<Instant>>) {
        let (since, told) = watch::channel(None);
        (Self { io, frames: Frames::default(), since }, told)
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.io).poll_read(context, buffer);
        let new = buffer.filled().get(before..).unwrap_or_default();
        if !new.is_empty() {
            let since = this.frames.take(new, Instant::now());
            this.since.send_if_modified(|told| std::mem::replace(told, since) != since);
        }
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}

/// Returns when something was not whole for longer than `most`.
pub(super) async fn overdue(told: &mut watch::Receiver<Option<Instant>>, most: Duration) {
    loop {
        let since = *told.borrow_and_update();
        match since {
            None => {
                if told.changed().await.is_err() {
                    // The connection has ended, which is told elsewhere.
                    std::future::pending::<()>().await;
                }
            }
            Some(since) => match timeout_at(since + most, told.changed()).await {
                Err(_) => return,
                Ok(Err(_)) => std::future::pending::<()>().await,
                Ok(Ok(())) => {}
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u8::try_from(payload).expect("short");
        [&[0, 0, length, kind, flags, 0, 0, 0, 1][..], &vec![b'x'; payload]].concat()
    }

    /// Whether something is not whole after these bytes, however they are cut.
    fn waits(bytes: &[u8]) -> bool {
        let at = Instant::now();
        let whole = Frames::default().take(bytes, at).is_some();
        let mut frames = Frames::default();
        let cut: Vec<bool> = bytes.chunks(1).map(|byte| frames.take(byte, at).is_some()).collect();
        assert_eq!(cut.last().copied().unwrap_or(false), whole);
        whole
    }

    #[test]
    fn heads_and_frames_that_are_not_whole_wait_and_bodies_do_not() {
        let after = |frames: &[Vec<u8>]| [vec![PREFACE.to_vec()], frames.to_vec()].concat().concat();
        let cut = |mut frame: Vec<u8>, by: usize| {
            frame.truncate(frame.len() - by);
            frame
        };
        for (bytes, expected) in [
            (Vec::new(), false),
            (PREFACE[..5].to_vec(), true),
            (after(&[]), false),
            (b"POST /v1/metrics HTTP/1.1\r\n".to_vec(), false),
            (after(&[frame(4, 0, 0)]), false),
            (after(&[cut(frame(4, 0, 12), 1)]), true),
            (after(&[frame(HEADERS, 0, 5)]), true),
            (after(&[frame(HEADERS, 0, 5), frame(CONTINUATION, 0, 5)]), true),
            (after(&[frame(HEADERS, 0, 5), frame(CONTINUATION, END_HEADERS, 5)]), false),
            (after(&[frame(HEADERS, END_HEADERS, 5), cut(frame(DATA, 0, 50), 20)]), false),
            (after(&[frame(HEADERS, END_HEADERS, 5), frame(DATA, 1, 50), vec![0, 0]]), true),
        ] {
            assert_eq!(waits(&bytes), expected, "{bytes:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_frame_has_its_own_time() {
        let (first, mut frames) = (Instant::now(), Frames::default());
        frames.take(PREFACE, first);
        let half = frame(4, 0, 10);
        assert_eq!(frames.take(&half[..12], first), Some(first));
        let later = first + Duration::from_secs(4);
        assert_eq!(frames.take(&half[12..], later), None);
        assert_eq!(frames.take(&half[..12], later), Some(later));
        let both = [&half[12..], &half[..3]].concat();
        let last = later + Duration::from_secs(4);
        assert_eq!(frames.take(&both, last), Some(last));
    }
}
