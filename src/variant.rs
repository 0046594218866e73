//! What differs between the generations: behaviour flags, constants, presets.
//!
//! # Design
//!
//! The three Linux generations are one implementation with [`Rules`]; each rule is a
//! flag with the section of the specification that defines it, never a comparison of
//! version numbers. A [`Preset`] is an engine plus the constants of one release. [`Thresholds`] are numbers that no
//! release has changed.
//!
//! # Source
//!
//! Specification 00 sections 3 and 4; per flag as noted.

use std::fmt;

use crate::error::ConfigError;
use crate::units::WordSize;

/// What an engine name like `linux-5.14` stands for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Generation {
    /// Lameter's proposal of 2008: one bitmap, no chunks.
    CpuAlloc2008,
    /// 2009 to 4.13: a sorted array of area boundaries.
    AreaMap,
    /// The bitmap allocator as posted on 2017-07-16.
    RfcV1,
    /// The bitmap allocator as merged, 4.14 to 5.1.
    Linux414,
    /// 5.2 to 5.13: scan hints, slots by largest free run.
    Linux52,
    /// 5.14 to today: depopulation and isolated chunks.
    Linux514,
}

impl Generation {
    /// All engines, oldest first.
    pub const ALL: [Generation; 6] = [
        Generation::CpuAlloc2008,
        Generation::AreaMap,
        Generation::RfcV1,
        Generation::Linux414,
        Generation::Linux52,
        Generation::Linux514,
    ];

    /// The name used in the Python API and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Generation::CpuAlloc2008 => "cpu_alloc-2008",
            Generation::AreaMap => "areamap",
            Generation::RfcV1 => "rfc-v1",
            Generation::Linux414 => "linux-4.14",
            Generation::Linux52 => "linux-5.2",
            Generation::Linux514 => "linux-5.14",
        }
    }

    /// The rules of this engine; `None` where it is not the merged bitmap allocator.
    pub const fn rules(self) -> Option<Rules> {
        match self {
            Generation::Linux414 => Some(Rules::LINUX_4_14),
            Generation::Linux52 => Some(Rules::LINUX_5_2),
            Generation::Linux514 => Some(Rules::LINUX_5_14),
            _ => None,
        }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

macro_rules! rules {
    ($($(#[doc = $doc:literal])+ $name:ident: [$a:literal $b:literal $c:literal], $section:literal;)+) => {
        /// Behaviour flags of the merged bitmap allocator.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct Rules {
            $($(#[doc = $doc])+ pub $name: bool,)+
        }

        impl Rules {
            /// 4.14 to 5.1.
            pub const LINUX_4_14: Rules = Rules { $($name: $a,)+ };
            /// 5.2 to 5.13.
            pub const LINUX_5_2: Rules = Rules { $($name: $b,)+ };
            /// 5.14 to today.
            pub const LINUX_5_14: Rules = Rules { $($name: $c,)+ };
            /// Name, meaning, section of the specification, and the value in the three
            /// generations, oldest first: the source of the table in the documentation.
            pub const TABLE: &[RuleInfo] = &[$(RuleInfo {
                name: stringify!($name),
                meaning: concat!($($doc),+),
                section: $section,
                values: [$a, $b, $c],
            },)+];

            /// Sets one flag by name; `None` if there is no such flag.
            pub fn with(mut self, name: &str, value: bool) -> Option<Self> {
                match name {
                    $(stringify!($name) => self.$name = value,)+
                    _ => return None,
                }
                Some(self)
            }
        }
    };
}

/// One row of [`Rules::TABLE`].
#[derive(Clone, Copy, Debug)]
pub struct RuleInfo {
    /// The field of [`Rules`].
    pub name: &'static str,
    /// What it means when set.
    pub meaning: &'static str,
    /// Where the specification says so.
    pub section: &'static str,
    /// Its value in linux-4.14, linux-5.2 and linux-5.14.
    pub values: [bool; 3],
}

rules! {
    /// Hints carry a second, smaller run; searches start behind it when it is too small and
    /// refreshes promote it instead of rescanning.
    scan_hints: [false true true], "10 sections 4.3, 5.1, 5.3, 5.4, 6.3";
    /// A hint is broken when the allocation overlaps it, not only when it starts inside it.
    hint_overlap: [false true true], "10 section 6.3 steps 4 and 9";
    /// Empty populated pages are counted at every change, not recounted at chunk refreshes.
    exact_empty_pages: [false true true], "10 section 8";
    /// The final search ends at the map's end and reports the largest area that it skipped.
    bounded_search: [false true true], "10 section 6.2 steps 2 and 3";
    /// A free offers the chunk hint an interval whose end is block-relative, not the length of
    /// the block's hint.
    free_offers_interval: [false true true], "10 section 7.3";
    /// A chunk's slot follows its largest known free run, not its free bytes.
    slot_by_contig: [false true true], "20 section 1";
    /// Chunks in slots 1 and 2 that fail a request leave the searched lists.
    sideline_failures: [false true true], "20 section 4";
    /// Chunks with many empty pages are isolated and their pages given back.
    depopulate: [false false true], "20 section 8, 21 sections 4 to 6";
    /// A request is atomic only if it may not reclaim directly, as in the stable trees of 6.1 and 6.12; before, and in the first
    /// releases from 5.14 on, also if any flag of an ordinary kernel request is missing (no-IO, no-FS).
    atomic_by_reclaim: [false false true], "20 section 3, 00 section 4.1";
}

/// Numbers at which something is done. Every kernel has the default; an experiment may have others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Thresholds {
    /// Fewer empty populated pages schedule the worker: `PCPU_EMPTY_POP_PAGES_LOW`.
    pub empty_pop_pages_low: u32,
    /// Up to so many the worker populates, and from so many on it gives back: `PCPU_EMPTY_POP_PAGES_HIGH`.
    pub empty_pop_pages_high: u32,
    /// Chunks in slots below that fail a request leave the searched lists: `PCPU_SLOT_FAIL_THRESHOLD`.
    pub slot_fail_threshold: u32,
    /// A chunk is depopulated if at least one page in so many is empty.
    pub reclaim_divisor: u32,
}

impl Thresholds {
    /// Those of every kernel.
    pub const KERNEL: Thresholds =
        Thresholds { empty_pop_pages_low: 2, empty_pop_pages_high: 4, slot_fail_threshold: 3, reclaim_divisor: 4 };
    /// Most pages that the worker may be told to keep ready.
    pub const MAX_PAGES: u32 = 4096;

    /// Sets one by name; `None` if there is no such one.
    pub fn with(mut self, name: &str, value: u32) -> Option<Self> {
        match name {
            "empty_pop_pages_low" => self.empty_pop_pages_low = value,
            "empty_pop_pages_high" => self.empty_pop_pages_high = value,
            "slot_fail_threshold" => self.slot_fail_threshold = value,
            "reclaim_divisor" => self.reclaim_divisor = value,
            _ => return None,
        }
        Some(self)
    }

    /// Names and numbers.
    pub fn named(&self) -> [(&'static str, u32); 4] {
        [
            ("empty_pop_pages_low", self.empty_pop_pages_low),
            ("empty_pop_pages_high", self.empty_pop_pages_high),
            ("slot_fail_threshold", self.slot_fail_threshold),
            ("reclaim_divisor", self.reclaim_divisor),
        ]
    }

    /// Refuses numbers that make no sense where chunks of a whole unit, but not wholly free ones, are on lists up to `unit_slot`.
    pub fn check(&self, unit_slot: u32) -> Result<(), ConfigError> {
        let (low, high) = (self.empty_pop_pages_low, self.empty_pop_pages_high);
        if high > Self::MAX_PAGES {
            let limit = format!("must be at most {}", Self::MAX_PAGES);
            return Err(ConfigError::new("empty_pop_pages_high", high, limit));
        }
        if low > high {
            let limit = format!("must be at most empty_pop_pages_high={high}, or the worker would never be content");
            return Err(ConfigError::new("empty_pop_pages_low", low, limit));
        }
        if self.slot_fail_threshold > unit_slot + 1 {
            let limit = format!("must be at most {}: there are no more slots of sizes", unit_slot + 1);
            return Err(ConfigError::new("slot_fail_threshold", self.slot_fail_threshold, limit));
        }
        if self.reclaim_divisor == 0 {
            return Err(ConfigError::new("reclaim_divisor", 0, "must be at least 1"));
        }
        Ok(())
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        Self::KERNEL
    }
}

/// How possible CPUs are collected into groups (specification 30 section 5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Grouping {
    /// Near the group's first CPU, distance exactly 10 both ways (5.12 and later).
    FirstMember,
    /// Near every CPU of the group, distance at most 10 both ways (before 5.12).
    AllMembers,
}

/// How the regions of the first chunk are laid over its pages (specification 31 section 5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Regions {
    /// Static size rounded up to the granule, hidden head and tail (4.14 and later).
    HiddenEnds,
    /// The posting of July 2017: reserved region padded to a page, one reserved offset.
    PaddedReserved,
    /// Before 2017: both boot chunks start at the unit's base.
    WholeUnit,
}

/// Which allocators of the first chunk there are (specification 31 sections 6 to 10).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BootAllocators {
    /// 2.6.30: large pages remapped, one block, single pages; unit number = CPU id.
    ByCpuId,
    /// 2.6.31: the same; several units share a large page, through a map of units.
    UnitMap,
    /// 2.6.32 and later: one block for each group, or single pages.
    Groups,
}

/// Constants of the first chunk that depend on the release.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LayoutRules {
    /// `PERCPU_DYNAMIC_EARLY_SIZE` in bytes.
    pub early_size: u64,
    /// `PERCPU_DYNAMIC_RESERVE` in bytes; the presets have that of 64-bit words.
    pub dyn_reserve: u64,
    /// `PERCPU_MODULE_RESERVE` in bytes.
    pub module_reserve: u64,
    /// Grouping rule.
    pub grouping: Grouping,
    /// Region rule.
    pub regions: Regions,
    /// Slot lists beyond those of the size formula: 2, or 4 with depopulation.
    pub extra_slots: u32,
    /// Smallest unit in bytes, before it is rounded up to a page: 32 KiB; 64 KiB before 2.6.37.
    pub min_unit_size: u64,
    /// Which allocators there are.
    pub allocators: BootAllocators,
    /// A wanted dynamic size of 0 stays 0, and [`DYN_PADDING`] asks for the padding to a page only (before 2.6.36).
    pub signed_dyn: bool,
    /// Of the farthest group one unit counts for the distance, not all of it (before 4.9).
    pub distance_of_unit: bool,
}

/// Stands for a dynamic size of -1: whatever the rounding leaves.
pub const DYN_PADDING: u64 = u64::MAX;

/// Build options that change the constants of the first chunk (specification 30 section 2.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Build {
    /// `PERCPU_DYNAMIC_SIZE_SHIFT`: 10; 12 with randomised kmalloc caches (6.6 and later); 13 with these, lockdep
    /// and a page that is not 4 KiB (6.12 and later).
    pub dyn_shift: u32,
    /// Loadable modules: there is a module reserve.
    pub modules: bool,
    /// Memory-allocation profiling, which enlarges the module reserve (some releases from 6.10 on).
    pub memory_profiling: bool,
}

impl Default for Build {
    fn default() -> Self {
        Self { dyn_shift: 10, modules: true, memory_profiling: false }
    }
}

impl LayoutRules {
    /// The constants of a release on a machine with such words.
    ///
    /// The 2.6 and 3 series have one dynamic reserve and 4.6 to 6.5 the next; 4.0 to 4.5 count as the latter, which
    /// a public log of 4.3 shows.
    pub fn of_release(release: (u32, u32, u32), word: WordSize, build: Build) -> Result<Self, ConfigError> {
        let too_early = |parameter, given: String, since: &str| {
            Err(ConfigError::new(parameter, given, format!("came with {since}, not before")))
        };
        let text = || format!("{}.{}.{}", release.0, release.1, release.2);
        if release < (2, 6, 30) {
            return Err(ConfigError::new("kernel", text(), "must be 2.6.30 or later"));
        }
        match build.dyn_shift {
            10 => {}
            12 if release < (6, 6, 0) => return too_early("dyn_shift", "12".into(), "6.6"),
            13 if release < (6, 12, 0) => return too_early("dyn_shift", "13".into(), "6.12"),
            12 | 13 => {}
            other => return Err(ConfigError::new("dyn_shift", other, "must be 10, 12 or 13")),
        }
        if build.memory_profiling && release < (6, 10, 0) {
            return too_early("memory_profiling", "true".into(), "6.10");
        }
        let early = match release {
            r if r < (2, 6, 36) => 0,
            r if r < (6, 2, 0) => 12 << 10,
            _ => 20 << build.dyn_shift,
        };
        let dyn_reserve = match (release < (4, 0, 0), word) {
            (true, WordSize::Bits32) => 12 << 10,
            (true, WordSize::Bits64) => 20 << 10,
            (false, WordSize::Bits32) => 20 << build.dyn_shift,
            (false, WordSize::Bits64) => 28 << build.dyn_shift,
        };
        let module_reserve = match (build.modules, build.memory_profiling) {
            (false, _) => 0,
            (true, false) => 8 << 10,
            (true, true) => 8 << 13,
        };
        Ok(Self {
            early_size: early,
            dyn_reserve,
            module_reserve,
            grouping: if release < (5, 12, 0) { AllMembers } else { FirstMember },
            regions: if release < (4, 14, 0) { Regions::WholeUnit } else { Regions::HiddenEnds },
            extra_slots: if release < (5, 14, 0) { 2 } else { 4 },
            min_unit_size: if release < (2, 6, 37) { 64 << 10 } else { 32 << 10 },
            allocators: match release {
                r if r < (2, 6, 31) => BootAllocators::ByCpuId,
                r if r < (2, 6, 32) => BootAllocators::UnitMap,
                _ => BootAllocators::Groups,
            },
            signed_dyn: release < (2, 6, 36),
            distance_of_unit: release < (4, 9, 0),
        })
    }
}

/// How well a preset is shown to be right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// Compared with what the kernel's own code did, whole state.
    Proven,
    /// Proven, and compared with recordings of running kernels.
    Recorded,
    /// By the specification's account of what changed between releases.
    Assumed,
}

impl Status {
    /// `proven`, `recorded` or `assumed`.
    pub const fn name(self) -> &'static str {
        match self {
            Status::Proven => "proven",
            Status::Recorded => "recorded",
            Status::Assumed => "assumed",
        }
    }
}

/// An engine plus the constants of one kernel release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// `6.12`, `4.19`, ...; `2008` and `rfc-v1` for what was never released.
    pub release: &'static str,
    /// The engine that reproduces it.
    pub generation: Generation,
    /// Constants of the first chunk.
    pub layout: LayoutRules,
    /// Failed atomic requests print the failure line too (6.6 and later).
    pub warn_atomic: bool,
    /// A mapping call that fails before it mapped anything is still undone (backend event only).
    pub unmap_nothing: bool,
    /// Memory-cgroup accounted requests have slot lists of their own (5.9 to 5.13).
    pub accounted_slots: bool,
    /// How it was shown to be right.
    pub status: Status,
}

const fn layout(early_kib: u64, grouping: Grouping, regions: Regions, extra_slots: u32) -> LayoutRules {
    LayoutRules {
        early_size: early_kib << 10,
        dyn_reserve: 28 << 10,
        module_reserve: 8 << 10,
        grouping,
        regions,
        extra_slots,
        min_unit_size: 32 << 10,
        allocators: BootAllocators::Groups,
        signed_dyn: false,
        distance_of_unit: false,
    }
}

const fn linux(
    release: &'static str,
    generation: Generation,
    early_kib: u64,
    grouping: Grouping,
    status: Status,
) -> Preset {
    let extra = if matches!(generation, Generation::Linux514) { 4 } else { 2 };
    Preset {
        release,
        generation,
        layout: layout(early_kib, grouping, Regions::HiddenEnds, extra),
        warn_atomic: false,
        unmap_nothing: false,
        accounted_slots: false,
        status,
    }
}

const fn since_6_6(mut preset: Preset) -> Preset {
    preset.warn_atomic = true;
    preset.unmap_nothing = true;
    preset
}

const fn accounted(mut preset: Preset) -> Preset {
    preset.accounted_slots = true;
    preset
}

use Generation::{Linux414, Linux514, Linux52};
use Grouping::{AllMembers, FirstMember};
use Status::{Assumed, Proven, Recorded};

/// Every preset, oldest first.
pub const PRESETS: &[Preset] = &[
    Preset {
        release: "2008",
        generation: Generation::CpuAlloc2008,
        layout: layout(0, AllMembers, Regions::WholeUnit, 0),
        warn_atomic: false,
        unmap_nothing: false,
        accounted_slots: false,
        status: Proven,
    },
    Preset {
        release: "4.13",
        generation: Generation::AreaMap,
        layout: layout(12, AllMembers, Regions::WholeUnit, 2),
        warn_atomic: false,
        unmap_nothing: false,
        accounted_slots: false,
        status: Proven,
    },
    Preset {
        release: "rfc-v1",
        generation: Generation::RfcV1,
        layout: layout(12, AllMembers, Regions::PaddedReserved, 2),
        warn_atomic: false,
        unmap_nothing: false,
        accounted_slots: false,
        status: Proven,
    },
    linux("4.14", Linux414, 12, AllMembers, Assumed),
    linux("4.19", Linux414, 12, AllMembers, Proven),
    linux("5.1", Linux414, 12, AllMembers, Assumed),
    linux("5.2", Linux52, 12, AllMembers, Assumed),
    linux("5.4", Linux52, 12, AllMembers, Proven),
    accounted(linux("5.10", Linux52, 12, AllMembers, Assumed)),
    accounted(linux("5.12", Linux52, 12, FirstMember, Assumed)),
    linux("5.14", Linux514, 12, FirstMember, Assumed),
    linux("5.15", Linux514, 12, FirstMember, Assumed),
    linux("6.1", Linux514, 12, FirstMember, Recorded),
    linux("6.2", Linux514, 20, FirstMember, Assumed),
    since_6_6(linux("6.6", Linux514, 20, FirstMember, Assumed)),
    since_6_6(linux("6.12", Linux514, 20, FirstMember, Recorded)),
    since_6_6(linux("6.18", Linux514, 20, FirstMember, Assumed)),
];

/// The preset that is used when none is named.
pub const DEFAULT_RELEASE: &str = "6.12";

impl Preset {
    /// The preset of a release such as `6.12`.
    pub fn by_release(release: &str) -> Option<&'static Preset> {
        PRESETS.iter().find(|preset| preset.release == release)
    }

    /// The preset of the engine that a release had: the newest one that is not younger, before 4.13 that of the area
    /// map; `None` before there were chunks.
    pub fn of_number(release: (u32, u32, u32)) -> Option<&'static Preset> {
        let number = |preset: &Preset| {
            let mut numbers = preset.release.split('.').map(|number| number.parse().ok());
            Some((numbers.next()??, numbers.next()??, 0))
        };
        let dated = PRESETS.iter().filter_map(|preset| Some((number(preset)?, preset)));
        let older = dated.filter(|&(number, _)| number <= release).max_by_key(|&(number, _)| number);
        older
            .map(|(_, preset)| preset)
            .or_else(|| (release >= (2, 6, 30)).then(|| Self::of_generation(Generation::AreaMap)))
    }

    /// The constants of the first chunk on another machine or with other build options.
    pub fn layout_for(&self, word: WordSize, build: Build) -> Result<LayoutRules, ConfigError> {
        let release = match self.generation {
            Generation::CpuAlloc2008 => return Err(ConfigError::new("kernel", self.release, "has no first chunk")),
            // Posted on the release before the next.
            Generation::RfcV1 => "4.13",
            _ => self.release,
        };
        let mut numbers = release.split('.').map_while(|number| number.parse().ok());
        let number = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0), 0);
        let LayoutRules { grouping, regions, extra_slots, .. } = self.layout;
        Ok(LayoutRules { grouping, regions, extra_slots, ..LayoutRules::of_release(number, word, build)? })
    }

    /// The preset that stands for an engine when only its name is given: the newest proven one.
    pub fn of_generation(generation: Generation) -> &'static Preset {
        PRESETS
            .iter()
            .rev()
            .find(|preset| preset.generation == generation && preset.status != Assumed)
            .expect("every engine has a preset that is not assumed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_generation_has_a_preset_and_a_distinct_name() {
        for generation in Generation::ALL {
            assert_eq!(Preset::of_generation(generation).generation, generation);
        }
        assert_eq!(Preset::of_generation(Generation::Linux514).release, DEFAULT_RELEASE);
        assert_eq!(Preset::of_generation(Generation::Linux52).release, "5.4");
    }

    #[test]
    fn releases_between_presets() {
        let of = |release| Preset::of_number(release).map(|preset| preset.release);
        for (release, expected) in [
            ((2, 6, 29), None),
            ((2, 6, 30), Some("4.13")),
            ((4, 13, 9), Some("4.13")),
            ((5, 3, 0), Some("5.2")),
            ((6, 12, 117), Some("6.12")),
            ((7, 0, 0), Some("6.18")),
        ] {
            assert_eq!(of(release), expected, "{release:?}");
        }
    }

    #[test]
    fn presets_have_the_constants_of_their_release() {
        for preset in PRESETS.iter().filter(|preset| preset.generation != Generation::CpuAlloc2008) {
            let rules = preset.layout_for(WordSize::Bits64, Build::default()).unwrap();
            assert_eq!(rules, preset.layout, "{}", preset.release);
            if preset.generation != Generation::RfcV1 {
                let mut numbers = preset.release.split('.').map(|n| n.parse().unwrap());
                let number = (numbers.next().unwrap(), numbers.next().unwrap(), 0);
                assert_eq!(LayoutRules::of_release(number, WordSize::Bits64, Build::default()), Ok(rules));
            }
        }
        assert!(PRESETS[0].layout_for(WordSize::Bits64, Build::default()).is_err());
    }

    /// Specification 30 section 5.
    #[test]
    fn groups_are_those_of_their_first_member_since_5_12() {
        for (release, grouping) in [
            ((5, 10, 0), Grouping::AllMembers),
            ((5, 11, 0), Grouping::AllMembers),
            ((5, 11, 22), Grouping::AllMembers),
            ((5, 12, 0), Grouping::FirstMember),
            ((6, 12, 0), Grouping::FirstMember),
        ] {
            let rules = LayoutRules::of_release(release, WordSize::Bits64, Build::default()).unwrap();
            assert_eq!(rules.grouping, grouping, "{release:?}");
        }
    }

    /// Specification 30 section 2.1: early, dynamic reserve of 64 and 32 bits, module reserve; KiB.
    #[test]
    fn constants_by_release_and_word() {
        let plain = Build::default();
        let shifted = |dyn_shift| Build { dyn_shift, ..plain };
        let profiled = Build { memory_profiling: true, ..plain };
        let none = Build { modules: false, memory_profiling: true, ..plain };
        for (release, build, early, dyn_64, dyn_32, module) in [
            ((2, 6, 30), plain, 0, 20, 12, 8),
            ((2, 6, 32), plain, 0, 20, 12, 8),
            ((2, 6, 36), plain, 12, 20, 12, 8),
            ((3, 19, 8), plain, 12, 20, 12, 8),
            ((4, 6, 0), plain, 12, 28, 20, 8),
            ((6, 1, 0), Build { modules: false, ..plain }, 12, 28, 20, 0),
            ((6, 5, 0), plain, 20, 28, 20, 8),
            ((6, 6, 0), plain, 20, 28, 20, 8),
            ((6, 6, 0), shifted(12), 80, 112, 80, 8),
            ((6, 12, 0), shifted(13), 160, 224, 160, 8),
            ((6, 10, 0), profiled, 20, 28, 20, 64),
            ((6, 10, 0), none, 20, 28, 20, 0),
        ] {
            let rules = [WordSize::Bits64, WordSize::Bits32].map(|word| LayoutRules::of_release(release, word, build));
            let [wide, narrow] = rules.map(|rules| rules.unwrap());
            let kib = [early, dyn_64, dyn_32, module].map(|kib: u64| kib << 10);
            let got = [wide.early_size, wide.dyn_reserve, narrow.dyn_reserve, wide.module_reserve];
            assert_eq!(got, kib, "{release:?} {build:?}");
            assert_eq!((narrow.early_size, narrow.module_reserve), (kib[0], kib[3]));
        }
        for (release, build, parameter) in [
            ((2, 6, 29), plain, "kernel"),
            ((6, 5, 9), shifted(12), "dyn_shift"),
            ((6, 6, 0), shifted(13), "dyn_shift"),
            ((6, 12, 0), shifted(11), "dyn_shift"),
            ((6, 9, 0), profiled, "memory_profiling"),
        ] {
            let error = LayoutRules::of_release(release, WordSize::Bits64, build).unwrap_err();
            assert_eq!(error.parameter, parameter);
        }
    }

    #[test]
    fn the_table_has_every_flag() {
        for (column, rules) in [Rules::LINUX_4_14, Rules::LINUX_5_2, Rules::LINUX_5_14].into_iter().enumerate() {
            for row in Rules::TABLE {
                assert_eq!(rules.with(row.name, row.values[column]), Some(rules), "{}", row.name);
                assert_ne!(rules.with(row.name, !row.values[column]), Some(rules), "{}", row.name);
            }
        }
    }
}
