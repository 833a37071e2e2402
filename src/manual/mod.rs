//! The manual, for reading: these modules are empty.
//!
//! | page | for |
//! |---|---|
//! | [`protocol`] | those who want to talk with it: the wire, complete |
//! | [`architecture`] | those who change it: threads, layers, locks, who wakes whom |
//! | [`tuning`] | those who run it: what each setting costs and buys |

#[doc = include_str!("protocol.md")]
pub mod protocol {}

#[doc = include_str!("architecture.md")]
pub mod architecture {}

#[doc = include_str!("tuning.md")]
pub mod tuning {}
