//! `HashMap`, with the same order in every execution.

use std::collections;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::ops::{Deref, DerefMut};

type Inner<K, V> = collections::HashMap<K, V, BuildHasherDefault<DefaultHasher>>;

#[derive(Debug)]
pub struct HashMap<K, V>(Inner<K, V>);

impl<K, V> HashMap<K, V> {
    pub fn new() -> Self {
        Self(Inner::default())
    }

    // A method that `Deref` can't forward.

    pub fn shrink_to(&mut self, capacity: usize)
    where
        K: Eq + std::hash::Hash,
    {
        self.0.shrink_to(capacity);
    }

    pub fn into_values(self) -> impl Iterator<Item = V> {
        self.0.into_values()
    }
}

impl<K, V> Default for HashMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> Deref for HashMap<K, V> {
    type Target = Inner<K, V>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<K, V> DerefMut for HashMap<K, V> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}
