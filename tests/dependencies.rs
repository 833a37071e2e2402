//! Tests of the crate's dependencies:
//! - five crates in every build, and one more for each feature
//! - no licence that a user's licence check would refuse
//! - no crate that needs a newer compiler than this one does
//!
//! `cargo metadata` lists the crates for this machine from the lock file, without a network.
//!
//! Promises: P116.

use std::collections::BTreeSet;
use std::process::Command;

use cargo_metadata::semver::Version;
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// The dependencies of every build.
const ALWAYS: [&str; 5] = ["byteorder", "crossbeam-channel", "log", "parking_lot", "thiserror"];

/// Dependencies that a build has only with the feature of the same name.
const OPTIONAL: [&str; 1] = ["rustls"];

/// The allowed licences. If a crate offers several, one of these is enough. New dependencies may
/// have the first four. The others are as free, and came with crates that everybody uses.
const LICENCES: [&str; 8] = [
    "MIT",
    "Apache-2.0",
    "ISC",
    "BSD-3-Clause",
    "BSD-2-Clause",
    "Unlicense",
    "Zlib",
    "Unicode-3.0",
];

/// Returns all crates for this machine: the dependencies, those of features, and those of tests,
/// examples and benchmarks.
fn resolved() -> Metadata {
    let rustc = Command::new("rustc").arg("-vV").output().expect("rustc runs");
    let rustc = String::from_utf8(rustc.stdout).expect("rustc speaks UTF-8");
    let host =
        rustc.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host");
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .features(cargo_metadata::CargoOpt::AllFeatures)
        .other_options(["--locked", "--offline", "--filter-platform", host].map(str::to_owned))
        .exec()
        .expect("cargo metadata")
}

fn this_crate(metadata: &Metadata) -> &Package {
    metadata.root_package().expect("the manifest has a package")
}

/// Returns the names of the library's dependencies, either the optional ones or the others.
fn built_in(package: &Package, optional: bool) -> BTreeSet<&str> {
    let dependencies = package.dependencies.iter();
    let built_in =
        dependencies.filter(|it| it.kind != DependencyKind::Development && it.optional == optional);
    built_in.map(|it| it.name.as_str()).collect()
}

/// Whether allowed licences satisfy this expression. `/` is the old way to write `OR`.
fn is_allowed(licence: &str) -> bool {
    let licence = licence.replace('/', " OR ").replace(['(', ')'], " ");
    licence.split(" AND ").all(|all| all.split(" OR ").any(|any| LICENCES.contains(&any.trim())))
}

#[test]
fn every_build_depends_on_these_five_and_each_feature_on_one_more() {
    let metadata = resolved();
    let package = this_crate(&metadata);
    assert_eq!(built_in(package, false), BTreeSet::from(ALWAYS));
    assert_eq!(built_in(package, true), BTreeSet::from(OPTIONAL));
    let features = package.features.iter().map(|(name, what)| (name.as_str(), what.clone()));
    let expected = OPTIONAL.map(|name| (name, vec![format!("dep:{name}")]));
    assert_eq!(features.collect::<Vec<_>>(), expected, "features, of which none is on by default");
}

#[test]
fn the_cryptography_of_tls_is_left_to_the_user() {
    let metadata = resolved();
    let rustls =
        this_crate(&metadata).dependencies.iter().find(|it| it.optional && it.name == "rustls");
    let rustls = rustls.expect("rustls is a dependency");
    assert!(!rustls.uses_default_features, "rustls's default features choose a provider");
    assert_eq!(rustls.features, ["std"]);
}

#[test]
fn every_dependency_has_a_licence_that_is_allowed() {
    let metadata = resolved();
    let theirs = metadata.packages.iter().filter(|package| package.id != this_crate(&metadata).id);
    let refused = theirs.filter_map(|package| {
        let licence = package.license.as_deref().unwrap_or("none");
        (!is_allowed(licence)).then(|| format!("{} {}: {licence}", package.name, package.version))
    });
    assert_eq!(refused.collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn every_dependency_builds_with_the_oldest_rust_that_this_crate_promises() {
    let metadata = resolved();
    let ours: &Version = this_crate(&metadata).rust_version.as_ref().expect("rust-version is set");
    let newer = metadata.packages.iter().filter_map(|package| {
        let theirs = package.rust_version.as_ref().filter(|theirs| *theirs > ours)?;
        Some(format!("{} {} needs Rust {theirs}", package.name, package.version))
    });
    assert_eq!(newer.collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn the_check_of_licences_reads_their_expressions() {
    for licence in [
        "MIT",
        "MIT OR Apache-2.0",
        "MIT/Apache-2.0",
        "(MIT OR GPL-2.0) AND Unicode-3.0",
        "GPL-3.0 OR ISC",
    ] {
        assert!(is_allowed(licence), "{licence}");
    }
    for licence in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND LGPL-2.1", "none", ""] {
        assert!(!is_allowed(licence), "{licence}");
    }
}
