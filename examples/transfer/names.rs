//! Names of streams and paths of files: how one becomes the other, and which names a receiver
//! refuses.
//!
//! Invariant: a path from [`locate`] lies inside the root and leads through no symbolic link. It is
//! made from the name's bytes; the text that [`show`] makes of a name is for people.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::protocol::invalid;

/// What the receiver's temporary files begin with; they lie at the top of its directory.
pub const TEMPORARY: &str = ".gmux-transfer-";

/// A name that [`check`] found harmless: its parts.
pub type Parts<'a> = Vec<&'a OsStr>;

#[cfg(unix)]
fn part_from(bytes: &[u8]) -> io::Result<&OsStr> {
    Ok(std::os::unix::ffi::OsStrExt::from_bytes(bytes))
}

#[cfg(unix)]
fn part_bytes(part: &OsStr) -> io::Result<&[u8]> {
    Ok(std::os::unix::ffi::OsStrExt::as_bytes(part))
}

/// Elsewhere names are text, and a colon means a drive, a device or a file's second stream.
#[cfg(not(unix))]
fn part_from(bytes: &[u8]) -> io::Result<&OsStr> {
    let text = std::str::from_utf8(bytes).map_err(|_| invalid("the name isn't UTF-8"))?;
    if text.contains([':', '\\']) {
        Err(invalid("the name has a ':' or '\\' in it"))
    } else {
        Ok(OsStr::new(text))
    }
}

#[cfg(not(unix))]
fn part_bytes(part: &OsStr) -> io::Result<&[u8]> {
    Ok(part.to_str().ok_or_else(|| invalid("the name isn't Unicode"))?.as_bytes())
}

/// The name for a path relative to the tree.
pub fn from_path(relative: &Path) -> io::Result<Vec<u8>> {
    let parts: Vec<&[u8]> = relative.iter().map(part_bytes).collect::<io::Result<_>>()?;
    Ok(parts.join(&b'/'))
}

/// The parts of a peer's name, if it is one that stays where it should, as far as the name alone
/// tells.
pub fn check(name: &[u8]) -> io::Result<Parts<'_>> {
    if name.is_empty() {
        return Err(invalid("the name is empty"));
    }
    if name.contains(&0) {
        return Err(invalid("the name has a NUL byte in it"));
    }
    if name[0] == b'/' {
        return Err(invalid("the name is absolute"));
    }
    let parts: Parts<'_> =
        name.split(|&byte| byte == b'/').map(part_from).collect::<io::Result<_>>()?;
    for part in &parts {
        let mut components = Path::new(part).components();
        match (components.next(), components.next()) {
            (Some(Component::Normal(normal)), None) if normal == *part => {}
            (Some(Component::ParentDir), _) => return Err(invalid("the name has '..' in it")),
            _ => return Err(invalid("the name has an empty part or '.' in it")),
        }
    }
    if name.starts_with(TEMPORARY.as_bytes()) {
        return Err(invalid("the name is one of the receiver's temporary files"));
    }
    Ok(parts)
}

/// What has to be at the end of a path, if anything is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    File,
    Directory,
}

/// The path inside `root` that `parts` lead to, if nothing that lies there already is in the way.
/// With `make`, missing directories on the way are made, and the target if it is one.
///
/// A link is refused wherever it leads. Between this look and the use of the path another process
/// could still put one there, which std alone can't prevent; the sender can't, for no stream makes
/// links.
pub fn locate(root: &Path, parts: &[&OsStr], target: Target, make: bool) -> io::Result<PathBuf> {
    let mut path = root.to_owned();
    for (i, part) in parts.iter().enumerate() {
        path.push(part);
        let last = i + 1 == parts.len();
        let wanted = if last { target } else { Target::Directory };
        if make
            && wanted == Target::Directory
            && let Err(error) = fs::create_dir(&path)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error);
        }
        let relative =
            || show(path.strip_prefix(root).unwrap_or(&path).as_os_str().as_encoded_bytes());
        let found = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata.file_type(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(root.join(parts.iter().collect::<PathBuf>()));
            }
            Err(error) => return Err(error),
        };
        if found.is_symlink() {
            return Err(invalid(format!("{} is a symbolic link at the receiver", relative())));
        }
        match wanted {
            Target::Directory if !found.is_dir() => {
                return Err(invalid(format!("{} is no directory at the receiver", relative())));
            }
            Target::File if !found.is_file() => {
                return Err(invalid(format!("{} is no file at the receiver", relative())));
            }
            Target::Directory | Target::File => {}
        }
    }
    Ok(path)
}

/// A name as text for people: nothing in it can control a terminal.
pub fn show(name: &[u8]) -> String {
    String::from_utf8_lossy(name).escape_debug().to_string()
}
