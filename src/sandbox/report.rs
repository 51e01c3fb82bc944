//! What init tells the supervisor: fixed-size messages on the control socket.
//!
//! The payload never holds this socket, and init sends only before the payload's exec and after its end (apart from
//! denials, whose numbers the kernel gives), so that nothing in a cell can forge a report.

/// One message of init.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// Every step up to the wait for a program is done; left unsaid when the program is there already.
    Prepared,
    /// The work directory of a compile step comes with this message.
    Workdir,
    /// The payload's program has been executed. Times of the monotonic clock and of init's own CPU clock.
    Started { at_ns: u64, init_cpu_ns: u64 },
    /// Step number `step` of the sequence failed.
    Failed { step: u8, errno: i32 },
    /// The filter denied system call `number`, `count` times up to now.
    Denied { number: u32, count: u32 },
    /// The payload's first process ended with the raw wait(2) `status`. What the processes reaped by then used, by
    /// getrusage(2), is all there is to know where no cgroup counts.
    Ended { status: i32, at_ns: u64, init_cpu_ns: u64, reaped_cpu_ns: u64, reaped_memory_bytes: u64 },
    /// Step number `step` took this long; sent at the end, where a trace was wanted.
    Timed { step: u8, nanoseconds: u64 },
}

/// Bytes of an encoded report.
pub const REPORT_BYTES: usize = 40;

impl Report {
    pub fn encode(self) -> [u8; REPORT_BYTES] {
        let (kind, small, large) = match self {
            Report::Prepared => (1, 0, [0; 4]),
            Report::Started { at_ns, init_cpu_ns } => (2, 0, [at_ns, init_cpu_ns, 0, 0]),
            Report::Failed { step, errno } => (3, errno, [u64::from(step), 0, 0, 0]),
            Report::Denied { number, count } => (4, number as i32, [u64::from(count), 0, 0, 0]),
            Report::Ended { status, at_ns, init_cpu_ns, reaped_cpu_ns, reaped_memory_bytes } => {
                (5, status, [at_ns, init_cpu_ns, reaped_cpu_ns, reaped_memory_bytes])
            }
            Report::Workdir => (6, 0, [0; 4]),
            Report::Timed { step, nanoseconds } => (7, 0, [u64::from(step), nanoseconds, 0, 0]),
        };
        let mut bytes = [0; REPORT_BYTES];
        let (head, tail) = bytes.split_at_mut(8);
        head[..4].copy_from_slice(&i32::to_le_bytes(small));
        head[4] = kind;
        for (place, value) in tail.chunks_exact_mut(8).zip(large) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Option<Report> {
        let bytes: &[u8; REPORT_BYTES] = bytes.try_into().ok()?;
        let small = i32::from_le_bytes(bytes[..4].try_into().ok()?);
        let mut large = [0; 4];
        for (value, place) in large.iter_mut().zip(bytes[8..].chunks_exact(8)) {
            *value = u64::from_le_bytes(place.try_into().ok()?);
        }
        let [a, b, c, d] = large;
        Some(match bytes[4] {
            1 => Report::Prepared,
            2 => Report::Started { at_ns: a, init_cpu_ns: b },
            3 => Report::Failed { step: a as u8, errno: small },
            4 => Report::Denied { number: small as u32, count: a as u32 },
            5 => Report::Ended { status: small, at_ns: a, init_cpu_ns: b, reaped_cpu_ns: c, reaped_memory_bytes: d },
            6 => Report::Workdir,
            7 => Report::Timed { step: a as u8, nanoseconds: b },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_survive_the_wire_and_junk_does_not() {
        let reports = [
            Report::Prepared,
            Report::Workdir,
            Report::Started { at_ns: u64::MAX, init_cpu_ns: 7 },
            Report::Failed { step: 33, errno: 12 },
            Report::Denied { number: u32::MAX, count: 9 },
            Report::Ended { status: -1, at_ns: 5, init_cpu_ns: 6, reaped_cpu_ns: 7, reaped_memory_bytes: 8 },
            Report::Timed { step: 46, nanoseconds: u64::MAX },
        ];
        for report in reports {
            assert_eq!(Report::decode(&report.encode()), Some(report));
        }
        assert_eq!(Report::decode(&[0; REPORT_BYTES]), None);
        assert_eq!(Report::decode(&[1, 2, 3]), None);
    }
}
