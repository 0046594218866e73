//! The summary line: which allocator made the first chunk, and its sizes.
//!
//! # Design
//!
//! [`SummaryForm`] is a period, [`Summary`] what the line of any period holds. Every row of the version table is
//! written and parsed; what a form does not print is absent after parsing.
//!
//! # Units
//!
//! Bytes, as printed. Pages only in [`Summary::pages`].
//!
//! # Invariants
//!
//! S1 *round trip*: parsing what was written gives the form and the summary back, as far as the form prints it.
//!
//! # Source
//!
//! Specification 40 sections 1 and 2.

/// How the summary line looked, by period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum SummaryForm {
    /// 2.6.30.
    V2_6_30,
    /// 2.6.31.
    V2_6_31,
    /// 2.6.32 to about 4.5: prefix `PERCPU: `, address printed.
    V2_6_32,
    /// 4.6 to 5.1: prefix `percpu: `, address printed (hashed from 4.15).
    V4_6,
    /// 5.2 to today: no address.
    #[default]
    V5_2,
}

impl SummaryForm {
    /// All forms, oldest first.
    pub const ALL: [Self; 5] = [Self::V2_6_30, Self::V2_6_31, Self::V2_6_32, Self::V4_6, Self::V5_2];

    /// The prefix of the allocator's own messages.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::V2_6_30 | Self::V2_6_31 | Self::V2_6_32 => "PERCPU: ",
            Self::V4_6 | Self::V5_2 => "percpu: ",
        }
    }

    /// The form of a release such as `6.12`, `4.19.0-6-amd64` or `2.6.35-22`; `None` if it is no number or
    /// older than 2.6.30.
    pub fn of_release(release: &str) -> Option<Self> {
        Self::of_number(release_number(release)?)
    }

    /// The form of a release; `None` if it is older than 2.6.30.
    pub fn of_number(version: (u32, u32, u32)) -> Option<Self> {
        Some(match version {
            v if v < (2, 6, 30) => return None,
            (2, 6, 30) => Self::V2_6_30,
            (2, 6, 31) => Self::V2_6_31,
            v if v < (4, 6, 0) => Self::V2_6_32,
            v if v < (5, 2, 0) => Self::V4_6,
            _ => Self::V5_2,
        })
    }

    /// The form that golden data or logs show by what is printed: the prefix, and whether there is an address.
    fn of_text(upper: bool, pointer: bool) -> Self {
        match (upper, pointer) {
            (true, _) => Self::V2_6_32,
            (false, true) => Self::V4_6,
            (false, false) => Self::V5_2,
        }
    }
}

/// The first three numbers of a release; missing ones are 0.
pub fn release_number(release: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = release.split(['.', '-', '+', '~', '_']).map_while(|part| part.parse::<u32>().ok());
    let major = numbers.next()?;
    Some((major, numbers.next()?, numbers.next().unwrap_or(0)))
}

/// Which allocator made the first chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SummaryKind {
    /// One block per group, used in place.
    Embed,
    /// Mapped page by page.
    Page,
    /// Remapped large pages (2009 only).
    LargePage,
}

/// The summary line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Which allocator.
    pub kind: SummaryKind,
    /// Pages per CPU; 0 where the line has none (large pages).
    pub pages: u64,
    /// The `K` of the page line: page size in KiB.
    pub page_kib: Option<u64>,
    /// The address as printed: `ffff88083fc00000`, `(____ptrval____)`, ...; with the blanks that pad it.
    pub pointer: Option<String>,
    /// Static size, bytes.
    pub static_size: u64,
    /// Reserved size, bytes; the lines of 2.6.30 lack it.
    pub reserved_size: Option<u64>,
    /// Dynamic size, bytes.
    pub dyn_size: Option<u64>,
    /// Unit size, bytes; page lines lack it.
    pub unit_size: Option<u64>,
}

impl Summary {
    /// The line with its prefix. Parts that the form does not print are left out; numbers that it prints but
    /// the summary lacks are 0, a lacking address is `(____ptrval____)`.
    pub fn text(&self, form: SummaryForm) -> String {
        let prefix = form.prefix();
        let pointer = self.pointer.as_deref().unwrap_or("(____ptrval____)");
        let at = if form == SummaryForm::V5_2 { String::new() } else { format!("@{pointer} ") };
        let (pages, s) = (self.pages, self.static_size);
        let r = self.reserved_size.unwrap_or(0);
        let d = self.dyn_size.unwrap_or(0);
        let u = self.unit_size.unwrap_or(0);
        let kib = self.page_kib.unwrap_or(4);
        use SummaryForm as F;
        use SummaryKind as K;
        match (form, self.kind) {
            (F::V2_6_30, K::Embed) => {
                format!("{prefix}Embedded {pages} pages at {pointer}, static data {s} bytes")
            }
            (F::V2_6_30, K::Page) => format!("{prefix}Allocated {pages} 4k pages, static data {s} bytes"),
            (F::V2_6_30, K::LargePage) => {
                format!("{prefix}Remapped at {pointer} with large pages, static data {s} bytes")
            }
            (F::V2_6_31, K::Page) => format!("{prefix}{pages} 4k pages/cpu {at}s{s} r{r}"),
            (_, K::LargePage) => format!("{prefix}large pages {at}s{s} r{r} d{d} u{u}"),
            (_, K::Embed) => format!("{prefix}Embedded {pages} pages/cpu {at}s{s} r{r} d{d} u{u}"),
            (_, K::Page) => format!("{prefix}{pages} {kib}K pages/cpu {at}s{s} r{r} d{d}"),
        }
    }

    /// Reads a line whose time and level were stripped; `None` if it is no summary.
    pub fn parse(line: &str) -> Option<(SummaryForm, Summary)> {
        let line = line.trim_end();
        let (upper, body) = match line.strip_prefix("PERCPU: ") {
            Some(body) => (true, body),
            None => (false, line.strip_prefix("percpu: ")?),
        };
        let mut summary = Summary {
            kind: SummaryKind::Embed,
            pages: 0,
            page_kib: None,
            pointer: None,
            static_size: 0,
            reserved_size: None,
            dyn_size: None,
            unit_size: None,
        };
        if let Some((front, bytes)) = body.split_once(", static data ") {
            // The three lines of 2.6.30.
            summary.static_size = bytes.strip_suffix(" bytes")?.parse().ok()?;
            if let Some(rest) = front.strip_prefix("Embedded ") {
                let (pages, pointer) = rest.split_once(" pages at ")?;
                summary.pages = pages.parse().ok()?;
                summary.pointer = Some(pointer.to_string());
            } else if let Some(rest) = front.strip_prefix("Allocated ") {
                summary.kind = SummaryKind::Page;
                summary.page_kib = Some(4);
                summary.pages = rest.strip_suffix(" 4k pages")?.parse().ok()?;
            } else {
                summary.kind = SummaryKind::LargePage;
                summary.pointer =
                    Some(front.strip_prefix("Remapped at ")?.strip_suffix(" with large pages")?.to_string());
            }
            return Some((SummaryForm::V2_6_30, summary));
        }
        let mut form = None;
        let rest = if let Some(rest) = body.strip_prefix("large pages ") {
            summary.kind = SummaryKind::LargePage;
            form = Some(SummaryForm::V2_6_31);
            rest
        } else {
            let (head, rest) = body.split_once(" pages/cpu ")?;
            if let Some(pages) = head.strip_prefix("Embedded ") {
                summary.pages = pages.parse().ok()?;
            } else {
                let (pages, kib) = head.split_once(' ')?;
                summary.kind = SummaryKind::Page;
                summary.pages = pages.parse().ok()?;
                let number = kib.strip_suffix(['K', 'k'])?;
                summary.page_kib = Some(number.parse().ok()?);
                if kib.ends_with('k') {
                    form = Some(SummaryForm::V2_6_31);
                }
            }
            rest
        };
        let rest = match rest.strip_prefix('@') {
            Some(rest) => {
                // `%p` may be padded with blanks on the left: `@        (ptrval) s...`.
                let blanks = rest.len() - rest.trim_start().len();
                let (pointer, rest) = rest.split_at_checked(blanks + rest.trim_start().find(' ')?)?;
                summary.pointer = Some(pointer.to_string());
                rest
            }
            None => rest,
        };
        let mut seen_static = false;
        for word in rest.split_ascii_whitespace() {
            let value = word.get(1..)?.parse::<u64>().ok()?;
            match word.as_bytes()[0] {
                b's' => {
                    summary.static_size = value;
                    seen_static = true;
                }
                b'r' => summary.reserved_size = Some(value),
                b'd' => summary.dyn_size = Some(value),
                b'u' => summary.unit_size = Some(value),
                _ => return None,
            }
        }
        let form = form.unwrap_or(SummaryForm::of_text(upper, summary.pointer.is_some()));
        seen_static.then_some((form, summary))
    }
}
