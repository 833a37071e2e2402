//! The shape of the source:
//!
//! - which file may import which
//! - names that the protocol core must not use
//! - the head and the length of a file
//! - statements that save a line at the reader's cost
//! - the text of all files ([`text`])
//!
//! The checker reads the text of the files. It blanks comments and literals, and cuts out code that
//! is compiled for tests only. It resolves every path that begins with `crate` or `super`, in
//! imports and in code alike. It checks itself on made-up sources below.
//!
//! Promises: P116.

#[path = "layering/text.rs"]
mod text;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Upper limit of a file's lines, without its tests. A longer file is split by responsibility.
const MAX_LINES: usize = 400;

/// The one file that may log by itself.
const LOGGER: &str = "engine/logging.rs";

/// Returns the layer of a module, or `None` if the table has no such module. A file imports only
/// from its own layer and from lower ones.
fn layer(module: &[String]) -> Option<u8> {
    let part = |i: usize| module.get(i).map(String::as_str);
    Some(match (part(0)?, part(1)) {
        ("error" | "config" | "stats" | "pool", _) => 0,
        ("wire", Some("reader" | "writer")) => 1,
        // These are the frame types: `header`, or its names that `wire` exports.
        ("wire", Some(_)) => 0,
        ("wire", None) => 1, // This is the file that declares the three modules.
        ("transport", _) => 1,
        ("proto", _) => 2,
        ("sync", _) => 3,
        ("engine", _) => 4,
        ("session" | "stream" | "traits", _) => 5,
        ("copy", _) => 6,
        _ => return None,
    })
}

/// Names that the protocol core must not use. It does no I/O, takes no lock, reads no clock, starts
/// no thread, has no channel and logs nothing.
const NOT_IN_PROTO: [&str; 18] = [
    "thread",
    "Mutex",
    "RwLock",
    "Condvar",
    "Once",
    "OnceLock",
    "LazyLock",
    "Atomic",
    "mpsc",
    "crossbeam_channel",
    "parking_lot",
    "SystemTime",
    "Instant::now",
    "elapsed",
    "io",
    "net",
    "fs",
    "println",
];

// ---- reading source -----------------------------------------------------------------------------

/// A source file, ready for the checks.
struct Source {
    /// The file's name, for messages.
    name: String,
    text: String,
    /// Its tokens, without those of test-only items.
    tokens: Vec<Token>,
    /// `["sync", "stream"]` for `src/sync/stream.rs`, empty for `lib.rs`.
    module: Vec<String>,
    /// Lines of test-only items.
    test_lines: usize,
    /// Modules that it declares for tests only, in files of their own.
    test_modules: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    text: String,
    line: usize,
}

impl Source {
    fn new(name: &str, text: &str) -> Self {
        let mut module: Vec<String> =
            name.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        if matches!(module.last().map(String::as_str), Some("mod" | "lib")) {
            module.pop();
        }
        let (tokens, test_lines, test_modules) = without_tests(tokens(&blank(text)));
        Self {
            name: name.to_owned(),
            text: text.to_owned(),
            tokens,
            module,
            test_lines,
            test_modules,
        }
    }

    /// Returns the line where the tokens contain `path`, such as `Instant::now`, as whole words.
    /// `Atomic` also matches a longer word that begins with it.
    fn names(&self, path: &str) -> Option<usize> {
        let path = tokens(path);
        let same = |have: &Token, want: &Token| {
            have.text == want.text || (want.text == "Atomic" && have.text.starts_with("Atomic"))
        };
        let mut windows = self.tokens.windows(path.len());
        let found =
            windows.find(|window| window.iter().zip(&path).all(|(have, want)| same(have, want)))?;
        Some(found[0].line)
    }

    /// Returns every path that begins with `crate` or `super`, resolved to modules and names from
    /// the crate's root.
    fn imports(&self) -> Vec<(usize, Vec<String>)> {
        let mut found = Vec::new();
        let mut here = self.module.clone();
        let mut open = Vec::new(); // For each open brace, whether it belongs to an inline module.
        let text = |i: usize| self.tokens.get(i).map_or("", |token| token.text.as_str());
        for i in 0..self.tokens.len() {
            match text(i) {
                "{" => {
                    let inline = i >= 2 && text(i - 2) == "mod";
                    if inline {
                        here.push(text(i - 1).to_owned());
                    }
                    open.push(inline);
                }
                "}" if open.pop() == Some(true) => {
                    let _ = here.pop();
                }
                "crate" | "super" if text(i + 1) == "::" && (i == 0 || text(i - 1) != "::") => {
                    let mut leaves = Vec::new();
                    tree(&self.tokens, i, &[], &mut leaves);
                    let line = self.tokens[i].line;
                    found.extend(leaves.into_iter().map(|leaf| (line, resolve(&here, &leaf))));
                }
                _ => {}
            }
        }
        found
    }
}

/// Finds the names in a tree such as `crate::{a::b, c::{d, e as f}}` that begins at token `at`.
/// Returns where the tree ends.
fn tree(
    tokens: &[Token],
    mut at: usize,
    prefix: &[String],
    leaves: &mut Vec<Vec<String>>,
) -> usize {
    let text = |i: usize| tokens.get(i).map_or("", |token| token.text.as_str());
    let mut path = prefix.to_vec();
    loop {
        if text(at) == "{" {
            at += 1;
            while at < tokens.len() && text(at) != "}" {
                let next = tree(tokens, at, &path, leaves);
                at = next.max(at + 1);
                if text(at) == "," {
                    at += 1;
                }
            }
            return at + 1;
        }
        path.push(text(at).to_owned());
        at += 1;
        if text(at) == "as" {
            at += 2;
        }
        if text(at) != "::" || text(at + 1) == "<" {
            leaves.push(path);
            return at;
        }
        at += 1;
    }
}

/// Returns `super::x` as seen from `here` as a path from the root.
fn resolve(here: &[String], path: &[String]) -> Vec<String> {
    let mut absolute = if path[0] == "crate" { Vec::new() } else { here.to_vec() };
    for part in path {
        match part.as_str() {
            "crate" | "self" => {}
            "super" => {
                let _ = absolute.pop();
            }
            name => absolute.push(name.to_owned()),
        }
    }
    absolute
}

/// Returns the text with blanks for comments and the insides of literals. Lines stay where they
/// are.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    let skip_to = |from: usize, to: usize, out: &mut String| {
        out.extend(
            chars[from..to.min(chars.len())].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }),
        );
        to.min(chars.len())
    };
    while i < chars.len() {
        let start = i;
        let word_before = i > 0 && (at(i - 1).is_alphanumeric() || at(i - 1) == '_');
        if at(i) == '/' && at(i + 1) == '/' {
            while i < chars.len() && at(i) != '\n' {
                i += 1;
            }
        } else if at(i) == '/' && at(i + 1) == '*' {
            let mut depth = 0;
            loop {
                match (at(i), at(i + 1)) {
                    ('/', '*') => {
                        depth += 1;
                        i += 2;
                    }
                    ('*', '/') => {
                        depth -= 1;
                        i += 2;
                    }
                    _ => i += 1,
                }
                if depth == 0 || i >= chars.len() {
                    break;
                }
            }
        } else if at(i) == 'r'
            && !word_before
            && (at(i + 1) == '"' || (at(i + 1) == '#' && raw_string(&chars, i)))
        {
            let hashes = chars[i + 1..].iter().take_while(|c| **c == '#').count();
            i += hashes + 2;
            while i < chars.len() && !(at(i) == '"' && (1..=hashes).all(|n| at(i + n) == '#')) {
                i += 1;
            }
            i += hashes + 1;
        } else if at(i) == '"' {
            i += 1;
            while i < chars.len() && at(i) != '"' {
                i += if at(i) == '\\' { 2 } else { 1 };
            }
            i += 1;
        } else if at(i) == '\'' && (at(i + 1) == '\\' || at(i + 2) == '\'') {
            i += if at(i + 1) == '\\' { 3 } else { 2 }; // Otherwise it is a lifetime.
            while i < chars.len() && at(i) != '\'' {
                i += 1;
            }
            i += 1;
        } else {
            out.push(at(i));
            i += 1;
            continue;
        }
        i = skip_to(start, i, &mut out);
    }
    out
}

/// Whether `r#` at `i` begins a raw string, and not a raw identifier.
fn raw_string(chars: &[char], i: usize) -> bool {
    chars[i + 1..].iter().find(|c| **c != '#') == Some(&'"')
}

/// Splits code into words, `::`, and single punctuation characters.
fn tokens(code: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let word =
                rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            let len = match word {
                0 if rest.starts_with("::") => 2,
                0 => first.len_utf8(),
                word => word,
            };
            tokens.push(Token { text: rest[..len].to_owned(), line: number + 1 });
            rest = rest[len..].trim_start();
        }
    }
    tokens
}

/// Cuts out items under `#[cfg(test)]`. Returns the other tokens, the number of lines of those
/// items, and the modules among them that are files.
fn without_tests(tokens: Vec<Token>) -> (Vec<Token>, usize, Vec<String>) {
    const ATTRIBUTE: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut lines = 0;
    let mut modules = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let here = &tokens[i..];
        if here.len() < ATTRIBUTE.len()
            || !here.iter().zip(ATTRIBUTE).all(|(token, want)| token.text == want)
        {
            kept.push(tokens[i].clone());
            i += 1;
            continue;
        }
        let start = i;
        let mut depth = 0;
        i += ATTRIBUTE.len();
        while i < tokens.len() {
            match tokens[i].text.as_str() {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth -= 1,
                _ => {}
            }
            i += 1;
            if depth == 0 && matches!(tokens[i - 1].text.as_str(), "}" | ";") {
                break;
            }
        }
        if let [.., module, name, end] = &tokens[start..i]
            && (module.text.as_str(), end.text.as_str()) == ("mod", ";")
        {
            modules.push(name.text.clone());
        }
        lines += tokens[i - 1].line - tokens[start].line + 1;
    }
    (kept, lines, modules)
}

// ---- the rules ----------------------------------------------------------------------------------

/// Returns the names that `lib.rs` re-exports, with the modules that they come from.
fn exports(lib: &Source) -> HashMap<String, Vec<String>> {
    let mut exports = HashMap::new();
    for i in 1..lib.tokens.len() {
        if lib.tokens[i].text == "use" {
            let mut leaves = Vec::new();
            tree(&lib.tokens, i + 1, &[], &mut leaves);
            exports
                .extend(leaves.into_iter().filter_map(|leaf| Some((leaf.last()?.clone(), leaf))));
        }
    }
    exports
}

/// Returns the faults of a file's imports.
fn layering(source: &Source, exports: &HashMap<String, Vec<String>>) -> Vec<String> {
    if source.module.first().is_none_or(|first| first == "manual") {
        return Vec::new(); // lib.rs puts everything together, and the manual documents it.
    }
    let name = &source.name;
    let Some(own) = layer(&source.module) else {
        return vec![format!("{name}: its module isn't in the layer table")];
    };
    let mut wrong = Vec::new();
    for (line, path) in source.imports() {
        let path = match path.as_slice() {
            [root] if layer(&path).is_none() => exports.get(root).cloned().unwrap_or(path),
            _ => path,
        };
        // A path into the file's own module tree is always fine: `super::*` in an inline module, or
        // a child of a child.
        if path.first() == source.module.first() && source.module[0] != "wire" {
            continue;
        }
        match layer(&path) {
            Some(theirs) if theirs <= own => {}
            Some(theirs) => {
                wrong.push(format!(
                    "{name}:{line}: layer {own} imports {} of layer {theirs}",
                    path.join("::")
                ));
            }
            None => {
                wrong.push(format!("{name}:{line}: {} isn't in the layer table", path.join("::")))
            }
        }
    }
    wrong
}

/// Returns the faults of a file other than its imports.
fn habits(source: &Source) -> Vec<String> {
    let name = &source.name;
    let mut wrong = Vec::new();
    if !source.text.starts_with("//! ") {
        wrong.push(format!("{name}: it doesn't open with a //! comment"));
    }
    if !source.module.is_empty() {
        let head = source.text.lines().take_while(|line| line.starts_with("//!"));
        if !head.into_iter().any(|line| line.contains("Invariant")) {
            wrong.push(format!("{name}: its head doesn't say its invariants"));
        }
    }
    if tokens(&blank(&source.text)).iter().any(|token| token.text == "unsafe") {
        wrong.push(format!("{name}: unsafe"));
    }
    if name != LOGGER
        && let Some(line) = source.names("log")
    {
        wrong.push(format!(
            "{name}:{line}: only {LOGGER} may name the log crate: a logger may panic"
        ));
    }
    if source.module.first().is_some_and(|first| first == "proto") {
        for banned in NOT_IN_PROTO {
            if let Some(line) = source.names(banned) {
                wrong.push(format!("{name}:{line}: the protocol core names {banned}"));
            }
        }
    }
    wrong
}

/// Returns a message if a file is too long.
fn length(source: &Source) -> Option<String> {
    let lines = source.text.lines().count() - source.test_lines;
    let name = &source.name;
    (lines > MAX_LINES).then(|| {
        format!("{name}: {lines} lines without its tests, more than {MAX_LINES}: split it")
    })
}

/// Finds two kinds of statements that save a line and hide something:
///
/// - `let (a, b) = (x, y);`
/// - `drop(call())`, where `let _ = call();` would show that the result isn't wanted
fn statements(name: &str, text: &str) -> Vec<String> {
    let tokens = tokens(&blank(text));
    let text = |i: usize| tokens.get(i).map_or("", |token| token.text.as_str());
    let mut wrong = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        let line = token.line;
        if token.text == "let" && text(i + 1) == "(" {
            let left = closed(&tokens, i + 1);
            let right = closed(&tokens, left + 2);
            let equals = text(left + 1) == "=" && text(left + 2) == "(";
            if equals && text(right + 1) == ";" && is_tuple(&tokens[left + 2..right]) {
                wrong.push(format!("{name}:{line}: a tuple in a let: write one let for each name"));
            }
        }
        if token.text == "drop"
            && text(i + 1) == "("
            && !matches!(text(i.wrapping_sub(1)), "fn" | ".")
        {
            let end = closed(&tokens, i + 1);
            let is_word = |i: usize| text(i).starts_with(|c: char| c.is_alphanumeric() || c == '_');
            if (i + 3..end).any(|inner| text(inner) == "(" && is_word(inner - 1)) {
                wrong.push(format!("{name}:{line}: drop of a call: write let _ = call()"));
            }
        }
    }
    wrong
}

/// Returns where the bracket that opens at `at` is closed.
fn closed(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0_usize;
    for (i, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return i;
        }
    }
    tokens.len()
}

/// Whether tokens that begin with a bracket have a comma directly inside it.
fn is_tuple(tokens: &[Token]) -> bool {
    let mut depth = 0_usize;
    tokens.iter().any(|token| {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 1 && token.text == ","
    })
}

// ---- the tests ----------------------------------------------------------------------------------

/// Returns name and text of each file of the repository whose name ends in one of `extensions`. The
/// empty extension stands for scripts: files whose name has no ending, and which begin with `#!`.
fn files(extensions: &[&str]) -> Vec<(String, String)> {
    fn collect(folder: &Path, extensions: &[&str], found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() {
                if !matches!(name, "target" | ".git") {
                    collect(&path, extensions, found);
                }
            } else {
                let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
                if extensions.contains(&extension) {
                    found.push(path);
                }
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    collect(root, extensions, &mut found);
    found.sort();
    let name = |path: &Path| path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
    let text = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
    let files = found.iter().map(|path| (path, name(path), text(path)));
    let is_text = |path: &Path, text: &str| path.extension().is_some() || text.starts_with("#!");
    files
        .filter(|(path, _, text)| is_text(path, text))
        .map(|(_, name, text)| (name, text))
        .collect()
}

/// Returns all files of `src`, without those that are compiled for tests only.
fn sources() -> Vec<Source> {
    let all: Vec<Source> = files(&["rs"])
        .iter()
        .filter_map(|(name, text)| Some(Source::new(name.strip_prefix("src/")?, text)))
        .collect();
    let test_only: Vec<Vec<String>> = all
        .iter()
        .flat_map(|source| {
            source
                .test_modules
                .iter()
                .map(|module| [&source.module[..], std::slice::from_ref(module)].concat())
        })
        .collect();
    all.into_iter()
        .filter(|source| !test_only.iter().any(|module| source.module.starts_with(module)))
        .collect()
}

#[test]
fn every_file_imports_from_its_own_layer_or_lower_ones() {
    let sources = sources();
    assert!(sources.len() > 20, "only {} files were found", sources.len());
    let exports = exports(sources.iter().find(|source| source.module.is_empty()).expect("lib.rs"));
    let seen: usize = sources.iter().map(|source| source.imports().len()).sum();
    assert!(seen > 100, "only {seen} imports were found: the checker sees nothing");
    let wrong: Vec<String> = sources.iter().flat_map(|source| layering(source, &exports)).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_file_keeps_the_house_rules() {
    let wrong: Vec<String> = sources().iter().flat_map(habits).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_statement_saves_a_line_at_the_readers_cost() {
    let files = files(&["rs"]);
    assert!(files.len() > 200, "only {} files were found", files.len());
    let wrong: Vec<String> = files.iter().flat_map(|(name, text)| statements(name, text)).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_file_is_too_long() {
    let wrong: Vec<String> = sources().iter().filter_map(length).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The paths in backticks of a page that begin with a folder of the repository or end in `.md`.
/// `{a,b}` in a path stands for each of its parts.
fn named_paths(page: &str) -> Vec<String> {
    let quoted = page.split('`').skip(1).step_by(2);
    let mut paths = Vec::new();
    for text in quoted {
        let path = text.split(' ').next().unwrap_or_default().trim_start_matches("./");
        let folders = ["src/", "tests/", "benches/", "examples/"];
        if !folders.iter().any(|folder| path.starts_with(folder)) && !path.ends_with(".md") {
            continue;
        }
        match path.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
        {
            Some((before, (parts, after))) => {
                paths.extend(parts.split(',').map(|part| format!("{before}{part}{after}")));
            }
            None => paths.push(path.to_owned()),
        }
    }
    paths
}

#[test]
fn every_path_that_the_map_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let paths = named_paths(&fs::read_to_string(root.join("CONTRIBUTING.md")).unwrap());
    assert!(paths.len() > 20, "only {} paths were found", paths.len());
    let missing: Vec<_> = paths.iter().filter(|path| !root.join(path).exists()).collect();
    assert!(missing.is_empty(), "CONTRIBUTING.md names {missing:?}");
}

#[test]
fn the_checker_finds_paths_in_a_page() {
    let page = "See `src/{a,b}.rs`, `./tests/full CHECK`, `Config`, `CHANGELOG.md`, `cargo test`.";
    assert_eq!(named_paths(page), ["src/a.rs", "src/b.rs", "tests/full", "CHANGELOG.md"]);
}

#[test]
fn the_compiler_forbids_unsafe_code() {
    let sources = sources();
    let lib = sources.iter().find(|source| source.module.is_empty()).expect("lib.rs");
    assert!(lib.names("#![forbid(unsafe_code)]").is_some());
}

// ---- the checker checked ------------------------------------------------------------------------

fn no_exports() -> HashMap<String, Vec<String>> {
    HashMap::new()
}

#[test]
fn the_checker_finds_an_import_of_a_higher_layer() {
    let fakes = [
        ("proto/fake.rs", "use crate::sync::budget::Charge;"),
        ("proto/fake.rs", "fn f() { crate::engine::start() }"),
        ("proto/fake.rs", "use crate::{error::Error, session::{Session as S}, config};"),
        ("proto/fake.rs", "use super::super::stream::Stream;"),
        ("proto/fake.rs", "mod inner { use super::super::super::sync::stream; }"),
        ("pool.rs", "use crate::wire::reader::FrameReader;"),
        ("wire/header.rs", "use super::writer::Batch;"),
        ("transport/fake.rs", "use crate::proto::state;"),
        ("sync/stream/fake.rs", "/* a comment */ use crate::/* and one */engine::SessionShared;"),
        ("engine/fake.rs", "type T = Vec<crate::stream::Stream>;"),
        ("engine/fake.rs", "use crate::nonsense::Thing;"),
        ("novelty.rs", ""),
    ];
    for (name, text) in fakes {
        assert_eq!(layering(&Source::new(name, text), &no_exports()).len(), 1, "{name}: {text}");
    }
}

#[test]
fn the_checker_finds_statements_that_save_a_line() {
    let broken = [
        "let (a, b) = (1, 2);",
        "let (mut a, b) =\n    (f(1, 2), [3, 4]);",
        "drop(f());",
        "x.map(|x| drop(x.f()))",
        "mem::drop((a, f()));",
    ];
    for text in broken {
        assert_eq!(statements("fake.rs", text).len(), 1, "{text}");
    }
    let fine = [
        "let (a, b) = f(1, 2);",
        "let (a, b) = (f)(1, 2);",
        "let (a, b) = (1, 2).swap();",
        "let a = (1, 2);",
        "if let (Some(a), Some(b)) = (c, d) {}",
        "drop(a);",
        "drop((a, b));",
        "fn drop(&mut self) { f() }",
        "x.drop(f())",
        "// drop(f())",
    ];
    for text in fine {
        assert_eq!(statements("fake.rs", text), [""; 0], "{text}");
    }
}

#[test]
fn the_checker_sees_through_the_crates_own_exports() {
    let lib = Source::new("lib.rs", "pub use session::{Incoming, Session};\npub use error::Error;");
    let wrong =
        layering(&Source::new("sync/fake.rs", "use crate::{Error, Session};"), &exports(&lib));
    assert_eq!(wrong, ["sync/fake.rs:1: layer 3 imports session::Session of layer 5"]);
}

#[test]
fn the_checker_lets_pass_what_is_allowed() {
    let fakes = [
        (
            "engine/fake.rs",
            "use crate::sync::stream::SharedStream;\nuse super::{timer, SessionShared};\nuse \
             crate::wire::reader::Step;",
        ),
        ("pool.rs", "use crate::wire::HEADER_LEN;"),
        ("wire/reader.rs", "use super::header::Header;\nuse crate::pool::Buffer;"),
        ("wire/mod.rs", "pub(crate) mod reader;\npub(in crate::wire) fn f() {}"),
        (
            "proto/fake.rs",
            "// use crate::engine::SessionShared;\n\
             const S: &str = \"crate::engine::SessionShared\";",
        ),
        (
            "proto/fake.rs",
            "/// [`Session`](crate::session::Session)\nfn f<'a>(c: char) -> bool { c == '\"' \
             }\n//! crate::engine",
        ),
        (
            "proto/fake.rs",
            "fn f() {}\n#[cfg(test)]\nmod tests { use crate::session::Session; fn f() { {} } }",
        ),
        (
            "proto/fake.rs",
            "const S: &str = r#\"crate::engine::SessionShared\"#;\nconst C: char = '\\'';",
        ),
    ];
    for (name, text) in fakes {
        assert_eq!(layering(&Source::new(name, text), &no_exports()), [""; 0], "{name}: {text}");
    }
}

#[test]
fn the_checker_finds_broken_habits() {
    let head = "//! A file. Invariant: none.\n";
    assert_eq!(habits(&Source::new("sync/fake.rs", head)), [""; 0]);
    let broken = [
        "use std::sync::Mutex;",
        "use parking_lot::Condvar;",
        "use std::thread;",
        "fn f() { let now = Instant::now(); }",
        "fn f() { log::warn!(\"x\") }",
        "use std::sync::mpsc::channel;",
        "static N: AtomicU64 = AtomicU64::new(0);",
        "fn f() { unsafe { g() } }",
    ];
    for text in broken {
        assert!(
            !habits(&Source::new("proto/fake.rs", &format!("{head}{text}"))).is_empty(),
            "{text}"
        );
        let in_test = format!("{head}#[cfg(test)]\nmod tests {{ {text} }}");
        let expected = usize::from(text.contains("unsafe")); // That isn't allowed in tests either.
        assert_eq!(habits(&Source::new("proto/fake.rs", &in_test)).len(), expected, "{text}");
    }
    for text in [
        "use log::warn;",
        "use ::log::{info as i};",
        "fn f() { log::warn!(\"x\") }",
        "use log as l;",
    ] {
        let text = format!("{head}{text}");
        assert_eq!(habits(&Source::new("engine/fake.rs", &text)).len(), 1, "{text}");
        assert_eq!(habits(&Source::new(LOGGER, &text)), [""; 0], "{text}");
    }
    assert_eq!(
        habits(&Source::new("engine/fake.rs", &format!("{head}use super::logging::warn;"))),
        [""; 0]
    );
    assert_eq!(habits(&Source::new("sync/fake.rs", "// Invariant\nfn f() {}")).len(), 2);
    assert_eq!(habits(&Source::new("sync/fake.rs", "//! A file.\n// Invariant\n")).len(), 1);
    let long = format!("{head}{}", "fn f() {}\n".repeat(MAX_LINES));
    assert!(length(&Source::new("sync/fake.rs", &long)).is_some());
    let tested =
        format!("{head}#[cfg(test)]\nmod tests {{\n{}}}\n", "fn f() {}\n".repeat(MAX_LINES));
    assert_eq!(length(&Source::new("sync/fake.rs", &tested)), None);
}
