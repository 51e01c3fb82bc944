//! The programs of the soak test, each with the ends it may have.

use serde_json::{Value, json};

pub struct Program {
    pub name: &'static str,
    /// Of a hundred runs, about how many are this one.
    weight: usize,
    language: &'static str,
    code: &'static str,
    stdin: &'static str,
    /// Wall time in milliseconds; CPU time is as much.
    wall_time_ms: u64,
    statuses: &'static [&'static str],
    stdout: Option<&'static str>,
    /// The client goes away before the end.
    pub abandoned: bool,
}

const PLAIN: Program = Program {
    name: "",
    weight: 1,
    language: "bash",
    code: "",
    stdin: "",
    wall_time_ms: 30_000,
    statuses: &["ok"],
    stdout: None,
    abandoned: false,
};

/// A program that is to be ended has this long, so that a machine under load ends none too soon.
const SHORT_MS: u64 = 400;

pub const PROGRAMS: &[Program] = &[
    Program { name: "hello in bash", weight: 24, code: "echo Hello", stdout: Some("Hello\n"), ..PLAIN },
    Program {
        name: "hello in C",
        weight: 24,
        language: "c",
        code: "#include <stdio.h>\nint main(void) { puts(\"Hello\"); return 0; }\n",
        stdout: Some("Hello\n"),
        ..PLAIN
    },
    Program {
        name: "hello in Lua",
        weight: 12,
        language: "lua",
        code: "print('Hello')",
        stdout: Some("Hello\n"),
        ..PLAIN
    },
    Program {
        name: "hello in Python",
        weight: 6,
        language: "python",
        code: "print('Hello')",
        stdout: Some("Hello\n"),
        ..PLAIN
    },
    Program {
        name: "stdin in Perl",
        weight: 6,
        language: "perl",
        code: "print uc <STDIN>;",
        stdin: "some input\n",
        stdout: Some("SOME INPUT\n"),
        ..PLAIN
    },
    Program { name: "exit code", weight: 4, code: "exit 3", statuses: &["nonzero_exit"], ..PLAIN },
    Program { name: "kills itself", weight: 2, code: "kill -KILL $$", statuses: &["signaled"], ..PLAIN },
    Program {
        name: "does not compile",
        language: "c",
        code: "int main(void) { return x; }\n",
        statuses: &["compile_error"],
        ..PLAIN
    },
    Program {
        name: "fork bomb",
        code: "bomb() { bomb | bomb & }; bomb; wait; sleep 9",
        wall_time_ms: SHORT_MS,
        statuses: &["wall_time_exceeded", "cpu_time_exceeded", "nonzero_exit"],
        ..PLAIN
    },
    Program {
        name: "takes all memory",
        language: "lua",
        code: "local t = {} while true do t[#t + 1] = string.rep('x', 1000000) .. #t end",
        statuses: &["memory_exceeded"],
        ..PLAIN
    },
    Program {
        name: "endless loop",
        language: "lua",
        code: "while true do end",
        wall_time_ms: SHORT_MS,
        statuses: &["cpu_time_exceeded", "wall_time_exceeded"],
        ..PLAIN
    },
    Program { name: "sleeps", code: "sleep 100", wall_time_ms: SHORT_MS, statuses: &["wall_time_exceeded"], ..PLAIN },
    Program { name: "floods its output", code: "yes", statuses: &["output_exceeded"], ..PLAIN },
    Program {
        name: "fills the disk",
        code: "head -c 1G /dev/zero > full; for i in {1..3000}; do : > f$i; done; true",
        wall_time_ms: 10_000,
        statuses: &["ok", "memory_exceeded", "wall_time_exceeded", "cpu_time_exceeded", "output_exceeded"],
        ..PLAIN
    },
    Program {
        name: "leaves daemons",
        weight: 4,
        code: "for i in 1 2 3; do (setsid sleep 1000 &) ; done; exec 1>&- 2>&-; exit 0",
        ..PLAIN
    },
    Program {
        name: "takes descriptors",
        language: "python",
        code: "import os\nfor i in range(100000):\n    os.pipe()",
        statuses: &["nonzero_exit"],
        ..PLAIN
    },
    Program {
        name: "leaves IPC objects",
        language: "c",
        code: concat!(
            "#include <sys/ipc.h>\n#include <sys/msg.h>\n#include <sys/shm.h>\n#include <sys/sem.h>\n",
            "int main(void) {\n  for (int i = 0; i < 8; i++) { msgget(IPC_PRIVATE, 0600); semget(IPC_PRIVATE, 2, 0600);\n",
            "    int id = shmget(IPC_PRIVATE, 4096, 0600); if (id >= 0) shmat(id, 0, 0); }\n  return 0;\n}\n"
        ),
        ..PLAIN
    },
    Program {
        name: "tries to break out",
        weight: 2,
        language: "python",
        code: concat!(
            "import os, ctypes\nc = ctypes.CDLL(None, use_errno=True)\n",
            "for call in (lambda: c.unshare(0x10000000), lambda: c.mount(b'a', b'/tmp', b'tmpfs', 0, None),\n",
            "             lambda: c.ptrace(16, 1, 0, 0), lambda: c.setns(0, 0), lambda: c.umount2(b'/', 2),\n",
            "             lambda: c.kill(1, 9), lambda: c.chroot(b'/tmp'), lambda: c.syscall(321, 0, 0, 0)):\n",
            "    assert call() == -1\nprint('held')"
        ),
        statuses: &["ok"],
        stdout: Some("held\n"),
        ..PLAIN
    },
    Program { name: "is abandoned", weight: 2, code: "sleep 20", abandoned: true, ..PLAIN },
];

impl Program {
    /// The program of run `number`: the same for the same number, and mixed.
    pub fn of(number: usize) -> &'static Program {
        let all: usize = PROGRAMS.iter().map(|program| program.weight).sum();
        // A multiplier prime to the sum visits every place once in as many runs.
        let mut place = number.wrapping_mul(1_000_003) % all;
        for program in PROGRAMS {
            match place.checked_sub(program.weight) {
                Some(rest) => place = rest,
                None => return program,
            }
        }
        unreachable!("the place is below the sum of the weights")
    }

    /// True when the program ends well, whoever asks for it.
    pub fn is_plain(&self) -> bool {
        self.statuses == ["ok"] && self.stdout == Some("Hello\n")
    }

    pub fn body(&self) -> Value {
        json!({
            "language": self.language, "code": self.code, "stdin": self.stdin,
            "limits": {"wall_time_ms": self.wall_time_ms, "cpu_time_ms": self.wall_time_ms, "memory_bytes": 64 << 20},
        })
    }

    pub fn piston_body(&self) -> Value {
        json!({"language": self.language, "version": "*", "files": [{"content": self.code}]})
    }

    /// The status, if it is one that this program may have.
    pub fn check(&self, code: u16, answer: &Value) -> Result<String, String> {
        let status = answer["status"].as_str().unwrap_or_default();
        if code != 200 || !self.statuses.contains(&status) {
            return Err(format!("HTTP {code}, status {status:?}, expected one of {:?}", self.statuses));
        }
        match self.stdout {
            Some(stdout) if answer["stdout"] != stdout => Err(format!("stdout is not {stdout:?}")),
            _ => Ok(status.to_owned()),
        }
    }
}
