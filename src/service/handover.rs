//! What the parent of the service tells the front: everything the front would otherwise have to read as root.

use serde::{Deserialize, Serialize};

use crate::words::host::Host;
use crate::words::settings::ServiceSettings;

/// The whole configuration of a front, sent when it starts and at every reload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Handover {
    pub settings: ServiceSettings,
    /// File name and text of each profile that is whole.
    pub profiles: Vec<(String, String)>,
    pub host: Host,
    pub languages: Vec<LanguageState>,
    /// Profiles that are not whole, and anything else an operator should know: a sentence each.
    pub problems: Vec<String>,
    /// Runs at once, decided.
    pub concurrent_max: usize,
}

/// A language on this machine now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LanguageState {
    pub name: String,
    /// The image its runs take.
    pub rootfs: String,
    pub version: Option<String>,
    /// Why it cannot be run.
    pub problem: Option<String>,
}
