//! Turns paths of files into names of streams, and names into paths. This module also decides which
//! names a receiver refuses.
//!
//! Invariant: a path from [`locate`] lies inside the root and leads through no symbolic link. The
//! path is made from the name's bytes. The text from [`show`] is only for people.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::protocol::invalid;

/// The prefix of the receiver's temporary files. They lie at the top of its directory.
pub const TEMPORARY: &str = ".gmux-transfer-";

/// The parts of a name that has passed [`check`].
pub type Parts<'a> = Vec<&'a OsStr>;

#[cfg(unix)]
fn part_from(bytes: &[u8]) -> io::Result<&OsStr> {
    Ok(std::os::unix::ffi::OsStrExt::from_bytes(bytes))
}

#[cfg(unix)]
fn part_bytes(part: &OsStr) -> io::Result<&[u8]> {
    Ok(std::os::unix::ffi::OsStrExt::as_bytes(part))
}

/// On other systems names are text. A colon there means a drive, a device or a file's second
/// stream.
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

/// Returns the name for a path relative to the tree.
pub fn from_path(relative: &Path) -> io::Result<Vec<u8>> {
    let parts: Vec<&[u8]> = relative.iter().map(part_bytes).collect::<io::Result<_>>()?;
    Ok(parts.join(&b'/'))
}

/// Returns the parts of a peer's name, if that name stays inside the directory. It looks at the
/// name alone, not at the disk.
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

/// The expected kind of the last part of a path, if it exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    File,
    Directory,
}

/// Returns the path inside `root` that `parts` lead to. It fails if an existing file or link is in
/// the way. With `make`, missing directories on the way are made. The target itself is made too if
/// it is a directory.
///
/// A link is refused, whatever its target is. Another process could still put a link there between
/// this check and the use of the path. std alone can't prevent that. The sender can't do it,
/// because no stream makes links.
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

/// Returns a name as text for people. Nothing in the text can control a terminal.
pub fn show(name: &[u8]) -> String {
    String::from_utf8_lossy(name).escape_debug().to_string()
}
