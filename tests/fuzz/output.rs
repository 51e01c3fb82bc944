//! What programs write: any bytes, in pieces cut anywhere, on two streams, within caps.
//!
//! An input is six bytes, two for each cap, and then pieces: a byte whose highest bit tells the stream and whose others
//! the length, and so many bytes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sandboxd::answer::{from_base64, text_or_base64};
use sandboxd::api::execute::chunk;
use sandboxd::runner::streams::{Collected, collect, open};
use sandboxd::runner::{Sink, Stdin, StepKind, Stream};
use sandboxd::service::execution::{About, EventKind, Execution};
use sandboxd::words::limits::Limits;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;
use tokio::sync::{Notify, mpsc};

use crate::driver::{Target, fuzz};

struct Written {
    limits: Limits,
    pieces: Vec<(Stream, Vec<u8>)>,
}

fn written(input: &[u8]) -> Option<Written> {
    let (caps, mut rest) = input.split_at_checked(6)?;
    let cap = |at: usize| u64::from(u16::from_be_bytes([caps[at], caps[at + 1]])).max(1);
    let limits = Limits { output_bytes: cap(0), stdout_bytes: cap(2), stderr_bytes: cap(4), ..Limits::default() };
    let mut pieces = Vec::new();
    while let Some((head, tail)) = rest.split_first() {
        let stream = if head & 0x80 == 0 { Stream::Stdout } else { Stream::Stderr };
        let length = usize::from(head & 0x7f).min(tail.len());
        pieces.push((stream, tail[..length].to_vec()));
        rest = &tail[length..];
    }
    Some(Written { limits, pieces })
}

impl Written {
    /// All that is written to `stream`.
    fn to(&self, stream: Stream) -> Vec<u8> {
        self.pieces.iter().filter(|(other, _)| *other == stream).flat_map(|(_, bytes)| bytes.clone()).collect()
    }
}

fn execution() -> Arc<Execution> {
    let about = About {
        id: "1".to_owned(),
        created: SystemTime::UNIX_EPOCH,
        key: None,
        owner: "a".to_owned(),
        dialect: "native",
        request_id: "r".to_owned(),
        language: None,
        version: None,
    };
    Arc::new(Execution::new(about, None, mpsc::channel(1).0))
}

/// Writes the pieces into pipes and collects them; whether the overflow was told, too.
async fn collected(written: &Written, sink: &mut Sink) -> (Collected, bool) {
    let (far, near) = open(Stdin::Empty).expect("pipes");
    let (overflow, canceled) = (Notify::new(), Notify::new());
    let write = async {
        let sender = |descriptor| pipe::Sender::from_owned_fd(descriptor).expect("a pipe");
        rustix::io::ioctl_fionbio(&far.stdout, true)
            .and_then(|()| rustix::io::ioctl_fionbio(&far.stderr, true))
            .expect("pipes");
        let (mut stdout, mut stderr) = (sender(far.stdout), sender(far.stderr));
        for (stream, bytes) in &written.pieces {
            let pipe = if *stream == Stream::Stdout { &mut stdout } else { &mut stderr };
            pipe.write_all(bytes).await.expect("the collector reads to the end");
            // Some pieces are read together, some by themselves.
            if bytes.len() % 3 == 0 {
                tokio::task::yield_now().await;
            }
        }
    };
    let collect = collect(near.stdout, near.stderr, &written.limits, StepKind::Run, sink, &overflow, &canceled);
    let ((), collected) = tokio::join!(write, collect);
    let told = tokio::time::timeout(Duration::ZERO, overflow.notified()).await.is_ok();
    (collected, told)
}

#[test]
fn outputs() {
    let text = "aé€😀\n".as_bytes();
    let mut made = vec![
        b"\xff\xff\xff\xff\xff\xff\x05hello\x83err".to_vec(),
        b"\0\x08\0\x05\0\x05\x07seventy\x87eightee".to_vec(),
    ];
    for size in 1..4u8 {
        let mut cut = vec![0xff, 0xff, 0, 9, 0, 4];
        for piece in text.repeat(3).chunks(usize::from(size)) {
            cut.push(piece.len() as u8 | (size & 1) << 7);
            cut.extend_from_slice(piece);
        }
        made.push(cut);
    }
    let target = Target { name: "outputs", words: &["outputs"], bytes_max: 4 << 10, made };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    fuzz(&target, |input| {
        let Some(written) = written(input) else { return "nothing".to_owned() };
        runtime.block_on(async {
            let mut sink = Sink::capture();
            let (collected, told) = collected(&written, &mut sink).await;
            let kind = check_caps(&written, &collected, told);
            // The same by way of events.
            let execution = execution();
            let mut sink = Sink::Record(Arc::clone(&execution) as _);
            let (recorded, _) = self::collected(&written, &mut sink).await;
            execution.flush();
            check_events(&written, &recorded, &execution);
            kind
        })
    });
}

/// Each stream is kept up to its cap or that of both, what is cut is counted, and nothing follows a cut.
fn check_caps(written: &Written, collected: &Collected, told: bool) -> String {
    let (facts, limits) = (&collected.facts, &written.limits);
    let both = facts.stdout_bytes + facts.stderr_bytes;
    assert!(both <= limits.output_bytes, "{facts:?} {limits:?}");
    let streams = [
        (
            Stream::Stdout,
            facts.stdout_bytes,
            facts.stdout_truncated_bytes,
            limits.stdout_bytes,
            &collected.captured.stdout,
        ),
        (
            Stream::Stderr,
            facts.stderr_bytes,
            facts.stderr_truncated_bytes,
            limits.stderr_bytes,
            &collected.captured.stderr,
        ),
    ];
    let mut kind = String::new();
    for (stream, kept, cut, cap, captured) in streams {
        let all = written.to(stream);
        assert_eq!(kept + cut, all.len() as u64, "every byte is kept or counted: {facts:?}");
        assert_eq!(captured.as_slice(), &all[..kept as usize], "what is kept is the beginning");
        assert!(kept <= cap, "{facts:?} {limits:?}");
        assert!(cut == 0 || kept == cap || both == limits.output_bytes, "cut before its cap: {facts:?} {limits:?}");
        kind += &format!("{} {} {} ", all.len().min(3), kept.min(3), cut.min(1));
        check_text(captured.clone(), cut > 0);
    }
    let cut = facts.stdout_truncated_bytes + facts.stderr_truncated_bytes;
    assert_eq!(told, cut > 0, "the cell is ended exactly if something was cut");
    kind
}

/// Text stays text, but for a last character that a cap has cut; everything else comes back whole from base64.
fn check_text(bytes: Vec<u8>, cut: bool) {
    let (text, encoding) = text_or_base64(bytes.clone(), cut);
    match encoding {
        "base64" => {
            assert_eq!(from_base64(&text).as_deref(), Some(&bytes[..]));
            assert!(std::str::from_utf8(&bytes).is_err_and(|error| !cut || error.error_len().is_some()));
        }
        _ => {
            let rest = bytes.strip_prefix(text.as_bytes()).expect("text is what was written");
            assert!(rest.is_empty() || (cut && rest.len() < 4 && std::str::from_utf8(rest).is_err()), "{rest:x?}");
        }
    }
}

/// The pieces that followers get are the output, and cut no character that is whole in it.
fn check_events(written: &Written, collected: &Collected, execution: &Execution) {
    let output = execution.output_of(StepKind::Run);
    let facts = &collected.facts;
    for (stream, whole, kept) in
        [(Stream::Stdout, output.stdout, facts.stdout_bytes), (Stream::Stderr, output.stderr, facts.stderr_bytes)]
    {
        assert_eq!(whole.as_slice(), &written.to(stream)[..kept as usize]);
        let events = execution.events();
        let of_stream = |kind: &EventKind| matches!(kind, EventKind::Output { stream: other, .. } if *other == stream);
        let mut joined = Vec::new();
        for event in events.iter().filter(|event| of_stream(&event.kind)) {
            let chunk = chunk(event).expect("a piece of output");
            let bytes = match chunk.encoding {
                "base64" => from_base64(&chunk.data).expect("base64"),
                _ => chunk.data.into_bytes(),
            };
            assert!(!bytes.is_empty(), "a piece of nothing");
            let (from, until) = (joined.len(), joined.len() + bytes.len());
            // In the valid text before any byte that is none, each piece ends where a character does.
            let valid = std::str::from_utf8(&whole).map_or_else(|error| error.valid_up_to(), str::len);
            let text = std::str::from_utf8(&whole[..valid]).expect("valid");
            let at_ends = |at: usize| at >= valid || text.is_char_boundary(at);
            assert!(at_ends(from) && at_ends(until), "a character is cut at {from} or {until} of {whole:x?}");
            joined.extend_from_slice(&bytes);
        }
        assert_eq!(joined, whole);
    }
}
