//! The languages that can be asked for, with their limits.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::caller::Identity;
use crate::service::{Caller, Current, Service};
use crate::words::limits::Limits;
use crate::words::profile::Profile;

#[derive(Debug, Serialize, ToSchema)]
pub struct Languages {
    pub languages: Vec<Language>,
    /// Profiles that are left out, with file and line, and layers given up by configuration; as readiness tells them.
    pub problems: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Language {
    pub id: String,
    pub name: String,
    pub aliases: Vec<String>,
    /// Without the dot.
    pub extensions: Vec<String>,
    /// The first of `extensions`, with the dot.
    pub extension: Option<String>,
    pub version: Option<String>,
    pub compiled: bool,
    pub available: bool,
    /// Why it is not available.
    pub problem: Option<String>,
    /// What a run gets that asks for nothing.
    pub limits: LanguageLimits,
    /// What a run may ask for at most.
    pub greatest: LanguageLimits,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct LanguageLimits {
    pub wall_time_ms: u64,
    pub cpu_time_ms: u64,
    pub memory_bytes: u64,
    pub processes: u32,
    pub output_bytes: u64,
}

#[utoipa::path(get, path = "/api/languages", tag = "native", responses((status = 200, body = Languages)))]
pub async fn languages(State(service): State<Arc<Service>>, identity: Identity) -> Json<Languages> {
    // The list is for everybody; with a key it shows that key's limits.
    let caller = identity.caller().unwrap_or(Caller { key: None, address: identity.address.clone() });
    let current = service.current();
    let languages = current.profiles.iter().map(|profile| language(&current, &caller, profile)).collect();
    Json(Languages { languages, problems: current.problems.clone() })
}

pub fn language(current: &Current, caller: &Caller, profile: &Profile) -> Language {
    let state = current.languages.get(&profile.name);
    let (ceilings, defaults) = current.limits_of(profile, caller);
    let greatest = profile.greatest_limits();
    let ceilings = Limits {
        wall_time: ceilings.wall_time.unwrap_or(greatest.wall_time),
        cpu_time: ceilings.cpu_time.unwrap_or(greatest.cpu_time),
        memory_bytes: ceilings.memory_bytes.unwrap_or(greatest.memory_bytes),
        processes: ceilings.processes.unwrap_or(greatest.processes),
        output_bytes: ceilings.output_bytes.unwrap_or(greatest.output_bytes),
        ..greatest
    };
    Language {
        id: profile.name.clone(),
        name: profile.name.clone(),
        aliases: profile.aliases.clone(),
        extensions: profile.extensions.clone(),
        extension: profile.extensions.first().map(|extension| format!(".{extension}")),
        version: state.and_then(|state| state.version.clone()),
        compiled: profile.compile.is_some(),
        available: state.is_some_and(|state| state.problem.is_none()),
        problem: state.and_then(|state| state.problem.clone()),
        limits: limits(&profile.default_limits().overlay(&defaults)),
        greatest: limits(&ceilings),
    }
}

fn limits(limits: &Limits) -> LanguageLimits {
    LanguageLimits {
        wall_time_ms: limits.wall_time.as_millis() as u64,
        cpu_time_ms: limits.cpu_time.as_millis() as u64,
        memory_bytes: limits.memory_bytes,
        processes: limits.processes,
        output_bytes: limits.output_bytes,
    }
}
