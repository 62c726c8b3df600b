//! The state of a Vault: active, standby, sealed or not initialised.

use serde::Deserialize;

use super::answer::Answer;
use crate::error::Failure;

/// The state that a Vault reports about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It serves requests.
    Active,
    /// It forwards requests to the active node.
    Standby,
    /// It serves reads and forwards writes.
    PerformanceStandby,
    /// It has to be unsealed.
    Sealed,
    /// It has never been initialised.
    Uninitialised,
    /// It is the copy of another cluster, and serves nothing.
    RecoverySecondary,
}

/// OpenBao leaves out the fields that only Vault Enterprise has.
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
    /// The body decides and not the status, since a load balancer sends statuses as well.
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

    /// Returns the failure of a node that cannot serve.
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

    /// Returns what an operator should know about a node that serves.
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
