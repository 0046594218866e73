//! Single messages of the set-up and of failed requests, written and parsed.
//!
//! # Design
//!
//! A function for each text, without its prefix unless noted, and [`Message`], which holds what any of them says.
//! Only two differ between releases: before 2.6.32 pages are `4k`, before 3.18 a failed request does not say whether
//! it was atomic.
//!
//! # Units
//!
//! Bytes, except where the text itself counts pages, KiB or MiB.
//!
//! # Invariants
//!
//! M1 *round trip*: `Message::parse(&message.text(form)) == Some(message)` for every form that has the message.
//!
//! # Source
//!
//! Specification 40 section 4; 31 sections 3, 6, 8 and 10.

use super::summary::SummaryForm;
use super::{CRIT, EMERG, INFO, WARNING};

/// A set-up check failed.
pub fn failed_to_initialize(condition: &str) -> String {
    format!("failed to initialize, {condition}")
}

/// The mask of possible CPUs, `nr_cpu_ids` bits, most significant word first.
pub fn cpu_possible_mask(possible: &[u32], nr_cpu_ids: u32) -> String {
    let bits = nr_cpu_ids.max(1) as usize;
    let mut words = vec![0u32; bits.div_ceil(32)];
    for &cpu in possible {
        if let Some(word) = words.get_mut(cpu as usize / 32) {
            *word |= 1 << (cpu % 32);
        }
    }
    let first_bits = if bits % 32 == 0 { 32 } else { bits % 32 };
    let width = first_bits.div_ceil(4);
    let mut text = String::from("cpu_possible_mask=");
    for (index, word) in words.iter().rev().enumerate() {
        if index == 0 {
            text.push_str(&format!("{word:0width$x}"));
        } else {
            text.push_str(&format!(",{word:08x}"));
        }
    }
    text
}

/// The groups are further apart than three quarters of the vmalloc space. Bytes.
pub fn max_distance(distance: u64, vmalloc_total: u64) -> String {
    format!("max_distance={distance:#x} too large for vmalloc space {vmalloc_total:#x}")
}

/// No page for a CPU.
pub fn failed_to_allocate_page(page_size: u64, cpu: u32) -> String {
    format!("failed to allocate {}K page for cpu{cpu}", page_size >> 10)
}

/// The boot parameter names no allocator.
pub fn unknown_allocator(value: &str) -> String {
    format!("unknown allocator {value} specified")
}

/// Embedding failed; printed by the architecture with its own prefix.
pub fn falling_back(name: &str, errno: i32) -> String {
    format!("{name} allocator failed ({errno}), falling back to page size")
}

/// The kernel-memory backend cannot serve several groups.
pub const MORE_THAN_ONE_GROUP: &str = "can't handle more than one group";

/// The kernel-memory backend rounds a chunk up to a power of two of pages.
pub fn wasting(pages: u64) -> String {
    format!("wasting {pages} pages per chunk")
}

/// A CPU's node has no memory.
pub fn no_node(cpu: u32, node: u32) -> String {
    format!("cpu {cpu} has no node {node} or node-local memory")
}

/// The request itself is impossible; never prefixed. Bytes, after rounding.
pub fn illegal_size(size: u64, align: u64) -> String {
    format!("illegal size ({size}) or align ({align}) for percpu allocation")
}

/// A request failed. Bytes, after rounding.
pub fn allocation_failed(size: u64, align: u64, atomic: bool, reason: &str) -> String {
    format!("allocation failed, size={size} align={align} atomic={}, {reason}", u8::from(atomic))
}

/// The form of 2.6.34, which knew no atomic requests.
pub fn allocation_failed_2_6(size: u64, align: u64, reason: &str) -> String {
    format!("allocation failed, size={size} align={align}, {reason}")
}

/// Printed after the tenth failure.
pub const LIMIT_REACHED: &str = "limit reached, disable warning";

/// A parsed `allocation failed` message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureLine {
    /// Size, bytes, after rounding.
    pub size: u64,
    /// Alignment, bytes, after rounding.
    pub align: u64,
    /// Whether the request could not sleep; not printed before 3.18.
    pub atomic: Option<bool>,
    /// The kernel's reason.
    pub reason: String,
}

impl FailureLine {
    /// Reads the message anywhere in a line.
    pub fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.split_once("allocation failed, size=")?;
        let (numbers, reason) = rest.split_once(", ")?;
        let mut words = numbers.split(' ');
        let size = words.next()?.parse().ok()?;
        let align = words.next()?.strip_prefix("align=")?.parse().ok()?;
        let atomic = match words.next() {
            None => None,
            Some("atomic=0") => Some(false),
            Some("atomic=1") => Some(true),
            Some(_) => return None,
        };
        Some(Self { size, align, atomic, reason: reason.trim_end().to_string() })
    }
}

/// One of the messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A check of the set-up failed.
    FailedToInitialize {
        /// The condition as printed.
        condition: String,
    },
    /// The possible CPUs, ascending; printed behind the message above.
    PossibleMask(Vec<u32>),
    /// The groups are too far apart. Bytes.
    MaxDistance {
        /// From the lowest to the end of the highest group.
        distance: u64,
        /// The vmalloc space.
        vmalloc_total: u64,
    },
    /// No page for a CPU.
    NoPage {
        /// Page, KiB.
        page_kib: u64,
        /// The CPU.
        cpu: u32,
    },
    /// No large page for a CPU (2009).
    NoLargePage {
        /// The CPU.
        cpu: u32,
    },
    /// No block for embedding (2009). Bytes.
    NoBlock {
        /// Bytes asked for.
        size: u64,
    },
    /// The units do not fit a large page (2.6.30).
    LargerThanLargePage,
    /// The chunk would take too much of the vmalloc space (2.6.30). MiB.
    ChunkTooLarge {
        /// MiB of a chunk.
        mib: u64,
    },
    /// The boot parameter names no allocator.
    UnknownAllocator {
        /// What it says.
        name: String,
    },
    /// An allocator was given up for single pages.
    FallingBack {
        /// The allocator.
        name: String,
        /// A negative errno.
        errno: i32,
    },
    /// The kernel-memory backend cannot serve several groups.
    MoreThanOneGroup,
    /// The kernel-memory backend rounds chunks up. Pages.
    Wasting {
        /// Pages lost in each chunk.
        pages: u64,
    },
    /// A CPU's node has no memory.
    NoNode {
        /// The CPU.
        cpu: u32,
        /// Its node.
        node: u32,
    },
    /// No allocator could make a first chunk: the machine stops.
    CannotInitialize {
        /// A negative errno.
        errno: i32,
    },
    /// A table could not be had: the machine stops. Bytes.
    NoTable {
        /// Bytes asked for.
        size: u64,
    },
    /// The hand-made unit is too small (ia64): the machine stops. Bytes.
    Overflow {
        /// Static size.
        static_size: u64,
        /// Reserved size.
        reserved_size: u64,
    },
    /// A request that no chunk could serve. Bytes, after rounding.
    IllegalSize {
        /// Size.
        size: u64,
        /// Alignment.
        align: u64,
    },
    /// A request that failed.
    AllocationFailed(FailureLine),
    /// Printed after the tenth failure.
    LimitReached,
}

/// The text between two others.
fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.strip_prefix(before)?.strip_suffix(after)
}

fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    // `parse` takes a sign, which no unsigned number of the kernel has.
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

fn errno(text: &str) -> Option<i32> {
    number::<i32>(text.strip_prefix('-')?).map(|value| -value)
}

fn hex(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u64::from_str_radix(text, 16).ok())?
}

impl Message {
    /// The text without its prefix, as kernels of that period print it.
    pub fn text(&self, form: SummaryForm) -> String {
        let old = matches!(form, SummaryForm::V2_6_30 | SummaryForm::V2_6_31);
        match self {
            Self::FailedToInitialize { condition } => failed_to_initialize(condition),
            Self::PossibleMask(cpus) => cpu_possible_mask(cpus, cpus.last().map_or(1, |cpu| cpu.saturating_add(1))),
            Self::MaxDistance { distance, vmalloc_total } => max_distance(*distance, *vmalloc_total),
            Self::NoPage { cpu, .. } if old => format!("failed to allocate 4k page for cpu{cpu}"),
            Self::NoPage { page_kib, cpu } => format!("failed to allocate {page_kib}K page for cpu{cpu}"),
            Self::NoLargePage { cpu } => format!("failed to allocate large page for cpu{cpu}"),
            Self::NoBlock { size } => format!("failed to allocate {size} bytes for embedding"),
            Self::LargerThanLargePage => LARGER_THAN_LARGE_PAGE.to_string(),
            Self::ChunkTooLarge { mib } => format!("too large chunk size {mib}MB for large page remap"),
            Self::UnknownAllocator { name } => unknown_allocator(name),
            Self::FallingBack { name, errno } if old => {
                format!("{name} allocator failed ({errno}), falling back to 4k")
            }
            Self::FallingBack { name, errno } => falling_back(name, *errno),
            Self::MoreThanOneGroup => MORE_THAN_ONE_GROUP.to_string(),
            Self::Wasting { pages } => wasting(*pages),
            Self::NoNode { cpu, node } => no_node(*cpu, *node),
            Self::CannotInitialize { errno } => format!("cannot initialize percpu area (err={errno})"),
            Self::NoTable { size } => format!("pcpu_setup_first_chunk: Failed to allocate {size} bytes"),
            Self::Overflow { static_size, reserved_size } => {
                format!("percpu area overflow static={static_size} reserved={reserved_size}")
            }
            Self::IllegalSize { size, align } => illegal_size(*size, *align),
            Self::AllocationFailed(line) => match line.atomic {
                Some(atomic) => allocation_failed(line.size, line.align, atomic, &line.reason),
                None => allocation_failed_2_6(line.size, line.align, &line.reason),
            },
            Self::LimitReached => LIMIT_REACHED.to_string(),
        }
    }

    /// Reads a text without its prefix; `None` if it is none of the messages.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim_end();
        let fixed = [
            (LARGER_THAN_LARGE_PAGE, Self::LargerThanLargePage),
            (MORE_THAN_ONE_GROUP, Self::MoreThanOneGroup),
            (LIMIT_REACHED, Self::LimitReached),
        ];
        if let Some((_, message)) = fixed.into_iter().find(|(known, _)| *known == text) {
            return Some(message);
        }
        if let Some(condition) = text.strip_prefix("failed to initialize, ") {
            return Some(Self::FailedToInitialize { condition: condition.to_string() });
        }
        if let Some(mask) = text.strip_prefix("cpu_possible_mask=") {
            return possible_cpus(mask).map(Self::PossibleMask);
        }
        if let Some((distance, total)) =
            text.strip_prefix("max_distance=0x").and_then(|rest| rest.split_once(" too large for vmalloc space 0x"))
        {
            return Some(Self::MaxDistance { distance: hex(distance)?, vmalloc_total: hex(total)? });
        }
        if let Some((page, cpu)) =
            text.strip_prefix("failed to allocate ").and_then(|rest| rest.split_once(" page for cpu"))
        {
            let cpu = number(cpu)?;
            return Some(match page.strip_suffix(['K', 'k']) {
                _ if page == "large" => Self::NoLargePage { cpu },
                kib => Self::NoPage { page_kib: number(kib?)?, cpu },
            });
        }
        if let Some(size) = between(text, "failed to allocate ", " bytes for embedding") {
            return Some(Self::NoBlock { size: number(size)? });
        }
        if let Some(mib) = between(text, "too large chunk size ", "MB for large page remap") {
            return Some(Self::ChunkTooLarge { mib: number(mib)? });
        }
        if let Some(name) = between(text, "unknown allocator ", " specified") {
            return Some(Self::UnknownAllocator { name: name.to_string() });
        }
        if let Some((name, rest)) = text.split_once(" allocator failed (") {
            let (code, to) = rest.split_once("), falling back to ")?;
            let known = ["page size", "4k"].contains(&to);
            return known.then(|| Some(Self::FallingBack { name: name.to_string(), errno: errno(code)? }))?;
        }
        if let Some(pages) = between(text, "wasting ", " pages per chunk") {
            return Some(Self::Wasting { pages: number(pages)? });
        }
        if let Some(rest) = between(text, "cpu ", " or node-local memory") {
            let (cpu, node) = rest.split_once(" has no node ")?;
            return Some(Self::NoNode { cpu: number(cpu)?, node: number(node)? });
        }
        if let Some(code) = between(text, "cannot initialize percpu area (err=", ")") {
            return Some(Self::CannotInitialize { errno: errno(code)? });
        }
        if let Some(size) = between(text, "pcpu_setup_first_chunk: Failed to allocate ", " bytes") {
            return Some(Self::NoTable { size: number(size)? });
        }
        if let Some((size, reserved)) =
            text.strip_prefix("percpu area overflow static=").and_then(|rest| rest.split_once(" reserved="))
        {
            return Some(Self::Overflow { static_size: number(size)?, reserved_size: number(reserved)? });
        }
        if let Some((size, align)) =
            between(text, "illegal size (", ") for percpu allocation").and_then(|rest| rest.split_once(") or align ("))
        {
            return Some(Self::IllegalSize { size: number(size)?, align: number(align)? });
        }
        let failure = text.strip_prefix("allocation failed, ").and_then(|_| FailureLine::parse(text));
        failure.map(Self::AllocationFailed)
    }

    /// The level at which it is printed.
    pub const fn level(&self) -> u8 {
        match self {
            Self::FailedToInitialize { .. }
            | Self::PossibleMask(_)
            | Self::CannotInitialize { .. }
            | Self::NoTable { .. }
            | Self::Overflow { .. } => EMERG,
            Self::MoreThanOneGroup => CRIT,
            Self::NoNode { .. } | Self::LimitReached => INFO,
            _ => WARNING,
        }
    }
}

/// The units do not fit a large page (2.6.30).
pub const LARGER_THAN_LARGE_PAGE: &str = "static data is larger than large page, can't use large page";

/// The CPUs of a mask: words of 32 bits, most significant first.
fn possible_cpus(mask: &str) -> Option<Vec<u32>> {
    let words: Vec<&str> = mask.split(',').collect();
    let mut cpus = Vec::new();
    for (index, word) in (0u32..).zip(words.iter().rev()) {
        let bits = hex(word).filter(|_| (1..=8).contains(&word.len()))?;
        cpus.extend((0..32).filter(|bit| bits >> bit & 1 == 1).map(|bit| index * 32 + bit));
    }
    Some(cpus)
}
