//! Random bytes: from the operating system, and for seals from a generator in this process where that is as safe.

use crate::error::{Error, ErrorKind, Result};

/// Fills `bytes` from the operating system's random generator.
///
/// # Errors
///
/// - [`ErrorKind::Internal`]: the generator failed.
pub fn fill_random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|source| {
        Error::with_source(ErrorKind::Internal, "read the system's random generator", source.to_string())
    })
}

/// Fills `bytes` for one data key or one seal.
///
/// With the feature `aws-lc-rs` they come from AWS-LC's generator (CTR-DRBG, NIST SP 800-90A), without a system call. The
/// system and the CPU's own timing seed it, it is seeded anew after 4,096 calls, and it notices a fork. After a
/// virtual machine has been restored from a snapshot, two processes may go on from one state. So it is used only where it
/// mixes new random bytes of the CPU into each answer.
///
/// # Errors
///
/// - [`ErrorKind::Internal`]: the generator failed.
pub fn fill_for_seal(bytes: &mut [u8]) -> Result<()> {
    #[cfg(feature = "aws-lc-rs")]
    if in_process::survives_snapshots() {
        return aws_lc_rs::rand::fill(bytes).map_err(|_| {
            Error::with_source(ErrorKind::Internal, "make random bytes", "AWS-LC's generator failed")
        });
    }
    fill_random(bytes)
}

#[cfg(feature = "aws-lc-rs")]
mod in_process {
    use std::sync::LazyLock;

    /// AWS-LC can be built without its jitter entropy, and then mixes nothing into its answers.
    const WITHOUT_JITTER: bool = option_env!("AWS_LC_SYS_NO_JITTER_ENTROPY").is_some()
        || option_env!("AWS_LC_SYS_NO_JITTER_ENTROPY_x86_64_unknown_linux_gnu").is_some()
        || option_env!("AWS_LC_SYS_NO_JITTER_ENTROPY_x86_64_unknown_linux_musl").is_some()
        || option_env!("AWS_LC_SYS_NO_JITTER_ENTROPY_aarch64_unknown_linux_gnu").is_some()
        || option_env!("AWS_LC_SYS_NO_JITTER_ENTROPY_aarch64_unknown_linux_musl").is_some()
        || cfg!(target_vendor = "apple");

    /// Returns whether AWS-LC mixes new random bytes of the CPU into each answer, by the rule of its `cpu_intel.c`.
    pub fn survives_snapshots() -> bool {
        static YES: LazyLock<bool> = LazyLock::new(|| !WITHOUT_JITTER && has_usable_generator());
        *YES
    }

    #[cfg(target_arch = "x86_64")]
    fn has_usable_generator() -> bool {
        use std::arch::x86_64::__cpuid;

        // SAFETY: every CPU of this architecture has the instruction, and it only reads.
        #[allow(unsafe_code, unused_unsafe, reason = "later releases of Rust call it safe")]
        let (vendor, version) = unsafe { (__cpuid(0), __cpuid(1)) };
        let is_amd = (vendor.ebx, vendor.edx, vendor.ecx) == AMD;
        std::is_x86_feature_detected!("rdrand") && !(is_amd && family(version.eax) <= LAST_SLOW_AMD)
    }

    /// `AuthenticAMD`, as the instruction gives it.
    #[cfg(target_arch = "x86_64")]
    const AMD: (u32, u32, u32) = (0x6874_7541, 0x6974_6e65, 0x444d_4163);

    /// The last family of AMD's CPUs whose generator AWS-LC does not use: Zen and Zen 2.
    #[cfg(target_arch = "x86_64")]
    const LAST_SLOW_AMD: u32 = 0x17;

    /// Returns the family of a CPU from its version.
    #[cfg(target_arch = "x86_64")]
    fn family(version: u32) -> u32 {
        match version >> 8 & 0xf {
            0xf => 0xf + (version >> 20 & 0xff),
            base => base,
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn has_usable_generator() -> bool {
        std::arch::is_aarch64_feature_detected!("rand")
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn has_usable_generator() -> bool {
        false
    }

    #[cfg(all(test, target_arch = "x86_64", not(feature = "model")))]
    mod tests {
        #[test]
        fn the_family_of_a_cpu_has_two_parts() {
            for (version, family) in
                [(0x0083_0f10, 0x17), (0x00a2_0f10, 0x19), (0x0005_06e3, 6), (0x0010_0f53, 0x10)]
            {
                assert_eq!(super::family(version), family);
            }
        }
    }
}

#[cfg(all(test, not(feature = "model")))]
mod tests {
    use std::collections::HashSet;

    #[test]
    fn no_two_fills_for_seals_are_alike_on_any_thread() {
        let fill = || {
            (0..1000)
                .map(|_| {
                    let mut bytes = [0; 28];
                    super::fill_for_seal(&mut bytes).unwrap();
                    bytes
                })
                .collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(fill)).collect();
        let all: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }
}
