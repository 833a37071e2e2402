//! The page of promises (`src/manual/promises.md`) and the heads of the test files agree.
//!
//! - The numbers of the promises are 1, 2 and so on, each once, in any order.
//! - Each promise that isn't withdrawn names at least one test in `tests/*.rs`, and all tests that
//!   it names exist.
//! - The head of each test file names the promises that name one of its tests, and no others.
//!
//! The checker checks itself on a made-up page below.
//!
//! Promises: none. It checks the page of promises itself.

#[path = "support/pages.rs"]
mod pages;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use pages::{missing, named_tests};

/// One promise of the page.
struct Promise {
    number: usize,
    /// Whether its text begins with `Withdrawn`. Then it needs no test.
    withdrawn: bool,
    /// The tests that show it: path and name.
    tests: Vec<(String, String)>,
}

/// Returns the promises of a page: paragraphs that begin with `**P1.**`, each with a paragraph
/// `Shown by:` behind it.
fn promises(page: &str) -> Vec<Promise> {
    let parts = page.split("\n**P").skip(1).filter_map(|part| part.split_once(".**"));
    let promises = parts.filter_map(|(number, text)| {
        let shown = text.split_once("\nShown by:").map_or("", |(_, shown)| shown);
        let withdrawn = text.trim_start().starts_with("Withdrawn");
        Some(Promise { number: number.parse().ok()?, withdrawn, tests: named_tests(shown) })
    });
    promises.collect()
}

/// Returns the numbers of the promises that a test file shows, as its head says in a paragraph
/// `//! Promises: P3, P7.` or `//! Promises: none. REASON.`
fn claimed(text: &str) -> Result<BTreeSet<usize>, String> {
    let head = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim);
    let from_here = head.skip_while(|line| !line.starts_with("Promises:"));
    let paragraph: Vec<_> = from_here.take_while(|line| !line.is_empty()).collect();
    let paragraph = paragraph.join(" ");
    let list = paragraph.strip_prefix("Promises: ").ok_or("no line `//! Promises:` in its head")?;
    let list = list.strip_suffix('.').ok_or("the line of promises ends without a full stop")?;
    if let Some(reason) = list.strip_prefix("none") {
        let has_reason = reason.strip_prefix(". ").is_some_and(|reason| !reason.is_empty());
        return if has_reason { Ok(BTreeSet::new()) } else { Err("no reason for `none`".into()) };
    }
    let number = |name: &str| name.strip_prefix('P').and_then(|number| number.parse().ok());
    let numbers = list.split(", ").map(|name| number(name).ok_or(format!("{name:?}: no promise")));
    numbers.collect()
}

/// Whether a test file has a head that names promises: those directly in `tests`.
fn has_head(path: &str) -> bool {
    path.strip_prefix("tests/").is_some_and(|file| !file.contains('/'))
}

/// Returns what page and heads disagree on. `files` has the text of each test file by its path, and
/// `read` returns the text of any file.
fn disagreements(
    page: &str,
    files: &BTreeMap<String, String>,
    read: impl Fn(&str) -> Option<String>,
) -> Vec<String> {
    let mut wrong = missing(page, read);
    let mut shown: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    let promises = promises(page);
    let numbers: Vec<usize> = promises.iter().map(|promise| promise.number).collect();
    for number in 1..=numbers.len() {
        match numbers.iter().filter(|other| **other == number).count() {
            0 => wrong.push(format!("P{number}: no promise has this number")),
            1 => {}
            _ => wrong.push(format!("P{number}: more than one promise has this number")),
        }
    }
    for promise in &promises {
        let paths = promise.tests.iter().map(|(path, _)| path.as_str());
        let paths: BTreeSet<_> = paths.filter(|path| has_head(path)).collect();
        if paths.is_empty() && !promise.withdrawn {
            wrong.push(format!("P{}: it names no test of a file in tests", promise.number));
        }
        for path in paths {
            shown.entry(path).or_default().insert(promise.number);
        }
    }
    for (path, text) in files {
        let claimed = match claimed(text) {
            Ok(claimed) => claimed,
            Err(fault) => {
                wrong.push(format!("{path}: {fault}"));
                continue;
            }
        };
        let shown = shown.remove(path.as_str()).unwrap_or_default();
        let missing = shown.difference(&claimed);
        wrong.extend(missing.map(|number| format!("{path}: its head doesn't name P{number}")));
        for number in claimed.difference(&shown) {
            let exists = promises.iter().any(|promise| promise.number == *number);
            let fault = if exists { "names none of its tests" } else { "doesn't exist" };
            wrong.push(format!("{path}: its head names P{number}, which {fault}"));
        }
    }
    wrong
}

#[test]
fn promises_and_tests_name_each_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).ok();
    let page = read("src/manual/promises.md").unwrap();
    let number = promises(&page).len();
    assert!(number > 50, "only {number} promises were found: the check sees nothing");
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(root.join("tests")).unwrap() {
        let path = format!("tests/{}", entry.unwrap().file_name().to_str().unwrap());
        if path.ends_with(".rs") {
            let text = read(&path).unwrap();
            files.insert(path, text);
        }
    }
    let wrong = disagreements(&page, &files, read);
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

const PAGE: &str = "\n**P1.** One.\n\nShown by: `a.rs::x`, `src/c.rs::z`.\n\
                    \n## More\n\n**P2.** `Two`.\n\nShown by:\n`a.rs::x`, `b.rs::y`.\n";
const A: &str = "//! A.\n//!\n//! Promises: P1,\n//! P2.\n\n#[test]\nfn x() {}\n";
const B: &str = "//! B.\n//!\n//! Promises: P2.\n//!\n//! End.\n\n#[test]\nfn y() {}\n";
const C: &str = "//! Promises: none. It helps.\n\n#[test]\nfn z() {}\n";

/// Checks a made-up page and three made-up files.
fn check(page: &str, a: &str, b: &str, c: &str) -> Vec<String> {
    let files = [("tests/a.rs", a), ("tests/b.rs", b), ("tests/c.rs", c)];
    let files = files.map(|(path, text)| (path.to_owned(), text.to_owned()));
    let read = |path: &str| match path {
        "tests/a.rs" => Some(a.to_owned()),
        "tests/b.rs" => Some(b.to_owned()),
        "tests/c.rs" | "src/c.rs" => Some(c.to_owned()),
        _ => None,
    };
    disagreements(page, &BTreeMap::from(files), read)
}

#[test]
fn the_check_finds_each_disagreement() {
    assert_eq!(check(PAGE, A, B, C), [""; 0]);

    let page = |from: &str, to: &str| check(&PAGE.replacen(from, to, 1), A, B, C);
    assert_eq!(page("`a.rs::x`", "`a.rs::gone`"), ["tests/a.rs: no test gone"]);
    assert_eq!(page("`a.rs::x`", "`a.rs::x`, `d.rs::x`"), ["tests/d.rs: no such file"]);
    assert_eq!(page("`src/c.rs::z`", "`src/c.rs::gone`"), ["src/c.rs: no test gone"]);
    assert_eq!(
        page("`b.rs::y`", ""),
        ["tests/b.rs: its head names P2, which names none of its tests"]
    );
    assert_eq!(
        page("`a.rs::x`, ", ""),
        [
            "P1: it names no test of a file in tests",
            "tests/a.rs: its head names P1, which names none of its tests"
        ]
    );
    let withdrawn =
        PAGE.replacen("One.\n\nShown by: `a.rs::x`, `src/c.rs::z`.", "Withdrawn in 9.", 1);
    let rest_of_a = A.replacen("P1,\n//! P2.", "P2.", 1);
    assert_eq!(check(&withdrawn, &rest_of_a, B, C), [""; 0]);
    assert_eq!(
        page("**P2.**", "**P3.**"),
        [
            "P2: no promise has this number",
            "tests/a.rs: its head doesn't name P3",
            "tests/a.rs: its head names P2, which doesn't exist",
            "tests/b.rs: its head doesn't name P3",
            "tests/b.rs: its head names P2, which doesn't exist",
        ]
    );

    let swapped = PAGE.replacen("**P1.**", "**P0.**", 1).replacen("**P2.**", "**P1.**", 1);
    let swapped = swapped.replacen("**P0.**", "**P2.**", 1);
    let only_a = B.replacen("P2.", "P1.", 1);
    assert_eq!(check(&swapped, A, &only_a, C), [""; 0], "the order is free");
    assert_eq!(
        page("**P2.**", "**P1.**")[..2],
        ["P1: more than one promise has this number", "P2: no promise has this number"]
    );

    let head = |to: &str| check(PAGE, A, &B.replacen("P2.", to, 1), C);
    assert_eq!(
        head("P3."),
        [
            "tests/b.rs: its head doesn't name P2",
            "tests/b.rs: its head names P3, which doesn't exist"
        ]
    );
    assert_eq!(head("P2, two."), ["tests/b.rs: \"two\": no promise"]);
    assert_eq!(head("P2"), ["tests/b.rs: the line of promises ends without a full stop"]);
    assert_eq!(head("none. Nothing."), ["tests/b.rs: its head doesn't name P2"]);
    let helper = |text: &str| check(PAGE, A, B, text);
    let test = "\n#[test]\nfn z() {}\n";
    assert_eq!(
        helper(&format!("//! Promises: none.\n{test}")),
        ["tests/c.rs: no reason for `none`"]
    );
    for text in ["//! Helps.\n", "\n//! Promises: none. It helps.\n"] {
        let wrong = helper(&format!("{text}{test}"));
        assert_eq!(wrong, ["tests/c.rs: no line `//! Promises:` in its head"]);
    }
}
