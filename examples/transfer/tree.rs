//! The tree that is sent. This module finds the entries, and compares them with another tree.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::names;
use super::protocol::Kind;

/// A file or an empty directory.
#[derive(Debug)]
pub struct Entry {
    pub name: Vec<u8>,
    pub path: PathBuf,
    pub kind: Kind,
}

#[derive(Debug, Default)]
pub struct Tree {
    pub entries: Vec<Entry>,
    /// Total size of all files, in bytes.
    pub bytes: u64,
    /// Entries that aren't sent, because they are neither file nor directory.
    pub skipped: Vec<String>,
    /// Entries that couldn't be read, with the reasons.
    pub unreadable: Vec<String>,
}

impl Tree {
    /// Finds everything below `root`, except for names in `exclude`.
    pub fn scan(root: &Path, exclude: &[OsString]) -> io::Result<Self> {
        fs::read_dir(root)?; // A root that can't be read is an error, not an empty tree.
        let mut tree = Self::default();
        let excluded = |name: &OsStr| exclude.iter().any(|excluded| excluded == name);
        let walk = WalkDir::new(root).min_depth(1).sort_by_file_name().into_iter();
        for found in walk.filter_entry(|entry| entry.depth() == 0 || !excluded(entry.file_name())) {
            let (entry, metadata) =
                match found.and_then(|entry| entry.metadata().map(|metadata| (entry, metadata))) {
                    Ok(both) => both,
                    Err(error) => {
                        tree.unreadable.push(error.to_string());
                        continue;
                    }
                };
            let relative = entry.path().strip_prefix(root).unwrap_or(entry.path());
            let kind = match metadata.file_type() {
                kind if kind.is_file() => Kind::File,
                kind if kind.is_dir() => Kind::Directory,
                kind => {
                    let what = if kind.is_symlink() { "symbolic link" } else { "special file" };
                    tree.skipped.push(format!(
                        "{what} {}",
                        names::show(relative.as_os_str().as_encoded_bytes())
                    ));
                    continue;
                }
            };
            match names::from_path(relative) {
                Ok(name) => {
                    tree.bytes += if kind == Kind::File { metadata.len() } else { 0 };
                    tree.entries.push(Entry { name, path: entry.into_path(), kind });
                }
                Err(error) => tree.unreadable.push(format!("{}: {error}", entry.path().display())),
            }
        }
        // A directory that isn't empty needs no entry. It is made when its files arrive.
        let parents: HashSet<PathBuf> = tree
            .entries
            .iter()
            .filter_map(|entry| entry.path.parent().map(Path::to_owned))
            .collect();
        tree.entries.retain(|entry| entry.kind == Kind::File || !parents.contains(&entry.path));
        Ok(tree)
    }

    /// Compares every byte with the tree below `other`. Returns the differences.
    pub fn differences(&self, other: &Path) -> Vec<String> {
        let differs = |entry: &Entry| {
            let there = entry.path_below(other);
            let why = match entry.kind {
                Kind::File => equal(&entry.path, &there).err()?.to_string(),
                Kind::Directory | Kind::List if there.is_dir() => return None,
                Kind::Directory | Kind::List => "not there".to_owned(),
            };
            Some(format!("{}: {why}", names::show(&entry.name)))
        };
        self.entries.iter().filter_map(differs).collect()
    }
}

impl Entry {
    fn path_below(&self, root: &Path) -> PathBuf {
        let parts = names::check(&self.name).unwrap_or_default();
        root.join(parts.iter().collect::<PathBuf>())
    }
}

/// Compares the content of two files. The error tells where they differ.
fn equal(here: &Path, there: &Path) -> io::Result<()> {
    let mut a = File::open(here)?;
    let mut b = File::open(there)?;
    let mut left = vec![0; 1 << 16];
    let mut right = vec![0; 1 << 16];
    let mut position = 0;
    loop {
        let n = a.read(&mut left)?;
        let wanted = n.max(1); // At the end of one file, the other has to end too.
        let mut m = 0;
        while m < wanted {
            match b.read(&mut right[m..wanted])? {
                0 => break,
                more => m += more,
            }
        }
        if left[..n] != right[..m] {
            return Err(io::Error::other(format!(
                "differs within the {} bytes after {position}",
                n.max(m)
            )));
        }
        if n == 0 {
            return Ok(());
        }
        position += n;
    }
}
