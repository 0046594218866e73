//! Call sites of a trace against the symbols of the kernel that wrote it.
//!
//! # Design
//!
//! A table of functions sorted by address, as `/proc/kallsyms` gives them. A call site is printed in one of these forms
//! (specification 40 section 6.1), and [`Symbols::resolve`] makes the first one of all of them where the table allows:
//!
//! ```text
//! mm_init+0x2bf/0x4d0 [module]    ftrace
//! mm_init+0x2bf                   perf script, trace-cmd report
//! ffffffff810a1b2c, 0xfff...      where the symbol was not known
//! ```
//!
//! # Units
//!
//! Bytes.
//!
//! # Invariants
//!
//! Y1 addresses ascend, and none is there twice: of several names of one address the first is kept.
//!
//! # Cost
//!
//! A binary search or a look-up for each call site; there are some hundreds.
//!
//! # Source
//!
//! Specification 40 sections 6 and 6.1.

use std::borrow::Cow;
use std::collections::HashMap;

/// Farthest from the last symbol before an address that it is taken to belong to it, where no symbol follows soon: the
/// end of a function is not in the table.
const LONGEST: u64 = 1 << 20;

/// Functions of a kernel.
#[derive(Clone, Debug, Default)]
pub struct Symbols {
    /// Address, name and module (empty for the kernel itself), ascending.
    functions: Vec<(u64, String, String)>,
    /// Index by name; `None` if several functions have it.
    by_name: HashMap<String, Option<u32>>,
}

impl Symbols {
    /// A table from address, name and module of each function, in any order.
    pub fn new(mut functions: Vec<(u64, String, String)>) -> Self {
        functions.sort_by_key(|(address, _, _)| *address);
        functions.dedup_by_key(|(address, _, _)| *address);
        let mut by_name: HashMap<String, Option<u32>> = HashMap::with_capacity(functions.len());
        for (index, (_, name, _)) in (0..).zip(&functions) {
            by_name.entry(name.clone()).and_modify(|known| *known = None).or_insert(Some(index));
        }
        Self { functions, by_name }
    }

    /// Functions, one for each address.
    pub fn len(&self) -> usize {
        self.functions.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// Bytes from a function to the next one, if that is near enough to be its size.
    fn size(&self, index: usize) -> Option<u64> {
        let next = self.functions.get(index + 1)?.0;
        Some(next - self.functions[index].0).filter(|size| *size <= LONGEST)
    }

    /// A call site in full, or as it is.
    pub fn resolve<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.in_full(text).map_or(Cow::Borrowed(text), Cow::Owned)
    }

    fn in_full(&self, text: &str) -> Option<String> {
        let (index, off) = match address(text) {
            Some(address) => {
                let index = self.functions.partition_point(|function| function.0 <= address).checked_sub(1)?;
                (index, address - self.functions[index].0)
            }
            None => {
                let (name, off) = text.split_once("+0x").filter(|(_, off)| !off.contains(['/', ' ']))?;
                let index = (*self.by_name.get(name)?)?;
                (index as usize, u64::from_str_radix(off, 16).ok()?)
            }
        };
        if off >= self.size(index).unwrap_or(LONGEST) {
            return None;
        }
        let (_, name, module) = &self.functions[index];
        let size = self.size(index).map_or(String::new(), |size| format!("/{size:#x}"));
        let module = if module.is_empty() { String::new() } else { format!(" [{module}]") };
        Some(format!("{name}+{off:#x}{size}{module}"))
    }
}

/// The address that a text is: hexadecimal digits, at least eight of them or after `0x`.
fn address(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let marked = digits.len() < text.len() || digits.len() >= 8;
    let all = (1..=16).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(digits, 16).ok().filter(|_| marked && all)
}

/// The function of a call site, with its module.
pub fn function_of(text: &str) -> String {
    let Some((name, rest)) = text.split_once("+0x") else { return text.to_owned() };
    match rest.split_once(' ') {
        Some((_, module)) => format!("{name} {module}"),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbols() -> Symbols {
        let row = |address, name: &str, module: &str| (address, name.to_owned(), module.to_owned());
        Symbols::new(vec![
            row(0xffff_ffff_8100_0100, "second", ""),
            row(0xffff_ffff_8100_0000, "first", ""),
            row(0xffff_ffff_8100_0000, "alias", ""),
            row(0xffff_ffff_c000_0000, "init", "one"),
            row(0xffff_ffff_c000_0040, "last", "one"),
            row(0xffff_ffff_c001_0000, "init", "two"),
        ])
    }

    #[test]
    fn every_form_becomes_the_one_of_ftrace() {
        let symbols = symbols();
        for (text, expected) in [
            ("ffffffff81000012", "first+0x12/0x100"),
            ("0xffffffff81000100", "second+0x0"),
            ("first+0x12", "first+0x12/0x100"),
            ("first+0x12/0x200", "first+0x12/0x200"),
            ("last+0x4", "last+0x4/0xffc0 [one]"),
            ("ffffffffc0010004", "init+0x4 [two]"),
            ("init+0x4", "init+0x4"),
            ("first+0x100", "first+0x100"),
            ("first", "first"),
            ("nowhere+0x1", "nowhere+0x1"),
            ("ffffffff80ffffff", "ffffffff80ffffff"),
            ("ffffffffd0000000", "ffffffffd0000000"),
            ("second+0xg", "second+0xg"),
            ("", ""),
            ("0x", "0x"),
        ] {
            assert_eq!(symbols.resolve(text), expected, "{text}");
            assert_eq!(Symbols::default().resolve(text), text);
        }
    }

    #[test]
    fn a_function_keeps_its_module() {
        assert_eq!(function_of("pw+0xe1/0xff0 [pclab]"), "pw [pclab]");
        assert_eq!(function_of("mm_init+0x2bf"), "mm_init");
        assert_eq!(function_of("bpf_prog_alloc"), "bpf_prog_alloc");
        assert_eq!(function_of("ffffffff81000012"), "ffffffff81000012");
    }
}
