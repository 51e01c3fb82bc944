//! Which names a service without keys answers to.
//!
//! Such a service is for whoever is on its machine, and a page that they open in a browser is not. Pages of other origins
//! are kept out by the content type and by `Origin`; but a page can have its own name resolve to this machine (DNS
//! rebinding), and the browser then takes the service for the page's own. What such a request cannot hide is that name,
//! which its `Host` bears. So names are refused unless an operator allows them; addresses and `localhost` are nobody's.
//! Where keys are configured no page has one, and any name will do.

use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri, header};

use crate::service::refusal::{Class, Refusal};
use crate::words::settings::ServiceSettings;

/// The first name a request was sent to that is neither an address nor `localhost`. No browser leaves it out.
pub fn name_of(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let named = headers.get_all(header::HOST).iter().map(|value| value.to_str().unwrap_or_default());
    let mut hosts = named.chain(uri.authority().map(Authority::as_str));
    hosts.find_map(|host| {
        let Ok(authority) = host.parse::<Authority>() else { return Some(shown(host)) };
        let name = authority.host().trim_end_matches('.');
        let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let is_nobodys = address.parse::<std::net::IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost");
        (!is_nobodys).then(|| shown(name))
    })
}

fn shown(name: &str) -> String {
    name.chars().take(255).collect::<String>().to_ascii_lowercase()
}

/// # Errors
/// `name` is not one that the service answers to.
pub fn check(name: Option<&str>, settings: &ServiceSettings) -> Result<(), Refusal> {
    let Some(name) = name else { return Ok(()) };
    if !settings.keys.is_empty() || settings.allowed_hosts.iter().any(|allowed| allowed == "*" || allowed == name) {
        return Ok(());
    }
    let message = format!("a service without keys does not answer to the name {name:?}");
    let refusal = Refusal::new(Class::Forbidden, "host_not_allowed", message);
    Err(refusal.hint("use its address or localhost; an operator allows the name in allowed_hosts, or configures keys"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(host: &str) -> Option<String> {
        let headers = [(header::HOST, host.parse().unwrap())].into_iter().collect();
        name_of(&Uri::from_static("/"), &headers)
    }

    #[test]
    fn addresses_and_localhost_are_nobodys_names() {
        for host in ["127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:80", "192.168.1.7", "localhost:80", "LocalHost."] {
            assert_eq!(name(host), None, "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:80", "127.0.0.1.evil.example", "a b", "127.1", "1", ""] {
            assert!(name(host).is_some(), "{host}");
        }
        assert_eq!(name("Evil.Example:80").as_deref(), Some("evil.example"));
        assert_eq!(name_of(&Uri::from_static("/"), &HeaderMap::new()), None, "no browser");
        let absolute = Uri::from_static("http://evil.example/");
        assert_eq!(name_of(&absolute, &HeaderMap::new()).as_deref(), Some("evil.example"));
        let twice = ["localhost", "evil.example"].map(|host| (header::HOST, host.parse().unwrap()));
        assert_eq!(name_of(&Uri::from_static("/"), &twice.into_iter().collect()).as_deref(), Some("evil.example"));
    }

    #[test]
    fn names_are_allowed_one_by_one_or_all() {
        let settings = |hosts: &[&str]| ServiceSettings {
            allowed_hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            ..ServiceSettings::default()
        };
        assert!(check(None, &settings(&[])).is_ok() && check(Some("a.example"), &settings(&["a.example"])).is_ok());
        assert!(check(Some("b.example"), &settings(&["*"])).is_ok());
        let refusal = check(Some("b.a.example"), &settings(&["a.example"])).unwrap_err();
        assert!(refusal.hint.is_some_and(|hint| hint.contains("allowed_hosts")), "{}", refusal.message);
    }
}
