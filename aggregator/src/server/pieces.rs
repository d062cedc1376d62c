//! The bytes of a call, cut small on their way to what decodes them.
//!
//! The decoder's buffer takes a whole frame in, up to 16 KiB of many messages, and is never given back while the call
//! lasts, an hour of an agent. Of pieces it takes one message and a piece.

use hyper::body::{Body, Bytes, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Most bytes of a piece.
const PIECE: usize = 1 << 10;

/// A body whose data come in small pieces; they are parts of the same memory, nothing is copied.
pub(super) struct Pieces<B> {
    body: B,
    /// What came and was not handed on yet.
    rest: Bytes,
}

impl<B> Pieces<B> {
    /// The same body in pieces.
    pub(super) fn of(body: B) -> Self {
        Self { body, rest: Bytes::new() }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Pieces<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                end => return Poll::Ready(end),
            }
        }
        let length = PIECE.min(self.rest.len());
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, mut hint) = (self.rest.len() as u64, self.body.size_hint());
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(hint.lower().saturating_add(rest));
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::convert::Infallible;

    /// A body of these frames.
    struct Frames(VecDeque<Frame<Bytes>>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }
    }

    #[test]
    fn every_byte_comes_in_its_order_in_pieces_and_trailers_at_the_end() {
        let bytes: Vec<u8> = (0..5 * PIECE + 7).map(|byte| (byte % 251) as u8).collect();
        let (first, second) = bytes.split_at(3 * PIECE + 1);
        let frames = [Frame::data(Bytes::copy_from_slice(first)), Frame::data(Bytes::copy_from_slice(second))];
        let trailers = Frame::trailers(
            [("grpc-status".parse().expect("a name"), "0".parse().expect("a value"))].into_iter().collect(),
        );
        let mut pieces = Pieces::of(Frames(frames.into_iter().chain([trailers]).collect()));
        let mut context = Context::from_waker(std::task::Waker::noop());
        let (mut found, mut ended) = (Vec::new(), 0);
        while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut pieces).poll_frame(&mut context) {
            assert_eq!(ended, 0, "nothing comes after trailers");
            match frame.into_data() {
                Ok(data) => {
                    assert!(!data.is_empty() && data.len() <= PIECE, "{}", data.len());
                    assert!(!pieces.is_end_stream());
                    found.extend_from_slice(&data);
                }
                Err(_) => ended += 1,
            }
        }
        assert_eq!((found, ended), (bytes, 1));
        assert!(pieces.is_end_stream());
    }
}
