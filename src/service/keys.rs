use crate::words::settings::Key;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
pub struct Keys(Vec<Key>);
impl Keys {
    pub fn new(keys: &[Key]) -> Keys {
        Keys(keys.to_vec())
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn find(&self, presented: &str) -> Option<&Key> {
        let digest: String = Sha256::digest(presented.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        self.0.iter().find(|key| bool::from(key.sha256.as_bytes().ct_eq(digest.as_bytes())))
    }
}
