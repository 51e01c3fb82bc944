//! Whose key a request presents.

use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use crate::words::settings::{Key, key_digest};

/// All keys of the service, looked up by what a client presents.
///
/// What is compared are hashes, and every one of them for every request: the time of an answer tells neither how much of a
/// key was right nor whose it is.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    keys: Vec<(Key, [u8; 32])>,
}

/// A hash that is not 32 bytes in hexadecimal, which the configuration's reader lets nobody have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the hash of key `{name}` is not 64 hexadecimal digits")]
pub struct HashError {
    pub name: String,
}

impl Keys {
    /// # Errors
    /// The first key whose hash is none.
    pub fn new(keys: &[Key]) -> Result<Keys, HashError> {
        let keys = keys.iter().map(|key| match bytes(&key.sha256) {
            Some(hash) => Ok((key.clone(), hash)),
            None => Err(HashError { name: key.name.clone() }),
        });
        Ok(Keys { keys: keys.collect::<Result<_, _>>()? })
    }

    /// No key is configured.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// `key` as it is now, if it still is one.
    pub fn renewed(&self, key: &Key) -> Option<&Key> {
        self.keys.iter().map(|(known, _)| known).find(|known| known.sha256 == key.sha256)
    }

    /// The key that `presented` is.
    pub fn find(&self, presented: &str) -> Option<&Key> {
        if presented.is_empty() {
            return None;
        }
        let hash = key_digest(presented);
        let mut found = u32::MAX;
        for (index, (_, known)) in (0u32..).zip(&self.keys) {
            let equal: Choice = hash.ct_eq(known);
            found.conditional_assign(&index, equal);
        }
        self.keys.get(found as usize).map(|(key, _)| key)
    }
}

fn bytes(hex: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        let digits = hex.get(2 * index..2 * index + 2).filter(|digits| !digits.contains('+'))?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::{digest, generate, hex};
    use crate::words::settings::LimitCeilings;

    fn key(name: &str, secret: &str) -> Key {
        Key {
            name: name.to_owned(),
            sha256: hex(&digest(secret)),
            rate: None,
            concurrent_max: None,
            languages: Vec::new(),
            greatest: LimitCeilings::default(),
            admin: false,
        }
    }

    #[test]
    fn a_key_is_found_by_itself_and_by_nothing_else() {
        let secrets: Vec<String> = (0..5).map(|_| generate().unwrap().0).collect();
        let keys: Vec<Key> = secrets.iter().enumerate().map(|(n, secret)| key(&n.to_string(), secret)).collect();
        let all = Keys::new(&keys).unwrap();
        for (n, secret) in secrets.iter().enumerate() {
            assert_eq!(all.find(secret).map(|key| key.name.clone()), Some(n.to_string()));
            let cut = &secret[..secret.len() - 1];
            for wrong in [cut, &format!("{secret}x"), &secret.to_uppercase(), &hex(&digest(secret)), ""] {
                assert_eq!(all.find(wrong), None, "{wrong}");
            }
        }
        assert!(!all.is_empty() && Keys::default().is_empty());
        assert_eq!(Keys::default().find(&secrets[0]), None);
    }

    #[test]
    fn sha_256_is_what_others_compute() {
        assert_eq!(hex(&digest("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn what_is_no_hash_is_refused_by_the_keys_name() {
        for hash in ["", "abc", &"g".repeat(64), &"+1".repeat(32), &"ä".repeat(32)] {
            let bad = Key { sha256: hash.to_owned(), ..key("bad", "x") };
            assert_eq!(Keys::new(&[bad]).unwrap_err().name, "bad");
        }
    }
}
