//! What a log shows, the requests that may be behind it, and the lines that each gives.
//!
//! # Design
//!
//! See the module above. Candidates come in this order: constants of the release; the same with the printed reserved
//! size; printed sizes fed back. Within each, topologies: told, of the dump, one node, equal nodes, none.
//!
//! # Units
//!
//! Bytes.
//!
//! # Source
//!
//! As the module above.

use super::{addresses_at, Clues, Input, Recovery, Source};
use crate::boot_log::{message, release_number, BootLog, DumpHead, Message, Summary, SummaryForm, SummaryKind};
use crate::error::{ConfigError, LayoutError};
use crate::layout::arch::{Machine, ARCH_PRESETS};
use crate::layout::groups::AllocInfo;
use crate::layout::memory::{GivenGroups, PagesOnly};
use crate::layout::request::{Backend, FirstChunkRequest, Kind, EINVAL};
use crate::layout::topology::{Topology, MAX_CPUS};
use crate::units::{round_up, WordSize};
use crate::variant::{BootAllocators, Build, LayoutRules};

/// A request to try.
pub(super) struct Candidate {
    request: FirstChunkRequest,
    topology_known: bool,
    from_release: bool,
}

/// What a log shows, and what follows without trying.
pub(super) struct Shown {
    arch: Option<String>,
    release: Option<String>,
    page_size: u64,
    form: SummaryForm,
    summary: Option<Summary>,
    static_size: u64,
    /// `None` in the lines of 2.6.30.
    reserved_size: Option<u64>,
    /// `None` in the lines of 2.6.30 and the page lines of 2.6.31.
    dyn_size: Option<u64>,
    unit_size: Option<u64>,
}

impl Shown {
    pub(super) fn of(log: &BootLog, clues: &Clues) -> Result<Self, String> {
        let (form, summary) = match &log.summary {
            Some((form, summary)) => (*form, Some(summary)),
            None => (SummaryForm::V5_2, None),
        };
        let (sizes, unit_size) = match (log.head, summary) {
            (Some(head), _) => {
                ((head.static_size, Some(head.reserved_size), Some(head.dyn_size)), Some(head.unit_size))
            }
            (None, Some(s)) => ((s.static_size, s.reserved_size, s.dyn_size), s.unit_size),
            (None, None) => return Err("neither a summary nor the sizes of the dump".to_string()),
        };
        let (static_size, reserved_size, dyn_size) = sizes;
        if let (Some(groups), Some(setup), None) = (log.groups(), log.setup, &clues.topology) {
            let nr_ids = groups.iter().flatten().flatten().max().map_or(0, |cpu| u64::from(*cpu) + 1);
            let nr_shown = groups.iter().flatten().flatten().count() as u64;
            // As many CPUs as there are ids, but not all of them: that is damage, which the lines will show.
            if nr_ids < setup.nr_cpu_ids && nr_shown < setup.nr_cpu_ids {
                let ids = setup.nr_cpu_ids;
                return Err(format!("the dump ends at cpu {}, the machine has {ids}", nr_ids.saturating_sub(1)));
            }
        }
        let in_2009 = matches!(form, SummaryForm::V2_6_30 | SummaryForm::V2_6_31);
        // The summary line itself gives the page: its pages hold just what it prints.
        let by_pages = summary.filter(|s| s.kind == SummaryKind::Embed && s.pages > 0).and_then(|s| {
            let sum = s.static_size.checked_add(s.reserved_size?)?.checked_add(s.dyn_size?)?;
            Some(sum / s.pages).filter(|page| sum % s.pages == 0 && page.is_power_of_two() && *page >= 64)
        });
        let by_name = summary.and_then(|s| s.page_kib?.checked_shl(10)).filter(|page| *page > 0);
        let page_size = by_name.or(clues.page_size).or(by_pages).or(in_2009.then_some(4096));
        let release = clues.kernel.clone().or_else(|| log.release.clone());
        let release = release.filter(|release| release_number(release).is_some());
        let arch = clues.arch.clone().or_else(|| {
            // Only x86 prints the line of CPU counts; a short address tells its words.
            log.setup?;
            let short = summary.and_then(|s| s.pointer.as_ref()).is_some_and(|pointer| pointer.len() == 8);
            Some(if short { "i386" } else { "x86_64" }.to_string())
        });
        let arch = arch.or_else(|| in_2009.then(|| "x86_64".to_string()));
        let release = release.or_else(|| match form {
            SummaryForm::V2_6_30 => Some("2.6.30".to_string()),
            SummaryForm::V2_6_31 => Some("2.6.31".to_string()),
            _ => None,
        });
        Ok(Self {
            page_size: page_size.ok_or("no page size")?,
            arch,
            release,
            form,
            summary: summary.cloned(),
            static_size,
            reserved_size,
            dyn_size,
            unit_size,
        })
    }

    fn kind(&self) -> Option<SummaryKind> {
        self.summary.as_ref().map(|summary| summary.kind)
    }

    /// Topologies to try: the caller's, the dump's, one node, equal nodes. Empty if nothing is known.
    fn topologies(&self, log: &BootLog, clues: &Clues) -> Result<Vec<Topology>, ConfigError> {
        if let Some(topology) = &clues.topology {
            return Ok(vec![topology.clone()]);
        }
        if let Some(groups) = log.groups() {
            return topology_of(&groups).map(|topology| vec![topology]);
        }
        if let Some(dump) = &log.lpage {
            // Where a group ends is not printed: at a hole or where ids fall back at the latest, at every large
            // page at the earliest.
            let mut late: Vec<Vec<Option<u32>>> = Vec::new();
            let mut before = None;
            for page in dump.units.chunks(dump.units_per_lpage()) {
                let follows = before.is_some_and(|before| page.first().copied().flatten() > before);
                match late.last_mut() {
                    Some(group) if follows && group.last().is_some_and(Option::is_some) => group.extend(page),
                    _ => late.push(page.to_vec()),
                }
                before = Some(page.iter().copied().flatten().last());
            }
            let early: Vec<Vec<Option<u32>>> = dump.units.chunks(dump.units_per_lpage()).map(<[_]>::to_vec).collect();
            return Ok(vec![topology_of(&late)?, topology_of(&early)?]);
        }
        let Some(setup) = log.setup else { return Ok(Vec::new()) };
        let (cpus, nodes) = (u32::try_from(setup.nr_cpu_ids).unwrap_or(u32::MAX), setup.nr_node_ids);
        if nodes == 1 {
            return Ok(vec![Topology::flat(cpus)?]);
        }
        if nodes == 0 || nodes > u64::from(cpus) || cpus > MAX_CPUS || u64::from(cpus) % nodes != 0 {
            return Ok(Vec::new());
        }
        Ok(vec![Topology::from_nodes(&vec![(u64::from(cpus) / nodes) as u32; nodes as usize])?])
    }

    /// Requests in the order in which they are tried.
    pub(super) fn candidates(&self, log: &BootLog, clues: &Clues) -> Vec<Result<Candidate, LayoutError>> {
        let topologies = match self.topologies(log, clues) {
            Ok(topologies) => topologies,
            Err(error) => return vec![Err(error.into())],
        };
        // Last resort: some unit that the sizes allow, whatever the CPUs are.
        let printed = log.head.is_some() || log.lpage.is_some() || clues.topology.is_some();
        let unknown = (!printed || topologies.is_empty()).then_some(None);
        let topologies: Vec<Option<Topology>> = topologies.into_iter().map(Some).chain(unknown).collect();
        let mut all = Vec::new();
        for topology in &topologies {
            all.extend(self.of_release(log, clues, topology.as_ref()));
        }
        for topology in &topologies {
            all.extend(self.with_reserved(log, clues, topology.as_ref()));
        }
        if let (Some(reserved_size), Some(dyn_size)) = (self.reserved_size, self.dyn_size) {
            for topology in &topologies {
                all.extend(self.fed_back(log, clues, topology.as_ref(), reserved_size, dyn_size));
            }
        }
        all
    }

    /// Every kind of machine and build of the architecture and release.
    fn of_release(
        &self,
        log: &BootLog,
        clues: &Clues,
        topology: Option<&Topology>,
    ) -> Vec<Result<Candidate, LayoutError>> {
        let (Some(arch), Some(release)) = (&self.arch, &self.release) else { return Vec::new() };
        let number = release_number(release).unwrap_or_default();
        let mut variants: Vec<&str> =
            ARCH_PRESETS.iter().filter(|row| row.arch.contains(&arch.as_str())).map(|row| row.variant).collect();
        variants.dedup();
        let early_x86 = number < (3, 5, 0) && (arch == "x86_64" || ARCH_PRESETS[2].arch.contains(&arch.as_str()));
        let pages: &[(bool, bool)] =
            if early_x86 { &[(true, false), (true, true), (false, false)] } else { &[(true, false)] };
        let mut all = Vec::new();
        for variant in variants {
            for &(large_pages, pae) in pages {
                for build in builds(number) {
                    let machine = Machine {
                        variant: Some(variant.to_string()),
                        build,
                        large_pages,
                        pae,
                        smp: !self.one_cpu_kernel(),
                        kind: self.asked(log, clues),
                        ..Machine::new(arch, release, self.page_size, one_cpu(topology), self.static_size)
                    };
                    let mut request = machine.request().map_err(LayoutError::from);
                    if let (Ok(request), Some(SummaryKind::Embed)) = (&mut request, self.kind()) {
                        // It was asked for by name where `auto` would have taken pages.
                        request.kind = if request.kind == Kind::Page { Kind::Embed } else { request.kind };
                    }
                    all.push(request.and_then(|request| self.finish(log, topology, request, true)));
                }
            }
        }
        all
    }

    /// The usual build with the printed reserved size: a machine may ask for any.
    fn with_reserved(
        &self,
        log: &BootLog,
        clues: &Clues,
        topology: Option<&Topology>,
    ) -> Vec<Result<Candidate, LayoutError>> {
        let Some(reserved_size) = self.reserved_size else { return Vec::new() };
        let mut all = self.of_release(log, clues, topology);
        for candidate in all.iter_mut().flatten() {
            candidate.request.reserved_size = reserved_size;
        }
        all
    }

    /// The printed sizes as input, with no early minimum; constants of the period.
    fn fed_back(
        &self,
        log: &BootLog,
        clues: &Clues,
        topology: Option<&Topology>,
        reserved_size: u64,
        dyn_size: u64,
    ) -> Vec<Result<Candidate, LayoutError>> {
        let page = self.kind() == Some(SummaryKind::Page);
        let mut all = Vec::new();
        let printed = log.head.filter(|_| !page).map(|head| vec![head.atom_size]);
        let atoms = printed.unwrap_or_else(|| self.default_atoms());
        let tried = self.min_units().into_iter().flat_map(|unit| atoms.iter().map(move |&atom| (unit, atom)));
        for (min_unit_size, atom_size) in tried {
            for early_size in if page { self.early_sizes() } else { vec![0] } {
                let rules = LayoutRules::of_release(self.period(), WordSize::Bits64, Build::default());
                let request = rules.map_err(LayoutError::from).and_then(|mut rules| {
                    (rules.early_size, rules.signed_dyn) = (early_size, false);
                    let mut request = FirstChunkRequest::new(one_cpu(topology), rules, self.static_size);
                    (request.reserved_size, request.dyn_size) = (reserved_size, dyn_size);
                    request.page_size = self.page_size;
                    request.min_unit_size = Some(round_up(min_unit_size, self.page_size.max(1)));
                    request.atom_size = atom_size;
                    request.form = self.form;
                    request.kind = match self.asked(log, clues) {
                        _ if self.one_cpu_kernel() => Kind::Up,
                        kind => kind,
                    };
                    self.finish(log, topology, request, false)
                });
                all.push(request);
            }
        }
        all
    }

    /// What the messages say about a request, and a given unit where the CPUs are not known.
    fn finish(
        &self,
        log: &BootLog,
        topology: Option<&Topology>,
        mut request: FirstChunkRequest,
        from_release: bool,
    ) -> Result<Candidate, LayoutError> {
        for message in &log.messages {
            match message {
                Message::UnknownAllocator { name } => request.unknown_allocator = Some(name.clone()),
                Message::Wasting { .. } => request.backend = Backend::KernelMemory,
                Message::MaxDistance { vmalloc_total, .. } => {
                    request.vmalloc_total = *vmalloc_total;
                    // Kernel: with the page allocator the distance is an error, without it a warning.
                    request.page_allocator = log.fallback.is_some();
                }
                _ => {}
            }
        }
        let grouped = request.rules.allocators == BootAllocators::Groups;
        if topology.is_none() && grouped && matches!(request.kind, Kind::Auto | Kind::Embed) {
            let candidates = request.layout_input().unit_candidates()?;
            let unit_size = self.unit_size.filter(|unit_size| candidates.contains(unit_size)).ok_or_else(|| {
                let given = self.unit_size.map_or("none".to_string(), |unit_size| unit_size.to_string());
                ConfigError::new("unit_size", given, format!("must be one of {candidates:?} for these sizes"))
            })?;
            let info = request.alloc_info()?;
            (request.reserved_size, request.dyn_size) = (info.reserved_size, info.dyn_size);
            request.kind = Kind::Explicit { unit_size };
        }
        Ok(Candidate { request, topology_known: topology.is_some(), from_release })
    }

    /// A kernel without SMP: no static section, no summary line.
    fn one_cpu_kernel(&self) -> bool {
        self.static_size == 0 && self.summary.is_none()
    }

    /// Which allocator was asked for, as far as that can be told.
    fn asked(&self, log: &BootLog, clues: &Clues) -> Kind {
        let named = clues.parameter.as_ref().or(log.parameter.as_ref());
        match (named.map(String::as_str), log.fallback, self.kind()) {
            (_, Some(_), _) => {
                let name = log.messages.iter().find_map(|message| match message {
                    Message::FallingBack { name, .. } => Some(name.as_str()),
                    _ => None,
                });
                match name {
                    Some("embed") => Kind::Embed,
                    Some("lpage") => Kind::LargePage,
                    _ => Kind::Auto,
                }
            }
            (Some("embed"), ..) => Kind::Embed,
            // 2009: what `auto` took shows which one it was, and the nodes may be unknown.
            (.., Some(SummaryKind::Embed)) if self.period() < (2, 6, 32) => Kind::Embed,
            (Some("page" | "4k"), ..) | (_, _, Some(SummaryKind::Page)) => Kind::Page,
            (_, _, Some(SummaryKind::LargePage)) => Kind::LargePage,
            _ => Kind::Auto,
        }
    }

    /// A release of the time when logs looked so.
    fn period(&self) -> (u32, u32, u32) {
        let named = self.release.as_deref().and_then(release_number);
        named.filter(|number| *number >= (2, 6, 30)).unwrap_or(match self.form {
            SummaryForm::V2_6_30 => (2, 6, 30),
            SummaryForm::V2_6_31 => (2, 6, 31),
            SummaryForm::V2_6_32 => (3, 0, 0),
            SummaryForm::V4_6 => (4, 19, 0),
            SummaryForm::V5_2 => (6, 12, 0),
        })
    }

    /// Smallest units of the period: 64 KiB up to 2.6.36, then 32 KiB. A log of the old form without a release
    /// may be of either time.
    fn min_units(&self) -> Vec<u64> {
        match (self.form, self.release.as_deref().and_then(release_number)) {
            (SummaryForm::V4_6 | SummaryForm::V5_2, _) => vec![32 << 10],
            (_, Some(release)) if release < (2, 6, 37) => vec![64 << 10],
            (_, Some(_)) => vec![32 << 10],
            (_, None) => vec![32 << 10, 64 << 10],
        }
    }

    /// Early minimums of the period, which the page allocator's dynamic size consists of.
    fn early_sizes(&self) -> Vec<u64> {
        match self.form {
            SummaryForm::V5_2 => vec![12 << 10, 20 << 10, 20 << 12, 20 << 13],
            _ => vec![12 << 10, 0],
        }
    }

    /// Atoms to try where the log has no dump: the architecture's rule, or any that some architecture has.
    fn default_atoms(&self) -> Vec<u64> {
        let large_page = (self.page_size / 8).saturating_mul(self.page_size);
        let release = self.release.as_deref().and_then(release_number);
        let Some(arch) = self.arch.as_deref() else {
            let mut atoms = vec![self.page_size, large_page, 1 << 20, 2 << 20, 4 << 20];
            atoms.retain(|atom| atom % self.page_size == 0);
            return atoms;
        };
        vec![match arch {
            "x86_64" | "amd64" | "loongarch64" => large_page,
            "i386" | "i486" | "i586" | "i686" if release < Some((3, 5, 0)) => 4 << 20,
            "ppc64" | "ppc64le" => 1 << 20,
            "sparc64" => 4 << 20,
            _ => self.page_size,
        }]
    }

    /// The lines that a candidate gives.
    pub(super) fn compute(&self, log: &BootLog, candidate: Candidate) -> Result<Recovery, LayoutError> {
        let Candidate { request, topology_known, from_release } = candidate;
        let mut lines = Vec::new();
        let chunk = match (log.fallback, log.max_distance) {
            (Some(EINVAL), Some((distance, total))) => {
                self.check_distance(&request, topology_known, distance, total)?;
                lines.push(format!("{}{}", request.form.prefix(), message::max_distance(distance, total)));
                let name = request.kind.name();
                lines.push(format!("{}{}", request.arch_prefix, message::falling_back(name, EINVAL)));
                FirstChunkRequest { kind: Kind::Page, ..request.clone() }.build()?
            }
            (Some(_), _) => request.set_up(&mut PagesOnly)?,
            (None, Some((distance, _))) if distance > 0 && request.alloc_info()?.groups.len() > 1 => {
                request.set_up(&mut GivenGroups::new(addresses_at(&request, distance)?))?
            }
            _ => request.build()?,
        };
        let computed = chunk.log.iter().map(|line| line.text.clone());
        lines.extend(computed.filter_map(|line| self.as_printed(log, line)));
        let given = !topology_known && matches!(request.kind, Kind::Explicit { .. });
        if let (true, Some(head)) = (given, lines.first_mut().filter(|_| log.head.is_some())) {
            // A given unit is its own allocation; the one that the sizes lead to is several.
            let input = request.layout_input();
            let alloc_size = round_up(input.sizes()?.min_unit_size, request.atom_size);
            if let Some(mut dump) = DumpHead::parse(head) {
                dump.alloc_factor = alloc_size / request.atom_size;
                *head = dump.text();
            }
        }
        if let (true, Some(shown)) = (matches!(request.kind, Kind::Explicit { .. }), &self.summary) {
            // A given unit prints no summary of its own.
            lines.insert(0, embedded_line(&chunk.info, self, shown));
        }
        let topology_known = topology_known || request.kind == Kind::Up;
        Ok(Recovery {
            request,
            chunk,
            topology_known,
            from_release,
            inputs: Vec::new(),
            lines,
            differences: Vec::new(),
        })
    }

    /// A computed line with the address as the log has it; `None` for lines that people did not quote as a whole:
    /// the summary, or the dump.
    fn as_printed(&self, log: &BootLog, line: String) -> Option<String> {
        if let Some((form, mut summary)) = Summary::parse(&line) {
            let shown = self.summary.as_ref()?;
            summary.pointer.clone_from(&shown.pointer);
            // 2.6.31 embeds with the line of 2.6.32.
            return Some(summary.text(if form == SummaryForm::V2_6_30 { form } else { self.form }));
        }
        let quoted = match line.strip_prefix("pcpu-alloc: ") {
            Some(rest) if rest.starts_with('[') => !log.cells.is_empty(),
            Some(_) => log.head.is_some(),
            None => true,
        };
        quoted.then_some(line)
    }

    /// The distance must be refused, and be one that groups of whole atoms can have.
    fn check_distance(
        &self,
        request: &FirstChunkRequest,
        topology_known: bool,
        distance: u64,
        total: u64,
    ) -> Result<(), ConfigError> {
        let bad = |limit: &str| Err(ConfigError::new("max_distance", format!("{distance:#x}"), limit));
        if distance <= total.wrapping_mul(3) / 4 {
            return bad("must be beyond three quarters of the vmalloc space");
        }
        // What is printed in the end is the page allocator's dynamic size; embedding asked for the reserve.
        let mut input = request.layout_input();
        input.dyn_size = input.dyn_size.max(input.rules.dyn_reserve);
        // After the fall-back the dump shows one group: then any unit is possible.
        let grouped = topology_known && request.alloc_info()?.groups.len() > 1;
        let units = if grouped { vec![input.build()?.unit_size] } else { input.unit_candidates()? };
        let fits = |end: u64| distance >= end && (distance - end) % request.atom_size == 0;
        let whole = fits(0) && (self.release.is_none() || !request.rules.distance_of_unit);
        let one_unit =
            (self.release.is_none() || request.rules.distance_of_unit) && units.iter().any(|&unit| fits(unit));
        if whole || one_unit {
            return Ok(());
        }
        bad("must end with a whole group, before 4.9 with one unit of it")
    }

    /// Where each input comes from.
    pub(super) fn inputs(&self, log: &BootLog, clues: &Clues, recovery: &Recovery) -> Vec<Input> {
        let request = &recovery.request;
        let followed = if recovery.from_release { Source::Follows } else { Source::Shown };
        let told = |known: bool, source| if known { Source::Told } else { source };
        let mut inputs = Vec::new();
        let mut add = |name, value: String, source| inputs.push(Input { name, value, source });
        if let Some(release) = &self.release {
            let source = if log.release.is_some() { Source::Shown } else { Source::Follows };
            add("kernel", release.clone(), told(clues.kernel.is_some(), source));
        }
        if let Some(arch) = &self.arch {
            add("arch", arch.clone(), told(clues.arch.is_some(), Source::Follows));
        }
        let page_source = match &self.summary {
            Some(summary) if summary.page_kib.is_some() => Source::Shown,
            _ => told(clues.page_size.is_some(), Source::Follows),
        };
        add("page_size", self.page_size.to_string(), page_source);
        add("static_size", self.static_size.to_string(), Source::Shown);
        add("reserved_size", request.reserved_size.to_string(), followed);
        add("dyn_size", request.dyn_size.to_string(), followed);
        let atom_source = if log.head.is_some() { Source::Shown } else { Source::Assumed };
        add(
            "atom_size",
            request.atom_size.to_string(),
            if recovery.from_release { Source::Follows } else { atom_source },
        );
        let (text, source) = match (recovery.topology_known, log.groups(), log.setup) {
            (false, ..) => ("unknown; the printed unit is one that these sizes allow".to_string(), Source::Assumed),
            (true, groups, setup) => {
                let topology = &request.topology;
                let mut nodes: Vec<u32> = topology.possible().iter().map(|&cpu| topology.node(cpu)).collect();
                nodes.sort_unstable();
                nodes.dedup();
                let source = match (groups, setup) {
                    (Some(_), _) => Source::Shown,
                    (None, Some(setup)) if setup.nr_node_ids == 1 => Source::Follows,
                    _ => Source::Assumed,
                };
                (format!("{} CPUs in {} groups", topology.nr_possible(), nodes.len()), source)
            }
        };
        add("topology", text, told(clues.topology.is_some(), source));
        add("first_chunk", request.kind.name().to_string(), Source::Follows);
        add(
            "early_size",
            request.rules.early_size.to_string(),
            told(false, if recovery.from_release { Source::Follows } else { Source::Assumed }),
        );
        add(
            "min_unit_size",
            request.min_unit_size().to_string(),
            if self.release.is_some() { Source::Follows } else { Source::Assumed },
        );
        if let Some((_, total)) = log.max_distance {
            add("vmalloc_size", total.to_string(), Source::Shown);
        }
        inputs
    }
}

/// Builds that a release may have, the usual one first.
fn builds(release: (u32, u32, u32)) -> impl Iterator<Item = Build> {
    let shifts = [10, 12, 13].into_iter().filter(move |shift| match shift {
        10 => true,
        12 => release >= (6, 6, 0),
        _ => release >= (6, 12, 0),
    });
    let modules = |dyn_shift| {
        [(true, false), (false, false), (true, true)].map(|(modules, memory_profiling)| Build {
            dyn_shift,
            modules,
            memory_profiling,
        })
    };
    shifts.flat_map(modules).filter(move |build| !build.memory_profiling || release >= (6, 10, 0))
}

fn one_cpu(topology: Option<&Topology>) -> Topology {
    topology.cloned().unwrap_or_else(|| Topology::flat(1).expect("one CPU is enough"))
}

/// The CPUs of groups, each of which becomes a node.
fn topology_of(groups: &[Vec<Option<u32>>]) -> Result<Topology, ConfigError> {
    let placed: Vec<(u32, u32)> =
        (0u32..).zip(groups).flat_map(|(g, units)| units.iter().flatten().map(move |cpu| (*cpu, g))).collect();
    if let Some((cpu, _)) = placed.iter().find(|(cpu, _)| *cpu >= MAX_CPUS) {
        return Err(ConfigError::new("topology", format!("cpu {cpu}"), format!("must be below {MAX_CPUS}")));
    }
    let nr_ids = placed.iter().map(|(cpu, _)| *cpu as usize + 1).max().unwrap_or(0);
    let mut nodes: Vec<Option<u32>> = vec![None; nr_ids];
    for (cpu, group) in placed {
        nodes[cpu as usize] = Some(group);
    }
    let gaps: Vec<u32> = (0u32..).zip(&nodes).filter(|(_, node)| node.is_none()).map(|(cpu, _)| cpu).collect();
    Topology::from_cpu_nodes(nodes.into_iter().map(Option::unwrap_or_default).collect())?.with_impossible(&gaps)
}

fn embedded_line(info: &AllocInfo, shown: &Shown, printed: &Summary) -> String {
    let summary = Summary {
        kind: printed.kind,
        pages: info.size_sum() / shown.page_size,
        page_kib: Some(shown.page_size >> 10),
        pointer: printed.pointer.clone(),
        static_size: info.static_size,
        reserved_size: Some(info.reserved_size),
        dyn_size: Some(info.dyn_size),
        unit_size: Some(info.unit_size),
    };
    summary.text(shown.form)
}
