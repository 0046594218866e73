//! The bytes of a snapshot: sections with a checksum each, and a head behind them.
//!
//! # Design
//!
//! Maps, blocks, lists and arrays are little-endian words in *sections*, written and read in one order; the
//! *head*, a small JSON object with everything else, comes last.
//!
//! ```text
//! 0   magic, 8 bytes         32  section ... section      from `head` on
//! 8   version   12 crc       +0  crc   +4 kind            a section of kind `Head`,
//! 16  length of the file     +8  bytes of the payload     up to the end of the file
//! 24  head                   +16 payload
//! ```
//!
//! The header's checksum is that of bytes 16 to 32, a section's that of all of it behind its first four bytes. A
//! checksum tells damage, not malice: nothing that is read is trusted, and nothing is made before the bytes for it were seen.
//!
//! # Units
//!
//! Bytes. Payloads are multiples of 8.
//!
//! # Cost
//!
//! A section is checked right before it is read, so that it comes from memory once.
//!
//! # Source
//!
//! A form of this crate. The checksum is CRC-32.

use serde_json::Value;

use crate::bitmap;
use crate::error::StateError;

/// How every snapshot begins; the end of it shows what treats bytes as text.
pub const MAGIC: [u8; 8] = *b"\x89pcpu\r\n\x1a";
/// Version of the form.
const VERSION: u32 = 2;
/// Bytes in front of the first section.
const HEADER: usize = 32;
/// Bytes in front of a payload.
const SECTION: usize = 16;

/// What a section holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Kind {
    /// The head.
    Head = 1,
    /// Lists of chunks.
    Lists = 2,
    /// A chunk.
    Chunk = 3,
    /// Busy ranges of an address space.
    Space = 4,
}

/// Writes a snapshot.
#[derive(Clone, Debug)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Default for Writer {
    fn default() -> Self {
        Self { bytes: vec![0; HEADER] }
    }
}

impl Writer {
    /// Writes a section.
    pub fn section(&mut self, kind: Kind, write: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.resize(start + SECTION, 0);
        write(self);
        self.bytes.resize(self.bytes.len().next_multiple_of(8), b' ');
        let len = (self.bytes.len() - start - SECTION) as u64;
        self.bytes[start + 4..start + 8].copy_from_slice(&(kind as u32).to_le_bytes());
        self.bytes[start + 8..start + 16].copy_from_slice(&len.to_le_bytes());
        let crc = crc32fast::hash(&self.bytes[start + 4..]);
        self.bytes[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    }

    /// Writes one number.
    pub fn word(&mut self, word: u64) {
        self.bytes.extend_from_slice(&word.to_le_bytes());
    }

    /// Writes words.
    pub fn words(&mut self, words: &[u64]) {
        let room = self.room(words.len() * 8);
        room.chunks_exact_mut(8).zip(words).for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
    }

    /// Writes `count` rows of small numbers.
    pub fn rows<const N: usize>(&mut self, count: usize, rows: impl Iterator<Item = [u32; N]>) {
        let room = self.room(count * N * 4);
        for (to, row) in room.chunks_exact_mut(N * 4).zip(rows) {
            to.chunks_exact_mut(4).zip(row).for_each(|(to, number)| to.copy_from_slice(&number.to_le_bytes()));
        }
    }

    /// Writes a list, its length first.
    pub fn list(&mut self, list: impl Iterator<Item = u64>) {
        let at = self.bytes.len();
        self.word(0);
        list.for_each(|item| self.word(item));
        let len = (self.bytes.len() - at - 8) as u64 / 8;
        self.bytes[at..at + 8].copy_from_slice(&len.to_le_bytes());
    }

    fn room(&mut self, len: usize) -> &mut [u8] {
        let at = self.bytes.len();
        self.bytes.resize(at + len, 0);
        &mut self.bytes[at..]
    }

    /// The whole snapshot.
    pub fn finish(mut self, head: &Value) -> Vec<u8> {
        let at = self.bytes.len() as u64;
        self.section(Kind::Head, |out| out.bytes.extend_from_slice(head.to_string().as_bytes()));
        let len = self.bytes.len() as u64;
        self.bytes[..8].copy_from_slice(&MAGIC);
        self.bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        self.bytes[16..24].copy_from_slice(&len.to_le_bytes());
        self.bytes[24..32].copy_from_slice(&at.to_le_bytes());
        let crc = crc32fast::hash(&self.bytes[16..HEADER]);
        self.bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        self.bytes
    }
}

fn number4(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"))
}

fn number8(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))
}

fn wrong(message: impl Into<String>) -> StateError {
    StateError::new("file", message)
}

/// Reads a snapshot, section by section.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Opens a snapshot: its head, and what reads the sections before it.
    pub fn open(bytes: &'a [u8]) -> Result<(Value, Self), StateError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(wrong("is no snapshot; a state file is read by from_state"));
        }
        if bytes.len() < HEADER {
            return Err(wrong(format!("is cut short: {} bytes", bytes.len())));
        }
        let version = number4(&bytes[8..]);
        if version != VERSION {
            return Err(wrong(format!("is a snapshot of version {version}, not {VERSION}")));
        }
        if number4(&bytes[12..]) != crc32fast::hash(&bytes[16..HEADER]) {
            return Err(wrong("is damaged: its header has another checksum"));
        }
        let (len, head) = (number8(&bytes[16..]), number8(&bytes[24..]));
        if len != bytes.len() as u64 {
            return Err(wrong(format!("has {} bytes instead of {len}", bytes.len())));
        }
        let at = usize::try_from(head).ok().filter(|at| (HEADER..=bytes.len()).contains(at));
        let at = at.ok_or_else(|| wrong(format!("has {len} bytes, but its head at {head}")))?;
        let (sections, head) = bytes.split_at(at);
        let mut reader = Self { rest: head };
        let head = reader.section(Kind::Head, "head")?;
        reader.end()?;
        let head = serde_json::from_slice(head.rest).map_err(|error| wrong(format!("has a bad head: {error}")))?;
        Ok((head, Self { rest: &sections[HEADER..] }))
    }

    /// The next section, which must be of this kind. `path` names it in errors.
    pub fn section(&mut self, kind: Kind, path: impl Into<String>) -> Result<Section<'a>, StateError> {
        let path = path.into();
        let bad = |message: String| StateError::new(path.clone(), message);
        if self.rest.len() < SECTION {
            return Err(bad("is missing".into()));
        }
        let (found, len) = (number4(&self.rest[4..]), number8(&self.rest[8..]));
        let len = usize::try_from(len).ok().filter(|len| len % 8 == 0 && *len <= self.rest.len() - SECTION);
        let len = len.ok_or_else(|| bad(format!("ends behind the {} bytes that there are", self.rest.len())))?;
        let (section, rest) = self.rest.split_at(SECTION + len);
        if number4(section) != crc32fast::hash(&section[4..]) {
            return Err(bad("is damaged: it has another checksum".into()));
        }
        if found != kind as u32 {
            return Err(bad(format!("is a section of kind {found}, not {}", kind as u32)));
        }
        self.rest = rest;
        Ok(Section { rest: &section[SECTION..], path })
    }

    /// Nothing must be left.
    pub fn end(&self) -> Result<(), StateError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(wrong(format!("has {} bytes more than are known", self.rest.len())))
        }
    }

    /// Bytes that are left.
    pub fn left(&self) -> usize {
        self.rest.len()
    }
}

/// The payload of a section; every value is asked for by name.
#[derive(Clone, Debug)]
pub struct Section<'a> {
    rest: &'a [u8],
    path: String,
}

impl<'a> Section<'a> {
    /// An error at field `name`.
    pub fn error(&self, name: &str, message: impl Into<String>) -> StateError {
        StateError::new(format!("{}.{name}", self.path), message)
    }

    /// An error at field `name` unless `holds`.
    pub fn check(&self, holds: bool, name: &str) -> Result<(), StateError> {
        if holds {
            Ok(())
        } else {
            Err(self.error(name, "makes no sense here"))
        }
    }

    fn take(&mut self, name: &str, len: Option<usize>) -> Result<&'a [u8], StateError> {
        let Some(len) = len.filter(|len| *len <= self.rest.len()) else {
            return Err(self.error(name, format!("is cut short: {} bytes are left", self.rest.len())));
        };
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(taken)
    }

    /// A number.
    pub fn word(&mut self, name: &str) -> Result<u64, StateError> {
        Ok(number8(self.take(name, Some(8))?))
    }

    /// A number up to `limit`.
    pub fn word_to(&mut self, name: &str, limit: u64) -> Result<u64, StateError> {
        let word = self.word(name)?;
        if word > limit {
            return Err(self.error(name, format!("{word} is above {limit}")));
        }
        Ok(word)
    }

    /// A number of 32 bits.
    pub fn small(&mut self, name: &str) -> Result<u32, StateError> {
        Ok(self.word_to(name, u64::from(u32::MAX))? as u32)
    }

    /// A number from `-limit` to `limit`.
    pub fn signed_to(&mut self, name: &str, limit: i64) -> Result<i64, StateError> {
        let word = self.word(name)? as i64;
        if !(-limit..=limit).contains(&word) {
            return Err(self.error(name, format!("{word} is not from -{limit} to {limit}")));
        }
        Ok(word)
    }

    /// A flag.
    pub fn flag(&mut self, name: &str) -> Result<bool, StateError> {
        Ok(self.word_to(name, 1)? == 1)
    }

    /// Words that are a map of `bits` bits.
    pub fn map(&mut self, name: &str, bits: u32) -> Result<Box<[u64]>, StateError> {
        let bytes = self.take(name, bitmap::words_for(bits).checked_mul(8))?;
        let words: Box<[u64]> = bytes.chunks_exact(8).map(number8).collect();
        let len = words.len() as u32 * bitmap::WORD_BITS;
        if bitmap::next_set(&words, len, bits) < len {
            return Err(self.error(name, format!("bits set beyond the last of {bits}")));
        }
        Ok(words)
    }

    /// `count` rows of small numbers.
    pub fn rows<const N: usize>(
        &mut self,
        name: &str,
        count: usize,
    ) -> Result<impl ExactSizeIterator<Item = [u32; N]> + 'a, StateError> {
        let bytes = self.take(name, count.checked_mul(N * 4))?;
        Ok(bytes.chunks_exact(N * 4).map(|row| std::array::from_fn(|at| number4(&row[4 * at..]))))
    }

    /// A list with its length in front.
    pub fn list(&mut self, name: &str) -> Result<impl ExactSizeIterator<Item = u64> + 'a, StateError> {
        let len = usize::try_from(self.word(name)?).ok().and_then(|len| len.checked_mul(8));
        Ok(self.take(name, len)?.chunks_exact(8).map(number8))
    }

    /// Nothing must be left but the filling of the last word.
    pub fn end(&self) -> Result<(), StateError> {
        self.check(self.rest.len() < 8, "end")
    }
}

/// Writes right checksums into damaged bytes, as far as they have sections: for tests and fuzzing of what
/// comes behind the checksums.
#[cfg(any(test, feature = "testing"))]
pub fn seal(bytes: &mut [u8]) {
    if bytes.len() < HEADER {
        return;
    }
    let len = bytes.len() as u64;
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&len.to_le_bytes());
    let crc = crc32fast::hash(&bytes[16..HEADER]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    let mut rest = &mut bytes[HEADER..];
    while rest.len() >= SECTION {
        let len = usize::try_from(number8(&rest[8..])).ok().filter(|len| *len <= rest.len() - SECTION);
        let Some(len) = len else { return };
        let (section, behind) = std::mem::take(&mut rest).split_at_mut(SECTION + len);
        let crc = crc32fast::hash(&section[4..]);
        section[..4].copy_from_slice(&crc.to_le_bytes());
        rest = behind;
    }
}

/// The head of a good snapshot replaced: for tests.
#[cfg(any(test, feature = "testing"))]
pub fn with_head(bytes: &[u8], head: &Value) -> Vec<u8> {
    let at = number8(&bytes[24..]) as usize;
    Writer { bytes: bytes[..at].to_vec() }.finish(head)
}

/// The payload of each section of one kind replaced in a good snapshot: for tests.
#[cfg(any(test, feature = "testing"))]
pub fn with_section(bytes: &[u8], kind: Kind, write: impl Fn(&mut Writer)) -> Vec<u8> {
    let (head, reader) = Reader::open(bytes).expect("a good snapshot");
    let (mut rest, mut out) = (reader.rest, Writer::default());
    while !rest.is_empty() {
        let (section, behind) = rest.split_at(SECTION + number8(&rest[8..]) as usize);
        if number4(&section[4..]) == kind as u32 {
            out.section(kind, &write);
        } else {
            out.bytes.extend_from_slice(section);
        }
        rest = behind;
    }
    out.finish(&head)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written() -> Vec<u8> {
        let mut out = Writer::default();
        out.section(Kind::Chunk, |out| {
            out.word(7);
            out.words(&[1, 2, u64::MAX >> 1]);
            out.rows(3, [[1, 2, 3], [4, 5, 6], [7, 8, 9]].into_iter());
        });
        out.section(Kind::Lists, |out| out.list([5, 6].into_iter()));
        out.finish(&json!({"a": 1}))
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = written();
        let (head, mut reader) = Reader::open(&bytes).unwrap();
        assert_eq!(head, json!({"a": 1}));
        let mut chunk = reader.section(Kind::Chunk, "chunk").unwrap();
        assert_eq!(chunk.word("a").unwrap(), 7);
        assert_eq!(chunk.map("b", 191).unwrap()[..], [1, 2, u64::MAX >> 1]);
        assert_eq!(chunk.rows("c", 3).unwrap().collect::<Vec<_>>(), [[1, 2, 3], [4, 5, 6], [7, 8, 9]]);
        chunk.end().unwrap();
        let mut lists = reader.section(Kind::Lists, "lists").unwrap();
        assert_eq!(lists.list("d").unwrap().collect::<Vec<_>>(), [5, 6]);
        lists.end().unwrap();
        reader.end().unwrap();
    }

    #[test]
    fn every_bit_is_guarded() {
        let bytes = written();
        let read = |bytes: &[u8]| -> Result<(), StateError> {
            let (_, mut reader) = Reader::open(bytes)?;
            reader.section(Kind::Chunk, "chunk")?;
            reader.section(Kind::Lists, "lists")?;
            reader.end()
        };
        read(&bytes).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&damaged).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(read(&bytes[..len]).is_err(), "{len} bytes");
        }
        assert!(read(&[&bytes[..], &[0; 8]].concat()).is_err());
    }

    #[test]
    fn lengths_are_bounded_by_the_bytes() {
        let mut bytes = written();
        for len in [u64::MAX, u64::MAX - 7, 1 << 40, 1 << 60] {
            bytes[HEADER + 8..HEADER + 16].copy_from_slice(&len.to_le_bytes());
            seal(&mut bytes);
            let (_, mut reader) = Reader::open(&bytes).unwrap();
            assert!(reader.section(Kind::Chunk, "chunk").is_err());
        }
        let mut out = Writer::default();
        out.section(Kind::Lists, |out| out.word(1 << 61));
        let bytes = out.finish(&json!(0));
        let (_, mut reader) = Reader::open(&bytes).unwrap();
        let mut lists = reader.section(Kind::Lists, "lists").unwrap();
        assert!(lists.clone().list("d").is_err());
        assert!(lists.clone().map("d", u32::MAX).is_err());
        assert!(lists.rows::<8>("d", usize::MAX).is_err());
    }
}
