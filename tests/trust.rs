//! What `docs/trust.md` promises of the source: no `unsafe`, and dependencies under the licences of `deny.toml`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Files that may hold `unsafe`, and why each use is sound. There are none.
const UNSAFE: [(&str, &str); 0] = [];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(directory: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
}

/// The words of a file that are not in comments.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    code.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'))
}

#[test]
fn nothing_is_unsafe() {
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    assert!(files.len() > 100);
    for file in files {
        let name = file.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        let listed = UNSAFE.iter().any(|(file, _)| *file == name);
        let text = fs::read_to_string(&file).unwrap();
        let found = words(&text).any(|word| word == "unsafe" || word == "unsafe_code");
        assert_eq!(found, listed, "{name}: unsafe code is found {found}, listed {listed}");
    }
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(manifest.contains("unsafe_code = \"deny\""));
    // The test itself sees what it is for.
    assert!(words("let x = unsafe { *p };").any(|word| word == "unsafe"));
    assert!(!words("// unsafe\nlet not_unsafe = 1;").any(|word| word == "unsafe"));
}

/// The quoted texts of a list in `deny.toml`.
fn list(text: &str, name: &str) -> Vec<String> {
    let rest = text.split(&format!("\n{name} = [")).nth(1).unwrap_or_else(|| panic!("deny.toml has no {name}"));
    let rest = rest.split(']').next().unwrap();
    rest.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Whether an SPDX expression can be fulfilled with the licences allowed; a slash is an old "or".
fn fulfilled(expression: &str, allowed: &[String]) -> bool {
    let expression = expression.replace('/', " OR ").replace(['(', ')'], " ");
    let each = expression.split(" AND ").map(|part| part.split(" OR ").map(str::trim).collect::<Vec<_>>());
    each.into_iter().all(|choices| choices.iter().any(|choice| allowed.iter().any(|one| one == choice)))
}

#[test]
fn licences_of_dependencies() {
    let deny = fs::read_to_string(root().join("deny.toml")).unwrap();
    let allowed = list(&deny, "allow");
    let arguments = ["metadata", "--format-version", "1", "--offline", "--locked", "--features", "python,testing"];
    let metadata = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 20);
    let banned = list(&deny, "deny");
    for package in packages {
        let (name, licence) = (package["name"].as_str().unwrap(), package["license"].as_str().unwrap_or("none"));
        assert!(fulfilled(licence, &allowed), "{name}: {licence}");
        assert!(!banned.iter().any(|other| other == name), "{name} is banned");
    }
    assert!(fulfilled("MIT/Apache-2.0", &allowed) && fulfilled("GPL-2.0 OR MIT", &allowed));
    assert!(!fulfilled("GPL-2.0-only", &allowed) && !fulfilled("MIT AND GPL-2.0", &allowed));
}
