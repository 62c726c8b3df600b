//! How a Vault is: active, standby, sealed, not initialised.

use serde::Deserialize;

use super::answer::Answer;
use crate::error::Failure;

/// What a Vault says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It serves.
    Active,
    /// It passes requests on to the active one.
    Standby,
    /// It serves reads and passes writes on.
    PerformanceStandby,
    /// It has to be unsealed.
    Sealed,
    /// It has never been initialised.
    Uninitialised,
    /// It is the copy of another one, and serves nothing.
    RecoverySecondary,
}

/// OpenBao leaves out what only Vault Enterprise has.
#[derive(Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "these are Vault's")]
struct State {
    initialized: bool,
    sealed: bool,
    standby: bool,
    #[serde(default)]
    performance_standby: bool,
    #[serde(default)]
    replication_dr_mode: String,
}

impl Health {
    /// Reads the answer of the health route.
    ///
    /// The body decides and not the status, since a load balancer gives a status as well.
    pub fn of(answer: &Answer) -> Result<Self, Failure> {
        let Ok(state) = answer.json::<State>() else {
            return Err(Failure::foreign(answer.code));
        };
        Ok(if !state.initialized {
            Self::Uninitialised
        } else if state.sealed {
            Self::Sealed
        } else if state.replication_dr_mode == "secondary" {
            Self::RecoverySecondary
        } else if state.performance_standby {
            Self::PerformanceStandby
        } else if state.standby {
            Self::Standby
        } else {
            Self::Active
        })
    }

    /// Returns why this one cannot serve.
    pub fn as_failure(self) -> Option<Failure> {
        match self {
            Self::Active | Self::Standby | Self::PerformanceStandby => None,
            Self::Sealed => Some(Failure::Sealed("vault is sealed")),
            Self::Uninitialised => Some(Failure::Sealed("vault is not initialised")),
            Self::RecoverySecondary => Some(Failure::NotVault(
                "it is a disaster recovery secondary, which serves no requests".to_owned(),
            )),
        }
    }

    /// Returns what should be known although this one serves.
    pub fn remark(self) -> Option<&'static str> {
        match self {
            Self::Standby => Some("a standby node of vault answers and forwards to the active one"),
            Self::PerformanceStandby => Some("a performance standby node of vault answers"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_serves_and_what_does_not() {
        for health in [Health::Active, Health::Standby, Health::PerformanceStandby] {
            assert!(health.as_failure().is_none(), "{health:?}");
        }
        for health in [Health::Sealed, Health::Uninitialised] {
            assert_eq!(health.as_failure().map(|failure| failure.kind()), Some(kms_core::ErrorKind::Sealed));
        }
    }
}
