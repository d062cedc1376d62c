//! The header of a GGUF weights file (versions 2 and 3, little-endian).
//!
//! Format: magic `GGUF`, version u32, number of tensors u64, number of pairs u64, then the pairs: key (u64 length and
//! bytes), type u32, value. Types: 0 u8, 1 i8, 2 u16, 3 i16, 4 u32, 5 i32, 6 f32, 7 bool, 8 string (u64 length and
//! bytes), 9 array (type u32, number u64, elements), 10 u64, 11 i64, 12 f64.
//!
//! The file is a stranger's: every length is checked against a budget before anything is reserved or skipped.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

const MAX_PAIRS: u64 = 65_536;
const MAX_KEY: u64 = 65_535;
const MAX_TEXT: u64 = 1024;
/// Most bytes of all pairs: vocabularies of today's models need up to 20 MiB.
const MAX_METADATA: u64 = 128 << 20;
const MAX_DEPTH: u32 = 4;
/// Bytes at either end of the file that enter the fingerprint.
const EDGE: u64 = 1 << 20;

/// A file whose header cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// Not readable, or it ends inside the header.
    #[error("reading the header failed: {0}")]
    Io(#[from] io::Error),
    /// Not a GGUF file of a known form.
    #[error("the header is not usable: {0}")]
    Form(&'static str),
}

/// What a header tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// `general.name`.
    pub name: Option<String>,
    /// `general.version`.
    pub version: Option<String>,
    /// Quantisation by `general.file_type`, as llama.cpp names it.
    pub quantisation: Option<String>,
    /// `gguf-blake3:<32 hex>`: the first 128 bits of BLAKE3 over the file's size (u64, little-endian), the header's
    /// pairs or the first MiB (whichever ends later), and the last MiB. It reads little of a large file, so weights that
    /// differ in their middle alone are not told apart; training changes the last layers too.
    pub fingerprint: String,
}

/// Reads the header of an open file.
///
/// # Errors
/// Unreadable, cut, not GGUF 2 or 3, or with lengths beyond the limits.
pub fn read(mut file: File) -> Result<Header, GgufError> {
    let size = file.metadata()?.len();
    let mut hash = blake3::Hasher::new();
    hash.update(&size.to_le_bytes());
    let mut input = Hashed { input: BufReader::new(&mut file), hash: &mut hash, left: MAX_METADATA.min(size) };
    let (mut name, mut version, mut file_type) = (None, None, None);
    if input.bytes::<4>()? != *b"GGUF" {
        return Err(GgufError::Form("it does not start with GGUF"));
    }
    if !matches!(input.u32()?, 2 | 3) {
        return Err(GgufError::Form("only little-endian versions 2 and 3 are known"));
    }
    let (_tensors, pairs) = (input.u64()?, input.u64()?);
    if pairs > MAX_PAIRS {
        return Err(GgufError::Form("it claims more than 65,536 pairs"));
    }
    for _ in 0..pairs {
        let length = input.u64()?;
        if length > MAX_KEY {
            return Err(GgufError::Form("a key is longer than 65,535 bytes"));
        }
        let key = input.text(length)?;
        let kind = input.u32()?;
        if key == b"general.file_type" && kind == 4 {
            file_type = Some(input.u32()?);
            continue;
        }
        let wanted = match key.as_slice() {
            b"general.name" => Some(&mut name),
            b"general.version" => Some(&mut version),
            _ => None,
        };
        match wanted.filter(|_| kind == 8) {
            Some(place) => {
                let length = input.u64()?;
                if length > MAX_TEXT {
                    return Err(GgufError::Form("a name or version is longer than 1 KiB"));
                }
                let text = String::from_utf8(input.text(length)?).ok();
                *place = text.map(|text| text.trim().to_owned());
            }
            None => input.skip_value(kind, 0)?,
        }
    }
    let used = MAX_METADATA.min(size) - input.left;
    input.left = size - used;
    let rest_of_edge = EDGE.min(size).saturating_sub(used);
    input.skip(rest_of_edge)?;
    let hashed = used + rest_of_edge;
    drop(input);
    let tail = hashed.max(size.saturating_sub(EDGE));
    file.seek(SeekFrom::Start(tail))?;
    io::copy(&mut file.take(size - tail), &mut hash)?;
    let usable = |text: &String| !text.is_empty() && !text.chars().any(char::is_control);
    let fingerprint = format!("gguf-blake3:{}", hash.finalize().to_hex().chars().take(32).collect::<String>());
    let quantisation = file_type.and_then(quantisation);
    Ok(Header { name: name.filter(usable), version: version.filter(usable), quantisation, fingerprint })
}

/// llama.cpp's name of a file type (`llama_ftype` of its llama.h); unknown ones by their number.
fn quantisation(file_type: u32) -> Option<String> {
    const NAMES: [(u32, &str); 28] = [
        (0, "F32"),
        (1, "F16"),
        (2, "Q4_0"),
        (3, "Q4_1"),
        (7, "Q8_0"),
        (8, "Q5_0"),
        (9, "Q5_1"),
        (10, "Q2_K"),
        (11, "Q3_K_S"),
        (12, "Q3_K_M"),
        (13, "Q3_K_L"),
        (14, "Q4_K_S"),
        (15, "Q4_K_M"),
        (16, "Q5_K_S"),
        (17, "Q5_K_M"),
        (18, "Q6_K"),
        (19, "IQ2_XXS"),
        (20, "IQ2_XS"),
        (21, "Q2_K_S"),
        (22, "IQ3_XS"),
        (23, "IQ3_XXS"),
        (24, "IQ1_S"),
        (25, "IQ4_NL"),
        (26, "IQ3_S"),
        (27, "IQ3_M"),
        (30, "IQ4_XS"),
        (31, "IQ1_M"),
        (32, "BF16"),
    ];
    let known = NAMES.iter().find(|(number, _)| *number == file_type).map(|(_, name)| (*name).to_owned());
    Some(known.unwrap_or_else(|| format!("gguf-type-{file_type}")))
}

/// A reader that hashes what it reads and stops at its budget.
struct Hashed<'file> {
    input: BufReader<&'file mut File>,
    hash: &'file mut blake3::Hasher,
    left: u64,
}

impl Hashed<'_> {
    fn spend(&mut self, bytes: u64) -> Result<(), GgufError> {
        self.left = self.left.checked_sub(bytes).ok_or(GgufError::Form("a length goes past the file or 128 MiB"))?;
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let mut out = [0; N];
        self.spend(N as u64)?;
        self.input.read_exact(&mut out)?;
        self.hash.update(&out);
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        self.bytes().map(u64::from_le_bytes)
    }

    /// A text of a length that the caller has limited.
    fn text(&mut self, length: u64) -> Result<Vec<u8>, GgufError> {
        self.spend(length)?;
        let mut out = Vec::new();
        (&mut self.input).take(length).read_to_end(&mut out)?;
        if out.len() as u64 != length {
            return Err(GgufError::Form("it ends inside a text"));
        }
        self.hash.update(&out);
        Ok(out)
    }

    fn skip(&mut self, mut bytes: u64) -> Result<(), GgufError> {
        self.spend(bytes)?;
        let mut buffer = [0; 4096];
        while bytes > 0 {
            let step = usize::try_from(bytes).unwrap_or(usize::MAX).min(buffer.len());
            self.input.read_exact(&mut buffer[..step])?;
            self.hash.update(&buffer[..step]);
            bytes -= step as u64;
        }
        Ok(())
    }

    fn skip_value(&mut self, kind: u32, depth: u32) -> Result<(), GgufError> {
        if let Some(width) = width(kind) {
            return self.skip(width);
        }
        match kind {
            8 => {
                let length = self.u64()?;
                self.skip(length)
            }
            9 if depth < MAX_DEPTH => {
                let (kind, number) = (self.u32()?, self.u64()?);
                if let Some(width) = width(kind) {
                    let bytes = number.checked_mul(width).ok_or(GgufError::Form("an array's length overflows"))?;
                    return self.skip(bytes);
                }
                // Every element costs at least 8 bytes of the budget, so a hostile number ends soon.
                (0..number).try_for_each(|_| self.skip_value(kind, depth + 1))
            }
            9 => Err(GgufError::Form("arrays are nested more than 4 deep")),
            _ => Err(GgufError::Form("a value has an unknown type")),
        }
    }
}

/// Bytes of a value of fixed size.
fn width(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
    }

    fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
        [&text(key)[..], &kind.to_le_bytes(), value].concat()
    }

    fn file(pairs: &[Vec<u8>], weights: &[u8]) -> Vec<u8> {
        let head = [&b"GGUF"[..], &3_u32.to_le_bytes(), &0_u64.to_le_bytes(), &(pairs.len() as u64).to_le_bytes()];
        [&head.concat()[..], &pairs.concat(), weights].concat()
    }

    fn read_bytes(bytes: &[u8]) -> Result<Header, GgufError> {
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(bytes).expect("write");
        file.rewind().expect("rewind");
        read(file)
    }

    fn usual() -> Vec<Vec<u8>> {
        let words = [&8_u32.to_le_bytes()[..], &2_u64.to_le_bytes(), &text("a"), &text("bc")].concat();
        let scores = [&6_u32.to_le_bytes()[..], &2_u64.to_le_bytes(), &[0; 8]].concat();
        vec![
            pair("general.name", 8, &text("tiny")),
            pair("tokenizer.ggml.tokens", 9, &words),
            pair("tokenizer.ggml.scores", 9, &scores),
            pair("llama.block_count", 4, &[2, 0, 0, 0]),
            pair("general.version", 8, &text(" 1.0 ")),
        ]
    }

    #[test]
    fn name_and_version_are_found_behind_values_of_every_shape() {
        let header = read_bytes(&file(&usual(), b"weights")).expect("valid");
        assert_eq!((header.name.as_deref(), header.version.as_deref()), (Some("tiny"), Some("1.0")));
        assert_eq!(header.fingerprint.len(), "gguf-blake3:".len() + 32);
    }

    #[test]
    fn weights_that_differ_at_either_end_have_another_fingerprint() {
        let fingerprint = |weights: &[u8]| read_bytes(&file(&usual(), weights)).expect("valid").fingerprint;
        let mut weights = vec![7; 3 << 20];
        let plain = fingerprint(&weights);
        assert_eq!(plain, fingerprint(&weights));
        weights[0] = 8;
        assert_ne!(plain, fingerprint(&weights));
        weights[0] = 7;
        *weights.last_mut().expect("not empty") = 8;
        assert_ne!(plain, fingerprint(&weights));
        assert_ne!(plain, fingerprint(&vec![7; (3 << 20) + 1]));
    }

    #[test]
    fn a_missing_or_unusable_version_is_absent() {
        for pairs in
            [vec![], vec![pair("general.version", 4, &[1, 0, 0, 0])], vec![pair("general.version", 8, &text("a\nb"))]]
        {
            assert_eq!(read_bytes(&file(&pairs, b"")).expect("valid").version, None);
        }
    }

    #[test]
    fn hostile_files_are_refused_without_reserving_what_they_claim() {
        let huge = u64::MAX.to_le_bytes();
        let mut many = file(&[], b"");
        many.splice(16..24, huge);
        let array = |kind: u32| [&kind.to_le_bytes()[..], &huge].concat();
        let nested = [&9_u32.to_le_bytes()[..], &1_u64.to_le_bytes()].concat().repeat(6);
        for bytes in [
            b"GGU".to_vec(),
            b"<!DOCTYPE html><html></html>".to_vec(),
            [b"GGUF", &9_u32.to_le_bytes()[..], &[0; 16]].concat(),
            [b"GGUF", &3_u32.to_be_bytes()[..], &[0; 16]].concat(),
            many,
            file(&[huge.to_vec()], b""),
            file(&[pair("x", 8, &huge)], b""),
            file(&[pair("general.version", 8, &huge)], b""),
            file(&[pair("x", 9, &array(4))], b""),
            file(&[pair("x", 9, &array(8))], b""),
            file(&[pair("x", 9, &nested)], b""),
            file(&[pair("x", 99, b"")], b""),
        ] {
            assert!(read_bytes(&bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_header_cut_anywhere_is_an_error_or_complete() {
        let whole = file(&usual(), b"");
        for length in 0..whole.len() {
            assert!(read_bytes(&whole[..length]).is_err(), "cut at {length}");
        }
    }
}
