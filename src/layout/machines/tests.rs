use super::*;
use crate::testing::random::Random;
use crate::variant::Preset;

fn rules() -> LayoutRules {
    Preset::by_release("6.12").unwrap().layout
}

const USUAL: Point = Point {
    nr_cpus: 8,
    nr_online: 8,
    nr_nodes: 2,
    static_size: 188_416,
    reserved_size: 8192,
    dyn_size: 28_672,
    atom_size: 2 << 20,
    page_size: 4096,
};

fn random_point(random: &mut Random) -> Point {
    let page_size = [4096, 16_384, 65_536][random.below(3) as usize];
    let atoms = [1, 2, 3, 16, 100, 256, 512];
    let nr_cpus = if random.one_in(4) { 1 + random.below(4096) } else { 1 + random.below(128) } as u32;
    Point {
        nr_cpus,
        nr_online: 1 + random.below(u64::from(nr_cpus)) as u32,
        nr_nodes: 1 + random.below(u64::from(nr_cpus.min(64))) as u32,
        static_size: 1 + random.below(3_000_000),
        reserved_size: [0, 4, 8192, 20_000][random.below(4) as usize],
        dyn_size: random.below(200_000),
        atom_size: page_size * atoms[random.below(7) as usize],
        page_size,
    }
}

/// N1: a row is what the layout function gives for the machine CPU by CPU.
#[test]
fn rows_equal_layouts() {
    for seed in 0..600 {
        let point = random_point(&mut Random::new(seed));
        let row = point.row(&rules(), WordSize::Bits64).unwrap();
        let topology = point.topology().unwrap();
        let rules = rules();
        let input = LayoutInput {
            static_size: point.static_size,
            reserved_size: point.reserved_size,
            dyn_size: point.dyn_size,
            atom_size: point.atom_size,
            page_size: point.page_size,
            min_unit_size: round_up(32 << 10, point.page_size),
            topology: &topology,
            rules: &rules,
            word: WordSize::Bits64,
        };
        let info = input.build().unwrap();
        info.verify(&topology, point.page_size).unwrap();
        let got = (row.dyn_size, row.unit_size, row.alloc_size, row.upa, row.nr_units, row.nr_holes);
        let expected = (
            info.dyn_size,
            info.unit_size,
            info.alloc_size,
            info.units_per_alloc(),
            u64::from(info.nr_units()),
            u64::from(info.nr_holes()),
        );
        assert_eq!(got, expected, "{point:?}");
        assert_eq!(row.kept, u64::from(point.nr_cpus) * info.size_sum());
        assert_eq!((row.chunk, row.holes), (row.nr_units * row.unit_size, row.nr_holes * row.unit_size));
    }
}

/// N2: the order is that of the points, whatever the threads do.
#[test]
fn threads_change_nothing() {
    let points: Vec<Point> = (0..5000).map(|seed| random_point(&mut Random::new(seed))).collect();
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| sweep(&points, &rules(), WordSize::Bits64, &AtomicBool::new(false)))
    };
    let one = run(1).unwrap();
    assert_eq!(run(4).unwrap(), one);
    assert!(points.iter().zip(&one).all(|(point, row)| point.row(&rules(), WordSize::Bits64) == *row));
    assert_eq!(sweep(&points, &rules(), WordSize::Bits64, &AtomicBool::new(true)), None);
}

/// A firmware that declares 1024 CPUs where 16 are plugged in: 63 of 64 bytes are for nobody.
#[test]
fn possible_far_above_online() {
    let point = Point { nr_cpus: 1024, nr_online: 16, ..USUAL };
    let row = point.row(&rules(), WordSize::Bits64).unwrap();
    assert_eq!((row.unit_size, row.nr_holes, row.kept), (262_144, 0, 1024 * 225_280));
    assert_eq!(row.offline, 1008 * 225_280);
}

#[test]
fn nonsense_is_named() {
    for (point, parameter) in [
        (Point { nr_cpus: 0, ..USUAL }, "nr_cpus"),
        (Point { nr_cpus: u32::MAX, ..USUAL }, "nr_cpus"),
        (Point { nr_online: 9, ..USUAL }, "nr_online"),
        (Point { nr_nodes: 0, ..USUAL }, "nr_nodes"),
        (Point { nr_nodes: 9, ..USUAL }, "nr_nodes"),
        (Point { atom_size: 0, ..USUAL }, "atom_size"),
        (Point { page_size: 0, ..USUAL }, "page_size"),
        (Point { static_size: u64::MAX, ..USUAL }, "static_size"),
    ] {
        assert_eq!(point.row(&rules(), WordSize::Bits64).unwrap_err().parameter, parameter);
    }
}
