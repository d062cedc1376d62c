//! Layout of stored values. The only place that knows it.
//!
//! Every value is `version u8 | body | crc32c u32`, little-endian. The checksum covers the key, the version and the
//! body, so that a value under another key is damage too. Numbers are LEB128 varints of at most 10 bytes, signed ones
//! zigzag; texts are a length and UTF-8; an optional part is a byte 0 or 1 and the part.
//!
//! Invariants: a version's layout never changes; decoding damaged bytes is an error and never a wrong number, reads
//! to the last byte and never allocates more than the bytes can hold; a chunk, whose columns of equal numbers take no
//! bytes, allocates at most what it may hold, and so does an hour of cells. Layouts: [`row`] (rows), [`chunk`] (an hour of
//! rows of a stream; read, a [`column`] of each series), [`cell`] (a cell), [`cells`] (an hour of cells of a node), [`descriptor`] (what series measure),
//! [`factor`] (series of factors), [`fact`] (everything small).

pub mod cell;
pub mod cells;
pub mod chunk;
pub mod column;
pub mod descriptor;
pub mod fact;
pub mod factor;
pub mod numbers;
pub mod row;

use super::StoreError;

/// Version of every layout here but those of what holds an hour.
pub const VERSION: u8 = 1;
/// Version of the layout of chunks, which lie among the rows that they hold.
pub const CHUNK_VERSION: u8 = 2;
/// Version of the layout of hours of cells, which lie among cells by themselves.
pub const CELLS_VERSION: u8 = 3;

/// What is wrong with stored bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Damaged(pub &'static str);

impl Damaged {
    /// The error of reading `what`.
    pub fn of(self, what: impl Into<String>) -> StoreError {
        StoreError::Damaged { what: what.into(), reason: self.0.to_owned() }
    }
}

/// Builds a value.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Default for Writer {
    fn default() -> Self {
        Self { bytes: vec![VERSION] }
    }
}

impl Writer {
    /// A value of a layout of its own.
    pub fn of(version: u8) -> Self {
        Self { bytes: vec![version] }
    }

    /// A part of a value, to be joined to it.
    pub fn part() -> Self {
        Self { bytes: Vec::new() }
    }

    /// Appends a part.
    pub fn join(&mut self, part: Self) {
        self.raw(&part.bytes);
    }

    /// Appends a byte.
    pub fn byte(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// Appends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends an unsigned number.
    pub fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.bytes.push(value.to_le_bytes()[0]);
    }

    /// Appends a length.
    pub fn length(&mut self, value: usize) {
        self.number(u64::try_from(value).unwrap_or(u64::MAX));
    }

    /// Appends a signed number.
    pub fn signed(&mut self, value: i64) {
        self.number((value << 1 ^ value >> 63).cast_unsigned());
    }

    /// Appends a length and bytes.
    pub fn block(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.raw(bytes);
    }

    /// Appends a text.
    pub fn text(&mut self, text: &str) {
        self.block(text.as_bytes());
    }

    /// Appends a part that may be absent.
    pub fn option<T>(&mut self, part: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.byte(u8::from(part.is_some()));
        if let Some(part) = part {
            write(self, part);
        }
    }

    /// Bytes so far.
    pub fn length_so_far(&self) -> usize {
        self.bytes.len()
    }

    /// Ends the value that is stored under `key`.
    pub fn seal(mut self, key: &[u8]) -> Vec<u8> {
        let sum = checksum(key, &self.bytes);
        self.bytes.extend_from_slice(&sum.to_le_bytes());
        self.bytes
    }
}

/// Reads a value.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Checks the value stored under `key` and begins to read its body.
    pub fn open(key: &[u8], value: &'a [u8]) -> Result<Self, Damaged> {
        match Self::open_any(key, value)? {
            (VERSION, reader) => Ok(reader),
            _ => Err(Damaged("unknown version")),
        }
    }

    /// The same for a value of any layout there is; says of which.
    pub fn open_any(key: &[u8], value: &'a [u8]) -> Result<(u8, Self), Damaged> {
        let (sealed, sum) = value.split_last_chunk::<4>().ok_or(Damaged("too short"))?;
        if checksum(key, sealed) != u32::from_le_bytes(*sum) {
            return Err(Damaged("checksum does not match"));
        }
        match sealed.split_first() {
            Some((version @ &(VERSION | CHUNK_VERSION | CELLS_VERSION), bytes)) => Ok((*version, Self { bytes })),
            _ => Err(Damaged("unknown version")),
        }
    }

    /// Reads a byte.
    pub fn byte(&mut self) -> Result<u8, Damaged> {
        let (first, rest) = self.bytes.split_first().ok_or(Damaged("too short"))?;
        self.bytes = rest;
        Ok(*first)
    }

    /// Reads `N` bytes as they are.
    pub fn raw<const N: usize>(&mut self) -> Result<[u8; N], Damaged> {
        let (head, rest) = self.bytes.split_first_chunk::<N>().ok_or(Damaged("too short"))?;
        self.bytes = rest;
        Ok(*head)
    }

    /// Reads an unsigned number.
    pub fn number(&mut self) -> Result<u64, Damaged> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Damaged("number too large"))
    }

    /// Reads a number of 32 bits.
    pub fn small(&mut self) -> Result<u32, Damaged> {
        u32::try_from(self.number()?).map_err(|_| Damaged("number too large"))
    }

    /// Reads a length: never more than the bytes that are left, each element having at least one.
    pub fn length(&mut self) -> Result<usize, Damaged> {
        let length = usize::try_from(self.number()?).map_err(|_| Damaged("length too large"))?;
        if length > self.bytes.len() { Err(Damaged("length too large")) } else { Ok(length) }
    }

    /// Reads a signed number.
    pub fn signed(&mut self) -> Result<i64, Damaged> {
        let raw = self.number()?;
        Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
    }

    /// Reads a length and that many bytes.
    pub fn block(&mut self) -> Result<&'a [u8], Damaged> {
        let length = self.length()?;
        let (head, rest) = self.bytes.split_at_checked(length).ok_or(Damaged("too short"))?;
        self.bytes = rest;
        Ok(head)
    }

    /// Reads a text.
    pub fn text(&mut self) -> Result<String, Damaged> {
        String::from_utf8(self.block()?.to_vec()).map_err(|_| Damaged("text is not UTF-8"))
    }

    /// Reads a truth value.
    pub fn truth(&mut self) -> Result<bool, Damaged> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Damaged("neither 0 nor 1")),
        }
    }

    /// Reads a part that may be absent.
    pub fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Damaged>) -> Result<Option<T>, Damaged> {
        if self.truth()? { read(self).map(Some) } else { Ok(None) }
    }

    /// Reads a length and that many elements.
    pub fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Result<T, Damaged>) -> Result<Vec<T>, Damaged> {
        let length = self.length()?;
        (0..length).map(|_| read(self)).collect()
    }

    /// Refuses bytes that are left over.
    pub fn end(&self) -> Result<(), Damaged> {
        if self.bytes.is_empty() { Ok(()) } else { Err(Damaged("too long")) }
    }
}

fn checksum(key: &[u8], sealed: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), sealed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_value_under_another_key_is_damage() {
        let value = Writer::default().seal(b"a");
        assert!(Reader::open(b"a", &value).is_ok());
        assert_eq!(Reader::open(b"b", &value).expect_err("other key"), Damaged("checksum does not match"));
    }

    proptest! {
        #[test]
        fn numbers_and_texts_come_back(unsigned: u64, signed: i64, text: String, part: Option<u64>) {
            let mut writer = Writer::default();
            writer.number(unsigned);
            writer.signed(signed);
            writer.text(&text);
            writer.option(part, Writer::number);
            let value = writer.seal(b"key");
            let mut reader = Reader::open(b"key", &value).expect("own value");
            prop_assert_eq!(reader.number(), Ok(unsigned));
            prop_assert_eq!(reader.signed(), Ok(signed));
            prop_assert_eq!(reader.text(), Ok(text));
            prop_assert_eq!(reader.option(Reader::number), Ok(part));
            prop_assert_eq!(reader.end(), Ok(()));
        }
    }
}
