//! Snapshots of the engines that have no state files: machine and engine, in one object.
//!
//! The machine (addresses, groups, address space) is written down here, the engine by itself
//! ([`Engine::save`](crate::engine::Engine::save)).

use serde_json::{json, Value};

use super::{space, Allocator};
use crate::address::{AddressMap, NO_LAYOUT_BASE};
use crate::backend::Backend;
use crate::engine::saved::bulk::Reader;
use crate::engine::saved::Fields;
use crate::engine::{self, Setup};
use crate::error::{ConfigError, StateError};
use crate::geometry::Geometry;
use crate::layout;
use crate::layout::topology::MAX_CPUS;
use crate::stats_text::StatsSizes;
use crate::units::{Bytes, WordSize};
use crate::variant::Preset;

/// What [`Allocator::from_snapshot`] hands over: everything but policy and supplies.
pub(super) struct Restored {
    pub engine: Box<dyn engine::Engine>,
    pub address: AddressMap,
    pub sizes: StatsSizes,
    pub groups: Vec<(u64, u64)>,
}

impl Allocator {
    /// The machine, as [`read`] reads it; what every snapshot has is written elsewhere.
    pub(super) fn machine_to_saved(&self) -> Value {
        let g = self.engine.geometry();
        let map = &self.address;
        json!({
            "page_size": g.page_size().0,
            "min_alloc_size": g.min_alloc_size().0,
            "block_size": g.block_size().0,
            "unit_size": g.unit_size().0,
            "nr_units": g.nr_units(),
            "nr_cpus": self.engine.backend().nr_cpus(),
            "chunk_align": self.engine.backend().atom_size(),
            "base_addr": map.base_addr,
            "per_cpu_start": map.per_cpu_start,
            "static_size": map.static_size,
            "unit_map": map.unit_map,
            "unit_offsets": map.unit_offsets,
            "groups": self.groups,
        })
    }
}

/// Reads the machine and the engine on it.
pub(super) fn read(own: &Fields<'_>, bulk: &mut Reader<'_>, preset: &'static Preset) -> Result<Restored, StateError> {
    let machine = own.object("machine")?;
    let config = |error: ConfigError| machine.error(error.parameter, error.to_string());
    let bytes = |name: &str| machine.number(name).map(Bytes);
    let geometry = Geometry::new(
        bytes("page_size")?,
        bytes("min_alloc_size")?,
        bytes("block_size")?,
        bytes("unit_size")?,
        machine.small("nr_units")?,
    );
    let geometry = geometry.map_err(config)?;
    let unit = geometry.unit_size().0;
    let address = read_address(own, &machine, &geometry)?;
    let mut setup = Setup::bare(preset, super::rules_of(preset), geometry);
    setup.backend = read_backend(own, bulk, &machine, &geometry, preset)?;
    let engine = engine::load(preset.generation, &setup, &own.object("engine")?, bulk)?;
    if engine.geometry() != &geometry {
        return Err(machine.error("block_size", format!("{} has other sizes", preset.generation)));
    }
    let sizes = StatsSizes {
        unit_size: unit,
        static_size: address.static_size,
        reserved_size: own.number("reserved_size")?,
        dyn_size: own.number("dyn_size")?,
        atom_size: own.number("atom_size")?,
        alloc_size: own.number("alloc_size")?,
    };
    let pair = |group: &Value| match group.as_array().map(Vec::as_slice) {
        Some([start, len]) => start.as_u64().zip(len.as_u64()),
        _ => None,
    };
    let groups: Option<Vec<_>> = machine.list("groups")?.iter().map(pair).collect();
    Ok(Restored { engine, address, sizes, groups: groups.ok_or_else(|| machine.bad("groups"))? })
}

fn read_address(own: &Fields<'_>, machine: &Fields<'_>, g: &Geometry) -> Result<AddressMap, StateError> {
    let unit_offsets = machine.optional_numbers("unit_offsets")?;
    let units = machine.optional_numbers("unit_map")?;
    let narrow = |unit: &Option<u64>| match unit {
        None => Some(None),
        Some(unit) => u32::try_from(*unit).ok().filter(|unit| *unit < g.nr_units()).map(Some),
    };
    let unit_map: Option<Vec<_>> = units.iter().map(narrow).collect();
    let unit_map = unit_map.ok_or_else(|| machine.bad("unit_map"))?;
    let same = unit_map.iter().map(Option::is_some).eq(unit_offsets.iter().map(Option::is_some));
    machine.check(same && unit_map.len() <= MAX_CPUS as usize, "unit_map")?;
    let possible = unit_map.iter().flatten().count() as u64;
    machine.check(possible > 0, "unit_map")?;
    machine.check(machine.number("nr_cpus")? == possible, "nr_cpus")?;
    let boot_cpu = own.small("boot_cpu")?;
    own.check(unit_map.get(boot_cpu as usize).is_some_and(Option::is_some), "boot_cpu")?;
    Ok(AddressMap {
        base_addr: machine.number("base_addr")?,
        per_cpu_start: machine.number("per_cpu_start")?,
        unit_offsets,
        unit_map,
        unit_size: g.unit_size().0,
        page_size: g.page_size().0,
        static_size: machine.number_to("static_size", g.unit_size().0)?,
        boot_cpu,
        word: WordSize::of_bits(own.number("word_bits")?).ok_or_else(|| own.bad("word_bits"))?,
        linear: own.flag("linear")?,
        identity: own.flag("identity")?,
        backend: if own.flag("contiguous")? { layout::Backend::KernelMemory } else { layout::Backend::Vmalloc },
    })
}

fn read_backend(
    own: &Fields<'_>,
    bulk: &mut Reader<'_>,
    machine: &Fields<'_>,
    g: &Geometry,
    preset: &Preset,
) -> Result<Backend, StateError> {
    let (page, unit) = (g.page_size().0, g.unit_size().0);
    let align = machine.number_to("chunk_align", u64::MAX / 2)?;
    machine.check(align.is_power_of_two() && align >= page, "chunk_align")?;
    let span = own.number_to("chunk_span", u64::MAX / 4)?;
    own.check(span >= unit, "chunk_span")?;
    let cpus = machine.small("nr_cpus")?;
    let mut backend = Backend::new(cpus, page, align, span);
    let next_addr = own.number("next_addr")?;
    own.check(next_addr >= NO_LAYOUT_BASE, "next_addr")?;
    backend.set_address_space(next_addr, span, align);
    backend.unmap_nothing = preset.unmap_nothing;
    backend.contiguous = own.flag("contiguous")?;
    backend.backing_pages = own.number("backing_pages")?;
    space::read(own, bulk, &mut backend)?;
    Ok(backend)
}
