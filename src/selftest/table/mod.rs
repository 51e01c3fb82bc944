//! The corpus, one file a section.

mod files;
mod kernel;
mod processes;
mod resources;
mod streams;

use super::attack::{Attack, PATIENT};

const SECCOMP: &str = "install_seccomp";
const LANDLOCK: &str = "restrict_by_landlock";
/// Every attack there is, in the order in which it is tried.
pub fn all() -> impl Iterator<Item = &'static Attack> {
    [files::ATTACKS, processes::ATTACKS, resources::ATTACKS, streams::ATTACKS, kernel::ATTACKS].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::attack::{Control, Printed, Section};
    use super::*;

    #[test]
    fn rows_are_complete_and_names_are_unique() {
        let names: BTreeSet<_> = all().map(|attack| attack.name).collect();
        assert_eq!(names.len(), all().count());
        assert!(names.len() >= 80, "{} attacks", names.len());
        for attack in all() {
            let name = attack.name;
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{name}");
            assert!(!attack.title.is_empty() && !attack.rows.is_empty() && !attack.layers.is_empty(), "{name}");
            assert!(!attack.expected.ends.is_empty(), "{name}");
            if let Control::Without(layers) = attack.control {
                assert!(!layers.is_empty(), "{name}: a control that leaves nothing out");
            }
            if let Printed::Attempts(list) | Printed::AllAttempts(list) = attack.expected.printed {
                assert!(list.iter().all(|line| line.contains(": ") && !line.contains('\n')), "{name}");
            }
        }
        for section in Section::ALL {
            assert!(all().filter(|attack| attack.section == section).count() >= 5, "{section:?}");
        }
    }

    #[test]
    fn left_out_layers_are_steps_or_namespaces() {
        let known = |layer: &str| match layer.strip_prefix("ns:") {
            Some(name) => crate::words::host::NAMESPACES.contains(&name),
            None => crate::sandbox::sequence::SEQUENCE.iter().any(|step| step.name == layer),
        };
        for attack in all() {
            let control = if let Control::Without(layers) = attack.control { layers } else { &[] };
            let alone = attack.alone.iter().flat_map(|(_, others)| others.iter());
            for layer in control.iter().chain(alone) {
                assert!(known(layer), "{}: {layer}", attack.name);
                // The past accident: an attack on process 1 that met the machine's own.
                assert_ne!(*layer, "ns:pid", "{}", attack.name);
            }
        }
    }
}
