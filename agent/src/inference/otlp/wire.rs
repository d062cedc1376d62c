//! Protocol buffers, read where they lie: nothing is copied or kept, and nothing nested is followed unless it is asked for.
//!
//! A decoder that builds the whole message would let a few bytes of a request stand for many of memory: an empty data point
//! is 2 bytes on the wire and more than 100 in a structure.

use bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint};

/// The bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request is no message of this kind, or it is cut off")]
pub struct Malformed;

/// A field's value as it is on the wire.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// A whole number of any size.
    Varint(u64),
    /// Eight bytes.
    Fixed64(u64),
    /// Four bytes, which nothing here is made of.
    Fixed32,
    /// A text, a message, or packed numbers.
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    /// A message or a text, as bytes.
    pub fn bytes(self) -> Result<&'a [u8], Malformed> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Err(Malformed) }
    }

    /// A text.
    pub fn text(self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }

    /// Eight bytes.
    pub fn fixed64(self) -> Result<u64, Malformed> {
        if let Self::Fixed64(value) = self { Ok(value) } else { Err(Malformed) }
    }

    /// A whole number.
    pub fn varint(self) -> Result<u64, Malformed> {
        if let Self::Varint(value) = self { Ok(value) } else { Err(Malformed) }
    }
}

/// The fields of a message, in their order on the wire; nothing more after the first that is malformed.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(&'a [u8]);

/// The fields of a message.
pub fn fields(message: &[u8]) -> Fields<'_> {
    Fields(message)
}

impl<'a> Fields<'a> {
    fn read(&mut self) -> Result<(u32, Value<'a>), Malformed> {
        let (number, wire_type) = decode_key(&mut self.0).map_err(|_| Malformed)?;
        let value = match wire_type {
            WireType::Varint => Value::Varint(decode_varint(&mut self.0).map_err(|_| Malformed)?),
            WireType::SixtyFourBit => Value::Fixed64(self.0.try_get_u64_le().map_err(|_| Malformed)?),
            WireType::ThirtyTwoBit => {
                self.0 = self.0.get(4..).ok_or(Malformed)?;
                Value::Fixed32
            }
            WireType::LengthDelimited => {
                let length = decode_varint(&mut self.0).map_err(|_| Malformed)?;
                let length = usize::try_from(length).map_err(|_| Malformed)?;
                let (bytes, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
                self.0 = rest;
                Value::Bytes(bytes)
            }
            // Nobody writes groups any more.
            WireType::StartGroup | WireType::EndGroup => return Err(Malformed),
        };
        Ok((number, value))
    }

    /// The messages in the field of this number.
    pub fn messages(self, wanted: u32) -> impl Iterator<Item = Result<&'a [u8], Malformed>> {
        self.filter_map(move |field| match field {
            Ok((number, value)) => (number == wanted).then(|| value.bytes()),
            Err(malformed) => Some(Err(malformed)),
        })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let read = self.read();
        if read.is_err() {
            self.0 = &[];
        }
        Some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_are_read_and_what_is_cut_off_is_malformed() {
        let message = [0x08, 0x96, 0x01, 0x12, 0x02, b'h', b'i', 0x19, 1, 0, 0, 0, 0, 0, 0, 0, 0x25, 0, 0, 0, 0];
        let read: Result<Vec<_>, _> = fields(&message).collect();
        let all = [(1, Value::Varint(150)), (2, Value::Bytes(b"hi")), (3, Value::Fixed64(1)), (4, Value::Fixed32)];
        assert_eq!(read.as_deref(), Ok(&all[..]));
        for end in [1, 2, 4, 5, 6, 8, 15, 17, 20] {
            assert!(fields(&message[..end]).any(|field| field.is_err()), "cut at {end}");
        }
        assert!(fields(&[0x0b]).any(|field| field.is_err()), "a group");
        assert!(fields(&[0x12, 0xff, 0xff, 0xff, 0xff, 0x0f]).any(|field| field.is_err()), "4 GiB of text");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(fields(&bytes).count() <= bytes.len());
        }
    }
}
