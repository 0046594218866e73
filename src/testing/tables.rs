//! Tables that the comparing targets write into documents.

use std::fs;

/// Replaces what stands between `<!-- name -->` and `<!-- /name -->` in a file.
pub fn write_between(file: &str, name: &str, text: &str) -> Result<(), String> {
    let document = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let find = |marker: &str| document.find(marker).ok_or_else(|| format!("{file}: no {marker}"));
    let begin = format!("<!-- {name} -->");
    let (start, end) = (find(&begin)? + begin.len(), find(&format!("<!-- /{name} -->"))?);
    let document = format!("{}\n\n{}\n\n{}", &document[..start], text.trim_end(), &document[end..]);
    fs::write(file, document).map_err(|error| format!("{file}: {error}"))
}

/// The value behind an option such as `--table FILE`, and the arguments that are not options.
pub fn split_arguments(option: &str) -> (Option<String>, Vec<String>) {
    let mut value = None;
    let mut rest = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == option {
            value = arguments.next();
        } else {
            rest.push(argument);
        }
    }
    (value, rest)
}
