//! What the operations begin with: small machines of every generation, and machines as kernels have them.

use super::input::Input;
use crate::allocator::{Allocator, Balance};
use crate::backend::Backend;
use crate::engine::{self, BootChunks, BootRegion, Setup};
use crate::geometry::Geometry;
use crate::layout::vm_areas::Search;
use crate::layout::{FirstChunkRequest, Topology, VmallocSpace};
use crate::units::{Bytes, Pages};
use crate::variant::{Generation, Preset, Rules};

/// How large the maps are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scale {
    /// Blocks of 8 to 32 bits, up to 8 of them.
    Small,
    /// Pages and blocks of 4096 bytes, granules of 4.
    Kernel,
}

/// A geometry of blocks of 8 to 32 bits; where blocks must be pages, they are.
fn small_geometry(input: &mut Input<'_>, generation: Generation) -> Geometry {
    let m = input.of(&[4, 4, 4, 2, 8, 1]);
    // Pages of less than 16 bytes are none.
    let block = (m * input.of(&[8, 16, 32])).max(16);
    let page = match input.below(4) {
        _ if generation == Generation::RfcV1 => block,
        0 => block * 2,
        1 => (block / 2).max(16),
        _ => block,
    };
    let unit = page.max(block) * (1 + input.below(8));
    let nr_units = 1 + input.below(2) as u32;
    Geometry::new(Bytes(page), Bytes(m), Bytes(block), Bytes(unit), nr_units).expect("the sizes fit each other")
}

/// Boot chunks of a layout static, reserved, dynamic, laid out as the generation does.
fn small_boot(input: &mut Input<'_>, generation: Generation, g: &Geometry) -> Option<BootChunks> {
    // Area maps have even offsets.
    let granule = g.min_alloc_size().0.next_multiple_of(2);
    let (page, unit) = (g.page_size().0, g.unit_size().0);
    let base = page * 1000;
    if unit / granule < 8 {
        return None;
    }
    let whole_unit = matches!(generation, Generation::CpuAlloc2008 | Generation::AreaMap);
    let mut take = |left: u64| granule * (1 + input.below(left / granule));
    let static_size = take(unit / 4);
    let reserved_size = take(unit / 4);
    let dyn_size = take(unit - static_size - reserved_size);
    let reserved_size = if input.one_in(2) { reserved_size } else { 0 };
    let region = |start: u64, size: u64| {
        let in_unit = if whole_unit { 0 } else { start - start % page };
        BootRegion { base_addr: base + in_unit, start_offset: Bytes(start - in_unit), size: Bytes(size) }
    };
    Some(BootChunks {
        base_addr: base,
        first: region(static_size + reserved_size, dyn_size),
        reserved: (reserved_size > 0).then(|| region(static_size, reserved_size)),
        nr_populated: Pages(((static_size + reserved_size + dyn_size) / page) as u32),
    })
}

/// When the worker runs.
pub fn policy(input: &mut Input<'_>) -> Balance {
    match input.below(4) {
        0 => Balance::Manual,
        1 => Balance::Every(2 + input.below(20) as u32),
        _ => Balance::Eager,
    }
}

/// A small machine; with boot chunks only if `boot`.
pub fn small_setup(input: &mut Input<'_>, generation: Generation, boot: bool) -> Setup {
    let geometry = small_geometry(input, generation);
    let (page, unit) = (geometry.page_size().0, geometry.unit_size().0);
    let mut backend = Backend::new(geometry.nr_units(), page, page, unit * u64::from(geometry.nr_units()));
    backend.contiguous = input.one_in(16);
    backend.unmap_nothing = input.one_in(2);
    Setup {
        geometry,
        rules: generation.rules().unwrap_or(Rules::LINUX_5_14),
        warn_atomic: input.one_in(2),
        async_enabled: !input.one_in(8),
        boot: if boot && input.below(3) > 0 { small_boot(input, generation, &geometry) } else { None },
        backend,
    }
}

/// A machine of the kernel's sizes, for the slow model.
pub fn kernel_setup(input: &mut Input<'_>, generation: Generation) -> Option<Setup> {
    let preset = Preset::of_generation(generation);
    let unit = Bytes(32 * 1024 * (1 + input.below(4)));
    let geometry = Geometry::new(Bytes(4096), Bytes(4), Bytes(4096), unit, 2).ok()?;
    Some(Setup::bare(preset, generation.rules().unwrap_or(Rules::LINUX_5_14), geometry))
}

/// An allocator on a small machine.
pub fn small(setup: &Setup, generation: Generation, balance: Balance) -> Option<Allocator> {
    let preset = Preset::of_generation(generation);
    let mut allocator = Allocator::bare(preset, setup.geometry, balance).ok()?;
    allocator.set_engine(engine::new(generation, setup).ok()?);
    Some(allocator)
}

/// An allocator as `percpu.Allocator` makes them: bare, on a first chunk, or in the kernel's address space.
pub fn whole(input: &mut Input<'_>, generation: Generation, scale: Scale, balance: Balance) -> Option<Allocator> {
    let preset = Preset::of_generation(generation);
    if scale == Scale::Small {
        return Allocator::bare(preset, small_geometry(input, generation), balance).ok();
    }
    let unit = 32 * 1024 * (1 + input.below(4));
    let home = input.below(3);
    if home == 0 {
        let geometry = Geometry::new(Bytes(4096), Bytes(4), Bytes(4096), Bytes(unit), 2).ok()?;
        return Allocator::bare(preset, geometry, balance).ok();
    }
    let topology = Topology::from_nodes(input.of(&[&[2][..], &[2, 1][..], &[1][..]])).ok()?;
    let mut request = FirstChunkRequest::new(topology, preset.layout, 4 * (1 + input.below(12_000)));
    request.reserved_size = input.of(&[0, 8192, 4 * 777]);
    request.atom_size = 4096;
    let chunk = request.build().ok()?;
    if home == 1 {
        return Allocator::with_layout(preset, &chunk, balance).ok();
    }
    Allocator::with_vmalloc(preset, &chunk, balance, VmallocSpace::x86_64(Search::FreeBlocks)).ok()
}
