//! The order of the modules: one uses only those above it (`src/lib.rs`).

use std::fs;
use std::path::{Path, PathBuf};

/// Modules that may use everything: not part of the library proper.
const FREE: [&str; 2] = ["testing", "python"];

fn rust_files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            out.push(path);
        }
    }
    out.sort();
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The order as the crate's documentation lists it, top to bottom.
fn order() -> Vec<String> {
    let text = fs::read_to_string(source().join("lib.rs")).unwrap();
    let block = text.split("//! ```text\n").nth(1).unwrap().split("//! ```").next().unwrap();
    block.lines().filter_map(|line| Some(line.strip_prefix("//! ")?.split(' ').next()?.to_owned())).collect()
}

/// Names of top-level modules after `crate::` in code (not in comments, not in tests). A list in
/// braces gives each of its members.
fn used_modules(text: &str) -> Vec<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
    let name = |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let mut out = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        // `$crate::` and `other_crate::` count as well; the latter does not occur.
        let rest = &code[at + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            out.push(name(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = true;
        for (i, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                c if start && !c.is_whitespace() => {
                    out.push(name(&list[i..]));
                    start = false;
                }
                _ => {}
            }
        }
    }
    out
}

#[test]
fn imports_go_downwards_only() {
    let src = source();
    let order = order();
    assert!(order.len() > 15 && order[0] == "units", "{order:?}");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let mut upward = Vec::new();
    let mut seen = 0;
    for file in files {
        let relative = file.strip_prefix(&src).unwrap().to_string_lossy().replace('\\', "/");
        let module = relative.split(['/', '.']).next().unwrap().to_owned();
        if module == "lib" || FREE.contains(&&*module) || relative.ends_with("/tests.rs") {
            continue;
        }
        let place = |name: &str| order.iter().position(|other| other == name);
        let mine = place(&module).unwrap_or_else(|| panic!("src/{relative}: module {module} is not in the order"));
        for used in used_modules(&fs::read_to_string(&file).unwrap()) {
            // Macros and re-exports of the crate root have no place of their own.
            let Some(theirs) = place(&used) else { continue };
            seen += 1;
            if theirs > mine {
                upward.push(format!("src/{relative}: {module} uses {used}"));
            }
        }
    }
    assert!(seen > 50, "only {seen} imports found");
    assert!(upward.is_empty(), "imports that go upwards:\n{}", upward.join("\n"));
}

#[test]
fn lists_in_braces_are_read() {
    let text = "use crate::{a::B, c::{d, e}, f};\n// use crate::no;\nuse crate::g_h::I;";
    assert_eq!(used_modules(text), ["a", "c", "f", "g_h"]);
}
