//! Pages of the manual that name tests, and the tests that a source file has.
//!
//! A page names a test as `` `file.rs::name` ``. The file is in `tests`, unless it has a path from
//! the crate's root.

use std::collections::{HashMap, HashSet};

/// Returns the names of the tests in a source file: functions behind `#[test]`, and names that a
/// macro makes tests of (`name: call(…);`).
pub fn tests_in(text: &str) -> HashSet<String> {
    let mut names = HashSet::new();
    let mut after_attribute = false;
    for line in text.lines().map(str::trim) {
        if line == "#[test]" {
            after_attribute = true;
        } else if after_attribute && let Some(rest) = line.strip_prefix("fn ") {
            names.extend(rest.split('(').next().map(str::to_owned));
            after_attribute = false;
        }
    }
    for block in text.split("\nscenarios! {").skip(1) {
        let block = block.split("\n}").next().unwrap_or_default();
        let lines = block.lines().filter_map(|line| line.trim().split_once(':'));
        names.extend(lines.map(|(name, _)| name.to_owned()));
    }
    names
}

/// Returns the tests that a page names: the path of the file from the crate's root, and the name.
pub fn named_tests(page: &str) -> Vec<(String, String)> {
    let quoted = page.split('`').skip(1).step_by(2);
    let named = quoted.filter_map(|text| text.split_once(".rs::"));
    let path = |file: &str| {
        if file.contains('/') { format!("{file}.rs") } else { format!("tests/{file}.rs") }
    };
    named.map(|(file, name)| (path(file), name.to_owned())).collect()
}

/// Returns what is wrong with a page: the tests that it names and that don't exist. `read` returns
/// the text of a file.
pub fn missing(page: &str, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut files: HashMap<String, Option<HashSet<String>>> = HashMap::new();
    let mut wrong = Vec::new();
    for (path, name) in named_tests(page) {
        let tests =
            files.entry(path.clone()).or_insert_with(|| read(&path).map(|text| tests_in(&text)));
        match tests {
            None => wrong.push(format!("{path}: no such file")),
            Some(tests) if !tests.contains(&name) => wrong.push(format!("{path}: no test {name}")),
            Some(_) => {}
        }
    }
    wrong
}
