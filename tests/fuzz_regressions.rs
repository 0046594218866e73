//! Inputs of the fuzz targets: the seeds, and what fuzzing has found, each a file
//! `fuzz/{seeds,regressions}/<target>/<name>`. What was wrong is said in `fuzz/regressions/README.md`.

use std::fs;
use std::path::{Path, PathBuf};

use percpu::testing::surfaces::SURFACES;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn replay(kind: &str) -> usize {
    let mut files = 0;
    for (surface, check) in SURFACES {
        let directory = root().join(kind).join(surface);
        for name in names(&directory) {
            println!("{kind}/{surface}/{name}");
            check(&fs::read(directory.join(name)).unwrap());
            files += 1;
        }
    }
    files
}

#[test]
fn seeds() {
    assert!(replay("seeds") >= SURFACES.len());
}

#[test]
fn regressions() {
    let files: usize = names(&root().join("regressions"))
        .iter()
        .filter(|name| !name.ends_with(".md"))
        .map(|surface| {
            let known = SURFACES.iter().any(|(name, _)| name == surface);
            assert!(known, "fuzz/regressions/{surface} belongs to no surface");
            names(&root().join("regressions").join(surface)).len()
        })
        .sum();
    assert_eq!(replay("regressions"), files);
}

#[test]
fn every_surface_has_a_target_and_seeds() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let targets = names(&root().join("fuzz_targets"));
    assert_eq!(targets.len(), SURFACES.len());
    for (surface, _) in SURFACES {
        assert!(targets.contains(&format!("{surface}.rs")), "{surface}");
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{surface}.rs\"")), "{surface}");
        assert!(!names(&root().join("seeds").join(surface)).is_empty(), "{surface}");
    }
}
