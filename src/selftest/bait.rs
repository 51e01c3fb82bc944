//! What the host has to offer while attacks run: services, a file, a process. Nothing of it may be reached.

use std::io::Write as _;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use anyhow::Context as _;

/// On this machine's loopback and in a temporary directory; gone with the value.
pub struct Bait {
    tcp: TcpListener,
    udp: UdpSocket,
    named: UnixListener,
    by_path: UnixListener,
    /// Pairs of a word in braces and what it stands for.
    places: Vec<(&'static str, String)>,
    _directory: tempfile::TempDir,
}

impl Bait {
    /// Lays it out.
    ///
    /// # Errors
    /// No loopback, no descriptors, or no room for a file.
    pub fn lay() -> anyhow::Result<Bait> {
        let tcp = TcpListener::bind("127.0.0.1:0").context("failed to listen on the loopback")?;
        let udp = UdpSocket::bind("127.0.0.1:0").context("failed to bind a UDP socket on the loopback")?;
        let name = format!("sandboxd-selftest-{}", std::process::id());
        let named = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)
            .context("failed to listen on an abstract socket")?;
        let directory = tempfile::tempdir().context("failed to make a temporary directory")?;
        let socket = directory.path().join("socket");
        let by_path =
            UnixListener::bind(&socket).with_context(|| format!("failed to listen on {}", socket.display()))?;
        let file = directory.path().join("secret");
        std::fs::File::create(&file)
            .and_then(|mut created| created.write_all(b"secret\n"))
            .with_context(|| format!("failed to write {}", file.display()))?;
        tcp.set_nonblocking(true)?;
        udp.set_nonblocking(true)?;
        named.set_nonblocking(true)?;
        by_path.set_nonblocking(true)?;
        let places = vec![
            ("{tcp}", tcp.local_addr()?.port().to_string()),
            ("{udp}", udp.local_addr()?.port().to_string()),
            ("{abstract}", name),
            ("{path}", socket.display().to_string()),
            ("{file}", file.display().to_string()),
            // Ours: a signal number of zero is all that is sent to it.
            ("{pid}", std::process::id().to_string()),
        ];
        Ok(Bait { tcp, udp, named, by_path, places, _directory: directory })
    }

    /// An argument of an attack with the places filled in.
    pub fn fill(&self, argument: &str) -> String {
        self.places.iter().fold(argument.to_owned(), |argument, (word, place)| argument.replace(word, place))
    }

    /// Which of the services somebody came to since the last question.
    pub fn taken(&self) -> Vec<&'static str> {
        let mut taken = Vec::new();
        if self.tcp.accept().is_ok() {
            taken.push("the TCP service");
        }
        if self.udp.recv(&mut [0; 64]).is_ok() {
            taken.push("the UDP service");
        }
        if self.named.accept().is_ok() {
            taken.push("the abstract socket");
        }
        if self.by_path.accept().is_ok() {
            taken.push("the socket by path");
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bait_that_is_taken_is_told() {
        let bait = Bait::lay().unwrap();
        assert_eq!(bait.taken(), [""; 0]);
        std::net::TcpStream::connect(("127.0.0.1", bait.fill("{tcp}").parse().unwrap())).unwrap();
        std::os::unix::net::UnixStream::connect(bait.fill("{path}")).unwrap();
        assert_eq!(bait.taken(), ["the TCP service", "the socket by path"]);
        assert_eq!(bait.taken(), [""; 0]);
        assert_eq!(bait.fill("x{pid}"), format!("x{}", std::process::id()));
    }
}
