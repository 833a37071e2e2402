//! The manual, as pages of the documentation. `guide.md`, beside these pages, is the crate's own
//! documentation.
//!
//! Invariant: these modules contain documentation only. They are compiled only for documentation
//! and its tests.
//!
//! | page | for readers who |
//! |---|---|
//! | [`promises`] | build on this crate, or change it: what a program can rely on, each promise with its tests |
//! | [`protocol`] | implement a peer: the complete wire protocol |
//! | [`transports`] | choose a connection, or write a transport: the guarantees and costs of each |
//! | [`architecture`] | change this crate: threads, layers, locks, wake-ups, and a glossary |
//! | [`tuning`] | run programs with it: the cost and benefit of each setting |
//! | [`security`] | have peers that they don't trust: the protection, the limits, the cost of attacks |
//! | [`testing`] | change this crate, or doubt it: which test shows which property, and how to run each kind |

#[doc = include_str!("promises.md")]
pub mod promises {}

#[doc = include_str!("protocol.md")]
pub mod protocol {}

#[doc = include_str!("transports.md")]
pub mod transports {}

#[doc = include_str!("architecture.md")]
pub mod architecture {}

#[doc = include_str!("tuning.md")]
pub mod tuning {}

#[doc = include_str!("testing.md")]
pub mod testing {}

#[doc = include_str!("security.md")]
pub mod security {}
