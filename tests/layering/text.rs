//! Rules for the text of all files of the repository: no line is too long, and no sentence needs a
//! document or a word from outside.

use super::files;

/// Upper limit of a line's length, in characters. `rustfmt.toml` has the same number.
const MAX_WIDTH: usize = 100;

/// This file, which has to contain the words that it looks for.
const THIS_FILE: &str = "tests/layering/text.rs";

/// A word that no file may contain.
struct Banned {
    word: &'static str,
    /// The text to write in its place.
    instead: &'static str,
    /// Files in which the word has its ordinary meaning: beginnings of paths.
    except: &'static [&'static str],
}

/// Returns a word that is banned in every file.
const fn banned(word: &'static str, instead: &'static str) -> Banned {
    Banned { word, instead, except: &[] }
}

/// The banned words. A word in capitals or with a file's ending is a document outside of the
/// repository, and its letters have to be the same. The letters of other words may differ in case.
const BANNED: [Banned; 11] = [
    banned("STYLE", "the rule itself"),
    banned("DESIGN", "a promise's number, or a page of the manual"),
    banned("LESSONS", "`src/manual/testing.md`"),
    banned("HOUSE.md", "CONTRIBUTING.md, or the rule itself"),
    banned("PROTOCOL.md", "`src/manual/protocol.md`"),
    banned("the protocol's description", "`src/manual/protocol.md`"),
    Banned {
        word: "the plan",
        instead: "a sentence that says what is",
        // A plan of random traffic.
        except: &["tests/faults", "tests/soak.rs"],
    },
    Banned {
        word: "the seed",
        instead: "Go's gmux",
        // The seed of random numbers.
        except: &["tests/faults", "tests/soak.rs", "tests/interop/", "tests/support/udp_relay.rs"],
    },
    banned("for ever", "\"forever\" or \"without limit\""),
    banned("so many", "\"up to N\" or \"this many\""),
    banned("so manieth", "the number itself"),
];

/// Returns the banned words in a file, with the line of each. A word may be broken by a line's end.
fn banned_words(name: &str, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(prose).collect();
    let mut wrong = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let next = lines.get(i + 1).copied().unwrap_or_default();
        let both = format!("{line} {next}");
        for Banned { word, instead, except } in BANNED {
            let is_excepted = except.iter().any(|path| name.starts_with(path));
            let exact = word.contains(|c: char| c.is_uppercase());
            let both = if exact { both.clone() } else { both.to_lowercase() };
            if !is_excepted && find_word(&both, word).is_some_and(|at| at <= line.len()) {
                let line = i + 1;
                wrong.push(format!("{name}:{line}: {word:?}: write {instead}"));
            }
        }
    }
    wrong
}

/// Returns a line without the marks of a comment, a list or a quotation at its beginning.
fn prose(line: &str) -> &str {
    line.trim().trim_start_matches(['/', '!', '#', '*', '-', '>', '|']).trim_start()
}

/// Returns where `word` stands in `text` as a whole word. A letter, a digit or `_` beside it makes
/// it a part of another word.
fn find_word(text: &str, word: &str) -> Option<usize> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).map(|(at, _)| at).find(|at| {
        let before = text[..*at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

/// Returns the lines of a file that are too long. A row of a Markdown table can't be broken, so it
/// is left out, also in a comment.
fn wide_lines(name: &str, text: &str) -> Vec<String> {
    let is_row =
        |line: &str| line.trim_start().trim_start_matches(['/', '!']).trim().starts_with('|');
    let wide = text
        .lines()
        .enumerate()
        .filter(|(_, line)| line.chars().count() > MAX_WIDTH && !is_row(line));
    wide.map(|(i, line)| {
        let width = line.chars().count();
        format!("{name}:{}: {width} characters, more than {MAX_WIDTH}", i + 1)
    })
    .collect()
}

#[test]
fn no_file_needs_a_document_or_a_word_from_outside() {
    let files = files(&["rs", "md", "toml", "go", ""]);
    assert!(files.iter().any(|(name, _)| name == "tests/run"), "the scripts weren't found");
    let files = files.iter().filter(|(name, _)| name != THIS_FILE);
    let wrong: Vec<String> = files.flat_map(|(name, text)| banned_words(name, text)).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_line_is_too_long() {
    let files = files(&["rs", "md"]);
    let wrong: Vec<String> = files.iter().flat_map(|(name, text)| wide_lines(name, text)).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_checker_finds_banned_words() {
    let broken = [
        "//! As DESIGN says.",
        "/// See PROTOCOL.md, and more.",
        "# The plan had ruled this out.",
        "// This waits for ever.",
        "/// It waits for\n/// ever.",
        "    //! A test of the protocol's\n    //! description.",
        "It takes\n- so many bytes",
        "let text = \"like the seed\";",
    ];
    for text in broken {
        assert_eq!(banned_words("src/fake.rs", text).len(), 1, "{text}");
    }
    let fine = [
        "/// The design of `DESIGNED_SIZE`, in this style.",
        "// It waits forever.",
        "let theplan = \"the planet, the seeds\";",
        "for\n\never",
        "",
    ];
    for text in fine {
        assert_eq!(banned_words("src/fake.rs", text), [""; 0], "{text}");
    }
    assert_eq!(banned_words("tests/faults/fake.rs", "// The seed, and the plan."), [""; 0]);
    assert_eq!(
        banned_words("src/fake.md", "a\nthe plan\nb"),
        ["src/fake.md:2: \"the plan\": write a sentence that says what is"]
    );
}

#[test]
fn the_checker_finds_long_lines() {
    let long = "x".repeat(MAX_WIDTH + 1);
    let fine = "ä".repeat(MAX_WIDTH);
    let text = format!("{fine}\n{long}\n| {long} |\n    //! | {long} |\n    // {long}\n");
    let lines: Vec<String> =
        wide_lines("fake.md", &text).iter().map(|wrong| wrong.replace(" characters", "")).collect();
    assert_eq!(lines, ["fake.md:2: 101, more than 100", "fake.md:5: 108, more than 100"]);
}
