//! JSON lines, and the differences of two JSON values.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use serde_json::Value;

/// Reads a gzip-compressed file of JSON values, one a line.
pub fn read_lines(path: &Path) -> io::Result<Vec<Value>> {
    let reader = BufReader::new(MultiGzDecoder::new(File::open(path)?));
    reader.lines().map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}

/// Appends up to `limit` readable differences between what was wanted and what was found.
pub fn differences(path: &str, want: &Value, got: &Value, limit: usize, out: &mut Vec<String>) {
    if out.len() >= limit || want == got {
        return;
    }
    match (want, got) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                differences(&format!("{path}.{key}"), value, b.get(key).unwrap_or(&Value::Null), limit, out);
            }
            for key in b.keys().filter(|key| !a.contains_key(*key)) {
                out.push(format!("{path}.{key}: not wanted"));
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}[{i}]"), a, b, limit, out);
            }
        }
        _ => out.push(format!("{path}: wanted {}, found {}", short(want), short(got))),
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.len() <= 160 {
        return text;
    }
    let cut: String = text.chars().take(160).collect();
    format!("{cut}...")
}
