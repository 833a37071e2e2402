//! The manual, for reading. `guide.md`, beside these pages, is the crate's own documentation.
//!
//! Invariant: documents alone; these modules are empty, and no part of a build that isn't one of
//! documentation.
//!
//! | page | for |
//! |---|---|
//! | [`protocol`] | those who want to talk with it: the wire, complete |
//! | [`transports`] | those who choose a connection, or write one: what holds over each, what each costs |
//! | [`architecture`] | those who change it: threads, layers, locks, who wakes whom |
//! | [`tuning`] | those who run it: what each setting costs and buys |
//! | [`security`] | those whose peers aren't trusted: what is protected, the limits, what attacks cost |
//! | [`testing`] | those who change it, or doubt it: which test shows what, and how to run each kind |

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
