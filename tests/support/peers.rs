//! Finds the programs that a test needs on the other end, such as kcptun, OpenSSL and sshd.
//! `./tests/peers` installs them and runs these tests. Otherwise these tests are ignored
//! (`#[ignore]`).

use std::path::{Path, PathBuf};

/// Returns the path of a program. Servers may be in directories outside a user's `PATH`.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    let mut directories = std::env::split_paths(&path).chain(extra);
    directories.find_map(|directory| Some(directory.join(name)).filter(|path| path.is_file()))
}

/// Whether all of the programs are installed. If not, it prints `LEFT OUT`. With
/// `GMUX_PEERS=required` it fails instead.
pub fn are_there(test: &str, programs: &[&str]) -> bool {
    let missing: Vec<_> = programs.iter().copied().filter(|name| program(name).is_none()).collect();
    if missing.is_empty() {
        return true;
    }
    let text = format!("{test}: {} not installed (see ./tests/peers)", missing.join(", "));
    assert!(std::env::var("GMUX_PEERS").as_deref() != Ok("required"), "{text}");
    println!("LEFT OUT: {text}");
    false
}

/// Returns the path of a built example. Its directory lies beside the directory of this test's
/// executable.
pub fn example(name: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let path = this.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is missing: build the examples first", path.display());
    path
}
