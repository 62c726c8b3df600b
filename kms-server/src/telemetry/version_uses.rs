//! The use of each version of a rotated key. Keys of one version are not counted, so that there are few series.

use kms_core::Kms;
use prometheus::{IntGaugeVec, Opts, Registry};

use super::families::register;

/// The labels of each series.
const LABELS: [&str; 2] = ["key", "version"];

/// The families. These are copies of the last report of the key ring.
pub struct VersionUses {
    opened: IntGaugeVec,
    last_opened: IntGaugeVec,
    sealed: IntGaugeVec,
    last_sealed: IntGaugeVec,
}

impl VersionUses {
    /// Creates the families, without a series.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let family = |name: &str, help: &str| {
            register(registry, IntGaugeVec::new(Opts::new(format!("kms_key_version_{name}"), help), &LABELS)?)
        };
        Ok(Self {
            opened: family("opened", "Ciphertexts that this version was asked to open, since the start.")?,
            last_opened: family(
                "last_opened_timestamp_seconds",
                "When this version was last asked to open a ciphertext, in seconds since 1970.",
            )?,
            sealed: family("sealed", "What was sealed under this version, since the start.")?,
            last_sealed: family(
                "last_sealed_timestamp_seconds",
                "When something was last sealed under this version, in seconds since 1970.",
            )?,
        })
    }

    /// Takes in what the key ring counted. Series of deleted keys end.
    pub fn look(&self, kms: &dyn Kms) {
        for family in [&self.opened, &self.last_opened, &self.sealed, &self.last_sealed] {
            family.reset();
        }
        for (name, version, used) in kms.version_uses() {
            let version = version.to_string();
            let labels = [name.as_str(), version.as_str()];
            let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            self.opened.with_label_values(&labels).set(number(used.opened));
            self.sealed.with_label_values(&labels).set(number(used.sealed));
            for (family, time) in
                [(&self.last_opened, used.last_opened), (&self.last_sealed, used.last_sealed)]
            {
                if let Some(time) = time {
                    family.with_label_values(&labels).set(time.as_second());
                }
            }
        }
    }
}
