//! The landlock ruleset of a cell: made here, filled by init with the paths that exist only inside, enforced by the
//! payload.

use std::io::Error;
use std::os::fd::OwnedFd;

use landlock::{ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};

use crate::plan::Access;

/// A new ruleset that handles (and so denies until a rule allows) everything the ABI knows: file access, TCP bind and
/// connect, signals and abstract sockets beyond the domain.
///
/// # Errors
/// The kernel refused; nothing is degraded in silence (`HardRequirement`).
pub fn ruleset(abi: u32) -> Result<OwnedFd, Error> {
    let abi = known(abi);
    let made = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi))
        .and_then(|ruleset| match AccessNet::from_all(abi) {
            none if none.is_empty() => Ok(ruleset),
            access => ruleset.handle_access(access),
        })
        .and_then(|ruleset| match Scope::from_all(abi) {
            none if none.is_empty() => Ok(ruleset),
            scopes => ruleset.scope(scopes),
        })
        .and_then(Ruleset::create)
        .map_err(|error| errno_of(&error).map_or_else(|| Error::other(error), Error::from_raw_os_error))?;
    Option::<OwnedFd>::from(made).ok_or_else(|| Error::from_raw_os_error(libc::ENOSYS))
}

/// The kernel's own answer within the crate's layers of errors: it is what a remedy is known for.
fn errno_of(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.filter_map(|error| error.downcast_ref::<Error>()?.raw_os_error()).next()
}

/// The access bits of a rule under `abi`.
pub fn access_bits(access: Access, abi: u32) -> u64 {
    let all: BitFlags<AccessFs> = AccessFs::from_all(known(abi));
    let read = AccessFs::from_read(known(abi));
    let write = AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev;
    let devices = AccessFs::MakeChar | AccessFs::MakeBlock;
    let bits = match access {
        Access::ReadExecute => read,
        Access::Devices => write & all,
        Access::ReadWrite => all & !devices,
    };
    bits.bits()
}

/// What the crate knows of `abi`: a kernel newer than it is used as far as it is known.
fn known(abi: u32) -> ABI {
    ABI::from(abi as i32)
}
