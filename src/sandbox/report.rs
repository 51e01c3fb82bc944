//! What init tells the supervisor: fixed-size messages on the control socket.
//!
//! The payload never holds this socket, and init sends only before the payload's exec and after its end (apart from
//! denials, whose numbers the kernel gives), so that nothing in a cell can forge a report.

/// One message of init.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// Every step up to the wait for a program is done.
    Prepared,
    /// The work directory of a compile step comes with this message.
    Workdir,
    /// The payload's program has been executed. Times of the monotonic clock and of init's own CPU clock.
    Started { at_ns: u64, init_cpu_ns: u64 },
    /// Step number `step` of the sequence failed.
    Failed { step: u8, errno: i32 },
    /// The filter denied system call `number`, `count` times up to now.
    Denied { number: u32, count: u32 },
    /// The payload's first process ended with the raw wait(2) `status`.
    Ended { status: i32, at_ns: u64, init_cpu_ns: u64 },
    /// Step number `step` took this long; sent at the end, where a trace was wanted.
    Timed { step: u8, nanoseconds: u64 },
}

/// Bytes of an encoded report.
pub const REPORT_BYTES: usize = 24;

impl Report {
    pub fn encode(self) -> [u8; REPORT_BYTES] {
        let (kind, a, b, c) = match self {
            Report::Prepared => (1, 0, 0, 0),
            Report::Started { at_ns, init_cpu_ns } => (2, 0, at_ns, init_cpu_ns),
            Report::Failed { step, errno } => (3, errno, u64::from(step), 0),
            Report::Denied { number, count } => (4, number as i32, u64::from(count), 0),
            Report::Ended { status, at_ns, init_cpu_ns } => (5, status, at_ns, init_cpu_ns),
            Report::Workdir => (6, 0, 0, 0),
            Report::Timed { step, nanoseconds } => (7, i32::from(step), nanoseconds, 0),
        };
        let mut bytes = [0; REPORT_BYTES];
        bytes[..4].copy_from_slice(&i32::to_le_bytes(a));
        bytes[4..12].copy_from_slice(&u64::to_le_bytes(b));
        bytes[12..20].copy_from_slice(&u64::to_le_bytes(c));
        bytes[20] = kind;
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Option<Report> {
        let bytes: &[u8; REPORT_BYTES] = bytes.try_into().ok()?;
        let a = i32::from_le_bytes(bytes[..4].try_into().ok()?);
        let b = u64::from_le_bytes(bytes[4..12].try_into().ok()?);
        let c = u64::from_le_bytes(bytes[12..20].try_into().ok()?);
        Some(match bytes[20] {
            1 => Report::Prepared,
            2 => Report::Started { at_ns: b, init_cpu_ns: c },
            3 => Report::Failed { step: b as u8, errno: a },
            4 => Report::Denied { number: a as u32, count: b as u32 },
            5 => Report::Ended { status: a, at_ns: b, init_cpu_ns: c },
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
            Report::Ended { status: -1, at_ns: 5, init_cpu_ns: 6 },
            Report::Timed { step: 46, nanoseconds: u64::MAX },
        ];
        for report in reports {
            assert_eq!(Report::decode(&report.encode()), Some(report));
        }
        assert_eq!(Report::decode(&[0; REPORT_BYTES]), None);
        assert_eq!(Report::decode(&[1, 2, 3]), None);
    }
}
