//! The usual lines, read in one go: the kernel's fields in the kernel's order.
//!
//! # Design
//!
//! [`Cursor`] walks over the text of an event, and every step either finds exactly what the kernel
//! prints or gives up. Whoever gives up is read again by the general parser, which takes fields in
//! any order and says what is wrong: nothing is decided here but speed.
//!
//! ```text
//!   call_site=SYM reserved=B is_atomic=B size=N align=N base_addr=P off=N ptr=P bytes_alloc=N gfp_flags=F
//!   base_addr=P off=N ptr=P
//! ```
//!
//! # Cost
//!
//! No allocation; eight hexadecimal digits at a time.
//!
//! # Source
//!
//! Specification 40 sections 6 and 6.1.

use memchr::memmem::Finder;

/// A pointer as printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pointer {
    /// `None` for `(ptrval)`, `(null)`, `(nil)`, and for zeros without `0x`.
    pub value: Option<u64>,
    /// Eight digits, of a 32-bit kernel.
    pub narrow: bool,
    /// With `0x`, as perf and trace-cmd print it.
    pub prefixed: bool,
}

/// The fields of an allocation.
pub(super) struct AllocFields<'a> {
    pub call_site: Option<&'a [u8]>,
    pub reserved: bool,
    pub atomic: bool,
    pub size: u32,
    pub align: u32,
    pub base: Pointer,
    pub off: i32,
    pub ptr: Pointer,
    pub bytes_alloc: Option<u64>,
    pub gfp_flags: Option<&'a [u8]>,
}

/// The fields of a free.
pub(super) struct FreeFields {
    pub base: Pointer,
    pub off: i32,
    pub ptr: Pointer,
}

/// Reads the text of an allocation, without blanks at its ends.
pub(super) fn alloc<'a>(text: &'a [u8], reserved_finder: &Finder<'_>) -> Option<AllocFields<'a>> {
    let mut c = Cursor(text);
    let mut call_site = None;
    if c.skip(b"call_site=") {
        let end = reserved_finder.find(c.0)?;
        call_site = Some(&c.0[..end]);
        c.0 = &c.0[end + 1..];
    }
    c.need(b"reserved=")?;
    let reserved = c.boolean()?;
    c.need(b" is_atomic=")?;
    let atomic = c.boolean()?;
    c.need(b" size=")?;
    let size = c.number()?.try_into().ok()?;
    c.need(b" align=")?;
    let align = c.number()?.try_into().ok()?;
    c.need(b" base_addr=")?;
    let base = c.pointer()?;
    c.need(b" off=")?;
    let off = c.number()?.try_into().ok()?;
    c.need(b" ptr=")?;
    let ptr = c.pointer()?;
    let mut fields =
        AllocFields { call_site, reserved, atomic, size, align, base, off, ptr, bytes_alloc: None, gfp_flags: None };
    if c.0.is_empty() {
        return Some(fields);
    }
    c.need(b" bytes_alloc=")?;
    fields.bytes_alloc = Some(c.number()?);
    if c.0.is_empty() {
        return Some(fields);
    }
    c.need(b" gfp_flags=")?;
    fields.gfp_flags = Some(c.0);
    Some(fields)
}

/// Reads the text of a free, without blanks at its ends.
pub(super) fn free(text: &[u8]) -> Option<FreeFields> {
    let mut c = Cursor(text);
    c.need(b"base_addr=")?;
    let base = c.pointer()?;
    c.need(b" off=")?;
    let off = c.number()?.try_into().ok()?;
    c.need(b" ptr=")?;
    let ptr = c.pointer()?;
    c.0.is_empty().then_some(FreeFields { base, off, ptr })
}

/// What is left of a text.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    /// The length is a constant, so that this becomes one or two comparisons of words.
    #[inline(always)]
    fn skip<const N: usize>(&mut self, literal: &[u8; N]) -> bool {
        match self.0.split_first_chunk::<N>() {
            Some((first, rest)) if first == literal => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    #[inline(always)]
    fn need<const N: usize>(&mut self, literal: &[u8; N]) -> Option<()> {
        self.skip(literal).then_some(())
    }

    /// `0` or `1`.
    #[inline]
    fn boolean(&mut self) -> Option<bool> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        matches!(first, b'0' | b'1').then_some(first == b'1')
    }

    /// Up to nineteen digits, which always fit.
    #[inline]
    fn number(&mut self) -> Option<u64> {
        let mut value = 0u64;
        let mut length = 0;
        while let Some(digit) = self.0.get(length).map(|byte| byte.wrapping_sub(b'0')).filter(|&digit| digit < 10) {
            value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
            length += 1;
        }
        self.0 = &self.0[length..];
        (1..=19).contains(&length).then_some(value)
    }

    /// A pointer that was printed as digits, up to the next blank or the end.
    #[inline]
    fn pointer(&mut self) -> Option<Pointer> {
        let prefixed = self.skip(b"0x");
        if let Some((digits, rest)) = self.0.split_first_chunk::<16>() {
            if let Some(value) = sixteen_hex_digits(digits).filter(|_| !matches!(rest, [byte, ..] if *byte != b' ')) {
                self.0 = rest;
                let value = (prefixed || value != 0).then_some(value);
                return Some(Pointer { value, narrow: false, prefixed });
            }
        }
        if !prefixed {
            return None;
        }
        let mut value = 0;
        let mut length = 0;
        while let Some(digit) = self.0.get(length).and_then(|&byte| hex_digit(byte)) {
            value = value << 4 | u64::from(digit);
            length += 1;
        }
        let bounded = !matches!(self.0.get(length), Some(byte) if *byte != b' ');
        self.0 = &self.0[length..];
        ((1..=15).contains(&length) && bounded).then_some(Pointer { value: Some(value), narrow: false, prefixed })
    }
}

/// The value of one hexadecimal digit.
#[inline]
pub(super) fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[inline]
fn sixteen_hex_digits(digits: &[u8; 16]) -> Option<u64> {
    let (high, low) = digits.split_at(8);
    let half = |bytes: &[u8]| eight_hex_digits(u64::from_be_bytes(bytes.try_into().ok()?));
    Some(u64::from(half(high)?) << 32 | u64::from(half(low)?))
}

/// Eight lower-case digits at once; the first one is the most significant byte.
#[inline]
fn eight_hex_digits(text: u64) -> Option<u32> {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let letter = text >> 6 & EACH;
    let value = (text & (EACH * 15)) + letter * 9;
    // Printed again it must be the same, digits below ten and letters from ten to fifteen.
    let printed = value + EACH * 0x30 + letter * 39;
    let from_ten = (value + EACH * 6) >> 4 & EACH;
    if printed != text || from_ten != letter || value & (EACH * 0x10) != 0 {
        return None;
    }
    let pairs = (value | value >> 4) & 0x00ff_00ff_00ff_00ff;
    let quads = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff;
    Some((quads | quads >> 16) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_are_those_of_the_plain_way() {
        for place in 0..8 {
            for byte in 0..=255u8 {
                let mut text = *b"09afc3e1";
                text[place] = byte;
                let plain = std::str::from_utf8(&text)
                    .ok()
                    .filter(|text| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
                    .and_then(|text| u32::from_str_radix(text, 16).ok());
                assert_eq!(eight_hex_digits(u64::from_be_bytes(text)), plain, "{text:?}");
            }
        }
    }

    #[test]
    fn a_pointer_ends_at_a_blank_or_the_end() {
        let read = |text: &str| Cursor(text.as_bytes()).pointer().map(|pointer| pointer.value);
        assert_eq!(read("ffffe8ffffc00000"), Some(Some(0xffff_e8ff_ffc0_0000)));
        assert_eq!(read("ffffe8ffffc00000 off"), Some(Some(0xffff_e8ff_ffc0_0000)));
        assert_eq!(read("0x60795bb00dc8"), Some(Some(0x6079_5bb0_0dc8)));
        assert_eq!(read("0xffffe8ffffc00000"), Some(Some(0xffff_e8ff_ffc0_0000)));
        assert_eq!(read("0x0"), Some(Some(0)));
        assert_eq!(read("0000000000000000"), Some(None));
        for text in
            ["ffffe8ffffc00000f", "ffffe8ffffc0000", "", "0x", "0xffffe8ffffc000001", "0x12g", "c7c00000", "(nil)"]
        {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
