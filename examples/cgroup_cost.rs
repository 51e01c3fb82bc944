//! What a cell's group costs per verb: `cargo run --release --example cgroup_cost` as root.

use sandboxd::sandbox::cgroup::{self, Choice, GroupLimits};
use std::time::Instant;

const ROUNDS: usize = 2000;
const VERBS: [&str; 7] = ["create", "create+cpu", "contains", "usage", "cpu_time", "kill (empty)", "remove"];

fn main() -> anyhow::Result<()> {
    let probe = cgroup::probe(Choice::Auto, None)?;
    print!("{probe}");
    let mut backend = cgroup::open(&probe, std::process::id())?;
    let mut samples = [const { Vec::new() }; VERBS.len()];
    for round in 0..ROUNDS {
        let mut time = |verb: usize, start: Instant| samples[verb].push(start.elapsed());
        let mut limits = GroupLimits { memory_bytes: 64 << 20, processes: 64, cpu_rate: None };

        let start = Instant::now();
        let cell = backend.create_cell(&format!("cost-{round}"), &limits)?;
        time(0, start);
        let start = Instant::now();
        cell.contains(std::process::id() as i32)?;
        time(2, start);
        let start = Instant::now();
        cell.usage()?;
        time(3, start);
        let start = Instant::now();
        cell.cpu_time()?;
        time(4, start);
        let start = Instant::now();
        cell.kill()?;
        time(5, start);
        let start = Instant::now();
        let errors = cell.remove();
        time(6, start);
        anyhow::ensure!(errors.is_empty(), "{errors:?}");

        limits.cpu_rate = Some(1.0);
        let start = Instant::now();
        let cell = backend.create_cell(&format!("rate-{round}"), &limits)?;
        time(1, start);
        cell.remove();
    }
    for (verb, samples) in VERBS.iter().zip(&mut samples) {
        samples.sort();
        let at = |part: usize| samples[part * (ROUNDS - 1) / 100].as_nanos() as f64 / 1000.0;
        println!("{verb:14} median {:6.1} us, p95 {:6.1}, p99 {:6.1}", at(50), at(95), at(99));
    }
    let errors = backend.close();
    anyhow::ensure!(errors.is_empty(), "{errors:?}");
    Ok(())
}
