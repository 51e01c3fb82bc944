//! Fuzzing: everything that reads what others wrote is tried with inputs that nobody thought of. Short with every test,
//! long by `make fuzz`; how is told in `driver.rs`.

mod bodies;
mod driver;
mod mutate;
mod output;
mod protocol;
mod settings;
mod sockets;
mod world;
