//! Whether the programs that a test needs on the other end are here: kcptun, OpenSSL, sshd and the
//! like. `./tests/peers` installs them and runs such tests, which are `#[ignore]`d otherwise.

use std::path::{Path, PathBuf};

/// Where a program is. Servers are in directories that a user's `PATH` may lack.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    let mut directories = std::env::split_paths(&path).chain(extra);
    directories.find_map(|directory| Some(directory.join(name)).filter(|path| path.is_file()))
}

/// Whether all of them are here. If not, says `LEFT OUT`; with `GMUX_PEERS=required` that fails.
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

/// A built example. It lies beside the directory that this test's executable is in.
pub fn example(name: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let path = this.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is missing: build the examples first", path.display());
    path
}
