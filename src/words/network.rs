//! Networks of addresses, as settings name them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The addresses whose first `prefix_bits` are those of `address`; all others of it are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u8,
}

impl Network {
    /// An IPv4 address in IPv6's clothes is looked for among the IPv4 networks.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => masked_v4(address, self.prefix_bits) == network,
            (IpAddr::V6(network), IpAddr::V6(address)) => masked_v6(address, self.prefix_bits) == network,
            _ => false,
        }
    }
}

fn masked_v4(address: Ipv4Addr, prefix_bits: u8) -> Ipv4Addr {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix_bits)).unwrap_or(0);
    Ipv4Addr::from_bits(address.to_bits() & mask)
}

fn masked_v6(address: Ipv6Addr, prefix_bits: u8) -> Ipv6Addr {
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix_bits)).unwrap_or(0);
    Ipv6Addr::from_bits(address.to_bits() & mask)
}

/// What is no network: not an address, a prefix too long, or bits beyond the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an IP address or a network")]
pub struct NotANetwork;

/// `10.0.0.1` is a network of one address. A network with bits beyond its prefix is a slip, and refused.
impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Network, NotANetwork> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NotANetwork)?;
        // ::ffff:10.0.0.1 never shows itself in this form, so a network of such would hold nobody.
        let address = if prefix.is_none() { address.to_canonical() } else { address };
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match prefix {
            None => bits_max,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|bits| *bits <= bits_max).ok_or(NotANetwork)?
            }
            Some(_) => return Err(NotANetwork),
        };
        let masked = match address {
            IpAddr::V4(address) => IpAddr::V4(masked_v4(address, prefix_bits)),
            IpAddr::V6(address) => IpAddr::V6(masked_v6(address, prefix_bits)),
        };
        let mapped = matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
        if masked != address || mapped {
            return Err(NotANetwork);
        }
        Ok(Network { address, prefix_bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits_max = if self.address.is_ipv4() { 32 } else { 128 };
        match self.prefix_bits == bits_max {
            true => write!(f, "{}", self.address),
            false => write!(f, "{}/{}", self.address, self.prefix_bits),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_its_own_addresses_and_no_others() {
        for (network, inside, outside) in [
            ("10.0.0.1", vec!["10.0.0.1", "::ffff:10.0.0.1"], vec!["10.0.0.2", "::1", "::10.0.0.1"]),
            (
                "172.16.0.0/12",
                vec!["172.16.0.0", "172.31.255.255", "::ffff:172.19.2.97"],
                vec!["172.32.0.0", "172.15.255.255"],
            ),
            ("0.0.0.0/0", vec!["0.0.0.0", "255.255.255.255"], vec!["::1", "fdaa::1"]),
            ("fdaa::/16", vec!["fdaa::1", "fdaa:ffff::"], vec!["fdab::", "10.0.0.1", "::ffff:10.0.0.1"]),
            ("::1", vec!["::1"], vec!["::2", "127.0.0.1"]),
        ] {
            let parsed: Network = network.parse().unwrap();
            assert_eq!(parsed.to_string(), network);
            inside.iter().for_each(|address| assert!(parsed.contains(address.parse().unwrap()), "{network} {address}"));
            outside
                .iter()
                .for_each(|address| assert!(!parsed.contains(address.parse().unwrap()), "{network} {address}"));
        }
        assert_eq!("::ffff:10.0.0.1".parse::<Network>().unwrap().to_string(), "10.0.0.1");
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for wrong in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "10.0.0.0/+8",
            "10.0/8",
            "::/129",
            "::1/64",
            "::ffff:10.0.0.0/104",
            "a/8",
        ] {
            assert_eq!(wrong.parse::<Network>(), Err(NotANetwork), "{wrong}");
        }
    }
}
