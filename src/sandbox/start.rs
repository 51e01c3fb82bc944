//! The start message: the program that a prepared cell is given.
//!
//! Written by the supervisor, read by the payload in a buffer that was there before the clone: the reader neither allocates
//! nor panics, and refuses whatever is not exactly what the writer makes. The contents of files travel beside it in
//! one sealed memfd, one after the other in the order of their names here.

use std::ffi::{CStr, CString};

use nix::errno::Errno;

/// Greatest size of an encoded message, and of the cell's buffer for it.
pub const START_BYTES_MAX: usize = 160 << 10;
/// Strings in the longest message: arguments and environment, with their terminators.
pub const STRINGS_MAX: usize = crate::words::request::bounds::ARGUMENTS_MAX;

/// What a cell is started with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Start {
    pub workdir: CString,
    /// Paths tried in turn until one can be executed.
    pub candidates: Vec<CString>,
    pub arguments: Vec<CString>,
    pub environment: Vec<CString>,
    /// Resource number and value of each limit.
    pub rlimits: Vec<(u32, u64)>,
    pub files: Vec<StartFile>,
}

/// A file for the work directory: its name, permission bits and size; its content is the next `bytes` of the bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartFile {
    pub name: CString,
    pub mode: u32,
    pub bytes: u64,
}

impl Start {
    /// The message, or its size when that is over [`START_BYTES_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>, usize> {
        let mut bytes = Vec::with_capacity(4096);
        let counts =
            [self.rlimits.len(), self.files.len(), self.candidates.len(), self.arguments.len(), self.environment.len()];
        for count in counts {
            bytes.extend((count as u32).to_le_bytes());
        }
        for (resource, value) in &self.rlimits {
            bytes.extend(resource.to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
        for file in &self.files {
            bytes.extend(file.mode.to_le_bytes());
            bytes.extend(file.bytes.to_le_bytes());
            bytes.extend(file.name.as_bytes_with_nul());
        }
        bytes.extend(self.workdir.as_bytes_with_nul());
        for string in self.candidates.iter().chain(&self.arguments).chain(&self.environment) {
            bytes.extend(string.as_bytes_with_nul());
        }
        if bytes.len() > START_BYTES_MAX { Err(bytes.len()) } else { Ok(bytes) }
    }
}

/// A start message in the cell's buffer. The parts are read in their order, each at most once.
#[derive(Clone, Copy)]
pub struct StartReader<'a> {
    bytes: &'a [u8],
    pub rlimits: u32,
    pub files: u32,
    pub candidates: u32,
    pub arguments: u32,
    pub environment: u32,
}

impl<'a> StartReader<'a> {
    /// # Errors
    /// EBADMSG for anything but a message of [`Start::encode`], as for every reader here.
    pub fn new(bytes: &'a [u8]) -> Result<StartReader<'a>, Errno> {
        let mut reader = StartReader { bytes, rlimits: 0, files: 0, candidates: 0, arguments: 0, environment: 0 };
        reader.rlimits = reader.u32()?;
        reader.files = reader.u32()?;
        reader.candidates = reader.u32()?;
        reader.arguments = reader.u32()?;
        reader.environment = reader.u32()?;
        Ok(reader)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        let (head, tail) = self.bytes.split_first_chunk::<N>().ok_or(Errno::EBADMSG)?;
        self.bytes = tail;
        Ok(*head)
    }

    fn u32(&mut self) -> Result<u32, Errno> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Errno> {
        self.take().map(u64::from_le_bytes)
    }

    pub fn rlimit(&mut self) -> Result<(u32, u64), Errno> {
        Ok((self.u32()?, self.u64()?))
    }

    pub fn file(&mut self) -> Result<(&'a CStr, u32, u64), Errno> {
        let (mode, bytes) = (self.u32()?, self.u64()?);
        Ok((self.string()?, mode, bytes))
    }

    /// Passes over the limits.
    pub fn skip_rlimits(&mut self) -> Result<(), Errno> {
        for _ in 0..self.rlimits {
            self.rlimit()?;
        }
        Ok(())
    }

    /// Passes over the files; the limits must have been read.
    pub fn skip_files(&mut self) -> Result<(), Errno> {
        for _ in 0..self.files {
            self.file()?;
        }
        Ok(())
    }

    pub fn string(&mut self) -> Result<&'a CStr, Errno> {
        let string = CStr::from_bytes_until_nul(self.bytes).map_err(|_| Errno::EBADMSG)?;
        self.bytes = self.bytes.get(string.count_bytes() + 1..).ok_or(Errno::EBADMSG)?;
        Ok(string)
    }

    /// The next `count` strings as an iterator; the message must hold them all.
    pub fn strings(&mut self, count: u32) -> Result<impl Iterator<Item = &'a CStr> + Clone + use<'a>, Errno> {
        let mut ahead = *self;
        for _ in 0..count {
            ahead.string()?;
        }
        let mut walker = std::mem::replace(self, ahead);
        Ok((0..count).map_while(move |_| walker.string().ok()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Start {
        Start {
            workdir: c"/work".into(),
            candidates: vec![c"/usr/bin/true".into()],
            arguments: vec![c"true".into(), c"".into()],
            environment: vec![c"A=1".into()],
            rlimits: vec![(4, 1), (7, 256)],
            files: vec![StartFile { name: c"src/a.c".into(), mode: 0o644, bytes: 5 }],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = sample().encode().unwrap();
        let mut reader = StartReader::new(&bytes).unwrap();
        assert_eq!(reader.rlimit(), Ok((4, 1)));
        assert_eq!(reader.rlimit(), Ok((7, 256)));
        assert_eq!(reader.file(), Ok((c"src/a.c", 0o644, 5)));
        assert_eq!(reader.string(), Ok(c"/work"));
        assert_eq!(reader.strings(1).unwrap().collect::<Vec<_>>(), [c"/usr/bin/true"]);
        assert_eq!(reader.strings(2).unwrap().collect::<Vec<_>>(), [c"true", c""]);
        assert_eq!(reader.strings(1).unwrap().collect::<Vec<_>>(), [c"A=1"]);
        assert!(reader.string().is_err());

        let mut reader = StartReader::new(&bytes).unwrap();
        reader.skip_rlimits().and_then(|()| reader.skip_files()).unwrap();
        assert_eq!(reader.string(), Ok(c"/work"));
    }

    proptest! {
        #[test]
        fn no_junk_makes_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(mut reader) = StartReader::new(&bytes) {
                while reader.file().is_ok() {}
                let count = reader.arguments.min(1000);
                let _ = reader.strings(count).map(Iterator::count);
            }
        }
    }
}
