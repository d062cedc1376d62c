//! How messages of the contract are put on the wire: as prost does, with buffers that fit what an agent says.
//!
//! tonic gives each direction of each call 8 KiB before anything was said. Of a fleet of 10,000 nodes, each of which
//! has one call open for an hour, that is 160 MiB for nothing.

use prost::Message;
use std::marker::PhantomData;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// What a call's buffer for reading begins with: room for a record of five seconds of a node and what came of the next. It
/// grows with a larger message.
const READ_BYTES: usize = 4 << 10;
/// The same for writing: a few acknowledgements.
const WRITE_BYTES: usize = 512;
/// What waits before it is handed to the transport while there is more to say: tonic's own value.
const YIELD_BYTES: usize = 32 << 10;

/// `application/grpc+proto` of messages `T` that are sent and `U` that are received.
#[derive(Debug, Clone)]
pub struct Lean<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Lean<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for Lean<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(WRITE_BYTES, YIELD_BYTES))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(READ_BYTES, YIELD_BYTES))
    }
}
