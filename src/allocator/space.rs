//! The address space of a snapshot: its limit, and the vmalloc space if there is one, whose busy ranges are a section.

use serde_json::{json, Value};

use crate::backend::{Backend, Vmalloc};
use crate::engine::saved::bulk::{Kind, Reader, Writer};
use crate::engine::saved::Fields;
use crate::error::{ConfigError, StateError};
use crate::layout::vm_areas::{Fault, Search};
use crate::layout::{AreaSet, VmallocSpace};

/// Reads limit and vmalloc space into a backend.
pub(super) fn read(own: &Fields<'_>, bulk: &mut Reader<'_>, backend: &mut Backend) -> Result<(), StateError> {
    backend.address_limit = own.number("address_limit")?;
    let value = own.value("vmalloc")?;
    if value.is_null() {
        return Ok(());
    }
    let Vmalloc { space, areas } = vmalloc_of(value, bulk, &own.path_of("vmalloc"))?;
    let restored = backend.clone().with_vmalloc(space, areas.offsets(), areas.sizes(), areas.align());
    *backend = restored.map_err(|error| own.error("vmalloc", error.to_string()))?;
    Ok(())
}

/// A vmalloc space. Of the busy ranges those that start at one of the second list wait for a purge.
pub(super) fn to_saved(vmalloc: &Vmalloc, out: &mut Writer) -> Value {
    let Vmalloc { space, areas } = vmalloc;
    out.section(Kind::Space, |out| {
        out.list(space.busy().flat_map(|(range, _)| [range.start, range.end]));
        out.list(space.busy().filter(|(_, lazy)| *lazy).map(|(range, _)| range.start));
    });
    let (start, end) = space.bounds();
    json!({
        "search": space.search().name(),
        "start": start,
        "end": end,
        "page_size": space.page_size(),
        "lazy_free": space.lazy_free,
        "lazy_threshold": space.lazy_threshold,
        "hint": space.hint(),
        "fault": space.fault().map(|(fault, calls)| match fault {
            Fault::Objects => json!(["objects", 0, calls]),
            Fault::Split(area) => json!(["split", area, calls]),
            Fault::Shadow(area) => json!(["shadow", area, calls]),
        }),
        "offsets": areas.offsets(),
        "sizes": areas.sizes(),
        "align": areas.align(),
    })
}

fn vmalloc_of(value: &Value, bulk: &mut Reader<'_>, path: &str) -> Result<Vmalloc, StateError> {
    let at = |name: &str| format!("{path}.{name}");
    let bad = |name: &str| StateError::new(at(name), format!("{} makes no sense here", value[name]));
    let refused = |error: ConfigError| StateError::new(at(error.parameter), error.to_string());
    let number = |name: &str| value[name].as_u64().ok_or_else(|| bad(name));
    let list = |name: &str| {
        let list = value[name].as_array().ok_or_else(|| bad(name))?;
        list.iter().map(|item| item.as_u64().ok_or_else(|| bad(name))).collect::<Result<Vec<u64>, _>>()
    };
    let search = value["search"].as_str().and_then(Search::by_name).ok_or_else(|| bad("search"))?;
    let page_size = number("page_size")?;
    let mut space = VmallocSpace::new(search, number("start")?, number("end")?, page_size).map_err(refused)?;
    let mut ranges = bulk.section(Kind::Space, path)?;
    let mut busy = ranges.list("busy")?;
    while let Some(start) = busy.next() {
        let end = busy.next().ok_or_else(|| ranges.error("busy", "has half a range"))?;
        space.occupy(start..end).map_err(refused)?;
    }
    let lazy: Vec<u64> = ranges.list("lazy")?.collect();
    ranges.end()?;
    space.restore(&lazy, number("hint")?).map_err(refused)?;
    space.lazy_free = value["lazy_free"].as_bool().ok_or_else(|| bad("lazy_free"))?;
    let present = |name: &str| value.get(name).ok_or_else(|| bad(name));
    space.lazy_threshold = match present("lazy_threshold")? {
        Value::Null => None,
        _ => Some(number("lazy_threshold")?),
    };
    if !present("fault")?.is_null() {
        let number = |index: usize| value["fault"][index].as_u64();
        let area = number(1).and_then(|area| usize::try_from(area).ok()).ok_or_else(|| bad("fault"))?;
        let calls = number(2).and_then(|calls| u32::try_from(calls).ok()).ok_or_else(|| bad("fault"))?;
        let fault = match value["fault"][0].as_str() {
            Some("objects") => Fault::Objects,
            Some("split") => Fault::Split(area),
            Some("shadow") => Fault::Shadow(area),
            _ => return Err(bad("fault")),
        };
        space.inject(fault, calls).map_err(refused)?;
    }
    let areas = AreaSet::new(&list("offsets")?, &list("sizes")?, number("align")?, page_size).map_err(refused)?;
    Ok(Vmalloc { space, areas })
}
