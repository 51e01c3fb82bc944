//! Who sends a request: its id, address and key, found out once before any face sees it.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::OwnedSemaphorePermit;

use super::error::NativeError;
use super::host;
use crate::service::refusal::{Class, Refusal};
use crate::service::{Caller, Current, Service};
use crate::words::settings::ServiceSettings;

/// The address at the other end of a connection; put beside each request by the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub Option<IpAddr>);

/// One of the connections there may be at once; put beside each request by the listener. What a connection is upgraded
/// to holds on to it.
#[derive(Clone)]
pub struct Place(#[allow(dead_code)] Arc<OwnedSemaphorePermit>);

impl Place {
    pub fn new(permit: OwnedSemaphorePermit) -> Place {
        Place(Arc::new(permit))
    }
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Longest request id taken over from a client.
const REQUEST_ID_BYTES_MAX: usize = 64;

/// A request's id, its caller if a valid key or none came along, and the refusal otherwise.
#[derive(Debug, Clone)]
pub struct Identity {
    pub request_id: String,
    pub address: String,
    /// The name it was sent to, where that is one that a service without keys may have to refuse.
    host: Option<String>,
    caller: Result<Caller, Refusal>,
}

/// Finds out who asks; the face decides whether it matters.
pub async fn identify(State(service): State<Arc<Service>>, mut request: Request, next: Next) -> Response {
    let current = service.current();
    let peer = request.extensions().get::<Peer>().copied().unwrap_or(Peer(None));
    let address = address(&current.settings, peer, request.headers());
    let request_id = request_id(request.headers());
    // No browser speaks to a local socket.
    let host = peer.0.and_then(|_| host::name_of(request.uri(), request.headers()));
    let caller = caller(&current, presented(request.headers()), &address, host.as_deref());
    let refused = caller.as_ref().err().map(|refusal| refusal.code);
    let identity = Identity { request_id: request_id.clone(), address: address.clone(), host, caller };
    request.extensions_mut().insert(identity);
    let mut response = next.run(request).await;
    // Only where it mattered: much is open to everybody.
    match (response.status(), refused) {
        (StatusCode::UNAUTHORIZED, reason) => {
            tracing::warn!(target: "security", address, request_id, reason, "authentication failed");
        }
        (StatusCode::FORBIDDEN, Some(reason)) => {
            tracing::warn!(target: "security", address, request_id, reason, "refused by its name");
        }
        _ => {}
    }
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

impl Identity {
    /// The caller, where one is needed.
    ///
    /// # Errors
    /// No key although keys are configured, or a wrong one; without keys, a name that is not this service's.
    pub fn caller(&self) -> Result<Caller, Refusal> {
        self.caller.clone()
    }

    /// The same asker with a key that came by other means than a header.
    ///
    /// # Errors
    /// It is wrong.
    pub fn with_key(&self, service: &Service, key: &str) -> Result<Caller, Refusal> {
        caller(&service.current(), Some(key), &self.address, self.host.as_deref())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Identity {
    type Rejection = NativeError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Identity, NativeError> {
        parts.extensions.get::<Identity>().cloned().ok_or_else(|| {
            NativeError(Refusal::new(Class::Internal, "no_identity", "the request went past its identification"))
        })
    }
}

/// The key in `Authorization: Bearer KEY` or `X-API-Key: KEY`.
fn presented(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    bearer.or_else(|| headers.get(API_KEY).and_then(|value| value.to_str().ok()))
}

fn caller(current: &Current, presented: Option<&str>, address: &str, host: Option<&str>) -> Result<Caller, Refusal> {
    let unauthorized = |code, message: &str| {
        Refusal::new(Class::Unauthorized, code, message)
            .hint("send the header `Authorization: Bearer KEY` or `X-API-Key: KEY`")
    };
    host::check(host, &current.settings)?;
    if current.keys.is_empty() {
        return Ok(Caller { key: None, address: address.to_owned() });
    }
    let presented = presented.ok_or_else(|| unauthorized("key_missing", "a key is required"))?;
    let key = current.keys.find(presented).ok_or_else(|| unauthorized("key_wrong", "the key is not known"))?;
    Ok(Caller { key: Some(Arc::new(key.clone())), address: address.to_owned() })
}

/// The client's own address: the peer's, or behind trusted proxies what they say in the configured header, or else the last
/// one in `X-Forwarded-For` that is not theirs.
fn address(settings: &ServiceSettings, Peer(peer): Peer, headers: &HeaderMap) -> String {
    let Some(peer) = peer.map(|peer| peer.to_canonical()) else { return "unix".to_owned() };
    let trusted = |address: &IpAddr| settings.trusted_proxies.iter().any(|network| network.contains(*address));
    if !trusted(&peer) {
        return peer.to_string();
    }
    if let Some(name) = &settings.client_address_header {
        return named_address(headers, name).unwrap_or(peer).to_string();
    }
    let hops = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    let hops: Vec<Option<IpAddr>> = hops.map(|hop| hop.trim().parse().ok()).collect();
    for hop in hops.into_iter().rev() {
        match hop {
            // What is no address was not written by our proxy.
            None => break,
            Some(hop) if trusted(&hop) => {}
            Some(hop) => return hop.to_canonical().to_string(),
        }
    }
    peer.to_string()
}

/// The one address that the header `name` says; of two values, a client may have written one.
fn named_address(headers: &HeaderMap, name: &str) -> Option<IpAddr> {
    let mut values = headers.get_all(name).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    value.to_str().ok()?.trim().parse().ok().map(|address: IpAddr| address.to_canonical())
}

/// The client's own id for a request, if it is a sane one, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let own = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let sane = |id: &&str| {
        !id.is_empty()
            && id.len() <= REQUEST_ID_BYTES_MAX
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
    };
    own.filter(sane).map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address_of(header: Option<&str>, peer: &str, headers: &[(&str, &str)]) -> String {
        let settings = ServiceSettings {
            trusted_proxies: vec!["172.16.0.0/12".parse().unwrap(), "10.0.0.1".parse().unwrap()],
            client_address_header: header.map(str::to_owned),
            ..ServiceSettings::default()
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        address(&settings, Peer(Some(peer.parse().unwrap())), &map)
    }

    #[test]
    fn a_header_is_believed_of_a_trusted_proxy_and_of_nobody_else() {
        let fly = Some("Fly-Client-IP");
        let proxy = "172.19.2.97";
        for (header, peer, headers, expected) in [
            // Whoever is no trusted proxy says what they like.
            (None, "198.51.100.7", vec![("x-forwarded-for", "203.0.113.1")], "198.51.100.7"),
            (fly, "198.51.100.7", vec![("fly-client-ip", "203.0.113.1")], "198.51.100.7"),
            (fly, "::ffff:198.51.100.7", vec![("fly-client-ip", "203.0.113.1")], "198.51.100.7"),
            // The last hop that is not a proxy's; what stands before it, the client may have written.
            (None, proxy, vec![("x-forwarded-for", "192.0.2.1, 203.0.113.1, 10.0.0.1")], "203.0.113.1"),
            (None, proxy, vec![("x-forwarded-for", "203.0.113.1, nonsense")], proxy),
            (None, proxy, vec![("fly-client-ip", "203.0.113.1")], proxy),
            // The configured header, and no other beside it.
            (fly, proxy, vec![("fly-client-ip", "203.0.113.1"), ("x-forwarded-for", "192.0.2.1")], "203.0.113.1"),
            (fly, "::ffff:172.19.2.97", vec![("fly-client-ip", "2001:db8::1")], "2001:db8::1"),
            (fly, proxy, vec![("x-forwarded-for", "192.0.2.1")], proxy),
            (fly, proxy, vec![], proxy),
            // One that cannot be the proxy's own is not believed.
            (fly, proxy, vec![("fly-client-ip", "192.0.2.1"), ("fly-client-ip", "203.0.113.1")], proxy),
            (fly, proxy, vec![("fly-client-ip", "192.0.2.1, 203.0.113.1")], proxy),
            (fly, proxy, vec![("fly-client-ip", "")], proxy),
        ] {
            assert_eq!(address_of(header, peer, &headers), expected, "{header:?} {peer} {headers:?}");
        }
    }
}
