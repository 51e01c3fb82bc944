//! What the HTTP service is made of, beneath its dialects.

pub mod keys;
pub mod rate;
