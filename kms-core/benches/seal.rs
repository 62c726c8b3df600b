//! Nanoseconds per seal and open of a 32-byte data key, with a context like those of MinIO.
//!
//! The server uses `SealingKey`. The same run measures two things for comparison: the AES path on aws-lc-rs, and the
//! random bytes that both draw.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark, not a library")]

use std::hint::black_box;

use aws_lc_rs::{aead, hmac};
use criterion::{Criterion, criterion_group, criterion_main};
use kms_core::primitives::{Cipher, SealingKey, SecretKey};

const CONTEXT: &[u8] = br#"{"my-bucket":"my-bucket/some/path/to/an/object-0123456789.parquet"}"#;
const DEK: [u8; 32] = [0x42; 32];

fn sealing(c: &mut Criterion) {
    for cipher in [Cipher::Aes256, Cipher::ChaCha20] {
        let key = SealingKey::new(SecretKey::random().unwrap(), cipher);
        let sealed = key.seal(&DEK, CONTEXT).unwrap();
        c.bench_function(&format!("seal {cipher}"), |b| {
            b.iter(|| key.seal(black_box(&DEK), CONTEXT).unwrap());
        });
        c.bench_function(&format!("open {cipher}"), |b| {
            b.iter(|| key.open(black_box(&sealed), CONTEXT).unwrap());
        });
    }
    let key = AwsLc { mac: hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]) };
    let sealed = key.seal(&DEK, CONTEXT);
    c.bench_function("seal AES256 by aws-lc-rs", |b| b.iter(|| key.seal(black_box(&DEK), CONTEXT)));
    c.bench_function("open AES256 by aws-lc-rs", |b| b.iter(|| key.open(black_box(&sealed), CONTEXT)));
    c.bench_function("60 random bytes from aws-lc-rs", |b| {
        b.iter(|| {
            let mut random = [0; 60];
            aws_lc_rs::rand::fill(black_box(&mut random)).unwrap();
            random
        });
    });
    c.bench_function("60 random bytes from the system", |b| {
        b.iter(|| {
            let mut random = [0; 60];
            kms_core::primitives::fill_random(black_box(&mut random)).unwrap();
            random
        });
    });
    c.bench_function("28 random bytes from the system", |b| {
        b.iter(|| {
            let mut random = [0; 28];
            kms_core::primitives::fill_random(black_box(&mut random)).unwrap();
            random
        });
    });
}

/// The same AES path on aws-lc-rs.
struct AwsLc {
    mac: hmac::Key,
}

impl AwsLc {
    fn seal(&self, plaintext: &[u8], context: &[u8]) -> Vec<u8> {
        let mut random = [0; 28];
        kms_core::primitives::fill_random(&mut random).unwrap();
        let mut sealed = Vec::with_capacity(plaintext.len() + 16 + 28);
        sealed.extend_from_slice(plaintext);
        let nonce = aead::Nonce::try_assume_unique_for_key(&random[16..]).unwrap();
        self.aead(&random[..16])
            .seal_in_place_append_tag(nonce, aead::Aad::from(context), &mut sealed)
            .unwrap();
        sealed.extend_from_slice(&random);
        sealed
    }

    fn open(&self, sealed: &[u8], context: &[u8]) -> Vec<u8> {
        let (sealed, random) = sealed.split_at(sealed.len() - 28);
        let mut buffer = sealed.to_vec();
        let nonce = aead::Nonce::try_assume_unique_for_key(&random[16..]).unwrap();
        let len = self
            .aead(&random[..16])
            .open_in_place(nonce, aead::Aad::from(context), &mut buffer)
            .unwrap()
            .len();
        buffer.truncate(len);
        buffer
    }

    fn aead(&self, iv: &[u8]) -> aead::LessSafeKey {
        let derived = hmac::sign(&self.mac, iv);
        aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_256_GCM, derived.as_ref()).unwrap())
    }
}

criterion_group!(benches, sealing);
criterion_main!(benches);
