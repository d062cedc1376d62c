//! What a peer may send beside data: HTTP/2 frames are counted as they come in, and one who floods is hung up on.
//!
//! HTTP/2 makes it cheap to ask and dear to answer: headers and resets of streams by the thousand, pings, settings, data
//! frames of one byte. Limits of the library below cover some of it. Here every frame costs one, whatever it is, unless it
//! carries data of a size that pays for itself; what may be spent grows with time and with the bytes that we send, because
//! a reader answers those with frames of its own.
//!
//! Layout (RFC 9113): the client's preface, 24 bytes; then frames: length u24, type u8, flags u8, stream u32, payload.

use std::time::Duration;
use tokio::time::Instant;

/// Bytes before the first frame.
const PREFACE: usize = 24;
const HEADER: usize = 9;
/// Type of a frame that carries data.
const DATA: u8 = 0;
/// Data frames of at least so many bytes are free.
const PAYS: usize = 64;
/// Frames that may come at once.
pub const BURST: u32 = 4_096;
/// Frames that may come in a second, for ever.
pub const PER_SECOND: u32 = 1_024;
/// Bytes of ours for which a reader may send a frame.
const SENT_A_FRAME: usize = 1_024;

/// Counts the frames of one connection.
#[derive(Debug)]
pub struct Meter {
    /// Bytes until the next header.
    skip: usize,
    header: [u8; HEADER],
    /// Bytes of the header that are there.
    have: usize,
    left: f64,
    counted: Instant,
    sent: usize,
}

impl Meter {
    /// A meter for a connection that begins.
    pub fn new(now: Instant) -> Self {
        Self { skip: PREFACE, header: [0; HEADER], have: 0, left: f64::from(BURST), counted: now, sent: 0 }
    }

    /// Notes bytes that were sent to the peer.
    pub fn sent(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes);
    }

    /// Takes bytes that came from the peer; false once it sent too many frames.
    pub fn received(&mut self, mut bytes: &[u8], now: Instant) -> bool {
        let mut frames = 0_u32;
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let wanted = (HEADER - self.have).min(bytes.len());
            let (header, rest) = bytes.split_at(wanted);
            if let Some(place) = self.header.get_mut(self.have..self.have + wanted) {
                place.copy_from_slice(header);
            }
            (self.have, bytes) = (self.have + wanted, rest);
            if self.have == HEADER {
                let [high, middle, low, kind, ..] = self.header;
                self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                self.have = 0;
                frames += u32::from(kind != DATA || self.skip < PAYS);
            }
        }
        self.spend(frames, now)
    }

    fn spend(&mut self, frames: u32, now: Instant) -> bool {
        let passed: Duration = now.saturating_duration_since(self.counted);
        self.counted = now;
        let answers = u32::try_from(std::mem::take(&mut self.sent) / SENT_A_FRAME).unwrap_or(u32::MAX);
        let earned = passed.as_secs_f64().mul_add(f64::from(PER_SECOND), f64::from(answers));
        self.left = (self.left + earned).min(f64::from(BURST)) - f64::from(frames);
        self.left >= 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let length = u8::try_from(payload >> 8).expect("a small frame");
        let mut frame = vec![0, length, (payload & 0xff) as u8, kind, 0, 0, 0, 0, 1];
        frame.resize(HEADER + payload, 0xff);
        frame
    }

    fn begun(now: Instant) -> Meter {
        let mut meter = Meter::new(now);
        assert!(meter.received(&[0xff; PREFACE], now));
        meter
    }

    #[test]
    fn a_flood_of_any_small_frame_is_seen_however_its_bytes_are_cut() {
        let now = Instant::now();
        for (kind, payload) in [(6, 8), (3, 4), (1, 40), (DATA, 1), (DATA, 0), (4, 0), (8, 4)] {
            for piece in [1, 7, 9, 1_000] {
                let bytes = frame(kind, payload).repeat(BURST as usize + 1);
                let mut meter = begun(now);
                let good = bytes.chunks(piece).take_while(|piece| meter.received(piece, now)).count();
                let last = bytes.len().div_ceil(piece) - 1;
                assert!(good <= last, "type {kind}: not seen");
                assert!(
                    good * piece + 1_000 + HEADER + payload >= bytes.len(),
                    "type {kind}: seen after {good} pieces of {piece}"
                );
            }
        }
    }

    #[test]
    fn data_pay_for_themselves_and_time_for_the_rest() {
        let mut now = Instant::now();
        let mut meter = begun(now);
        let (data, ping) = (frame(DATA, PAYS), frame(6, 8));
        assert!((0..10 * BURST).all(|_| meter.received(&data, now)));
        for _ in 0..5 {
            assert!((0..PER_SECOND).all(|_| meter.received(&ping, now)));
            now += Duration::from_secs(1);
        }
    }

    #[test]
    fn a_reader_may_answer_what_it_is_sent() {
        let now = Instant::now();
        let mut meter = begun(now);
        let update = frame(8, 4);
        for _ in 0..20 * BURST {
            meter.sent(SENT_A_FRAME);
            assert!(meter.received(&update, now));
        }
    }
}
