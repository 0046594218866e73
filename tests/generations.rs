//! The tables of `docs/generations.md` are made from the code: this test writes them when
//! `PERCPU_WRITE_DOCS` is set and compares them otherwise.

use std::fmt::Write;
use std::path::Path;

use percpu::variant::{Rules, PRESETS};

const BEGIN: &str = "<!-- tables:begin -->\n";
const END: &str = "<!-- tables:end -->";

fn tables() -> String {
    let mut out = String::from("\n## Behaviour flags\n\n");
    out += "| flag | meaning | specification | 4.14 | 5.2 | 5.14 |\n|---|---|---|---|---|---|\n";
    for row in Rules::TABLE {
        let [a, b, c] = row.values.map(|set| if set { "yes" } else { "-" });
        let meaning = row.meaning.split_whitespace().collect::<Vec<_>>().join(" ");
        writeln!(out, "| `{}` | {meaning} | {} | {a} | {b} | {c} |", row.name, row.section).unwrap();
    }
    out += "\n## Presets\n\nSizes in KiB.\n\n";
    out += "| release | engine | early minimum | dynamic reserve | module reserve | grouping | prints failed atomic requests | status |\n";
    out += "|---|---|---|---|---|---|---|---|\n";
    for preset in PRESETS {
        let layout = preset.layout;
        writeln!(
            out,
            "| {} | `{}` | {} | {} | {} | {:?} | {} | {} |",
            preset.release,
            preset.generation,
            layout.early_size >> 10,
            layout.dyn_reserve >> 10,
            layout.module_reserve >> 10,
            layout.grouping,
            if preset.warn_atomic { "yes" } else { "-" },
            preset.status.name(),
        )
        .unwrap();
    }
    out + "\n"
}

#[test]
fn the_tables_in_the_documentation_are_those_of_the_code() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/generations.md"));
    let text = std::fs::read_to_string(path).unwrap();
    let begin = text.find(BEGIN).expect("a begin marker") + BEGIN.len();
    let end = text.find(END).expect("an end marker");
    if std::env::var_os("PERCPU_WRITE_DOCS").is_some() {
        std::fs::write(path, format!("{}{}{}", &text[..begin], tables(), &text[end..])).unwrap();
        return;
    }
    assert_eq!(&text[begin..end], tables(), "run: PERCPU_WRITE_DOCS=1 cargo test --test generations");
}
