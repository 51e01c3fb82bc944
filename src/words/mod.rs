//! The words of the field as plain data, without I/O: what is asked ([`request`]), what may be used
//! ([`limits`]), how a language is run ([`profile`]), what this machine can enforce ([`host`]), what happened and
//! what it means ([`verdict`]).

pub mod causes;
pub mod embedded;
pub mod host;
pub mod limits;
pub mod network;
pub mod profile;
pub mod request;
pub mod settings;
pub mod suggest;
pub mod toml_error;
pub mod verdict;
