//! The faces to the outside: one file a dialect. Each translates its own words to the crate's and back.

pub mod native;
pub mod pages;
