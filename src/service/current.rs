//! What the service knows by its configuration, and what that grants to whom.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Caller;
use super::handover::{Handover, LanguageState};
use super::keys::Keys;
use super::policy::Policies;
use super::rate::Limiters;
use super::refusal::Refusal;
use crate::words::host::Host;
use crate::words::limits::LimitsRequest;
use crate::words::profile::{Profile, Profiles};
use crate::words::settings::{LimitCeilings, ServiceSettings};

/// The configuration in force; replaced as a whole at a reload.
pub struct Current {
    pub settings: ServiceSettings,
    pub profiles: Profiles,
    pub host: Host,
    pub languages: BTreeMap<String, LanguageState>,
    pub problems: Vec<String>,
    pub policies: Policies,
    pub keys: Keys,
    pub(super) limiters: Limiters,
}

impl Current {
    /// # Errors
    /// A profile that was whole for the parent is not for us: a bug, told by its file.
    pub fn new(handover: Handover) -> Result<Current, String> {
        let mut profiles = Profiles::default();
        for (file, text) in &handover.profiles {
            let profile = Profile::parse(file, text).map_err(|error| error.to_string())?;
            profiles.add(profile, file).map_err(|error| error.to_string())?;
        }
        let policies = Policies::new(&handover.settings.policies)?;
        Ok(Current {
            keys: Keys::new(&handover.settings.keys).map_err(|error| error.to_string())?,
            limiters: Limiters::new(&handover.settings.keys, handover.settings.rate),
            settings: handover.settings,
            profiles,
            host: handover.host,
            languages: handover.languages.into_iter().map(|language| (language.name.clone(), language)).collect(),
            problems: handover.problems,
            policies,
        })
    }

    /// The limits that `caller` may ask for at most in `profile`, and those a run gets that asks for none.
    pub fn limits_of(&self, profile: &Profile, caller: &Caller) -> (LimitCeilings, LimitsRequest) {
        let greatest = profile.greatest_limits();
        let mut ceilings = LimitCeilings {
            wall_time: Some(greatest.wall_time),
            cpu_time: Some(greatest.cpu_time),
            memory_bytes: Some(greatest.memory_bytes),
            processes: Some(greatest.processes),
            output_bytes: Some(greatest.output_bytes),
        };
        let of_key = caller.key.as_ref().map(|key| &key.greatest);
        for lower in [Some(&self.settings.greatest), of_key].into_iter().flatten() {
            macro_rules! lower {
                ($($field:ident),*) => {
                    $( ceilings.$field = match (ceilings.$field, lower.$field) {
                        (Some(one), Some(two)) => Some(one.min(two)),
                        (one, two) => one.or(two),
                    }; )*
                }
            }
            lower!(wall_time, cpu_time, memory_bytes, processes, output_bytes);
        }
        let default = profile.default_limits();
        let wall_time = self.settings.wall_time_default.unwrap_or(default.wall_time);
        let least = |own: u64, ceiling: Option<u64>| Some(ceiling.map_or(own, |ceiling| own.min(ceiling)));
        let least_time =
            |own: Duration, ceiling: Option<Duration>| Some(ceiling.map_or(own, |ceiling| own.min(ceiling)));
        let defaults = LimitsRequest {
            wall_time: least_time(wall_time, ceilings.wall_time),
            cpu_time: least_time(default.cpu_time, ceilings.cpu_time),
            memory_bytes: least(default.memory_bytes, ceilings.memory_bytes),
            processes: Some(ceilings.processes.map_or(default.processes, |ceiling| default.processes.min(ceiling))),
            output_bytes: least(default.output_bytes, ceilings.output_bytes),
            ..LimitsRequest::default()
        };
        (ceilings, defaults)
    }

    /// The limits of a run: those asked for, within the ceilings, and defaults for the rest.
    pub(super) fn granted(
        &self,
        profile: &Profile,
        caller: &Caller,
        asked: &LimitsRequest,
    ) -> Result<LimitsRequest, Refusal> {
        let (ceilings, defaults) = self.limits_of(profile, caller);
        let above = |name: &str, asked: String, ceiling: String| {
            let message = format!("limit {name} = {asked} is above the ceiling of {ceiling} for {}", profile.name);
            Err(Refusal::bad("limit_out_of_range", format!("limits.{name}"), message)
                .hint(format!("ask for {ceiling} or less")))
        };
        for (name, asked, ceiling) in
            [("wall_time_ms", asked.wall_time, ceilings.wall_time), ("cpu_time_ms", asked.cpu_time, ceilings.cpu_time)]
        {
            if let (Some(asked), Some(ceiling)) = (asked, ceiling)
                && asked > ceiling
            {
                return above(name, asked.as_millis().to_string(), ceiling.as_millis().to_string());
            }
        }
        for (name, asked, ceiling) in [
            ("memory_bytes", asked.memory_bytes, ceilings.memory_bytes),
            ("processes", asked.processes.map(u64::from), ceilings.processes.map(u64::from)),
            ("output_bytes", asked.output_bytes, ceilings.output_bytes),
            ("stdout_bytes", asked.stdout_bytes, ceilings.output_bytes),
            ("stderr_bytes", asked.stderr_bytes, ceilings.output_bytes),
        ] {
            if let (Some(asked), Some(ceiling)) = (asked, ceiling)
                && asked > ceiling
            {
                return above(name, asked.to_string(), ceiling.to_string());
            }
        }
        Ok(LimitsRequest {
            wall_time: asked.wall_time.or(defaults.wall_time),
            // A run that is given more wall time than CPU time by default may use it.
            cpu_time: asked.cpu_time.or_else(|| {
                let wanted = defaults.cpu_time.max(asked.wall_time);
                wanted.map(|wanted| ceilings.cpu_time.map_or(wanted, |ceiling| wanted.min(ceiling)))
            }),
            memory_bytes: asked.memory_bytes.or(defaults.memory_bytes),
            processes: asked.processes.or(defaults.processes),
            output_bytes: asked.output_bytes.or(defaults.output_bytes),
            stdout_bytes: asked.stdout_bytes,
            stderr_bytes: asked.stderr_bytes,
            cpu_rate: asked.cpu_rate,
            ..LimitsRequest::default()
        })
    }
}
