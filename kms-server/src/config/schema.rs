//! What may be written in a configuration: names and types, nothing of what they mean.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use kms_core::KeyName;
use serde::de::{self, Deserialize, Deserializer, IntoDeserializer as _, SeqAccess, Visitor};

use super::duration;
use super::sections::{RawApi, RawAws, RawLog, RawOuterKms, RawProxy, RawVault, Unsupported};

/// The keys of [`Raw`].
pub const TOP_LEVEL: [&str; 11] =
    ["address", "admin", "tls", "policy", "cache", "keys", "keystore", "kms", "log", "api", "probes"];

/// A configuration as it is written.
#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct Raw {
    pub address: Option<String>,
    pub admin: RawAdmin,
    pub tls: RawTls,
    pub policy: BTreeMap<String, RawPolicy>,
    pub cache: RawCache,
    #[serde(deserialize_with = "list")]
    pub keys: Vec<RawKey>,
    pub keystore: RawKeyStore,
    pub kms: Option<RawOuterKms>,
    pub log: RawLog,
    pub api: RawApi,
    pub probes: RawProbes,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RawProbes {
    pub address: Option<String>,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RawAdmin {
    pub identity: Option<String>,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RawTls {
    pub key: Option<String>,
    pub cert: Option<String>,
    pub ca: Option<String>,
    #[serde(deserialize_with = "switch_or_empty")]
    pub auth: Option<Switch>,
    pub password: Option<String>,
    pub proxy: Option<RawProxy>,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RawPolicy {
    #[serde(deserialize_with = "list")]
    pub allow: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub deny: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub identities: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub paths: Vec<String>,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RawCache {
    pub expiry: RawExpiry,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RawExpiry {
    pub any: Option<GoDuration>,
    pub unused: Option<GoDuration>,
    pub offline: Option<GoDuration>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with a name")]
pub struct RawKey {
    pub name: RawName,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RawKeyStore {
    pub fs: Option<RawFs>,
    pub memory: Option<RawMemory>,
    pub vault: Option<RawVault>,
    pub aws: Option<RawAws>,
    pub azure: Unsupported,
    pub gcp: Unsupported,
    pub fortanix: Unsupported,
    pub gemalto: Unsupported,
    pub entrust: Unsupported,
    pub generic: Unsupported,
    pub kes: Unsupported,
}

impl RawKeyStore {
    /// Tells whether the local store has a root key of its own.
    pub fn has_root_key(&self) -> bool {
        self.fs.as_ref().is_some_and(|fs| fs.root_key_file.is_some() || fs.root_key_env.is_some())
    }

    /// Finds a key store of KES that we do not have: its key, and what it is. A section without the store's own is none.
    pub fn unsupported(&self) -> Option<(&'static str, &'static str)> {
        let stores = [
            (&self.azure, "azure", "keyvault", "Azure Key Vault"),
            (&self.gcp, "gcp", "secretmanager", "GCP Secret Manager"),
            (&self.fortanix, "fortanix", "sdkms", "Fortanix SDKMS"),
            (&self.gemalto, "gemalto", "keysecure", "Gemalto (Thales) KeySecure"),
            (&self.entrust, "entrust", "keycontrol", "Entrust KeyControl"),
            (&self.kes, "kes", "endpoint", "another KES"),
            (&self.generic, "generic", "", "a KeyStore plugin"),
        ];
        let is_there = |raw: &Unsupported, store: &str| {
            raw.as_ref().is_some_and(|raw| store.is_empty() || raw.0.contains(store))
        };
        let found = stores.into_iter().find(|(raw, _, store, _)| is_there(raw, store));
        found.map(|(_, name, _, what)| (name, what))
    }
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RawFs {
    pub path: Option<String>,
    pub root_key_file: Option<String>,
    pub root_key_env: Option<String>,
    pub create: Option<Switch>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct RawMemory {}

/// The name of a key.
pub struct RawName(pub KeyName);

/// A duration in Go's notation.
pub struct GoDuration(pub Duration);

/// `on` or `off`, or a boolean.
pub struct Switch(pub bool);

/// An element of a list that may also be written as one text, with commas between the elements: in an
/// environment variable.
pub trait Element: Sized {
    const EXPECTED: &'static str;

    fn from_text(text: &str) -> Result<Self, String>;
}

impl Element for String {
    const EXPECTED: &'static str = "an array of strings";

    fn from_text(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl Element for RawKey {
    const EXPECTED: &'static str = "an array of tables, each with a name";

    fn from_text(text: &str) -> Result<Self, String> {
        RawName::from_text(text).map(|name| Self { name })
    }
}

impl RawKey {
    /// What an element of the list is.
    pub const EXPECTED_ALONE: &'static str = "a table with a name";
}

impl RawName {
    fn from_text(text: &str) -> Result<Self, String> {
        KeyName::new(text).map(Self).map_err(|_| {
            format!(
                "invalid key name '{}', \
                 expected 1 to {} characters of 0-9 A-Z a-z - _ that begin and end with no '-'",
                text.escape_debug(),
                kms_core::KeyName::MAX_LEN
            )
        })
    }
}

/// Reads a list, or a text with commas between its elements.
pub fn list<'de, T: Element + Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct List<T>(PhantomData<T>);

    impl<'de, T: Element + Deserialize<'de>> Visitor<'de> for List<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::EXPECTED)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            let elements = text.split(',').map(str::trim).filter(|element| !element.is_empty());
            elements.map(T::from_text).collect::<Result<_, _>>().map_err(E::custom)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(element) = elements.next_element()? {
                list.push(element);
            }
            Ok(list)
        }
    }

    deserializer.deserialize_any(List(PhantomData))
}

/// Reads a whole number, or a text of one: in YAML, and in a variable, it is a text.
pub fn number<'de, T: TryFrom<u64>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    struct Number<T>(PhantomData<T>);

    impl<T: TryFrom<u64>> Visitor<'_> for Number<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number")
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
            T::try_from(number).map_err(|_| E::custom(format!("{number} is too large a number")))
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
            match u64::try_from(number) {
                Ok(number) => self.visit_u64(number),
                Err(_) => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
            }
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            let number = text.trim().parse();
            self.visit_u64(number.map_err(|_| {
                E::custom(format!("invalid value '{}', expected a whole number", text.escape_debug()))
            })?)
        }
    }

    deserializer.deserialize_any(Number(PhantomData)).map(Some)
}

impl<'de> Deserialize<'de> for RawName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_text(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = GoDuration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration with a unit in quotes, such as '5m' or '1m30s'")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<GoDuration, E> {
                duration::parse(text).map(GoDuration).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Text)
    }
}

impl<'de> Deserialize<'de> for Switch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OnOff;

        impl Visitor<'_> for OnOff {
            type Value = Switch;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("'on' or 'off'")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<Switch, E> {
                Ok(Switch(on))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Switch, E> {
                match text.to_ascii_lowercase().as_str() {
                    "on" | "true" | "yes" | "y" => Ok(Switch(true)),
                    "off" | "false" | "no" | "n" => Ok(Switch(false)),
                    _ => Err(E::custom(format!(
                        "invalid value '{}', expected 'on' or 'off'",
                        text.escape_debug()
                    ))),
                }
            }
        }

        deserializer.deserialize_any(OnOff)
    }
}

/// Reads a switch; an empty text, such as that of a variable, is as good as none.
fn switch_or_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Switch>, D::Error> {
    struct OrEmpty;

    impl Visitor<'_> for OrEmpty {
        type Value = Option<Switch>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("'on' or 'off'")
        }

        fn visit_bool<E: de::Error>(self, on: bool) -> Result<Self::Value, E> {
            Ok(Some(Switch(on)))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            if text.is_empty() {
                return Ok(None);
            }
            Switch::deserialize(text.into_deserializer()).map(Some)
        }
    }

    deserializer.deserialize_any(OrEmpty)
}

#[cfg(test)]
mod tests {
    use figment::Figment;
    use figment::error::Kind;
    use figment::providers::Serialized;

    use super::*;

    #[test]
    fn the_list_of_keys_is_that_of_the_schema() {
        let unknown = Figment::from(Serialized::default("no-such-key", 1)).extract::<Raw>();
        let Err(Kind::UnknownField(_, keys)) = unknown.map_err(|error| error.kind) else {
            panic!("an unknown key was taken");
        };
        assert_eq!(keys, TOP_LEVEL);
    }
}
