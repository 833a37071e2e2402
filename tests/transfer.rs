//! Tests of the `transfer` example as its users run it: the built program as child processes,
//! honest and hostile peers, and connections that die midway. There is also a test of the two echo
//! examples.
//!
//! Plain `cargo test` builds the examples first. For `--test transfer` alone, run
//! `cargo build --examples` before.
//!
//! Promises: none. It shows examples as their users meet them.
#![cfg(unix)]

// These modules are the example's own. They are included here to test its comparison of trees,
// because a run that goes well can't show that it finds differences.
#[allow(dead_code, reason = "a part of the example")]
#[path = "../examples/transfer/names.rs"]
mod names;
#[allow(dead_code, reason = "a part of the example")]
#[path = "../examples/transfer/protocol.rs"]
mod protocol;
mod support;
#[allow(dead_code, reason = "a part of the example")]
#[path = "../examples/transfer/tree.rs"]
mod tree;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use gmux::{Config, Session, Stream};
use sha2::{Digest, Sha256};
use support::{Pattern, test};
use tempfile::TempDir;

// ---- child processes ----------------------------------------------------------------------------

/// A built example. Its directory lies beside the directory of this test's executable.
fn example(name: &str) -> Command {
    let this = std::env::current_exe().unwrap();
    let path = this.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --examples` first", path.display());
    Command::new(path)
}

/// A child process whose output is collected. Its drop kills it.
struct Running {
    child: Child,
    /// The address that it listens on, if it is a server.
    addr: String,
    outputs: Option<[JoinHandle<String>; 2]>,
}

/// The result of a child process.
#[derive(Debug)]
struct Finished {
    success: bool,
    out: String,
    err: String,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let outputs =
            [collect(child.stdout.take().unwrap()), collect(child.stderr.take().unwrap())];
        Self { child, addr: String::new(), outputs: Some(outputs) }
    }

    /// Starts a server, and waits for the line with its address.
    fn server(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let addr = line
            .trim_end()
            .strip_prefix("listening on ")
            .unwrap_or_else(|| panic!("{line:?}"))
            .to_owned();
        let outputs = [collect(out), collect(child.stderr.take().unwrap())];
        Self { child, addr, outputs: Some(outputs) }
    }

    fn serve(into: &Path) -> Self {
        Self::server(
            example("transfer").args(["serve", "--listen", "127.0.0.1:0", "--into"]).arg(into),
        )
    }

    fn finish(mut self) -> Finished {
        let success = self.child.wait().unwrap().success();
        let [out, err] = self.outputs.take().unwrap().map(|output| output.join().unwrap());
        Finished { success, out, err }
    }

    /// Kills it like a crash, so that none of its destructors runs.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended already
        let _ = self.child.wait();
    }
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

impl Finished {
    #[track_caller]
    fn succeeded(&self) -> &Self {
        assert!(self.success, "{self:#?}");
        self
    }

    #[track_caller]
    fn failed(&self) -> &Self {
        assert!(!self.success, "{self:#?}");
        self
    }

    #[track_caller]
    fn complains(&self, of: &str) -> &Self {
        assert!(self.err.contains(of), "{of:?} is missing in {self:#?}");
        self
    }

    #[track_caller]
    fn doesnt_complain(&self, of: &str) -> &Self {
        assert!(!self.err.contains(of), "{of:?} is in {self:#?}");
        self
    }
}

// ---- trees --------------------------------------------------------------------------------------

fn temp() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn write(root: &Path, name: impl AsRef<Path>, content: &[u8]) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Returns the relative path and the content of everything below `root`. The content of a directory
/// is `None`. The content of a link is its target.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in walkdir::WalkDir::new(root).min_depth(1) {
        let entry = entry.unwrap();
        let content = match entry.file_type() {
            kind if kind.is_dir() => None,
            kind if kind.is_symlink() => {
                Some(fs::read_link(entry.path()).unwrap().as_os_str().as_bytes().to_vec())
            }
            _ => Some(fs::read(entry.path()).unwrap()),
        };
        found.insert(entry.path().strip_prefix(root).unwrap().to_owned(), content);
    }
    found
}

/// Makes a tree with entries of every kind.
fn made_up_tree() -> TempDir {
    let dir = temp();
    write(dir.path(), "empty", b"");
    write(dir.path(), "one byte", b"1");
    write(dir.path(), "deep/er/est/file.txt", b"down here");
    write(dir.path(), "deep/er/.hidden", b"hidden");
    write(dir.path(), "block", &Pattern::bytes(2, 64 * 1024));
    write(dir.path(), "large", &Pattern::bytes(3, 3_000_001));
    write(dir.path(), "naïve \u{1F980}\nline", b"unicode and a line feed");
    #[cfg(target_os = "linux")] // Other file systems may insist on UTF-8.
    write(dir.path(), std::ffi::OsStr::from_bytes(b"not\xFFutf8/\xC3"), b"bytes");
    fs::create_dir_all(dir.path().join("hollow/inside")).unwrap();
    for i in 0..100 {
        write(dir.path(), format!("many/{i}"), &Pattern::bytes(i, i as usize * 37));
    }
    dir
}

// ---- a sender that can break the rules ----------------------------------------------------------

/// A client that speaks the example's protocol, but can break each of its rules.
struct Sender(Session);

impl Sender {
    fn connect(server: &Running) -> Self {
        Self(
            Session::client(TcpStream::connect(&server.addr).unwrap(), Config::new().version(2))
                .unwrap(),
        )
    }

    /// Sends the list, as an honest sender does first.
    fn announce(&self, names: &[&[u8]]) {
        let mut list = 0u64.to_le_bytes().to_vec();
        for name in names {
            list.extend((name.len() as u32).to_le_bytes());
            list.extend(*name);
        }
        assert_eq!(self.put(b"", b'L', &list), Ok(()));
    }

    /// Asks to send a file. Returns the stream, if the receiver agrees.
    fn begin(&self, name: &[u8], kind: u8, length: u64) -> Result<Stream, String> {
        let mut stream = self.0.open(name).unwrap();
        stream.write_all(&[kind]).unwrap();
        stream.write_all(&length.to_le_bytes()).unwrap();
        answer(&mut stream).map(|()| stream)
    }

    fn put(&self, name: &[u8], kind: u8, content: &[u8]) -> Result<(), String> {
        let stream = self.begin(name, kind, content.len() as u64)?;
        end(stream, &[content, &Sha256::digest(content)].concat())
    }

    fn file(&self, name: &[u8], content: &[u8]) -> Result<(), String> {
        self.put(name, b'F', content)
    }
}

/// Sends the rest of a stream, and reads the last answer.
fn end(mut stream: Stream, rest: &[u8]) -> Result<(), String> {
    stream.write_all(rest).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    answer(&mut stream)
}

fn answer(stream: &mut Stream) -> Result<(), String> {
    let mut head = [0; 3];
    stream.read_exact(&mut head).unwrap();
    let mut reason = vec![0; u16::from_le_bytes([head[1], head[2]]).into()];
    stream.read_exact(&mut reason).unwrap();
    if head[0] == 0 { Ok(()) } else { Err(String::from_utf8(reason).unwrap()) }
}

/// Returns the content, followed by its correct digest.
fn whole(content: &[u8]) -> Vec<u8> {
    [content, &Sha256::digest(content)].concat()
}

// ---- transfers ----------------------------------------------------------------------------------

#[test]
fn without_a_command_a_tree_is_sent_over_loopback_and_compared() {
    test("without_a_command_a_tree_is_sent_over_loopback_and_compared", || {
        let tree = made_up_tree();
        symlink("empty", tree.path().join("link")).unwrap();
        let files = snapshot(tree.path()).values().flatten().count() - 1; // without the link
        for version in ["1", "2"] {
            let tmp = temp();
            let mut command = example("transfer");
            command.arg(tree.path()).args(["--gmux-version", version]).env("TMPDIR", tmp.path());
            let done = Running::start(&mut command).finish();
            done.succeeded().complains("left out: symbolic link link");
            assert!(done.out.contains(&format!("sent {files} files")), "{done:#?}");
            assert!(done.out.contains("1 empty directories"), "{done:#?}");
            assert!(done.out.contains("MB/s") && done.out.contains("frames sent"), "{done:#?}");
            assert!(done.out.contains("streams open at once"), "{done:#?}");
            assert!(
                done.out.contains("compared every byte at the other end: 0 files differ"),
                "{done:#?}"
            );
            // Without a terminal there is no progress bar, and no file is left behind.
            assert!(!done.err.contains('\r') && !done.err.contains('\u{1b}'), "{done:#?}");
            assert_eq!(snapshot(tmp.path()), BTreeMap::new());
        }
    });
}

#[test]
fn the_comparison_sees_every_byte() {
    test("the_comparison_sees_every_byte", || {
        let here = temp();
        let there = temp();
        let content = Pattern::bytes(6, 200_000);
        for root in [here.path(), there.path()] {
            write(root, "sub/file", &content);
            write(root, "empty", b"");
            fs::create_dir(root.join("hollow")).unwrap();
        }
        let tree = tree::Tree::scan(here.path(), &[]).unwrap();
        let differ = || tree.differences(there.path());
        assert_eq!(differ(), Vec::<String>::new());
        let is_seen = |name: &str, content: &[u8]| {
            let right = fs::read(there.path().join(name)).unwrap();
            write(there.path(), name, content);
            let expected = format!("{name}: differs");
            let found = differ();
            assert!(matches!(&found[..], [one] if one.starts_with(&expected)), "{found:?}");
            write(there.path(), name, &right);
        };
        for changed in [0, 65_535, 65_536, 199_999] {
            let mut content = content.clone();
            content[changed] ^= 0x80;
            is_seen("sub/file", &content);
        }
        is_seen("sub/file", &content[..199_999]);
        is_seen("sub/file", &content[..131_072]);
        is_seen("sub/file", &[&content[..], b"x"].concat());
        is_seen("empty", b"x");
        fs::remove_file(there.path().join("empty")).unwrap();
        fs::remove_dir(there.path().join("hollow")).unwrap();
        let gone = differ();
        assert!(gone.len() == 2 && gone[0].starts_with("empty: No such file"), "{gone:?}");
        assert_eq!(gone[1], "hollow: not there");
    });
}

#[test]
fn two_processes_make_an_equal_tree_and_both_say_so() {
    test("two_processes_make_an_equal_tree_and_both_say_so", || {
        let tree = made_up_tree();
        let into = temp();
        let expected = snapshot(tree.path());
        write(tree.path(), "leave/me/out", b"excluded by the name of a directory above it");
        write(into.path(), "one byte", b"an older file of another length");

        let server = Running::serve(into.path());
        let mut command = example("transfer");
        command.args(["send", &server.addr]).arg(tree.path()).args(["--exclude", "leave"]);
        let sent = Running::start(&mut command).finish();
        let received = server.finish();

        sent.succeeded();
        received.succeeded();
        assert!(
            sent.out.contains("sent ") && received.out.contains("received "),
            "{sent:#?} {received:#?}"
        );
        assert!(snapshot(into.path()) == expected);
    });
}

#[test]
fn jobs_is_how_many_files_are_under_way_at_once_and_their_names_are_the_paths() {
    test("jobs_is_how_many_files_are_under_way_at_once_and_their_names_are_the_paths", || {
        let tree = temp();
        for i in 0..20 {
            write(tree.path(), format!("sub/{i:02}"), b"content");
        }
        let (sender, session) = sender_to_us(tree.path(), 8, 1);

        // No stream is answered until all eight have come. While none is answered, the sender opens
        // no ninth.
        let streams: Vec<Stream> = (0..8).map(|_| session.accept().unwrap()).collect();
        let mut names: Vec<&str> = streams.iter().map(Stream::name).collect();
        names.sort_unstable();
        assert_eq!(names, (0..8).map(|i| format!("sub/{i:02}")).collect::<Vec<_>>());
        for mut stream in &streams {
            stream.read_exact(&mut [0; 9]).unwrap();
        }
        assert_eq!(session.num_streams(), 8);
        assert_eq!(session.stats().streams_received, 9);

        // Each refusal is printed by the sender, with its reason.
        let refuse = |mut stream: &Stream| stream.write_all(b"\x01\x06\0sorry\x1b").unwrap();
        streams.iter().for_each(refuse);
        drop(streams);
        for stream in session.incoming() {
            refuse(&stream.unwrap());
        }
        let sent = sender.finish();
        sent.failed()
            .complains("refused \"sub/00\": sorry?\n")
            .complains("refused \"sub/19\": sorry?\n");
        sent.complains("20 refused, 0 missing");
    });
}

/// Starts a sender, and receives its list of names. Returns the sender and the receiver's session.
fn sender_to_us(tree: &Path, jobs: u16, version: u8) -> (Running, Session) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let jobs = jobs.to_string();
    let number = version.to_string();
    let mut command = example("transfer");
    let sender = Running::start(
        command.args(["send", "--jobs", &jobs, "--gmux-version", &number, &addr]).arg(tree),
    );
    let session =
        Session::server(listener.accept().unwrap().0, Config::new().version(version)).unwrap();
    let mut list = session.accept().unwrap();
    assert_eq!(list.name_bytes(), b"");
    list.write_all(YES).unwrap();
    list.read_to_end(&mut Vec::new()).unwrap();
    list.write_all(YES).unwrap();
    (sender, session)
}

const YES: &[u8] = &[0, 0, 0];

#[test]
fn a_file_that_changes_under_the_senders_hands_is_never_sent_as_whole() {
    test("a_file_that_changes_under_the_senders_hands_is_never_sent_as_whole", || {
        let tree = temp();
        write(tree.path(), "shrinks", b"12345");
        write(tree.path(), "vanishes", b"12345");
        let (sender, session) = sender_to_us(tree.path(), 1, 1);
        let mut stream = session.accept().unwrap();
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"F\x05\0\0\0\0\0\0\0");
        // The sender has opened the file, and has read nothing of it. It waits for the first
        // answer.
        write(tree.path(), "shrinks", b"123");
        fs::remove_file(tree.path().join("vanishes")).unwrap();
        stream.write_all(YES).unwrap();
        let mut came = Vec::new();
        stream.read_to_end(&mut came).unwrap();
        assert_eq!(came, b"123", "and no digest");
        assert!(session.incoming().next().is_none(), "nothing to send of the other");
        let sent = sender.finish();
        sent.failed().complains("refused \"shrinks\": the content ended after 3 of 5 bytes");
        sent.complains("refused \"vanishes\": No such file");
    });
}

#[test]
fn a_receiver_that_gives_up_within_a_file_stops_its_sender_there() {
    test("a_receiver_that_gives_up_within_a_file_stops_its_sender_there", || {
        let tree = temp();
        let length = 1 << 40; // A hole, larger than anybody could send in this test's time.
        fs::File::create(tree.path().join("huge")).unwrap().set_len(length).unwrap();
        for version in [1, 2] {
            let (sender, session) = sender_to_us(tree.path(), 1, version);
            let mut stream = session.accept().unwrap();
            stream.write_all(YES).unwrap();
            stream.read_exact(&mut [0; 100_000]).unwrap();
            stream.write_all(b"\x01\x09\x00disk full").unwrap();
            drop(stream);
            sender.finish().failed().complains("refused \"huge\": disk full\n");
            drop(session);
        }
    });
}

// ---- hostile senders ----------------------------------------------------------------------------

#[test]
fn a_name_that_would_leave_the_directory_is_refused_and_nothing_is_written() {
    test("a_name_that_would_leave_the_directory_is_refused_and_nothing_is_written", || {
        let into = temp();
        let outside = temp();
        write(into.path(), "file", b"already here");
        write(into.path(), "dir/below", b"already here too");
        write(outside.path(), "precious", b"not yours");
        let link = |to: &Path, name: &str| symlink(to, into.path().join(name)).unwrap();
        link(outside.path(), "link");
        link(&outside.path().join("precious"), "precious");
        link(&outside.path().join("new"), "dangling");
        link(Path::new("dir"), "inside");
        link(outside.path(), "dir/link");
        let before = snapshot(into.path());
        let beyond = snapshot(outside.path());

        let server = Running::serve(into.path());
        let sender = Sender::connect(&server);
        sender.announce(&[b"good"]);
        let mut absolute = outside.path().as_os_str().as_bytes().to_vec();
        absolute.extend(b"/new");
        let hostile: [(&[u8], &str); 24] = [
            (b"", "empty"),
            (b"..", "'..'"),
            (b"../x", "'..'"),
            (b"a/..", "'..'"),
            (b"a/../../x", "'..'"),
            (b"dir/../../x", "'..'"),
            (&absolute, "absolute"),
            (b"/", "absolute"),
            (b"//x", "absolute"),
            (b".", "empty part or '.'"),
            (b"./x", "empty part or '.'"),
            (b"a/./x", "empty part or '.'"),
            (b"a//x", "empty part or '.'"),
            (b"a/", "empty part or '.'"),
            (b"a\0b", "NUL"),
            (b"\0", "NUL"),
            (b"link/x", "link is a symbolic link"),
            (b"dir/link/deep/x", "dir/link is a symbolic link"),
            (b"inside/x", "inside is a symbolic link"),
            (b"precious", "precious is a symbolic link"),
            (b"dangling", "dangling is a symbolic link"),
            (b"dir", "dir is no file"),
            (b"file/x", "file is no directory"),
            (b".gmux-transfer-x", "temporary"),
        ];
        for (name, reason) in hostile {
            for kind in [b'F', b'D'] {
                if kind == b'D' && name == b"dir" {
                    continue; // It is a directory, so this is allowed.
                }
                let said = sender.put(name, kind, b"").unwrap_err();
                let reason = if kind == b'D' && reason.ends_with("no file") {
                    "no directory"
                } else {
                    reason
                };
                assert!(
                    said.contains(reason),
                    "{:?} as {:?}: {said}",
                    name.escape_ascii().to_string(),
                    kind as char
                );
            }
        }
        // A name with a part that is too long for the system, and an unknown kind.
        assert!(sender.file(&[b'n'; 300], b"").is_err());
        assert!(sender.put(b"kind", b'?', b"").unwrap_err().contains("kind"));
        assert!(sender.put(b"dir", b'D', b"content").unwrap_err().contains("content"));
        // Nothing was made meanwhile, inside or outside the directory, not even a directory on the
        // way.
        assert_eq!(snapshot(into.path()), before);
        assert_eq!(snapshot(outside.path()), beyond);

        // The session goes on.
        assert_eq!(sender.file(b"good", b"fine"), Ok(()));
        sender.0.close().unwrap();
        let received = server.finish();
        received
            .failed()
            .complains("refused \"../x\": the name has '..' in it")
            .doesnt_complain("missing \"");
        let mut after = before;
        after.insert("good".into(), Some(b"fine".to_vec()));
        assert_eq!(snapshot(into.path()), after);
        assert_eq!(snapshot(outside.path()), beyond);
    });
}

#[test]
fn a_link_that_appears_while_the_content_is_on_its_way_is_seen() {
    test("a_link_that_appears_while_the_content_is_on_its_way_is_seen", || {
        let into = temp();
        let outside = temp();
        let server = Running::serve(into.path());
        let sender = Sender::connect(&server);
        sender.announce(&[]);
        let under_way = sender.begin(b"sub/file", b'F', 3).unwrap();
        symlink(outside.path(), into.path().join("sub")).unwrap();
        assert!(end(under_way, &whole(b"abc")).unwrap_err().contains("sub is a symbolic link"));
        assert_eq!(snapshot(outside.path()), BTreeMap::new());
        sender.0.close().unwrap();
        server.finish().failed().complains("refused \"sub/file\"");
        assert_eq!(snapshot(into.path()).len(), 1, "the link alone");
    });
}

#[test]
fn two_streams_never_get_one_name_nor_a_file_that_of_a_directory() {
    test("two_streams_never_get_one_name_nor_a_file_that_of_a_directory", || {
        let into = temp();
        let server = Running::serve(into.path());
        let sender = Sender::connect(&server);
        sender.announce(&[b"twice", b"same", b"file", b"dir/x"]);
        let refused = |name: &[u8], reason: &str| {
            let said = sender.file(name, b"second").unwrap_err();
            assert!(said.contains(reason), "{said}");
        };

        // A name that comes again after the first file is complete.
        assert_eq!(sender.file(b"twice", b"first"), Ok(()));
        refused(b"twice", "came before");
        // Names that collide with a file that is still on its way. Nothing is on disk under that
        // file's name yet.
        let same = sender.begin(b"same", b'F', 5).unwrap();
        refused(b"same", "came before");
        let file = sender.begin(b"file", b'F', 5).unwrap();
        refused(b"file/below/it", "file is a file already");
        let below = sender.begin(b"dir/x", b'F', 5).unwrap();
        refused(b"dir", "that of a directory");
        for stream in [same, file, below] {
            assert_eq!(end(stream, &whole(b"first")), Ok(()));
        }
        sender.0.close().unwrap();
        server.finish().failed().complains("refused \"same\"").doesnt_complain("missing \"");
        let first = Some(b"first".to_vec());
        let expected = [
            ("dir", None),
            ("dir/x", first.clone()),
            ("file", first.clone()),
            ("same", first.clone()),
        ];
        let expected: BTreeMap<_, _> = expected.into_iter().chain([("twice", first)]).collect();
        assert_eq!(
            snapshot(into.path()),
            expected.into_iter().map(|(name, to)| (name.into(), to)).collect()
        );
    });
}

#[test]
fn content_that_isnt_whole_never_gets_a_name() {
    test("content_that_isnt_whole_never_gets_a_name", || {
        let into = temp();
        write(into.path(), "old", b"the version before");
        let before = snapshot(into.path());
        let server = Running::serve(into.path());
        let sender = Sender::connect(&server);
        sender.announce(&[b"old"]);
        let content = Pattern::bytes(4, 200_000);
        let digest = Sha256::digest(&content);
        let damaged = {
            let mut bytes = whole(&content);
            bytes[100_000] ^= 1;
            bytes
        };
        let cases: [(&str, Vec<u8>, &str); 6] = [
            ("nothing", Vec::new(), "ended after 0 of 200000 bytes"),
            ("short", content[..199_999].to_vec(), "ended after 199999 of 200000 bytes"),
            ("no digest", content.clone(), "digest is missing"),
            ("half a digest", [&content[..], &digest[..31]].concat(), "digest is missing"),
            ("damaged", damaged, "doesn't match its digest"),
            ("long", [&whole(&content)[..], b"x"].concat(), "longer than announced"),
        ];
        for (what, bytes, reason) in cases {
            // Each case uses a new name, and the name of a file that must stay unchanged. A refused
            // name may be tried again.
            for name in ["new/file", "old"] {
                let said =
                    end(sender.begin(name.as_bytes(), b'F', 200_000).unwrap(), &bytes).unwrap_err();
                assert!(said.contains(reason), "{what}: {said}");
                assert_eq!(snapshot(into.path()), before, "{what}");
            }
        }
        sender.0.close().unwrap();
        server.finish().failed().complains("refused \"old\": the content doesn't match its digest");
        assert_eq!(snapshot(into.path()), before);
    });
}

// ---- missing data -------------------------------------------------------------------------------

#[test]
fn a_clean_end_without_all_that_was_announced_is_no_success() {
    test("a_clean_end_without_all_that_was_announced_is_no_success", || {
        for announce in [true, false] {
            let into = temp();
            let server = Running::serve(into.path());
            let sender = Sender::connect(&server);
            if announce {
                sender.announce(&[b"here", b"not here\x1b"]);
            }
            assert_eq!(sender.file(b"here", b"whole"), Ok(()));
            sender.0.close().unwrap();
            let received = server.finish();
            let expected = if announce {
                "missing \"not here\\u{1b}\": never came"
            } else {
                "never said what it would send"
            };
            received.failed().complains(expected).doesnt_complain("missing \"here\"");
            assert_eq!(fs::read(into.path().join("here")).unwrap(), b"whole");
        }
    });
}

/// Stands between a sender and a server. It passes on a limited number of the sender's bytes, and
/// all of the server's.
struct Gate {
    addr: String,
    passed: mpsc::Receiver<[TcpStream; 2]>,
}

impl Gate {
    fn before(server: &Running, bytes: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let server = server.addr.clone();
        let (tell, passed) = mpsc::channel();
        thread::spawn(move || {
            let sender = listener.accept().unwrap().0;
            let server = TcpStream::connect(server).unwrap();
            let mut from = server.try_clone().unwrap();
            let mut to = sender.try_clone().unwrap();
            let back = thread::spawn(move || io::copy(&mut from, &mut to));
            io::copy(&mut (&sender).take(bytes), &mut &server).unwrap();
            tell.send([sender, server]).unwrap();
            let _ = back.join().unwrap(); // It ends when the sockets are shut down.
        });
        Self { addr, passed }
    }

    /// Waits until the limit is reached and kills `victim`. Then it ends the rest of the
    /// connection, as the system does when a process dies.
    fn kill_midway(self, victim: Running) {
        let sockets = self.passed.recv().unwrap();
        victim.kill();
        for socket in sockets {
            let _ = socket.shutdown(Shutdown::Both); // One end is dead.
        }
    }
}

/// Makes three files, which are sent one after the other. The gate closes in the middle of the
/// second.
fn three_files() -> TempDir {
    let tree = temp();
    write(tree.path(), "a", b"arrives");
    write(tree.path(), "sub/b", &Pattern::bytes(5, 4_000_000));
    write(tree.path(), "sub/c", b"never sent");
    tree
}

const MIDWAY: u64 = 2_000_000;

fn send_one_by_one(addr: &str, tree: &Path) -> Running {
    Running::start(example("transfer").args(["send", "--jobs", "1", addr]).arg(tree))
}

#[test]
fn a_sender_killed_midway_leaves_no_half_file_and_the_receiver_says_what_is_missing() {
    test(
        "a_sender_killed_midway_leaves_no_half_file_and_the_receiver_says_what_is_missing",
        || {
            let tree = three_files();
            let into = temp();
            let server = Running::serve(into.path());
            let gate = Gate::before(&server, MIDWAY);
            let sender = send_one_by_one(&gate.addr, tree.path());
            gate.kill_midway(sender);

            let received = server.finish();
            received
                .failed()
                .complains("error: the connection: ")
                .complains("NOT complete: 0 refused, 2 missing");
            received
                .complains("missing \"sub/b\": came in part\n")
                .complains("missing \"sub/c\": never came\n");
            // Of the second and third file there is no final file, no temporary one and no
            // directory.
            let expected = BTreeMap::from([(PathBuf::from("a"), Some(b"arrives".to_vec()))]);
            assert_eq!(snapshot(into.path()), expected);
        },
    );
}

#[test]
fn a_receiver_killed_midway_leaves_no_half_file_and_the_sender_says_what_is_missing() {
    test(
        "a_receiver_killed_midway_leaves_no_half_file_and_the_sender_says_what_is_missing",
        || {
            let tree = three_files();
            let into = temp();
            let server = Running::serve(into.path());
            let gate = Gate::before(&server, MIDWAY);
            let sender = send_one_by_one(&gate.addr, tree.path());
            gate.kill_midway(server);

            let sent = sender.finish();
            sent.failed()
                .complains("error: the connection: ")
                .complains("NOT complete: 0 refused, 2 missing");
            sent.complains("missing \"sub/b\": ")
                .complains("missing \"sub/c\": ")
                .doesnt_complain("missing \"a\"");
            // A killed process can't tidy up. Its temporary file is left, with the prefix of
            // temporary files.
            let mut left = snapshot(into.path());
            left.retain(|path, _| !path.as_os_str().as_bytes().starts_with(b".gmux-transfer-"));
            assert_eq!(left, BTreeMap::from([(PathBuf::from("a"), Some(b"arrives".to_vec()))]));
        },
    );
}

#[test]
fn what_the_receiver_refuses_is_no_success_at_either_end() {
    test("what_the_receiver_refuses_is_no_success_at_either_end", || {
        let tree = temp();
        let into = temp();
        write(tree.path(), "good", b"good");
        write(tree.path(), ".gmux-transfer-left-behind", b"old");
        let server = Running::serve(into.path());
        let mut command = example("transfer");
        let sent = Running::start(command.args(["send", &server.addr]).arg(tree.path())).finish();
        sent.failed()
            .complains("refused \".gmux-transfer-left-behind\": ")
            .complains("1 refused, 0 missing");
        server.finish().failed().complains("1 refused, 0 missing");
        assert_eq!(snapshot(into.path()).len(), 1);

        // A tree that doesn't exist, and a server that doesn't exist.
        let mut command = example("transfer");
        Running::start(command.arg(tree.path().join("none"))).finish().failed().complains("none: ");
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let mut command = example("transfer");
        Running::start(command.args(["send", &nobody]).arg(tree.path()))
            .finish()
            .failed()
            .complains(&nobody);
    });
}

#[test]
fn ends_of_different_versions_both_fail_and_the_reason_is_told() {
    test("ends_of_different_versions_both_fail_and_the_reason_is_told", || {
        let tree = three_files();
        let into = temp();
        let server = Running::serve(into.path());
        let mut command = example("transfer");
        let sent = Running::start(
            command.args(["send", "--gmux-version", "1", &server.addr]).arg(tree.path()),
        )
        .finish();
        sent.failed().complains("missing \"a\"").complains("0 refused, 3 missing");
        let received = server.finish();
        received.failed().complains("configured for version 2").complains("sent version 1");
        assert_eq!(snapshot(into.path()), BTreeMap::new());
    });
}

// ---- the echo examples --------------------------------------------------------------------------

#[test]
fn the_echo_examples_talk_to_each_other() {
    test("the_echo_examples_talk_to_each_other", || {
        let server = Running::server(example("echo_server").arg("127.0.0.1:0"));
        for _ in 0..2 {
            let done = Running::start(example("echo_client").arg(&server.addr)).finish();
            done.succeeded();
            for name in ["one", "two", "three", "four"] {
                assert!(done.out.contains(&format!("{name}: ")), "{done:#?}");
            }
            assert_eq!(done.out.matches("bytes came back").count(), 4, "{done:#?}");
        }
    });
}
